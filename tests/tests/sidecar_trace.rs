//! Trace context: the caller's span becomes the parent of ours, and ours of the server's, over every transport.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use outrigger_tests::{
    Call, Mesh, TestSidecar,
    http_server::{HttpServer, text},
    sidecar::text_of,
    subjects::scripted,
};
use serde_json::Value;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn parent() -> String {
    format!("00-{TRACE}-{SPAN}-01")
}

/// Trace id and span id of a valid `traceparent`.
fn parts(traceparent: &str) -> (String, String) {
    let fields: Vec<&str> = traceparent.split('-').collect();
    assert!(fields.len() == 4 && fields[0] == "00" && fields[1].len() == 32 && fields[2].len() == 16, "{traceparent}");
    assert!(fields[1].bytes().any(|b| b != b'0') && fields[2].bytes().any(|b| b != b'0'), "{traceparent}");
    (fields[1].to_owned(), fields[2].to_owned())
}

fn of_meta(call: Call, value: &str) -> Call {
    call.meta(&format!("\"traceparent\":{value}"))
}

#[tokio::test]
async fn a_stdio_server_gets_a_child_span_in_meta() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let sent = async |call: Call| -> (String, String, Value) {
        let line: Value = serde_json::from_str(&text_of(&client.reply(&call).await.json())).unwrap();
        let meta = line["params"]["_meta"].clone();
        let (trace, span) = parts(meta["traceparent"].as_str().unwrap());
        (trace, span, meta)
    };
    let line = || Call::tool("line", "{}");
    let (trace, span, meta) = sent(of_meta(line(), &format!("\"{}\"", parent())).meta(r#""tracestate":"a=b""#)).await;
    assert_eq!(trace, TRACE);
    assert!(meta["tracestate"].as_str().unwrap().ends_with("a=b"), "{meta}");
    assert_ne!(span, SPAN, "a span of our own");
    let (trace, _, _) = sent(line().header("traceparent", &parent())).await;
    assert_eq!(trace, TRACE, "from the header");
    let (trace, _, _) = sent(line().header("x-mcpx-trace-id", TRACE).header("x-mcpx-span-id", SPAN)).await;
    assert_eq!(trace, TRACE, "from the old headers");
    let other = format!("\"00-1{}-{SPAN}-01\"", &TRACE[1..]);
    let (trace, _, _) = sent(of_meta(line(), &other).header("traceparent", &parent())).await;
    assert_ne!(trace, TRACE, "`_meta` wins over the header");
    let zero = format!("\"00-{}-{SPAN}-01\"", "0".repeat(32));
    for garbage in ["\"garbage\"", "17", "null", zero.as_str(), "\"\""] {
        let (trace, _, _) = sent(of_meta(line(), garbage)).await;
        assert_ne!(trace, TRACE, "replaced: {garbage}");
    }
    sent(line()).await;
    sidecar.stop().await;
}

#[tokio::test]
async fn an_http_server_gets_the_same_child_span_in_header_and_meta() {
    for modern in [true, false] {
        let answer = |received: outrigger_tests::http_server::Received| async move { text(&received, "ok") };
        let server = if modern { HttpServer::modern(answer) } else { HttpServer::legacy(answer) };
        let mesh = Mesh::new();
        let sidecar = TestSidecar::start(&mesh, &server.setting()).await;
        let client = sidecar.ready_client(&mesh).await;
        client
            .reply(&of_meta(Call::tool("t", "{}"), &format!("\"{}\"", parent())).header("traceparent", "garbage"))
            .await;
        let got = server.received_of("tools/call").pop().unwrap();
        let meta = got.json()["params"]["_meta"]["traceparent"].as_str().unwrap().to_owned();
        assert_eq!(got.header("traceparent"), meta, "modern: {modern}");
        let (trace, span) = parts(&meta);
        assert_eq!(trace, TRACE);
        assert_ne!(span, SPAN);
        sidecar.stop().await;
    }
}
