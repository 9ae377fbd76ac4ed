//! Sessions whose client and server speak the same older revision over HTTP: everything passes as it is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use http::{Method, Response, StatusCode};
use outrigger_proxy::{body::OutBody, reply};
use outrigger_tests::{
    Client, Mesh, Session, TestSidecar, eventually,
    http_server::{HttpServer, Received, error, event, result, status, stream},
    sidecar::{OPEN, text_of},
    subjects::HttpBackend,
};
use serde_json::{Value, json};

/// An answer that no translation would leave as it is.
const ODD: &str = r#"{ "result" : {"content":[ {"type":"text", "text":"\u0061", "vendor":1.50} ],"structuredContent":{"z":1e2,"a":[]}} ,"id":1,"jsonrpc":"2.0"}"#;

/// A server of older revisions: it speaks what it is asked for, `newest` at most. `other` answers what is not the handshake.
fn server<R>(newest: &'static str, other: impl Fn(Received) -> R + Clone + Send + Sync + 'static) -> HttpServer
where
    R: Future<Output = Response<OutBody>> + Send + 'static,
{
    let sessions = Arc::new(AtomicUsize::new(0));
    HttpServer::start(move |received| {
        let (other, sessions) = (other.clone(), sessions.clone());
        async move {
            match (received.method.as_str(), received.rpc_method().as_str()) {
                ("POST", "initialize") => {
                    let asked = received.json()["params"]["protocolVersion"].as_str().unwrap().to_owned();
                    let version = if asked.as_str() <= newest { asked } else { newest.to_owned() };
                    let said = json!({"protocolVersion": version, "serverInfo": {"name": "odd", "version": "1"},
                        "capabilities": {"tools": {}, "experimental": {"vendor": {"x": 1}}}});
                    let mut reply = result(&received, said);
                    let id = format!("secret-{}", sessions.fetch_add(1, Ordering::Relaxed));
                    reply.headers_mut().insert("mcp-session-id", id.parse().unwrap());
                    reply
                }
                ("POST", "ping") => result(&received, json!({})),
                ("POST", "tools/list") => {
                    result(&received, json!({"tools": [tool("t"), tool("hidden")], "nextCursor": null, "vendor": 1}))
                }
                ("POST", "notifications/initialized") => status(202),
                ("DELETE", _) => status(200),
                ("GET", _) if received.header("last-event-id").is_empty() => status(405),
                _ => other(received).await,
            }
        }
    })
}

fn tool(name: &str) -> Value {
    json!({"name": name, "inputSchema": {"type": "object"}})
}

struct Scene {
    mesh: Mesh,
    sidecar: TestSidecar,
    client: Client,
}

impl Scene {
    async fn new(policy: &str, settings: &str) -> Self {
        let mesh = Mesh::new();
        let sidecar = TestSidecar::with_policy(&mesh, policy, settings).await;
        let client = sidecar.ready_client(&mesh).await;
        Self { mesh, sidecar, client }
    }

    async fn open(&self, version: &str) -> Session {
        Session::open(&self.client, version, &json!({"elicitation": {}, "roots": {}, "experimental": {"mine": {}}}))
            .await
    }
}

/// The requests of the session that the client of a scene opened last.
fn of_client(server: &HttpServer, session: &str) -> Vec<Received> {
    server.received().into_iter().filter(|received| received.header("mcp-session-id") == session).collect()
}

