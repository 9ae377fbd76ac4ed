//! Bounds at a sidecar: whoever passes one is told which, it is counted, and nobody else is harmed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use outrigger_tests::{
    Call, Client, Mesh, Reply, Session, Stream, TestIngress, TestSidecar, eventually,
    sidecar::text_of,
    subjects::{HttpBackend, scripted},
    wait::within,
};
use serde_json::{Value, json};
use tokio::time::Instant;

const CHANGED: &str = "notifications/tools/list_changed";

/// The call of one of a principal's clients, as an ingress marks it.
fn of(principal: &str, session: u8, call: Call) -> Call {
    call.meta(&format!("\"outrigger.dev/session\":\"c.{session}.{principal}\""))
}

fn listen(resources: &[&str]) -> Call {
    let filter = json!({"toolsListChanged": true, "resourceSubscriptions": resources});
    Call::new("subscriptions/listen").params(&format!("\"notifications\":{filter}"))
}

/// The setting that a refusal names.
fn limit(reply: &Reply) -> String {
    let error = &reply.json()["error"];
    assert_eq!((error["data"]["reason"].as_str(), error["data"]["service"].as_str()), (Some("limited"), Some("fs")));
    let limit = error["data"]["limit"].as_str().unwrap().to_owned();
    assert_eq!(error["message"], format!("limit reached: {limit}"));
    limit
}

async fn refused(sidecar: &TestSidecar, kind: &str) -> f64 {
    sidecar.metric(&format!("outrigger_limited_total{{limit=\"{kind}\",service=\"fs\"}}")).await
}

async fn opened(client: &Client, call: &Call) -> Stream {
    let stream = client.open(call).await;
    assert_eq!(stream.status, 200);
    stream
}

#[tokio::test]
async fn listens_are_limited_in_all_and_for_each_principal() {
    let mesh = Mesh::new();
    let settings = format!("{}limits: {{ listens: 3, listens_per_principal: 1 }}\n", scripted(&[]));
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let client = sidecar.ready_client(&mesh).await;
    let ada = opened(&client, &of("ada", 1, listen(&[]))).await;
    assert_eq!(limit(&client.reply(&of("ada", 2, listen(&[]))).await), "limits.listens_per_principal");
    let _bob = opened(&client, &of("bob", 1, listen(&[]))).await;
    // A client of an older revision listens with GET; its place is of the same number.
    let session = Session::open(&client, "2025-06-18", &json!({})).await;
    let get = session.listen().await;
    assert_eq!(get.status, 200);
    assert_eq!(limit(&client.reply(&listen(&[])).await), "limits.listens_per_principal");
    assert_eq!(limit(&client.reply(&of("eve", 1, listen(&[]))).await), "limits.listens");
    assert_eq!(refused(&sidecar, "listens").await, 3.0);
    drop((ada, get));
    eventually("places are free again", || async {
        let eve = client.open(&of("eve", 1, listen(&[]))).await;
        (eve.status == 200).then_some(())
    })
    .await;
    sidecar.stop().await;
}

