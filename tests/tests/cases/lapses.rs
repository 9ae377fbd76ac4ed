//! Servers of an older revision that lose a stream or their sessions, and what is told and done then.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use outrigger_proxy::body::BodySender;
use outrigger_tests::{
    Call, Stream, eventually,
    http_server::{HttpServer, error, result, status, stream, text},
    wait::within,
};
use serde_json::json;

use crate::world::{World, call, refused, said};

/// More than a session's listeners may be behind.
const RESOURCES: usize = 300;

/// What is set from outside, and seen.
#[derive(Default)]
struct Old {
    /// How often it was started again: what it does not know of is sessions of before.
    starts: AtomicUsize,
    /// Tools that came later.
    more: AtomicUsize,
    /// Its open GET streams.
    streams: Mutex<Vec<BodySender>>,
    /// How many further ones it finds too many, because it has not noticed the end of those before.
    too_many: AtomicUsize,
    /// It numbers its events, and keeps none.
    numbers: AtomicBool,
}

impl Old {
    /// Ends all streams; clients are to open new ones.
    async fn lose_streams(&self) {
        let streams = std::mem::take(&mut *self.streams.lock().unwrap());
        for stream in streams {
            drop(stream.finish().await);
        }
    }
}

/// A server with sessions, which has this status for those that it does not know.
fn old(unknown: u16) -> (HttpServer, Arc<Old>) {
    let state = Arc::new(Old::default());
    let old = state.clone();
    let server = HttpServer::start(move |received| {
        let old = old.clone();
        async move {
            let session = format!("s{}", old.starts.load(Ordering::SeqCst));
            let method = received.rpc_method();
            if method == "initialize" {
                let capabilities = json!({"tools": {"listChanged": true}, "resources": {"subscribe": true}});
                let info = json!({"name": "old", "version": "1"});
                let mut reply = result(
                    &received,
                    json!({"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": info}),
                );
                reply.headers_mut().insert("mcp-session-id", session.parse().unwrap());
                return reply;
            }
            if received.header("mcp-session-id") != session {
                return error(&received, unknown, -32000, "Bad Request: No valid session ID provided");
            }
            match (received.method.as_str(), method.as_str()) {
                ("GET", _) if old.too_many.load(Ordering::SeqCst) > 0 => {
                    old.too_many.fetch_sub(1, Ordering::SeqCst);
                    error(&received, 409, -32000, "Conflict: Only one SSE stream is allowed per session")
                }
                ("GET", _) if !received.header("last-event-id").is_empty() => {
                    error(&received, 400, -32000, "Bad Request: No such event")
                }
                ("GET", _) => {
                    let (sender, response) = stream();
                    if old.numbers.load(Ordering::SeqCst) {
                        sender.send("id: 7\ndata: \n\n".into()).await.unwrap();
                    }
                    old.streams.lock().unwrap().push(sender);
                    response
                }
                ("POST", "tools/list") => {
                    let names = (0..=old.more.load(Ordering::SeqCst)).map(|n| format!("t{n}"));
                    let tools: Vec<_> =
                        names.map(|name| json!({"name": name, "inputSchema": {"type": "object"}})).collect();
                    result(&received, json!({ "tools": tools }))
                }
                ("POST", "resources/list") => {
                    let list: Vec<_> = uris().into_iter().map(|uri| json!({"uri": uri, "name": uri})).collect();
                    result(&received, json!({ "resources": list }))
                }
                ("POST", "resources/subscribe" | "resources/unsubscribe" | "ping") => result(&received, json!({})),
                ("POST", "tools/call") => text(&received, &session),
                ("POST", method) if method.starts_with("notifications/") => status(202),
                ("DELETE", _) => status(200),
                _ => error(&received, 200, -32601, "no such method"),
            }
        }
    });
    (server, state)
}

fn uris() -> BTreeSet<String> {
    (0..RESOURCES).map(|n| format!("test://{n}")).collect()
}

/// A listen for everything that the server has, which has begun.
async fn listening(world: &World) -> Stream {
    let filter = json!({"toolsListChanged": true, "resourceSubscriptions": uris()});
    let call = Call::new("subscriptions/listen").params(&format!("\"notifications\":{filter}"));
    let mut stream = world.client().open(&call).await;
    let first = within("the acknowledgement", stream.next()).await.unwrap();
    let honoured = first["params"]["notifications"]["resourceSubscriptions"].as_array().map(Vec::len);
    assert_eq!(honoured, Some(RESOURCES), "{first}");
    stream
}

/// Reads on until all resources, and lists if those are waited for, were said to have changed.
async fn everything(stream: &mut Stream, lists: bool) {
    let (mut missing, mut listed) = (uris(), !lists);
    let all = async {
        while !missing.is_empty() || !listed {
            let event = stream.next().await.expect("the same stream");
            match event["method"].as_str().unwrap() {
                "notifications/tools/list_changed" => listed = true,
                _ => drop(missing.remove(event["params"]["uri"].as_str().unwrap())),
            }
        }
    };
    within("what changed", all).await;
}

