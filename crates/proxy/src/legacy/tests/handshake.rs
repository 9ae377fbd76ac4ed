//! Handshake, and who may use a session.

use std::time::Duration;

use crate::failure::Failure;
use http::Method;
use tokio::time::Instant;

use super::support::{World, call, initialize, message};

#[tokio::test(start_paused = true)]
async fn initialize_opens_a_session_with_what_the_mesh_can_do() {
    let world = World::new();
    let client = world.stranger("ada");
    let reply = client.post(&initialize("2025-06-18", "{}")).await;
    let id = reply.headers["mcp-session-id"].to_str().unwrap().to_owned();
    assert!(world.sessions.minted(&id) && !world.sessions.minted("anything"));
    let text = reply.text().await;
    assert_eq!(
        text,
        r#"{"jsonrpc":"2.0","id":"i","result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged":true},"resources":{"subscribe":true}},"serverInfo":{"name":"s","version":"1"}}}"#
    );
    let other = client.post(&initialize("2025-06-18", "{}")).await;
    assert_ne!(other.headers["mcp-session-id"], id);
    let unknown = client.post(&initialize("1999-01-01", "{}")).await.text().await;
    assert!(unknown.contains(r#""protocolVersion":"2025-11-25""#), "{unknown}");
}

#[tokio::test(start_paused = true)]
async fn what_is_local_never_reaches_the_mesh() {
    let mut world = World::new();
    let client = world.client("2025-06-18", "{}").await;
    assert_eq!(client.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await.status, 202);
    let pong = client.post(r#"{"jsonrpc":"2.0","id":1e0,"method":"ping"}"#).await;
    assert_eq!(pong.status, 400, "a fraction is no id");
    let pong = client.post(r#"{"jsonrpc":"2.0","id":123456789012345678901234567890,"method":"ping"}"#).await;
    assert_eq!(pong.text().await, r#"{"jsonrpc":"2.0","id":123456789012345678901234567890,"result":{}}"#);
    for method in ["server/discover", "subscriptions/listen", "outrigger.dev/respond"] {
        let refused = client.post(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#)).await;
        assert_eq!(refused.status, 200);
        assert_eq!(refused.message().await.error_code(), Some(-32601), "{method}");
    }
    assert!(world.quiet());
}

#[tokio::test(start_paused = true)]
async fn the_level_of_the_session_goes_with_later_requests() {
    let mut world = World::new();
    let client = world.client("2025-06-18", "{}").await;
    let set = |level: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{{"level":"{level}"}}}}"#)
    };
    assert_eq!(client.post(&set("loud")).await.message().await.error_code(), Some(-32602));
    let first = client.begin(&call("1"));
    let asked = world.asked().await;
    assert!(!asked.body().contains("logLevel"));
    assert!(asked.body().contains(r#""io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"}"#));
    assert!(asked.tag.starts_with("c.") && asked.tag.len() > 20);
    asked.result("{}");
    first.await.unwrap();
    client.post(&set("warning")).await;
    let second = client.begin(&call("1"));
    let asked = world.asked().await;
    assert!(asked.body().contains(r#""io.modelcontextprotocol/logLevel":"warning""#));
    asked.result("{}");
    second.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_session_is_its_principals_and_its_routes() {
    let mut world = World::new();
    let client = world.client("2025-11-25", "{}").await;
    let mut foreign = client.clone();
    foreign.caller = world.stranger("bob").caller;
    let mut elsewhere = client.clone();
    elsewhere.route = crate::legacy::seam::Route::Merged;
    for wrong in [foreign, elsewhere, client.with("mcp-session-id", "0000000000000000000000000000000000000000")] {
        assert_eq!(wrong.post(&call("1")).await.status, 404);
        assert_eq!(wrong.get().await.status, 404);
        assert_eq!(wrong.send(Method::DELETE, "").await.status, 404);
    }
    let none = world.stranger("ada");
    assert_eq!(none.post(&call("1")).await.status, 400);
    assert_eq!(none.get().await.status, 400);
    assert!(none.post(&call("1")).await.text().await.contains("send initialize first"));
    assert!(world.quiet());
    let alive = client.begin(&call("1"));
    world.asked().await.result("{}");
    assert_eq!(alive.await.unwrap().status, 200, "the session is unharmed");
}

#[tokio::test(start_paused = true)]
async fn the_version_header_must_be_one_of_the_era() {
    let world = World::new();
    let client = world.client("2025-06-18", "{}").await;
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    for (version, status) in [("2025-06-18", 200), ("2025-03-26", 200), ("2026-07-28", 400), ("nonsense", 400)] {
        assert_eq!(client.with("mcp-protocol-version", version).post(ping).await.status, status, "{version}");
    }
    let unknown = client.with("mcp-protocol-version", "nonsense").post(ping).await.message().await;
    assert_eq!(unknown.error_code(), Some(-32022));
    let modern = client.with("mcp-protocol-version", "2026-07-28").post(ping).await.message().await;
    assert_eq!(modern.error_code(), Some(-32600), "it is a version that we speak");
    assert!(modern.error_message().unwrap().contains("one of 2025-06-18"), "{modern:?}");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_session_is_gone_with_all_that_it_had_at_work() {
    let mut world = World::new();
    let client = world.client("2025-06-18", "{}").await;
    let mut stream = client.get().await;
    let at_work = client.begin(&call("1"));
    let asked = world.asked().await;
    let tag = asked.tag.clone();
    assert_eq!(client.send(Method::DELETE, "").await.status, 204);
    asked.dropped().await;
    assert_eq!(*world.mesh.ended.borrow(), [tag], "the mesh is told");
    at_work.await.unwrap();
    assert!(stream.event().await.is_none());
    assert_eq!(client.send(Method::DELETE, "").await.status, 404);
    assert_eq!(client.post(&call("2")).await.status, 404);
    assert_eq!(client.get().await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn idle_sessions_end_and_busy_ones_do_not() {
    let mut world = World::with(|settings| settings.idle = Duration::from_secs(60));
    let idle = world.client("2025-06-18", "{}").await;
    let busy = world.client("2025-06-18", "{}").await;
    let listening = world.client("2025-06-18", "{}").await;
    let _stream = listening.get().await;
    let at_work = busy.begin(&call("1"));
    let asked = world.asked().await;
    world.sessions.sweep_at(Instant::now() + Duration::from_secs(61));
    assert_eq!(idle.post(&call("1")).await.status, 404);
    asked.result("{}");
    assert_eq!(at_work.await.unwrap().status, 200);
    assert_eq!(listening.post(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn over_the_caps_idle_sessions_give_way_and_busy_ones_do_not() {
    let world = World::with(|settings| {
        settings.sessions = 3;
        settings.sessions_per_principal = 2;
    });
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let first = world.client("2025-06-18", "{}").await;
    tokio::time::advance(Duration::from_secs(1)).await;
    let second = world.client("2025-06-18", "{}").await;
    let _third = world.client("2025-06-18", "{}").await;
    assert_eq!(first.post(ping).await.status, 404, "the oldest of this principal gave way");
    assert_eq!(second.post(ping).await.status, 200);
    let bob = world.stranger("bob");
    assert_eq!(bob.post(&initialize("2025-06-18", "{}")).await.status, 200, "the caps of others do not count");

    let mut world = World::with(|settings| settings.sessions_per_principal = 1);
    let busy = world.client("2025-06-18", "{}").await;
    let at_work = busy.begin(&call("1"));
    let asked = world.asked().await;
    let refused = world.stranger("ada").post(&initialize("2025-06-18", "{}")).await.text().await;
    assert!(refused.contains("limit reached: limits.sessions_per_principal"), "{refused}");
    asked.result("{}");
    assert_eq!(at_work.await.unwrap().status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_mesh_that_fails_gives_no_session() {
    let mut world = World::new();
    let client = world.client("2025-06-18", "{}").await;
    let failed = client.begin(&call("1"));
    world.asked().await.fail(Failure::Unavailable { service: "fs".into(), reason: "down".into() });
    let failed = failed.await.unwrap();
    assert_eq!(failed.status, 200);
    let failed = failed.message().await;
    assert_eq!(failed.error_code(), Some(-31503));
    assert_eq!(failed.id().unwrap(), "1");
    assert_eq!(message(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).id().unwrap(), "1");
}
