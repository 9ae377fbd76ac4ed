//! What a legacy server asks during a call becomes `input_required`, and the answers find their call again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use outrigger_proxy::body::BodySender;
use outrigger_tests::{
    Call, Client, Mesh, Reply, TestSidecar, eventually,
    http_server::{HttpServer, error, event, result, status, stream},
    sidecar::text_of,
    subjects::{HttpBackend, backend_stdio, scripted},
};
use serde_json::{Value, json};

const ABLE: &str = r#"{"elicitation":{"form":{},"url":{}},"sampling":{"tools":{}},"roots":{}}"#;

fn ask(tool: &str) -> Call {
    Call::tool(tool, "{}").capabilities(ABLE)
}

/// The retry of a call that brings answers.
fn retry(call: Call, state: &str, responses: &Value) -> Call {
    call.id(Some("\"retry\"")).params(&format!("\"inputResponses\":{responses},\"requestState\":{}", json!(state)))
}

/// Makes a call that must ask, and returns what it asks and the state.
async fn asked(client: &Client, call: &Call) -> (Value, String) {
    let reply = client.reply(call).await;
    let result = &reply.json()["result"];
    assert_eq!((reply.status.as_u16(), result["resultType"].as_str()), (200, Some("input_required")), "{result}");
    (result["inputRequests"].clone(), result["requestState"].as_str().unwrap().to_owned())
}

fn accepted(text: &str) -> Value {
    json!({"r1": {"action": "accept", "content": {"a": text}}})
}

#[tokio::test]
async fn elicitation_sampling_and_roots_park_the_call_and_resume_it() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    for (tool, method, answer) in [
        ("elicit", "elicitation/create", json!({"action": "accept", "content": {"a": 1.5}})),
        (
            "sample",
            "sampling/createMessage",
            json!({"role": "assistant", "content": {"type": "text", "text": "x"}, "model": "m"}),
        ),
        ("roots", "roots/list", json!({"roots": [{"uri": "file:///a"}]})),
    ] {
        let (requests, state) = asked(&client, &ask(tool)).await;
        assert_eq!(requests["r1"]["method"], method);
        assert!(requests["r1"]["params"].is_object());
        let done = client.reply(&retry(ask(tool), &state, &json!({ "r1": answer }))).await.json();
        assert_eq!(done["id"], "retry");
        assert_eq!(serde_json::from_str::<Value>(&text_of(&done)).unwrap(), answer);
    }
    sidecar.stop().await;
}

/// Streams of sessions, by the HTTP method that opened them and the session.
type Open = Arc<Mutex<HashMap<(String, String), Arc<BodySender>>>>;

/// A server whose tool asks on the GET stream of the session, as SDKs do that are not told for which call; what it asks
/// before that stream is open is lost. Its questions have the id of the call.
fn asks_aside() -> HttpServer {
    let (open, sessions) = (Open::default(), Arc::new(AtomicUsize::new(0)));
    HttpServer::start(move |received| {
        let (open, sessions) = (open.clone(), sessions.clone());
        async move {
            let key = |method: &str| (method.to_owned(), received.header("mcp-session-id").to_owned());
            let opened = || {
                let (sender, response) = stream();
                open.lock().unwrap().insert(key(received.method.as_str()), Arc::new(sender));
                response
            };
            let tell = async |method: &str, message: Value| {
                let sender = open.lock().unwrap().get(&key(method)).cloned();
                sender.expect("the stream is open").send(event(&message)).await.unwrap();
            };
            let id = received.json()["id"].clone();
            match (received.method.as_str(), received.rpc_method().as_str()) {
                ("GET", _) => opened(),
                (_, "initialize") => {
                    let info = json!({"name": "h", "version": "1"});
                    let greeting =
                        json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info});
                    let mut reply = result(&received, greeting);
                    let session = sessions.fetch_add(1, Ordering::Relaxed).to_string();
                    reply.headers_mut().insert("mcp-session-id", session.parse().unwrap());
                    reply
                }
                (_, "tools/list") => result(&received, json!({"tools": [{"name": "t", "inputSchema": {}}]})),
                (_, "tools/call") => {
                    let answer = opened();
                    tell("GET", json!({"jsonrpc": "2.0", "id": id, "method": "roots/list"})).await;
                    answer
                }
                ("POST", "") => {
                    let content = json!([{"type": "text", "text": received.json()["result"].to_string()}]);
                    tell("POST", json!({"jsonrpc": "2.0", "id": id, "result": {"content": content}})).await;
                    status(202)
                }
                (_, method) if method.starts_with("notifications/") => status(202),
                _ => error(&received, 200, -32601, "no such method"),
            }
        }
    })
}

