//! `subscriptions/listen`, the health document, and the session extension.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use outrigger_tests::{
    Call, Client, Mesh, Stream, TestSidecar, eventually,
    http_server::{HttpServer, status, stream, text},
    processes::written,
    sidecar::text_of,
    subjects::{HttpBackend, backend_stdio, scripted},
    wait::within,
};
use serde_json::{Value, json};

const SUBSCRIPTION: &str = "/params/_meta/io.modelcontextprotocol~1subscriptionId";

fn listen(notifications: &Value) -> Call {
    Call::new("subscriptions/listen").id(Some("\"L\"")).params(&format!("\"notifications\":{notifications}"))
}

/// Opens a listen and returns what was acknowledged.
async fn open(client: &Client, notifications: &Value) -> (Stream, Value) {
    let mut stream = client.open(&listen(notifications)).await;
    let first = stream.next().await.unwrap();
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(first.pointer(SUBSCRIPTION), Some(&json!("L")), "{first}");
    let honoured = first["params"]["notifications"].clone();
    (stream, honoured)
}

async fn list_changes(settings: &str) {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, settings).await;
    let client = sidecar.ready_client(&mesh).await;
    let (mut stream, honoured) = open(&client, &json!({"toolsListChanged": true})).await;
    assert_eq!(honoured, json!({"toolsListChanged": true}));
    let before = sidecar.health().await["catalog"]["tools"].as_array().unwrap().len();
    // A legacy server tells every session; a change in one must reach whoever listens.
    client.tool("test_trigger_prompt_change", "{}").await;
    client.tool("test_trigger_tool_change", "{}").await;
    let changed = stream.next().await.unwrap();
    assert_eq!(changed["method"], "notifications/tools/list_changed", "nothing that was not asked for");
    assert_eq!(changed.pointer(SUBSCRIPTION), Some(&json!("L")));
    // Whoever hears of a change finds the new list.
    let listed = client.reply(&Call::new("tools/list")).await.json();
    assert_eq!(listed["result"]["tools"].as_array().unwrap().len(), before + 1, "{listed}");
    within("stopping", sidecar.stop()).await;
    let end = stream.next().await.expect("a result ends the listen");
    assert_eq!((end["id"].as_str(), end["result"]["resultType"].as_str()), (Some("L"), Some("complete")), "{end}");
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn list_changes_of_a_modern_http_server() {
    let backend = HttpBackend::start("modern").await;
    list_changes(&format!("upstream: {}\n", backend.url)).await;
}

#[tokio::test]
async fn list_changes_of_a_legacy_http_server() {
    let backend = HttpBackend::start("legacy").await;
    list_changes(&format!("upstream: {}\n", backend.url)).await;
}

#[tokio::test]
async fn list_changes_of_a_modern_stdio_server() {
    list_changes(&backend_stdio("modern")).await;
}

#[tokio::test]
async fn list_changes_of_a_legacy_stdio_server() {
    list_changes(&format!("{}session: shared\n", backend_stdio("legacy"))).await;
}

#[tokio::test]
async fn a_storm_of_changes_is_told_once_and_one_that_changes_nothing_not_at_all() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &format!("{}session: shared\n", scripted(&[]))).await;
    let client = sidecar.ready_client(&mesh).await;
    let (mut stream, _) = open(&client, &json!({"toolsListChanged": true})).await;
    client.tool("storm", r#"{"times":2000}"#).await;
    client.tool("change", r#"{"times":500}"#).await;
    // After it something else changes once more, so that the end of the first can be seen.
    sidecar.health_where("all 500 are known", |h| h["catalog"]["tools"].as_array().unwrap().len() > 500).await;
    within("stopping", sidecar.stop()).await;
    let mut told = 0;
    while let Some(message) = stream.next().await {
        told += i32::from(message["method"] == "notifications/tools/list_changed");
    }
    assert!((1..20).contains(&told), "{told} notifications for one change of the catalog");
}

async fn resource_updates(settings: &str) {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::with_policy(
        &mesh,
        "  authorization: { rules: [ { name: r, services: [fs], capabilities: [\"test://a\", \"update\", \"seen\"] } ] }\n",
        settings,
    )
    .await;
    let client = sidecar.ready_client(&mesh).await;
    let wanted = json!({"resourceSubscriptions": ["test://a", "test://hidden"]});
    let (mut stream, honoured) = open(&client, &wanted).await;
    assert_eq!(
        honoured,
        json!({"resourceSubscriptions": ["test://a"]}),
        "what the caller may not read is not honoured"
    );
    for uri in ["test://hidden", "test://b", "test://a"] {
        client.tool("update", &json!({ "uri": uri }).to_string()).await;
    }
    let update = stream.next().await.unwrap();
    assert_eq!(
        (update["method"].as_str(), update["params"]["uri"].as_str()),
        (Some("notifications/resources/updated"), Some("test://a"))
    );
    assert_eq!(update.pointer(SUBSCRIPTION), Some(&json!("L")));
    drop(stream);
    sidecar.stop().await;
}

#[tokio::test]
async fn resource_updates_of_a_legacy_stdio_server() {
    resource_updates(&scripted(&[])).await;
}

#[tokio::test]
async fn resource_updates_of_a_modern_stdio_server() {
    resource_updates(&scripted(&["--era", "modern"])).await;
}

#[tokio::test]
async fn a_legacy_server_is_subscribed_to_once_and_unsubscribed_at_the_end() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let subscribed = async || -> Value {
        let seen: Value = serde_json::from_str(&text_of(&client.tool("seen", "{}").await)).unwrap();
        seen["subscribed"].clone()
    };
    let wanted = json!({"resourceSubscriptions": ["test://a"]});
    let (one, _) = open(&client, &wanted).await;
    let (two, _) = open(&client, &wanted).await;
    assert_eq!(subscribed().await, json!([["resources/subscribe", "test://a"]]));
    drop(one);
    drop(two);
    eventually("it is unsubscribed", || async {
        (subscribed().await == json!([["resources/subscribe", "test://a"], ["resources/unsubscribe", "test://a"]]))
            .then_some(())
    })
    .await;
    sidecar.stop().await;
}

