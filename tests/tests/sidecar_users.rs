//! For whom an ingress calls: the sidecar decides by user, believes nobody else, and tells the server nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use std::sync::Arc;

use outrigger_policy::Principal;
use outrigger_proxy::assertion::{Assertions, HEADER};
use outrigger_tests::{
    Call, Client, Mesh, Reply, TestSidecar, eventually,
    http_server::{HttpServer, text},
    subjects::scripted,
};
use serde_json::Value;

const BY_USER: &str = r#"  authorization:
    rules:
      - { name: echo, services: [fs], capabilities: [echo], requires: [ { workload: ingress } ] }
      - { name: admins, services: [fs], capabilities: [sleep], requires: [ { workload: ingress }, { role: admin } ] }
      - { name: research, services: [fs], capabilities: [elicit], requires: [ { claim: { name: department, any: [research] } } ] }
      - { name: not-mallory, effect: deny, services: [fs], capabilities: ["*"], requires: [ { subject: mallory } ] }
  limits: [ { name: slow, per: client, capabilities: [echo], rate: 1/m, burst: 2 } ]
"#;

fn user(name: &str, roles: &[&str]) -> Principal {
    Principal::user(name).unwrap().with_grants(roles, [""; 0]).unwrap()
}

/// What the ingress says of a user to a service.
fn said(mesh: &Mesh, by: &str, service: &str, user: &Principal) -> String {
    let credentials = mesh.credentials(by);
    let value = Assertions::new(&credentials, &mesh.id(service)).of(user, None).unwrap().unwrap();
    value.to_str().unwrap().to_owned()
}

