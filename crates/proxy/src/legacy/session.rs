//! One session of a legacy client: what it said of itself, what it has in flight, and its streams.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::failure::Failure;
use bytes::Bytes;
use outrigger_mcp::bridge::log_level::LogLevel;
use outrigger_mcp::bridge::to_client::Client;
use outrigger_mcp::revision::Revision;
use outrigger_policy::Principal;
use outrigger_telemetry::ServiceMetrics;
use outrigger_telemetry::metrics::{LimitKind, OpenGuard};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ask::Asks;
use super::mesh::Unheard;
use super::resume::{EventStream, Place};
use super::seam::{Declared, ListKind, Route};
use super::store::Bounds;
use super::tasks::SharedLedger;
use super::token::{self, SessionKey};

/// Streams that have ended and are held for a client that may come back.
const MAX_ENDED: usize = 32;
/// Bytes that they hold in all, as a multiple of what one may.
const ENDED_FULL: usize = 4;
/// The number of the stream that GET opens.
const GET_STREAM: u64 = 0;

/// A subscription is confirmed after this time even where the service has not said that it tells of changes.
const HEARD: Duration = Duration::from_secs(3);

/// A session id: whoever has it and the right credential is the client, so it is never shown.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct SessionId(pub(super) Arc<str>);

impl Borrow<str> for SessionId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(..)")
    }
}

/// A session. Shared by its requests and tasks; over when it is closed.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) key: SessionKey,
    /// What the mesh knows it by; not the id, which stays between the client and us.
    pub(super) tag: Arc<str>,
    pub(super) principal: Principal,
    pub(super) route: Route,
    /// What it said in `initialize`; the log level is in `state`.
    client: Client,
    /// The lists whose changes it was promised to be told of.
    pub(super) lists: Vec<ListKind>,
    pub(super) bounds: Bounds,
    /// Cancelled when the session ends: all that it has at work ends with it.
    pub(super) closed: CancellationToken,
    /// Its tasks (of the runtime).
    pub(super) tasks: TaskTracker,
    /// The tasks (of MCP) that it asked for.
    pub(super) ledger: SharedLedger,
    /// Questions that wait for the client.
    pub(super) asks: Asks,
    /// What GET opens.
    pub(super) outside: Arc<EventStream>,
    /// What it subscribed to. Watched by the task that listens for it.
    subscriptions: watch::Sender<BTreeSet<String>>,
    /// Those that the services have begun to tell of.
    heard: watch::Sender<Heard>,
    event_prefix: Arc<str>,
    /// Opened by another replica, or before a restart: its client may know of streams that we never had.
    taken_up: bool,
    state: Mutex<State>,
    /// Where its refusals count.
    metrics: Arc<ServiceMetrics>,
    _open: OpenGuard,
}

/// What a session's services have been asked to tell of, and which of it they do not.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) asked: BTreeSet<String>,
    pub(super) refused: Unheard,
}

#[derive(Debug)]
struct State {
    log_level: Option<LogLevel>,
    /// Requests at work, by their raw ids.
    in_flight: HashMap<Bytes, CancellationToken>,
    streams: HashMap<u64, Arc<EventStream>>,
    next_stream: u64,
    used: Instant,
    /// Whether a task listens for the session.
    listening: bool,
    /// Whether one ever did.
    listened: bool,
    /// Its messages are passed on unread.
    relayed: bool,
    /// How many requests and streams of it are on their way so.
    passing: usize,
}

/// Everything that makes a new session.
pub(super) struct Opening {
    pub(super) id: SessionId,
    pub(super) key: SessionKey,
    pub(super) event_prefix: Arc<str>,
    pub(super) principal: Principal,
    pub(super) route: Route,
    pub(super) client: Client,
    pub(super) lists: Vec<ListKind>,
    pub(super) bounds: Bounds,
    pub(super) metrics: Arc<ServiceMetrics>,
    pub(super) closed: CancellationToken,
    /// What carries messages outside calls, where that was there before the session.
    pub(super) outside: Option<Arc<EventStream>>,
    pub(super) open: OpenGuard,
    pub(super) taken_up: bool,
}

/// A request at work. Dropping it frees its id.
#[derive(Debug)]
pub(super) struct InFlight {
    session: Arc<Session>,
    id: Bytes,
    /// Cancelled when the client cancels the request, or the session ends.
    pub(super) cancelled: CancellationToken,
}

/// Why a request cannot start.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Busy {
    /// The id is in use.
    Duplicate,
    /// Too many are at work.
    TooMany,
}

impl Session {
    /// What its client said of itself.
    pub(super) fn declared(&self) -> Declared {
        Declared::of_client(&self.client)
    }