#[tokio::test]
async fn a_question_beside_the_only_call_of_a_session_is_about_that_call() {
    let mesh = Mesh::new();
    let server = asks_aside();
    let sidecar = TestSidecar::start(&mesh, &server.setting()).await;
    let client = sidecar.ready_client(&mesh).await;
    let (requests, state) = asked(&client, &ask("t")).await;
    assert_eq!(requests["r1"]["method"], "roots/list");
    let done = client.reply(&retry(ask("t"), &state, &json!({"r1": {"roots": []}}))).await.json();
    assert_eq!(text_of(&done), r#"{"roots":[]}"#);
    sidecar.stop().await;
}

/// A server whose tool asks its client and, in the same breath, for a sign of life. It takes its time over each answer.
#[tokio::test]
async fn what_is_answered_beside_a_question_arrives_at_a_server_that_takes_its_time() {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let kept = taken.clone();
    let server = HttpServer::start(move |received| {
        let taken = kept.clone();
        async move {
            let said = received.json();
            match (received.method.as_str(), received.rpc_method().as_str()) {
                ("POST", "initialize") => {
                    let info = json!({"name": "h", "version": "1"});
                    let greeting =
                        json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info});
                    result(&received, greeting)
                }
                ("POST", "tools/list") => result(&received, json!({"tools": [{"name": "t", "inputSchema": {}}]})),
                ("POST", "tools/call") => {
                    let (sender, response) = stream();
                    for (id, method) in [("q", "roots/list"), ("p", "ping")] {
                        sender.send(event(&json!({"jsonrpc": "2.0", "id": id, "method": method}))).await.unwrap();
                    }
                    tokio::spawn(async move { sender.gone().await });
                    response
                }
                // Longer than the sidecar waits for further questions.
                ("POST", "") => {
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    taken.lock().unwrap().push(said["id"].clone());
                    status(202)
                }
                ("POST", method) if method.starts_with("notifications/") => status(202),
                ("POST", _) => result(&received, json!({})),
                _ => status(405),
            }
        }
    });
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &server.setting()).await;
    let client = sidecar.ready_client(&mesh).await;
    asked(&client, &ask("t")).await;
    eventually("the answer", || async { taken.lock().unwrap().contains(&json!("p")).then_some(()) }).await;
    sidecar.stop().await;
}

#[tokio::test]
async fn every_asking_tool_of_a_legacy_http_server_works() {
    let backend = HttpBackend::start("legacy").await;
    several_rounds(&format!("upstream: {}\n", backend.url)).await;
}

#[tokio::test]
async fn every_asking_tool_of_a_legacy_stdio_server_works() {
    several_rounds(&backend_stdio("legacy")).await;
}

