//! Servers of every era over both transports: they are greeted, their catalog is learned, and calls work.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use outrigger_tests::{
    Call, Mesh, TestSidecar,
    http_server::{HttpServer, error, result, status, text},
    sidecar::text_of,
    subjects::{HttpBackend, backend_stdio, installed, scripted, words},
};
use serde_json::{Value, json};

/// What every server of the conformance backend must do, however it is reached.
async fn works(settings: &str, revision: &str) {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, settings).await;
    let client = sidecar.ready_client(&mesh).await;
    let health = sidecar.health().await;
    assert_eq!((health["status"].as_str(), health["server"]["revision"].as_str()), (Some("serving"), Some(revision)));
    assert!(health["catalog"]["tools"].as_array().unwrap().len() > 20);
    assert_eq!(health["catalog"]["resource_templates"].as_array().unwrap().len(), 1);
    assert_eq!(health["catalog"]["instructions"], "Fixture server.");

    let discovered = client.reply(&Call::new("server/discover")).await.json();
    assert!(
        discovered["result"]["supportedVersions"].as_array().unwrap().contains(&json!("2026-07-28")),
        "{discovered}"
    );

    let listed = client.reply(&Call::new("tools/list")).await.json();
    assert_eq!(listed["result"]["tools"], health["catalog"]["tools"]);
    assert_eq!(listed["result"]["resultType"], "complete");
    assert!(listed["result"]["ttlMs"].is_u64() && listed["result"]["cacheScope"].is_string(), "{listed}");

    let called = client.tool("test_simple_text", "{}").await;
    assert_eq!(text_of(&called), "This is a simple text response for testing.");
    assert_eq!(called["result"]["resultType"], "complete");
    assert_eq!(called["result"]["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "mesh-conformance-backend");

    let read = client.reply(&Call::read("test://static-text")).await.json();
    assert_eq!(read["result"]["contents"][0]["uri"], "test://static-text");
    let missing = client.reply(&Call::read("test://nothing")).await;
    assert_eq!((missing.status.as_u16(), missing.error_code()), (200, -32602));
    assert_eq!(missing.json()["error"]["data"]["uri"], "test://nothing");

    let prompt =
        Call::new("prompts/get").params("\"name\":\"test_simple_prompt\"").header("mcp-name", "test_simple_prompt");
    assert!(client.reply(&prompt).await.json()["result"]["messages"].is_array());
    let complete = Call::new("completion/complete")
        .params(r#""ref":{"type":"ref/prompt","name":"p"},"argument":{"name":"arg1","value":"py"}"#);
    assert_eq!(client.reply(&complete).await.json()["result"]["completion"]["values"], json!(["python", "pytorch"]));

    let failed = client.tool("test_error_handling", "{}").await;
    assert_eq!(failed["result"]["isError"], true);
    let unknown = client.reply(&Call::new("no/such")).await;
    assert_eq!((unknown.status.as_u16(), unknown.error_code()), (404, -32601));
    sidecar.stop().await;
}

#[tokio::test]
async fn a_modern_server_over_stdio() {
    works(&backend_stdio("modern"), "2026-07-28").await;
}

#[tokio::test]
async fn a_legacy_server_over_stdio() {
    works(&backend_stdio("legacy"), "2025-11-25").await;
}

#[tokio::test]
async fn a_server_of_both_eras_over_stdio_is_spoken_to_in_the_modern_one() {
    works(&backend_stdio("dual"), "2026-07-28").await;
}

#[tokio::test]
async fn a_modern_server_over_http() {
    let backend = HttpBackend::start("modern").await;
    works(&format!("upstream: {}\n", backend.url), "2026-07-28").await;
}

#[tokio::test]
async fn a_legacy_server_over_http() {
    let backend = HttpBackend::start("legacy").await;
    works(&format!("upstream: {}\n", backend.url), "2025-11-25").await;
}

#[tokio::test]
async fn a_server_of_both_eras_over_http_is_spoken_to_in_the_modern_one() {
    let backend = HttpBackend::start("dual").await;
    works(&format!("upstream: {}\n", backend.url), "2026-07-28").await;
}

#[tokio::test]
async fn the_era_setting_skips_the_probe() {
    let backend = HttpBackend::start("dual").await;
    works(&format!("upstream: {}\nera: legacy\n", backend.url), "2025-11-25").await;
}

#[tokio::test]
async fn the_everything_server_works_unchanged() {
    let mesh = Mesh::new();
    let command = words(&[&installed("npm/node_modules/.bin/mcp-server-everything"), "stdio"]);
    let sidecar = TestSidecar::start(&mesh, &format!("command: {command}\n")).await;
    let client = sidecar.ready_client(&mesh).await;
    assert_eq!(text_of(&client.tool("echo", r#"{"message":"hällo"}"#).await), "Echo: hällo");
    let progress =
        Call::tool("trigger-long-running-operation", r#"{"duration":0.3,"steps":3}"#).meta(r#""progressToken":"p""#);
    let reply = client.reply(&progress).await;
    assert!(reply.events.len() > 1, "{:?}", reply.events);
    assert_eq!(reply.events[0]["params"]["progressToken"], "p");
    sidecar.stop().await;
}

#[tokio::test]
async fn the_time_server_works_unchanged() {
    let mesh = Mesh::new();
    let sidecar =
        TestSidecar::start(&mesh, &format!("command: {}\n", words(&[&installed("venv/bin/mcp-server-time")]))).await;
    let client = sidecar.ready_client(&mesh).await;
    let reply = client.tool("get_current_time", r#"{"timezone":"Europe/Zurich"}"#).await;
    assert!(text_of(&reply).contains("Europe/Zurich"), "{reply}");
    sidecar.stop().await;
}

#[tokio::test]
async fn a_server_that_dies_of_the_probe_is_started_again_and_greeted_the_old_way() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&["--die-at-probe"])).await;
    let client = sidecar.ready_client(&mesh).await;
    assert_eq!(sidecar.health().await["server"]["revision"], "2025-11-25");
    assert_eq!(text_of(&client.tool("echo", r#"{"a":1}"#).await), r#"{"a": 1}"#);
    sidecar.stop().await;
}

#[tokio::test]
async fn a_banner_and_dos_line_ends_are_survived() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&["--banner", "--crlf"])).await;
    let client = sidecar.ready_client(&mesh).await;
    assert_eq!(text_of(&client.tool("echo", r#"{"a":"ü"}"#).await), r#"{"a": "ü"}"#);
    sidecar.stop().await;
}

#[tokio::test]
async fn a_modern_server_that_starts_slower_than_the_probe_waits_is_still_greeted() {
    let mesh = Mesh::new();
    let settings = format!("{}timeouts: {{ probe: 300ms }}\n", scripted(&["--era", "modern", "--slow-start", "1500"]));
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let health = sidecar.health_where("the server serves", |h| h["status"] == "serving").await;
    assert_eq!(health["server"]["revision"], "2026-07-28");
    sidecar.stop().await;
}

#[tokio::test]
async fn a_server_that_never_answers_leaves_the_sidecar_up_and_saying_so() {
    let mesh = Mesh::new();
    let settings = format!("{}timeouts: {{ probe: 200ms }}\n", scripted(&["--never"]));
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let client = sidecar.client(&mesh, "ingress");
    let reply = client.reply(&Call::tool("echo", "{}")).await;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.json()["error"]["data"]["service"], "fs");
    assert_eq!(sidecar.admin("/healthz").await.0, 200);
    assert_eq!(sidecar.admin("/readyz").await.0, 503);
    assert_eq!(sidecar.health().await["status"], "down");
    sidecar.stop().await;
}

#[tokio::test]
async fn an_http_server_that_leaves_the_probe_unanswered_is_greeted_the_old_way() {
    let server = HttpServer::start(|received| async move {
        match received.rpc_method().as_str() {
            "server/discover" => std::future::pending().await,
            "initialize" => result(
                &received,
                json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "h", "version": "1"}}),
            ),
            "tools/list" => result(&received, json!({"tools": []})),
            "tools/call" => text(&received, "old"),
            "notifications/initialized" => status(202),
            _ => error(&received, 405, -32601, "no such method"),
        }
    });
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &format!("{}timeouts: {{ probe: 300ms }}\n", server.setting())).await;
    let client = sidecar.ready_client(&mesh).await;
    assert_eq!(sidecar.health().await["server"]["revision"], "2025-06-18");
    assert_eq!(text_of(&client.tool("t", "{}").await), "old");
    sidecar.stop().await;
}

#[tokio::test]
async fn a_list_without_end_is_cut_and_called_degraded() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&["--endless-pages"])).await;
    let client = sidecar.ready_client(&mesh).await;
    let health: Value = sidecar.health().await;
    assert_eq!(health["status"], "degraded", "{health}");
    assert_eq!(text_of(&client.tool("echo", "{}").await), "{}");
    sidecar.stop().await;
}
