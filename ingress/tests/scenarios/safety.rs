//! Safety controls: what keeps a service and its callers safe when replicas, servers or clients go wrong.

use serde_json::{Value, json};

use crate::fake::{Fake, health, tools};
use crate::mesh::{Client, Events, Mesh, eventually};

/// `a` with two replicas, of which the second is new, behind an ingress with these settings of the service.
async fn pair(offered: &[&str], settings: &str) -> (Mesh, Fake) {
    let mesh = Mesh::start(&[("a", health(tools(offered)))]).await;
    let second = Fake::start("second", mesh.credentials("a"), health(tools(offered))).await;
    let services = format!(
        "services: {{ a: {{ addresses: [\"{}\", \"{}\"], {settings} }} }}",
        mesh.fake("a").address,
        second.address
    );
    let mesh = mesh.another_ingress(&services).await;
    eventually("both replicas", || async {
        replicas(&mesh).await.iter().all(|replica| replica["status"] == "serving")
    })
    .await;
    (mesh, second)
}

/// `a` with one replica that lists these tools, behind an ingress with these settings of the service.
async fn alone(offered: Value, settings: &str) -> Mesh {
    let mesh = Mesh::start(&[("a", health(offered))]).await;
    let services = format!("services: {{ a: {{ addresses: [\"{}\"], {settings} }} }}", mesh.fake("a").address);
    mesh.another_ingress(&services).await
}

async fn replicas(mesh: &Mesh) -> Vec<Value> {
    mesh.admin("/catalog").await.json()["services"]["a"]["replicas"].as_array().unwrap().clone()
}

async fn metric(mesh: &Mesh, line: &str) -> bool {
    String::from_utf8_lossy(&mesh.admin("/metrics").await.body).lines().any(|each| each == line)
}

async fn calls(client: &Client, times: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..times {
        statuses.push(client.call("a__read").await.status.as_u16());
    }
    statuses
}

#[tokio::test]
async fn a_replica_whose_calls_fail_is_left_alone_tried_and_taken_back() {
    let (mesh, second) =
        pair(&["read"], "breaker: { failures: 3, rest: 10ms, longest_rest: 10ms, recovery: 0s }").await;
    second.misbehave(true);
    // Half of the calls go there until it is left alone.
    eventually("an ejection", || async {
        mesh.client.call("a__read").await;
        metric(&mesh, "outrigger_replica_ejections_total{reason=\"failures\",service=\"a\"} 1").await
    })
    .await;
    let seen = second.seen().len();
    let failed = calls(&mesh.client, 100).await.into_iter().filter(|status| *status != 200).count();
    let tried = second.seen().len() - seen;
    assert!(failed <= tried && tried < 50, "{failed} calls failed, {tried} tried it");
    second.misbehave(false);
    eventually("its return", || async {
        mesh.client.call("a__read").await;
        metric(&mesh, "outrigger_replicas_out{service=\"a\"} 0").await
    })
    .await;
    let seen = second.seen().len();
    assert!(calls(&mesh.client, 50).await.iter().all(|status| *status == 200));
    assert!(second.seen().len() > seen, "it is used again");
}

#[tokio::test]
async fn no_more_replicas_are_left_alone_than_may_be() {
    let (mesh, second) = pair(&["read"], "breaker: { failures: 2, rest: 1h, longest_rest: 1h }").await;
    second.misbehave(true);
    mesh.fake("a").misbehave(true);
    assert!(calls(&mesh.client, 20).await.iter().all(|status| *status == 502), "answers, whatever they are");
    assert!(metric(&mesh, "outrigger_replicas_out{service=\"a\"} 1").await);
    let words = replicas(&mesh).await;
    let mut words: Vec<_> = words.iter().map(|replica| replica["breaker"].as_str().unwrap()).collect();
    words.sort_unstable();
    assert_eq!(words, ["closed", "open"]);
}