#[tokio::test]
async fn only_an_ingress_says_for_whom_it_calls() {
    let mesh = Mesh::new();
    let settings = format!(
        "{}limits: {{ listens: 9, listens_per_principal: 2 }}\ningresses: [\"spiffe://test.local/edge\"]\n",
        scripted(&[])
    );
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let peer = sidecar.ready_client(&mesh).await;
    let edge = sidecar.client(&mesh, "edge");
    for principal in ["ada", "bob", "eve"] {
        let invented = peer.reply(&of(principal, 1, listen(&[]))).await;
        assert_eq!((invented.status.as_u16(), invented.error_code()), (200, -32602));
        let told = invented.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(told.contains("spiffe://test.local/ingress is not among `ingresses`"), "{told}");
        assert_eq!(peer.reply(&of(principal, 1, Call::tool("echo", "{}"))).await.error_code(), -32602);
    }
    let plain = Call::tool("echo", "{}").meta(r#""outrigger.dev/session":"p.ada""#);
    assert_eq!(peer.reply(&plain).await.error_code(), -32602);
    // Streams of a session share a place only where an ingress vouches for it.
    let tagged = |tag: &str| listen(&[]).meta(&format!("\"outrigger.dev/session\":\"{tag}\""));
    let _of_peer = (opened(&peer, &tagged("c.1")).await, opened(&peer, &tagged("c.1")).await);
    for invented in ["c.1", "c.2", "x"] {
        assert_eq!(limit(&peer.reply(&tagged(invented)).await), "limits.listens_per_principal");
    }
    let mut together = Vec::new();
    for _ in 0..4 {
        together.push(opened(&edge, &of("ada", 1, listen(&[]))).await);
    }
    let long = edge.reply(&tagged(&"x".repeat(129))).await;
    assert_eq!((long.status.as_u16(), long.error_code()), (200, -32602));
    sidecar.stop().await;
}

#[tokio::test]
async fn subscriptions_are_limited_for_each_listen_and_session() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &format!("{}limits: {{ subscriptions: 1 }}\n", scripted(&[]))).await;
    let client = sidecar.ready_client(&mesh).await;
    let mut honoured = opened(&client, &listen(&["test://a", "test://hidden"])).await;
    let told = honoured.next().await.unwrap();
    assert_eq!(told["params"]["notifications"]["resourceSubscriptions"], json!(["test://a"]));
    drop(honoured);
    let session = Session::open(&client, "2025-11-25", &json!({})).await;
    let subscribe = |uri: &'static str| {
        let session = session.clone();
        async move { session.ask("resources/subscribe", &json!({"uri": uri})).await }
    };
    assert_eq!(subscribe("test://a").await.json()["result"], json!({}));
    assert_eq!(limit(&subscribe("test://hidden").await), "limits.subscriptions");
    assert_eq!(subscribe("test://a").await.json()["result"], json!({}), "it has that one already");
    assert_eq!(refused(&sidecar, "subscriptions").await, 2.0);
    sidecar.stop().await;
}

#[tokio::test]
async fn sessions_of_clients_are_limited_for_each_principal() {
    let mesh = Mesh::new();
    let settings = format!(
        "{}limits: {{ client_sessions_per_principal: 1, session_requests: 1 }}\nallowed_callers: []\n",
        scripted(&[])
    );
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let client = sidecar.ready_client(&mesh).await;
    let session = Session::open(&client, "2025-11-25", &json!({})).await;
    let at_work = tokio::spawn({
        let session = session.clone();
        async move { session.begin("tools/call", &json!({"name": "sleep", "arguments": {"ms": 60_000}})).await }
    });
    eventually("a request is at work", || async { (sidecar.health().await["load"]["in_flight"] == 1).then_some(()) })
        .await;
    let second = json!({"jsonrpc": "2.0", "id": 2, "method": "prompts/list"});
    let refusal = session.send(http::Method::POST, &second.to_string()).await.rest().await;
    assert_eq!(limit(&refusal), "limits.session_requests");
    assert_eq!(refused(&sidecar, "session_requests").await, 1.0);
    let hello =
        json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    let mut second = session.clone();
    second.headers.remove("mcp-session-id");
    second.headers.remove("mcp-protocol-version");
    let refusal = second.ask("initialize", &hello).await;
    assert_eq!(limit(&refusal), "limits.client_sessions_per_principal");
    assert_eq!(refused(&sidecar, "client_sessions").await, 1.0);
    Session::open(&sidecar.client(&mesh, "other"), "2025-11-25", &json!({})).await;
    at_work.abort();
    sidecar.stop().await;
}

