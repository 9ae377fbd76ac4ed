//! Calls that a person has to approve: asked through the client, or at the desk; and what does not get past.

use http::{Request, StatusCode};
use outrigger_proxy::body::OutBody;
use serde_json::{Value, json};

use crate::fake::{health, per_caller, tools};
use crate::mesh::{Client, Got, Mesh, eventually};

const POLICY: &str = "apiVersion: mcpx.io/v1
kind: SecurityPolicy
metadata: { name: test }
spec:
  authorization:
    rules:
      - { name: all, services: [\"*\"], capabilities: [\"*\"], requires: [ { scope: all } ] }
      - { name: deploys, services: [a], capabilities: [\"deploy*\"], approval: { role: release, within: WITHIN }, audit: { arguments: [to, token] } }
      - { name: confirms, services: [a], capabilities: [\"pay*\"], approval: { caller: true } }
      - { name: either, services: [a], capabilities: [\"either\"], approval: { caller: true, role: release } }
      - { name: one, services: [a], capabilities: [\"several\"], approval: { caller: true } }
      - { name: two, services: [a], capabilities: [\"several\"], approval: { role: release } }
";

async fn mesh(settings: &str) -> Mesh {
    let offered = tools(&["read", "deploy", "pay", "pay_asking", "either", "several"]);
    Mesh::with(&[("a", health(offered))], &POLICY.replace("WITHIN", "60s"), settings).await
}

fn call(name: &str, arguments: Value) -> Value {
    json!({ "name": format!("a__{name}"), "arguments": arguments })
}

/// As a client that can ask its user.
fn able(mut params: Value) -> Value {
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({ "elicitation": {} });
    params
}

/// The same call again with the user's answer to our question.
fn answered(asked: &Got, params: Value, action: &str, approve: Value) -> Value {
    let mut params = able(params);
    params["requestState"] = asked.json()["result"]["requestState"].clone();
    params["inputResponses"] =
        json!({ "outrigger.dev/approval": { "action": action, "content": { "approve": approve } } });
    params
}

async fn tool(client: &Client, params: Value) -> Got {
    client.ask("/mcp", "tools/call", params).await
}

fn reason(got: &Got) -> Value {
    got.json()["error"]["data"]["reason"].clone()
}

fn went_on(got: &Got) -> bool {
    got.json()["result"]["resultType"] == "complete"
}

/// The desk, for whoever shows this token.
async fn desk(mesh: &Mesh, token: &'static str, word: Option<Value>) -> Got {
    let client = Client::to(mesh.ingress.as_ref().unwrap().admin).with_token(Some(token));
    let mut request = match word {
        Some(word) => client.raw("/approvals/decide", word.to_string()),
        None => client.raw("/approvals/list", ""),
    };
    if request.uri().path().ends_with("list") {
        *request.method_mut() = http::Method::GET;
    }
    client.send(request).await
}

async fn waiting(mesh: &Mesh, token: &'static str) -> Vec<Value> {
    desk(mesh, token, None).await.json()["waiting"].as_array().unwrap().clone()
}

/// Waits until a call waits, and gives its id.
async fn id_of_waiting(mesh: &Mesh) -> String {
    eventually("a call waits", || async { !waiting(mesh, "carol-token").await.is_empty() }).await;
    waiting(mesh, "carol-token").await[0]["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_user_of_the_client_is_asked_and_each_yes_is_good_for_one_call() {
    let mesh = mesh("").await;
    let params = || call("pay", json!({ "amount": 7, "to": "bob\u{202e}" }));
    let unable = tool(&mesh.client, params()).await;
    assert_eq!(reason(&unable), "approval_needed");
    let asked = tool(&mesh.client, able(params())).await;
    let result = asked.json()["result"].clone();
    assert_eq!(result["resultType"], "input_required", "{result}");
    let question = &result["inputRequests"]["outrigger.dev/approval"];
    assert_eq!((&question["method"], &question["params"]["mode"]), (&json!("elicitation/create"), &json!("form")));
    let text = question["params"]["message"].as_str().unwrap();
    assert!(text.contains("tool a.pay") && text.contains("\"amount\": 7") && text.contains("\\u202e"), "{text}");
    assert!(mesh.fake("a").seen().is_empty());

    // Another call, somebody else, no answer: none of it is what was asked for.
    let other = answered(&asked, call("pay", json!({ "amount": 700, "to": "bob" })), "accept", json!(true));
    assert_eq!(reason(&tool(&mesh.client, other).await), "approval_other_call");
    let eve = mesh.client.with_token(Some("eve-token"));
    assert_eq!(reason(&tool(&eve, answered(&asked, params(), "accept", json!(true))).await), "approval_other_call");
    let mut silent = answered(&asked, params(), "accept", json!(true));
    silent["inputResponses"] = json!({});
    assert_eq!(tool(&mesh.client, silent).await.json()["error"]["code"], -32602);
    let mut forged = answered(&asked, params(), "accept", json!(true));
    forged["requestState"] = json!("outrigger.approval.00000000000000000000000000000000");
    assert_eq!(reason(&tool(&mesh.client, forged).await), "approval_unknown");
    assert!(mesh.fake("a").seen().is_empty());

    let yes = answered(&asked, params(), "accept", json!(true));
    let done = tool(&mesh.client, yes.clone()).await;
    assert!(went_on(&done), "{:?}", done.json());
    let seen = mesh.fake("a").seen();
    assert_eq!(seen[0].body["params"]["arguments"], params()["arguments"]);
    assert!(
        seen[0].body["params"].get("requestState").is_none() && seen[0].body["params"].get("inputResponses").is_none()
    );
    assert_eq!(reason(&tool(&mesh.client, yes).await), "approval_unknown", "it was used");
    assert_eq!(mesh.fake("a").seen().len(), 1);

    let again = tool(&mesh.client, able(params())).await;
    let no = tool(&mesh.client, answered(&again, params(), "decline", json!(null))).await;
    assert_eq!(reason(&no), "approval_refused");
    assert_eq!(
        reason(&tool(&mesh.client, able(params())).await),
        "approval_refused",
        "nobody is asked until they give in"
    );
    assert_eq!(mesh.fake("a").seen().len(), 1);

    let lines = mesh.audit(10).await;
    let said: Vec<_> = lines.iter().filter(|line| line["action"] == "approval").collect();
    assert_eq!(said.len(), 2, "{lines:?}");
    assert_eq!((&said[0]["who"], &said[0]["approval"]["how"]), (&json!("user:ada"), &json!("elicitation")));
    let done = lines
        .iter()
        .find(|line| line["action"] == "tools/call" && line["outcome"] == "ok" && line["approval"]["by"] == "user:ada");
    assert_eq!(done.expect("the call")["approval"]["id"], said[0]["approval"]["id"]);
}

#[tokio::test]
async fn somebody_with_the_role_approves_at_the_desk_and_nobody_else() {
    let mesh = mesh("").await;
    let params = call("deploy", json!({ "to": "prod", "token": "hunter2", "more": { "x": 1 } }));
    let running = tokio::spawn({
        let (client, params) = (mesh.client.clone(), params.clone());
        async move { tool(&client, params).await }
    });
    let id = id_of_waiting(&mesh).await;
    let shown = waiting(&mesh, "carol-token").await.remove(0);
    assert_eq!(
        (&shown["who"], &shown["capability"], &shown["own"]),
        (&json!("user:ada"), &json!("deploy"), &json!(false))
    );
    assert!(shown["arguments"].as_str().unwrap().contains("\"prod\"") && shown["whole"] == true, "{shown}");
    let yes = |id: &str| Some(json!({ "id": id, "approve": true }));
    // Without the role there is nothing; with it, but the caller's own.
    assert!(waiting(&mesh, "bob-token").await.is_empty() && waiting(&mesh, "eve-token").await.is_empty());
    assert_eq!(desk(&mesh, "eve-token", yes(&id)).await.status, StatusCode::NOT_FOUND);
    assert_eq!(desk(&mesh, "ada-token", yes(&id)).await.status, StatusCode::FORBIDDEN);
    assert_eq!(desk(&mesh, "carol-token", yes("0")).await.status, StatusCode::NOT_FOUND);
    assert!(mesh.fake("a").seen().is_empty() && !running.is_finished());
    assert_eq!(desk(&mesh, "carol-token", yes(&id)).await.json()["result"], "approved");
    assert!(went_on(&running.await.unwrap()));
    assert_eq!(desk(&mesh, "carol-token", yes(&id)).await.status, StatusCode::NOT_FOUND, "it was used");

    let refused = tokio::spawn({
        let (client, params) = (mesh.client.clone(), params.clone());
        async move { tool(&client, params).await }
    });
    let id = id_of_waiting(&mesh).await;
    let no = desk(&mesh, "carol-token", Some(json!({ "id": id, "approve": false }))).await;
    assert_eq!(no.json()["result"], "refused");
    let refused = refused.await.unwrap();
    assert_eq!(reason(&refused), "approval_refused");
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("user:carol"));
    assert_eq!(desk(&mesh, "carol-token", yes(&id)).await.status, StatusCode::CONFLICT);
    assert_eq!(mesh.fake("a").seen().len(), 1);

    let lines = mesh.audit(4).await;
    let done = lines.iter().find(|line| line["action"] == "tools/call" && line["outcome"] == "ok").unwrap();
    assert_eq!(done["approval"], json!({ "id": done["approval"]["id"], "by": "user:carol", "how": "desk" }));
    let said = lines.iter().find(|line| line["action"] == "approval" && line["decision"] == "allow").unwrap();
    assert_eq!(
        (&said["who"], &said["approval"]["of"], &said["rule"]),
        (&json!("user:carol"), &json!("user:ada"), &json!("test/deploys"))
    );
    assert_eq!((&said["trace_id"], &said["argument_digest"]), (&done["trace_id"], &done["argument_digest"]));
    assert!(lines.iter().all(|line| !line.to_string().contains("hunter2")), "{lines:?}");
    let metrics = String::from_utf8(mesh.admin("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("outrigger_approvals_total{outcome=\"used\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_client_that_does_not_wait_calls_again() {
    let mesh = mesh("approvals: { hold: 1s }").await;
    let params = call("deploy", json!({ "to": "prod" }));
    let pending = tool(&mesh.client, params.clone()).await;
    assert_eq!(reason(&pending), "approval_pending");
    let id = id_of_waiting(&mesh).await;
    assert!(pending.json()["error"]["message"].as_str().unwrap().contains(&id));
    assert_eq!(desk(&mesh, "carol-token", Some(json!({ "id": id, "approve": true }))).await.status, StatusCode::OK);
    // What was approved is this call, of this caller.
    assert_eq!(reason(&tool(&mesh.client, call("deploy", json!({ "to": "elsewhere" }))).await), "approval_pending");
    assert_eq!(reason(&tool(&mesh.client.with_token(Some("eve-token")), params.clone()).await), "approval_pending");
    assert!(went_on(&tool(&mesh.client, params.clone()).await));
    assert_eq!(reason(&tool(&mesh.client, params).await), "approval_pending", "once");
    assert_eq!(mesh.fake("a").seen().len(), 1);
}

#[tokio::test]
async fn nobody_in_time_is_a_no() {
    let offered = health(tools(&["deploy"]));
    let mesh = Mesh::with(&[("a", offered)], &POLICY.replace("WITHIN", "1s"), "").await;
    let got = tool(&mesh.client, call("deploy", json!({}))).await;
    assert_eq!(reason(&got), "approval_expired");
    assert_eq!(got.json()["error"]["message"], "refused: nobody approved this call in time");
    let expired = "outrigger_approvals_total{outcome=\"expired\"} 1";
    eventually("counted", || async { String::from_utf8_lossy(&mesh.admin("/metrics").await.body).contains(expired) })
        .await;
}

#[tokio::test]
async fn approval_under_another_policy_is_none() {
    let mesh = mesh("approvals: { hold: 2s }").await;
    let params = call("deploy", json!({}));
    let reload = async |times: usize, text: &str| {
        std::fs::write(mesh.path("policy.yaml"), text).unwrap();
        let done = format!("outrigger_reloads_total{{outcome=\"applied\",what=\"policy\"}} {times}");
        eventually("reloaded", || async {
            String::from_utf8_lossy(&mesh.admin("/metrics").await.body).contains(&done)
        })
        .await;
    };
    let running = tokio::spawn({
        let (client, params) = (mesh.client.clone(), params.clone());
        async move { tool(&client, params).await }
    });
    let id = id_of_waiting(&mesh).await;
    reload(1, &POLICY.replace("WITHIN", "61s")).await;
    let said = desk(&mesh, "carol-token", Some(json!({ "id": id, "approve": true }))).await;
    assert_eq!(said.status, StatusCode::OK);
    // Either it had gone back to its client by then, or it is told; it does not go on.
    let word = reason(&running.await.unwrap());
    assert!(word == "approval_outdated" || word == "approval_pending", "{word}");
    assert_eq!(reason(&tool(&mesh.client, params).await), "approval_pending", "it has to be asked for anew");
    assert!(mesh.fake("a").seen().is_empty());
}

#[tokio::test]
async fn what_another_ingress_asked_is_not_known_here() {
    let mesh = mesh("").await;
    let params = call("pay", json!({}));
    let asked = tool(&mesh.client, able(params.clone())).await;
    let mesh = mesh.another_ingress("").await;
    let got = tool(&mesh.client, answered(&asked, params, "accept", json!(true))).await;
    assert_eq!(reason(&got), "approval_unknown");
    assert!(got.json()["error"]["message"].as_str().unwrap().contains("another ingress"));
}

#[tokio::test]
async fn a_server_that_asks_something_goes_on_with_the_approved_call_and_with_no_other() {
    let mesh = mesh("").await;
    let params = call("pay_asking", json!({ "amount": 1 }));
    let asked = tool(&mesh.client, able(params.clone())).await;
    let question = tool(&mesh.client, answered(&asked, params.clone(), "accept", json!(true))).await;
    assert_eq!(question.json()["result"]["requestState"], "of the server");
    let retry = |params: Value, state: &str| {
        let mut params = able(params);
        params["requestState"] = json!(state);
        params["inputResponses"] = json!({ "q": { "action": "accept", "content": {} } });
        params
    };
    let forged = retry(params.clone(), "made up");
    assert_eq!(reason(&tool(&mesh.client, forged).await), "approval_unknown");
    let other = retry(call("pay_asking", json!({ "amount": 9 })), "of the server");
    assert_eq!(reason(&tool(&mesh.client, other).await), "approval_unknown");
    assert!(went_on(&tool(&mesh.client, retry(params.clone(), "of the server")).await));
    assert_eq!(reason(&tool(&mesh.client, retry(params, "of the server")).await), "approval_unknown", "once");
    assert_eq!(mesh.fake("a").seen().len(), 2);
}

#[tokio::test]
async fn several_rules_want_several_words() {
    let mesh = mesh("approvals: { hold: 1s }").await;
    let params = call("several", json!({}));
    let asked = tool(&mesh.client, able(params.clone())).await;
    let half = tool(&mesh.client, answered(&asked, params.clone(), "accept", json!(true))).await;
    assert_eq!(reason(&half), "approval_pending", "the user alone is not enough");
    let id = id_of_waiting(&mesh).await;
    assert_eq!(
        desk(&mesh, "carol-token", Some(json!({ "id": id, "approve": true }))).await.json()["result"],
        "approved"
    );
    assert!(went_on(&tool(&mesh.client, able(params)).await));
    // Where either will do, a client that cannot ask waits for the other.
    let either = call("either", json!({}));
    assert_eq!(tool(&mesh.client, able(either.clone())).await.json()["result"]["resultType"], "input_required");
    assert_eq!(reason(&tool(&mesh.client, either).await), "approval_pending");
}

#[tokio::test]
async fn the_desk_is_bounded_and_lets_in_only_whoever_shows_a_token_in_a_header() {
    let mesh = mesh("approvals: { hold: 1s, most_each: 1 }").await;
    assert_eq!(reason(&tool(&mesh.client, call("deploy", json!({ "n": 1 }))).await), "approval_pending");
    let full = tool(&mesh.client, call("deploy", json!({ "n": 2 }))).await;
    assert_eq!(
        (full.status, &full.json()["error"]["data"]["limit"]),
        (StatusCode::TOO_MANY_REQUESTS, &json!("approvals.most_each"))
    );

    let client = Client::to(mesh.ingress.as_ref().unwrap().admin);
    let send = async |method: &str, path: &str, headers: &[(&str, &str)], body: &str| {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        client.send(request.body(OutBody::full(body.to_owned())).unwrap()).await
    };
    let carol = ("authorization", "Bearer carol-token");
    let json_body = ("content-type", "application/json");
    let id = id_of_waiting(&mesh).await;
    let word = json!({ "id": id, "approve": true }).to_string();
    for (method, path, headers, status) in [
        ("GET", "/approvals/list", &[][..], 401),
        ("GET", "/approvals/list?token=carol-token", &[], 401),
        ("GET", "/approvals/list?access_token=carol-token", &[("cookie", "token=carol-token")], 401),
        ("GET", "/approvals/list", &[("authorization", "Bearer nobody")], 401),
        ("GET", "/approvals/list", &[carol, carol], 401),
        ("POST", "/approvals/list", &[carol], 405),
        ("GET", "/approvals/decide", &[carol], 405),
        ("POST", "/approvals/decide", &[json_body], 401),
        ("POST", "/approvals/decide", &[carol, ("content-type", "text/plain")], 415),
        ("POST", "/approvals/decide", &[carol], 415),
        (
            "POST",
            "/approvals/decide",
            &[carol, json_body, ("host", "127.0.0.1:9"), ("origin", "http://evil.example")],
            403,
        ),
        ("POST", "/approvals/decide", &[carol, json_body, ("origin", "null")], 403),
        ("POST", "/approvals", &[carol], 405),
    ] {
        let got = send(method, path, headers, &word).await;
        assert_eq!(got.status.as_u16(), status, "{method} {path} {headers:?}: {:?}", got.body);
    }
    for body in ["", "{}", "7", "{\"id\":\"x\",\"approve\":\"yes\"}", "{\"id\":\"x\",\"approve\":true,\"more\":1}"] {
        assert_eq!(
            send("POST", "/approvals/decide", &[carol, json_body], body).await.status,
            StatusCode::BAD_REQUEST,
            "{body}"
        );
    }
    let large = format!("{{\"id\":\"{}\",\"approve\":true}}", "x".repeat(20_000));
    assert_eq!(send("POST", "/approvals/decide", &[carol, json_body], &large).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(waiting(&mesh, "carol-token").await.len(), 1, "nothing of that decided anything");

    let page = send("GET", "/approvals", &[], "").await;
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    let text = String::from_utf8(page.body.to_vec()).unwrap();
    assert!(!text.contains("http://") && !text.contains("https://"), "nothing comes from elsewhere");
}

#[tokio::test]
async fn the_audit_shows_the_arguments_that_a_rule_names_and_no_secret() {
    let policy = POLICY.replace("WITHIN", "60s").replace(
        "capabilities: [\"*\"], requires: [ { scope: all } ] }",
        "capabilities: [\"*\"], requires: [ { scope: all } ], audit: { arguments: [path, password, deep.er] } }",
    );
    let mesh = Mesh::with(&[("a", health(tools(&["read"])))], &policy, "").await;
    let arguments =
        json!({ "path": "/a", "password": "hunter2", "deep": { "er": 7, "private": "x" }, "other": "private" });
    assert!(went_on(&tool(&mesh.client, call("read", arguments)).await));
    let line = mesh.audit(1).await.remove(0);
    assert_eq!(line["arguments"], json!({ "path": "/a", "password": { "redacted": true }, "deep.er": 7 }));
    assert!(line["argument_digest"].is_string() && !line.to_string().contains("private"), "{line}");
}

#[tokio::test]
async fn waiting_calls_end_with_the_ingress() {
    let mut mesh = mesh("timeouts: { drain: 5s }").await;
    let client = mesh.client.clone();
    let running = tokio::spawn(async move { tool(&client, call("deploy", json!({}))).await });
    id_of_waiting(&mesh).await;
    mesh.ingress.take().unwrap().drain().await;
    assert_eq!(reason(&running.await.unwrap()), "draining");
}

/// What the service was asked to do, without the questions for lists.
fn done(mesh: &Mesh, name: &str) -> usize {
    mesh.fake(name).seen().iter().filter(|seen| seen.body["method"] != "outrigger.dev/catalog").count()
}

/// Rules about names that only lists tell.
const BY_LISTS: &str = "apiVersion: mcpx.io/v1
kind: SecurityPolicy
metadata: { name: test }
spec:
  authorization:
    rules:
      - { name: all, services: [\"*\"], capabilities: [\"*\"], requires: [ { scope: all } ] }
      - { name: deploys, services: [\"*\"], capabilities: [\"deploy*-now\"], approval: { role: release } }
      - { name: reads, services: [\"*\"], capabilities: [\"file:///secret*\"], approval: { role: release } }
";

fn resources(uris: &[&str]) -> Value {
    let list: Vec<_> = uris.iter().map(|uri| json!({ "uri": uri, "name": "r" })).collect();
    json!({ "resources": list, "capabilities": { "resources": {} } })
}

#[tokio::test]
async fn what_only_the_lists_of_the_caller_tell_is_asked_for_too() {
    let mut offered = resources(&["file:///secret"]);
    let long = format!("deploy-{}-now", "x".repeat(100));
    offered["tools"] = tools(&[&long])["tools"].take();
    offered["capabilities"]["tools"] = json!({});
    let services = [("a", per_caller(offered)), ("b", health(resources(&["file:///other"])))];
    let mesh = Mesh::with(&services, BY_LISTS, "approvals: { hold: 1s }").await;
    // Somebody else knows the names; this caller has listed nothing.
    let eve = mesh.client.with_token(Some("eve-token"));
    let shortened = eve.tools().await.remove(0);
    assert!(!shortened.contains("-now"), "{shortened}");
    let call = mesh.client.ask("/mcp", "tools/call", json!({ "name": shortened, "arguments": {} })).await;
    assert_eq!(reason(&call), "approval_pending", "{:?}", call.json());
    // Nor has this one anything by now that would tell the URI.
    let mesh = mesh.another_ingress("approvals: { hold: 1s }").await;
    let read = mesh.client.ask("/mcp", "resources/read", json!({ "uri": "file:///secret" })).await;
    assert_eq!(reason(&read), "approval_pending", "{:?}", read.json());
    assert_eq!((done(&mesh, "a"), done(&mesh, "b")), (0, 0));
}

#[tokio::test]
async fn a_lock_opens_no_way_around() {
    let offered = tools(&["deploy"]);
    let mut lock = outrigger_integrity::Lock::default();
    let approved = outrigger_mcp::catalog::Catalog::from_health_json(&offered.to_string().into()).unwrap();
    lock.set("a", outrigger_integrity::ServiceLock::of(&approved, &[outrigger_mcp::catalog_kind::Kind::Tool]));
    // For all it lists something that nobody approved, for the caller what was approved.
    let mut document = per_caller(offered.clone());
    let mut other = offered;
    other["tools"][0]["description"] = json!("Another one.");
    document["catalog"] = health(other)["catalog"].take();
    let mesh = Mesh::with(&[("a", document)], &POLICY.replace("WITHIN", "60s"), "").await;
    let path = mesh.path("outrigger.lock");
    std::fs::write(&path, lock.text()).unwrap();
    let settings = format!("approvals: {{ hold: 1s }}\nintegrity: {{ lock: {} }}", path.display());
    let mesh = mesh.another_ingress(&settings).await;
    let got = tool(&mesh.client, call("deploy", json!({}))).await;
    assert_eq!(reason(&got), "approval_pending", "{:?}", got.json());
    assert_eq!(done(&mesh, "a"), 0);
}

#[tokio::test]
async fn what_leads_elsewhere_by_then_was_not_approved() {
    let has = |uris: &[&str]| health(resources(uris));
    let services = [("a", has(&["file:///secret"])), ("b", has(&["file:///b"]))];
    let mesh = Mesh::with(&services, BY_LISTS, "").await;
    let running = tokio::spawn({
        let client = mesh.client.clone();
        async move { client.ask("/mcp", "resources/read", json!({ "uri": "file:///secret" })).await }
    });
    let id = id_of_waiting(&mesh).await;
    assert_eq!(waiting(&mesh, "carol-token").await[0]["service"], "a");
    mesh.fake("a").publish(has(&["file:///a"]));
    mesh.fake("b").publish(has(&["file:///b", "file:///secret"]));
    eventually("moved", || async {
        let uris = mesh.client.names("/mcp", "resources/list", "resources", "uri").await;
        uris == ["file:///a", "file:///b", "file:///secret"]
    })
    .await;
    assert_eq!(desk(&mesh, "carol-token", Some(json!({ "id": id, "approve": true }))).await.status, StatusCode::OK);
    assert_eq!(reason(&running.await.unwrap()), "approval_other_call");
    assert_eq!((done(&mesh, "a"), done(&mesh, "b")), (0, 0));
}

#[tokio::test]
async fn who_lost_the_token_meanwhile_does_not_go_on() {
    let mesh = mesh("").await;
    let running = tokio::spawn({
        let client = mesh.client.clone();
        async move { tool(&client, call("deploy", json!({}))).await }
    });
    let id = id_of_waiting(&mesh).await;
    let tokens = std::fs::read_to_string(mesh.path("tokens.yaml")).unwrap();
    let others: Vec<_> = tokens.lines().filter(|line| !line.contains("ada")).collect();
    std::fs::write(mesh.path("tokens.yaml"), others.join("\n")).unwrap();
    eventually("taken away", || async {
        mesh.client.ask("/mcp", "tools/list", json!({})).await.status == StatusCode::UNAUTHORIZED
    })
    .await;
    assert_eq!(desk(&mesh, "carol-token", Some(json!({ "id": id, "approve": true }))).await.status, StatusCode::OK);
    assert_eq!(running.await.unwrap().status, StatusCode::UNAUTHORIZED);
    assert!(mesh.fake("a").seen().is_empty());
}

#[tokio::test]
async fn names_are_bounded_and_shown_as_they_are() {
    let mesh = mesh("approvals: { hold: 1s }").await;
    let long = tool(&mesh.client, call(&format!("deploy{}", "x".repeat(1024)), json!({}))).await;
    assert_eq!(long.json()["error"]["code"], -32602, "{:?}", long.json());
    assert!(waiting(&mesh, "carol-token").await.is_empty());
    assert_eq!(reason(&tool(&mesh.client, call("deploy\u{202e}", json!({}))).await), "approval_pending");
    assert_eq!(waiting(&mesh, "carol-token").await[0]["capability"], "deploy\\u{202e}");
}

#[tokio::test]
async fn a_yes_that_nobody_wants_is_none() {
    let mesh = mesh("approvals: { hold: 1s }").await;
    let params = call("deploy", json!({}));
    assert_eq!(reason(&tool(&mesh.client, able(params.clone())).await), "approval_pending");
    let id = id_of_waiting(&mesh).await;
    let mut yes = able(params);
    yes["requestState"] = json!(format!("outrigger.approval.{id}"));
    yes["inputResponses"] = json!({ "outrigger.dev/approval": { "action": "accept", "content": { "approve": true } } });
    assert_eq!(reason(&tool(&mesh.client, yes).await), "approval_unknown");
    assert_eq!(waiting(&mesh, "carol-token").await.len(), 1);
    let lines = mesh.audit(2).await;
    assert!(lines.iter().all(|line| line["action"] != "approval"), "{lines:?}");
}
