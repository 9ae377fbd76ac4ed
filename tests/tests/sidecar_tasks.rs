//! Tasks of a server of 2025-11-25, followed by clients of 2026-07-28: with the extension, and without.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use std::time::Duration;

use outrigger_tests::{
    Call, Client, Mesh, TestSidecar,
    http_server::{HttpServer, event, result, status, stream},
    sidecar::text_of,
    subjects::{installed, words},
    wait::within,
};
use serde_json::{Value, json};

const TOOL: &str = "simulate-research-query";
const ABLE: &str = r#"{"elicitation":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;

fn everything() -> String {
    let program = installed("npm/node_modules/.bin/mcp-server-everything");
    format!("command: {}\n", words(&[&program, "stdio"]))
}

fn research(ambiguous: bool) -> Call {
    Call::tool(TOOL, &format!(r#"{{"topic":"python","ambiguous":{ambiguous}}}"#)).capabilities(ABLE)
}

fn about(method: &str, task: &str) -> Call {
    Call::new(method).params(&format!("\"taskId\":{}", json!(task))).header("Mcp-Name", task).capabilities(ABLE)
}

async fn get(client: &Client, task: &str) -> Value {
    client.reply(&about("tasks/get", task)).await.json()["result"].clone()
}

/// Looks at a task until it is in a state.
async fn until(client: &Client, task: &str, status: &str) -> Value {
    for _ in 0..200 {
        let got = get(client, task).await;
        if got["status"] == status {
            return got;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the task does not become {status}");
}

#[tokio::test]
async fn a_task_is_made_asked_answered_and_done() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &everything()).await;
    let client = sidecar.ready_client(&mesh).await;
    let discovered = client.reply(&Call::new("server/discover")).await.json();
    let capabilities = &discovered["result"]["capabilities"];
    assert!(capabilities["extensions"]["io.modelcontextprotocol/tasks"].is_object(), "{capabilities}");
    assert!(capabilities["tasks"].is_null(), "{capabilities}");

    let made = client.reply(&research(true)).await.json();
    let made = &made["result"];
    assert_eq!((made["resultType"].as_str(), made["status"].as_str()), (Some("task"), Some("working")), "{made}");
    assert!(made["ttlMs"].is_u64() && made["pollIntervalMs"].is_u64() && made["task"].is_null(), "{made}");
    let task = made["taskId"].as_str().unwrap();

    let asking = until(&client, task, "input_required").await;
    let asked = &asking["inputRequests"]["r1"];
    assert_eq!(asked["method"], "elicitation/create", "{asking}");
    assert!(!asking.to_string().contains("related-task"), "{asking}");
    let again = get(&client, task).await;
    assert_eq!(again["inputRequests"], asking["inputRequests"], "the same question keeps its key");

    // Somebody else knows nothing of it.
    let other = sidecar.client(&mesh, "other");
    for method in ["tasks/get", "tasks/cancel", "tasks/update"] {
        assert_eq!(other.reply(&about(method, task)).await.error_code(), -32602);
        let tagged = about(method, task).meta("\"outrigger.dev/session\":\"p.else\"");
        assert_eq!(client.reply(&tagged).await.error_code(), -32602);
    }

    let answer = about("tasks/update", task)
        .params(r#""inputResponses":{"r1":{"action":"accept","content":{"interpretation":"snake"}},"zz":{}}"#);
    let seen = client.reply(&answer).await.json();
    assert_eq!(seen["result"]["resultType"], "complete", "{seen}");
    let done = until(&client, task, "completed").await;
    assert!(done["result"]["content"][0]["text"].as_str().unwrap().contains("snake"), "{done}");
    assert_eq!(get(&client, task).await["result"], done["result"], "the result can be fetched again");
    sidecar.stop().await;
}

#[tokio::test]
async fn a_client_without_the_extension_gets_the_result_itself() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &everything()).await;
    let client = sidecar.ready_client(&mesh).await;
    let call = research(true).capabilities(r#"{"elicitation":{}}"#);
    let asked = client.reply(&call).await.json();
    let result = &asked["result"];
    assert_eq!(result["resultType"], "input_required", "{asked}");
    let state = result["requestState"].as_str().unwrap();
    let retry = call.params(&format!(
        "\"inputResponses\":{{\"r1\":{{\"action\":\"accept\",\"content\":{{\"interpretation\":\"comedy\"}}}}}},\"requestState\":{}",
        json!(state)
    ));
    let done = client.reply(&retry).await.json();
    assert!(text_of(&done).contains("comedy"), "{done}");
    assert!(!done.to_string().contains("related-task"), "{done}");
    sidecar.stop().await;
}

#[tokio::test]
async fn a_listen_tells_of_the_tasks_that_it_names() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &everything()).await;
    let client = sidecar.ready_client(&mesh).await;
    let made = client.reply(&research(false)).await.json();
    let task = made["result"]["taskId"].as_str().unwrap();
    let listen = Call::new("subscriptions/listen")
        .params(&format!("\"notifications\":{{\"taskIds\":[{},\"foreign\"]}}", json!(task)));
    assert_eq!(client.reply(&listen).await.error_code(), -32021);
    let mut stream = client.open(&listen.capabilities(ABLE)).await;
    let acknowledged = stream.next().await.unwrap();
    assert_eq!(acknowledged["params"]["notifications"]["taskIds"], json!([task]), "{acknowledged}");
    let mut words = Vec::new();
    loop {
        let told = stream.next().await.unwrap();
        assert_eq!(
            (told["method"].as_str(), told["params"]["taskId"].as_str()),
            (Some("notifications/tasks"), Some(task))
        );
        words.push(told["params"]["statusMessage"].clone());
        if told["params"]["status"] == "completed" {
            assert!(told["params"]["result"]["content"].is_array(), "{told}");
            break;
        }
    }
    assert!(words.len() > 1, "its progress was told too: {words:?}");
    drop(stream);
    sidecar.stop().await;
}