#[tokio::test]
async fn messages_pass_unchanged_and_session_ids_do_not() {
    let server = server("2025-11-25", |_| async { reply::json(StatusCode::OK, ODD) });
    let scene = Scene::new(OPEN, &server.setting()).await;
    for version in ["2024-11-05", "2025-06-18", "2025-11-25"] {
        let session = scene.open(version).await;
        let greeted = server.received_of("initialize").pop().unwrap().json();
        assert_eq!(greeted["params"]["protocolVersion"], version);
        assert_eq!(greeted["params"]["capabilities"]["experimental"], json!({"mine": {}}), "as the client wrote it");
        let id = session.headers["mcp-session-id"].to_str().unwrap();
        assert!(!id.contains("secret"));
        let theirs = format!("secret-{}", server.received_of("initialize").len() - 1);

        let body = r#"{ "id":1, "jsonrpc":"2.0","method":"tools/call", "params":{"arguments":{"n":1.0},"name":"t","_meta":{"progressToken":"p","outrigger.dev/session":"c.1.2"}} }"#;
        let reply = session.send(Method::POST, body).await.rest().await;
        assert_eq!(reply.body, ODD);
        let call = of_client(&server, &theirs).pop().unwrap();
        let text = String::from_utf8(call.body.to_vec()).unwrap();
        assert!(text.starts_with(r#"{ "id":1, "jsonrpc":"2.0","method":"tools/call", "params":{"arguments":{"n":1.0},"name":"t","_meta":{"progressToken":"p""#), "{text}");
        assert!(text.contains("traceparent") && !text.contains("outrigger.dev"), "{text}");
        assert!(call.header("traceparent").starts_with("00-"));

        assert_eq!(session.ask("vendor/thing", &json!({})).await.body, ODD);
        session.end().await;
        eventually("the server's session ends", || async {
            of_client(&server, &theirs).iter().any(|r| r.method == Method::DELETE).then_some(())
        })
        .await;
        assert_eq!(session.ask("ping", &json!({})).await.status, 404);
    }
    scene.sidecar.stop().await;
}

#[tokio::test]
async fn requests_of_the_server_and_their_answers_pass_unchanged() {
    let server = server("2025-11-25", |received| async move {
        match received.rpc_method().as_str() {
            "tools/call" => {
                let (sender, response) = stream();
                let asked = json!({"jsonrpc": "2.0", "id": "a-7", "method": "vendor/ask", "params": {}});
                sender.send(event(&asked)).await.unwrap();
                let done = json!({"jsonrpc": "2.0", "id": received.json()["id"], "result": {"content": []}});
                sender.send(event(&done)).await.unwrap();
                sender.finish().await.unwrap();
                response
            }
            _ => status(202),
        }
    });
    let scene = Scene::new(OPEN, &server.setting()).await;
    let session = scene.open("2025-06-18").await;
    let mut call = session.begin("tools/call", &json!({"name": "t"})).await;
    assert_eq!(
        call.next().await.unwrap(),
        json!({"jsonrpc": "2.0", "id": "a-7", "method": "vendor/ask", "params": {}})
    );
    let answer = r#"{"jsonrpc":"2.0","id":"a-7", "result":{"n":1.0}}"#;
    assert_eq!(session.send(Method::POST, answer).await.rest().await.status, 202);
    assert!(call.next().await.unwrap()["result"].is_object());
    assert!(server.received().iter().any(|received| received.body == answer.as_bytes()), "byte for byte");
    scene.sidecar.stop().await;
}

#[tokio::test]
async fn policy_decides_each_call_and_what_lists_show() {
    let server = server("2025-11-25", |received| async move {
        let replayed = json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": [tool("t"), tool("hidden")]}});
        match received.method {
            Method::GET => {
                let (sender, response) = stream();
                sender.send(event(&replayed)).await.unwrap();
                sender.finish().await.unwrap();
                response
            }
            _ => reply::json(StatusCode::OK, ODD),
        }
    });
    let policy = "  authorization: { rules: [ { name: some, services: [\"*\"], capabilities: [t] } ] }\n  \
                  limits: [ { name: slow, per: client, capabilities: [t], rate: 1/m, burst: 1 } ]\n";
    let scene = Scene::new(policy, &server.setting()).await;
    let session = scene.open("2025-11-25").await;
    let shown = |reply: &Value| reply["result"]["tools"].as_array().unwrap().clone();
    let listed = session.ask("tools/list", &json!({})).await.json();
    assert_eq!((shown(&listed), &listed["result"]["vendor"]), (vec![tool("t")], &json!(1)));
    // Nor is it seen by who asks for the stream of that answer again.
    let mut again = session.clone();
    again.headers.insert("last-event-id", "x".parse().unwrap());
    assert_eq!(shown(&again.listen().await.next().await.unwrap()), [tool("t")]);

    let hidden = session.ask("tools/call", &json!({"name": "hidden"})).await;
    assert_eq!((hidden.status.as_u16(), hidden.error_code()), (200, -32602));
    assert_eq!(session.ask("resources/subscribe", &json!({"uri": "test://a"})).await.error_code(), -32602);
    assert_eq!(session.ask("tasks/list", &json!({})).await.error_code(), -32601);
    assert_eq!(session.ask("tools/call", &json!({"name": "t"})).await.body, ODD);
    assert_eq!(session.ask("tools/call", &json!({"name": "t"})).await.error_code(), -31429);
    assert_eq!(server.received_of("tools/call").len(), 1);
    let bob = session.through(&scene.sidecar.client(&scene.mesh, "bob"));
    assert_eq!(bob.ask("tools/call", &json!({"name": "t"})).await.status, 404);
    let calls = "outrigger_requests_total{capability=\"t\",method=\"tools/call\",outcome=\"ok\",service=\"fs\"}";
    assert_eq!(scene.sidecar.metric(calls).await, 1.0);
    scene.sidecar.stop().await;
}

#[tokio::test]
async fn a_session_that_the_server_forgets_is_over() {
    let server = server("2025-11-25", |received| async move { error(&received, 404, -32600, "who is that") });
    let scene = Scene::new(OPEN, &server.setting()).await;
    let session = scene.open("2025-11-25").await;
    for _ in 0..2 {
        assert_eq!(session.ask("tools/call", &json!({"name": "t"})).await.status, 404);
    }
    assert_eq!(server.received_of("tools/call").len(), 1);
    scene.sidecar.stop().await;
}

#[tokio::test]
async fn other_revisions_and_batches_are_translated() {
    let server = server("2025-06-18", |_| async { reply::json(StatusCode::OK, ODD) });
    let scene = Scene::new(OPEN, &server.setting()).await;
    // The server's newest is older, or the client's requests may come in batches.
    for version in ["2025-11-25", "2025-03-26"] {
        let session = scene.open(version).await;
        let reply = session.ask("tools/list", &json!({})).await.json();
        assert!(reply["result"].get("vendor").is_none(), "from our catalog: {reply}");
    }
    let session = scene.open("2025-06-18").await;
    assert_eq!(session.ask("tools/list", &json!({})).await.json()["result"]["vendor"], 1);
    scene.sidecar.stop().await;
}

#[tokio::test]
async fn a_revision_that_the_server_declines_is_asked_for_once() {
    // It speaks one revision only, whatever it is asked for.
    let server = HttpServer::legacy(|received| async move { result(&received, json!({"content": []})) });
    let scene = Scene::new(OPEN, &server.setting()).await;
    for _ in 0..3 {
        let session = scene.open("2025-06-18").await;
        assert!(session.tool("t", &json!({})).await["result"].is_object());
        session.end().await;
    }
    let asked: Vec<_> =
        server.received_of("initialize").iter().map(|r| r.json()["params"]["protocolVersion"].clone()).collect();
    assert_eq!(asked.iter().filter(|version| **version == "2025-06-18").count(), 1, "{asked:?}");
    scene.sidecar.stop().await;
}

#[tokio::test]
async fn streams_go_on_after_the_events_of_the_server() {
    let backend = HttpBackend::start("legacy").await;
    let scene = Scene::new(OPEN, &format!("upstream: {}\n", backend.url)).await;
    let session = scene.open("2025-11-25").await;
    let params = json!({"name": "test_reconnection", "arguments": {}});
    let mut call = session.begin("tools/call", &params).await;
    let id = call.next_id().await.expect("the server numbers its events");
    assert!(call.next().await.is_none(), "the server ends the stream, and nothing is added");
    let mut again = session.clone();
    again.headers.insert("last-event-id", id.parse().unwrap());
    let reply = again.listen().await.next().await.unwrap();
    assert_eq!(text_of(&reply), "Reconnection test completed successfully");
    scene.sidecar.stop().await;
}

#[tokio::test]
async fn streams_of_sessions_end_when_the_sidecar_does() {
    let backend = HttpBackend::start("legacy").await;
    let scene = Scene::new(OPEN, &format!("upstream: {}\n", backend.url)).await;
    let session = scene.open("2025-11-25").await;
    let mut heard = session.listen().await;
    assert_eq!(heard.status, 200);
    session.tool("test_trigger_tool_change", &json!({})).await;
    assert_eq!(heard.next().await.unwrap()["method"], "notifications/tools/list_changed");
    scene.sidecar.stop().await;
    assert!(heard.next().await.is_none());
}

#[tokio::test]
async fn a_list_that_comes_as_a_stream_is_waited_for_when_the_sidecar_ends() {
    let answering = Arc::new(Mutex::new(None));
    let kept = answering.clone();
    let server = server("2025-11-25", move |received| {
        let (sender, response) = stream();
        let done = json!({"jsonrpc": "2.0", "id": received.json()["id"], "result": {"prompts": [{"name": "p"}]}});
        *kept.lock().unwrap() = Some((sender, event(&done)));
        async move { response }
    });
    let scene = Scene::new(OPEN, &server.setting()).await;
    let session = scene.open("2025-11-25").await;
    let mut asked = session.begin("prompts/list", &json!({})).await;
    let at = scene.sidecar.address();
    let stopping = tokio::spawn(scene.sidecar.stop());
    eventually("it drains", || async { tokio::net::TcpStream::connect(at).await.is_err().then_some(()) }).await;
    let (sender, done) = answering.lock().unwrap().take().unwrap();
    sender.send(done).await.unwrap();
    sender.finish().await.unwrap();
    assert_eq!(asked.next().await.expect("the answer")["result"]["prompts"][0]["name"], "p");
    assert!(asked.next().await.is_none());
    stopping.await.unwrap();
}

#[tokio::test]
async fn sessions_are_limited_and_the_one_unused_for_longest_gives_way() {
    let server = server("2025-11-25", |_| async { reply::json(StatusCode::OK, ODD) });
    let settings = format!("{}limits: {{ sessions: 2, sessions_per_principal: 2 }}\n", server.setting());
    let scene = Scene::new(OPEN, &settings).await;
    let (first, second) = (scene.open("2025-11-25").await, scene.open("2025-11-25").await);
    second.tool("t", &json!({})).await;
    let third = scene.open("2025-11-25").await;
    assert_eq!(first.ask("ping", &json!({})).await.status, 404);
    for session in [second, third] {
        assert_eq!(session.ask("ping", &json!({})).await.status, 200);
    }
    eventually("the count follows", || async {
        (scene.sidecar.metric("outrigger_sessions_open{kind=\"client\"}").await == 2.0).then_some(())
    })
    .await;
    scene.sidecar.stop().await;
}
