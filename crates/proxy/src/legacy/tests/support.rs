//! A scripted mesh, and a client that reads what it is sent.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::body::OutBody;
use crate::failure::Failure;
use crate::listens::Listens;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use http_body_util::BodyExt;
use outrigger_mcp::envelope::Message;
use outrigger_mcp::json::decode_string;
use outrigger_mcp::revision::Revision;
use outrigger_mcp::sse::{Event, Parser};
use outrigger_policy::Principal;
use outrigger_telemetry::{Metrics, Role};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::super::keys::Keys;
use super::super::mesh::{Given, Later, Mesh, Messages, Told, Unheard};
use super::super::seam::{Caller, Change, Declared, Inbound, Route, Wanted};
use super::super::{Bounds, Kept, Sessions, Settings, http_sse, refusal, serve};

pub(super) const DISCOVERED: &str = r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true},"resources":{"subscribe":true},"extensions":{"x":{}}},"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s","version":"1"}}}"#;

/// What a session is held to, unless a test changes it.
pub(super) const BOUNDS: Bounds = Bounds {
    request: Duration::from_secs(300),
    keepalive: Duration::from_secs(15),
    requests: 256,
    subscriptions: 1000,
    resume: Kept { bytes: 1 << 20, life: Duration::from_secs(60) },
};

/// The mesh as the test plays it.
#[derive(Clone)]
pub(super) struct Script {
    tag: Arc<str>,
    calls: mpsc::UnboundedSender<Asked>,
    listens: mpsc::UnboundedSender<Listening>,
    /// The result of every list, where lists are kept.
    pub(super) kept: Option<Bytes>,
    /// The tags of sessions that their clients have ended.
    pub(super) ended: watch::Sender<Vec<String>>,
}

/// A call that reached the mesh.
pub(super) struct Asked {
    pub(super) message: Message,
    pub(super) tag: String,
    pub(super) route: Route,
    answer: oneshot::Sender<Result<Given, Failure>>,
}

/// A session that listens.
pub(super) struct Listening {
    pub(super) wanted: Wanted,
    pub(super) changes: mpsc::Sender<Change>,
    pub(super) resources: mpsc::UnboundedReceiver<Vec<String>>,
    /// Whether the services take their time to begin.
    pub(super) holds: watch::Sender<bool>,
}

struct Feed(mpsc::Receiver<Result<Message, Failure>>);

struct Ears(mpsc::Receiver<Change>, mpsc::UnboundedSender<Vec<String>>, watch::Receiver<bool>);

impl Mesh for Script {
    fn in_session(&self, tag: Arc<str>, _: Declared) -> Arc<dyn Mesh> {
        Arc::new(Self { tag, ..self.clone() })
    }

    fn call<'a>(&'a self, route: &'a Route, message: Message) -> Later<'a, Result<Given, Failure>> {
        Box::pin(async move {
            if message.method == outrigger_mcp::method::Method::ServerDiscover {
                return Ok(Given::Message(result(&message, DISCOVERED)));
            }
            let (answer, given) = oneshot::channel();
            self.calls.send(Asked { message, tag: self.tag.to_string(), route: route.clone(), answer }).ok();
            given.await.unwrap_or_else(|_| Err(Failure::Internal("the script ended".into())))
        })
    }

    fn list<'a>(
        &'a self,
        _: &'a Route,
        message: &'a Message,
        _: Revision,
    ) -> Option<Later<'a, Result<Vec<Bytes>, Failure>>> {
        let (kept, id) = (self.kept.clone()?, message.id().unwrap());
        let head = [br#"{"jsonrpc":"2.0","id":"#, &*id, br#","result":"#].concat();
        Some(Box::pin(async move { Ok(vec![head.into(), kept, Bytes::from_static(b"}")]) }))
    }

    fn service(&self, _: &Route, _: &Message) -> Option<Arc<str>> {
        Some("told".into())
    }

    fn knows(&self, _: &Route, uri: &str) -> bool {
        !uri.starts_with("hidden:")
    }

    #[expect(clippy::disallowed_methods, reason = "a test reads what it makes happen")]
    fn changes(&self, _: &Route, wanted: Wanted) -> Box<dyn Told> {
        let (changes, ears) = mpsc::channel(16);
        let (set, resources) = mpsc::unbounded_channel();
        let (holds, held) = watch::channel(false);
        self.listens.send(Listening { wanted, changes, resources, holds }).ok();
        Box::new(Ears(ears, set, held))
    }

    fn ended(&self, _: &Route) {
        self.ended.send_modify(|tags| tags.push(self.tag.to_string()));
    }
}

impl Messages for Feed {
    fn next(&mut self) -> Later<'_, Result<Option<Message>, Failure>> {
        Box::pin(async move { self.0.recv().await.transpose() })
    }
}

impl Told for Ears {
    fn set_resources(&mut self, uris: Vec<String>) {
        self.1.send(uris).ok();
    }

