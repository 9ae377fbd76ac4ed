//! A session of a legacy HTTP server, greeted and ready for calls.

mod lapse;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method as HttpMethod, StatusCode, header};
use outrigger_mcp::{
    bridge::{
        handshake::{Era, Greeted, Handshake, Step, initialized},
        to_server::{Ask, Call, cancelled},
    },
    envelope::{Message, Meta, Shape},
    error::{HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION, notification},
    headers,
    method::Method,
    revision::Revision,
};
use outrigger_proxy::failure::Failure;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    exchange::Exchange,
    http::{Answer, EventStream, HttpServer, copy_trace, legacy_fields, modern_fields},
    session::Declared,
};

/// How long a new session waits for the head of its GET stream: what a server says before somebody listens is lost, and
/// some send no head before they have something to say.
const LISTENING: Duration = Duration::from_millis(250);
/// Questions that may wait for one call.
const QUESTIONS: usize = 16;

/// A session of a legacy HTTP server.
pub struct HttpSession {
    /// What it said of itself.
    pub greeted: Greeted,
    /// The session id it gave us, if any.
    pub id: Option<HeaderValue>,
    /// Where it is.
    pub server: HttpServer,
    pub(super) next_id: AtomicU64,
    pub(super) open: AtomicUsize,
    pub(super) expired: AtomicBool,
    pub(super) ended: CancellationToken,
    pub(super) messages: broadcast::Sender<Message>,
    /// How often the server said that a list has changed.
    pub(super) announced: AtomicU64,
    pub(super) takes_requests: AtomicUsize,
    /// The server has answered a `ping` in it.
    answers_ping: AtomicBool,
    /// Calls in flight that may be asked something.
    askable: std::sync::Mutex<HashMap<u64, Askable>>,
    /// Several callers use it, so that nothing is tied to a call for being the only one.
    pub(super) shared: AtomicBool,
    pub(super) subscriptions: std::sync::Mutex<HashMap<String, usize>>,
    /// A client speaks with the server in it by itself: we send nothing of our own and keep no stream.
    pub relayed: bool,
    /// Ends the GET stream with the session.
    listener: std::sync::Mutex<Option<tokio::task::AbortHandle>>,
}

/// What a greeting found.
pub enum Met {
    /// A server with sessions, and one with it.
    Session(Arc<HttpSession>),
    /// A modern server, where there are no sessions.
    Modern(Greeted),
    /// It does not take `initialize` by POST, and how it said so: perhaps it speaks HTTP+SSE.
    Older(String),
}

impl std::fmt::Debug for HttpSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The id is a credential.
        f.debug_struct("HttpSession").field("revision", &self.greeted.revision).finish_non_exhaustive()
    }
}

impl HttpSession {
    /// Greets a server.
    ///
    /// # Errors
    /// Why it cannot be used; [`Failure::Unavailable`] decides nothing about its era.
    pub async fn greet(
        server: &HttpServer,
        era: Era,
        declared: &Declared,
        patience: (Duration, Duration),
    ) -> Result<Met, Failure> {
        let mut handshake = Handshake::new(era, declared.capabilities.clone(), declared.info.clone());
        let mut request = handshake.start();
        loop {
            let probing = handshake.probing();
            let waited = if probing { patience.0 } else { patience.1 };
            let answered = match tokio::time::timeout(waited, post_greeting(server, &request, probing)).await {
                Ok(answered) => answered?,
                Err(_) => Greeting { reply: Err(format!("no answer within {waited:?}")), session: None, old: false },
            };
            let step = match &answered.reply {
                Ok(reply) => handshake.on_reply(reply),
                Err(why) => handshake.on_silence(why),
            };
            match step {
                Step::Send(next) => request = next,
                Step::Failed(why) if answered.old && !probing => return Ok(Met::Older(why)),
                Step::Failed(why) => return Err(Failure::Unavailable { service: server.service.clone(), reason: why }),
                Step::Done(greeted) if greeted.revision.is_modern() => return Ok(Met::Modern(greeted)),
                Step::Done(greeted) => return Self::begin(server, greeted, answered.session).await.map(Met::Session),
            }
        }
    }

    /// Opens a session with a client's own `initialize`, and gives the server's reply with it. `None` when the server
    /// does not take it, or answers with another revision.
    ///
    /// # Errors
    /// [`Failure::Unavailable`]: nothing was found out.
    pub async fn relay(
        server: &HttpServer,
        initialize: &Bytes,
        revision: Revision,
        patience: Duration,
    ) -> Result<Option<(Arc<Self>, Message)>, Failure> {
        let answered = tokio::time::timeout(patience, post_greeting(server, initialize, false)).await;
        let answered =
            answered.map_err(|_| Failure::Timeout { service: server.service.clone(), after: patience })??;
        let Ok(reply) = answered.reply else { return Ok(None) };
        let Ok(greeted) = initialized(&reply) else { return Ok(None) };
        let same = greeted.revision == revision;
        let session = Self::new(server, greeted, answered.session, true);
        if same {
            return Ok(Some((session, reply)));
        }
        session.close().await;
        Ok(None)
    }

