//! Cases 40, 43, 58, 59, 66 to 70, 84 and 85: two eras at once.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use http::{HeaderMap, Method};
use outrigger_tests::{
    Call, Reply, eventually,
    http_server::{error, event, result, status, stream, text},
    sidecar::text_of,
    subjects::scripted,
};
use serde_json::{Value, json};

use crate::world::{World, call, legacy, modern, post, refused, request, said, tool, tools};

fn levels(reply: &Reply) -> Vec<String> {
    reply.events.iter().filter_map(|event| Some(event["params"]["level"].as_str()?.to_owned())).collect()
}

#[tokio::test]
async fn case_40_a_session_that_one_server_forgot_is_opened_again_there_and_nowhere_else() {
    let forgets = Arc::new(AtomicBool::new(false));
    let flag = forgets.clone();
    let lists = json!({"capabilities": {"resources": {"subscribe": true}}, "tools/list": tools(&["t"])["tools/list"],
        "resources/list": {"resources": [{"uri": "a:1", "name": "a"}]}});
    let one = legacy("2025-06-18", lists, move |received| {
        let forgotten = received.rpc_method() == "tools/call" && flag.swap(false, Ordering::SeqCst);
        async move {
            match received.rpc_method().as_str() {
                "tools/call" if forgotten => status(404),
                "tools/call" => text(&received, "one"),
                "resources/subscribe" | "resources/unsubscribe" => result(&received, json!({})),
                "" => status(405),
                _ => error(&received, 200, -32601, "no such method"),
            }
        }
    });
    let two = legacy("2025-03-26", tools(&["t"]), |received| async move { text(&received, "two") });
    let world = World::of(&[("one", &one.setting()), ("two", &two.setting())]).await;
    let session = world.session("2025-11-25").await;
    let _stream = session.listen().await;
    assert_eq!(session.ask("resources/subscribe", &json!({"uri": "a:1"})).await.json()["result"], json!({}));
    assert_eq!(text_of(&session.tool("one__t", &json!({})).await), "one");
    assert_eq!(text_of(&session.tool("two__t", &json!({})).await), "two");
    let (greeted, others) = (one.received_of("initialize").len(), two.received_of("initialize").len());
    forgets.store(true, Ordering::SeqCst);
    let reply = session.ask("tools/call", &json!({"name": "one__t", "arguments": {}})).await;
    assert_eq!((reply.status.as_u16(), text_of(&reply.json()).as_str()), (200, "one"), "the client notices nothing");
    assert_eq!(one.received_of("initialize").len(), greeted + 1);
    assert_eq!(two.received_of("initialize").len(), others, "the other session goes on");
    eventually("it is subscribed again", || async {
        (one.received_of("resources/subscribe").len() >= 2).then_some(())
    })
    .await;
    world.stop().await;
}

#[tokio::test]
async fn case_43_each_side_speaks_its_own_revision() {
    let echo = |received: outrigger_tests::http_server::Received| async move {
        let meta = received.json()["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"].clone();
        text(&received, &format!("{} {meta}", received.header("mcp-protocol-version")))
    };
    let (old, new) = (legacy("2024-11-05", tools(&["t"]), echo), modern(tools(&["t"]), echo));
    let world = World::of(&[("old", &old.setting()), ("new", &new.setting())]).await;
    let session = world.session("2025-06-18").await;
    assert_eq!(text_of(&session.tool("old__t", &json!({})).await), " null", "2024-11-05 has neither");
    assert_eq!(text_of(&session.tool("new__t", &json!({})).await), "2026-07-28 \"2026-07-28\"");
    assert_eq!(said(&world, "old__t", "{}").await, " null");
    for revision in ["2024-11-05", "2025-03-26", "2025-11-25"] {
        assert_eq!(text_of(&world.session(revision).await.tool("old__t", &json!({})).await), " null", "{revision}");
    }
    world.stop().await;
}

