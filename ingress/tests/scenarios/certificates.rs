//! Certificates: of clients at the edge, of sidecars behind it, and what becomes of connections when one is revoked.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use outrigger_identity::{CredentialOptions, Credentials, IdentityFiles};
use serde_json::json;

use crate::fake::{health, tools};
use crate::mesh::{Events, Mesh, PATIENCE, POLICY, eventually};

/// The policy in which a workload may do everything.
fn policy_for_agents() -> String {
    POLICY.replace("{ scope: all }", "{ workload: agent }")
}

#[tokio::test]
async fn clients_may_show_a_certificate_of_the_mesh() {
    let mesh = Mesh::with(&[("a", health(tools(&["read"])))], &policy_for_agents(), "").await;
    let mut mesh = mesh.with_tls_at_the_edge().await;
    let agent = mesh.credentials("agent");
    let got = mesh.member(agent, None).call("a__read").await;
    assert_eq!(got.json()["result"]["by"], "a");
    let other = Credentials::load(IdentityFiles::in_dir(mesh.dir.path(), "a"), &CredentialOptions::default()).unwrap();
    assert_eq!(mesh.member(Arc::clone(&other), None).call("a__read").await.json()["error"]["code"], -32602);
    assert_eq!(
        mesh.member(other, Some("bob-token")).call("a__read").await.json()["result"]["by"],
        "a",
        "a token counts first"
    );
    let lines = mesh.audit(1).await;
    assert_eq!(lines[0]["who"], "spiffe://test.local/agent");
    drop(mesh.ingress.take());
}

#[tokio::test]
async fn a_revoked_client_loses_what_it_has_open_and_nobody_else_does() {
    let rules = policy_for_agents().replace("{ workload: agent }", "{ workload: \"a*\" }");
    let mesh = Mesh::with(&[("a", health(tools(&["hang"])))], &rules, "").await.with_tls_at_the_edge().await;
    let (bad, good) = (mesh.member(mesh.credentials("agent"), None), mesh.member(mesh.credentials("another"), None));
    let filter = json!({ "notifications": { "toolsListChanged": true } });
    let listen = |client: &crate::mesh::Client| client.request("/mcp", "subscriptions/listen", filter.clone());
    let mut theirs = Events::of(bad.open(listen(&bad)).await);
    let mut ours = Events::of(good.open(listen(&good)).await);
    theirs.next().await.unwrap();
    ours.next().await.unwrap();
    let caller = bad.clone();
    let call = tokio::spawn(async move {
        caller.try_send(caller.request("/mcp", "tools/call", json!({ "name": "a__hang" }))).await
    });
    let state = Arc::clone(&mesh.fake("a").state);
    eventually("the call", || async { state.hanging.load(Ordering::SeqCst) == 1 }).await;

    mesh.revoke("agent");
    assert!(theirs.broken().await, "the listen breaks off");
    assert!(call.await.unwrap().is_err(), "so does the call");
    eventually("the call is cancelled", || async { state.cancelled.load(Ordering::SeqCst) == 1 }).await;
    assert!(bad.try_send(listen(&bad)).await.is_err(), "and there is no other connection");
    let metrics = String::from_utf8_lossy(&mesh.admin("/metrics").await.body).into_owned();
    assert!(
        metrics.contains("outrigger_connections_total{listener=\"public\",outcome=\"untrusted\"} 1\n"),
        "{metrics}"
    );

    mesh.fake("a").publish(health(tools(&["hang", "more"])));
    assert_eq!(ours.next().await.unwrap()["method"], "notifications/tools/list_changed");
}

#[tokio::test]
async fn a_revoked_sidecar_loses_its_calls_and_gets_no_more() {
    let mesh = Mesh::start(&[("a", health(tools(&["hang", "read"]))), ("b", health(tools(&["wait"])))]).await;
    let (client, other) = (mesh.client.clone(), mesh.client.clone());
    let cut = tokio::spawn(async move { client.call("a__hang").await });
    let kept = tokio::spawn(async move { other.call("b__wait").await });
    let (a, b) = (Arc::clone(&mesh.fake("a").state), Arc::clone(&mesh.fake("b").state));
    eventually("both calls", || async {
        a.hanging.load(Ordering::SeqCst) == 1 && b.hanging.load(Ordering::SeqCst) == 1
    })
    .await;

    mesh.revoke("a");
    let got = cut.await.unwrap().json();
    assert_eq!(got["error"]["data"]["service"], "a", "{got}");
    eventually("the sidecar hears of it", || async { a.cancelled.load(Ordering::SeqCst) == 1 }).await;
    let got = mesh.client.call("a__read").await.json();
    assert_eq!(got["error"]["data"]["service"], "a", "nothing more goes there: {got}");
    eventually("the health of a is unknown", || async {
        let catalog = mesh.admin("/catalog").await.json();
        catalog["services"]["a"]["status"] == "stale" && catalog["services"]["b"]["status"] == "ok"
    })
    .await;
    b.stream.send(None).unwrap();
    let got = tokio::time::timeout(PATIENCE, kept).await.unwrap().unwrap();
    assert_eq!(got.status, 200, "a call to another sidecar goes on");
}

#[tokio::test]
async fn a_new_certificate_of_the_edge_reaches_new_connections_and_disturbs_no_old_one() {
    let mesh = Mesh::with(&[("a", health(tools(&["read"])))], POLICY, "").await.with_tls_at_the_edge().await;
    let client = mesh.credentials("agent");
    let first = mesh.served(&client).await;
    assert_eq!(mesh.served(&client).await, first, "nothing has changed yet");
    let old = mesh.member(Arc::clone(&client), Some("ada-token"));
    let filter = json!({ "notifications": { "toolsListChanged": true } });
    let mut events = Events::of(old.open(old.request("/mcp", "subscriptions/listen", filter)).await);
    events.next().await.unwrap();

    // Half of a pair, or nonsense, is not taken: the good one stays.
    std::fs::write(mesh.path("edge.pem"), "no certificate").unwrap();
    eventually("the failure is counted", || async {
        let metrics = String::from_utf8_lossy(&mesh.admin("/metrics").await.body).into_owned();
        metrics.lines().any(|line| {
            line.starts_with("outrigger_reloads_total{") && line.contains("failed") && !line.ends_with(" 0")
        })
    })
    .await;
    assert_eq!(mesh.served(&client).await, first);

    mesh.credentials("edge");
    eventually("another certificate is shown", || async { mesh.served(&client).await != first }).await;
    mesh.fake("a").publish(health(tools(&["read", "write"])));
    assert_eq!(events.next().await.unwrap()["method"], "notifications/tools/list_changed", "the old connection lives");
    assert_eq!(old.call("a__read").await.json()["result"]["by"], "a");
    assert_eq!(mesh.member(client, Some("ada-token")).call("a__write").await.json()["result"]["by"], "a");
}
