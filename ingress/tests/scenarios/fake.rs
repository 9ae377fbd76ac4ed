//! A sidecar as far as the ingress can tell: mTLS, a health document that can be changed, and scripted answers.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use outrigger_identity::Credentials;
use outrigger_proxy::accept::{self, ListenerSettings};
use outrigger_proxy::body::{BodySender, OutBody, read_bounded};
use outrigger_proxy::reply;
use outrigger_runtime::{DrainTrigger, ListenOptions, Listener, drain};
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

/// A running fake.
pub struct Fake {
    pub address: SocketAddr,
    pub state: Arc<State>,
    _trigger: DrainTrigger,
    serving: JoinHandle<()>,
}

/// What it says and what it has seen.
pub struct State {
    name: String,
    replica: u64,
    health: watch::Sender<(u64, Value)>,
    pub seen: Mutex<Vec<Seen>>,
    /// Calls of `hang` that began, and that were let go of.
    pub hanging: AtomicUsize,
    pub cancelled: AtomicUsize,
    /// Every call is answered with an error of the server's side.
    misbehaves: AtomicBool,
    /// Every call is refused before its server has it.
    refuses: AtomicBool,
    /// Every call breaks off.
    breaks_off: AtomicBool,
    /// Calls of `once` so far.
    once: AtomicUsize,
    /// What open streams send next: raw bytes, or the end.
    pub stream: broadcast::Sender<Option<Bytes>>,
}

/// One request to `/mcp`.
#[derive(Clone, Debug)]
pub struct Seen {
    pub headers: HeaderMap,
    pub body: Value,
    pub raw: Bytes,
}

/// A health document with these parts of a catalog.
pub fn health(catalog: Value) -> Value {
    let mut catalog = catalog;
    catalog["fetched_at"] = json!(1_800_000_000_000_u64);
    json!({ "status": "serving", "server": { "name": "fake", "version": "1", "revision": "2026-07-28" }, "catalog": catalog })
}

/// The document of a service that lists these to everybody who asks, and nothing in its health.
pub fn per_caller(lists: Value) -> Value {
    let mut document = health(json!({ "capabilities": lists["capabilities"] }));
    document["own_lists"] = health(lists)["catalog"].take();
    document["lists"] = json!("per_caller");
    document
}

/// A catalog of tools by name.
pub fn tools(names: &[&str]) -> Value {
    let tools: Vec<_> = names.iter().map(|name| json!({ "name": name, "inputSchema": { "type": "object" } })).collect();
    json!({ "tools": tools, "capabilities": { "tools": {} } })
}