    async fn begin(server: &HttpServer, greeted: Greeted, id: Option<HeaderValue>) -> Result<Arc<Self>, Failure> {
        let session = Self::new(server, greeted, id, false);
        session.post(notification("notifications/initialized", None)).await?;
        let (answered, answer) = oneshot::channel();
        let fields = session.listen_fields();
        let listening = tokio::spawn(listen(Arc::downgrade(&session), server.clone(), fields, answered));
        if let Ok(mut slot) = session.listener.lock() {
            *slot = Some(listening.abort_handle());
        }
        // Resolves when the sender is dropped.
        let _ = tokio::time::timeout(LISTENING, answer).await;
        Ok(session)
    }

    fn new(server: &HttpServer, greeted: Greeted, id: Option<HeaderValue>, relayed: bool) -> Arc<Self> {
        let (messages, _) = broadcast::channel(256);
        Arc::new(Self {
            greeted,
            id,
            server: server.clone(),
            next_id: AtomicU64::new(1),
            open: AtomicUsize::new(0),
            expired: AtomicBool::new(false),
            ended: CancellationToken::new(),
            messages,
            announced: AtomicU64::new(0),
            takes_requests: AtomicUsize::new(0),
            answers_ping: AtomicBool::new(false),
            askable: std::sync::Mutex::default(),
            shared: AtomicBool::new(false),
            subscriptions: std::sync::Mutex::default(),
            relayed,
            listener: std::sync::Mutex::new(None),
        })
    }

    /// The headers of a GET that listens.
    pub fn listen_fields(&self) -> http::HeaderMap {
        let mut fields = legacy_fields(self.id.as_ref(), Some(self.greeted.revision));
        fields.remove(header::CONTENT_TYPE);
        fields.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        fields
    }

    /// `again`: the session was just opened for this call, because the one before was forgotten.
    pub(super) async fn call(
        self: &Arc<Self>,
        request: &Message,
        trace: &[(&str, Bytes)],
        again: bool,
    ) -> Result<Exchange, Failure> {
        let call = Call::new(request, self.next_id.fetch_add(1, Ordering::Relaxed)).on(self.greeted.revision);
        let pieces = call.request(request, trace);
        let mut fields = legacy_fields(self.id.as_ref(), Some(self.greeted.revision));
        copy_trace(trace, &mut fields);
        // Until the answer begins there is no exchange yet that would cancel the call when the caller goes away.
        let mut unanswered = Unanswered { session: self.clone(), call: Some(call.upstream_id) };
        let response = match self.server.send(HttpMethod::POST, fields, pieces).await {
            Ok(response) => response,
            Err(timeout @ Failure::Timeout { .. }) => return Err(timeout),
            Err(failure) => {
                unanswered.call = None;
                return Err(failure);
            }
        };
        if response.status() == StatusCode::NOT_FOUND && self.id.is_some() {
            unanswered.call = None;
            self.expire();
            return Err(Failure::UnknownSession);
        }
        let status = response.status();
        let answer = self.server.answer(response).await;
        unanswered.call = None;
        let modern = matches!(&answer, Ok(Answer::Json(reply)) if status.is_client_error() && refused_as_modern(reply));
        if !modern && status == StatusCode::BAD_REQUEST {
            if again {
                self.learn_of_ping().await;
            } else if self.forgotten(request).await {
                self.expire();
                return Err(Failure::UnknownSession);
            }
        }
        if status.is_success() && request.method == Method::Ping {
            self.answers_ping.store(true, Ordering::Relaxed);
            self.server.finds_ping_bad.store(false, Ordering::Relaxed);
        }
        let answer = answer?;
        if modern {
            self.expire();
            let reason = "it speaks another revision than before, and is being greeted again".into();
            return Err(Failure::Unavailable { service: self.server.service.clone(), reason });
        }
        Exchange::http(call, self.clone(), answer)
    }

    /// Posts a notification or a response.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses it.
    pub async fn post(&self, message: Bytes) -> Result<(), Failure> {
        let fields = legacy_fields(self.id.as_ref(), Some(self.greeted.revision));
        let response = self.server.send(HttpMethod::POST, fields, vec![message]).await?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(self.server.broken(&format!("it refused a message with status {}", response.status().as_u16())))
    }

    /// Posts a message without waiting, when nobody is left who could hear of a failure.
    pub fn send_detached(self: &Arc<Self>, message: Bytes) {
        let session = self.clone();
        tokio::spawn(async move {
            if let Err(error) = session.post(message).await {
                tracing::debug!(%error, "a message to the server was lost");
            }
        });
    }