#[tokio::test]
async fn sessions_with_a_server_over_http_are_limited_for_each_principal() {
    let mesh = Mesh::new();
    let backend = HttpBackend::start("legacy").await;
    let settings = format!("upstream: {}\nlimits: {{ sessions: 2, sessions_per_principal: 1 }}\n", backend.url);
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let client = sidecar.ready_client(&mesh).await;
    let ask = |principal: &'static str, session| {
        let client = client.clone();
        async move {
            let call = Call::tool("test_elicitation", r#"{"message":"x"}"#).capabilities(r#"{"elicitation":{}}"#);
            client.reply(&of(principal, session, call)).await
        }
    };
    // A call that waits for its client keeps its session in use.
    assert_eq!(ask("ada", 1).await.json()["result"]["resultType"], "input_required");
    assert_eq!(limit(&ask("ada", 2).await), "limits.sessions_per_principal");
    assert_eq!(ask("bob", 1).await.json()["result"]["resultType"], "input_required");
    assert_eq!(limit(&ask("eve", 1).await), "limits.sessions");
    assert_eq!(refused(&sidecar, "sessions").await, 2.0);
    sidecar.stop().await;
}

#[tokio::test]
async fn a_question_is_given_up_after_the_configured_time() {
    let mesh = Mesh::new();
    let settings = format!("{}timeouts: {{ answer: 100ms }}\n", scripted(&[]));
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let client = sidecar.ready_client(&mesh).await;
    let call = Call::tool("elicit", "{}").capabilities(r#"{"elicitation":{}}"#);
    assert_eq!(client.reply(&call).await.json()["result"]["resultType"], "input_required");
    eventually("it is given up", || async { (sidecar.metric("outrigger_parked_calls").await == 0.0).then_some(()) })
        .await;
    sidecar.stop().await;
}

#[tokio::test]
async fn whoever_uses_the_session_of_somebody_else_is_in_the_audit() {
    let mesh = Mesh::new();
    let audit = mesh.path().join("audit.jsonl");
    let sidecar = TestSidecar::start(&mesh, &format!("{}audit: {}\n", scripted(&[]), audit.display())).await;
    let session = Session::open(&sidecar.ready_client(&mesh).await, "2025-11-25", &json!({})).await;
    let thief = session.through(&sidecar.client(&mesh, "thief"));
    assert_eq!(thief.ask("ping", &json!({})).await.status, 404);
    sidecar.stop().await;
    let text = std::fs::read_to_string(&audit).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = lines.iter().filter(|line| line["action"] == "session").collect();
    let [line] = told[..] else { panic!("{text}") };
    assert!(line["who"].as_str().unwrap().ends_with("/thief"), "{line}");
    assert_eq!((line["decision"].as_str(), line["service"].as_str()), (Some("deny"), Some("fs")));
}

/// 1,000 changes a second for three seconds, told to whoever listens at `client`.
async fn storm(sidecar: &TestSidecar, client: &Client, prefix: &str) {
    let mut stream = opened(client, &listen(&[])).await;
    assert_eq!(stream.next().await.unwrap()["method"], "notifications/subscriptions/acknowledged");
    let began = Instant::now();
    client.tool(&format!("{prefix}change"), r#"{"times":3000,"per_second":1000}"#).await;
    let all = |h: &Value| h["catalog"]["tools"].as_array().is_some_and(|tools| tools.len() > 3000);
    sidecar.health_where("every change is known", all).await;
    let seen: Value = serde_json::from_str(&text_of(&client.tool(&format!("{prefix}seen"), "{}").await)).unwrap();
    // Each list has two pages of 100 ms, asked one after the other.
    assert_eq!(seen["lists_at_once"], 1, "one refetch at a time");
    let seconds = began.elapsed().as_secs_f64();
    let lists = seen["lists"].as_f64().unwrap();
    assert!(lists <= 5.0 * seconds + 2.0, "{lists} fetches in {seconds} s");
    // The last change is told a second after the one before it, at the latest; then nothing more comes.
    let mut told = 0;
    while let Ok(Some(message)) = tokio::time::timeout(std::time::Duration::from_secs(3), stream.next()).await {
        told += i32::from(message["method"] == CHANGED);
    }
    assert!(told >= 2, "what changes again is told again");
    assert!(f64::from(told) <= seconds + 2.0, "{told} notifications in {seconds} s");
}

#[tokio::test]
async fn a_storm_of_changes_costs_one_refetch_at_a_time_and_one_notification_a_second() {
    let mesh = Mesh::new();
    let settings = format!("{}session: shared\n", scripted(&["--slow-list", "100"]));
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    storm(&sidecar, &sidecar.ready_client(&mesh).await, "").await;
    sidecar.stop().await;
}

#[tokio::test]
async fn a_storm_of_changes_is_one_notification_a_second_through_an_ingress() {
    let mesh = Mesh::new();
    let settings = format!("{}session: shared\n", scripted(&["--slow-list", "100"]));
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    sidecar.ready_client(&mesh).await;
    let ingress = TestIngress::start(&mesh, &[sidecar.address()], "").await;
    storm(&sidecar, &ingress.client, "fs__").await;
    ingress.stop().await;
    sidecar.stop().await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_does_not_stop_the_output_of_a_shared_child() {
    let mesh = Mesh::new();
    let settings = format!("{}session: shared\n", scripted(&[]));
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let client = sidecar.ready_client(&mesh).await;
    // Megabytes of progress for somebody who takes the head only.
    let flood = Call::tool("flood", r#"{"n":60000}"#).meta(r#""progressToken":1"#);
    let mut stuck = sidecar.client(&mesh, "slow").open(&flood).await;
    stuck.next().await.unwrap();
    let other = within("the answer of somebody else", client.tool("echo", r#"{"a":1}"#)).await;
    assert_eq!(text_of(&other), r#"{"a": 1}"#);
    eventually("the flood has left the child", || async {
        let seen = text_of(&client.tool("seen", "{}").await);
        seen.contains(r#""floods": 1"#).then_some(())
    })
    .await;
    drop(stuck);
    sidecar.stop().await;
}

#[tokio::test]
async fn a_child_that_is_slow_for_one_caller_answers_nobody_else_late() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    // Ada's child reads no more, and her calls fill its input.
    assert_eq!(text_of(&client.reply(&of("ada", 1, Call::tool("deaf", "{}"))).await.json()), "deaf");
    let big = format!("{{\"a\":\"{}\"}}", "x".repeat(300_000));
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let (client, call) = (client.clone(), of("ada", 1, Call::tool("echo", &big)));
            tokio::spawn(async move { client.reply(&call).await })
        })
        .collect();
    eventually("they are at work", || async { (sidecar.health().await["load"]["in_flight"] == 8).then_some(()) }).await;
    for session in 1..4 {
        let reply = within("bob's answer", client.reply(&of("bob", session, Call::tool("echo", "{}")))).await;
        assert_eq!(text_of(&reply.json()), "{}");
    }
    assert!(waiting.iter().all(|call| !call.is_finished()), "she still waits");
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    sidecar.stop().await;
}

#[tokio::test]
async fn no_call_is_made_that_the_audit_cannot_take_where_it_must() {
    let mesh = Mesh::new();
    let full = "audit: /dev/full\naudit_trail: { when_full: refuse }\n";
    let sidecar = TestSidecar::start(&mesh, &format!("{}{full}", scripted(&[]))).await;
    let client = sidecar.ready_client(&mesh).await;
    let refused = eventually("the disk is found full", || async {
        let reply = client.reply(&Call::tool("echo", "{}")).await;
        (reply.status == 503).then_some(reply)
    })
    .await;
    assert_eq!(refused.json()["error"]["data"]["reason"], "audit_unavailable", "{refused:?}");
    sidecar.stop().await;
}

#[tokio::test]
async fn without_refusal_calls_go_on_and_what_is_missing_is_counted() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &format!("{}audit: /dev/full\n", scripted(&[]))).await;
    let client = sidecar.ready_client(&mesh).await;
    for _ in 0..20 {
        assert_eq!(client.reply(&Call::tool("echo", "{}")).await.status, 200);
    }
    sidecar.stop().await;
}

#[tokio::test]
async fn a_sidecar_is_drained_by_hooks_only_where_it_is_told_to() {
    let (mesh, backend) = (Mesh::new(), HttpBackend::start("legacy").await);
    let sidecar = TestSidecar::start(&mesh, &format!("upstream: {}\n", backend.url)).await;
    assert_eq!(sidecar.admin("/drain").await.0, 404);
    assert_eq!(sidecar.admin("/healthz").await.0, 200);
    sidecar.stop().await;
}
