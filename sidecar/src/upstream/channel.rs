//! One channel to a server that every call shares: ids are ours, and each message finds the call it belongs to.
//!
//! ```text
//!  calls --> outlet --> [server] --> reader --> demux --> the call each message belongs to
//! ```
//!
//! The reader never waits for a caller: each call has a byte budget, and what passes it is dropped (progress, logs)
//! rather than blocking the server.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use outrigger_mcp::{
    bridge::{
        demux::{Demux, Route},
        to_server::stray,
    },
    envelope::{Message, Shape},
};
use outrigger_proxy::failure::Failure;
use outrigger_telemetry::{ServiceMetrics, metrics::UpstreamErrorKind};
use tokio::sync::{Notify, broadcast, mpsc};

use super::{http_sse::Posts, stdio::one_line};

/// How long one write to a server that does not read may wait.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of notifications that may wait for one slow caller.
const CALL_BUDGET: usize = 4 * 1024 * 1024;
/// Session messages (list changes, logs outside calls) that may wait for a slow listener.
const SESSION_QUEUE: usize = 256;

/// What a call receives.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are messages")]
pub enum Inbound {
    /// A message for this call; the last one is its reply.
    Message(Message),
    /// The reply was larger than the limit of this many bytes.
    TooLarge(usize),
    /// The server is gone, and how.
    Gone(Arc<str>),
}

/// The receiving end of one call.
#[derive(Debug)]
pub struct CallReceiver {
    /// The id of the call on this channel.
    pub id: u64,
    lines: mpsc::UnboundedReceiver<Inbound>,
    waiting: Arc<AtomicUsize>,
    /// Taken out by [`CallReceiver::arrived`].
    first: Option<Box<Inbound>>,
}

impl CallReceiver {
    /// Resolves once there is something for [`CallReceiver::next`].
    pub async fn arrived(&mut self) {
        if self.first.is_none() {
            self.first = self.lines.recv().await.map(Box::new);
        }
    }

    /// The next message; [`Inbound::Gone`] once nothing can come any more.
    pub async fn next(&mut self) -> Inbound {
        let next = match self.first.take() {
            Some(first) => Some(*first),
            None => self.lines.recv().await,
        };
        match next {
            Some(Inbound::Message(message)) => {
                self.waiting.fetch_sub(message.body().len(), Ordering::Relaxed);
                Inbound::Message(message)
            }
            Some(other) => other,
            None => Inbound::Gone("the channel was closed".into()),
        }
    }
}

#[derive(Debug)]
struct Slot {
    lines: mpsc::UnboundedSender<Inbound>,
    waiting: Arc<AtomicUsize>,
}

impl Slot {
    /// Hands a message over. Replies and questions always pass; notifications only within the budget.
    fn deliver(&self, message: Message) {
        let size = message.body().len();
        let waiting = self.waiting.fetch_add(size, Ordering::Relaxed);
        if message.shape == Shape::Notification && waiting + size > CALL_BUDGET {
            self.waiting.fetch_sub(size, Ordering::Relaxed);
            return;
        }
        // A caller that is gone has dropped its receiver; its line is of no use to anybody.
        let _ = self.lines.send(Inbound::Message(message));
    }
}

/// How messages leave.
#[derive(Debug)]
pub enum Outlet {
    /// As lines, by a task that writes them to a pipe. An empty one is the end.
    Lines(mpsc::Sender<Vec<Bytes>>),
    /// Each by a POST of its own.
    Posts(Posts),
}

/// A channel to a server.
#[derive(Debug)]
pub struct Channel {
    demux: Mutex<Demux<Slot>>,
    outlet: Outlet,
    session: broadcast::Sender<Message>,
    /// How often the server said that a list has changed.
    announced: AtomicU64,
    closed: AtomicBool,
    on_close: Notify,
    /// Whether some listener takes requests that belong to no call.
    takes_requests: AtomicUsize,
    /// Whether the server speaks the stateless revision, in which servers ask nothing and clients answer nothing.
    stateless: AtomicBool,
    service: String,
    metrics: Arc<ServiceMetrics>,
}

