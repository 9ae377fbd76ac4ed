//! Tasks through ingresses and sidecars: on the merged endpoint, for clients and servers of both forms.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use std::time::Duration;

use outrigger_tests::{
    Call, Client, Mesh, Session, TestIngress, TestSidecar,
    http_server::{HttpServer, Received, result},
    subjects::{installed, words},
};
use serde_json::{Value, json};

const ABLE: &str = r#"{"elicitation":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;

fn everything() -> String {
    let program = installed("npm/node_modules/.bin/mcp-server-everything");
    format!("command: {}\n", words(&[&program, "stdio"]))
}

fn about(method: &str, task: &str) -> Call {
    Call::new(method).params(&format!("\"taskId\":{}", json!(task))).header("Mcp-Name", task).capabilities(ABLE)
}

async fn until(client: &Client, task: &str, status: &str) -> Value {
    for _ in 0..200 {
        let got = client.reply(&about("tasks/get", task)).await.json()["result"].clone();
        if got["status"] == status {
            return got;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the task does not become {status}");
}

#[tokio::test]
async fn a_task_is_found_through_any_ingress_at_the_replica_that_has_it() {
    let mesh = Mesh::new();
    let sidecars = [TestSidecar::start(&mesh, &everything()).await, TestSidecar::start(&mesh, &everything()).await];
    for sidecar in &sidecars {
        sidecar.ready_client(&mesh).await;
    }
    let all = sidecars.each_ref().map(TestSidecar::address);
    let (one, two) = (TestIngress::start(&mesh, &all, "").await, TestIngress::start(&mesh, &all, "").await);
    let discovered = one.client.reply(&Call::new("server/discover")).await.json();
    let extensions = &discovered["result"]["capabilities"]["extensions"];
    assert!(extensions["io.modelcontextprotocol/tasks"].is_object(), "{discovered}");
    let call = Call::tool("fs__simulate-research-query", r#"{"topic":"x"}"#).capabilities(ABLE);
    let made = one.client.reply(&call).await.json();
    let task = made["result"]["taskId"].as_str().unwrap_or_else(|| panic!("{made}"));
    assert!(task.starts_with("fs~"), "{task}");
    let done = until(&two.client, task, "completed").await;
    assert_eq!(done["taskId"], task);
    assert!(done["result"]["content"].is_array(), "{done}");
    for wrong in [&task.replace("fs~", "no~"), "fs~x", "x", &task.replace('~', "")] {
        assert_eq!(one.client.reply(&about("tasks/get", wrong)).await.error_code(), -32602, "{wrong}");
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_listen_at_the_merged_endpoint_tells_of_tasks_wherever_they_are() {
    let mesh = Mesh::new();
    let sidecars = [TestSidecar::start(&mesh, &everything()).await, TestSidecar::of(&mesh, "lab", &everything()).await];
    for sidecar in &sidecars {
        sidecar.health_where("its catalog", |health| health["catalog"].is_object()).await;
    }
    let services = [("fs", vec![sidecars[0].address()]), ("lab", vec![sidecars[1].address()])];
    let one = TestIngress::over(&mesh, &services, "").await;
    let other = TestIngress::over(&mesh, &services, "").await;
    let mut ids = Vec::new();
    for tool in ["fs__simulate-research-query", "lab__simulate-research-query"] {
        let made = one.client.reply(&Call::tool(tool, r#"{"topic":"x"}"#).capabilities(ABLE)).await.json();
        ids.push(made["result"]["taskId"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned());
    }
    let foreign = ids[0].replace("fs~", "lab~");
    let named = json!({"taskIds": [ids[0], "nothing", foreign, ids[1], "no~x"]});
    let listen = Call::new("subscriptions/listen").params(&format!("\"notifications\":{named}"));
    assert_eq!(other.client.reply(&listen).await.error_code(), -32021);
    let mut stream = other.client.open(&listen.id(Some("7")).capabilities(ABLE)).await;
    let acknowledged = stream.next().await.unwrap();
    assert_eq!(acknowledged["params"]["notifications"], json!({"taskIds": ids}), "{acknowledged}");
    let mut open = ids.clone();
    while !open.is_empty() {
        let told = stream.next().await.unwrap();
        assert_eq!(told["method"], "notifications/tasks", "{told}");
        assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 7, "{told}");
        let task = told["params"]["taskId"].as_str().unwrap();
        assert!(ids.iter().any(|id| id == task), "{told}");
        if told["params"]["status"] == "completed" {
            assert!(told["params"]["result"]["content"].is_array(), "{told}");
            open.retain(|id| id != task);
        }
    }
    drop(stream);
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_client_of_2025_11_25_has_tasks_of_its_own_kind() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &everything()).await;
    sidecar.ready_client(&mesh).await;
    let ingress = TestIngress::start(&mesh, &[sidecar.address()], "").await;
    let session = Session::open(&ingress.client, "2025-11-25", &json!({})).await;
    let call = json!({"name": "fs__simulate-research-query", "arguments": {"topic": "x"}, "task": {"ttl": 60000}});
    let made = session.ask("tools/call", &call).await.json();
    let task = &made["result"]["task"];
    assert!(task["ttl"].is_u64() && task["status"] == "working" && task["ttlMs"].is_null(), "{made}");
    let id = json!({"taskId": task["taskId"]});
    let got = session.ask("tasks/get", &id).await.json();
    assert_eq!((&got["result"]["taskId"], &got["result"]["status"]), (&task["taskId"], &json!("working")), "{got}");
    let reply = session.ask("tasks/result", &id).await;
    let done = reply.json();
    assert!(done["result"]["content"].is_array(), "{done}");
    assert_eq!(done["result"]["_meta"]["io.modelcontextprotocol/related-task"], id, "{done}");
    assert!(reply.events.iter().any(|event| event["method"] == "notifications/tasks/status"), "{reply:?}");

    // A tool that answers at once: the answer is a task that is over.
    let echo = json!({"name": "fs__echo", "arguments": {"message": "hello"}, "task": {}});
    let made = session.ask("tools/call", &echo).await.json();
    let mirror = &made["result"]["task"];
    assert_eq!(mirror["status"], "completed", "{made}");
    let id = json!({"taskId": mirror["taskId"]});
    assert_eq!(session.ask("tasks/get", &id).await.json()["result"], *mirror);
    let answer = session.ask("tasks/result", &id).await.json();
    assert_eq!(answer["result"]["content"][0]["text"], "Echo: hello", "{answer}");
    assert_eq!(session.ask("tasks/cancel", &id).await.error_code(), -32602);

    let listed = session.ask("tasks/list", &json!({})).await.json();
    assert_eq!(listed["result"]["tasks"].as_array().unwrap().len(), 2, "{listed}");
    let call = session.ask("tools/call", &call).await.json();
    let id = json!({"taskId": call["result"]["task"]["taskId"]});
    let cancelled = session.ask("tasks/cancel", &id).await.json();
    assert_eq!(cancelled["result"]["status"], "cancelled", "{cancelled}");
    assert_eq!(session.ask("tasks/get", &json!({"taskId": "nonsense"})).await.error_code(), -32602);
    ingress.stop().await;
    sidecar.stop().await;
}

/// A modern server whose tool is always a task, which is done when it is looked at.
fn modern() -> HttpServer {
    HttpServer::modern(|received: Received| async move {
        let asked = received.json();
        match received.rpc_method().as_str() {
            "tools/call" => result(
                &received,
                json!({"resultType": "task", "taskId": "t1", "status": "working", "createdAt": "c", "lastUpdatedAt": "l", "ttlMs": null}),
            ),
            _ => result(
                &received,
                json!({"resultType": "complete", "taskId": asked["params"]["taskId"], "status": "completed", "createdAt": "c",
                       "lastUpdatedAt": "l", "ttlMs": null, "result": {"content": [], "header": received.header("mcp-name")}}),
            ),
        }
    })
}

#[tokio::test]
async fn a_modern_servers_tasks_pass_with_other_names() {
    let mesh = Mesh::new();
    let server = modern();
    let sidecar = TestSidecar::start(&mesh, &server.setting()).await;
    let direct = sidecar.ready_client(&mesh).await;
    let ingress = TestIngress::start(&mesh, &[sidecar.address()], "").await;
    let made = ingress.client.reply(&Call::tool("fs__t", "{}").capabilities(ABLE)).await.json();
    let task = made["result"]["taskId"].as_str().unwrap_or_else(|| panic!("{made}"));
    assert!(task.starts_with("fs~") && task.ends_with("~t1"), "{task}");
    let done = until(&ingress.client, task, "completed").await;
    assert_eq!(done["taskId"], task);
    assert_eq!(done["result"]["header"], "t1", "the header says the same as the body: {done}");
    // It is the anonymous client's, not that of the workload which found its name.
    let handle = task.strip_prefix("fs~").unwrap();
    assert_eq!(direct.reply(&about("tasks/get", handle)).await.error_code(), -32602);
    assert_eq!(direct.reply(&about("tasks/get", "t1")).await.error_code(), -32602);

    let session = Session::open(&ingress.client, "2025-11-25", &json!({})).await;
    let made = session.ask("tools/call", &json!({"name": "fs__t", "arguments": {}, "task": {}})).await.json();
    let id = json!({"taskId": made["result"]["task"]["taskId"]});
    let done = session.ask("tasks/result", &id).await.json();
    assert!(done["result"]["content"].is_array(), "{made} {done}");
    let old = Session::open(&ingress.client, "2025-06-18", &json!({})).await;
    let plain = old.ask("tools/call", &json!({"name": "fs__t", "arguments": {}})).await.json();
    assert!(plain["error"].is_object(), "it cannot follow a task: {plain}");
    ingress.stop().await;
    sidecar.stop().await;
}
