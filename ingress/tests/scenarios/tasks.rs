//! Tasks that a listen names: at which replica it is listened for them, and what becomes of their names.

use serde_json::{Value, json};

use crate::fake::{Fake, health, per_caller};
use crate::mesh::{Client, Events, Mesh, POLICY, eventually};

const REPLICA: &str = "0123456789abcdef";
const QUICK: &str = "timeouts: { list_changed_coalesce: 50ms, keepalive: 10s }";

/// A service with one resource that others have too.
fn service(replica: &str) -> Value {
    let capabilities = json!({ "resources": {} });
    let mut health = health(json!({ "resources": [{ "uri": "n:///x", "name": "x" }], "capabilities": capabilities }));
    health["replica"] = json!(replica);
    health
}

fn handle(id: &str) -> String {
    format!("{REPLICA}.seal~{id}")
}

/// What a client that knows tasks says of itself.
fn able() -> Value {
    let able = json!({ "extensions": { "io.modelcontextprotocol/tasks": {} } });
    json!({ "io.modelcontextprotocol/clientCapabilities": able })
}

async fn listen(client: &Client, path: &str, ids: &[String]) -> Events {
    let params = json!({ "notifications": { "taskIds": ids }, "_meta": able() });
    let response = client.open(client.request(path, "subscriptions/listen", params)).await;
    assert_eq!(response.status(), 200);
    Events::of(response)
}

/// A notification of a service, with a result that names a resource once the task is over.
fn news(id: &str, status: &str) -> Value {
    let mut params = json!({ "taskId": handle(id), "status": status,
        "_meta": { "io.modelcontextprotocol/subscriptionId": "1" } });
    if status == "completed" {
        params["result"] = json!({ "content": [{ "type": "resource_link", "uri": "n:///x", "name": "x" }] });
    }
    json!({ "jsonrpc": "2.0", "method": "notifications/tasks", "params": params })
}

async fn fed(fake: &Fake) {
    eventually("the feeder", || async { fake.state.stream.receiver_count() == 1 }).await;
}

#[tokio::test]
async fn names_of_tasks_lead_to_their_service_and_back() {
    let mesh = Mesh::with(&[("a", service(REPLICA)), ("b", service("fedcba9876543210"))], POLICY, QUICK).await;
    let ids: Vec<String> = ["a~", "b~", "c~", ""].iter().map(|service| format!("{service}{}", handle("1"))).collect();
    let mut events = listen(&mesh.client, "/mcp", &ids).await;
    let first = events.next().await.unwrap();
    // At b nobody is the replica that it names; the fake at a claims whatever it is asked for.
    assert_eq!(first["params"]["notifications"], json!({ "taskIds": [ids[0]] }), "{first}");
    assert_eq!(mesh.fake("a").seen()[0].body["params"]["notifications"]["taskIds"], json!([handle("1")]));
    assert!(mesh.fake("b").seen().is_empty());
    fed(mesh.fake("a")).await;
    mesh.fake("a").say(&news("2", "completed"));
    mesh.fake("a").say(&news("1", "working"));
    mesh.fake("a").say(&news("1", "completed"));
    let told = events.next().await.unwrap();
    assert_eq!((&told["params"]["taskId"], &told["params"]["status"]), (&json!(ids[0]), &json!("working")));
    assert_eq!(told["params"]["_meta"], json!({ "io.modelcontextprotocol/subscriptionId": "q1" }));
    let told = events.next().await.unwrap();
    assert_eq!(told["params"]["result"]["content"][0]["uri"], "a+n:///x", "both services have it: {told}");
    // The fake notices that nobody listens any more when it says something.
    eventually("nobody listens for a task that is over", || async {
        mesh.fake("a").state.stream.send(Some(":\n\n".into())).is_err()
    })
    .await;
    let seen = mesh.client.ask("/mcp", "tasks/get", json!({ "taskId": ids[0] })).await.json();
    assert_eq!(seen["result"]["taskId"], json!(ids[0]));
    assert_eq!(seen["result"]["result"]["content"][0]["uri"], "a+n:///x", "{seen}");
}

