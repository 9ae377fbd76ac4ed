//! Start, reload and end.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use outrigger_runtime::DrainOutcome;
use serde_json::json;

use crate::fake::{health, tools};
use crate::mesh::{Mesh, POLICY, eventually};

#[tokio::test]
async fn a_drain_lets_calls_finish() {
    let mut mesh = Mesh::start(&[("a", health(tools(&["wait"])))]).await;
    let client = mesh.client.clone();
    let call = tokio::spawn(async move { client.call("a__wait").await });
    let state = Arc::clone(&mesh.fake("a").state);
    eventually("the call", || async { state.hanging.load(Ordering::SeqCst) == 1 }).await;
    let running = mesh.ingress.take().unwrap();
    let (readiness, gateway) = (running.readiness.clone(), Arc::clone(running.gateway()));
    let drained = tokio::spawn(running.drain());
    eventually("the drain", || async { gateway.draining().draining() }).await;
    assert!(!readiness.ready());
    assert!(!drained.is_finished(), "it waits for the call");
    state.stream.send(None).unwrap();
    assert_eq!(call.await.unwrap().status, 200);
    assert_eq!(drained.await.unwrap(), DrainOutcome::Finished);
}

#[tokio::test]
async fn a_drain_cuts_what_takes_too_long() {
    let mut mesh = Mesh::with(&[("a", health(tools(&["hang"])))], POLICY, "timeouts: { drain: 100ms }").await;
    let client = mesh.client.clone();
    let _call = tokio::spawn(async move { client.call("a__hang").await });
    let state = Arc::clone(&mesh.fake("a").state);
    eventually("the call", || async { state.hanging.load(Ordering::SeqCst) == 1 }).await;
    assert!(matches!(mesh.ingress.take().unwrap().drain().await, DrainOutcome::Forced { left: 1.. }));
    eventually("the cancel", || async { state.cancelled.load(Ordering::SeqCst) == 1 }).await;
}

#[tokio::test]
async fn services_that_never_answer_hold_up_readiness_for_a_while_only() {
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mesh = Mesh::with(&[], POLICY, &format!("services: {{ a: {{ addresses: [\"{dead}\"] }} }}")).await;
    // Mesh::with has waited for readiness.
    assert_eq!(mesh.admin("/readyz").await.status, 200);
    assert_eq!(mesh.admin("/catalog").await.json()["services"]["a"]["status"], "down: it cannot be reached");
}

#[tokio::test]
async fn a_bad_policy_changes_nothing_and_is_counted() {
    let mesh = Mesh::start(&[("a", health(tools(&["read"])))]).await;
    std::fs::write(mesh.path("policy.yaml"), "spec: [").unwrap();
    eventually("the failed reload", || async {
        let metrics = mesh.admin("/metrics").await;
        String::from_utf8_lossy(&metrics.body).contains("outrigger_reloads_total{outcome=\"failed\",what=\"policy\"} 1")
    })
    .await;
    assert_eq!(mesh.client.call("a__read").await.status, 200);
}

#[tokio::test]
async fn tokens_are_read_again() {
    let mesh = Mesh::start(&[("a", health(tools(&["read"])))]).await;
    let tokens = std::fs::read_to_string(mesh.path("tokens.yaml")).unwrap();
    std::fs::write(
        mesh.path("tokens.yaml"),
        tokens.lines().filter(|line| !line.contains("bob")).collect::<Vec<_>>().join("\n"),
    )
    .unwrap();
    let bob = mesh.client.as_bob();
    eventually("bob is out", || async { bob.ask("/mcp", "tools/list", json!({})).await.status == 401 }).await;
    assert_eq!(mesh.client.call("a__read").await.status, 200);
}

#[tokio::test]
async fn services_come_and_go_with_the_settings_file() {
    let mesh = Mesh::start(&[("a", health(tools(&["read", "wait"]))), ("b", health(tools(&["read"])))]).await;
    let path = mesh.path("ingress.yaml");
    let both = std::fs::read_to_string(&path).unwrap();
    let without = |name: &str| {
        both.lines().filter(|line| !line.starts_with(&format!("  {name}: "))).map(|line| format!("{line}\n")).collect()
    };
    let only_b: String = without("a");
    assert_ne!(only_b, both);
    let client = mesh.client.clone();
    let call = tokio::spawn(async move { client.call("a__wait").await });
    let state = Arc::clone(&mesh.fake("a").state);
    eventually("the call", || async { state.hanging.load(Ordering::SeqCst) == 1 }).await;

    put(&path, &only_b);
    eventually("a is gone", || async { mesh.client.tools().await == ["b__read"] }).await;
    assert_eq!(mesh.client.ask("/s/a/mcp", "tools/list", json!({})).await.status, 404);
    assert_eq!(mesh.client.call("a__read").await.json()["error"]["code"], -32602);
    let metrics = async || String::from_utf8_lossy(&mesh.admin("/metrics").await.body).into_owned();
    // Counted when all of it is done, which is after the new list is out.
    let applied = "outrigger_reloads_total{outcome=\"applied\",what=\"services\"} 1";
    eventually("it is counted", async || metrics().await.contains(applied)).await;
    eventually("its gauge is gone", async || !metrics().await.contains("outrigger_catalog_state{service=\"a\"")).await;
    state.stream.send(None).unwrap();
    assert_eq!(call.await.unwrap().status, 200, "a call that ran goes on");

    // Half a file: what is in force stays.
    put(&path, &both[..both.len() / 2]);
    eventually("the failed reload", || async {
        let metrics = mesh.admin("/metrics").await;
        String::from_utf8_lossy(&metrics.body)
            .contains("outrigger_reloads_total{outcome=\"failed\",what=\"services\"} 1")
    })
    .await;
    assert_eq!(mesh.client.tools().await, ["b__read"]);

    put(&path, &both);
    eventually("a is back", || async { mesh.client.tools().await.len() == 3 }).await;
    assert_eq!(mesh.client.call("a__read").await.status, 200);
}

#[tokio::test]
async fn baggage_of_clients_stays_outside() {
    let mesh = Mesh::start(&[("a", health(tools(&["read"])))]).await;
    let params = json!({ "name": "a__read", "_meta": { "baggage": "user=ada", "example.com/kept": 1 } });
    mesh.client.ask("/mcp", "tools/call", params).await;
    let seen = mesh.fake("a").seen();
    let body = String::from_utf8_lossy(&seen.last().unwrap().raw).into_owned();
    assert!(!body.contains("baggage") && body.contains("example.com/kept"), "{body}");
}

/// Replaces a file whole, so that nobody reads half of it.
fn put(path: &std::path::Path, text: &str) {
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, text).unwrap();
    std::fs::rename(temporary, path).unwrap();
}