#[tokio::test]
async fn the_only_replica_is_not_asked_again_and_again_while_it_answers_nothing() {
    let mesh = alone(tools(&["cut"]), "breaker: { failures: 3, rest: 1h, longest_rest: 1h }").await;
    assert!(metric(&mesh, "outrigger_replicas_out{service=\"a\"} 0").await);
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(mesh.client.call("a__cut").await.status.as_u16());
    }
    assert_eq!(statuses, [502, 502, 502, 503, 503, 503]);
    assert_eq!(mesh.fake("a").seen().len(), 3);
    let refused = mesh.client.call("a__cut").await.json();
    assert_eq!(refused["error"]["data"]["reason"], json!("unavailable"));
    assert!(refused["error"]["message"].as_str().unwrap().contains("tried again in a moment"), "{refused}");
    assert!(metric(&mesh, "outrigger_replica_ejections_total{reason=\"circuit\",service=\"a\"} 1").await);
}

#[tokio::test]
async fn a_call_that_takes_longer_than_its_tool_may_is_cancelled_and_told_so() {
    let settings = "tools: [ { names: [\"ha*\", stream], deadline: 60ms }, { names: [\"*\"], deadline: 1h } ]";
    let mesh = alone(tools(&["hang", "stream", "read"]), settings).await;
    let got = mesh.client.call("a__hang").await;
    let error = got.json()["error"].clone();
    assert_eq!(
        (got.status.as_u16(), &error["code"], &error["data"]["reason"]),
        (504, &json!(-31504), &json!("deadline"))
    );
    assert_eq!(error["message"], json!("the service a was stopped: the call may take 60ms at most"));
    let fake = mesh.fake("a");
    eventually("the cancellation", || async { fake.state.cancelled.load(std::sync::atomic::Ordering::SeqCst) == 1 })
        .await;
    let told: u64 = fake.seen()[0].headers["x-mcpx-deadline-ms"].to_str().unwrap().parse().unwrap();
    assert!((250..=310).contains(&told), "the sidecar ends it a little later: {told} ms");

    // A stream that says something all the time ends too.
    let mut stream =
        Events::of(mesh.client.open(mesh.client.request("/mcp", "tools/call", json!({ "name": "a__stream" }))).await);
    let last = loop {
        fake.say(&json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": {} }));
        match stream.next().await {
            Some(event) if event["error"].is_null() => {}
            other => break other.expect("an error in place of the result"),
        }
    };
    assert_eq!((&last["id"], &last["error"]["data"]["reason"]), (&json!("q1"), &json!("deadline")));
    assert_eq!(mesh.client.call("a__read").await.status, 200);
    assert!(
        metric(
            &mesh,
            "outrigger_requests_total{capability=\"hang\",method=\"tools/call\",outcome=\"timeout\",service=\"a\"} 1"
        )
        .await
    );
}

#[tokio::test]
async fn one_slow_tool_closes_no_service_to_others() {
    let settings = "breaker: { failures: 2, rest: 1h, longest_rest: 1h }, tools: [ { names: [hang], deadline: 20ms } ]";
    let mesh = alone(tools(&["hang", "read"]), settings).await;
    for _ in 0..4 {
        assert_eq!(mesh.client.call("a__hang").await.status, 504);
    }
    assert_eq!(mesh.client.call("a__read").await.status, 200);
}

#[tokio::test]
async fn a_client_cannot_say_what_only_the_ingress_says() {
    let mesh = alone(tools(&["read"]), "tools: []").await;
    let mut request = mesh.client.request("/mcp", "tools/call", json!({ "name": "a__read" }));
    request.headers_mut().insert("x-mcpx-deadline-ms", "1".parse().unwrap());
    assert_eq!(mesh.client.send(request).await.status, 200);
    assert!(!mesh.fake("a").seen()[0].headers.contains_key("x-mcpx-deadline-ms"));
}

/// A tool that breaks its connection each other time, with these hints.
fn breaking(hints: Value) -> Value {
    let tool = json!({ "name": "once", "inputSchema": { "type": "object" }, "annotations": hints });
    json!({ "tools": [tool, { "name": "cut", "inputSchema": { "type": "object" }, "annotations": { "readOnlyHint": true } }],
        "capabilities": { "tools": {} } })
}

#[tokio::test]
async fn what_may_run_twice_is_sent_again_and_nothing_else() {
    for (settings, hints, sent) in [
        ("breaker: {}", json!({ "readOnlyHint": true }), 1),
        ("retries: {}", json!({ "readOnlyHint": true }), 2),
        ("retries: {}", json!({ "idempotentHint": true }), 2),
        ("retries: {}", json!({ "destructiveHint": false }), 1),
        ("retries: {}, tools: [ { names: [once], repeat: never } ]", json!({ "readOnlyHint": true }), 1),
        ("retries: {}, tools: [ { names: [once], repeat: always } ]", json!({}), 2),
    ] {
        let mesh = alone(breaking(hints.clone()), settings).await;
        let got = mesh.client.call("a__once").await;
        assert_eq!(mesh.fake("a").seen().len(), sent, "{settings} {hints}");
        assert_eq!(got.status, if sent == 2 { 200 } else { 502 }, "{settings} {hints}");
        let counted = metric(&mesh, "outrigger_retries_total{reason=\"repeatable\",service=\"a\"} 1").await;
        assert_eq!(counted, sent == 2, "{settings} {hints}");
    }
}

#[tokio::test]
async fn an_outage_is_not_doubled_by_sending_again() {
    let settings = "breaker: { failures: 0 }, retries: { attempts: 2, share: 1%, burst: 3 }";
    let mesh = alone(breaking(json!({})), settings).await;
    for _ in 0..10 {
        assert_eq!(mesh.client.call("a__cut").await.status, 502);
    }
    assert_eq!(mesh.fake("a").seen().len(), 13, "ten calls, and three that were sent again");
    assert!(metric(&mesh, "outrigger_retries_total{reason=\"over_budget\",service=\"a\"} 9").await);
}

#[tokio::test]
async fn a_call_that_a_sidecar_refuses_before_its_server_has_it_goes_to_another() {
    let (mesh, second) = pair(&["write"], "breaker: { failures: 0 }").await;
    second.refuse(true);
    for _ in 0..30 {
        assert_eq!(mesh.client.call("a__write").await.status, 200);
    }
    let refused = second.seen().len();
    assert!(refused > 0 && mesh.fake("a").seen().len() == 30, "{refused}");
    assert!(metric(&mesh, &format!("outrigger_retries_total{{reason=\"refused\",service=\"a\"}} {refused}")).await);
    mesh.fake("a").refuse(true);
    let got = mesh.client.call("a__write").await;
    assert_eq!((got.status.as_u16(), &got.json()["error"]["data"]["reason"]), (503, &json!("unavailable")));
    assert!(!got.headers.contains_key("x-mcpx-unsent"), "between us and our sidecars");
}

#[tokio::test]
async fn one_client_cannot_take_every_place_of_a_service() {
    let mesh = alone(tools(&["hang", "read"]), "concurrency: { limit: 4, per_client: 75% }").await;
    let fake = mesh.fake("a");
    let hold = || {
        let client = mesh.client.clone();
        tokio::spawn(async move {
            client.try_send(client.request("/mcp", "tools/call", json!({ "name": "a__hang" }))).await
        })
    };
    let held: Vec<_> = (0..3).map(|_| hold()).collect();
    eventually("three calls", || async { fake.state.hanging.load(std::sync::atomic::Ordering::SeqCst) == 3 }).await;
    let got = mesh.client.call("a__read").await;
    assert_eq!((got.status.as_u16(), &got.json()["error"]["data"]["limit"]), (429, &json!("concurrency.per_client")));
    assert_eq!(mesh.client.as_bob().call("a__read").await.status, 200);
    assert!(metric(&mesh, "outrigger_limited_total{limit=\"client_concurrency\",service=\"a\"} 1").await);
    held.iter().for_each(tokio::task::JoinHandle::abort);
    eventually("room", || async { mesh.client.call("a__read").await.status == 200 }).await;
}

#[tokio::test]
async fn places_follow_how_long_calls_take() {
    let settings = "concurrency: { limit: 50, adaptive: { min: 2, start: 10 } }, breaker: { failures: 0 }";
    let mesh = alone(tools(&["read"]), settings).await;
    let limit = || async { mesh.admin("/catalog").await.json()["services"]["a"]["limit"].as_u64().unwrap() };
    assert_eq!(limit().await, 10);
    mesh.fake("a").break_off(true);
    eventually("fewer places", || async {
        mesh.client.call("a__read").await;
        limit().await < 8
    })
    .await;
}

#[tokio::test]
async fn what_is_not_sent_takes_no_places_away() {
    let settings = "concurrency: { limit: 50, adaptive: { min: 2, start: 10 } }, breaker: { failures: 1, rest: 1h, longest_rest: 1h }";
    let mesh = alone(tools(&["cut"]), settings).await;
    assert_eq!(mesh.client.call("a__cut").await.status, 502);
    for _ in 0..300 {
        assert_eq!(mesh.client.call("a__cut").await.status, 503);
    }
    assert_eq!(mesh.admin("/catalog").await.json()["services"]["a"]["limit"], json!(10));
}

/// Half of ten thousand rules.
fn five_thousand_rules(name: &str, first: &str) -> String {
    use std::fmt::Write;
    let mut text = format!(
        "apiVersion: mcpx.io/v1\nkind: SecurityPolicy\nmetadata: {{ name: {name} }}\nspec:\n  authorization:\n    rules:\n      - {first}\n"
    );
    for n in 1..5_000 {
        let user = n % 1000;
        writeln!(text, "      - {{name: r{n}, services: [a], capabilities: [t{n}], requires: [{{subject: u{user}}}]}}")
            .unwrap();
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_of_ten_thousand_rules_disturbs_no_call() {
    let rules = |name: &str, tool: &str| {
        let first = format!("{{name: ada, services: [a], capabilities: [{tool}], requires: [{{subject: ada}}]}}");
        five_thousand_rules(name, &first)
    };
    let mesh = Mesh::with(&[("a", health(tools(&["read", "new"])))], &rules("half", "old"), "").await;
    std::fs::write(mesh.path("other.yaml"), rules("other", "read")).unwrap();
    let files = ["policy.yaml", "other.yaml"].map(|name| mesh.path(name).display().to_string());
    let mesh = mesh.another_ingress(&format!("policy: [{}]", files.join(", "))).await;
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let callers = (0..4).map(|_| {
        let (client, over) = (mesh.client.clone(), std::sync::Arc::clone(&over));
        tokio::spawn(async move {
            let mut calls = 0_u32;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(client.call("a__read").await.status, 200);
                calls += 1;
            }
            calls
        })
    });
    let callers: Vec<_> = callers.collect();
    assert_eq!(mesh.client.call("a__new").await.json()["error"]["code"], json!(-32602));
    for (tool, usable) in [("new", true), ("old", false)] {
        // Whole or not at all, as whoever writes policies should do.
        std::fs::write(mesh.path("next.yaml"), rules("half", tool)).unwrap();
        std::fs::rename(mesh.path("next.yaml"), mesh.path("policy.yaml")).unwrap();
        eventually("the new policy", || async { mesh.client.call("a__new").await.json()["error"].is_null() == usable })
            .await;
    }
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    for caller in callers {
        assert!(caller.await.unwrap() > 10, "calls went on all the time");
    }
}