#[tokio::test]
async fn the_session_extension_carries_what_belongs_to_no_call() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let pinned = |call: Call| call.meta(r#""outrigger.dev/session":"s1""#).capabilities(r#"{"roots":{}}"#);
    let mut stream = client.open(&pinned(listen(&json!({"outrigger.dev/session": true})))).await;
    assert_eq!(stream.next().await.unwrap()["params"]["notifications"], json!({"outrigger.dev/session": true}));

    client.reply(&pinned(Call::tool("say", r#"{"text":"hello"}"#))).await;
    let said = stream.next().await.unwrap();
    assert_eq!(
        (said["method"].as_str(), said["params"]["data"].as_str()),
        (Some("notifications/message"), Some("hello"))
    );

    client.reply(&pinned(Call::tool("outside", "{}"))).await;
    let wrapped = stream.next().await.unwrap();
    assert_eq!(wrapped["method"], "notifications/outrigger.dev/request");
    assert_eq!(wrapped["params"]["method"], "roots/list");
    let answer = format!("\"id\":{},\"result\":{{\"roots\":[{{\"uri\":\"file:///x\"}}]}}", wrapped["params"]["id"]);
    let taken = client.reply(&pinned(Call::new("outrigger.dev/respond").params(&answer))).await;
    assert_eq!(taken.json()["result"]["resultType"], "complete", "{taken:?}");
    eventually("the server has its answer", || async {
        let seen = text_of(&client.reply(&pinned(Call::tool("seen", "{}"))).await.json());
        seen.contains("file:///x").then_some(())
    })
    .await;
    sidecar.stop().await;
}

#[tokio::test]
async fn case_24_what_cannot_be_tied_to_one_caller_of_a_shared_session_reaches_nobody() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &format!("{}session: shared\n", scripted(&[]))).await;
    let client = sidecar.ready_client(&mesh).await;
    let of = |session: &str, call: Call| {
        call.meta(&format!("\"outrigger.dev/session\":\"{session}\"")).capabilities(r#"{"roots":{}}"#)
    };
    let wanted = json!({"outrigger.dev/session": true, "toolsListChanged": true});
    let mut streams = Vec::new();
    for session in ["s1", "s2"] {
        let mut stream = client.open(&of(session, listen(&wanted))).await;
        let honoured = stream.next().await.unwrap()["params"]["notifications"].clone();
        assert_eq!(honoured, json!({"toolsListChanged": true}), "it says that it does not do that here");
        streams.push(stream);
    }
    client.reply(&of("s1", Call::tool("say", r#"{"text":"secret"}"#))).await;
    client.reply(&of("s1", Call::tool("outside", "{}"))).await;
    let refused = eventually("the server got its answer", || async {
        let seen = text_of(&client.reply(&of("s1", Call::tool("seen", "{}"))).await.json());
        let seen: Value = serde_json::from_str(&seen).unwrap();
        seen["seen"].as_array().unwrap().iter().find_map(|s| s.get("outside").cloned())
    })
    .await;
    assert_eq!(refused["error"]["code"], -32601, "{refused}");
    let answer = "\"id\":1,\"result\":{\"roots\":[]}";
    let stray = client.reply(&of("s1", Call::new("outrigger.dev/respond").params(answer))).await;
    assert_eq!(stray.error_code(), -32603, "{stray:?}");
    client.tool("change", "{}").await;
    for mut stream in streams {
        assert_eq!(stream.next().await.unwrap()["method"], "notifications/tools/list_changed", "and nothing before it");
    }
    sidecar.stop().await;
}

#[tokio::test]
async fn an_answer_for_a_session_that_is_over_opens_none() {
    let mesh = Mesh::new();
    let pids = mesh.path().join("pids");
    let sidecar = TestSidecar::start(&mesh, &scripted(&["--pids", pids.to_str().unwrap()])).await;
    let client = sidecar.ready_client(&mesh).await;
    let answer = "\"id\":1,\"result\":{\"roots\":[]}";
    let call = Call::new("outrigger.dev/respond").params(answer).meta(r#""outrigger.dev/session":"c.gone""#);
    let stray = client.reply(&call).await;
    assert_eq!((stray.status.as_u16(), stray.error_code()), (200, -32603), "{stray:?}");
    assert_eq!(written(&pids).len(), 1, "only the one of the catalog");
    sidecar.stop().await;
}

#[tokio::test]
async fn the_health_document_has_an_etag_and_waits_for_changes() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &format!("{}session: shared\n", scripted(&[]))).await;
    let client = sidecar.ready_client(&mesh).await;
    let first = client.get("/mesh/v1/health", &[]).await;
    let document = first.json();
    assert_eq!((document["service"].as_str(), document["status"].as_str()), (Some("fs"), Some("serving")));
    assert_eq!(document["server"], json!({"name": "scripted", "version": "1", "revision": "2025-11-25"}));
    assert_eq!(document["catalog"]["instructions"], "Be kind.");
    let etag = first.header("etag").to_owned();
    let same = client.get("/mesh/v1/health", &[("if-none-match", &etag)]).await;
    assert_eq!((same.status.as_u16(), same.body.len(), same.header("etag")), (304, 0, etag.as_str()));

    let waiting = tokio::spawn({
        let (client, etag) = (client.clone(), etag.clone());
        async move { client.get("/mesh/v1/health?wait=60s", &[("if-none-match", &etag)]).await }
    });
    client.tool("change", "{}").await;
    let changed = within("the change", waiting).await.unwrap();
    assert_eq!(changed.status, 200);
    assert_ne!(changed.header("etag"), etag);
    assert_ne!(changed.json()["catalog"]["fingerprint"], document["catalog"]["fingerprint"]);
    let over = client.get("/mesh/v1/health?wait=100ms", &[("if-none-match", changed.header("etag"))]).await;
    assert_eq!(over.status, 304, "nothing changed in that time");

    let waiting = tokio::spawn({
        let (client, etag) = (client.clone(), changed.header("etag").to_owned());
        async move { client.get("/mesh/v1/health?wait=60s", &[("if-none-match", &etag)]).await }
    });
    // The poll is on its way before the drain begins: its connection carries it already.
    let busy = tokio::spawn({
        let client = client.clone();
        async move { client.tool("sleep", r#"{"ms":500}"#).await }
    });
    eventually("the call runs", || async { (sidecar.health().await["load"]["in_flight"] == 1).then_some(()) }).await;
    sidecar.stop().await;
    assert_eq!(waiting.await.unwrap().json()["status"], "draining");
    assert_eq!(text_of(&busy.await.unwrap()), "slept");
}

/// A server that cannot take the sidecar's own listen at first tells it of changes all the same.
#[tokio::test]
async fn a_listen_that_does_not_begin_is_tried_again() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let mesh = Mesh::new();
    let asked = std::sync::Arc::new(AtomicUsize::new(0));
    let server = HttpServer::modern(move |received| {
        let asked = asked.clone();
        async move {
            match received.rpc_method().as_str() {
                "subscriptions/listen" if asked.fetch_add(1, Ordering::SeqCst) < 2 => status(503),
                "subscriptions/listen" => {
                    let (sender, response) = stream();
                    tokio::spawn(async move { sender.gone().await });
                    response
                }
                _ => text(&received, "ok"),
            }
        }
    });
    let sidecar = TestSidecar::start(&mesh, &server.setting()).await;
    sidecar.ready_client(&mesh).await;
    eventually("it listens", || async { (server.received_of("subscriptions/listen").len() == 3).then_some(()) }).await;
    sidecar.stop().await;
}