async fn call(client: &Client, tool: &str, said: Option<&str>) -> Reply {
    let call = Call::tool(tool, r#"{"ms":1}"#);
    client.reply(&said.into_iter().fold(call, |call, said| call.header(HEADER, said))).await
}

fn names(reply: &Reply) -> Vec<String> {
    let tools = reply.json()["result"]["tools"].as_array().cloned().unwrap_or_else(|| panic!("{reply:?}"));
    tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

fn allowed(reply: &Reply) -> bool {
    reply.status == 200 && reply.json().get("result").is_some()
}

#[tokio::test]
async fn policy_decides_about_the_user_and_records_name_it() {
    let mesh = Mesh::new();
    let rules = BY_USER.split("  limits").next().unwrap();
    let sidecar = TestSidecar::with_policy(&mesh, rules, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let [ada, bob, mallory] = [user("ada", &["admin"]), user("bob", &[]), user("mallory", &["admin"])]
        .map(|user| said(&mesh, "ingress", "fs", &user));
    let carla = user("carla", &[]).with_claims([("department", ["research"])]).unwrap();
    let carla = said(&mesh, "ingress", "fs", &carla);
    for (said, tool, expected) in [
        (Some(&ada), "sleep", true),
        (Some(&bob), "sleep", false),
        (Some(&bob), "echo", true),
        (Some(&mallory), "echo", false),
        (None, "echo", true),
        (None, "sleep", false),
    ] {
        let reply = call(&client, tool, said.map(String::as_str)).await;
        assert_eq!(allowed(&reply), expected, "{tool}: {reply:?}");
    }
    for (said, seen) in
        [(&ada, vec!["echo", "sleep"]), (&bob, vec!["echo"]), (&carla, vec!["echo", "elicit"]), (&mallory, vec![])]
    {
        let reply = client.reply(&Call::new("tools/list").header(HEADER, said)).await;
        let mut listed =
            if reply.status == 200 && reply.json().get("result").is_some() { names(&reply) } else { vec![] };
        listed.sort();
        assert_eq!(listed, seen);
    }
    let lines = eventually("the audit has them", || async {
        let text = std::fs::read_to_string(TestSidecar::audit(&mesh, "fs")).unwrap_or_default();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines.iter().filter(|line| line["action"] == "tools/call").count() == 6).then_some(lines)
    })
    .await;
    let found = |who: &str| lines.iter().find(|line| line["who"] == who).unwrap_or_else(|| panic!("{lines:?}")).clone();
    assert_eq!(found("user:ada")["via"], mesh.id("ingress").as_str());
    assert_eq!(
        (&found("user:mallory")["decision"], &found("user:mallory")["rule"]),
        (&"deny".into(), &"test/not-mallory".into())
    );
    assert_eq!(found(mesh.id("ingress").as_str())["via"], Value::Null);
    sidecar.stop().await;
}

#[tokio::test]
async fn limits_count_each_user_behind_one_ingress() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::with_policy(&mesh, BY_USER, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let [ada, bob] = ["ada", "bob"].map(|name| said(&mesh, "ingress", "fs", &user(name, &[])));
    let mut refused = false;
    for _ in 0..20 {
        refused |= call(&client, "echo", Some(&ada)).await.status == 429;
    }
    assert!(refused, "ada has used up hers");
    assert!(allowed(&call(&client, "echo", Some(&bob)).await), "bob has his own");
    sidecar.stop().await;
}

#[tokio::test]
async fn nobody_else_can_say_for_whom_it_calls() {
    let mesh = Mesh::new();
    let rules = r#"  authorization:
    rules:
      - { name: admins, services: [fs], capabilities: ["*"], requires: [ { role: admin } ] }
      - { name: all, services: [fs], capabilities: [echo], requires: [ { workload: "*" } ] }
"#;
    let sidecar = TestSidecar::with_policy(&mesh, rules, &scripted(&[])).await;
    let ingress = sidecar.ready_client(&mesh).await;
    let (eve, admin) = (sidecar.client(&mesh, "eve"), user("ada", &["admin"]));
    let good = said(&mesh, "ingress", "fs", &admin);
    assert!(allowed(&call(&ingress, "sleep", Some(&good)).await));
    // A member that is no ingress: whatever it says is as if it said nothing.
    for said in [&good, &said(&mesh, "eve", "fs", &admin), "nonsense"] {
        assert!(!allowed(&call(&eve, "sleep", Some(said)).await));
        assert!(allowed(&call(&eve, "echo", Some(said)).await));
    }
    // The ingress itself says something that is not so: refused, whatever would be allowed without.
    for (what, said) in [
        ("for another service", said(&mesh, "ingress", "notes", &admin)),
        ("signed by another member", said(&mesh, "eve", "fs", &admin)),
        ("of another mesh", said(&Mesh::new(), "ingress", "fs", &admin)),
        ("changed", format!("A{}", &good[1..])),
        ("nothing", String::new()),
    ] {
        let reply = call(&ingress, "echo", Some(&said)).await;
        assert_eq!(
            (reply.status.as_u16(), reply.json()["error"]["data"]["reason"].as_str()),
            (403, Some("caller_refused")),
            "{what}"
        );
    }
    let twice = Call::tool("echo", "{}").header(HEADER, &good).header(HEADER, &good);
    let counted = twice.fields().get_all(HEADER).iter().count();
    assert!(counted == 1 || ingress.reply(&twice).await.status == 403);
    let count = |outcome: &'static str| {
        let sidecar = &sidecar;
        async move { sidecar.metric(&format!("outrigger_user_assertions_total{{outcome=\"{outcome}\"}}")).await }
    };
    assert!(count("believed").await >= 1.0 && count("refused").await >= 5.0 && count("ignored").await >= 6.0);
    sidecar.stop().await;
}

#[tokio::test]
async fn the_server_never_sees_it() {
    let mesh = Mesh::new();
    let server = HttpServer::modern(|to| async move { text(&to, "done") });
    let sidecar = TestSidecar::start(&mesh, &server.setting()).await;
    let client = sidecar.ready_client(&mesh).await;
    let ada = Arc::new(said(&mesh, "ingress", "fs", &user("ada", &[])));
    assert!(allowed(&call(&client, "echo", Some(&ada)).await));
    let received = server.received();
    assert!(!received.is_empty() && received.iter().all(|request| request.header(HEADER).is_empty()));
    sidecar.stop().await;
}
