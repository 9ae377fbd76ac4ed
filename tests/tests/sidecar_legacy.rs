//! Clients of older revisions that reach a sidecar directly, without an ingress.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use http::{HeaderMap, Method};
use http_body_util::BodyExt;
use outrigger_mcp::sse::Parser;
use outrigger_proxy::{body::OutBody, pool::PooledBody};
use outrigger_tests::{
    Client, Mesh, Session, TestSidecar, eventually,
    sidecar::text_of,
    subjects::{HttpBackend, backend_stdio, scripted},
    wait::within,
};
use serde_json::{Value, json};

const LEGACY: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

fn able() -> Value {
    json!({"elicitation": {}, "sampling": {}, "roots": {}})
}

/// What every server of the conformance backend does for a client of every older revision.
async fn works(settings: &str) {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, settings).await;
    let client = sidecar.ready_client(&mesh).await;
    for version in LEGACY {
        let session = Session::open(&client, version, &able()).await;
        let listed = session.ask("tools/list", &json!({})).await.json();
        assert!(listed["result"]["tools"].as_array().unwrap().len() > 20, "{version}: {listed}");
        assert_eq!(
            text_of(&session.tool("test_simple_text", &json!({})).await),
            "This is a simple text response for testing."
        );
        let read = session.ask("resources/read", &json!({"uri": "test://static-text"})).await.json();
        assert_eq!(read["result"]["contents"][0]["uri"], "test://static-text");
        let missing = session.ask("resources/read", &json!({"uri": "test://nothing"})).await;
        assert_eq!((missing.status.as_u16(), missing.error_code()), (200, -32002));
        let prompt = session.ask("prompts/get", &json!({"name": "test_simple_prompt"})).await.json();
        assert!(prompt["result"]["messages"].is_array(), "{prompt}");
        let unknown = session.ask("no/such", &json!({})).await;
        assert_eq!((unknown.status.as_u16(), unknown.error_code()), (200, -32601));
        assert_eq!(session.ask("ping", &json!({})).await.json()["result"], json!({}));

        let params = json!({"name": "test_tool_with_progress", "arguments": {}, "_meta": {"progressToken": "p"}});
        let reply = session.ask("tools/call", &params).await;
        let progress: Vec<_> = reply.events.iter().filter(|e| e["method"] == "notifications/progress").collect();
        assert!(progress.len() >= 3 && progress.iter().all(|e| e["params"]["progressToken"] == "p"), "{reply:?}");

        assert_eq!(session.end().await, 204);
        assert_eq!(session.ask("ping", &json!({})).await.status.as_u16(), 404);
    }
    sidecar.stop().await;
}

#[tokio::test]
async fn a_legacy_server_over_stdio() {
    works(&backend_stdio("legacy")).await;
}

#[tokio::test]
async fn a_modern_server_over_stdio() {
    works(&backend_stdio("modern")).await;
}

#[tokio::test]
async fn a_legacy_server_over_http() {
    let backend = HttpBackend::start("legacy").await;
    works(&format!("upstream: {}\n", backend.url)).await;
}

#[tokio::test]
async fn a_modern_server_over_http() {
    let backend = HttpBackend::start("modern").await;
    works(&format!("upstream: {}\n", backend.url)).await;
}

#[tokio::test]
async fn questions_are_asked_on_the_stream_of_the_call() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let session = Session::open(&client, "2025-06-18", &able()).await;
    for (tool, method, answer) in [
        ("elicit", "elicitation/create", json!({"action": "accept", "content": {"a": 1.5}})),
        (
            "sample",
            "sampling/createMessage",
            json!({"role": "assistant", "content": {"type": "text", "text": "x"}, "model": "m"}),
        ),
        ("roots", "roots/list", json!({"roots": [{"uri": "file:///a"}]})),
    ] {
        let mut call = session.begin("tools/call", &json!({"name": tool, "arguments": {}})).await;
        let question = call.next().await.unwrap();
        assert_eq!(question["method"], method);
        let response = json!({"jsonrpc": "2.0", "id": question["id"], "result": answer});
        assert_eq!(session.tell(&response).await, 202);
        let reply = call.next().await.unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text_of(&reply)).unwrap(), answer);
    }
    // Nobody hears of what it could not answer.
    let mute = Session::open(&client, "2025-03-26", &json!({})).await;
    assert!(mute.tool("elicit", &json!({})).await["error"]["code"].is_i64());
    sidecar.stop().await;
}

