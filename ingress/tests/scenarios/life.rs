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
