//! `Mcp-Param-*` of a modern server whose schemas change without notice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use outrigger_tests::{
    Mesh, Session, TestSidecar,
    http_server::{HttpServer, error, result, text},
    sidecar::text_of,
};
use serde_json::json;

/// A server of one tool, which begins to want its argument in a header at some time, and tells nobody.
struct Changing {
    wants: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
    server: HttpServer,
}

impl Changing {
    fn start(satisfied: bool) -> Self {
        let (wants, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (now, count) = (wants.clone(), refused.clone());
        let server = HttpServer::start(move |asked| {
            let (wants, refused) = (now.load(Ordering::SeqCst), count.clone());
            async move {
                let mut region = json!({"type": "string"});
                if wants {
                    region["x-mcp-header"] = json!("Region");
                }
                match asked.rpc_method().as_str() {
                    "server/discover" => result(
                        &asked,
                        json!({
                            "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "resultType": "complete",
                            "ttlMs": 0, "cacheScope": "public",
                        }),
                    ),
                    "tools/list" => result(
                        &asked,
                        json!({"resultType": "complete", "ttlMs": 0, "cacheScope": "public", "tools": [
                            {"name": "where", "inputSchema": {"type": "object", "properties": {"region": region}}},
                        ]}),
                    ),
                    "tools/call" if !wants || (satisfied && asked.header("mcp-param-region") == "eu") => {
                        text(&asked, "here")
                    }
                    "tools/call" => {
                        refused.fetch_add(1, Ordering::SeqCst);
                        error(&asked, 400, -32020, "Header mismatch")
                    }
                    _ => error(&asked, 404, -32601, "Method not found"),
                }
            }
        });
        Self { wants, refused, server }
    }
}

#[tokio::test]
async fn a_call_refused_for_a_header_is_sent_again_when_the_schema_is_known() {
    let mesh = Mesh::new();
    let changing = Changing::start(true);
    let sidecar = TestSidecar::start(&mesh, &format!("upstream: {}\n", changing.server.url)).await;
    let client = sidecar.ready_client(&mesh).await;
    let session = Session::open(&client, "2025-11-25", &json!({})).await;
    let region = json!({"region": "eu"});
    assert_eq!(text_of(&session.tool("where", &region).await), "here");
    changing.wants.store(true, Ordering::SeqCst);
    assert_eq!(text_of(&session.tool("where", &region).await), "here");
    assert_eq!(changing.refused.load(Ordering::SeqCst), 1);
    // From now on it is known.
    assert_eq!(text_of(&session.tool("where", &region).await), "here");
    assert_eq!(changing.refused.load(Ordering::SeqCst), 1);
    sidecar.stop().await;
}

#[tokio::test]
async fn a_server_that_refuses_whatever_it_gets_is_asked_twice() {
    let mesh = Mesh::new();
    let changing = Changing::start(false);
    let sidecar = TestSidecar::start(&mesh, &format!("upstream: {}\n", changing.server.url)).await;
    let client = sidecar.ready_client(&mesh).await;
    let session = Session::open(&client, "2025-11-25", &json!({})).await;
    changing.wants.store(true, Ordering::SeqCst);
    let reply = session.tool("where", &json!({"region": "eu"})).await;
    // Nothing that a client of this revision could mend.
    assert_eq!(reply["error"]["code"], -32603, "{reply}");
    assert_eq!(changing.refused.load(Ordering::SeqCst), 2);
    sidecar.stop().await;
}