#[tokio::test]
async fn what_belongs_to_no_call_comes_on_the_stream_of_the_session() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let session = Session::open(&client, "2025-11-25", &able()).await;
    let mut stream = session.listen().await;
    let subscribed = session.ask("resources/subscribe", &json!({"uri": "test://a"})).await.json();
    assert_eq!(subscribed["result"], json!({}), "{subscribed}");
    assert_eq!(session.ask("logging/setLevel", &json!({"level": "info"})).await.json()["result"], json!({}));

    session.tool("outside", &json!({})).await;
    let question = until(&mut stream, "roots/list").await;
    let roots = json!({"roots": [{"uri": "file:///mine"}]});
    assert_eq!(session.tell(&json!({"jsonrpc": "2.0", "id": question["id"], "result": roots})).await, 202);
    eventually("the server has the answer", || async {
        let seen: Value = serde_json::from_str(&text_of(&session.tool("seen", &json!({})).await)).unwrap();
        seen["seen"].as_array().unwrap().contains(&json!({"outside": roots})).then_some(())
    })
    .await;

    session.tool("update", &json!({"uri": "test://a"})).await;
    assert_eq!(until(&mut stream, "notifications/resources/updated").await["params"]["uri"], "test://a");
    session.tool("say", &json!({"text": "hello"})).await;
    assert_eq!(until(&mut stream, "notifications/message").await["params"]["data"], "hello");
    sidecar.stop().await;
}

#[tokio::test]
async fn changes_of_lists_are_told() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&["--era", "modern"])).await;
    let client = sidecar.ready_client(&mesh).await;
    let session = Session::open(&client, "2025-06-18", &able()).await;
    let mut stream = session.listen().await;
    session.tool("change", &json!({})).await;
    until(&mut stream, "notifications/tools/list_changed").await;
    let listed = session.ask("tools/list", &json!({})).await.json();
    assert!(listed.to_string().contains("\"extra0\""), "{listed}");
    sidecar.stop().await;
}

async fn until(stream: &mut outrigger_tests::Stream, method: &str) -> Value {
    loop {
        let message = stream.next().await.unwrap_or_else(|| panic!("the stream ended before {method}"));
        if message["method"] == method {
            return message;
        }
    }
}

#[tokio::test]
async fn a_session_has_its_own_server_and_only_its_own_caller() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let ada = sidecar.ready_client(&mesh).await;
    let (one, two) =
        (Session::open(&ada, "2025-06-18", &able()).await, Session::open(&ada, "2025-06-18", &able()).await);
    assert_eq!(text_of(&one.tool("count", &json!({})).await), "1");
    assert_eq!(text_of(&one.tool("count", &json!({})).await), "2");
    assert_eq!(text_of(&two.tool("count", &json!({})).await), "1");
    let bob = sidecar.client(&mesh, "bob");
    let stolen = one.through(&bob);
    assert_eq!(stolen.ask("ping", &json!({})).await.status.as_u16(), 404);
    assert_eq!(stolen.listen().await.status.as_u16(), 404);
    assert_eq!(stolen.end().await, 404);
    assert_eq!(text_of(&one.tool("count", &json!({})).await), "3");
    sidecar.stop().await;
}

