//! Clients over HTTP+SSE: one event stream is the session, and answers everything.

use std::time::Duration;

use http::Method;

use super::support::{Client, Reply, World, call, id_text, initialize};
use crate::legacy::seam::{Change, ListKind};

const ALL: &str = r#"{"elicitation":{},"sampling":{},"roots":{}}"#;

/// An open stream, and where its client posts.
struct Line {
    client: Client,
    stream: Reply,
    endpoint: String,
}

impl Line {
    async fn open(world: &World) -> Self {
        let client = world.stranger("ada");
        let mut stream = client.at_door(Method::GET, "/s/fs/sse", "").await;
        assert!(stream.status == 200 && stream.is_stream());
        let first = stream.event().await.unwrap();
        assert_eq!(first.event.as_deref(), Some(&b"endpoint"[..]));
        let endpoint = String::from_utf8(first.data.unwrap().to_vec()).unwrap();
        assert!(endpoint.starts_with("/s/fs/messages?sessionId="), "{endpoint}");
        Self { client, stream, endpoint }
    }

    async fn greeted(world: &mut World, version: &str) -> Self {
        let mut line = Self::open(world).await;
        assert_eq!(line.post(&initialize(version, ALL)).await, 202);
        let told = line.stream.next_text().await;
        assert!(told.contains(&format!("\"protocolVersion\":\"{version}\"")), "{told}");
        assert_eq!(line.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await, 202);
        line
    }

    async fn post(&self, body: &str) -> u16 {
        self.client.at_door(Method::POST, &self.endpoint, body).await.status
    }
}

#[tokio::test(start_paused = true)]
async fn every_older_revision_is_answered_on_the_stream() {
    for version in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let mut world = World::new();
        let mut line = Line::greeted(&mut world, version).await;
        assert_eq!(line.post(&call("1")).await, 202);
        assert_eq!(line.post(r#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#).await, 202);
        assert_eq!(line.stream.next_text().await, r#"{"jsonrpc":"2.0","id":2,"result":{}}"#);
        world.asked().await.result(r#"{"content":[]}"#);
        assert_eq!(line.stream.next_text().await, r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#);
    }
}

#[tokio::test(start_paused = true)]
async fn questions_and_changes_come_on_the_same_stream() {
    let mut world = World::new();
    let mut line = Line::greeted(&mut world, "2024-11-05").await;
    let listening = world.listening().await;
    listening.changes.send(Change::List(ListKind::Tools)).await.unwrap();
    assert!(line.stream.next_text().await.contains("notifications/tools/list_changed"));
    assert_eq!(line.post(&call("1")).await, 202);
    world
        .asked()
        .await
        .result(r#"{"resultType":"input_required","inputRequests":{"r":{"method":"roots/list"}},"requestState":"s"}"#);
    let question = line.stream.next().await.unwrap();
    assert_eq!(question.method_name(), "roots/list");
    let answer = format!(r#"{{"jsonrpc":"2.0","id":"{}","result":{{"roots":[]}}}}"#, id_text(&question));
    assert_eq!(line.post(&answer).await, 202);
    world.asked().await.result(r#"{"content":[]}"#);
    assert_eq!(line.stream.next_text().await, r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#);
}

#[tokio::test(start_paused = true)]
async fn the_id_of_a_stream_proves_nothing() {
    let mut world = World::new();
    let line = Line::greeted(&mut world, "2024-11-05").await;
    let mut foreign = Line { client: world.stranger("bob"), stream: line.stream, endpoint: line.endpoint };
    assert_eq!(foreign.post(&call("1")).await, 404);
    foreign.client = line.client;
    for other in ["/messages", "/messages?sessionId=", "/messages?session=0123456789abcdef"] {
        let reply = foreign.client.at_door(Method::POST, other, &call("1")).await;
        assert_eq!(reply.status, 404, "{other}");
    }
    assert!(world.quiet());
    assert_eq!(foreign.post(&call("1")).await, 202, "its owner can still use it");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_before_initialize_and_nothing_without_a_stream() {
    let mut world = World::new();
    let line = Line::open(&world).await;
    assert_eq!(line.post(&call("1")).await, 400);
    assert_eq!(line.client.at_door(Method::POST, "/sse", &call("1")).await.status, 405);
    assert_eq!(line.client.at_door(Method::GET, "/messages", "").await.status, 405);
    assert!(world.quiet());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_closes_ends_its_session_and_its_calls() {
    let mut world = World::new();
    let line = Line::greeted(&mut world, "2024-11-05").await;
    assert_eq!(line.post(&call("1")).await, 202);
    let asked = world.asked().await;
    let tag = asked.tag.clone();
    drop(line.stream);
    tokio::time::timeout(Duration::from_secs(60), asked.dropped()).await.unwrap();
    let reply = line.client.at_door(Method::POST, &line.endpoint, &call("2")).await;
    assert_eq!(reply.status, 404);
    assert_eq!(*world.mesh.ended.borrow(), [tag], "the mesh is told, once");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_greets_is_sent_away() {
    let world = World::new();
    let mut line = Line::open(&world).await;
    assert!(line.stream.event().await.is_none());
    assert_eq!(line.post(&initialize("2024-11-05", ALL)).await, 404);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_cut_off() {
    let mut world = World::new();
    let line = Line::greeted(&mut world, "2024-11-05").await;
    let listening = world.listening().await;
    // More than the stream and the queue before it hold.
    let told = async {
        for _ in 0..10_000 {
            if listening.changes.send(Change::Resource { uri: "x://y".into() }).await.is_err() {
                return;
            }
        }
        panic!("it was read");
    };
    tokio::time::timeout(Duration::from_secs(600), told).await.unwrap();
    assert_eq!(line.post(&call("1")).await, 404);
}

#[tokio::test(start_paused = true)]
async fn streams_of_one_principal_are_limited() {
    let world = World::with(|settings| settings.sessions_per_principal = 2);
    let lines = (Line::open(&world).await, Line::open(&world).await);
    let third = lines.0.client.at_door(Method::GET, "/s/fs/sse", "").await;
    assert_eq!(third.status, 429);
    assert_eq!(world.stranger("bob").at_door(Method::GET, "/s/fs/sse", "").await.status, 200);
    drop(lines.0.stream);
    tokio::time::sleep(Duration::from_secs(1)).await;
    Line::open(&world).await;
}

#[tokio::test(start_paused = true)]
async fn an_id_in_use_is_refused_without_a_word_on_the_stream() {
    let mut world = World::new();
    let mut line = Line::greeted(&mut world, "2024-11-05").await;
    assert_eq!((line.post(&call("1")).await, line.post(&call("1")).await), (202, 400));
    world.asked().await.result(r#"{"content":[]}"#);
    assert_eq!(line.stream.next_text().await, r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#);
}
