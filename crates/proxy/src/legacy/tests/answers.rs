//! Answers to POST: JSON or an event stream, batches, cancellation, ids.

use std::sync::Arc;

use crate::failure::Failure;
use bytes::Bytes;

use super::support::{BOUNDS, World, call, message};

const PROGRESS: &str =
    r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}"#;

fn done(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[]}}}}"#)
}

#[tokio::test(start_paused = true)]
async fn one_message_is_json_and_more_are_a_stream() {
    let mut world = World::new();
    let client = world.client("2025-06-18", "{}").await;
    let plain = client.begin(&call("\"a\""));
    world.asked().await.stream().send(Ok(message(&done("\"a\"")))).await.unwrap();
    let plain = plain.await.unwrap();
    assert!(!plain.is_stream());
    assert_eq!(plain.text().await, done("\"a\""));

    let streamed = client.begin(&call("2"));
    let feed = world.asked().await.stream();
    feed.send(Ok(message(PROGRESS))).await.unwrap();
    let mut streamed = streamed.await.unwrap();
    assert!(streamed.is_stream());
    let first = streamed.event().await.unwrap();
    assert_eq!((first.data.unwrap(), first.id), (PROGRESS.into(), None));
    feed.send(Ok(message(&done("2")))).await.unwrap();
    assert_eq!(streamed.next_text().await, done("2"));
    assert!(streamed.event().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn case_39_a_slow_answer_becomes_a_stream_with_signs_of_life() {
    let mut world = World::new();
    let client = world.client("2025-06-18", "{}").await;
    let slow = client.begin(&call("2"));
    let asked = world.asked().await;
    let slow = slow.await.unwrap();
    assert!(slow.is_stream());
    tokio::time::advance(std::time::Duration::from_secs(20)).await;
    asked.result("{}");
    let text = slow.text().await;
    assert!(text.starts_with(": keep-alive\n\n") && text.ends_with("\"result\":{}}\n\n"), "{text}");
}

#[tokio::test]
async fn a_kept_list_is_neither_read_nor_copied_for_its_reply() {
    // Were it narrowed for this revision, the schema would go.
    let tool = r#"{"name":"t","outputSchema":{"type":"array"}}"#;
    // Small bodies are joined into one piece.
    let result = format!(r#"{{"tools":[{}]}}"#, vec![tool; 200].join(","));
    let list = |id: u8| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/list"}}"#);
    let told = |id: u8| format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
    let mut world = World::new();
    let kept = Bytes::from(result.clone());
    Arc::get_mut(&mut world.mesh).unwrap().kept = Some(kept.clone());
    let client = world.client("2025-03-26", "{}").await;
    for id in [1, 2] {
        let pieces = client.post(&list(id)).await.pieces().await;
        assert_eq!(pieces.concat(), told(id).as_bytes());
        assert!(pieces.iter().any(|piece| piece.as_ptr() == kept.as_ptr()), "copied for request {id}");
    }
    let mut stream = client.with("accept", "text/event-stream").post(&list(3)).await;
    assert_eq!(stream.next_text().await, told(3));
    let batch =
        client.post(&format!("[{},{}]", list(4), list(4).replace("tools/", "prompts/").replace('4', "5"))).await;
    let batch = batch.text().await;
    assert!(batch == format!("[{},{}]", told(4), told(5)) || batch == format!("[{},{}]", told(5), told(4)), "{batch}");
    assert!(world.quiet(), "asked for besides");
}

#[tokio::test(start_paused = true)]
async fn clients_that_take_only_one_kind_get_it() {
    let mut world = World::new();
    let client = world.client("2025-06-18", "{}").await;
    let json = client.with("accept", "application/json").begin(&call("1"));
    let feed = world.asked().await.stream();
    feed.send(Ok(message(PROGRESS))).await.unwrap();
    feed.send(Ok(message(&done("1")))).await.unwrap();
    assert_eq!(json.await.unwrap().text().await, done("1"));
    let stream = client.with("accept", "text/event-stream").begin(&call("1"));
    world.asked().await.result("{}");
    assert!(stream.await.unwrap().is_stream());
    assert_eq!(client.with("accept", "text/html").post(&call("1")).await.status, 406);
    assert_eq!(client.with("accept", "application/json").get().await.status, 406);
}

#[tokio::test(start_paused = true)]
async fn statuses_and_codes_of_the_modern_era_do_not_reach_the_client() {
    let mut world = World::new();
    let client = world.client("2025-06-18", "{}").await;
    let read = r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"a:b"}}"#;
    let missing = client.begin(read);
    let feed = world.asked().await.stream();
    let error = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"m","data":{"uri":"a:b"}}}"#;
    feed.send(Ok(message(error))).await.unwrap();
    assert_eq!(missing.await.unwrap().message().await.error_code(), Some(-32002));
    let unknown = client.begin(r#"{"jsonrpc":"2.0","id":1,"method":"no/such"}"#);
    world.asked().await.fail(Failure::UnknownMethod("no/such".into()));
    let unknown = unknown.await.unwrap();
    assert_eq!(unknown.status, 200);
    assert_eq!(unknown.message().await.error_code(), Some(-32601));
    let broken = client.begin(&call("1"));
    drop(world.asked().await.stream());
    assert_eq!(broken.await.unwrap().message().await.error_code(), Some(-32603));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_ends_upstream_and_says_nothing_more() {
    let mut world = World::new();
    let client = world.client("2025-11-25", "{}").await;
    let cancel =
        |id: &str| format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#);
    let streamed = client.begin(&call("7"));
    let feed = world.asked().await.stream();
    feed.send(Ok(message(PROGRESS))).await.unwrap();
    let mut streamed = streamed.await.unwrap();
    let prime = String::from_utf8(streamed.event().await.unwrap().id.unwrap().to_vec()).unwrap();
    streamed.next().await.unwrap();
    for other in ["\"7\"", "8"] {
        assert_eq!(client.post(&cancel(other)).await.status, 202);
        assert!(!feed.is_closed(), "another id");
    }
    assert_eq!(client.post(&cancel("7")).await.status, 202);
    feed.closed().await;
    assert!(streamed.event().await.is_none());
    let again = client.with("last-event-id", &prime).get().await;
    assert_eq!(again.status, 400, "nothing is left to come back for");

    let waiting = client.begin(&call("7"));
    let asked = world.asked().await;
    client.post(&cancel("7")).await;
    asked.dropped().await;
    assert_eq!(waiting.await.unwrap().text().await, "");
}

#[tokio::test(start_paused = true)]
async fn an_id_at_work_cannot_be_used_again() {
    let mut world = World::new();
    let client = world.client("2025-06-18", "{}").await;
    let first = client.begin(&call("1"));
    let asked = world.asked().await;
    let second = client.post(&call("1")).await;
    assert_eq!(second.status, 400);
    assert_eq!(second.message().await.error_code(), Some(-32600));
    let text = client.begin(&call("\"1\""));
    world.asked().await.result("{}");
    assert_eq!(text.await.unwrap().message().await.id().unwrap(), "\"1\"");
    asked.result("{}");
    assert_eq!(first.await.unwrap().message().await.id().unwrap(), "1");
    let again = client.begin(&call("1"));
    world.asked().await.result("{}");
    assert_eq!(again.await.unwrap().status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_session_has_a_bounded_number_of_requests_at_work() {
    let mut world = World::new();
    let client = world.client("2025-06-18", "{}").await;
    let mut at_work = Vec::new();
    for id in 0..BOUNDS.requests {
        drop(client.begin(&call(&id.to_string())));
        at_work.push(world.asked().await);
    }
    let over = client.post(&call("\"over\"")).await.message().await;
    assert_eq!(over.error_code(), Some(-31429));
    assert_eq!(client.post(r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_split_and_answered_as_an_array() {
    let mut world = World::new();
    let client = world.client("2025-03-26", "{}").await;
    let batch = format!(
        r#" [{{"jsonrpc":"2.0","id":2,"method":"ping"}},{},{{"jsonrpc":"2.0","method":"notifications/initialized"}},{},{{"id":9}},{}]"#,
        call("1"),
        super::support::initialize("2025-03-26", "{}"),
        call("1"),
    );
    let answer = client.begin(&batch);
    world.asked().await.result(r#"{"n":1}"#);
    let answer = answer.await.unwrap();
    assert_eq!(answer.status, 200);
    let replies: Vec<serde_json::Value> = serde_json::from_str(&answer.text().await).unwrap();
    let of = |id: serde_json::Value| replies.iter().filter(|reply| reply["id"] == id).collect::<Vec<_>>();
    assert_eq!(of(2.into())[0]["result"], serde_json::json!({}));
    assert_eq!(of("i".into())[0]["error"]["code"], -32600);
    assert_eq!(of(9.into())[0]["error"]["code"], -32600);
    let ones = of(1.into());
    assert!(ones.len() == 2 && ones.iter().any(|r| r["result"]["n"] == 1), "{ones:?}");
    assert!(ones.iter().any(|r| r["error"]["code"] == -32600), "the second use of an id is refused");
    assert_eq!(replies.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn batches_are_bounded_and_only_of_their_revision() {
    let mut world = World::new();
    let client = world.client("2025-03-26", "{}").await;
    let quiet = r#"[{"jsonrpc":"2.0","method":"notifications/initialized"},{"jsonrpc":"2.0","id":5,"result":{}}]"#;
    assert_eq!(client.post(quiet).await.status, 202);
    let many = format!("[{}]", vec![call("1"); 65].join(","));
    for bad in ["[]", &many] {
        let refused = client.post(bad).await;
        assert_eq!(refused.status, 400);
        let refused = refused.text().await;
        assert!(refused.contains("-32600") && refused.contains("\"invalid_request\""), "{refused}");
    }
    assert_eq!(client.post("[] x").await.message().await.error_code(), Some(-32700));
    let newer = world.client("2025-06-18", "{}").await;
    let refused = newer.post(&format!("[{}]", call("1"))).await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.message().await.error_code(), Some(-32600));
    assert!(world.quiet(), "nothing of a refused batch runs");
}

#[tokio::test(start_paused = true)]
async fn a_batch_runs_a_few_at_once_and_streams_when_something_else_comes() {
    let mut world = World::new();
    let client = world.client("2025-03-26", "{}").await;
    let calls: Vec<String> = (0..20).map(|id| call(&id.to_string())).collect();
    let answer = client.begin(&format!("[{}]", calls.join(",")));
    let mut first = Vec::new();
    for _ in 0..8 {
        first.push(world.asked().await);
    }
    let mut answer = answer.await.unwrap();
    assert!(answer.is_stream(), "patience ran out");
    assert!(world.quiet(), "only eight at once");
    let feed = first.remove(0).stream();
    feed.send(Ok(message(PROGRESS))).await.unwrap();
    assert_eq!(answer.next_text().await, PROGRESS);
    feed.send(Ok(message(&done("0")))).await.unwrap();
    first.into_iter().for_each(|asked| asked.result("{}"));
    for _ in 0..12 {
        world.asked().await.result("{}");
    }
    let mut replies = 0;
    while answer.next().await.is_some() {
        replies += 1;
    }
    assert_eq!(replies, 20);
}
