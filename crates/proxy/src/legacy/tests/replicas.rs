//! Sessions on several replicas, and after a restart: taken up from what their ids say, by nobody but their owner.

use std::time::Duration;

use http::Method;
use tokio::time::Instant;

use super::super::keys::Keys;
use super::super::seam::{Change, ListKind};
use super::support::{Client, World, call, id_text, initialize};

const OLD: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const NEW: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";
const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

/// A replica with these keys.
fn replica(keys: &str) -> World {
    let world = World::new();
    world.sessions.set_keys(Keys::parse(keys).unwrap());
    world
}

#[tokio::test(start_paused = true)]
async fn case_42_any_replica_serves_a_session_with_all_that_its_client_said() {
    let (first, mut second) = (replica(OLD), replica(OLD));
    let client = first.client("2025-06-18", r#"{"roots":{"listChanged":true}}"#).await;
    let there = client.at(&second);
    let began = there.begin(&call("1"));
    let asked = second.asked().await;
    assert!(asked.body().contains(r#""io.modelcontextprotocol/clientCapabilities":{"roots":{"listChanged":true}}"#));
    assert!(asked.body().contains(r#""io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"}"#));
    let tag = asked.tag.clone();
    asked.result("{}");
    assert_eq!(began.await.unwrap().status, 200);

    // The same tag as on the first replica, and after a restart: servers with sessions know it again.
    let mut first = first;
    let began = client.begin(&call("2"));
    let asked = first.asked().await;
    assert_eq!(asked.tag, tag);
    asked.result("{}");
    began.await.unwrap();
    let mut restarted = replica(OLD);
    let began = client.at(&restarted).begin(&call("3"));
    assert_eq!(restarted.asked().await.tag, tag);
    began.abort();
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_taken_up_is_its_principals_and_its_routes() {
    let (first, second) = (replica(OLD), replica(OLD));
    let client = first.client("2025-11-25", "{}").await;
    let mut foreign = client.at(&second);
    foreign.caller = second.stranger("bob").caller;
    let mut elsewhere = client.at(&second);
    elsewhere.route = crate::legacy::seam::Route::Merged;
    for wrong in [foreign, elsewhere, client.at(&replica(NEW))] {
        assert_eq!(wrong.post(PING).await.status, 404);
        assert_eq!(wrong.get().await.status, 404);
        assert_eq!(wrong.send(Method::DELETE, "").await.status, 404);
    }
    assert_eq!(client.at(&second).post(PING).await.status, 200, "it is unharmed");
}

#[tokio::test(start_paused = true)]
async fn keys_are_rotated_without_losing_a_session() {
    let (first, second) = (replica(OLD), replica(OLD));
    let old = first.client("2025-06-18", "{}").await;
    first.sessions.set_keys(Keys::parse(&format!("{NEW}\n{OLD}")).unwrap());
    second.sessions.set_keys(Keys::parse(&format!("{NEW}\n{OLD}")).unwrap());
    let new = first.client("2025-06-18", "{}").await;
    assert_eq!(old.at(&second).post(PING).await.status, 200);
    assert_eq!(new.at(&second).post(PING).await.status, 200);
    let third = replica(NEW);
    assert_eq!(old.at(&third).post(PING).await.status, 404, "its key is no more");
    assert_eq!(new.at(&third).post(PING).await.status, 200);
    first.sessions.set_keys(Keys::parse(NEW).unwrap());
    assert_eq!(old.post(PING).await.status, 200, "where it is held, it goes on");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ended_is_not_taken_up_where_it_ended() {
    let (first, second) = (replica(OLD), replica(OLD));
    let deleted = first.client("2025-06-18", "{}").await;
    assert_eq!(deleted.send(Method::DELETE, "").await.status, 204);
    let idle = first.client("2025-06-18", "{}").await;
    first.sessions.sweep_at(Instant::now() + Duration::from_secs(1801));
    for over in [&deleted, &idle] {
        assert_eq!(over.post(PING).await.status, 404);
        assert_eq!(over.get().await.status, 404);
    }
    // A replica that never heard of it can end it as well.
    let other = second.client("2025-06-18", "{}").await;
    assert_eq!(other.at(&first).send(Method::DELETE, "").await.status, 204);
    assert_eq!(other.at(&first).post(PING).await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn an_id_is_worth_nothing_after_its_time() {
    let short = World::with(|settings| settings.max_age = Duration::ZERO);
    short.sessions.set_keys(Keys::parse(OLD).unwrap());
    let first = replica(OLD);
    let client = first.client("2025-06-18", "{}").await;
    assert_eq!(client.at(&short).post(PING).await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn caps_hold_for_sessions_that_are_taken_up() {
    let first = replica(OLD);
    let second = World::with(|settings| settings.sessions_per_principal = 2);
    second.sessions.set_keys(Keys::parse(OLD).unwrap());
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(first.client("2025-06-18", "{}").await);
    }
    for client in &clients {
        assert_eq!(client.at(&second).post(PING).await.status, 200);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!(clients[0].at(&second).post(PING).await.status, 404, "it gave way");
    assert_eq!(clients[2].at(&second).post(PING).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_too_much_of_itself_stays_with_its_replica() {
    let (first, second) = (replica(OLD), replica(OLD));
    let client = first.client("2025-06-18", &format!(r#"{{"experimental":{{"x":"{}"}}}}"#, "y".repeat(5000))).await;
    assert_eq!(client.post(PING).await.status, 200);
    assert_eq!(client.at(&second).post(PING).await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_to_another_replica_is_told_to_look_again() {
    let (mut first, mut second) = (replica(OLD), replica(OLD));
    let client = first.client("2025-11-25", "{}").await;
    let mut here = client.get().await;
    first.listening().await.changes.send(Change::List(ListKind::Tools)).await.unwrap();
    let id = here.event().await.unwrap().id.unwrap();
    let there = client.at(&second).with("last-event-id", std::str::from_utf8(&id).unwrap());
    let mut stream = there.get().await;
    assert_eq!(stream.status, 200, "the stream of GET goes on, though not where it was");
    // The tools: the only list whose changes the mesh promised to tell.
    assert!(stream.next_text().await.contains("notifications/tools/list_changed"));
    second.listening().await;
    // A stream that answered a call is gone with its replica.
    let text = String::from_utf8(id.to_vec()).unwrap();
    let (prefix, _) = text.split_once('-').unwrap();
    let lost = client.at(&second).with("last-event-id", &format!("{prefix}-1-0")).get().await;
    assert_eq!(lost.status, 400);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_reaches_another_replica_is_not_accepted() {
    let (mut first, second) = (replica(OLD), replica(OLD));
    let client = first.client("2025-03-26", r#"{"roots":{}}"#).await;
    let began = client.begin(&call("1"));
    let ask = r#"{"resultType":"input_required","inputRequests":{"k":{"method":"roots/list"}},"requestState":"s"}"#;
    first.asked().await.result(ask);
    let mut stream = began.await.unwrap();
    let question = id_text(&stream.next().await.unwrap());
    let answer = format!(r#"{{"jsonrpc":"2.0","id":"{question}","result":{{"roots":[]}}}}"#);
    for (body, wanted) in [
        (answer.clone(), 409),
        (format!("[{answer}]"), 409),
        (format!("[{answer},{PING}]"), 200),
        // Late answers, and those to nobody, are no mistake of the client.
        (r#"{"jsonrpc":"2.0","id":"x","result":{}}"#.to_owned(), 202),
    ] {
        let reply = client.at(&second).post(&body).await;
        assert_eq!(reply.status, wanted, "{body}");
        assert_eq!(reply.text().await.contains("answers must reach the replica that asked"), wanted != 202, "{body}");
    }
    assert!(first.quiet(), "the question is still open");
    assert_eq!(client.post(&answer).await.status, 202);
    let retried = first.asked().await;
    assert!(retried.body().contains(r#""inputResponses":{"k":{"roots":[]}}"#));
    retried.result(r#"{"content":[]}"#);
    assert!(stream.next_text().await.contains("content"));
    assert_eq!(client.post(&answer).await.status, 202, "twice is late");
}

#[tokio::test(start_paused = true)]
async fn many_sessions_on_random_replicas() {
    let replicas = [replica(OLD), replica(&format!("{NEW}\n{OLD}")), replica(&format!("{OLD}\n{NEW}"))];
    for world in &replicas {
        world.sessions.set_keys(Keys::parse(&format!("{NEW}\n{OLD}")).unwrap());
    }
    let mut clients: Vec<Client> = Vec::new();
    for at in 0..100 {
        let world = &replicas[at % replicas.len()];
        let mut client = world.stranger(&format!("user-{at}"));
        let reply = client.post(&initialize("2025-06-18", "{}")).await;
        client.headers.insert("mcp-session-id", reply.headers["mcp-session-id"].clone());
        clients.push(client);
    }
    for _ in 0..3 {
        for client in &clients {
            let client = client.at(&replicas[fastrand::usize(..replicas.len())]);
            assert_eq!(client.post(PING).await.status, 200);
        }
    }
}
