//! Cases 13 and 65: what is learned from a server's answers.

use outrigger_tests::http_server::{HttpServer, result, status, text};
use serde_json::{Value, json};

use crate::world::{World, said};

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