#[tokio::test]
async fn case_58_a_level_holds_for_all_services_and_for_those_that_come_later() {
    let silent = modern(tools(&["t"]), |received| async move { text(&received, "silent") });
    let world = World::of(&[("old", &scripted(&[])), ("silent", &silent.setting())]).await;
    let session = world.session("2025-06-18").await;
    let wrong = session.ask("logging/setLevel", &json!({"level": "loud"})).await;
    refused(&wrong, 200, -32602);
    // One of the services has no logging: that is no reason to fail.
    let set = session.ask("logging/setLevel", &json!({"level": "warning"})).await.json();
    assert_eq!(set["result"], json!({}), "{set}");
    // Its first call comes only now.
    let reply = session.ask("tools/call", &json!({"name": "old__logs", "arguments": {}})).await;
    assert_eq!(levels(&reply), ["warning", "error"]);
    assert_eq!(text_of(&session.tool("silent__t", &json!({})).await), "silent");
    let told = silent.received_of("tools/call").pop().unwrap().json();
    assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/logLevel"], "warning");
    session.ask("logging/setLevel", &json!({"level": "error"})).await;
    let reply = session.ask("tools/call", &json!({"name": "old__logs", "arguments": {}})).await;
    assert_eq!(levels(&reply), ["error"]);
    world.stop().await;
}

#[tokio::test]
async fn case_59_log_messages_that_nobody_asked_for_are_left_out() {
    let world = World::one(&scripted(&[])).await;
    let logs = Call::tool("fs__logs", "{}");
    let none: [&str; 0] = [];
    assert_eq!(levels(&world.client().reply(&logs).await), none);
    assert_eq!(levels(&world.client().reply(&logs.log_level("warning")).await), ["warning", "error"]);
    world.stop().await;
}

#[tokio::test]
async fn case_66_state_of_an_older_server_is_kept_per_principal_and_its_session_id_stays_inside() {
    let server =
        legacy(
            "2025-06-18",
            tools(&["t"]),
            |received| async move { text(&received, received.header("mcp-session-id")) },
        );
    let world = World::of(&[("fs", &scripted(&[])), ("http", &server.setting())]).await;
    for count in ["1", "2"] {
        assert_eq!(said(&world, "fs__count", "{}").await, count, "calls of one principal find the same state");
    }
    let stranger = world.sidecars[0].client(&world.mesh, "stranger");
    assert_eq!(text_of(&stranger.tool("count", "{}").await), "1", "and nobody else's");
    let reply = call(&world, "http__t", "{}").await;
    assert_eq!(text_of(&reply.json()), "s1", "the server was called in its session");
    assert!(reply.headers.get("mcp-session-id").is_none(), "{reply:?}");
    // A session that a modern client makes up means nothing.
    let invented = world.client().reply(&Call::tool("fs__count", "{}").header("mcp-session-id", "invented")).await;
    assert!(matches!(invented.status.as_u16(), 200 | 404), "{invented:?}");
    world.stop().await;
}

#[tokio::test]
async fn case_67_a_call_before_initialized_is_taken() {
    let world = World::one(&scripted(&["--slow-start", "300"])).await;
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/json".parse().unwrap());
    headers.insert("accept", "application/json, text/event-stream".parse().unwrap());
    let params =
        json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}});
    let opened = post(world.client(), &headers, &request(&json!(0), "initialize", &params)).await;
    headers.insert("mcp-session-id", opened.headers["mcp-session-id"].clone());
    let reply = post(world.client(), &headers, &tool(&json!(1), "fs__seen", &json!({}))).await.json();
    let seen: Value = serde_json::from_str(&text_of(&reply)).unwrap();
    assert_eq!(seen["seen"][0], "notifications/initialized", "the server was greeted to the end before it was called");
    world.stop().await;
}

#[tokio::test]
async fn case_68_a_server_that_pings_while_it_is_greeted_is_answered() {
    let world = World::one(&scripted(&["--ping-first"])).await;
    assert_eq!(said(&world, "fs__echo", "{}").await, "{}");
    world.stop().await;
}

#[tokio::test]
async fn case_69_what_we_do_not_know_is_taken_or_refused_and_never_spread() {
    let one = legacy("2025-06-18", tools(&["t"]), |received| async move { text(&received, "one") });
    let two = modern(tools(&["t"]), |received| async move { text(&received, "two") });
    let world = World::of(&[("one", &one.setting()), ("two", &two.setting())]).await;
    let session = world.session("2025-11-25").await;
    assert_eq!(session.tell(&json!({"jsonrpc": "2.0", "method": "notifications/vendor/new"})).await, 202);
    refused(&session.ask("vendor/new", &json!({})).await, 200, -32601);
    let note = world.client().reply(&Call::new("notifications/vendor/new").id(None)).await;
    assert_eq!((note.status.as_u16(), note.body.len()), (202, 0));
    refused(&world.client().reply(&Call::new("vendor/new")).await, 404, -32601);
    for server in [&one, &two] {
        let spread = server.received().iter().any(|received| received.rpc_method().contains("vendor"));
        assert!(!spread);
    }
    world.stop().await;
}