impl Channel {
    /// A channel without calls.
    pub(super) fn new(service: &str, outlet: Outlet, metrics: Arc<ServiceMetrics>) -> Arc<Self> {
        let (session, _) = broadcast::channel(SESSION_QUEUE);
        Arc::new(Self {
            demux: Mutex::new(Demux::new()),
            outlet,
            session,
            announced: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            on_close: Notify::new(),
            takes_requests: AtomicUsize::new(0),
            stateless: AtomicBool::new(false),
            service: service.to_owned(),
            metrics,
        })
    }

    fn demux(&self) -> std::sync::MutexGuard<'_, Demux<Slot>> {
        // A panic while holding it cannot leave the map half-changed: every use is one map operation.
        self.demux.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on several callers share the server: see [`Demux::share`].
    pub fn share(&self) {
        self.demux().share();
    }

    /// From now on the server is one of the stateless revision: requests of it are dropped, since nothing that we could
    /// write would be an answer to it (2026-07-28 basic/transports/stdio).
    pub fn stateless(&self) {
        self.stateless.store(true, Ordering::Relaxed);
    }

    /// Opens a call.
    pub fn open_call(&self) -> CallReceiver {
        #[expect(
            clippy::disallowed_methods,
            reason = "bounded by the byte budget of the slot; the reader must not wait"
        )]
        let (sender, lines) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut demux = self.demux();
        let id = demux.next_id();
        // Whoever closes the channel says so to the calls that it finds; this one could come after that.
        if self.is_closed() {
            let _ = sender.send(Inbound::Gone("the server is gone".into()));
        } else {
            demux.insert(id, Slot { lines: sender, waiting: waiting.clone() });
        }
        drop(demux);
        CallReceiver { id, lines, waiting, first: None }
    }

    /// Forgets a call. Returns whether it was still in flight.
    pub fn close_call(&self, id: u64) -> bool {
        self.demux().remove(id).is_some()
    }

    /// Says that a call waits for its client to answer, or goes on.
    pub fn wait_call(&self, id: u64, waits: bool) {
        self.demux().wait(id, waits);
    }

    /// Says that a call is a listen.
    pub fn listen_call(&self, id: u64) {
        self.demux().listens(id);
    }

    /// Says that a call waits for the result of a task.
    pub fn tie_call(&self, id: u64, task: &str) {
        self.demux().tie(id, task.to_owned());
    }

    /// Calls in flight.
    pub fn in_flight(&self) -> usize {
        self.demux().len()
    }

    /// Messages that belong to the session.
    pub fn subscribe(&self) -> broadcast::Receiver<Message> {
        self.session.subscribe()
    }

    /// How often the server said that a list has changed.
    pub fn announced(&self) -> u64 {
        self.announced.load(Ordering::Acquire)
    }

    /// Says that a listener takes requests outside calls, or (with `false`) no longer.
    pub fn take_requests(&self, takes: bool) {
        if takes {
            self.takes_requests.fetch_add(1, Ordering::Relaxed);
        } else {
            self.takes_requests.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether the server is gone.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Resolves when the server is gone.
    pub async fn closed(&self) {
        let notified = self.on_close.notified();
        if !self.is_closed() {
            notified.await;
        }
    }

    /// Sends one message, with members of its `_meta` for headers where there are any. Does not wait for ever: the server
    /// may have stopped reading. A future that is dropped never leaves half a message behind.
    ///
    /// # Errors
    /// Unavailable or broken; [`Failure::UnknownSession`] when the server forgot us, and the channel is closed then.
    pub async fn write(&self, mut pieces: Vec<Bytes>, trace: &[(&str, Bytes)]) -> Result<(), Failure> {
        let lines = match &self.outlet {
            Outlet::Lines(lines) => lines,
            Outlet::Posts(posts) => {
                let posted = posts.post(pieces, trace).await;
                if matches!(posted, Err(Failure::UnknownSession)) {
                    self.close("it forgot the session");
                }
                return posted;
            }
        };
        let unavailable = |why: &str| Failure::Unavailable { service: self.service.clone(), reason: why.to_owned() };
        pieces.push(Bytes::from_static(b"\n"));
        match tokio::time::timeout(WRITE_PATIENCE, lines.send(one_line(pieces))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(unavailable("the server is gone")),
            Err(_) => Err(unavailable("the server does not read its input")),
        }
    }

    /// Sends one message if there is room, else drops it: for cancellations and refusals.
    pub fn write_now(&self, message: Bytes) {
        match &self.outlet {
            Outlet::Lines(lines) => {
                let _ = lines.try_send(one_line(vec![message, Bytes::from_static(b"\n")]));
            }
            Outlet::Posts(posts) => posts.post_now(message),
        }
    }

    /// Says goodbye once everything before is written, where there is a way to: a pipe is closed.
    pub fn hang_up(&self) {
        if let Outlet::Lines(lines) = &self.outlet {
            let _ = lines.try_send(Vec::new());
        }
    }

    /// Ends every call: the server is gone.
    pub fn close(&self, why: &str) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Outlet::Posts(posts) = &self.outlet {
            posts.end();
        }
        let why: Arc<str> = why.into();
        self.on_close.notify_waiters();
        for (_, slot) in self.demux().drain() {
            let _ = slot.lines.send(Inbound::Gone(why.clone()));
        }
    }

    /// Takes what the server wrote to where it belongs.
    pub(super) fn on_bytes(&self, bytes: Bytes) {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let message = match Message::parse(bytes.clone()) {
            Ok(message) => message,
            Err(rejected) => {
                let shown = String::from_utf8_lossy(bytes.get(..bytes.len().min(200)).unwrap_or_default()).into_owned();
                tracing::warn!(service = self.service, error = %rejected.error, line = shown, "the server wrote something that is not MCP; skipped");
                self.metrics.upstream_error(UpstreamErrorKind::Protocol);
                return;
            }
        };
        if message.shape == Shape::Request && self.stateless.load(Ordering::Relaxed) {
            tracing::warn!(service = self.service, method = %message.method_name(), "a server of the stateless revision asks something; dropped");
            self.metrics.upstream_error(UpstreamErrorKind::Stray);
            return;
        }
        let demux = self.demux();
        match demux.route(&message) {
            Route::Finish(id) => {
                drop(demux);
                if let Some(slot) = self.demux().remove(id) {
                    slot.deliver(message);
                }
            }
            Route::Call(id) => {
                if let Some(slot) = demux.get(id) {
                    slot.deliver(message);
                }
            }
            Route::Ping => {
                drop(demux);
                let id = message.id().unwrap_or_default();
                self.write_now(outrigger_mcp::error::result_reply(&id, b"{}"));
            }
            Route::Session => {
                drop(demux);
                self.on_session(message);
            }
            Route::Nobody => {
                tracing::debug!(service = self.service, "a reply or progress that nobody waits for");
                self.metrics.upstream_error(UpstreamErrorKind::Stray);
            }
        }
    }

    fn on_session(&self, message: Message) {
        let refuse = message.shape == Shape::Request && self.takes_requests.load(Ordering::Relaxed) == 0;
        if refuse {
            self.metrics.upstream_error(UpstreamErrorKind::Stray);
            let method = message.method_name();
            tracing::debug!(service = self.service, %method, "a request of the server that belongs to no call; refused");
            self.write_now(stray(&method, message.id().as_deref()));
            return;
        }
        if message.method.tells_of_list() {
            self.announced.fetch_add(1, Ordering::AcqRel);
        }
        let _ = self.session.send(message);
    }

    /// A message over `limit` bytes was skipped; `reply_to` is the call that it answered, if that could be told.
    pub(super) fn on_oversized(&self, reply_to: Option<u64>, limit: usize) {
        tracing::warn!(service = self.service, limit, "the server wrote a message over the limit; skipped");
        if let Some(slot) = reply_to.and_then(|id| self.demux().remove(id)) {
            let _ = slot.lines.send(Inbound::TooLarge(limit));
        }
    }
}
