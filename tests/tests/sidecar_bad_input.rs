//! Bad input: each kind has its status, code and text, is counted, and harms no other request.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request};
use outrigger_proxy::body::OutBody;
use outrigger_tests::{
    Call, Client, Mesh, TestSidecar,
    http_server::{HttpServer, text},
    sidecar::text_of,
    subjects::scripted,
};

fn echo() -> Call {
    Call::tool("echo", "{}")
}

async fn expect(client: &Client, what: &str, call: Call, status: u16, code: i64) {
    let reply = client.reply(&call).await;
    assert_eq!((reply.status.as_u16(), reply.error_code()), (status, code), "{what}: {:?}", reply.body);
    assert!(!reply.json()["error"]["message"].as_str().unwrap().is_empty(), "{what}");
}

#[tokio::test]
async fn bodies_that_are_no_message() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let good = String::from_utf8(echo().bytes()).unwrap();
    let deep = good.replace("\"arguments\":{}", &format!("\"arguments\":{}{}", "[".repeat(5000), "]".repeat(5000)));
    for (what, body, code) in [
        ("empty", String::new(), -32700),
        ("cut off", good[..good.len() - 1].to_owned(), -32700),
        ("two values", format!("{good}{good}"), -32700),
        ("byte order mark", format!("\u{feff}{good}"), -32700),
        ("NUL", format!("{good}\0"), -32700),
        ("a text", "\"hello\"".into(), -32600),
        ("batch", format!("[{good}]"), -32600),
        ("empty batch", "[]".into(), -32600),
        ("no version", good.replace("\"jsonrpc\":\"2.0\",", ""), -32600),
        ("version 1.0", good.replace("\"2.0\"", "\"1.0\""), -32600),
        ("method twice", good.replace("\"method\":", "\"method\":\"ping\",\"method\":"), -32600),
        ("method twice, escaped", good.replace("\"method\":", "\"m\\u0065thod\":\"ping\",\"method\":"), -32600),
        ("name twice", good.replace("\"name\":\"echo\"", "\"name\":\"echo\",\"name\":\"hidden\""), -32600),
        ("id null", good.replace("\"id\":1", "\"id\":null"), -32600),
        ("id boolean", good.replace("\"id\":1", "\"id\":true"), -32600),
        ("id fraction", good.replace("\"id\":1", "\"id\":1.5"), -32600),
    ] {
        expect(&client, what, echo().body(body), 400, code).await;
    }
    let reply = client.reply(&echo().body(deep)).await;
    assert_eq!(reply.status, 400, "deep nesting: {reply:?}");
    expect(&client, "not UTF-8", echo().body(b"{\"jsonrpc\":\"2.0\",\"id\":\"\xff\"}".to_vec()), 400, -32700).await;
    for reason in ["duplicate_key", "batch", "too_deep", "malformed"] {
        let counted = sidecar.metric(&format!("outrigger_bad_requests_total{{reason=\"{reason}\"}}")).await;
        assert!(counted >= 1.0, "{reason}");
    }
    assert_eq!(text_of(&client.reply(&echo()).await.json()), "{}", "good requests go on");
    sidecar.stop().await;
}

#[tokio::test]
async fn requests_that_are_no_mcp() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let send = async |method: Method, path: &str| {
        let sent = client.send(method, path, Request::new(OutBody::empty())).await.unwrap();
        sent.rest().await
    };
    for method in [Method::GET, Method::DELETE, Method::PUT] {
        let reply = send(method, "/mcp").await;
        assert_eq!((reply.status.as_u16(), reply.header("allow")), (405, "POST"));
    }
    assert_eq!(send(Method::POST, "/mesh/v1/health").await.status, 405);
    for path in ["/", "/mcp/", "/mesh/v1", "/..%2fmcp", "/s/fs/mcp"] {
        assert_eq!(send(Method::GET, path).await.status, 404, "{path}");
    }
    for kind in ["text/plain", "", "application/jsonx"] {
        expect(&client, kind, echo().without("content-type").header("content-type", kind), 415, -32600).await;
    }
    expect(&client, "no content type", echo().without("content-type"), 415, -32600).await;
    expect(&client, "gzip", echo().header("content-encoding", "gzip"), 415, -32600).await;
    expect(&client, "accept", echo().without("accept").header("accept", "image/png"), 406, -32600).await;
    for fine in ["*/*", "application/json, text/event-stream;q=0.5"] {
        assert_eq!(client.reply(&echo().without("accept").header("accept", fine)).await.status, 200);
    }
    let charset = echo().without("content-type").header("content-type", "Application/JSON; charset=utf-8");
    assert_eq!(client.reply(&charset).await.status, 200);
    let notification = client.reply(&Call::new("notifications/initialized").id(None)).await;
    assert_eq!((notification.status.as_u16(), notification.body.len()), (202, 0));
    sidecar.stop().await;
}