    /// The script's services refuse what begins with `refused:`.
    fn begun(&mut self) -> Later<'static, Unheard> {
        let (mut held, mut refused) = (self.2.clone(), Unheard::new());
        let limit = Failure::Limited { limit: "l".into(), retry_after: Duration::from_secs(1), service: None };
        refused.insert("refused:limit".into(), Arc::new(limit));
        let unknown = Failure::UnknownCapability { kind: "resource", name: "own".into() };
        refused.insert("refused:unknown".into(), Arc::new(unknown));
        Box::pin(async move {
            drop(held.wait_for(|held| !held).await);
            refused
        })
    }

    fn next(&mut self) -> Later<'_, Option<Change>> {
        Box::pin(self.0.recv())
    }
}

pub(super) fn message(text: &str) -> Message {
    Message::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

fn result(of: &Message, result: &str) -> Bytes {
    outrigger_mcp::error::result_reply(&of.id().unwrap(), result.as_bytes())
}

impl Asked {
    /// Answers with one result.
    pub(super) fn result(self, text: &str) {
        let reply = result(&self.message, text);
        self.answer.send(Ok(Given::Message(reply))).ok();
    }

    /// Answers with a failure.
    pub(super) fn fail(self, failure: Failure) {
        self.answer.send(Err(failure)).ok();
    }

    /// Answers with a stream, which the test feeds. The sender closes when the call is dropped.
    pub(super) fn stream(self) -> mpsc::Sender<Result<Message, Failure>> {
        let (feed, messages) = mpsc::channel(16);
        self.answer.send(Ok(Given::Stream(Box::new(Feed(messages))))).ok();
        feed
    }

    /// Resolves when nobody waits for the answer any more.
    pub(super) async fn dropped(mut self) {
        self.answer.closed().await;
    }

    pub(super) fn body(&self) -> &str {
        std::str::from_utf8(self.message.body()).unwrap()
    }
}

/// A mesh, the sessions before it, and what reaches the mesh.
pub(super) struct World {
    pub(super) sessions: Arc<Sessions>,
    pub(super) mesh: Arc<Script>,
    calls: mpsc::UnboundedReceiver<Asked>,
    listens: mpsc::UnboundedReceiver<Listening>,
}

/// A client of the world's sessions.
#[derive(Clone)]
pub(super) struct Client {
    sessions: Arc<Sessions>,
    pub(super) caller: Caller,
    pub(super) route: Route,
    pub(super) headers: HeaderMap,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    /// A world with other settings than these.
    #[expect(clippy::disallowed_methods, reason = "a test reads what it makes happen")]
    pub(super) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let metrics = Metrics::new(Role::Ingress).unwrap();
        let merged = metrics.service("*");
        let mut settings = Settings {
            sessions: 10_000,
            sessions_per_principal: 100,
            idle: Duration::from_secs(30 * 60),
            max_age: Duration::from_secs(7 * 24 * 3600),
            names: ["limits.sessions", "limits.sessions_per_principal"],
            listens: Listens::new(1000, 100, Arc::clone(&merged)),
            each: BOUNDS,
            http_sse: true,
        };
        change(&mut settings);
        let (call_sender, calls) = mpsc::unbounded_channel();
        let (listen_sender, listens) = mpsc::unbounded_channel();
        Self {
            sessions: Arc::new(Sessions::new(settings, Keys::random().unwrap(), &metrics, merged)),
            mesh: Arc::new(Script {
                tag: "p.x".into(),
                kept: None,
                calls: call_sender,
                listens: listen_sender,
                ended: watch::Sender::default(),
            }),
            calls,
            listens,
        }
    }

    /// The next call that reaches the mesh.
    pub(super) async fn asked(&mut self) -> Asked {
        tokio::time::timeout(Duration::from_secs(60), self.calls.recv()).await.expect("no call").unwrap()
    }

    /// The next session that listens.
    pub(super) async fn listening(&mut self) -> Listening {
        tokio::time::timeout(Duration::from_secs(600), self.listens.recv()).await.expect("no listen").unwrap()
    }

    /// Whether a call is there that the test has not looked at.
    pub(super) fn quiet(&mut self) -> bool {
        self.calls.try_recv().is_err()
    }

    /// A client without a session.
    pub(super) fn stranger(&self, name: &str) -> Client {
        let caller =
            Caller { principal: Principal::user(name).unwrap(), mesh: Arc::clone(&self.mesh) as Arc<dyn Mesh> };
        let mut headers = HeaderMap::new();
        headers.insert("accept", HeaderValue::from_static("application/json, text/event-stream"));
        Client { sessions: Arc::clone(&self.sessions), caller, route: Route::Service("fs".into()), headers }
    }

    /// A client with a session.
    pub(super) async fn client(&self, version: &str, capabilities: &str) -> Client {
        let mut client = self.stranger("ada");
        let reply = client.post(&initialize(version, capabilities)).await;
        assert_eq!(reply.status, 200);
        client.headers.insert("mcp-session-id", reply.headers["mcp-session-id"].clone());
        client
    }
}