#[tokio::test]
async fn resources_that_only_the_caller_is_listed_twice_are_told_apart() {
    let own =
        per_caller(json!({ "resources": [{ "uri": "n:///x", "name": "x" }], "capabilities": { "resources": {} } }));
    let mesh = Mesh::with(&[("a", service(REPLICA)), ("b", own)], POLICY, QUICK).await;
    let listed = mesh.client.ask("/mcp", "resources/list", json!({ "_meta": able() })).await.json();
    let uris: Vec<_> = listed["result"]["resources"].as_array().unwrap().iter().map(|one| &one["uri"]).collect();
    assert_eq!(uris, ["a+n:///x", "b+n:///x"], "{listed}");
    let mut events = listen(&mesh.client, "/mcp", &[format!("a~{}", handle("1"))]).await;
    events.next().await.unwrap();
    fed(mesh.fake("a")).await;
    mesh.fake("a").say(&news("1", "completed"));
    let told = events.next().await.unwrap();
    assert_eq!(told["params"]["result"]["content"][0]["uri"], "a+n:///x", "{told}");
}

#[tokio::test]
async fn one_service_keeps_its_own_names() {
    let mesh = Mesh::with(&[("a", service(REPLICA)), ("b", service("fedcba9876543210"))], POLICY, QUICK).await;
    let mut events = listen(&mesh.client, "/s/a/mcp", &[handle("1")]).await;
    let first = events.next().await.unwrap();
    assert_eq!(first["params"]["notifications"], json!({ "taskIds": [handle("1")] }), "{first}");
    fed(mesh.fake("a")).await;
    mesh.fake("a").say(&news("1", "completed"));
    let told = events.next().await.unwrap();
    assert_eq!(told["params"]["taskId"], json!(handle("1")));
    assert_eq!(told["params"]["result"]["content"][0]["uri"], "n:///x");
}

#[tokio::test]
async fn what_is_missed_while_a_service_is_away_is_asked_for() {
    let mut mesh = Mesh::with(&[("a", service(REPLICA))], POLICY, QUICK).await;
    let id = format!("a~{}", handle("1"));
    let mut events = listen(&mesh.client, "/mcp", std::slice::from_ref(&id)).await;
    events.next().await;
    let address = mesh.fakes.remove("a").unwrap().kill().await;
    let _back = Fake::at("a", mesh.credentials("a"), service(REPLICA), address).await;
    let told = events.next().await.unwrap();
    assert_eq!((&told["method"], &told["params"]["taskId"]), (&json!("notifications/tasks"), &json!(id)));
    assert_eq!(told["params"]["status"], "completed");
    assert!(told["params"].get("resultType").is_none(), "{told}");
}

#[tokio::test]
async fn a_new_policy_ends_the_news_of_a_service() {
    let mesh = Mesh::with(&[("a", service(REPLICA)), ("b", service("fedcba9876543210"))], POLICY, QUICK).await;
    let ids = [format!("a~{}", handle("1")), format!("b~{}", handle("1").replace(REPLICA, "fedcba9876543210"))];
    let bob = listen(&mesh.client.as_bob(), "/mcp", &ids).await.next().await.unwrap();
    assert_eq!(bob["params"]["notifications"], json!({ "taskIds": [ids[0]] }), "b is none of his");
    let mut ada = listen(&mesh.client, "/mcp", &ids).await;
    assert_eq!(ada.next().await.unwrap()["params"]["notifications"], json!({ "taskIds": ids }));
    fed(mesh.fake("b")).await;
    std::fs::write(mesh.path("policy.yaml"), POLICY.replace("services: [\"*\"]", "services: [a]")).unwrap();
    eventually("ada may use b no longer", || async {
        mesh.client.ask("/s/b/mcp", "server/discover", json!({})).await.status == 404
    })
    .await;
    let mut of_b = news("1", "working");
    of_b["params"]["taskId"] = json!(handle("1").replace(REPLICA, "fedcba9876543210"));
    mesh.fake("b").say(&of_b);
    mesh.fake("a").say(&news("1", "working"));
    assert_eq!(ada.next().await.unwrap()["params"]["taskId"], json!(ids[0]));
}