#[tokio::test]
async fn headers_and_meta_that_do_not_fit() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let named = |value: &str| echo().without("mcp-name").header("mcp-name", value);
    for (what, call) in [
        ("other name", named("sleep")),
        ("name in other case", named("ECHO")),
        ("no name", echo().without("mcp-name")),
        ("two names", echo().header("mcp-name", "sleep")),
        ("raw UTF-8", echo().without("mcp-name").header_bytes("mcp-name", "ecö".as_bytes())),
        ("bad base64", named("=?base64?ZWNobw=?=")),
        ("base64 of bad UTF-8", named("=?base64?//8=?=")),
        ("no method", echo().without("mcp-method")),
        ("other method", echo().without("mcp-method").header("mcp-method", "tools/list")),
        ("method in other case", echo().without("mcp-method").header("mcp-method", "TOOLS/CALL")),
        ("two methods", echo().header("mcp-method", "tools/list")),
        ("no version", echo().without("mcp-protocol-version")),
        ("other version", echo().without("mcp-protocol-version").header("mcp-protocol-version", "2025-11-25")),
    ] {
        expect(&client, what, call, 400, -32020).await;
    }
    let reply = client.reply(&named("=?base64?ZWNobw==?=")).await;
    assert_eq!(text_of(&reply.json()), "{}", "an encoded name is the same name");

    let text = String::from_utf8(echo().bytes()).unwrap();
    let without =
        |key: &str, value: &str| text.replace(&format!("\"io.modelcontextprotocol/{key}\":{value}"), "\"x\":1");
    expect(&client, "no version", echo().body(without("protocolVersion", "\"2026-07-28\"")), 400, -32602).await;
    expect(&client, "no capabilities", echo().body(without("clientCapabilities", "{}")), 400, -32602).await;
    expect(&client, "capabilities of the wrong kind", echo().capabilities("1"), 400, -32602).await;

    let future = echo().without("mcp-protocol-version").header("mcp-protocol-version", "2027-01-01");
    let reply = client.reply(&future.body(text.replace("2026-07-28", "2027-01-01"))).await;
    assert_eq!((reply.status.as_u16(), reply.error_code()), (400, -32022));
    assert_eq!(reply.json()["error"]["data"]["requested"], "2027-01-01");
    assert!(reply.json()["error"]["data"]["supported"].to_string().contains("2026-07-28"));

    for method in ["initialize", "ping", "logging/setLevel", "resources/subscribe"] {
        expect(&client, method, Call::new(method), 404, -32601).await;
    }
    expect(&client, "tools/call without a name", Call::new("tools/call"), 200, -32602).await;
    expect(&client, "a cursor of nobody", Call::new("tools/list").params("\"cursor\":\"zzz\""), 200, -32602).await;
    sidecar.stop().await;
}

#[tokio::test]
async fn names_in_any_script_work_when_they_are_encoded() {
    let server = HttpServer::modern(|received| async move { text(&received, received.header("mcp-name")) });
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &server.setting()).await;
    let client = sidecar.ready_client(&mesh).await;
    for (name, header) in
        [("检索", "=?base64?5qOA57Si?="), ("a b", "a b"), ("=?base64?x?=", "=?base64?PT9iYXNlNjQ/eD89?=")]
    {
        let reply = client.reply(&Call::tool(name, "{}")).await;
        assert_eq!(text_of(&reply.json()), header, "{name}");
    }
    let plain = Call::tool("=?base64?x?=", "{}").without("mcp-name").header("mcp-name", "=?base64?x?=");
    expect(&client, "a sentinel as it is", plain, 400, -32020).await;
    sidecar.stop().await;
}

