//! The session's own stream: changes, subscriptions, and servers that speak outside any call.

use std::sync::Arc;
use std::time::Duration;

use crate::listens::Listens;
use outrigger_telemetry::{Metrics, Role};

use super::super::seam::{Change, ListKind, Route};
use super::support::{World, id_text, message};

fn subscribe(uri: &str, un: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"resources/{un}subscribe","params":{{"uri":"{uri}"}}}}"#)
}

fn session(text: &str) -> Change {
    Change::Session { service: Arc::from("fs"), message: message(text) }
}

fn log(level: &str) -> Change {
    session(&format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"{level}","data":1,"_meta":{{"io.modelcontextprotocol/subscriptionId":5}}}}}}"#
    ))
}

#[tokio::test(start_paused = true)]
async fn changes_reach_the_stream_of_the_session() {
    let mut world = World::new();
    let client = world.client("2025-11-25", "{}").await;
    assert_eq!(client.post(&subscribe("a:1", "")).await.text().await, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
    let mut stream = client.get().await;
    assert!(stream.is_stream());
    let mut ear = world.listening().await;
    assert_eq!((ear.wanted.resources.clone(), ear.wanted.session), (vec!["a:1".to_owned()], true));
    ear.changes.send(Change::List(ListKind::Tools)).await.unwrap();
    ear.changes.send(Change::List(ListKind::Prompts)).await.unwrap();
    ear.changes.send(Change::Resource { uri: "a:1".into() }).await.unwrap();
    let first = stream.event().await.unwrap();
    assert!(first.id.is_some());
    assert_eq!(first.data.unwrap(), r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#);
    let second = r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a:1"}}"#;
    assert_eq!(stream.next_text().await, second, "changes of prompts were never promised");
    client.post(&subscribe("b:2", "")).await;
    assert_eq!(ear.resources.recv().await.unwrap(), ["a:1", "b:2"]);
    client.post(&subscribe("a:1", "un")).await;
    assert_eq!(ear.resources.recv().await.unwrap(), ["b:2"]);
    drop(ear);
    assert!(stream.event().await.is_none(), "the mesh drains, and the stream ends properly");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_cannot_be_subscribed_to() {
    let world = World::new();
    let client = world.client("2025-11-25", "{}").await;
    let told = client.post(&subscribe("hidden:1", "")).await.text().await;
    assert_eq!(
        told,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32002,"message":"Unknown resource: hidden:1","data":{"uri":"hidden:1"}}}"#
    );
}

#[tokio::test(start_paused = true)]
async fn subscriptions_are_bounded_and_storms_change_nothing_twice() {
    let mut world = World::new();
    let client = world.client("2025-06-18", "{}").await;
    let _stream = client.get().await;
    let mut ear = world.listening().await;
    let texts: Vec<String> =
        (0..1000).map(|n| subscribe(&format!("a:{n}"), "").replace(":1,", &format!(":{n},"))).collect();
    let mut posts: Vec<_> = texts.iter().map(|text| Box::pin(client.post(text))).collect();
    for post in &mut posts {
        assert!(now(&mut post.as_mut()).await.is_none(), "confirmed once it is heard");
    }
    assert_eq!(ear.resources.recv().await.unwrap().len(), 1000, "they are gathered");
    for post in posts {
        assert_eq!(post.await.message().await.error_code(), None);
    }
    let over = client.post(&subscribe("a:over", "")).await.message().await;
    assert_eq!(over.error_code(), Some(-31429));
    assert_eq!(client.post(&subscribe("a:7", "")).await.message().await.error_code(), None);
    assert!(ear.resources.try_recv().is_err(), "a second subscription changes nothing");
}

#[tokio::test(start_paused = true)]
async fn a_subscription_is_confirmed_once_changes_are_heard() {
    let mut world = World::new();
    let client = world.client("2025-06-18", "{}").await;
    let _stream = client.get().await;
    let mut ear = world.listening().await;
    ear.holds.send_replace(true);
    let text = subscribe("a:1", "");
    let confirmed = client.post(&text);
    tokio::pin!(confirmed);
    tokio::select! {
        biased;
        _ = &mut confirmed => panic!("confirmed before the service tells of changes"),
        resources = ear.resources.recv() => assert_eq!(resources.unwrap(), ["a:1"]),
    }
    assert!(now(&mut confirmed).await.is_none());
    ear.holds.send_replace(false);
    assert_eq!(confirmed.await.message().await.error_code(), None);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_a_service_refuses_is_refused_and_forgotten() {
    let mut world = World::new();
    let client = world.client("2025-06-18", "{}").await;
    let _stream = client.get().await;
    let mut ear = world.listening().await;
    // Once more is asked anew.
    for (uri, code) in [("refused:limit", -31429), ("refused:unknown", -32002), ("refused:unknown", -32002)] {
        let told = client.post(&subscribe(uri, "")).await.message().await;
        assert_eq!(told.error_code(), Some(code), "{uri}");
        assert_eq!(ear.resources.recv().await.unwrap(), [uri]);
        while !ear.resources.recv().await.unwrap().is_empty() {}
    }
}

/// The output, if the future has one after everybody else has had a turn.
async fn now<T>(future: &mut std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
    tokio::task::yield_now().await;
    tokio::select! {
        biased;
        output = future => Some(output),
        () = std::future::ready(()) => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_get_replaces_the_first() {
    let mut world = World::new();
    let client = world.client("2025-06-18", "{}").await;
    let mut first = client.get().await;
    let ear = world.listening().await;
    let mut second = client.get().await;
    assert!(first.event().await.is_none());
    ear.changes.send(Change::List(ListKind::Tools)).await.unwrap();
    assert!(second.next_text().await.contains("tools/list_changed"));
}

#[tokio::test(start_paused = true)]
async fn what_happens_between_two_connections_is_kept() {
    let mut world = World::new();
    let client = world.client("2025-06-18", "{}").await;
    let stream = client.get().await;
    let ear = world.listening().await;
    drop(stream);
    tokio::time::sleep(Duration::from_millis(10)).await;
    ear.changes.send(Change::Resource { uri: "a:1".into() }).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(client.get().await.next_text().await.contains("a:1"));
}

#[tokio::test(start_paused = true)]
async fn nobody_listens_for_a_client_that_is_gone() {
    let mut world = World::new();
    let client = world.client("2025-06-18", "{}").await;
    drop(client.get().await);
    world.listening().await.changes.closed().await;
    let mut stream = client.get().await;
    world.listening().await;
    assert!(stream.next_text().await.contains("tools/list_changed"), "something may have changed meanwhile");
}

#[tokio::test(start_paused = true)]
async fn log_messages_outside_calls_follow_the_level() {
    let mut world = World::new();
    let client = world.client("2025-06-18", "{}").await;
    let mut stream = client.get().await;
    let ear = world.listening().await;
    ear.changes.send(log("debug")).await.unwrap();
    let plain = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"debug","data":1,"_meta":{}}}"#;
    assert_eq!(stream.next_text().await, plain);
    client.post(r#"{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"error"}}"#).await;
    for level in ["warning", "critical"] {
        ear.changes.send(log(level)).await.unwrap();
    }
    assert!(stream.next_text().await.contains("critical"));
}

#[tokio::test(start_paused = true)]
async fn a_server_can_ask_outside_any_call() {
    let mut world = World::new();
    let client = world.client("2025-06-18", r#"{"roots":{}}"#).await;
    let mut stream = client.get().await;
    let ear = world.listening().await;
    let ask = |method: &str| {
        session(&format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/outrigger.dev/request","params":{{"id":7,"method":"{method}","params":{{"a":1}}}}}}"#
        ))
    };
    ear.changes.send(ask("roots/list")).await.unwrap();
    let question = stream.next().await.unwrap();
    assert_eq!(
        (question.method_name().as_ref(), question.raw(question.params().object().unwrap())),
        ("roots/list", &b"{\"a\":1}"[..])
    );
    let response = format!(r#"{{"jsonrpc":"2.0","id":"{}","result":{{"roots":[]}}}}"#, id_text(&question));
    assert_eq!(client.post(&response).await.status, 202);
    let back = world.asked().await;
    assert_eq!(back.route, Route::Service("fs".into()));
    assert_eq!(back.message.method_name(), "outrigger.dev/respond");
    assert!(back.body().contains(r#""id":7,"result":{"roots":[]}"#), "{}", back.body());
    back.result("{}");

    ear.changes.send(ask("sampling/createMessage")).await.unwrap();
    let refused = world.asked().await;
    assert!(refused.body().contains(r#""id":7,"error":{"code":-32601"#), "{}", refused.body());
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_changes_cannot_fill_memory() {
    let mut world = World::new();
    let client = world.client("2025-11-25", "{}").await;
    let stream = client.get().await;
    let ear = world.listening().await;
    drop(stream);
    tokio::time::sleep(Duration::from_millis(10)).await;
    for n in 0..5000 {
        ear.changes.send(Change::Resource { uri: format!("a:{n}") }).await.unwrap();
    }
    let mut stream = client.get().await;
    let mut seen = 1;
    while !stream.next_text().await.contains("a:4999") {
        seen += 1;
    }
    assert!((100..300).contains(&seen), "{seen} events were held");
}

#[tokio::test(start_paused = true)]
async fn a_slow_listener_is_waited_for() {
    let mut world = World::new();
    let client = world.client("2025-06-18", "{}").await;
    let mut stream = client.get().await;
    let ear = world.listening().await;
    let storm = tokio::spawn(async move {
        for n in 0..2000 {
            ear.changes.send(Change::Resource { uri: format!("a:{n}") }).await.unwrap();
        }
        ear
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!storm.is_finished());
    for n in 0..2000 {
        assert!(stream.next_text().await.contains(&format!("\"a:{n}\"")));
    }
    storm.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn streams_are_limited_in_number() {
    let metrics = Metrics::new(Role::Ingress).unwrap();
    let listens = Listens::new(2, 1, metrics.service("*"));
    let world = World::with(|settings| settings.listens = listens);
    let first = world.client("2025-06-18", "{}").await;
    let second = world.client("2025-06-18", "{}").await;
    let stream = first.get().await;
    let refused = second.get().await;
    assert_eq!(refused.status, 429);
    assert!(refused.text().await.contains("limit reached: limits.listens_per_principal"));
    drop(stream);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(second.get().await.status, 200);
}