pub(super) fn initialize(version: &str, capabilities: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":"i","method":"initialize","params":{{"protocolVersion":"{version}","capabilities":{capabilities},"clientInfo":{{"name":"c","version":"1"}}}}}}"#
    )
}

pub(super) fn call(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"t","arguments":{{}}}}}}"#)
}

impl Client {
    /// The same client with another header.
    pub(super) fn with(&self, name: &'static str, value: &str) -> Self {
        let mut client = self.clone();
        client.headers.insert(HeaderName::from_static(name), value.parse().unwrap());
        client
    }

    /// The same client at another replica.
    pub(super) fn at(&self, world: &World) -> Self {
        let mesh = Arc::clone(&world.mesh) as Arc<dyn Mesh>;
        let caller = Caller { mesh, ..self.caller.clone() };
        Self { sessions: Arc::clone(&world.sessions), caller, ..self.clone() }
    }

    pub(super) async fn send(&self, method: Method, body: &str) -> Reply {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let message = (method == Method::POST).then(|| Message::parse(body.clone()));
        let inbound = Inbound { method, headers: self.headers.clone(), body, message };
        let asked = inbound.method.clone();
        let served = serve(&self.sessions, self.caller.clone(), self.route.clone(), inbound).await;
        Reply::new(served.unwrap_or_else(|refused| refusal(&asked, &refused)))
    }

    /// A request over HTTP+SSE.
    pub(super) async fn at_door(&self, method: Method, path: &str, body: &str) -> Reply {
        let uri: http::Uri = path.parse().unwrap();
        let at = http_sse::At::of(uri.path()).unwrap().1;
        let body = Bytes::copy_from_slice(body.as_bytes());
        let message = (method == Method::POST).then(|| Message::parse(body.clone()));
        let inbound = Inbound { method: method.clone(), headers: self.headers.clone(), body, message };
        let (caller, route) = (self.caller.clone(), self.route.clone());
        let served = http_sse::serve(&self.sessions, caller, route, at, &uri, inbound).await;
        Reply::new(served.unwrap_or_else(|refused| refusal(&method, &refused)))
    }

    pub(super) async fn post(&self, body: &str) -> Reply {
        self.send(Method::POST, body).await
    }

    /// A POST whose answer the test does not wait for yet.
    pub(super) fn begin(&self, body: &str) -> JoinHandle<Reply> {
        let (client, body) = (self.clone(), body.to_owned());
        tokio::spawn(async move { client.post(&body).await })
    }

    pub(super) async fn get(&self) -> Reply {
        self.send(Method::GET, "").await
    }
}

/// A response.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    body: OutBody,
    parser: Mutex<Parser>,
    events: VecDeque<Event>,
}

impl Reply {
    fn new(response: Response<OutBody>) -> Self {
        let (head, body) = response.into_parts();
        Self {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
            parser: Mutex::new(Parser::new(1 << 24)),
            events: VecDeque::new(),
        }
    }

    pub(super) fn is_stream(&self) -> bool {
        self.headers["content-type"] == "text/event-stream"
    }

    /// The whole body.
    pub(super) async fn text(self) -> String {
        String::from_utf8(self.body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    /// The whole body in the pieces that it is sent in.
    pub(super) async fn pieces(mut self) -> Vec<Bytes> {
        let mut pieces = Vec::new();
        while let Some(frame) = self.body.frame().await {
            pieces.push(frame.unwrap().into_data().unwrap());
        }
        pieces
    }

    /// The whole body as a message.
    pub(super) async fn message(self) -> Message {
        message(&self.text().await)
    }

    /// The next event; `None` at the end. Fails when none comes for a minute.
    pub(super) async fn event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let frame = tokio::time::timeout(Duration::from_secs(60), self.body.frame()).await.expect("no event");
            let data = frame?.unwrap().into_data().unwrap();
            let parser = self.parser.get_mut().unwrap();
            parser.push(&data);
            while let Some(event) = parser.next_event().unwrap() {
                self.events.push_back(event);
            }
        }
    }

    /// The next event that carries a message.
    pub(super) async fn next(&mut self) -> Option<Message> {
        loop {
            let data = self.event().await?.data.unwrap();
            if !data.is_empty() {
                return Some(Message::parse(data).unwrap());
            }
        }
    }

    /// The text of the next message.
    pub(super) async fn next_text(&mut self) -> String {
        let next = self.next().await.expect("the stream ended");
        String::from_utf8(next.body().to_vec()).unwrap()
    }
}

/// The id of a question, without quotes.
pub(super) fn id_text(message: &Message) -> String {
    decode_string(&message.id().unwrap()).unwrap().into_owned()
}
