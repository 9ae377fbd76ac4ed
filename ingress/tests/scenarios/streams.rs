//! Answers that stream: unbuffered, cancelled with their caller, and ended with an error when the service goes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::fake::{health, tools};
use crate::mesh::{Events, Mesh, POLICY, eventually};

async fn streaming(settings: &str) -> (Mesh, Events) {
    let mesh = Mesh::with(&[("a", health(tools(&["stream"])))], POLICY, settings).await;
    let response = mesh.client.open(mesh.client.request("/mcp", "tools/call", json!({ "name": "a__stream" }))).await;
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    (mesh, Events::of(response))
}

fn progress(n: u64) -> Value {
    json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": 1, "progress": n } })
}

#[tokio::test]
async fn events_come_as_they_are_sent_and_bytes_stay() {
    let (mesh, mut events) = streaming("").await;
    for n in 0..3 {
        mesh.fake("a").say(&progress(n));
        assert_eq!(events.next().await, Some(progress(n)), "before the next one is sent");
    }
    let odd = Bytes::from_static(b": hello\nid: 7\nretry: 5\ndata: {\"x\":\ndata: 1.0}\n\n");
    mesh.fake("a").state.stream.send(Some(odd.clone())).unwrap();
    assert_eq!(events.next().await, Some(json!({ "x": 1.0 })));
    assert!(events.bytes.ends_with(&odd), "raw: {:?}", String::from_utf8_lossy(&events.bytes));
    mesh.fake("a").say(&json!({ "jsonrpc": "2.0", "id": "q1", "result": {} }));
    mesh.fake("a").state.stream.send(None).unwrap();
    assert!(events.next().await.unwrap()["result"].is_object());
    assert_eq!(events.next().await, None, "nothing of ours is added to a whole answer");
}

#[tokio::test]
async fn a_stream_that_ends_without_its_result_gets_an_error_in_its_place() {
    let (mesh, mut events) = streaming("").await;
    mesh.fake("a").say(&progress(1));
    mesh.fake("a").state.stream.send(None).unwrap();
    assert_eq!(events.next().await, Some(progress(1)));
    let last = events.next().await.expect("an error in place of the result");
    assert_eq!((&last["id"], &last["error"]["data"]["reason"]), (&json!("q1"), &json!("broken")), "{last}");
    assert_eq!(events.next().await, None);
    assert_eq!(mesh.audit(1).await[0]["outcome"], "unavailable");
}

#[tokio::test]
async fn how_a_streamed_call_ended_is_recorded() {
    let error = json!({ "jsonrpc": "2.0", "id": "q1", "error": { "code": -32000, "message": "no" } });
    let failed = json!({ "jsonrpc": "2.0", "id": "q1", "result": { "content": [], "isError": true } });
    for (reply, outcome) in [(error, "rpc_error"), (failed, "tool_error")] {
        let (mesh, mut events) = streaming("").await;
        mesh.fake("a").say(&progress(1));
        mesh.fake("a").say(&reply);
        mesh.fake("a").state.stream.send(None).unwrap();
        while events.next().await.is_some() {}
        assert_eq!(mesh.audit(1).await[0]["outcome"], outcome);
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_cancels() {
    let mesh = Mesh::start(&[("a", health(tools(&["hang"])))]).await;
    let client = mesh.client.clone();
    let call = tokio::spawn(async move { client.call("a__hang").await });
    let state = Arc::clone(&mesh.fake("a").state);
    eventually("the call", || async { state.hanging.load(Ordering::SeqCst) == 1 }).await;
    call.abort();
    eventually("the cancel", || async { state.cancelled.load(Ordering::SeqCst) == 1 }).await;
    let lines = mesh.audit(1).await;
    assert_eq!(lines[0]["outcome"], "cancelled");
}

#[tokio::test]
async fn a_stream_that_nobody_reads_any_more_ends_at_the_service() {
    let (mesh, mut events) = streaming("").await;
    mesh.fake("a").say(&progress(1));
    events.next().await;
    let stream = mesh.fake("a").state.stream.clone();
    assert_eq!(stream.receiver_count(), 1);
    drop(events);
    // Its feeder notices at the next piece, if not before.
    eventually("the end of the stream at the service", || async {
        let _ = stream.send(Some(Bytes::from_static(b":\n\n")));
        stream.receiver_count() == 0
    })
    .await;
}

#[tokio::test]
async fn a_killed_service_ends_its_stream_with_an_error() {
    let (mut mesh, mut events) = streaming("").await;
    mesh.fake("a").say(&progress(1));
    events.next().await;
    mesh.fakes.remove("a").unwrap().kill().await;
    let last = events.next().await.expect("an error in place of the result");
    assert_eq!((&last["id"], &last["error"]["data"]["service"]), (&json!("q1"), &json!("a")));
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn silent_streams_show_signs_of_life() {
    let (mesh, mut events) = streaming("timeouts: { keepalive: 50ms }").await;
    while !events.bytes.ends_with(b": keep-alive\n\n") {
        assert!(events.more().await);
    }
    mesh.fake("a").say(&progress(1));
    assert_eq!(events.next().await, Some(progress(1)));
}

#[tokio::test]
async fn a_stream_that_falls_silent_runs_into_the_deadline() {
    let (mesh, mut events) = streaming("timeouts: { request: 300ms }").await;
    mesh.fake("a").say(&progress(1));
    assert_eq!(events.next().await, Some(progress(1)));
    let last = events.next().await.expect("an error");
    assert_eq!(last["error"]["code"], -31504, "{last}");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn uris_in_streams_are_rewritten_where_services_share_them() {
    let resources = || {
        let mut parts = tools(&["stream"]);
        parts["resources"] = json!([{ "uri": "file:///x", "name": "x" }]);
        health(parts)
    };
    let mesh = Mesh::start(&[("a", resources()), ("b", resources())]).await;
    let response = mesh.client.open(mesh.client.request("/mcp", "tools/call", json!({ "name": "a__stream" }))).await;
    let mut events = Events::of(response);
    let link = |uri: &str| json!({ "jsonrpc": "2.0", "id": "q1", "result": { "content": [{ "type": "resource_link", "uri": uri, "name": "x" }] } });
    mesh.fake("a").say(&progress(1));
    mesh.fake("a").say(&link("file:///x"));
    assert_eq!(events.next().await, Some(progress(1)));
    assert_eq!(events.next().await, Some(link("a+file:///x")));
}
