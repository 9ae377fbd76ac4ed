//! `subscriptions/listen`: changes of what the caller sees, and of resources.

use std::time::Duration;

use serde_json::{Value, json};

use crate::fake::{Fake, health, tools};
use crate::mesh::{Client, Events, Mesh, POLICY, eventually};

const QUICK: &str = "timeouts: { list_changed_coalesce: 50ms, keepalive: 10s }";

async fn listen(client: &Client, path: &str, filter: Value) -> Events {
    let response = client.open(client.request(path, "subscriptions/listen", json!({ "notifications": filter }))).await;
    assert_eq!(response.status(), 200);
    Events::of(response)
}

const ALL: &str = r#"{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true}"#;

fn all() -> Value {
    serde_json::from_str(ALL).unwrap()
}

#[tokio::test]
async fn the_honoured_part_is_acknowledged_first() {
    let mesh = Mesh::with(&[("a", health(tools(&["read"])))], POLICY, QUICK).await;
    let filter =
        json!({ "toolsListChanged": true, "promptsListChanged": false, "resourceSubscriptions": ["file:///none"] });
    let mut events = listen(&mesh.client, "/mcp", filter).await;
    let first = events.next().await.unwrap();
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(first["params"]["notifications"], json!({ "toolsListChanged": true, "resourceSubscriptions": [] }));
    assert_eq!(first["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "q1");
    let missing = mesh.client.ask("/mcp", "subscriptions/listen", json!({})).await;
    assert_eq!(missing.json()["error"]["code"], -32602);
}

#[tokio::test]
async fn changes_of_what_the_caller_sees_are_told() {
    let mesh = Mesh::with(&[("a", health(tools(&["read"])))], POLICY, QUICK).await;
    let mut ada = listen(&mesh.client, "/mcp", all()).await;
    let mut bob = listen(&mesh.client.as_bob(), "/mcp", all()).await;
    ada.next().await;
    bob.next().await;
    // Bob sees nothing of the first change, so the second is the first that he is told of.
    mesh.fake("a").publish(health(tools(&["read", "write"])));
    let told = ada.next().await.unwrap();
    assert_eq!(told["method"], "notifications/tools/list_changed");
    assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "q1");
    assert_eq!(mesh.client.tools().await, ["a__read", "a__write"]);
    let mut second = tools(&["read", "write"]);
    second["prompts"] = json!([{ "name": "read-me" }]);
    mesh.fake("a").publish(health(second));
    assert_eq!(bob.next().await.unwrap()["method"], "notifications/prompts/list_changed");
    assert_eq!(ada.next().await.unwrap()["method"], "notifications/prompts/list_changed");
}

#[tokio::test]
async fn lists_that_flap_are_told_of_once_a_second() {
    let mesh = Mesh::with(&[("a", health(tools(&["read"])))], POLICY, QUICK).await;
    let mut ada = listen(&mesh.client, "/mcp", all()).await;
    ada.next().await;
    let begun = tokio::time::Instant::now();
    mesh.fake("a").publish(health(tools(&["read", "write"])));
    ada.next().await.unwrap();
    mesh.fake("a").publish(health(tools(&["read"])));
    ada.next().await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_token_that_is_taken_away_ends_its_listens() {
    let mesh = Mesh::with(&[("a", health(tools(&["read"])))], POLICY, QUICK).await;
    let mut ada = listen(&mesh.client, "/mcp", all()).await;
    let mut bob = listen(&mesh.client.as_bob(), "/mcp", all()).await;
    ada.next().await;
    bob.next().await;
    let tokens = std::fs::read_to_string(mesh.path("tokens.yaml")).unwrap();
    let others: Vec<_> = tokens.lines().filter(|line| !line.contains("bob")).collect();
    std::fs::write(mesh.path("tokens.yaml"), others.join("\n")).unwrap();
    assert_eq!(bob.next().await.unwrap()["result"]["resultType"], "complete");
    assert_eq!(bob.next().await, None);
    mesh.fake("a").publish(health(tools(&["read", "write"])));
    assert_eq!(ada.next().await.unwrap()["method"], "notifications/tools/list_changed");
}

#[tokio::test]
async fn only_what_was_asked_for_is_told() {
    let mesh = Mesh::with(&[("a", health(tools(&["read"])))], POLICY, QUICK).await;
    let mut events = listen(&mesh.client, "/mcp", json!({ "promptsListChanged": true })).await;
    events.next().await;
    let mut both = tools(&["read", "write"]);
    both["prompts"] = json!([{ "name": "p" }]);
    mesh.fake("a").publish(health(both));
    assert_eq!(events.next().await.unwrap()["method"], "notifications/prompts/list_changed");
    mesh.fake("a").publish(health(tools(&["read"])));
    assert_eq!(events.next().await.unwrap()["method"], "notifications/prompts/list_changed");
}

#[tokio::test]
async fn a_new_policy_changes_what_is_seen() {
    let mesh = Mesh::with(&[("a", health(tools(&["read", "write"])))], POLICY, QUICK).await;
    let mut bob = listen(&mesh.client.as_bob(), "/mcp", all()).await;
    bob.next().await;
    std::fs::write(mesh.path("policy.yaml"), POLICY.replace("\"read*\"", "\"read*\", \"write\"")).unwrap();
    assert_eq!(bob.next().await.unwrap()["method"], "notifications/tools/list_changed");
    assert_eq!(mesh.client.as_bob().tools().await, ["a__read", "a__write"]);
}

fn notes(uris: &[&str]) -> Value {
    let list: Vec<_> = uris.iter().map(|uri| json!({ "uri": uri, "name": uri })).collect();
    health(json!({ "resources": list, "capabilities": { "resources": { "subscribe": true } } }))
}

#[tokio::test]
async fn updates_of_resources_come_from_their_service() {
    let mut mesh = Mesh::with(&[("a", notes(&["n:///x"])), ("b", notes(&["n:///x", "n:///y"]))], POLICY, QUICK).await;
    let wanted = json!(["b+n:///x", "n:///y", "n:///x", "zzz+n:///x"]);
    let mut events = listen(&mesh.client, "/mcp", json!({ "resourceSubscriptions": wanted })).await;
    let first = events.next().await.unwrap();
    let honoured = first["params"]["notifications"]["resourceSubscriptions"].clone();
    assert_eq!(honoured, json!(["b+n:///x", "n:///y"]), "neither the ambiguous nor the unknown one");
    eventually("the listen at the service", || async { mesh.fake("b").seen().len() == 1 }).await;
    let asked = mesh.fake("b").seen()[0].body["params"]["notifications"].clone();
    assert_eq!(asked["resourceSubscriptions"], json!(["n:///x", "n:///y"]));
    assert!(mesh.fake("a").seen().is_empty());
    eventually("the feeder", || async { mesh.fake("b").state.stream.receiver_count() == 1 }).await;
    let update = |uri: &str, id: Value| {
        json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated",
            "params": { "uri": uri, "_meta": { "io.modelcontextprotocol/subscriptionId": id } } })
    };
    mesh.fake("b").say(&update("n:///other", json!("1")));
    mesh.fake("b").say(&update("n:///x", json!("1")));
    assert_eq!(events.next().await, Some(update("b+n:///x", json!("q1"))));
    // When the service comes back nobody knows what was missed, so everything counts as changed.
    let address = mesh.fakes.remove("b").unwrap().kill().await;
    let _back = Fake::at("b", mesh.credentials("b"), notes(&["n:///x", "n:///y"]), address).await;
    assert_eq!(events.next().await, Some(update("b+n:///x", json!("q1"))));
    assert_eq!(events.next().await, Some(update("n:///y", json!("q1"))));
}

