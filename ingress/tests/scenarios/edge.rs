//! Everything that is refused at the edge, and with which words.

use std::time::Duration;

use http::{HeaderMap, Method, Request};
use outrigger_proxy::body::OutBody;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fake::{health, tools};
use crate::mesh::{Client, Mesh, POLICY, eventually};

async fn mesh() -> Mesh {
    Mesh::start(&[("a", health(tools(&["read"])))]).await
}

fn list(client: &Client) -> Request<OutBody> {
    client.request("/mcp", "tools/list", json!({}))
}

#[tokio::test]
async fn callers_must_prove_who_they_are() {
    let mesh = mesh().await;
    for token in [None, Some("wrong-token")] {
        let client = mesh.client.with_token(token);
        let got = client.send(list(&client)).await;
        assert_eq!(got.status, 401);
        let challenge = if token.is_none() { "Bearer" } else { "Bearer error=\"invalid_token\"" };
        assert_eq!(got.headers["www-authenticate"], challenge);
        // Also for a service, whether it exists or not.
        assert_eq!(
            client.ask("/s/a/mcp", "tools/list", json!({})).await.body,
            client.ask("/s/z/mcp", "tools/list", json!({})).await.body
        );
    }
    let mut basic = list(&mesh.client);
    basic.headers_mut().insert("authorization", "Basic YTpi".parse().unwrap());
    assert_eq!(mesh.client.send(basic).await.status, 401);
}

/// Many clients send head and body apart. What the head alone decides must not end a connection that the client may keep.
#[tokio::test]
async fn a_refusal_that_overtakes_the_body_leaves_the_connection_usable() {
    let mesh = mesh().await;
    let head = |length: usize| {
        format!(
            "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let mut socket = mesh.socket().await;
    for _ in 0..2 {
        socket.write_all(head(2).as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        socket.write_all(b"{}").await.unwrap();
        let answer = read_answer(&mut socket).await;
        assert!(answer.starts_with("HTTP/1.1 401") && !answer.contains("connection: close"), "{answer}");
    }
    // Nobody waits for what is long or does not come; then the client is told.
    for length in [1 << 20, 2] {
        let mut socket = mesh.socket().await;
        socket.write_all(head(length).as_bytes()).await.unwrap();
        let answer = read_answer(&mut socket).await;
        assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("connection: close"), "{answer}");
    }
}

/// One answer with a length, headers in lower case as we write them.
async fn read_answer(socket: &mut TcpStream) -> String {
    let (mut answer, mut piece) = (String::new(), [0; 4096]);
    loop {
        let whole = answer.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            length.is_none_or(|length| body.len() >= length.parse().unwrap())
        });
        if whole {
            return answer;
        }
        let count = tokio::time::timeout(Duration::from_secs(20), socket.read(&mut piece)).await.unwrap().unwrap();
        assert!(count > 0, "hung up after {answer:?}");
        answer.push_str(std::str::from_utf8(&piece[..count]).unwrap());
    }
}

#[tokio::test]
async fn anonymous_callers_are_let_in_where_configured() {
    let policy = crate::mesh::POLICY.replace(", requires: [ { scope: read } ]", ", requires: [ { anonymous: true } ]");
    let mesh = Mesh::with(&[("a", health(tools(&["read", "write"])))], &policy, "anonymous: true").await;
    let nobody = mesh.client.with_token(None);
    let wrong = mesh.client.with_token(Some("wrong-token"));
    assert_eq!(wrong.send(list(&wrong)).await.status, 401, "a bad token is no excuse");
    assert_eq!(nobody.send(list(&nobody)).await.status, 200);
}