async fn streams(old: &Old) {
    eventually("a stream of the server", || async { (!old.streams.lock().unwrap().is_empty()).then_some(()) }).await;
}

#[tokio::test]
async fn what_a_server_could_not_say_without_its_stream_is_made_up_for() {
    let (server, old) = old(404);
    let world = World::one(&server.setting()).await;
    let mut stream = listening(&world).await;
    streams(&old).await;
    old.more.store(1, Ordering::SeqCst);
    old.lose_streams().await;
    everything(&mut stream, true).await;
    world.stop().await;
}

#[tokio::test]
async fn a_stream_that_a_server_takes_for_one_too_many_is_opened_later() {
    let (server, old) = old(404);
    let world = World::one(&server.setting()).await;
    let mut stream = listening(&world).await;
    streams(&old).await;
    old.too_many.store(2, Ordering::SeqCst);
    old.lose_streams().await;
    everything(&mut stream, false).await;
    world.stop().await;
}

#[tokio::test]
async fn a_stream_that_cannot_be_taken_up_again_begins_anew() {
    let (server, old) = old(404);
    old.numbers.store(true, Ordering::SeqCst);
    let world = World::one(&server.setting()).await;
    let mut stream = listening(&world).await;
    streams(&old).await;
    old.lose_streams().await;
    everything(&mut stream, false).await;
    world.stop().await;
}

/// A server that was started again has forgotten its sessions with all subscriptions: they are made anew.
async fn subscribed_again(unknown: u16) {
    let (server, old) = old(unknown);
    let world = World::one(&server.setting()).await;
    let mut stream = listening(&world).await;
    streams(&old).await;
    old.starts.store(1, Ordering::SeqCst);
    old.lose_streams().await;
    everything(&mut stream, false).await;
    let again = server.received_of("resources/subscribe").into_iter().filter(|r| r.header("mcp-session-id") == "s1");
    let again: BTreeSet<String> = again.map(|r| r.json()["params"]["uri"].to_string()).collect();
    assert_eq!(again.len(), RESOURCES);
    world.stop().await;
}

#[tokio::test]
async fn resources_are_subscribed_to_anew_at_a_server_that_was_started_again() {
    subscribed_again(404).await;
}

#[tokio::test]
async fn the_same_at_one_that_does_not_say_that_it_knows_no_such_session() {
    subscribed_again(400).await;
}

#[tokio::test]
async fn a_call_survives_a_server_that_says_bad_request_of_a_session_it_forgot() {
    let (server, old) = old(400);
    let world = World::one(&server.setting()).await;
    assert_eq!(said(&world, "fs__t0", "{}").await, "s0");
    old.starts.store(1, Ordering::SeqCst);
    assert_eq!(said(&world, "fs__t0", "{}").await, "s1");
    world.stop().await;
}

/// A server that finds each call bad, and a `ping` too, for which it says this.
fn picky(of_ping: i64) -> HttpServer {
    HttpServer::start(move |received| async move {
        match (received.method.as_str(), received.rpc_method().as_str()) {
            ("POST", "initialize") => {
                let info = json!({"name": "old", "version": "1"});
                let said = json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info});
                let mut reply = result(&received, said);
                reply.headers_mut().insert("mcp-session-id", "s".parse().unwrap());
                reply
            }
            ("POST", "tools/list") => {
                result(&received, json!({"tools": [{"name": "t", "inputSchema": {"type": "object"}}]}))
            }
            ("POST", "tools/call") => error(&received, 400, -32602, "no such region"),
            ("POST", method) if method.starts_with("notifications/") => status(202),
            ("POST", _) => error(&received, 400, of_ping, "bad"),
            _ => status(405),
        }
    })
}

#[tokio::test]
async fn a_server_that_finds_requests_bad_keeps_its_session() {
    let server = picky(-32601);
    let world = World::one(&server.setting()).await;
    refused(&call(&world, "fs__t", "{}").await, 200, -32602);
    let greeted = server.received_of("initialize").len();
    for _ in 0..3 {
        refused(&call(&world, "fs__t", "{}").await, 200, -32602);
    }
    assert_eq!(server.received_of("initialize").len(), greeted);
    world.stop().await;
}

/// Nothing tells its `ping` from a session that it forgot; its own word about the call arrives all the same.
#[tokio::test]
async fn what_a_server_finds_bad_is_told_also_where_its_session_is_in_doubt() {
    let server = picky(-32600);
    let world = World::one(&server.setting()).await;
    for _ in 0..3 {
        refused(&call(&world, "fs__t", "{}").await, 200, -32602);
    }
    world.stop().await;
}
