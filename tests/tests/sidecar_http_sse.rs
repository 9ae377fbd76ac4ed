//! Servers that speak HTTP+SSE, the transport of 2024-11-05: found out about, called, and survived when they misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use outrigger_tests::{
    Call, Client, Mesh, TestSidecar, eventually, sidecar::text_of, sse_server::SseServer, wait::within,
};
use serde_json::{Value, json};

const ENDPOINT: &str = "/messages?s={n}";

struct Setting {
    mesh: Mesh,
    server: SseServer,
    sidecar: TestSidecar,
    client: Client,
}

impl Setting {
    async fn new(more: &str) -> Self {
        Self::at(ENDPOINT, more).await
    }

    async fn at(endpoint: &'static str, more: &str) -> Self {
        let (mesh, server) = (Mesh::new(), SseServer::start(Some(endpoint)));
        let sidecar = TestSidecar::start(&mesh, &format!("{}{more}", server.setting())).await;
        let client = sidecar.ready_client(&mesh).await;
        Self { mesh, server, sidecar, client }
    }
}

fn error_of(reply: &Value) -> (i64, String) {
    (reply["error"]["code"].as_i64().unwrap(), reply["error"]["message"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn the_transport_is_found_out_and_calls_work() {
    let s = Setting::new("").await;
    let asked: Vec<String> =
        s.server.received().iter().take(4).map(|r| format!("{} {}", r.method, r.rpc_method())).collect();
    assert_eq!(asked, ["POST server/discover", "POST initialize", "GET ", "POST initialize"]);
    assert_eq!(s.sidecar.health().await["server"]["revision"], "2024-11-05");
    assert_eq!(text_of(&s.client.tool("echo", r#"{"a":"ü"}"#).await), r#"{"a":"ü"}"#);
    let reply = s.client.reply(&Call::tool("progress", "{}").meta(r#""progressToken":"p""#)).await;
    assert_eq!((&reply.events[0]["params"]["progressToken"], reply.events.len()), (&json!("p"), 2));
    s.sidecar.stop().await;
    eventually("every event stream is closed", || async { (s.server.open() == 0).then_some(()) }).await;
}

#[tokio::test]
async fn a_pinned_transport_is_not_probed() {
    let s = Setting::new("era: http+sse\n").await;
    assert_eq!(s.server.received()[0].method, "GET");
    assert_eq!(text_of(&s.client.tool("echo", "{}").await), "{}");
    s.sidecar.stop().await;
}

#[tokio::test]
async fn callers_have_sessions_of_their_own_and_one_that_ends_is_opened_again() {
    let s = Setting::new("").await;
    let other = s.sidecar.client(&s.mesh, "b");
    let (one, two) = (text_of(&s.client.tool("session", "{}").await), text_of(&other.tool("session", "{}").await));
    assert_ne!(one, two);
    assert_eq!(text_of(&s.client.tool("session", "{}").await), one);
    s.server.cut();
    eventually("calls work on new streams", || async {
        let reply = s.client.tool("session", "{}").await;
        reply.get("result").is_some().then(|| assert_ne!(text_of(&reply), one))
    })
    .await;
    s.sidecar.health_where("the catalog is watched again", |h| h["status"] == "serving").await;
    s.sidecar.stop().await;
}

#[tokio::test]
async fn what_the_server_asks_parks_the_call() {
    let s = Setting::new("").await;
    // `late` accepts its POST only when its answer was sent: the question must get out before.
    for tool in ["ask", "late"] {
        let call = || Call::tool(tool, "{}").capabilities(r#"{"sampling":{}}"#);
        let asked = s.client.reply(&call()).await.json();
        assert_eq!(asked["result"]["inputRequests"]["r1"]["method"], "sampling/createMessage", "{asked}");
        let answer = json!({"r1": {"role": "assistant", "content": {"type": "text", "text": "x"}, "model": "m"}});
        let retry = format!("\"inputResponses\":{answer},\"requestState\":{}", asked["result"]["requestState"]);
        let done = s.client.reply(&call().params(&retry)).await.json();
        assert_eq!(serde_json::from_str::<Value>(&text_of(&done)).unwrap(), answer["r1"], "{tool}");
    }
    s.sidecar.stop().await;
}

#[tokio::test]
async fn on_a_shared_stream_a_question_that_names_no_call_is_refused() {
    let s = Setting::new("session: shared\n").await;
    let call = Call::tool("ask", "{}").capabilities(r#"{"sampling":{}}"#);
    let reply = s.client.reply(&call).await.json();
    assert!(text_of(&reply).contains("-32601"), "{reply}");
    s.sidecar.stop().await;
}

#[tokio::test]
async fn pings_of_the_server_are_answered() {
    let s = Setting::new("").await;
    s.server.say(&json!({"jsonrpc": "2.0", "id": "p1", "method": "ping"})).await;
    eventually("the ping is answered", || async {
        s.server.received().iter().find(|r| r.json()["id"] == "p1").map(|r| assert_eq!(r.json()["result"], json!({})))
    })
    .await;
    s.sidecar.stop().await;
}

#[tokio::test]
async fn a_stream_that_breaks_fails_its_calls_and_says_why() {
    let s = Setting::new("").await;
    let (hang, client) = (Call::tool("hang", "{}"), s.client.clone());
    let hanging = tokio::spawn(async move { client.reply(&hang).await });
    eventually("the first call arrived", || async { (!s.server.received_of("tools/call").is_empty()).then_some(()) })
        .await;
    let cut = s.client.reply(&Call::tool("cut", "{}")).await;
    let hung = within("the first call ends", hanging).await.unwrap();
    for reply in [hung, cut] {
        assert_eq!(error_of(&reply.json()), (-32603, "the service fs failed: it closed its event stream".into()));
    }
    assert_eq!(text_of(&s.client.tool("echo", "{}").await), "{}");
    let ran = s.server.received_of("tools/call").iter().filter(|r| r.json()["params"]["name"] == "hang").count();
    assert_eq!(ran, 1, "a call is never run twice");
    s.sidecar.stop().await;
}

#[tokio::test]
async fn a_caller_that_leaves_cancels_its_call_only() {
    let s = Setting::new("").await;
    let (hang, client) = (Call::tool("hang", "{}"), s.client.clone());
    let caller = tokio::spawn(async move { client.reply(&hang).await });
    eventually("the call arrived", || async { (!s.server.received_of("tools/call").is_empty()).then_some(()) }).await;
    caller.abort();
    let cancelled =
        eventually("the server is told", || async { s.server.received_of("notifications/cancelled").pop() }).await;
    assert_eq!(cancelled.json()["params"]["requestId"], s.server.received_of("tools/call")[0].json()["id"]);
    assert_eq!(text_of(&s.client.tool("echo", "{}").await), "{}");
    s.sidecar.stop().await;
}

#[tokio::test]
async fn a_huge_event_fails_its_call_and_nobody_else() {
    let s = Setting::new("limits: { event_bytes: 64KiB }\n").await;
    let session = text_of(&s.client.tool("session", "{}").await);
    let (code, text) = error_of(&s.client.tool("huge", "{}").await);
    assert_eq!((code, text.as_str()), (-32603, "the service fs failed: its reply is larger than 65536 bytes"));
    assert_eq!(text_of(&s.client.tool("session", "{}").await), session, "the stream goes on");
    s.sidecar.stop().await;
}

#[tokio::test]
async fn a_storm_of_changes_costs_few_refetches() {
    let s = Setting::new("session: shared\n").await;
    let before = s.server.received_of("tools/list").len();
    assert_eq!(text_of(&s.client.tool("storm", "{}").await), "over");
    eventually("it is learned again", || async { (s.server.received_of("tools/list").len() > before).then_some(()) })
        .await;
    assert!(s.server.received_of("tools/list").len() < before + 50);
    s.sidecar.stop().await;
}

#[tokio::test]
async fn endpoints_at_the_same_origin_are_taken_and_others_refused() {
    Setting::at("messages?s={n}", "").await.sidecar.stop().await;
    for (endpoint, reason) in [
        ("http://evil.example/messages", "another origin, http://evil.example"),
        ("//evil.example/messages", "another origin, http://evil.example"),
        ("https://127.0.0.1/messages", "another origin, https://127.0.0.1"),
        ("http://user:secret@127.0.0.1/", "a user name or password"),
        ("/\\evil.example/messages", "characters that a URI cannot have"),
        ("file:///etc/passwd", "another origin, file:"),
        ("", "is empty"),
    ] {
        let (mesh, server) = (Mesh::new(), SseServer::start(Some(endpoint)));
        let sidecar = TestSidecar::start(&mesh, &server.setting()).await;
        let health = sidecar.health_where("a reason", |h| h["reason"] != "starting").await;
        assert!(health["reason"].as_str().unwrap().contains(reason), "{health}");
        assert!(!health.to_string().contains("secret"), "{health}");
        let initialized = server.received_of("initialize");
        assert!(initialized.iter().all(|r| r.path == "/mcp"), "nothing was posted to {endpoint}");
        sidecar.stop().await;
    }
}

#[tokio::test]
async fn an_absolute_endpoint_must_name_the_port_of_the_stream() {
    let (mesh, server) = (Mesh::new(), SseServer::start(Some("http://127.0.0.1:1/messages")));
    let sidecar = TestSidecar::start(&mesh, &server.setting()).await;
    let health = sidecar.health_where("a reason", |h| h["reason"] != "starting").await;
    let own = format!("than the stream's, http://127.0.0.1:{}", server.port());
    assert!(health["reason"].as_str().unwrap().contains(&own), "{health}");
    sidecar.stop().await;
}

#[tokio::test]
async fn a_stream_without_an_endpoint_is_given_up_and_tried_again() {
    let (mesh, server) = (Mesh::new(), SseServer::start(None));
    let sidecar = TestSidecar::start(&mesh, &format!("{}timeouts: {{ probe: 200ms }}\n", server.setting())).await;
    let health = sidecar.health_where("a reason", |h| h["reason"] != "starting").await;
    assert!(health["reason"].as_str().unwrap().contains("no `endpoint` event within 200ms (HTTP+SSE)"), "{health}");
    eventually("it is tried again", || async { (server.opened() > 1).then_some(()) }).await;
    eventually("nothing is left open", || async { (server.open() <= 1).then_some(()) }).await;
    sidecar.stop().await;
}