#[tokio::test]
async fn other_hosts_and_origins_are_refused() {
    let mesh = mesh().await;
    let ask = async |headers: &[(&'static str, &str)]| {
        let mut request = list(&mesh.client);
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        mesh.client.send(request).await.status.as_u16()
    };
    assert_eq!(ask(&[("host", "evil.example.com")]).await, 403);
    assert_eq!(ask(&[("origin", "https://evil.example.com")]).await, 403);
    assert_eq!(ask(&[("origin", "null")]).await, 403);
    assert_eq!(ask(&[("host", "localhost:1"), ("origin", "http://localhost:1")]).await, 200);
    assert_eq!(ask(&[("host", "localhost:1"), ("origin", "http://localhost:3000")]).await, 403, "another program");
    let listed = Mesh::with(
        &[],
        crate::mesh::POLICY,
        "allowed_hosts: [mcp.example.com]\nallowed_origins: [\"https://app.example.com\"]",
    )
    .await;
    let mut request = list(&listed.client);
    request.headers_mut().insert("host", "mcp.example.com".parse().unwrap());
    request.headers_mut().insert("origin", "https://app.example.com".parse().unwrap());
    assert_eq!(listed.client.send(request).await.status, 200);
}

#[tokio::test]
async fn paths_and_methods() {
    let mesh = mesh().await;
    for path in ["/", "/mcp/", "/s/a", "/mesh/v1/health", "/catalog", "/sse", "/s/a/messages"] {
        let got = mesh.client.send(mesh.client.request(path, "tools/list", json!({}))).await;
        assert_eq!(got.status, 404, "{path}");
        assert!(String::from_utf8_lossy(&got.body).contains("/s/<service>/mcp"), "{path}");
    }
    for method in [Method::GET, Method::DELETE, Method::PUT, Method::OPTIONS] {
        let mut request = list(&mesh.client);
        *request.method_mut() = method.clone();
        *request.body_mut() = OutBody::empty();
        let got = mesh.client.send(request).await;
        assert_eq!((got.status.as_u16(), got.headers["allow"].to_str().unwrap()), (405, "POST"), "{method}");
    }
}

#[tokio::test]
async fn bad_bodies_have_their_codes() {
    let mesh = mesh().await;
    let modern = async |body: &'static str| {
        let mut request = list(&mesh.client);
        *request.body_mut() = OutBody::full(body);
        let got = mesh.client.send(request).await;
        (got.status.as_u16(), got.json()["error"]["code"].as_i64().unwrap())
    };
    assert_eq!(modern("{").await, (400, -32700));
    assert_eq!(modern("").await, (400, -32700));
    assert_eq!(modern("[]").await, (400, -32600));
    assert_eq!(modern(r#"{"jsonrpc":"1.0","id":1,"method":"tools/list"}"#).await, (400, -32600));
    assert_eq!(modern(r#"{"jsonrpc":"2.0","id":null,"method":"tools/list"}"#).await, (400, -32600));
    assert_eq!(modern(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call"}"#).await, (400, -32600));
    assert_eq!(
        modern(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}"#).await,
        (400, -32600)
    );
    assert_eq!(modern(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}"#).await, (400, -32602));
    let mut request = list(&mesh.client);
    request.headers_mut().insert("content-type", "text/plain".parse().unwrap());
    assert_eq!(mesh.client.send(request).await.status, 415);
    let mut request = list(&mesh.client);
    request.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    assert_eq!(mesh.client.send(request).await.status, 415);
    let mut request = list(&mesh.client);
    request.headers_mut().insert("accept", "text/html".parse().unwrap());
    assert_eq!(mesh.client.send(request).await.status, 406);
    let nested = "[".repeat(100_000);
    let got = mesh.client.send(mesh.client.raw("/mcp", nested)).await;
    assert_eq!(got.status, 400);
    let huge = mesh.client.send(mesh.client.raw("/mcp", vec![b' '; 5 << 20])).await;
    assert_eq!(huge.status, 413);
}

#[tokio::test]
async fn headers_must_say_what_the_body_says() {
    let mesh = mesh().await;
    let with = async |name: &'static str, value: Option<&str>| {
        let mut request = mesh.client.request("/mcp", "tools/call", json!({ "name": "a__read" }));
        match value {
            Some(value) => drop(request.headers_mut().insert(name, value.parse().unwrap())),
            None => drop(request.headers_mut().remove(name)),
        }
        let got = mesh.client.send(request).await;
        assert_eq!(got.json()["id"], "q1", "{name} {value:?}");
        (got.status.as_u16(), got.json()["error"]["code"].as_i64().unwrap())
    };
    assert_eq!(with("mcp-name", Some("read")).await, (400, -32020), "checked before the prefix goes");
    assert_eq!(with("mcp-name", None).await, (400, -32020));
    assert_eq!(with("mcp-method", Some("TOOLS/CALL")).await, (400, -32020));
    assert_eq!(with("mcp-method", None).await, (400, -32020));
    assert_eq!(with("mcp-protocol-version", None).await, (400, -32020));
    assert!(mesh.fake("a").seen().is_empty());
}

#[tokio::test]
async fn versions_and_methods_that_are_not_served() {
    let mesh = mesh().await;
    let future = mesh.client.request("/mcp", "tools/list", json!({}));
    let mut future = future.map(|_| {
        let params = json!({ "_meta": { "io.modelcontextprotocol/protocolVersion": "2027-01-01", "io.modelcontextprotocol/clientCapabilities": {} } });
        OutBody::full(json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params }).to_string())
    });
    future.headers_mut().insert("mcp-protocol-version", "2027-01-01".parse().unwrap());
    let got = mesh.client.send(future).await;
    assert_eq!((got.status.as_u16(), got.json()["error"]["code"].clone()), (400, json!(-32022)));
    assert_eq!(got.json()["error"]["data"]["requested"], "2027-01-01");
    for method in [
        "initialize",
        "ping",
        "logging/setLevel",
        "resources/subscribe",
        "nope/nope",
        "tasks/list",
        "outrigger.dev/respond",
    ] {
        let got = mesh.client.ask("/mcp", method, json!({})).await;
        assert_eq!((got.status.as_u16(), got.json()["error"]["code"].clone()), (404, json!(-32601)), "{method}");
    }
    let got = mesh.client.send(mesh.client.raw("/mcp", r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#)).await;
    assert_eq!((got.status.as_u16(), got.json()["error"]["code"].clone()), (400, json!(-32020)));
    assert!(got.json()["error"]["message"].as_str().unwrap().contains("2026-07-28"));
}

#[tokio::test]
async fn notifications_are_taken_and_answers_are_not() {
    let mesh = mesh().await;
    let send = async |body: Value| {
        let method = body["method"].as_str().unwrap_or_default().to_owned();
        let mut request = mesh.client.raw("/mcp", body.to_string());
        request.headers_mut().insert("mcp-protocol-version", "2026-07-28".parse().unwrap());
        request.headers_mut().insert("mcp-method", method.parse().unwrap());
        mesh.client.send(request).await
    };
    let got =
        send(json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 1 } })).await;
    assert_eq!((got.status.as_u16(), got.body.len()), (202, 0));
    assert_eq!(send(json!({ "jsonrpc": "2.0", "id": 1, "result": {} })).await.status, 400);
}

#[tokio::test]
async fn refusals_are_counted() {
    let mesh = mesh().await;
    mesh.client.send(mesh.client.raw("/mcp", "{")).await;
    mesh.client.send(mesh.client.request("/nope", "tools/list", json!({}))).await;
    mesh.client.send(mesh.client.raw("/mcp", "[".repeat(200))).await;
    let stranger = mesh.client.with_token(Some("wrong-token"));
    stranger.send(list(&stranger)).await;
    let mut legacy = mesh.client.raw("/mcp", r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
    legacy.headers_mut().insert("mcp-session-id", "gone".parse().unwrap());
    assert_eq!(mesh.client.send(legacy).await.status, 404);
    mesh.garbage(b"NOT HTTP\r\n\r\n").await;
    for reason in ["malformed", "path", "too_deep", "credential", "session", "http"] {
        let line = format!("outrigger_bad_requests_total{{reason=\"{reason}\"}} 1");
        eventually(&line, || async { String::from_utf8_lossy(&mesh.admin("/metrics").await.body).contains(&line) })
            .await;
    }
}

#[tokio::test]
async fn tolerant_routes_go_by_the_body_alone() {
    let services = [("a", health(tools(&["read"])))];
    let strict = Mesh::start(&services).await;
    let tolerant = Mesh::with(&services, POLICY, "header_checks: tolerant").await;
    let ask = async |mesh: &Mesh, path: &str, name: &str, spoil: fn(&mut HeaderMap)| {
        let mut request = mesh.client.request(path, "tools/call", json!({"name": name, "arguments": {}}));
        spoil(request.headers_mut());
        let got = mesh.client.send(request).await;
        (got.status.as_u16(), got.json()["error"]["code"].as_i64())
    };
    let spoils: [fn(&mut HeaderMap); 3] = [
        // Left over from the message before.
        |headers| drop(headers.insert("mcp-method", "server/discover".parse().unwrap())),
        |headers| drop(headers.insert("mcp-name", "write".parse().unwrap())),
        |headers| {
            for name in ["mcp-method", "mcp-name", "mcp-protocol-version"] {
                headers.remove(name);
            }
        },
    ];
    for spoil in spoils {
        for (path, name) in [("/mcp", "a__read"), ("/s/a/mcp", "read")] {
            assert_eq!(ask(&strict, path, name, spoil).await, (400, Some(-32020)));
            assert_eq!(ask(&tolerant, path, name, spoil).await, (200, None));
        }
    }
    assert!(strict.fake("a").seen().is_empty());
    // What the service is sent says what the body says.
    for seen in tolerant.fake("a").seen() {
        assert_eq!(seen.headers["mcp-method"], "tools/call");
        assert_eq!(seen.headers["mcp-name"], "read");
    }
    // A header does not stand for what the body leaves out.
    let mut request = list(&tolerant.client);
    *request.body_mut() = OutBody::full(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}"#);
    assert_eq!(tolerant.client.send(request).await.json()["error"]["code"], -32602);
}