    pub(super) fn new(opening: Opening) -> Arc<Self> {
        let numbered = opening.client.revision >= Revision::V2025_11_25;
        let prefix = numbered.then(|| Arc::clone(&opening.event_prefix));
        let state = State {
            log_level: None,
            in_flight: HashMap::new(),
            streams: HashMap::new(),
            next_stream: GET_STREAM + 1,
            used: Instant::now(),
            listening: false,
            // Whatever it was told elsewhere, it may have missed something since.
            listened: opening.taken_up,
            relayed: false,
            passing: 0,
        };
        Arc::new(Self {
            asks: Asks::new(&token::short_name(&opening.key.tag(&opening.principal)), &opening.event_prefix),
            outside: opening
                .outside
                .unwrap_or_else(|| EventStream::new(GET_STREAM, prefix, true, opening.bounds.resume)),
            subscriptions: watch::Sender::default(),
            heard: watch::Sender::default(),
            state: Mutex::new(state),
            tasks: TaskTracker::new(),
            ledger: SharedLedger::default(),
            id: opening.id,
            key: opening.key,
            tag: opening.key.tag(&opening.principal).into(),
            principal: opening.principal,
            route: opening.route,
            client: opening.client,
            lists: opening.lists,
            bounds: opening.bounds,
            metrics: opening.metrics,
            closed: opening.closed,
            event_prefix: opening.event_prefix,
            taken_up: opening.taken_up,
            _open: opening.open,
        })
    }

    /// The negotiated revision.
    pub(super) fn revision(&self) -> Revision {
        self.client.revision
    }

    /// The client as it is to be introduced to the mesh now.
    pub(super) fn client(&self) -> Client {
        let log_level = self.lock().log_level.map(|level| format!("\"{}\"", level.as_str()).into());
        Client { log_level, ..self.client.clone() }
    }

    /// The level that the client set, if it did.
    pub(super) fn log_level(&self) -> Option<LogLevel> {
        self.lock().log_level
    }

    /// Sets the level of log messages that the client wants.
    pub(super) fn set_log_level(&self, level: LogLevel) {
        self.lock().log_level = Some(level);
    }

    /// Notes that the client is there.
    pub(super) fn touch(&self) {
        self.lock().used = Instant::now();
    }

