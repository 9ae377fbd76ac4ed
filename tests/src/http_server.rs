//! A Streamable HTTP server in this process, whose every answer the test decides.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::BodyExt;
use outrigger_proxy::{
    accept::{ListenerSettings, run},
    body::{BodySender, OutBody},
    handshake::ServerTlsProvider,
    reply::{event_stream, json},
};
use outrigger_runtime::{
    ListenOptions, Listener,
    drain::{DrainTrigger, channel},
};
use serde_json::{Value, json as value};

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// The HTTP method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body's bytes.
    pub body: Bytes,
}

impl Received {
    /// The body as JSON; `null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The JSON-RPC method.
    pub fn rpc_method(&self) -> String {
        self.json()["method"].as_str().unwrap_or_default().to_owned()
    }

    /// A header as text; empty without it.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}

/// A running server. It ends when dropped.
pub struct HttpServer {
    /// Its MCP endpoint.
    pub url: String,
    received: Arc<Mutex<Vec<Received>>>,
    _drain: DrainTrigger,
}

impl HttpServer {
    /// Starts a server; `answer` is called for every request.
    pub fn start<R>(answer: impl Fn(Received) -> R + Clone + Send + Sync + 'static) -> Self
    where
        R: Future<Output = Response<OutBody>> + Send + 'static,
    {
        Self::over(None, answer)
    }

    /// The same, over TLS with this certificate and key.
    pub fn over<R>(
        tls: Option<ServerTlsProvider>,
        answer: impl Fn(Received) -> R + Clone + Send + Sync + 'static,
    ) -> Self
    where
        R: Future<Output = Response<OutBody>> + Send + 'static,
    {
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let listener = Listener::bind(ListenOptions::new(any, "test")).unwrap();
        let url = format!("http://{}/mcp", listener.address());
        let received = Arc::new(Mutex::new(Vec::new()));
        let log = received.clone();
        let (trigger, drain) = channel();
        let service = move |_conn, request: http::Request<hyper::body::Incoming>| {
            let (answer, log) = (answer.clone(), log.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                let received =
                    Received { method: head.method, path: head.uri.to_string(), headers: head.headers, body };
                log.lock().unwrap().push(received.clone());
                answer(received).await
            }
        };
        let settings = ListenerSettings { tls, ..ListenerSettings::new("test") };
        tokio::spawn(run(listener, settings, drain, service));
        Self { url, received, _drain: trigger }
    }

    /// A modern server with the tool `t`, whose calls `answer` answers.
    pub fn modern<R>(answer: impl Fn(Received) -> R + Clone + Send + Sync + 'static) -> Self
    where
        R: Future<Output = Response<OutBody>> + Send + 'static,
    {
        Self::start(move |received| {
            let answer = answer.clone();
            async move {
                match received.rpc_method().as_str() {
                    "server/discover" => result(
                        &received,
                        value!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}},
                                "ttlMs": 0, "cacheScope": "private"}),
                    ),
                    "tools/list" => result(&received, value!({"resultType": "complete", "tools": tools()})),
                    _ => answer(received).await,
                }
            }
        })
    }

    /// A legacy server with sessions and the tool `t`, whose calls `answer` answers.
    pub fn legacy<R>(answer: impl Fn(Received) -> R + Clone + Send + Sync + 'static) -> Self
    where
        R: Future<Output = Response<OutBody>> + Send + 'static,
    {
        Self::start(move |received| {
            let answer = answer.clone();
            async move {
                match (received.method.as_str(), received.rpc_method().as_str()) {
                    ("POST", "initialize") => {
                        let mut reply = result(
                            &received,
                            value!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                                    "serverInfo": {"name": "h", "version": "1"}}),
                        );
                        reply.headers_mut().insert("mcp-session-id", "s1".parse().unwrap());
                        reply
                    }
                    ("POST", "tools/list") => result(&received, value!({"tools": tools()})),
                    ("POST", "ping") => result(&received, value!({})),
                    ("POST", "tools/call") => answer(received).await,
                    ("POST", method) if method.starts_with("notifications/") => status(202),
                    ("POST", _) => error(&received, 200, -32601, "no such method"),
                    ("DELETE", _) => status(200),
                    _ => status(405),
                }
            }
        })
    }

    /// Everything that arrived so far.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// What arrived of one JSON-RPC method.
    pub fn received_of(&self, method: &str) -> Vec<Received> {
        self.received().into_iter().filter(|r| r.rpc_method() == method).collect()
    }

    /// The `upstream:` setting.
    pub fn setting(&self) -> String {
        format!("upstream: {}\n", self.url)
    }
}

fn tools() -> Value {
    value!([{"name": "t", "inputSchema": {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}}])
}

/// A result for a request.
pub fn result(to: &Received, result: Value) -> Response<OutBody> {
    json(StatusCode::OK, value!({"jsonrpc": "2.0", "id": to.json()["id"], "result": result}).to_string())
}

/// A tool's text for a request.
pub fn text(to: &Received, text: &str) -> Response<OutBody> {
    result(to, value!({"resultType": "complete", "content": [{"type": "text", "text": text}]}))
}

/// An error for a request.
pub fn error(to: &Received, status: u16, code: i64, message: &str) -> Response<OutBody> {
    let body = value!({"jsonrpc": "2.0", "id": to.json()["id"], "error": {"code": code, "message": message}});
    json(StatusCode::from_u16(status).unwrap(), body.to_string())
}

/// An answer without a body.
pub fn status(status: u16) -> Response<OutBody> {
    let mut response = Response::new(OutBody::empty());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

/// An event stream and the hand that feeds it; [`BodySender::gone`] tells when the reader left.
pub fn stream() -> (BodySender, Response<OutBody>) {
    let (sender, body) = OutBody::channel(16);
    (sender, event_stream(body))
}

/// One event with this message.
pub fn event(message: &Value) -> Bytes {
    outrigger_mcp::sse::event(message.to_string().as_bytes())
}
