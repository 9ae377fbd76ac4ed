//! Policy and limits: what is hidden does not exist, what is too much waits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use outrigger_tests::{
    Call, Mesh, Reply, TestSidecar, eventually,
    http_server::{HttpServer, text},
    sidecar::{OPEN, text_of},
    subjects::scripted,
};
use serde_json::Value;

const SOME: &str = r#"  authorization:
    rules:
      - { name: some, services: [fs], capabilities: ["e*", "test://a"], requires: [ { workload: ingress } ] }
      - { name: all, services: [fs], capabilities: ["*"], requires: [ { workload: admin } ] }
"#;

fn names(reply: &Reply, list: &str, key: &str) -> Vec<String> {
    let items = reply.json()["result"][list].as_array().cloned().unwrap_or_else(|| panic!("{reply:?}"));
    items.iter().map(|item| item[key].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn lists_show_only_what_the_caller_may_use() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::with_policy(&mesh, SOME, &scripted(&[])).await;
    let ingress = sidecar.ready_client(&mesh).await;
    let admin = sidecar.client(&mesh, "admin");
    assert_eq!(names(&ingress.reply(&Call::new("tools/list")).await, "tools", "name"), ["echo", "elicit"]);
    assert_eq!(names(&ingress.reply(&Call::new("resources/list")).await, "resources", "uri"), ["test://a"]);
    assert_eq!(names(&ingress.reply(&Call::new("prompts/list")).await, "prompts", "name"), Vec::<String>::new());
    assert!(names(&admin.reply(&Call::new("tools/list")).await, "tools", "name").len() > 20);
    let stranger = sidecar.client(&mesh, "stranger").reply(&Call::new("tools/list")).await;
    assert!(stranger.status == 404 || names(&stranger, "tools", "name").is_empty(), "{stranger:?}");
    sidecar.stop().await;
}

#[tokio::test]
async fn what_is_hidden_answers_as_what_does_not_exist() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::with_policy(&mesh, SOME, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let prompt = |name: &str| Call::new("prompts/get").params(&format!("\"name\":\"{name}\"")).header("mcp-name", name);
    for (hidden, unknown) in [
        (Call::tool("sleep", "{}"), Call::tool("slxxp", "{}")),
        (Call::read("test://hidden"), Call::read("test://hiddxn")),
        (prompt("p"), prompt("x")),
    ] {
        let (hidden, unknown) = (client.reply(&hidden).await, client.reply(&unknown).await);
        assert_eq!(hidden.error_code(), -32602);
        let anonymous = |reply: &Reply| {
            let body = String::from_utf8(reply.body.to_vec()).unwrap();
            (
                reply.status,
                body.replace("slxxp", "sleep")
                    .replace("hiddxn", "hidden")
                    .replace("Unknown prompt: x", "Unknown prompt: p"),
            )
        };
        assert_eq!(anonymous(&hidden), anonymous(&unknown));
        let mut headers = (hidden.headers.clone(), unknown.headers.clone());
        headers.0.remove("date");
        headers.1.remove("date");
        assert_eq!(headers.0, headers.1);
    }
    assert!(sidecar.metric("outrigger_denied_total{reason=\"requirement\",service=\"fs\"}").await >= 6.0);
    sidecar.stop().await;
}

#[tokio::test]
async fn what_a_rule_denies_is_hidden_and_refused_whatever_others_allow() {
    let mesh = Mesh::new();
    let rules = r#"  authorization:
    rules:
      - { name: all, services: ["*"], capabilities: ["*"], requires: [ { workload: "*" } ] }
      - { name: no-sleep, effect: deny, services: [fs], capabilities: ["sl*"], requires: [ { workload: ingress } ] }
"#;
    let sidecar = TestSidecar::with_policy(&mesh, rules, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let listed = names(&client.reply(&Call::new("tools/list")).await, "tools", "name");
    assert!(listed.contains(&"echo".to_owned()) && !listed.contains(&"sleep".to_owned()), "{listed:?}");
    let reply = client.reply(&Call::tool("sleep", r#"{"ms":1}"#)).await;
    assert_eq!(reply.error_code(), -32602, "{reply:?}");
    assert!(sidecar.metric("outrigger_denied_total{reason=\"rule\",service=\"fs\"}").await >= 1.0);
    let admin = sidecar.client(&mesh, "admin").reply(&Call::tool("sleep", r#"{"ms":1}"#)).await;
    assert_eq!(admin.status, 200, "the rule is about the ingress: {admin:?}");
    sidecar.stop().await;
}

#[tokio::test]
async fn conditions_over_arguments_hold_at_the_sidecar_too() {
    let mesh = Mesh::new();
    let rules = r#"  authorization:
    rules:
      - name: short
        services: [fs]
        capabilities: [echo, sleep]
        when: >-
          capability.name == 'echo' ||
          (has(arguments.ms) && arguments.ms < 10 && source == '127.0.0.1')
      - { name: elsewhere, services: [other], capabilities: ["*"], when: "principal.service == 'x'" }
"#;
    let sidecar = TestSidecar::with_policy(&mesh, rules, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    assert_eq!(names(&client.reply(&Call::new("tools/list")).await, "tools", "name"), ["echo", "sleep"]);
    assert_eq!(client.reply(&Call::tool("echo", "{}")).await.status, 200);
    assert_eq!(client.reply(&Call::tool("sleep", r#"{"ms":1}"#)).await.status, 200);
    for arguments in [r#"{"ms":100000}"#, "{}", r#"{"ms":1,"ms":100000}"#] {
        assert_eq!(client.reply(&Call::tool("sleep", arguments)).await.error_code(), -32602, "{arguments}");
    }
    assert!(sidecar.metric("outrigger_denied_total{reason=\"condition\",service=\"fs\"}").await >= 2.0);
    assert!(sidecar.metric("outrigger_denied_total{reason=\"condition_failed\",service=\"fs\"}").await >= 1.0);
    sidecar.stop().await;
}

#[tokio::test]
async fn a_policy_in_audit_mode_lets_through_and_tells() {
    let mesh = Mesh::new();
    let rules =
        "  mode: audit\n  authorization:\n    rules:\n      - { name: some, services: [fs], capabilities: [echo] }\n";
    let sidecar = TestSidecar::with_policy(&mesh, rules, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    assert!(names(&client.reply(&Call::new("tools/list")).await, "tools", "name").len() > 20);
    for tool in ["echo", "sleep"] {
        assert_eq!(client.reply(&Call::tool(tool, r#"{"ms":1}"#)).await.status, 200);
    }
    assert_eq!(sidecar.metric("outrigger_would_deny_total{reason=\"no_rule\",service=\"fs\"}").await as u64, 1);
    sidecar.stop().await;
    let lines = std::fs::read_to_string(TestSidecar::audit(&mesh, "fs")).unwrap();
    let told: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |tool: &str| told.iter().find(|line| line["capability"] == tool).unwrap_or_else(|| panic!("{lines}"));
    assert_eq!((&of("echo")["rule"], &of("echo")["would_deny"]), (&Value::from("test/some"), &Value::Null));
    assert_eq!((&of("sleep")["decision"], &of("sleep")["would_deny"]["reason"]), (&"allow".into(), &"no_rule".into()));
}

#[tokio::test]
async fn only_through_an_ingress_is_a_person_asked() {
    let mesh = Mesh::new();
    let rules = "  authorization:\n    rules:\n      - { name: all, services: [fs], capabilities: [\"*\"] }\n      \
                 - { name: asked, services: [fs], capabilities: [echo], approval: { role: boss } }\n";
    let sidecar = TestSidecar::with_policy(&mesh, rules, &scripted(&[])).await;
    // The ingress has asked; another workload would get around it.
    let ingress = sidecar.ready_client(&mesh).await;
    assert_eq!(ingress.reply(&Call::tool("echo", "{}")).await.status, 200);
    let agent = sidecar.client(&mesh, "agent");
    let refused = agent.reply(&Call::tool("echo", "{}")).await;
    assert_eq!(
        (refused.error_code(), &refused.json()["error"]["data"]["reason"]),
        (-31403, &Value::from("approval_needed"))
    );
    assert_eq!(agent.reply(&Call::tool("sleep", r#"{"ms":1}"#)).await.json()["error"], Value::Null);
    assert_eq!(sidecar.metric("outrigger_denied_total{reason=\"approval\",service=\"fs\"}").await as u64, 1);
    sidecar.stop().await;
}

#[tokio::test]
async fn lists_of_a_server_that_is_asked_per_caller_are_filtered_too() {
    let mesh = Mesh::new();
    let settings = format!("{}catalog: {{ mode: per_caller }}\n", scripted(&[]));
    let sidecar = TestSidecar::with_policy(&mesh, SOME, &settings).await;
    let client = sidecar.ready_client(&mesh).await;
    let listed = names(&client.reply(&Call::new("tools/list")).await, "tools", "name");
    assert!(listed.iter().all(|name| name.starts_with('e')), "{listed:?}");
    sidecar.stop().await;
}

#[tokio::test]
async fn a_changed_policy_is_taken_up_and_a_bad_one_is_not() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::with_policy(&mesh, SOME, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let count = async || names(&client.reply(&Call::new("tools/list")).await, "tools", "name").len();
    assert_eq!(count().await, 2);
    mesh.policy(OPEN);
    eventually("the new policy", || async { (count().await > 20).then_some(()) }).await;
    mesh.policy("  authorization: { rules: [ { nonsense: true } ] }\n");
    let failed = "outrigger_reloads_total{outcome=\"failed\",what=\"policy\"}";
    eventually("the bad policy is noticed", || async { (sidecar.metric(failed).await >= 1.0).then_some(()) }).await;
    assert!(count().await > 20, "the last good one stays");
    sidecar.stop().await;
}

#[tokio::test]
async fn no_policy_denies_everything() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::with_policy(&mesh, "  authorization: { rules: [] }\n", &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    assert_eq!(client.reply(&Call::tool("echo", "{}")).await.error_code(), -32602);
    assert_eq!(client.get("/mesh/v1/health", &[]).await.status, 200, "the ingress still learns the catalog");
    sidecar.stop().await;
}

#[tokio::test]
async fn a_rate_limit_says_when_to_come_back() {
    let mesh = Mesh::new();
    let policy =
        format!("{OPEN}  limits: [ {{ name: slow, per: client, capabilities: [echo], rate: 1/m, burst: 2 }} ]\n");
    let sidecar = TestSidecar::with_policy(&mesh, &policy, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    for _ in 0..2 {
        assert_eq!(client.reply(&Call::tool("echo", "{}")).await.status, 200);
    }
    let reply = client.reply(&Call::tool("echo", "{}").id(Some("\"x\""))).await;
    assert_eq!(reply.status, 429);
    let seconds: u64 = reply.header("retry-after").parse().unwrap();
    assert!((50..=60).contains(&seconds), "{reply:?}");
    let error: &Value = &reply.json()["error"];
    assert!((50_000..=60_000).contains(&error["data"]["retryAfterMs"].as_u64().unwrap()), "{error}");
    assert_eq!((error["data"]["reason"].as_str(), error["data"]["service"].as_str()), (Some("limited"), Some("fs")));
    assert_eq!(reply.json()["id"], "x");
    assert_eq!(client.reply(&Call::tool("count", "{}")).await.status, 200, "other tools");
    assert_eq!(sidecar.client(&mesh, "other").reply(&Call::tool("echo", "{}")).await.status, 200, "other clients");
    assert_eq!(sidecar.metric("outrigger_limited_total{limit=\"client_rate\",service=\"fs\"}").await, 1.0);
    sidecar.stop().await;
}

#[tokio::test]
async fn the_concurrency_limit_counts_calls_until_their_stream_ends() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &format!("{}limits: {{ in_flight: 2 }}\n", scripted(&[]))).await;
    let client = sidecar.ready_client(&mesh).await;
    let open = || async { client.open(&Call::tool("progress", "{}").meta(r#""progressToken":1"#)).await };
    let (first, second) = (open().await, open().await);
    let refused = client.reply(&Call::tool("echo", "{}")).await;
    assert_eq!(refused.status, 429);
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(sidecar.health().await["load"], serde_json::json!({"in_flight": 2, "limit": 2}));
    drop((first, second));
    eventually("room again", || async {
        client.reply(&Call::tool("echo", "{}")).await.status.is_success().then_some(())
    })
    .await;
    sidecar.stop().await;
}

#[tokio::test]
async fn a_listen_occupies_no_place_among_the_calls() {
    let mesh = Mesh::new();
    let backend = outrigger_tests::subjects::HttpBackend::start("modern").await;
    for server in [scripted(&[]), scripted(&["--era", "modern"]), format!("upstream: {}\n", backend.url)] {
        let sidecar = TestSidecar::start(&mesh, &format!("{server}limits: {{ in_flight: 1 }}\n")).await;
        let client = sidecar.ready_client(&mesh).await;
        let mut listen = client
            .open(&Call::new("subscriptions/listen").params(r#""notifications":{"toolsListChanged":true}"#))
            .await;
        assert_eq!(listen.next().await.unwrap()["method"], "notifications/subscriptions/acknowledged");
        assert_eq!(client.reply(&Call::tool("echo", "{}")).await.status, 200, "{server}");
        drop(listen);
        sidecar.stop().await;
    }
}

#[tokio::test]
async fn a_denied_call_never_reaches_the_server() {
    let server = HttpServer::modern(|received| async move { text(&received, "reached") });
    let mesh = Mesh::new();
    let sidecar = TestSidecar::with_policy(&mesh, SOME, &server.setting()).await;
    let client = sidecar.ready_client(&mesh).await;
    assert_eq!(client.reply(&Call::tool("t", "{}")).await.error_code(), -32602);
    assert!(server.received_of("tools/call").is_empty(), "a denied call is not forwarded");
    let admin = sidecar.client(&mesh, "admin");
    assert_eq!(text_of(&admin.reply(&Call::tool("t", "{}")).await.json()), "reached");
    sidecar.stop().await;
}