    /// Since when nothing happens in it; `None` while a request is at work or a stream is read.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.lock();
        let busy = !state.in_flight.is_empty() || state.passing > 0 || self.outside.has_reader();
        (!busy).then_some(state.used)
    }

    /// From now on its messages are passed on unread.
    pub(super) fn relay(&self) {
        self.lock().relayed = true;
    }

    /// Whether they are.
    pub(super) fn is_relayed(&self) -> bool {
        self.lock().relayed
    }

    /// Something of it is passed on, or no longer is.
    pub(super) fn pass(&self, begins: bool) {
        let mut state = self.lock();
        state.passing = if begins { state.passing + 1 } else { state.passing.saturating_sub(1) };
        state.used = Instant::now();
    }

    /// Starts a request.
    ///
    /// # Errors
    /// [`Busy`].
    pub(super) fn begin(self: &Arc<Self>, id: &Bytes) -> Result<InFlight, Busy> {
        let mut state = self.lock();
        if state.in_flight.contains_key(id) {
            return Err(Busy::Duplicate);
        }
        if state.in_flight.len() >= self.bounds.requests {
            return Err(Busy::TooMany);
        }
        let cancelled = self.closed.child_token();
        // A copy: the slice would hold the whole body.
        let id = Bytes::copy_from_slice(id);
        state.in_flight.insert(id.clone(), cancelled.clone());
        Ok(InFlight { session: Arc::clone(self), id, cancelled })
    }

    /// Cancels a request of the client. Unknown ids are late, and ignored.
    pub(super) fn cancel(&self, id: &[u8]) {
        if let Some(cancelled) = self.lock().in_flight.get(id) {
            cancelled.cancel();
        }
    }

    /// A new stream for the answer to a POST. Streams of revisions with event ids are found again by
    /// [`Session::resume`].
    pub(super) fn open_stream(&self) -> Arc<EventStream> {
        let mut state = self.lock();
        let number = state.next_stream;
        state.next_stream += 1;
        let numbered = self.client.revision >= Revision::V2025_11_25;
        let prefix = numbered.then(|| Arc::clone(&self.event_prefix));
        let stream = EventStream::new(number, prefix, false, self.bounds.resume);
        if numbered {
            state.keep(number, &stream, ENDED_FULL * self.bounds.resume.bytes);
        }
        stream
    }

    /// Takes a stream out of those that a client may come back to.
    pub(super) fn forget_stream(&self, stream: &EventStream) {
        self.lock().streams.remove(&stream.number());
    }

    /// Whether an event id names the stream that GET opens, as another replica numbered it. Where the session was taken
    /// up, its client gets ours then: what it missed on the other one is gone.
    pub(super) fn resumes_elsewhere(&self, event_id: &str) -> bool {
        self.taken_up && Place::of_other(event_id).is_some_and(|place| place.stream == GET_STREAM)
    }

    /// The stream and place that an event id names.
    pub(super) fn resume(&self, event_id: &str) -> Option<(Arc<EventStream>, u64)> {
        let place = Place::parse(&self.event_prefix, event_id)?;
        if place.stream == GET_STREAM {
            return Some((Arc::clone(&self.outside), place.event));
        }
        self.lock().streams.get(&place.stream).map(|stream| (Arc::clone(stream), place.event))
    }

    /// Adds a URI to those that the client is told of.
    ///
    /// # Errors
    /// [`Failure::Limited`] when there are as many as allowed.
    pub(super) fn subscribe(&self, uri: &str) -> Result<(), Failure> {
        let mut full = false;
        self.subscriptions.send_if_modified(|uris| {
            full = uris.len() >= self.bounds.subscriptions && !uris.contains(uri);
            !full && uris.insert(uri.to_owned())
        });
        if full { Err(self.limited(LimitKind::Subscriptions, "limits.subscriptions")) } else { Ok(()) }
    }

    /// A limit of the session was reached; `setting` raises it.
    pub(super) fn limited(&self, kind: LimitKind, setting: &str) -> Failure {
        super::limited(&self.metrics, kind, setting)
    }

    /// Takes a URI out of them.
    pub(super) fn unsubscribe(&self, uri: &str) {
        self.subscriptions.send_if_modified(|uris| uris.remove(uri));
    }

    /// Follows what the client subscribed to.
    pub(super) fn subscriptions(&self) -> watch::Receiver<BTreeSet<String>> {
        self.subscriptions.subscribe()
    }

    /// Says what the services have begun to tell of.
    pub(super) fn hears(&self, heard: Heard) {
        self.heard.send_replace(heard);
    }

    /// Resolves when changes of this resource are heard, or nobody listens for the session; or with why they are not. Then it
    /// is as if the client had not asked.
    pub(super) async fn heard(&self, uri: &str) -> Option<Arc<Failure>> {
        let mut heard = self.heard.subscribe();
        if !self.lock().listening {
            return None;
        }
        let waited = timeout(HEARD, heard.wait_for(|heard| heard.asked.contains(uri))).await;
        let refused = waited.ok()?.ok()?.refused.get(uri).cloned()?;
        self.unsubscribe(uri);
        self.heard.send_if_modified(|heard| heard.asked.remove(uri));
        Some(refused)
    }

    /// Makes the caller the one to start the task that listens, unless there is one; the value says whether there has
    /// been one before.
    pub(super) fn start_listening(&self) -> Option<bool> {
        let mut state = self.lock();
        if std::mem::replace(&mut state.listening, true) {
            return None;
        }
        Some(std::mem::replace(&mut state.listened, true))
    }

    /// Ends that, unless a reader has come meanwhile. Returns whether it did end.
    pub(super) fn stop_listening(&self) -> bool {
        let mut state = self.lock();
        state.listening = self.outside.has_reader();
        !state.listening
    }

    /// Forgets what is too old to be asked for.
    pub(super) fn sweep(&self, now: Instant) {
        self.outside.expired(now);
        self.lock().streams.retain(|_, stream| !stream.expired(now));
    }

    /// Ends the session and everything in it.
    pub(super) fn close(&self) {
        self.closed.cancel();
        self.outside.end();
        self.tasks.close();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Adds a stream; the ones that ended first give way to it, from `full` bytes on.
    fn keep(&mut self, number: u64, stream: &Arc<EventStream>, full: usize) {
        loop {
            let held = self.streams.iter().filter_map(|(number, stream)| {
                let (bytes, ended) = stream.held();
                ended.map(|at| (at, *number, bytes))
            });
            let (count, bytes, oldest) = held.fold((0, 0, None), |(count, sum, oldest), (at, number, bytes)| {
                (count + 1, sum + bytes, Some(oldest.map_or((at, number), |o| (at, number).min(o))))
            });
            match oldest {
                Some((_, number)) if count >= MAX_ENDED || bytes > full => self.streams.remove(&number),
                _ => break,
            };
        }
        self.streams.insert(number, Arc::clone(stream));
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.session.lock();
        state.in_flight.remove(&self.id);
        state.used = Instant::now();
    }
}