    /// Counts a call in flight until the guard is dropped.
    pub fn occupy(self: &Arc<Self>) -> Occupied {
        self.open.fetch_add(1, Ordering::Relaxed);
        Occupied(self.clone())
    }

    /// Notes that the server has forgotten it.
    pub fn expire(&self) {
        self.expired.store(true, Ordering::Release);
        self.ended.cancel();
    }

    pub(super) async fn close(&self) {
        self.expire();
        if let Some(listener) = self.listener.lock().ok().and_then(|mut slot| slot.take()) {
            listener.abort();
        }
        if let Some(id) = &self.id {
            let fields = legacy_fields(Some(id), Some(self.greeted.revision));
            if let Err(error) = self.server.send(HttpMethod::DELETE, fields, Vec::new()).await {
                tracing::debug!(%error, "could not end the session at the server");
            }
        }
    }

    /// Lets a call be asked what comes on the GET stream, until it is dropped.
    pub(super) fn ask_on(self: &Arc<Self>, call: u64) -> Asked {
        let (sender, questions) = mpsc::channel(QUESTIONS);
        self.askable().insert(call, Askable { sender, waits: false });
        Asked { session: self.clone(), call, questions }
    }

    /// The call that a question on the GET stream must be about, as far as can be told: SDKs send what a tool asks there
    /// unless they are told for which call.
    fn only_call(&self) -> Option<mpsc::Sender<Message>> {
        if self.shared.load(Ordering::Relaxed) {
            return None;
        }
        let calls = self.askable();
        let mut running = calls.values().filter(|call| !call.waits);
        let only = match (running.next(), running.next()) {
            (Some(only), None) => Some(only),
            (None, _) if calls.len() == 1 => calls.values().next(),
            _ => None,
        };
        only.map(|call| call.sender.clone())
    }

    /// Hands a question to the call that it is about, if one can be found and takes it. What names a task is of no call.
    fn ask(&self, message: &Message) -> bool {
        let tied = Ask::from_request(message).is_some() && message.meta().get(Meta::RelatedTask).is_none();
        let call = if tied { self.only_call() } else { None };
        call.is_some_and(|call| call.try_send(message.clone()).is_ok())
    }

    fn askable(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Askable>> {
        // Every use is one map operation, so a panic elsewhere leaves nothing half done.
        self.askable.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn on_message(&self, message: Message) {
        if self.ask(&message) {
            return;
        }
        match (message.shape, message.method) {
            (Shape::Request, Method::Ping) => {
                let id = message.id().unwrap_or_default();
                let _ = self.post(outrigger_mcp::error::result_reply(&id, b"{}")).await;
            }
            (Shape::Request, _) if self.takes_requests.load(Ordering::Relaxed) == 0 => {
                let text = format!("{} cannot be tied to one call of one client", message.method_name());
                let error = outrigger_mcp::error::RpcError::new(outrigger_mcp::error::METHOD_NOT_FOUND, text);
                let _ = self.post(error.reply(message.id().as_deref())).await;
            }
            _ => self.tell(message),
        }
    }

    /// Tells whoever listens of what belongs to no call, whatever stream it came on.
    pub(super) fn tell(&self, message: Message) {
        if message.method.tells_of_list() {
            self.announced.fetch_add(1, Ordering::AcqRel);
        }
        // Nobody may be listening.
        let _ = self.messages.send(message);
    }
}

/// Whether a reply is one of the errors that only modern servers send: they do not know what a session is.
fn refused_as_modern(reply: &Bytes) -> bool {
    let code = Message::parse(reply.clone()).ok().and_then(|reply| reply.error_code());
    matches!(code, Some(HEADER_MISMATCH | MISSING_CAPABILITY | UNSUPPORTED_VERSION))
}

/// Cancels a call whose answer never began, when it is dropped.
struct Unanswered {
    session: Arc<HttpSession>,
    /// Its id at the server.
    call: Option<u64>,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(id) = self.call.take() {
            self.session.send_detached(cancelled(id, "the caller went away"));
        }
    }
}

/// A call that may be asked something on the GET stream.
struct Askable {
    sender: mpsc::Sender<Message>,
    /// It waits for its client to answer.
    waits: bool,
}

/// What one call is asked on the GET stream of its session.
pub(super) struct Asked {
    session: Arc<HttpSession>,
    call: u64,
    questions: mpsc::Receiver<Message>,
}

impl Asked {
    /// The next question.
    pub(super) async fn next(&mut self) -> Option<Message> {
        self.questions.recv().await
    }

