//! Start, reload and end; TLS for clients.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use outrigger_identity::{CredentialOptions, Credentials, IdentityFiles, SpiffeId, server_name};
use outrigger_proxy::dial::{ClientTls, Endpoint};
use outrigger_proxy::pool::{Pool, PoolSettings};
use outrigger_runtime::DrainOutcome;
use serde_json::json;

use crate::fake::{health, tools};
use crate::mesh::{Client, Mesh, POLICY, eventually};

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
async fn clients_may_show_a_certificate_of_the_mesh() {
    let policy = POLICY.replace("{ scope: all }", "{ workload: agent }");
    let mesh = Mesh::with(&[("a", health(tools(&["read"])))], &policy, "").await;
    mesh.credentials("edge");
    let agent = mesh.credentials("agent");
    let at = |name: &str| mesh.path(name).display().to_string();
    let tls = format!(
        "tls: {{ cert: {}, key: {}, client_ca: {} }}\nservices: {{ a: {{ addresses: [\"{}\"] }} }}",
        at("edge.pem"),
        at("edge.key"),
        at("ca.pem"),
        mesh.fake("a").address
    );
    let mut mesh = mesh.another_ingress(&tls).await;
    let edge = SpiffeId::parse("spiffe://test.local/edge").unwrap();
    let over_tls = |credentials: Arc<Credentials>, token| {
        let (address, edge) = (mesh.ingress.as_ref().unwrap().mcp, edge.clone());
        let provider = Arc::new(move || credentials.client_config(&edge));
        let tls = ClientTls { provider, server_name: server_name(address.ip()) };
        let endpoint = Endpoint::tcp(address.ip().to_string(), address.port()).with_tls(tls);
        Client::over(Pool::new(endpoint, PoolSettings::default()), token)
    };
    let got = over_tls(agent, None).call("a__read").await;
    assert_eq!(got.json()["result"]["by"], "a");
    let other = Credentials::load(IdentityFiles::in_dir(mesh.dir.path(), "a"), &CredentialOptions::default()).unwrap();
    assert_eq!(over_tls(Arc::clone(&other), None).call("a__read").await.json()["error"]["code"], -32602);
    assert_eq!(
        over_tls(other, Some("bob-token")).call("a__read").await.json()["result"]["by"],
        "a",
        "a token counts first"
    );
    let lines = mesh.audit(1).await;
    assert_eq!(lines[0]["who"], "spiffe://test.local/agent");
    drop(mesh.ingress.take());
}
