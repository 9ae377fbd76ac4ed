//! Cases 13 and 65: what is learned from a server's answers.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use outrigger_tests::{
    Call,
    http_server::{HttpServer, result, status, text},
};
use serde_json::{Value, json};

use crate::world::{World, modern, refused, said};

#[tokio::test]
async fn case_13_an_argument_that_is_not_mirrored_is_refused_unless_the_list_is_old() {
    let mirrors = Arc::new(AtomicBool::new(true));
    let now = mirrors.clone();
    let server = modern(json!({"capabilities": {"tools": {}}}), move |received| {
        let mut region = json!({"type": "string"});
        if now.load(Ordering::SeqCst) {
            region["x-mcp-header"] = json!("Region");
        }
        async move {
            if received.rpc_method() != "tools/list" {
                return text(&received, "called");
            }
            let tool = json!({"name": "t", "inputSchema": {"type": "object", "properties": {"region": region}}});
            result(&received, json!({"resultType": "complete", "tools": [tool]}))
        }
    });
    let world = World::one(&server.setting()).await;
    let bare = Call::tool("fs__t", r#"{"region":"eu"}"#);
    refused(&world.client().reply(&bare).await, 400, -32020);
    refused(&world.client().reply(&bare.clone().header("mcp-param-region", "us")).await, 400, -32020);
    assert!(server.received_of("tools/call").is_empty());
    assert_eq!(world.client().reply(&bare.clone().header("mcp-param-region", "eu")).await.status, 200);
    // The tool changes without a word. What was fetched less than a second ago is not fetched again.
    mirrors.store(false, Ordering::SeqCst);
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let lists = server.received_of("tools/list").len();
    let reply = world.client().reply(&bare).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(server.received_of("tools/list").len(), lists + 1);
    world.stop().await;
}

#[tokio::test]
async fn case_65_a_server_that_answers_the_probe_with_anything_is_an_older_one() {
    for garbage in [json!({}), json!({"ok": true}), json!("hello"), json!({"tools": []}), json!(null)] {
        let answer: Value = garbage.clone();
        let server = HttpServer::start(move |received| {
            let garbage = answer.clone();
            async move {
                match received.rpc_method().as_str() {
                    "initialize" => result(
                        &received,
                        json!({"protocolVersion": "2025-06-18",
                        "capabilities": {"tools": {}}, "serverInfo": {"name": "sloppy", "version": "1"}}),
                    ),
                    "tools/list" => {
                        result(&received, json!({"tools": [{"name": "t", "inputSchema": {"type": "object"}}]}))
                    }
                    "tools/call" => text(&received, "old"),
                    method if method.starts_with("notifications/") => status(202),
                    "" => status(405),
                    _ => result(&received, garbage),
                }
            }
        });
        let world = World::one(&server.setting()).await;
        assert_eq!(world.sidecars[0].health().await["server"]["revision"], "2025-06-18", "{garbage}");
        assert_eq!(said(&world, "fs__t", "{}").await, "old");
        world.stop().await;
    }
}