#[tokio::test]
async fn hidden_resources_are_not_listened_to() {
    let mesh = Mesh::with(&[("a", notes(&["n:///x"]))], POLICY, QUICK).await;
    let mut events = listen(&mesh.client.as_bob(), "/mcp", json!({ "resourceSubscriptions": ["n:///x"] })).await;
    let first = events.next().await.unwrap();
    assert_eq!(first["params"]["notifications"]["resourceSubscriptions"], json!([]));
    assert!(mesh.fake("a").seen().is_empty());
}

#[tokio::test]
async fn the_number_of_open_streams_is_bounded() {
    let mesh = Mesh::with(
        &[("a", health(tools(&["read"])))],
        POLICY,
        "limits: { listens: 3, listens_per_principal: 1, subscriptions: 2 }",
    )
    .await;
    let mut first = listen(&mesh.client, "/mcp", all()).await;
    first.next().await;
    let refused = mesh.client.ask("/mcp", "subscriptions/listen", json!({ "notifications": {} })).await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.json()["error"]["data"]["limit"], "limits.listens_per_principal");
    let many = json!({ "resourceSubscriptions": ["n:///1", "n:///2", "n:///3"] });
    let mut bob = listen(&mesh.client.as_bob(), "/mcp", many).await;
    bob.next().await.expect("others have room");
    let metrics = mesh.admin("/metrics").await;
    let metrics = String::from_utf8_lossy(&metrics.body);
    for limit in ["listens", "subscriptions"] {
        let line = format!("outrigger_limited_total{{limit=\"{limit}\",service=\"*\"}} 1");
        assert!(metrics.contains(&line), "{metrics}");
    }
    drop(first);
    eventually("a free place", || async {
        let request = mesh.client.request("/mcp", "subscriptions/listen", json!({ "notifications": {} }));
        mesh.client.open(request).await.status() == 200
    })
    .await;
}

#[tokio::test]
async fn a_drain_ends_listens_with_a_result() {
    let mut mesh = Mesh::with(&[("a", health(tools(&["read"])))], POLICY, QUICK).await;
    let mut events = listen(&mesh.client, "/mcp", all()).await;
    events.next().await;
    let drained = tokio::spawn(mesh.ingress.take().unwrap().drain());
    let last = events.next().await.unwrap();
    assert_eq!(last["id"], "q1");
    assert_eq!(last["result"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "q1");
    assert_eq!(events.next().await, None);
    assert_eq!(drained.await.unwrap(), outrigger_runtime::DrainOutcome::Finished);
}