#[tokio::test]
async fn case_70_a_kind_of_result_that_we_do_not_know_passes_to_those_who_may() {
    const REPLY: &str = r#"{"jsonrpc":"2.0", "id":1, "result":{"resultType":"vendor","n":1.50}}"#;
    let server = modern(tools(&["t"]), |_| async { outrigger_proxy::reply::json(http::StatusCode::OK, REPLY) });
    let world = World::one(&server.setting()).await;
    assert_eq!(call(&world, "fs__t", "{}").await.body, REPLY);
    let session = world.session("2025-11-25").await;
    let old = session.ask("tools/call", &json!({"name": "fs__t", "arguments": {}})).await;
    refused(&old, 200, -32603);
    world.stop().await;
}

#[tokio::test]
async fn case_84_a_get_of_an_old_client_is_told_which_method_there_is() {
    let world = World::one(&scripted(&[])).await;
    for accept in ["text/event-stream", "*/*"] {
        let reply = world.client().get("/mcp", &[("accept", accept)]).await;
        assert_eq!((reply.status.as_u16(), reply.header("allow")), (405, "POST"));
        assert!(!reply.body.is_empty(), "it ends");
    }
    let client = world.sidecars[0].ready_client(&world.mesh).await;
    assert_eq!(client.get("/mcp", &[("accept", "text/event-stream")]).await.status.as_u16(), 405);
    world.stop().await;
}

#[tokio::test]
async fn case_85_an_unknown_method_of_a_modern_server_does_not_end_an_older_session() {
    let server = modern(
        json!({"capabilities": {"tools": {}, "prompts": {}}, "tools/list": tools(&["t"])["tools/list"],
        "prompts/list": {"prompts": [{"name": "p"}]}}),
        |received| async move {
            match received.rpc_method().as_str() {
                "tools/call" => text(&received, "called"),
                _ => error(&received, 404, -32601, "Method not found"),
            }
        },
    );
    let world = World::one(&server.setting()).await;
    refused(
        &world.client().reply(&Call::new("prompts/get").params("\"name\":\"fs__p\"").header("mcp-name", "fs__p")).await,
        404,
        -32601,
    );
    let session = world.session("2025-06-18").await;
    refused(&session.ask("prompts/get", &json!({"name": "fs__p"})).await, 200, -32601);
    assert_eq!(text_of(&session.tool("fs__t", &json!({})).await), "called", "the session goes on");
    assert_eq!(session.send(Method::DELETE, "").await.status.as_u16(), 204);
    world.stop().await;
}

#[tokio::test]
async fn case_38_a_stream_that_an_older_server_closes_is_taken_up_again() {
    let server = legacy("2025-11-25", tools(&["t"]), |received| async move {
        let id = json!("1");
        match received.method.as_str() {
            "GET" if received.header("last-event-id") == "prime-1" => {
                let (sender, response) = stream();
                tokio::spawn(async move {
                    let done =
                        json!({"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": id}]}});
                    let mut done = done;
                    done["id"] = json!(LAST.load(Ordering::SeqCst));
                    let _ = sender.send(event(&done)).await;
                    let _ = sender.finish().await;
                });
                response
            }
            "GET" => status(405),
            _ => {
                LAST.store(received.json()["id"].as_u64().unwrap(), Ordering::SeqCst);
                let (sender, response) = stream();
                tokio::spawn(async move {
                    let _ = sender.send(bytes::Bytes::from_static(b"id: prime-1\nretry: 100\ndata: \n\n")).await;
                    let _ = sender.finish().await;
                });
                response
            }
        }
    });
    let world = World::one(&server.setting()).await;
    assert_eq!(said(&world, "fs__t", "{}").await, "1");
    assert_eq!(server.received_of("tools/call").len(), 1, "the call was not made again");
    let resumed = server.received().into_iter().filter(|r| r.header("last-event-id") == "prime-1").count();
    assert_eq!(resumed, 1);
    let session = world.session("2025-11-25").await;
    assert_eq!(text_of(&session.tool("fs__t", &json!({})).await), "1");
    world.stop().await;
}

/// The id of the call that waits, in the test of a stream that is taken up again.
static LAST: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