#[tokio::test]
async fn policy_and_batches_are_as_at_the_ingress() {
    let mesh = Mesh::new();
    let policy = "  authorization: { rules: [ { name: some, services: [\"*\"], capabilities: [echo, p] } ] }\n";
    let sidecar = TestSidecar::with_policy(&mesh, policy, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let session = Session::open(&client, "2025-03-26", &json!({})).await;
    let listed = session.ask("tools/list", &json!({})).await.json();
    let names: Vec<_> = listed["result"]["tools"].as_array().unwrap().iter().map(|tool| &tool["name"]).collect();
    assert_eq!(names, ["echo"]);
    assert_eq!(session.tool("count", &json!({})).await["error"]["code"], -32602);
    let call = |id: u32, tool: &str| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": {}}});
    let batch = json!([call(1, "echo"), call(2, "count"), {"jsonrpc": "2.0", "method": "notifications/progress"}]);
    let reply = session.send(Method::POST, &batch.to_string()).await.rest().await;
    let mut replies: Vec<Value> = match reply.events.len() {
        0 => serde_json::from_slice(&reply.body).unwrap(),
        _ => reply.events,
    };
    replies.sort_by_key(|reply| reply["id"].as_u64());
    assert_eq!(text_of(&replies[0]), "{}");
    assert_eq!(replies[1]["error"]["code"], -32602);
    assert_eq!(sidecar.metric("outrigger_sessions_open{kind=\"client\"}").await, 1.0);
    sidecar.stop().await;
}

#[tokio::test]
async fn without_a_session_only_the_modern_revision_is_spoken() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client: Client = sidecar.ready_client(&mesh).await;
    let mut session = Session::open(&client, "2025-06-18", &able()).await;
    session.headers.remove("mcp-session-id");
    assert_eq!(session.listen().await.status.as_u16(), 405);
    assert_eq!(session.end().await, 405);
    assert_eq!(session.ask("tools/list", &json!({})).await.status.as_u16(), 400);
    let mut bare = HeaderMap::new();
    bare.insert("content-type", "application/json".parse().unwrap());
    bare.insert("accept", "application/json, text/event-stream".parse().unwrap());
    session.headers = bare;
    let reply = session.ask("tools/list", &json!({})).await;
    assert_eq!((reply.status.as_u16(), reply.error_code()), (400, -32020));
    sidecar.stop().await;
}

/// The data of the next event that has some.
async fn next(body: &mut PooledBody, parser: &mut Parser) -> String {
    loop {
        if let Some(data) = parser.next_event().unwrap().and_then(|event| event.data) {
            return String::from_utf8(data.to_vec()).unwrap();
        }
        let frame = within("an event", body.frame()).await.unwrap().unwrap();
        parser.push(frame.data_ref().unwrap());
    }
}

async fn sent(client: &Client, method: Method, path: &str, body: &Value) -> http::Response<PooledBody> {
    let body = if body.is_null() { OutBody::empty() } else { OutBody::full(body.to_string()) };
    let mut request = http::Request::new(body);
    (*request.method_mut(), *request.uri_mut()) = (method, path.parse().unwrap());
    request.headers_mut().insert("content-type", "application/json".parse().unwrap());
    request.headers_mut().insert("accept", "text/event-stream".parse().unwrap());
    client.pool.send(request).await.unwrap()
}

#[tokio::test]
async fn clients_over_http_sse_are_served_where_that_is_switched_on() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &format!("{}http_sse: true\n", backend_stdio("modern"))).await;
    let client = sidecar.ready_client(&mesh).await;
    let (mut body, mut parser) =
        (sent(&client, Method::GET, "/sse", &Value::Null).await.into_body(), Parser::new(1 << 20));
    let endpoint = next(&mut body, &mut parser).await;
    assert!(endpoint.starts_with("/messages?sessionId="), "{endpoint}");
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}});
    assert_eq!(sent(&client, Method::POST, &endpoint, &hello).await.status(), 202);
    assert!(next(&mut body, &mut parser).await.contains(r#""protocolVersion":"2024-11-05""#));
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "test_simple_text", "arguments": {}}});
    let stranger = sidecar.client(&mesh, "b");
    assert_eq!(sent(&stranger, Method::POST, &endpoint, &call).await.status(), 404, "the id proves nothing");
    assert_eq!(sent(&client, Method::POST, &endpoint, &call).await.status(), 202);
    let reply: Value = serde_json::from_str(&next(&mut body, &mut parser).await).unwrap();
    assert_eq!((&reply["id"], text_of(&reply).as_str()), (&json!(2), "This is a simple text response for testing."));
    drop(body);
    eventually("the session is over", || async {
        (sent(&client, Method::POST, &endpoint, &call).await.status() == 404).then_some(())
    })
    .await;
    sidecar.stop().await;
}

#[tokio::test]
async fn http_sse_is_off_by_default() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    assert_eq!(sent(&client, Method::GET, "/sse", &Value::Null).await.status(), 404);
    sidecar.stop().await;
}