impl Fake {
    pub async fn start(name: &str, credentials: Arc<Credentials>, health: Value) -> Self {
        Self::at(name, credentials, health, "127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn at(name: &str, credentials: Arc<Credentials>, health: Value, address: SocketAddr) -> Self {
        let listener = Listener::bind(ListenOptions::new(address, "fake")).unwrap();
        let address = listener.address();
        let state = Arc::new(State {
            name: name.to_owned(),
            replica: fastrand::u64(..),
            health: watch::Sender::new((1, health)),
            seen: Mutex::default(),
            hanging: AtomicUsize::new(0),
            cancelled: AtomicUsize::new(0),
            misbehaves: AtomicBool::new(false),
            refuses: AtomicBool::new(false),
            breaks_off: AtomicBool::new(false),
            once: AtomicUsize::new(0),
            stream: broadcast::Sender::new(64),
        });
        let (trigger, watcher) = drain::channel();
        let settings = ListenerSettings {
            tls: Some(Arc::new(move || credentials.server_config())),
            ..ListenerSettings::new("fake")
        };
        let shared = Arc::clone(&state);
        let serving = tokio::spawn(accept::run(listener, settings, watcher, move |_, request| {
            let state = Arc::clone(&shared);
            Box::pin(async move { state.serve(request).await })
        }));
        Self { address, state, _trigger: trigger, serving }
    }

    /// The process is killed: every connection is cut.
    pub async fn kill(self) -> SocketAddr {
        self.serving.abort();
        let _ = self.serving.await;
        self.address
    }

    pub fn publish(&self, health: Value) {
        self.state.health.send_modify(|(version, document)| {
            *version += 1;
            *document = health;
        });
    }

    pub fn misbehave(&self, from_now_on: bool) {
        self.state.misbehaves.store(from_now_on, Ordering::SeqCst);
    }

    pub fn refuse(&self, from_now_on: bool) {
        self.state.refuses.store(from_now_on, Ordering::SeqCst);
    }

    pub fn break_off(&self, from_now_on: bool) {
        self.state.breaks_off.store(from_now_on, Ordering::SeqCst);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    pub fn say(&self, event: &Value) {
        self.state.stream.send(Some(outrigger_mcp::sse::event(event.to_string().as_bytes()))).unwrap();
    }
}

impl State {
    async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Response<OutBody> {
        let (parts, body) = request.into_parts();
        if parts.uri.path() == "/mesh/v1/health" {
            return self.health(&parts).await;
        }
        let body = read_bounded(body, 1 << 20, Duration::from_secs(5)).await.unwrap();
        // Texts with a lone surrogate are legal on the wire, but not for this parser.
        let message: Value = serde_json::from_slice(&body).unwrap_or_default();
        self.seen.lock().unwrap().push(Seen { headers: parts.headers, body: message.clone(), raw: body });
        self.answer(&message).await
    }

    async fn health(&self, parts: &http::request::Parts) -> Response<OutBody> {
        let mut current = self.health.subscribe();
        let known = parts.headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).map(str::to_owned);
        // Another process under the same address counts from 1 again, but is another replica.
        let tag = |version: u64| format!("\"{}.{version}\"", self.replica);
        if known == Some(tag(current.borrow_and_update().0)) && parts.uri.query().is_some() {
            let _ = tokio::time::timeout(Duration::from_secs(20), current.changed()).await;
        }
        let (version, document) = current.borrow().clone();
        let mut response = if known == Some(tag(version)) {
            let mut response = Response::new(OutBody::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            reply::json(StatusCode::OK, document.to_string())
        };
        response.headers_mut().insert(header::ETAG, tag(version).parse().unwrap());
        response
    }

    async fn answer(self: &Arc<Self>, message: &Value) -> Response<OutBody> {
        let id = message["id"].clone();
        let result = |result: Value| {
            reply::json(StatusCode::OK, json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }).to_string())
        };
        let name = message["params"]["name"].as_str().unwrap_or_default();
        if self.misbehaves.load(Ordering::SeqCst) {
            let error = json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32603, "message": "broken" } });
            return reply::json(StatusCode::BAD_GATEWAY, error.to_string());
        }
        assert!(!self.breaks_off.load(Ordering::SeqCst), "on purpose");
        if self.refuses.load(Ordering::SeqCst) {
            let failure =
                outrigger_proxy::failure::Failure::Unavailable { service: "a".into(), reason: "starting".into() };
            let mut response = reply::failure(&failure, Some(b"1"), reply::Dialect::Modern);
            response.headers_mut().insert(outrigger_mcp::headers::UNSENT, "1".parse().unwrap());
            return response;
        }
        match (message["method"].as_str().unwrap_or_default(), name) {
            ("subscriptions/listen", _) => {
                let (sender, body) = OutBody::channel(4);
                let ack = json!({ "jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
                    "params": { "notifications": message["params"]["notifications"],
                        "_meta": { "io.modelcontextprotocol/subscriptionId": id } } });
                let first = outrigger_mcp::sse::event(ack.to_string().as_bytes());
                self.feed(sender, first);
                reply::event_stream(body)
            }
            (_, "stream") => {
                let (sender, body) = OutBody::channel(4);
                self.feed(sender, Bytes::new());
                reply::event_stream(body)
            }
            (_, "hang") => {
                self.hanging.fetch_add(1, Ordering::SeqCst);
                let _guard = Cancelled(Arc::clone(self));
                std::future::pending().await
            }
            (_, "wait") => {
                let mut script = self.stream.subscribe();
                self.hanging.fetch_add(1, Ordering::SeqCst);
                let _ = script.recv().await;
                result(json!({ "content": [], "by": self.name }))
            }
            // What a crash looks like: the connection ends instead of an answer.
            (_, "cut") => panic!("on purpose"),
            ("tools/call", "once") if self.once.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) => {
                panic!("on purpose")
            }
            (_, "pay_asking") if message["params"]["inputResponses"].is_null() => result(question()),
            (_, "fail") => result(json!({ "isError": true, "content": [] })),
            (_, "html") => {
                let mut response = reply::json(StatusCode::BAD_GATEWAY, "<html>");
                response.headers_mut().insert(header::CONTENT_TYPE, "text/html".parse().unwrap());
                response
            }
            (_, "forbidden") => reply::json(StatusCode::FORBIDDEN, "{}"),
            ("outrigger.dev/catalog", _) => {
                result(json!({ "lists": "own", "catalog": self.health.borrow().1["own_lists"] }))
            }
            ("tasks/get", _) => {
                let link = json!({ "type": "resource_link", "uri": "n:///x", "name": "x" });
                let task = json!({ "resultType": "complete", "taskId": message["params"]["taskId"], "status": "completed",
                    "result": { "content": [link] } });
                result(task)
            }
            ("resources/read", _) if message["params"]["uri"] == "file:///gone" => {
                let error = json!({ "code": -32602, "message": "gone", "data": { "uri": "file:///gone" } });
                reply::json(
                    StatusCode::OK,
                    json!({ "jsonrpc": "2.0", "id": message["id"], "error": error }).to_string(),
                )
            }
            ("resources/read", _) => {
                result(json!({ "contents": [{ "uri": message["params"]["uri"], "text": self.name }] }))
            }
            _ => result(json!({ "resultType": "complete", "by": self.name, "echo": message["params"] })),
        }
    }

    fn feed(&self, sender: BodySender, first: Bytes) {
        let mut script = self.stream.subscribe();
        tokio::spawn(async move {
            if sender.send(first).await.is_err() {
                return;
            }
            while let Ok(Some(bytes)) = script.recv().await {
                if sender.send(bytes).await.is_err() {
                    return;
                }
            }
            let _ = sender.finish().await;
        });
    }
}

/// What a server answers that has to know more.
fn question() -> Value {
    json!({ "resultType": "input_required", "requestState": "of the server", "inputRequests": {
        "q": { "method": "elicitation/create", "params": { "mode": "form", "message": "which?" } },
    } })
}

struct Cancelled(Arc<State>);

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.0.cancelled.fetch_add(1, Ordering::SeqCst);
    }
}