async fn several_rounds(settings: &str) {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, settings).await;
    let client = sidecar.ready_client(&mesh).await;
    let tool = "test_input_required_result_multi_round";
    let (_, first) = asked(&client, &ask(tool)).await;
    let name = json!({"r1": {"action": "accept", "content": {"name": "Ada"}}});
    let (requests, second) = asked(&client, &retry(ask(tool), &first, &name)).await;
    assert!(requests.to_string().contains("color"), "{requests}");
    let color = json!({"r1": {"action": "accept", "content": {"color": "blue"}}});
    let done = client.reply(&retry(ask(tool), &second, &color)).await.json();
    assert_eq!(text_of(&done), "Ada likes blue");

    let tool = "test_input_required_result_multiple_inputs";
    let (requests, state) = asked(&client, &ask(tool)).await;
    let keys: Vec<&String> = requests.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["r1", "r2", "r3"], "what is asked together is passed on together");
    let answers = json!({"r1": {"action": "accept", "content": {"name": "Ada"}},
        "r2": {"role": "assistant", "content": {"type": "text", "text": "hi"}, "model": "m"}, "r3": {"roots": []}});
    assert_eq!(text_of(&client.reply(&retry(ask(tool), &state, &answers)).await.json()), "all inputs received");

    // Progress came first, so the question ends an event stream.
    let reply = client.reply(&ask("test_streaming_elicitation").meta(r#""progressToken":1"#)).await;
    assert_eq!(reply.events.len(), 2, "{:?}", reply.events);
    let state = reply.json()["result"]["requestState"].as_str().unwrap().to_owned();
    let name = json!({"r1": {"action": "accept", "content": {"name": "Ada"}}});
    assert_eq!(text_of(&client.reply(&retry(ask("test_streaming_elicitation"), &state, &name)).await.json()), "done");
    sidecar.stop().await;
}

#[tokio::test]
async fn a_missing_answer_is_asked_for_again_without_losing_the_others() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let (requests, state) = asked(&client, &ask("both")).await;
    let roots = requests.as_object().unwrap().iter().find(|(_, r)| r["method"] == "roots/list").unwrap().0.clone();
    let other = if roots == "r1" { "r2" } else { "r1" };
    let partial = json!({ roots.as_str(): {"roots": []}, "unknown": {} });
    let (again, state) = asked(&client, &retry(ask("both"), &state, &partial)).await;
    assert_eq!(again.as_object().unwrap().keys().collect::<Vec<_>>(), [other]);
    let rest = json!({ other: {"action": "decline"} });
    let done = client.reply(&retry(ask("both"), &state, &rest)).await.json();
    assert_eq!(text_of(&done), r#"{"e": {"action": "decline"}, "r": {"roots": []}}"#);
    sidecar.stop().await;
}

#[tokio::test]
async fn state_that_is_replayed_forged_stolen_or_bent_is_refused() {
    let mesh = Mesh::new();
    let settings = scripted(&[]);
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let client = sidecar.ready_client(&mesh).await;
    let (_, state) = asked(&client, &ask("elicit")).await;
    let refused = |reply: Reply| assert_eq!((reply.status.as_u16(), reply.error_code()), (200, -32602), "{reply:?}");

    let mut forged = state.clone().into_bytes();
    let at = forged.len() / 2;
    forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    for wrong in [forged.as_str(), "", "x", "%%%"] {
        refused(client.reply(&retry(ask("elicit"), wrong, &accepted("x"))).await);
    }
    let stranger = sidecar.client(&mesh, "stranger");
    refused(stranger.reply(&retry(ask("elicit"), &state, &accepted("stolen"))).await);
    let changed = Call::tool("elicit", r#"{"other":1}"#).capabilities(ABLE);
    refused(client.reply(&retry(changed, &state, &accepted("x"))).await);
    refused(client.reply(&retry(ask("roots"), &state, &accepted("x"))).await);

    // None of these took the call away from its owner.
    let done = client.reply(&retry(ask("elicit"), &state, &accepted("mine"))).await;
    assert!(text_of(&done.json()).contains("mine"));
    let replay = client.reply(&retry(ask("elicit"), &state, &accepted("again"))).await;
    assert!(matches!(replay.error_code(), -32602 | -32603), "a replay is refused and runs nothing: {replay:?}");
    sidecar.stop().await;
}

#[tokio::test]
async fn a_call_that_another_replica_parked_is_not_run_here() {
    let mesh = Mesh::new();
    let (here, there) =
        (TestSidecar::start(&mesh, &scripted(&[])).await, TestSidecar::start(&mesh, &scripted(&[])).await);
    let (client, other) = (here.ready_client(&mesh).await, there.ready_client(&mesh).await);
    let (_, state) = asked(&client, &ask("elicit")).await;
    let id = |health: Value| health["replica"].as_str().unwrap().to_owned();
    let (mine, theirs) = (id(here.health().await), id(there.health().await));
    assert_eq!(state.split_once('.').unwrap().0, mine, "the state says where to go");

    let stray = other.reply(&retry(ask("elicit"), &state, &accepted("x"))).await;
    assert_eq!((stray.status.as_u16(), stray.error_code()), (200, -32603), "{stray:?}");
    assert_eq!(stray.json()["error"]["data"]["reason"], "interaction");
    // The part in the clear is sealed too: it cannot be exchanged.
    let renamed = state.replace(&mine, &theirs);
    assert_eq!(other.reply(&retry(ask("elicit"), &renamed, &accepted("x"))).await.error_code(), -32602);
    assert_eq!(client.reply(&retry(ask("elicit"), &renamed, &accepted("x"))).await.error_code(), -32603);
    let done = client.reply(&retry(ask("elicit"), &state, &accepted("mine"))).await;
    assert!(text_of(&done.json()).contains("mine"));
    here.stop().await;
    there.stop().await;
}

#[tokio::test]
async fn what_a_client_cannot_answer_is_refused_by_name() {
    let mesh = Mesh::new();
    // A server that asks whatever the client declared.
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let reply = client.reply(&Call::tool("elicit", "{}")).await;
    assert_eq!((reply.status.as_u16(), reply.error_code()), (400, -32021));
    assert_eq!(reply.json()["error"]["data"]["requiredCapabilities"], json!({"elicitation": {}}));
    let reply = client.reply(&Call::tool("elicit", "{}").capabilities(r#"{"elicitation":{"url":{}}}"#)).await;
    assert_eq!((reply.status.as_u16(), reply.error_code()), (400, -32021));
    assert_eq!(reply.json()["error"]["data"]["requiredCapabilities"], json!({"elicitation": {"form": {}}}));
    // An empty declaration means forms alone, and the server's own error says what else is needed.
    let reply = client.reply(&Call::tool("url", "{}").capabilities(r#"{"elicitation":{}}"#)).await;
    assert_eq!(reply.error_code(), -32042);
    sidecar.stop().await;
}

#[tokio::test]
async fn a_legacy_server_learns_what_the_caller_declared() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    for declared in ["{}", r#"{"sampling":{}}"#] {
        let call = Call::tool("seen", "{}").capabilities(declared);
        let seen: Value = serde_json::from_str(&text_of(&client.reply(&call).await.json())).unwrap();
        assert_eq!(seen["client"]["capabilities"], serde_json::from_str::<Value>(declared).unwrap());
    }
    sidecar.stop().await;
}

#[tokio::test]
async fn an_error_that_asks_for_a_visit_becomes_a_question_and_the_retry_calls_again() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let url = Call::tool("url", "{}").capabilities(r#"{"elicitation":{"url":{}}}"#);
    let reply = client.reply(&url).await.json();
    let result = &reply["result"];
    assert_eq!(result["resultType"], "input_required", "{reply}");
    let params = &result["inputRequests"]["r1"]["params"];
    assert_eq!((params["mode"].as_str(), params["url"].as_str()), (Some("url"), Some("https://example.com/login")));
    assert!(params.get("elicitationId").is_none());
    let mut again = url.params(r#""inputResponses":{"r1":{"action":"accept"}}"#);
    if let Some(state) = result["requestState"].as_str() {
        again = again.params(&format!("\"requestState\":{}", json!(state)));
    }
    assert_eq!(text_of(&client.reply(&again).await.json()), "welcome");
    sidecar.stop().await;
}

#[tokio::test]
async fn the_session_of_a_legacy_client_gets_the_error_that_asks_for_a_visit_as_it_is() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let url = Call::tool("url", "{}")
        .meta(r#""outrigger.dev/session":"c.1.ada""#)
        .capabilities(r#"{"elicitation":{"url":{}}}"#);
    let reply = client.reply(&url).await;
    assert_eq!(reply.error_code(), -32042, "{reply:?}");
    assert_eq!(reply.json()["error"]["data"]["elicitations"][0]["elicitationId"], "e1");
    assert_eq!(text_of(&client.reply(&url).await.json()), "welcome");
    sidecar.stop().await;
}

#[tokio::test]
async fn two_calls_of_one_caller_that_ask_are_not_confused() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let (_, first) = asked(&client, &ask("elicit")).await;
    let (_, second) = asked(&client, &ask("elicit")).await;
    let two = client.reply(&retry(ask("elicit"), &second, &accepted("two"))).await.json();
    let one = client.reply(&retry(ask("elicit"), &first, &accepted("one"))).await.json();
    assert!(text_of(&two).contains("two") && text_of(&one).contains("one"), "{one} {two}");
    sidecar.stop().await;
}

#[tokio::test]
async fn a_question_that_cannot_be_tied_to_a_call_is_refused_to_the_server() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    for (tool, reply) in [("outside", "later"), ("astray", "gone on")] {
        assert_eq!(text_of(&client.reply(&ask(tool)).await.json()), reply);
        if tool == "outside" {
            // A call that is at work when the server asks would be taken for the one that the question is about.
            let refused = r#"outrigger_upstream_errors_total{kind="stray",service="fs"} 1"#;
            eventually("it is refused", || async { sidecar.admin("/metrics").await.1.contains(refused).then_some(()) })
                .await;
        }
        let seen = eventually("the server got its answer", || async {
            let seen: Value = serde_json::from_str(&text_of(&client.reply(&ask("seen")).await.json())).unwrap();
            seen["seen"].as_array().unwrap().iter().find_map(|s| s.get(tool).cloned())
        })
        .await;
        assert_eq!(seen["error"]["code"], -32601, "{tool}: {seen}");
    }
    sidecar.stop().await;
}

#[tokio::test]
async fn a_parked_call_whose_server_dies_is_over_and_never_run_again() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let (_, state) = asked(&client, &ask("elicit")).await;
    let died = client.reply(&ask("die")).await;
    assert_eq!(died.json()["error"]["data"]["service"], "fs");
    let late = client.reply(&retry(ask("elicit"), &state, &accepted("late"))).await;
    assert!(late.json()["error"].is_object(), "{late:?}");
    assert_eq!(late.json()["error"]["code"], -32603, "{late:?}");
    sidecar.stop().await;
}