    /// Says that the call waits for its client to answer, or goes on.
    pub(super) fn wait(&self, waits: bool) {
        if let Some(call) = self.session.askable().get_mut(&self.call) {
            call.waits = waits;
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.session.askable().remove(&self.call);
    }
}

/// A call in flight on an HTTP session.
#[derive(Debug)]
pub struct Occupied(Arc<HttpSession>);

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The answer to a request of the greeting.
struct Greeting {
    /// The reply, or why there is none.
    reply: Result<Message, String>,
    /// The session id that came with it.
    session: Option<HeaderValue>,
    /// Whether servers answer so that only know HTTP+SSE (2024-11-05).
    old: bool,
}

/// Why there is no reply: the server opens its event stream for any HTTP method.
const ENDPOINT_CAME: &str = "it answered with an `endpoint` event";

async fn streamed(events: &mut EventStream) -> Result<Message, String> {
    while let Some(event) = events.next_event().await? {
        if event.is(b"endpoint") {
            return Err(ENDPOINT_CAME.into());
        }
        // Others prime the stream, or are not ours to read.
        let is_message = event.is(b"message");
        if let Some(data) = event.data.filter(|data| is_message && !data.is_empty()) {
            return Message::parse(data).map_err(|r| r.error.to_string());
        }
    }
    Err("the stream ended without a reply".into())
}

async fn post_greeting(server: &HttpServer, request: &Bytes, modern: bool) -> Result<Greeting, Failure> {
    let message = Message::parse(request.clone()).map_err(|r| Failure::Internal(r.error.to_string()))?;
    let fields = if modern { modern_fields(&message) } else { legacy_fields(None, None) };
    let response = server.send(HttpMethod::POST, fields, vec![request.clone()]).await?;
    let status = response.status();
    if status.is_server_error() || matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        let reason = format!("it answered the greeting with status {}", status.as_u16());
        return Err(Failure::Unavailable { service: server.service.clone(), reason });
    }
    let session = response.headers().get(headers::SESSION_ID).cloned();
    let mut old = matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED);
    let reply = match server.answer(response).await {
        Ok(Answer::Json(bytes)) => Message::parse(bytes).map_err(|r| r.error.to_string()),
        Ok(Answer::Stream(mut events)) => streamed(&mut events).await.inspect_err(|why| old |= why == ENDPOINT_CAME),
        Ok(Answer::Empty) => Err("no reply".into()),
        Err(_) => Err(format!("status {}", status.as_u16())),
    };
    Ok(Greeting { reply, session, old })
}

/// What a server says that offers a stream, and does not open another one now. Some open one at a time for each session.
const FOR_NOW: [StatusCode; 3] = [StatusCode::REQUEST_TIMEOUT, StatusCode::CONFLICT, StatusCode::TOO_MANY_REQUESTS];

/// Keeps the session's GET stream open, where the server offers one.
async fn listen(
    session: std::sync::Weak<HttpSession>,
    server: HttpServer,
    mut fields: http::HeaderMap,
    answered: oneshot::Sender<()>,
) {
    let (mut failures, mut first, mut before) = (0u32, Some(answered), false);
    loop {
        let opened = server.send(HttpMethod::GET, fields.clone(), Vec::new()).await;
        drop(first.take());
        match opened {
            // It has not noticed yet that the one before is gone, or has no time.
            Ok(response) if before && FOR_NOW.contains(&response.status()) => {}
            Ok(response) if response.status().is_client_error() => {
                // Most servers offer none; that is their right. One that did has perhaps been started again.
                let Some(session) = session.upgrade().filter(|_| before) else { return };
                if session.forgotten_with(response.status()).await {
                    return session.expire();
                }
                // Perhaps it has forgotten what it said last: without that it is asked once more.
                if fields.remove(headers::LAST_EVENT_ID).is_none() {
                    return;
                }
            }
            Ok(response) if response.status() == StatusCode::OK => {
                let again = std::mem::replace(&mut before, true);
                if again && !fields.contains_key(headers::LAST_EVENT_ID) {
                    let Some(session) = session.upgrade() else { return };
                    session.missed();
                }
                let mut events = server.events(response.into_body());
                while let Ok(Some(data)) = events.next().await {
                    failures = 0;
                    let Some(session) = session.upgrade() else { return };
                    if let Ok(message) = Message::parse(data) {
                        session.on_message(message).await;
                    }
                }
                if let Some(id) = events.last_id.and_then(|id| HeaderValue::from_bytes(&id).ok()) {
                    fields.insert(headers::LAST_EVENT_ID, id);
                }
            }
            Ok(_) | Err(_) => {}
        }
        if session.upgrade().is_none_or(|s| s.expired.load(Ordering::Acquire)) {
            return;
        }
        failures = (failures + 1).min(7);
        tokio::time::sleep(Duration::from_millis(100 << failures)).await;
    }
}
