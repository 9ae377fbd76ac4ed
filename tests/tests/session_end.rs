//! When a client of an older revision ends its session, what servers keep for it ends too: at once, not when it has been
//! unused for long enough.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use std::path::PathBuf;

use outrigger_tests::{
    Call, Client, Mesh, Session, TestIngress, TestSidecar, eventually,
    http_server::{HttpServer, Received, result},
    processes::{runs, written},
    sidecar::text_of,
    subjects::scripted,
};
use serde_json::{Value, json};

/// A stdio server that counts per session, and the pids of its children.
struct Children {
    mesh: Mesh,
    pids: PathBuf,
    sidecar: TestSidecar,
}

impl Children {
    async fn start() -> Self {
        let mesh = Mesh::new();
        let pids = mesh.path().join("pids");
        let sidecar = TestSidecar::start(&mesh, &scripted(&["--pids", pids.to_str().unwrap()])).await;
        sidecar.ready_client(&mesh).await;
        Self { mesh, pids, sidecar }
    }

    fn running(&self) -> usize {
        written(&self.pids).into_iter().filter(|pid| runs(*pid)).count()
    }

    async fn are(&self, count: usize) {
        eventually("so many children", || async { (self.running() == count).then_some(()) }).await;
    }
}

/// Opens a session and uses it.
async fn used(client: &Client, tool: &str) -> Session {
    let session = Session::open(client, "2025-06-18", &json!({})).await;
    assert_eq!(text_of(&session.tool(tool, &json!({})).await), "1");
    session
}

#[tokio::test]
async fn the_child_of_an_ended_session_ends_and_no_other() {
    let world = Children::start().await;
    let ingress = TestIngress::start(&world.mesh, &[world.sidecar.address()], "").await;
    let (first, second) = (used(&ingress.client, "fs__count").await, used(&ingress.client, "fs__count").await);
    let modern = Call::tool("fs__count", "{}");
    assert_eq!(text_of(&ingress.client.reply(&modern).await.json()), "1");
    assert_eq!(world.running(), 4, "the one that learns the catalog, two of sessions, and one of a principal");
    assert_eq!(first.end().await, 204);
    world.are(3).await;
    assert_eq!(text_of(&second.tool("fs__count", &json!({})).await), "2");
    assert_eq!(text_of(&ingress.client.reply(&modern).await.json()), "2");
    assert_eq!(second.end().await, 204);
    world.are(2).await;
    // Nobody can say it for others.
    let forged = Call::new("outrigger.dev/end").meta("\"outrigger.dev/session\":\"c.x\"");
    assert_eq!(ingress.client.reply(&forged).await.error_code(), -32601);
    let third = used(&ingress.client, "fs__count").await;
    assert_eq!(third.ask("outrigger.dev/end", &json!({})).await.error_code(), -32601);
    assert_eq!(text_of(&third.tool("fs__count", &json!({})).await), "2");
    ingress.stop().await;
    world.sidecar.stop().await;
}

#[tokio::test]
async fn the_same_at_a_sidecar_that_is_reached_directly() {
    let world = Children::start().await;
    let session = used(&world.sidecar.client(&world.mesh, "desk"), "count").await;
    assert_eq!(world.running(), 2);
    assert_eq!(session.end().await, 204);
    world.are(1).await;
    world.sidecar.stop().await;
}

#[tokio::test]
async fn the_session_of_an_http_server_is_deleted() {
    let server = HttpServer::legacy(|received: Received| async move {
        let text: Value = json!({"content": [{"type": "text", "text": "1"}]});
        result(&received, text)
    });
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &server.setting()).await;
    sidecar.ready_client(&mesh).await;
    let ingress = TestIngress::start(&mesh, &[sidecar.address()], "").await;
    let deleted = || server.received().into_iter().filter(|received| received.method == http::Method::DELETE).count();
    let session = used(&ingress.client, "fs__t").await;
    let before = deleted();
    assert_eq!(session.end().await, 204);
    eventually("the server hears of it", || async { (deleted() == before + 1).then_some(()) }).await;
    ingress.stop().await;
    sidecar.stop().await;
}
