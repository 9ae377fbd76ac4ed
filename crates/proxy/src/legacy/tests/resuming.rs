//! Event ids, lost connections, and coming back.

use std::time::Duration;

use tokio::time::Instant;

use super::support::{BOUNDS, Client, Reply, World, call, message};

fn progress(n: usize) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":1,"progress":{n}}}}}"#)
}

async fn id_of(reply: &mut Reply) -> String {
    let event = reply.event().await.unwrap();
    String::from_utf8(event.id.unwrap().to_vec()).unwrap()
}

async fn resume(client: &Client, id: &str) -> Reply {
    client.with("last-event-id", id).get().await
}

#[tokio::test(start_paused = true)]
async fn case_36_a_lost_stream_is_resumed_while_the_call_still_runs() {
    let mut world = World::new();
    let client = world.client("2025-11-25", "{}").await;
    let answer = client.begin(&call("1"));
    let feed = world.asked().await.stream();
    feed.send(Ok(message(&progress(1)))).await.unwrap();
    let mut answer = answer.await.unwrap();
    let prime = answer.event().await.unwrap();
    assert_eq!((prime.data.unwrap().len(), prime.retry.is_some()), (0, true), "the first event only gives an id");
    let first = id_of(&mut answer).await;
    drop(answer);
    feed.send(Ok(message(&progress(2)))).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!feed.is_closed(), "a lost connection is no cancellation");
    let mut again = resume(&client, &first).await;
    assert_eq!(again.next_text().await, progress(2));
    feed.send(Ok(message(&progress(3)))).await.unwrap();
    assert_eq!(again.next_text().await, progress(3));
    feed.send(Ok(message(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#))).await.unwrap();
    assert!(again.next_text().await.contains("result"));
    assert!(again.event().await.is_none());

    let mut whole = resume(&client, std::str::from_utf8(&prime.id.unwrap()).unwrap()).await;
    for text in [progress(1), progress(2), progress(3)] {
        assert_eq!(whole.next_text().await, text, "what was delivered can be had again");
    }
    whole.next().await.unwrap();
    assert!(whole.event().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_result_waits_for_the_client_only_so_long() {
    let mut world = World::new();
    let client = world.client("2025-11-25", "{}").await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let answer = client.begin(&call("1"));
        let asked = world.asked().await;
        let mut answer = answer.await.unwrap();
        ids.push(id_of(&mut answer).await);
        drop(answer);
        asked.result("{}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(resume(&client, &ids[0]).await.next_text().await.contains("result"));
    tokio::time::advance(Duration::from_secs(61)).await;
    world.sessions.sweep_at(Instant::now());
    let late = resume(&client, &ids[1]).await;
    assert_eq!(late.status, 400, "404 would end the session");
    let late = late.text().await;
    assert!(late.contains("\"invalid_request\"") && late.contains("that is still held"), "{late}");
    let wrong = resume(&client, "no-event-id").await.text().await;
    assert!(wrong.contains("\"invalid_request\"") && wrong.contains("Last-Event-ID is no event id of ours"), "{wrong}");
}

#[tokio::test(start_paused = true)]
async fn case_37_foreign_and_invented_event_ids_give_nothing() {
    let mut world = World::new();
    let client = world.client("2025-11-25", "{}").await;
    let other = world.client("2025-11-25", "{}").await;
    let answer = client.begin(&call("1"));
    let asked = world.asked().await;
    let mut answer = answer.await.unwrap();
    let id = id_of(&mut answer).await;
    assert_eq!(resume(&other, &id).await.status, 400);
    let (stream, _) = id.rsplit_once('-').unwrap();
    for invented in [&format!("{stream}-99"), "x", "1-1", &format!("{stream}9-0"), &format!("{stream}--1")] {
        assert_eq!(resume(&client, invented).await.status, 400, "{invented}");
    }
    asked.result("{}");
    assert!(answer.next_text().await.contains("result"), "the stream is unharmed");
}

#[tokio::test(start_paused = true)]
async fn two_streams_never_mix() {
    let mut world = World::new();
    let client = world.client("2025-11-25", "{}").await;
    let (mut ids, mut feeds) = (Vec::new(), Vec::new());
    for id in ["1", "2"] {
        let answer = client.begin(&call(id));
        feeds.push(world.asked().await.stream());
        ids.push(id_of(&mut answer.await.unwrap()).await);
    }
    for (n, feed) in feeds.iter().enumerate() {
        feed.send(Ok(message(&progress(n)))).await.unwrap();
        let id = n + 1;
        feed.send(Ok(message(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#)))).await.unwrap();
    }
    for (n, id) in ids.iter().enumerate() {
        let mut again = resume(&client, id).await;
        assert_eq!(again.next_text().await, progress(n));
        assert_eq!(again.next().await.unwrap().id().unwrap(), (n + 1).to_string());
        assert!(again.event().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn older_revisions_lose_a_result_with_its_connection_but_the_call_still_runs() {
    let mut world = World::new();
    let client = world.client("2025-06-18", "{}").await;
    let answer = client.begin(&call("1"));
    let feed = world.asked().await.stream();
    let answer = answer.await.unwrap();
    drop(answer);
    for n in 0..1000 {
        feed.send(Ok(message(&progress(n)))).await.unwrap();
    }
    feed.send(Ok(message(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#))).await.unwrap();
    feed.closed().await;
    let again = client.begin(&call("1"));
    world.asked().await.result("{}");
    assert_eq!(again.await.unwrap().status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_disappears_before_the_answer_does_not_cancel() {
    let mut world = World::new();
    let client = world.client("2025-11-25", "{}").await;
    let answer = client.begin(&call("1"));
    let asked = world.asked().await;
    answer.abort();
    assert!(answer.await.is_err());
    let feed = asked.stream();
    for n in 0..2000 {
        feed.send(Ok(message(&progress(n)))).await.unwrap();
    }
    assert!(!feed.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_holds_back_its_own_call_and_nothing_is_lost() {
    let mut world = World::new();
    let client = world.client("2025-11-25", "{}").await;
    let answer = client.begin(&call("1"));
    let feed = world.asked().await.stream();
    let mut answer = answer.await.unwrap();
    let sending = tokio::spawn(async move {
        for n in 0..1000 {
            feed.send(Ok(message(&progress(n)))).await.unwrap();
        }
        feed.send(Ok(message(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#))).await.unwrap();
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!sending.is_finished(), "nobody reads, so nobody may send without end");
    for n in 0..1000 {
        assert_eq!(answer.next_text().await, progress(n));
    }
    assert!(answer.next_text().await.contains("result"));
    sending.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_client_left_behind_is_bounded() {
    let mut world = World::new();
    let client = world.client("2025-11-25", "{}").await;
    let mut ids = Vec::new();
    for _ in 0..40 {
        let answer = client.begin(&call("1"));
        let feed = world.asked().await.stream();
        let mut answer = answer.await.unwrap();
        ids.push(id_of(&mut answer).await);
        feed.send(Ok(message(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#))).await.unwrap();
        answer.next().await.unwrap();
    }
    assert_eq!(resume(&client, &ids[0]).await.status, 400, "the oldest gave way");
    assert!(resume(&client, &ids[39]).await.next_text().await.contains("result"));
}

#[tokio::test(start_paused = true)]
async fn big_events_reach_a_slow_reader_too() {
    let mut world = World::new();
    let client = world.client("2025-11-25", "{}").await;
    let answer = client.begin(&call("1"));
    let feed = world.asked().await.stream();
    let mut answer = answer.await.unwrap();
    let big = "x".repeat(900_000);
    let sending = tokio::spawn(async move {
        for n in 0..20 {
            let text = progress(n).replace("\"progress\":", &format!("\"message\":\"{big}\",\"progress\":"));
            feed.send(Ok(message(&text))).await.unwrap();
        }
        feed.send(Ok(message(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#))).await.unwrap();
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    for n in 0..20 {
        assert!(answer.next_text().await.ends_with(&format!("\"progress\":{n}}}}}")), "{n}");
    }
    assert!(answer.next_text().await.contains("result"));
    sending.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nothing_is_held_for_nobody() {
    let stream = super::super::resume::EventStream::new(1, None, false, BOUNDS.resume);
    stream.push(b"{}").await;
    assert_eq!(stream.held().0, 0, "without ids and without a reader it can never be asked for");
    let numbered = super::super::resume::EventStream::new(1, Some("p".into()), false, BOUNDS.resume);
    for _ in 0..1000 {
        numbered.push(b"{}").await;
    }
    assert!((1..BOUNDS.resume.bytes).contains(&numbered.held().0));
}