#[tokio::test]
async fn arguments_that_are_mirrored_in_headers_must_be_equal() {
    let server = HttpServer::modern(|received| async move { text(&received, received.header("mcp-param-region")) });
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &server.setting()).await;
    let client = sidecar.ready_client(&mesh).await;
    let call = || Call::tool("t", r#"{"region":"eu"}"#);
    assert_eq!(text_of(&client.reply(&call().header("mcp-param-region", "eu")).await.json()), "eu");
    expect(&client, "missing", call(), 400, -32020).await;
    expect(&client, "other", call().header("mcp-param-region", "us"), 400, -32020).await;
    expect(&client, "without the argument", Call::tool("t", "{}").header("mcp-param-region", "eu"), 400, -32020).await;
    let unknown = client.reply(&call().header("mcp-param-region", "eu").header("mcp-param-other", "x")).await;
    assert_eq!(unknown.status, 200);
    assert_eq!(server.received_of("tools/call").pop().unwrap().header("mcp-param-other"), "x", "unknown ones pass");
    sidecar.stop().await;
}

#[tokio::test]
async fn bodies_that_are_too_large_or_too_slow() {
    let mesh = Mesh::new();
    let settings = format!("{}limits: {{ body_bytes: 64KiB }}\ntimeouts: {{ body: 300ms }}\n", scripted(&[]));
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let client = sidecar.ready_client(&mesh).await;
    let big = Call::tool("echo", &format!("{{\"a\":\"{}\"}}", "x".repeat(70_000)));
    expect(&client, "declared", big.clone(), 413, -32600).await;

    let streamed = |parts: Vec<Bytes>, end: bool| {
        let (sender, body) = OutBody::channel(1);
        tokio::spawn(async move {
            for part in parts {
                if sender.send(part).await.is_err() {
                    return;
                }
            }
            if !end {
                sender.gone().await;
            }
            let _ = sender.finish().await;
        });
        let mut request = Request::new(body);
        *request.headers_mut() = echo().fields();
        request
    };
    let (credentials, expected) = (mesh.credentials("ingress"), mesh.id("fs"));
    let tls: outrigger_proxy::dial::ClientTlsProvider = Arc::new(move || credentials.client_config(&expected));
    for client in [client.clone(), Client::http1(sidecar.address(), &tls)] {
        let chunks: Vec<Bytes> = big.bytes().chunks(8192).map(Bytes::copy_from_slice).collect();
        let reply = client.send(Method::POST, "/mcp", streamed(chunks, true)).await.unwrap();
        assert_eq!(reply.status, 413, "undeclared");
        let reply = client
            .send(Method::POST, "/mcp", streamed(vec![Bytes::from_static(b"{\"jsonrpc\":")], false))
            .await
            .unwrap();
        assert_eq!(reply.status, 408, "slow");
        assert_eq!(text_of(&client.reply(&echo()).await.json()), "{}");
    }
    assert!(sidecar.metric("outrigger_bad_requests_total{reason=\"too_large\"}").await >= 3.0);
    assert!(sidecar.metric("outrigger_bad_requests_total{reason=\"too_slow\"}").await >= 2.0);
    sidecar.stop().await;
}

#[tokio::test]
async fn where_headers_are_not_checked_they_decide_nothing() {
    let server = HttpServer::modern(|received| async move {
        let headers = ["mcp-method", "mcp-name", "mcp-param-region"].map(|name| received.header(name).to_owned());
        text(&received, &headers.join(" "))
    });
    let mesh = Mesh::new();
    let policy = "  authorization: { rules: [ { name: some, services: [\"*\"], capabilities: [t] } ] }\n";
    let settings = format!("{}header_checks: tolerant\n", server.setting());
    let sidecar = TestSidecar::with_policy(&mesh, policy, &settings).await;
    let client = sidecar.ready_client(&mesh).await;
    let bare = |name: &str| {
        let call = Call::tool(name, r#"{"region":"eu"}"#);
        ["mcp-method", "mcp-name", "mcp-protocol-version"].into_iter().fold(call, Call::without)
    };
    let lies = |call: Call| {
        call.header("mcp-method", "server/discover").header("mcp-name", "t").header("mcp-param-region", "us")
    };
    for call in [bare("t"), lies(bare("t")), bare("t").header("mcp-protocol-version", "2025-11-25")] {
        assert_eq!(text_of(&client.reply(&call).await.json()), "tools/call t eu", "made from the body");
    }
    // Neither does a header let past policy what the body names.
    expect(&client, "another tool under an allowed name", lies(bare("u")), 200, -32602).await;
    assert_eq!(server.received_of("tools/call").len(), 3);
    // What the body leaves out is not taken from a header.
    let body = String::from_utf8(bare("t").bytes()).unwrap().replace("io.modelcontextprotocol/protocolVersion", "x");
    let versioned = bare("t").header("mcp-protocol-version", "2026-07-28").header("mcp-method", "tools/call");
    expect(&client, "no version in the body", versioned.body(body), 400, -32602).await;
    sidecar.stop().await;
}