#[tokio::test]
async fn a_cancelled_task_ends() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &everything()).await;
    let client = sidecar.ready_client(&mesh).await;
    let made = client.reply(&research(false)).await.json();
    let task = made["result"]["taskId"].as_str().unwrap();
    let seen = client.reply(&about("tasks/cancel", task)).await.json();
    assert_eq!(seen["result"]["resultType"], "complete", "{seen}");
    let got = get(&client, task).await;
    assert_eq!(got["status"], "cancelled", "{got}");
    // To cancel again is no error: it is a wish.
    assert_eq!(client.reply(&about("tasks/cancel", task)).await.json()["result"]["resultType"], "complete");
    assert_eq!(client.reply(&about("tasks/get", "nonsense")).await.error_code(), -32602);
    sidecar.stop().await;
}

/// The server lets go of the stream on which the result comes, and wants it to be asked for again later than the task is
/// looked at.
#[tokio::test]
async fn the_stream_of_a_result_is_taken_up_again_while_its_task_is_looked_at() {
    let server = HttpServer::start(|received| async move {
        let task = json!({"taskId": "k", "status": "working", "createdAt": "2026-01-01T00:00:00Z",
            "lastUpdatedAt": "2026-01-01T00:00:00Z", "ttl": 60000, "pollInterval": 500});
        match (received.method.as_str(), received.rpc_method().as_str()) {
            ("POST", "initialize") => {
                let able = json!({"tools": {}, "tasks": {"requests": {"tools": {"call": {}}}}});
                result(
                    &received,
                    json!({"protocolVersion": "2025-11-25", "capabilities": able, "serverInfo": {"name": "h", "version": "1"}}),
                )
            }
            ("POST", "tools/list") => result(
                &received,
                json!({"tools": [{"name": "t", "inputSchema": {}, "execution": {"taskSupport": "required"}}]}),
            ),
            ("POST", "tools/call") => result(&received, json!({ "task": task })),
            ("POST", "tasks/get") => result(&received, task),
            ("POST", "tasks/result") => {
                let (sender, response) = stream();
                let first = format!("id: {}\nretry: 700\ndata: \n\n", received.json()["id"]);
                sender.send(first.into()).await.unwrap();
                tokio::spawn(async move { sender.finish().await });
                response
            }
            ("POST", "ping") => result(&received, json!({})),
            ("GET", _) if !received.header("last-event-id").is_empty() => {
                let (sender, response) = stream();
                let id: u64 = received.header("last-event-id").parse().unwrap();
                let done = json!({"content": [{"type": "text", "text": "at last"}]});
                let done = event(&json!({"jsonrpc": "2.0", "id": id, "result": done}));
                sender.send(done).await.unwrap();
                tokio::spawn(async move { sender.finish().await });
                response
            }
            ("GET", _) => status(405),
            _ => status(202),
        }
    });
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &server.setting()).await;
    let client = sidecar.ready_client(&mesh).await;
    assert_eq!(text_of(&within("the result", client.reply(&Call::tool("t", "{}"))).await.json()), "at last");
    sidecar.stop().await;
}
