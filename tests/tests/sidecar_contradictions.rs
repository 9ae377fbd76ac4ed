//! Servers that are replaced by others while their sidecar runs: what was found out about them holds until they
//! contradict it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use http::Response;
use outrigger_proxy::body::OutBody;
use outrigger_tests::{
    Client, Mesh, TestSidecar, eventually,
    http_server::{HttpServer, Received, error, result, status, text},
    processes::{runs, written},
    sidecar::text_of,
    subjects::words,
};
use serde_json::json;

/// A server of 2026-07-28 and nothing else.
fn modern(received: &Received) -> Response<OutBody> {
    if received.header("mcp-protocol-version") != "2026-07-28" {
        return error(received, 400, -32020, "MCP-Protocol-Version is missing");
    }
    match received.rpc_method().as_str() {
        "server/discover" => result(
            received,
            json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}},
                   "ttlMs": 0, "cacheScope": "private"}),
        ),
        "tools/list" => result(
            received,
            json!({"resultType": "complete", "tools": [{"name": "t", "inputSchema": {"type": "object"}}]}),
        ),
        "tools/call" => text(received, "modern"),
        _ => error(received, 404, -32601, "no such method"),
    }
}

/// A server of 2025-11-25, which knows its clients by their sessions if it has any.
fn legacy(received: &Received, sessions: bool) -> Response<OutBody> {
    match received.rpc_method().as_str() {
        "initialize" => {
            let mut reply = result(
                received,
                json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "h", "version": "1"}}),
            );
            if sessions {
                reply.headers_mut().insert("mcp-session-id", "s1".parse().unwrap());
            }
            reply
        }
        "notifications/initialized" | "notifications/cancelled" => status(202),
        _ if received.method == "GET" => status(405),
        _ if sessions && received.header("mcp-session-id").is_empty() => error(received, 400, -32000, "no session"),
        "ping" => result(received, json!({})),
        "tools/list" => result(received, json!({"tools": [{"name": "t", "inputSchema": {"type": "object"}}]})),
        "tools/call" => result(received, json!({"content": [{"type": "text", "text": "legacy"}]})),
        _ => error(received, 200, -32601, "no such method"),
    }
}

async fn answers(client: &Client, wanted: &str) {
    eventually("calls are answered by the new server", || async {
        let reply = client.tool("t", "{}").await;
        reply.get("result").filter(|_| text_of(&reply) == wanted).map(drop)
    })
    .await;
}

/// `before` is replaced by what `after` is: both say whether a request is answered by the modern server.
async fn replaced(first_modern: bool, sessions: bool) {
    let switched = Arc::new(AtomicBool::new(false));
    let now = switched.clone();
    let server = HttpServer::start(move |received| {
        let is_modern = first_modern != now.load(Ordering::Relaxed);
        async move { if is_modern { modern(&received) } else { legacy(&received, sessions) } }
    });
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &server.setting()).await;
    let client = sidecar.ready_client(&mesh).await;
    let (before, after) = if first_modern { ("modern", "legacy") } else { ("legacy", "modern") };
    assert_eq!(text_of(&client.tool("t", "{}").await), before);
    switched.store(true, Ordering::Relaxed);
    answers(&client, after).await;
    let revision = if first_modern { "2025-11-25" } else { "2026-07-28" };
    sidecar
        .health_where("it is known again", |h| h["status"] == "serving" && h["server"]["revision"] == revision)
        .await;
    sidecar.stop().await;
}

#[tokio::test]
async fn a_legacy_server_with_sessions_becomes_modern() {
    replaced(false, true).await;
}

#[tokio::test]
async fn a_legacy_server_without_sessions_becomes_modern() {
    replaced(false, false).await;
}

#[tokio::test]
async fn a_modern_server_becomes_a_legacy_one_with_sessions() {
    replaced(true, true).await;
}

#[tokio::test]
async fn a_modern_server_becomes_a_legacy_one_without_sessions() {
    replaced(true, false).await;
}

#[tokio::test]
async fn another_version_of_a_stdio_server_is_probed_when_it_refuses_the_old_greeting() {
    let mesh = Mesh::new();
    let (era, pids) = (mesh.path().join("era"), mesh.path().join("pids"));
    std::fs::write(&era, "legacy").unwrap();
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("subjects-local/scripted.py");
    let start = format!("exec python3 {} --era $(cat {}) --pids {}", script.display(), era.display(), pids.display());
    let settings = format!("command: {}\nrestart: {{ initial: 50ms }}\n", words(&["sh", "-c", &start]));
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let client = sidecar.ready_client(&mesh).await;
    assert_eq!(sidecar.health().await["server"]["revision"], "2025-11-25");
    assert_eq!(text_of(&client.tool("echo", "{}").await), "{}");
    std::fs::write(&era, "modern").unwrap();
    for pid in written(&pids).into_iter().filter(|pid| runs(*pid)) {
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap(),
            rustix::process::Signal::KILL,
        );
    }
    sidecar
        .health_where("it is known again", |h| h["status"] == "serving" && h["server"]["revision"] == "2026-07-28")
        .await;
    assert_eq!(text_of(&client.tool("echo", "{}").await), "{}");
    sidecar.stop().await;
}
