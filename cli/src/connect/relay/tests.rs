//! A client and a mesh with a relay in between: both eras, cancellation, sessions that are lost, streams that break.

use serde_json::json;

use crate::connect::testing::{Asked, Reply, Scene};

const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

fn result(id: &str, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
}

fn event(message: &str) -> String {
    format!("event: message\ndata: {message}\n\n")
}

fn modern(id: &str, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}{META}}}}}"#)
}

/// A mesh that greets, takes notifications, and offers no stream; everything else as `more` says.
fn legacy(more: impl Fn(&Asked, usize) -> Reply + Send + Sync) -> impl Fn(&Asked, usize) -> Reply + Send + Sync {
    move |asked, count| match asked {
        asked if asked.body.contains("\"initialize\"") => {
            let session = if count == 0 { "mcp-session-id: first\r\n" } else { "mcp-session-id: second\r\n" };
            Reply::Json(200, session, result("0", r#"{"protocolVersion":"2025-11-25","capabilities":{}}"#))
        }
        asked if asked.body.contains("notifications/initialized") => Reply::Json(202, "", String::new()),
        asked if asked.method == "DELETE" => Reply::Json(200, "", String::new()),
        asked => more(asked, count),
    }
}

#[tokio::test]
async fn a_modern_call_gets_its_headers_and_every_message_of_its_stream() {
    let mut scene = Scene::new(|_, _| {
        let progress =
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}"#;
        Reply::Events(format!(": hello\n\n{}{}", event(progress), event(&result("\"x\"", "{\n\ndata: }"))))
    })
    .await;
    scene.say(&modern("\"x\"", "tools/call", r#""name":"fs__read","arguments":{},"#)).await;
    assert_eq!(scene.hear().await["method"], "notifications/progress");
    let answer = scene.hear().await;
    // An event of a wrong form ends its message, and the stream ends without a response.
    assert_eq!((&answer["id"], &answer["error"]["data"]["reason"]), (&json!("x"), &json!("stream_ended")));
    let asked = &scene.asked()[0];
    let header = |name: &str| asked.headers[name].as_str();
    assert_eq!((header("mcp-method"), header("mcp-name")), ("tools/call", "fs__read"));
    assert_eq!((header("mcp-protocol-version"), header("content-type")), ("2026-07-28", "application/json"));
    assert!(!asked.headers.contains_key("mcp-session-id"));
    scene.leave().await;
    assert!(scene.asked().iter().all(|asked| asked.method == "POST"), "there is no session to end");
}

#[tokio::test]
async fn cancelling_a_modern_call_closes_its_stream_and_no_other() {
    let mut scene = Scene::new(|asked, _| match asked.body.contains("slow") {
        true => Reply::Open(event(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#)),
        false => Reply::Json(200, "", result("2", "{}")),
    })
    .await;
    scene.say(&modern("1", "tools/call", r#""name":"slow","#)).await;
    assert_eq!(scene.hear().await["method"], "notifications/message");
    scene.say(&modern("1", "tools/call", r#""name":"slow","#)).await;
    assert_eq!(scene.hear().await["error"]["code"], -32600, "the id is in use");
    scene.say(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#).await;
    scene.closed.recv().await.unwrap();
    scene.say(&modern("2", "tools/call", r#""name":"quick","#)).await;
    assert_eq!(scene.hear().await["id"], 2, "nothing was said about the cancelled call");
    assert!(!scene.asked().iter().any(|asked| asked.body.contains("cancelled")));
    scene.leave().await;
}

#[tokio::test]
async fn a_legacy_client_has_a_session_from_its_greeting_to_its_end() {
    let mut scene = Scene::new(legacy(|asked, _| match asked {
        asked if asked.method == "GET" => {
            Reply::Open(event(r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#))
        }
        asked if asked.body.contains("tools/call") => {
            let question = r#"{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{}}"#;
            Reply::Events(event(question) + &event(&result("5", "{}")))
        }
        _ => Reply::Json(202, "", String::new()),
    }))
    .await;
    scene.say(INITIALIZE).await;
    scene.say(INITIALIZED).await;
    assert_eq!(scene.hear().await["result"]["protocolVersion"], "2025-11-25");
    assert_eq!(scene.hear().await["method"], "notifications/tools/list_changed");
    scene.say(r#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"x"}}"#).await;
    assert_eq!(scene.hear().await["method"], "elicitation/create");
    assert_eq!(scene.hear().await["id"], 5);
    scene.say(&result("\"q\"", r#"{"action":"decline"}"#)).await;
    scene.until(|asked| asked.body.contains("decline")).await;
    scene.leave().await;
    let asked = scene.asked();
    assert!(!asked[0].headers.contains_key("mcp-session-id") && !asked[0].headers.contains_key("mcp-protocol-version"));
    for asked in &asked[1..] {
        assert_eq!(
            (asked.headers["mcp-session-id"].as_str(), asked.headers["mcp-protocol-version"].as_str()),
            ("first", "2025-11-25")
        );
        assert!(!asked.headers.contains_key("mcp-method"));
    }
    assert_eq!(asked.last().unwrap().method, "DELETE");
}

#[tokio::test]
async fn a_session_that_the_mesh_forgot_is_begun_again_unnoticed() {
    let mut scene = Scene::new(legacy(|asked, _| match asked.headers["mcp-session-id"].as_str() {
        _ if asked.method == "GET" => Reply::Json(405, "", String::new()),
        "first" => {
            Reply::Json(404, "", r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"gone"}}"#.into())
        }
        _ => Reply::Json(200, "", result("1", "{}")),
    }))
    .await;
    scene.say(INITIALIZE).await;
    assert_eq!(scene.hear().await["id"], 0);
    scene.say(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#).await;
    assert_eq!(scene.hear().await, json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
    scene.leave().await;
    let asked = scene.asked();
    assert_eq!(asked.iter().filter(|asked| asked.body.contains("\"initialize\"")).count(), 2);
    assert!(asked[3].body.contains("notifications/initialized") && asked[3].headers["mcp-session-id"] == "second");
}

#[tokio::test]
async fn a_legacy_stream_that_ends_early_is_resumed() {
    let mut scene = Scene::new(legacy(|asked, _| match asked.headers.get("last-event-id") {
        None => Reply::Events("id: e1\nretry: 1\ndata: \n\n".into()),
        Some(event) if event == "e1" => Reply::Events("id: e2\ndata:\n\n".into()),
        Some(_) => Reply::Events(event(&result("1", "{}"))),
    }))
    .await;
    scene.say(INITIALIZE).await;
    assert_eq!(scene.hear().await["id"], 0);
    scene.say(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#).await;
    assert_eq!(scene.hear().await["id"], 1);
    let asked = scene.asked();
    assert_eq!((asked[2].method.as_str(), asked[3].headers["last-event-id"].as_str()), ("GET", "e2"));
    scene.leave().await;
}

#[tokio::test]
async fn failures_are_errors_of_the_request() {
    let mut scene = Scene::new(|asked, _| match &asked.body {
        body if body.contains("\"id\":1,") => Reply::Json(401, "", String::new()),
        body if body.contains("\"id\":2,") => {
            Reply::Json(400, "", r#"{"jsonrpc":"2.0","error":{"code":-32020,"message":"m"}}"#.into())
        }
        _ => Reply::Json(200, "", "no JSON".into()),
    })
    .await;
    for (request, code, text) in [
        (modern("1", "tools/list", ""), -32603, "check --token-file"),
        (modern("2", "tools/list", ""), -32020, "m"),
        (modern("3", "tools/list", ""), -32603, "status 502"),
        ("{\"jsonrpc\":".to_owned(), -32700, ""),
        ("[]".to_owned(), -32600, "batch"),
    ] {
        scene.say(&request).await;
        let error = scene.hear().await;
        assert_eq!(error["error"]["code"], code, "{request}: {error}");
        assert!(error["error"]["message"].as_str().unwrap().contains(text), "{error}");
        let id: serde_json::Value = serde_json::from_str(&request).unwrap_or_default();
        assert_eq!(error.get("id"), id.get("id"), "{error}");
    }
    scene.leave().await;
}

#[tokio::test]
async fn a_batch_of_the_revision_that_has_them_is_answered_in_one_line() {
    let mut scene = Scene::new(|asked, _| match &asked.body {
        body if body.contains("\"initialize\"") => Reply::Json(
            200,
            "mcp-session-id: s\r\n",
            result("0", r#"{"protocolVersion":"2025-03-26","capabilities":{}}"#),
        ),
        body if body.contains("\"id\":1,") => {
            let progress =
                r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}"#;
            Reply::Events(format!("{}{}", event(progress), event(&result("1", "{\"a\":1}"))))
        }
        body if body.contains("\"id\":2,") => Reply::Json(200, "", result("2", "{}")),
        _ => Reply::Json(202, "", String::new()),
    })
    .await;
    scene.say(&INITIALIZE.replace("2025-11-25", "2025-03-26")).await;
    scene.hear().await;
    let call = |id: u8| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"t"}}}}"#);
    scene.say(&format!("[{},{INITIALIZED},{},7]", call(1), call(2))).await;
    assert_eq!(scene.hear().await["method"], "notifications/progress");
    let line = scene.hear().await;
    assert_eq!((&line[0]["result"], &line[1]["id"]), (&json!({"a": 1}), &json!(2)), "{line}");
    assert_eq!((line.as_array().unwrap().len(), &line[2]["error"]["code"]), (3, &json!(-32600)));
    scene.say("[]").await;
    assert_eq!(scene.hear().await["error"]["message"], "a batch must not be empty");
    scene.leave().await;
}
