//! The server behind this sidecar: how sessions with it are kept, and which one a request uses.
//!
//! ```text
//!  keeper (lib.rs) --> main session: greets, learns the catalog, is watched and restarted
//!  a request ------> relay            modern HTTP server: nothing is kept
//!              \---> main session     modern stdio server, or `session: shared`
//!               \--> its own session  legacy server: by client session or principal, and declared capabilities
//! ```

pub mod channel;
pub mod channel_session;
pub mod exchange;
pub mod http;
pub mod http_session;
pub mod http_sse;
mod opening;
pub mod own_lists;
pub mod owner;
pub mod parking;
mod room;
pub mod session;
pub mod stdio;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use outrigger_mcp::bridge::{handshake::Greeted, meta_keys::CLIENT_SESSION};
use outrigger_proxy::failure::Failure;
use outrigger_telemetry::{
    Metrics, ServiceMetrics,
    metrics::{LimitKind, OpenGuard, SessionKind},
};
use tokio::{
    sync::{Notify, OnceCell, watch},
    time::Instant,
};

use self::{
    http::HttpServer,
    own_lists::OwnLists,
    owner::Owner,
    room::{Caps, Room, room},
    session::{Declared, Session},
};
use crate::{
    child::ChildSpec,
    config::{Era, SessionScope},
};

/// How a server is reached.
pub enum Reach {
    /// Streamable HTTP, or HTTP+SSE.
    Http(HttpServer),
    /// A child process.
    Stdio(ChildSpec),
}

/// Settings of the sessions with a server.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// Who shares a session.
    pub scope: SessionScope,
    /// What to greet it with.
    pub era: Era,
    /// Sessions at most, and of one principal.
    pub max_sessions: (usize, usize),
    /// Child processes at most, and of one principal.
    pub max_children: (usize, usize),
    /// An unused session ends after this time.
    pub idle: Duration,
    /// An answer to the probe.
    pub probe: Duration,
    /// An answer to `initialize`.
    pub initialize: Duration,
    /// Largest line of a stdio server.
    pub line_bytes: usize,
}

/// The server and the sessions with it.
pub struct Upstream {
    service: String,
    reach: Reach,
    settings: SessionSettings,
    metrics: Arc<Metrics>,
    service_metrics: Arc<ServiceMetrics>,
    known: ArcSwapOption<Greeted>,
    /// Whether it was found to speak HTTP+SSE.
    http_sse: AtomicBool,
    /// Revisions that it did not take from a client: one bit for each.
    declined: AtomicU8,
    main: ArcSwapOption<Session>,
    entries: Mutex<HashMap<Key, Arc<Entry>>>,
    opened: Notify,
    /// Counts changes of what sessions list for themselves.
    own_changes: watch::Sender<u64>,
    serial: AtomicU64,
    started: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    peer: String,
    session: String,
    capabilities: Bytes,
}

#[derive(Debug)]
struct Entry {
    session: OnceCell<Arc<Session>>,
    /// For whose limit it counts.
    principal: String,
    /// While there is a session.
    open: OnceLock<OpenGuard>,
    users: AtomicUsize,
    /// Users that only listen: they keep a session from being reaped, but not from giving way to a call.
    listeners: AtomicUsize,
    /// Milliseconds since the start of the sidecar.
    last_used: AtomicU64,
    /// What the server lists in this session.
    own: OwnLists,
    single_use: bool,
}

impl Entry {
    fn new(principal: String, last_used: u64, single_use: bool) -> Self {
        Self {
            session: OnceCell::new(),
            principal,
            open: OnceLock::new(),
            users: AtomicUsize::new(0),
            listeners: AtomicUsize::new(0),
            last_used: AtomicU64::new(last_used),
            own: OwnLists::default(),
            single_use,
        }
    }

    /// Whether nobody but listeners use it.
    fn is_idle(&self) -> bool {
        self.users.load(Ordering::Acquire) == self.listeners.load(Ordering::Acquire)
    }

    /// Whether its session is over, or never came to be and nobody waits for it.
    fn is_dead(&self) -> bool {
        match self.session.get() {
            Some(session) => !session.alive() || is_spent(self),
            None => self.users.load(Ordering::Acquire) == 0,
        }
    }
}

/// The place of somebody who waits for a session to be opened; given back when it is dropped.
struct Claim(Arc<Entry>);

impl Claim {
    /// Takes the place over into a lease, which gives it back.
    fn keep(self) -> Arc<Entry> {
        let entry = self.0.clone();
        entry.users.fetch_add(1, Ordering::AcqRel);
        entry
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A session in use. Sessions are not reaped while one of these is held.
#[derive(Debug)]
pub struct Lease {
    /// The session.
    pub session: Arc<Session>,
    entry: Option<Arc<Entry>>,
    listens: bool,
    started: Instant,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(entry) = &self.entry else { return };
        if self.listens {
            entry.listeners.fetch_sub(1, Ordering::AcqRel);
        } else {
            entry.last_used.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
        }
        let last = entry.users.fetch_sub(1, Ordering::AcqRel) == 1;
        if last && entry.single_use {
            let session = self.session.clone();
            tokio::spawn(async move { session.close().await });
        }
    }
}

impl Lease {
    /// Whether other callers use the session too: what the server says outside calls is then for nobody.
    pub fn is_shared(&self) -> bool {
        self.entry.is_none()
    }

    /// The same lease, held by somebody who only listens.
    #[must_use]
    pub fn to_listen(mut self) -> Self {
        if let Some(entry) = self.entry.as_ref().filter(|_| !self.listens) {
            entry.listeners.fetch_add(1, Ordering::AcqRel);
            self.listens = true;
        }
        self
    }
}

/// Who asks, as far as sessions are concerned.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The workload that connected.
    pub peer: &'a str,
    /// The value of `outrigger.dev/session`, if any.
    pub session: Option<&'a str>,
}

impl Upstream {
    /// A server that nobody has spoken to yet.
    pub fn new(service: &str, reach: Reach, settings: SessionSettings, metrics: &Arc<Metrics>) -> Self {
        Self {
            service: service.to_owned(),
            reach,
            settings,
            metrics: metrics.clone(),
            service_metrics: metrics.service(service),
            known: ArcSwapOption::empty(),
            http_sse: AtomicBool::new(false),
            declined: AtomicU8::new(0),
            main: ArcSwapOption::empty(),
            entries: Mutex::new(HashMap::new()),
            opened: Notify::new(),
            own_changes: watch::Sender::new(0),
            serial: AtomicU64::new(0),
            started: Instant::now(),
        }
    }

    /// The service's name.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// What the server said of itself, once greeted.
    pub fn known(&self) -> Option<Arc<Greeted>> {
        self.known.load_full()
    }

    /// The HTTP server, when requests can be relayed to it as they are.
    pub fn relay(&self) -> Option<&HttpServer> {
        match &self.reach {
            Reach::Http(server) if self.known.load().as_ref().is_some_and(|k| k.revision.is_modern()) => Some(server),
            _ => None,
        }
    }

    /// Whether its era is to be found out.
    pub fn probes(&self) -> bool {
        self.settings.era == Era::Auto
    }

    /// The HTTP server, if it is one.
    pub fn http(&self) -> Option<&HttpServer> {
        match &self.reach {
            Reach::Http(server) => Some(server),
            Reach::Stdio(_) => None,
        }
    }

    /// The main session, while it lives.
    pub fn main(&self) -> Option<Arc<Session>> {
        self.main.load_full().filter(|session| session.alive())
    }

    /// The session that a request uses.
    ///
    /// # Errors
    /// Unavailable while the server has not been greeted, or when a session cannot be opened; limited when there are too
    /// many.
    pub async fn lease(&self, asker: Asker<'_>, declared: &Declared) -> Result<Lease, Failure> {
        if self.known.load().is_none() {
            return Err(self.unavailable("it has not answered yet"));
        }
        if self.is_shared() {
            let session = self.main().ok_or_else(|| self.unavailable("it is being restarted"))?;
            return Ok(Lease { session, entry: None, listens: false, started: self.started });
        }
        // Given back also when the caller goes away while the session is being opened.
        let claim = self.claim(self.key(asker, declared), &Owner::of(asker)).await?;
        let opened = claim.0.session.get_or_try_init(|| self.open(declared)).await.cloned();
        match opened {
            Ok(session) => {
                let pinned = asker.session.is_some_and(|tag| tag.starts_with(CLIENT_SESSION));
                let kind = if pinned { SessionKind::Pinned } else { SessionKind::Upstream };
                claim.0.open.get_or_init(|| self.metrics.session_opened(kind));
                self.opened.notify_waiters();
                Ok(Lease { session, entry: Some(claim.keep()), listens: false, started: self.started })
            }
            Err(failure) => {
                drop(claim);
                self.forget_dead();
                Err(failure)
            }
        }
    }

    /// Waits for the session that calls of this asker use, without opening one: to listen is no reason to start a server.
    pub async fn attach(&self, asker: Asker<'_>, declared: &Declared) -> Lease {
        let key = self.key(asker, declared);
        loop {
            let opened = self.opened.notified();
            tokio::pin!(opened);
            opened.as_mut().enable();
            if self.is_shared()
                && let Some(session) = self.main()
            {
                return Lease { session, entry: None, listens: true, started: self.started };
            }
            let found = self.entries().get(&key).cloned();
            if let Some(entry) = found
                && let Some(session) = entry.session.get().filter(|session| session.alive()).cloned()
            {
                return self.listening(session, entry);
            }
            opened.await;
        }
    }

    /// The session that calls of this asker have opened already, if it lives.
    ///
    /// # Errors
    /// [`Failure::Interaction`] when there is none, or when others use it as well.
    pub fn opened(&self, asker: Asker<'_>, declared: &Declared) -> Result<Lease, Failure> {
        let found = match self.is_shared() {
            true => None,
            false => self.entries().get(&self.key(asker, declared)).cloned(),
        };
        let alive = found.and_then(|entry| {
            let session = entry.session.get().filter(|session| session.alive()).cloned()?;
            entry.users.fetch_add(1, Ordering::AcqRel);
            Some(Lease { session, entry: Some(entry), listens: false, started: self.started })
        });
        alive.ok_or(Failure::Interaction("the session that this is for is over"))
    }

    /// Whether all calls use the main session.
    pub fn is_shared(&self) -> bool {
        let modern = self.known.load().as_ref().is_some_and(|known| known.revision.is_modern());
        modern || self.settings.scope == SessionScope::Shared
    }

    fn listening(&self, session: Arc<Session>, entry: Arc<Entry>) -> Lease {
        entry.users.fetch_add(1, Ordering::AcqRel);
        entry.listeners.fetch_add(1, Ordering::AcqRel);
        Lease { session, entry: Some(entry), listens: true, started: self.started }
    }

    fn key(&self, asker: Asker<'_>, declared: &Declared) -> Key {
        let session = match (self.settings.scope, asker.session) {
            (SessionScope::PerRequest, _) => self.serial.fetch_add(1, Ordering::Relaxed).to_string(),
            (_, Some(session)) => session.to_owned(),
            (_, None) => String::new(),
        };
        // A client session declared itself once, when it began; otherwise callers that can do different things must not
        // share what a server set up for one of them.
        let capabilities =
            if session.starts_with(CLIENT_SESSION) { Bytes::new() } else { declared.capabilities.clone() };
        Key { peer: asker.peer.to_owned(), session, capabilities }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<Entry>>> {
        // Every use is one map operation, so a panic elsewhere leaves nothing half done.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place in the entry of a key, made if there is none.
    async fn claim(&self, key: Key, owner: &Owner) -> Result<Claim, Failure> {
        let mut evicted = None;
        let claim = {
            let mut entries = self.entries();
            entries.retain(|_, entry| !entry.is_dead());
            if let Some(entry) = entries.get(&key) {
                return Ok(claim(entry));
            }
            match room(entries.iter().map(|(key, entry)| (key, &**entry)), &owner.principal, self.caps()) {
                Room::Free => {}
                Room::After(oldest) => evicted = entries.remove(&oldest),
                Room::NoneOfOwn => return Err(self.limited(true)),
                Room::None => return Err(self.limited(false)),
            }
            let now = self.started.elapsed().as_millis() as u64;
            let single_use = self.settings.scope == SessionScope::PerRequest;
            let entry = Arc::new(Entry::new(owner.principal.clone(), now, single_use));
            entries.insert(key, entry.clone());
            claim(&entry)
        };
        if let Some(session) = evicted.and_then(|entry| entry.session.get().cloned()) {
            session.close().await;
        }
        Ok(claim)
    }

    fn caps(&self) -> Caps {
        match self.reach {
            // The main session is a child too.
            Reach::Stdio(_) => {
                let (all, each) = self.settings.max_children;
                let all = all.saturating_sub(1).max(1);
                Caps { all, each: each.min(all) }
            }
            Reach::Http(_) => Caps { all: self.settings.max_sessions.0, each: self.settings.max_sessions.1 },
        }
    }

    /// A limit was reached: the one of the caller, or the one of all.
    fn limited(&self, own: bool) -> Failure {
        let (kind, setting) = match (&self.reach, own) {
            (Reach::Stdio(_), false) => (LimitKind::Children, "limits.children"),
            (Reach::Stdio(_), true) => (LimitKind::Children, "limits.children_per_principal"),
            (Reach::Http(_), false) => (LimitKind::Sessions, "limits.sessions"),
            (Reach::Http(_), true) => (LimitKind::Sessions, "limits.sessions_per_principal"),
        };
        Failure::over(&self.service_metrics, kind, setting, Duration::from_secs(5))
    }

    fn forget_dead(&self) {
        self.entries().retain(|_, entry| !entry.is_dead());
    }

    /// How many sessions are open, without the main one.
    pub fn open_sessions(&self) -> usize {
        self.entries().len()
    }

    /// Ends sessions that nobody used for a while. To be called now and then.
    pub async fn reap(&self) {
        let now = self.started.elapsed().as_millis() as u64;
        let idle = self.settings.idle.as_millis() as u64;
        let stale: Vec<Arc<Entry>> = {
            let mut entries = self.entries();
            let keys: Vec<Key> = entries
                .iter()
                .filter(|(_, entry)| {
                    // What is relayed ends with its client's session.
                    let relayed = entry.session.get().is_some_and(|session| session.relayed() && session.alive());
                    entry.users.load(Ordering::Acquire) == 0
                        && !relayed
                        && (now.saturating_sub(entry.last_used.load(Ordering::Relaxed)) >= idle || is_spent(entry))
                })
                .map(|(key, _)| key.clone())
                .collect();
            keys.iter().filter_map(|key| entries.remove(key)).collect()
        };
        for session in stale.iter().filter_map(|entry| entry.session.get()) {
            session.close().await;
        }
    }

    /// Ends the session of an asker, if there is one.
    pub async fn end(&self, asker: Asker<'_>) {
        let entry = self.entries().remove(&self.key(asker, &Declared::everything()));
        if let Some(session) = entry.and_then(|entry| entry.session.get().cloned()) {
            session.close().await;
        }
    }

    /// Ends every session.
    pub async fn close(&self) {
        let entries: Vec<Arc<Entry>> = self.entries().drain().map(|(_, entry)| entry).collect();
        let mut sessions: Vec<Arc<Session>> = entries.iter().filter_map(|entry| entry.session.get().cloned()).collect();
        sessions.extend(self.main.swap(None));
        let closing: Vec<_> =
            sessions.into_iter().map(|session| tokio::spawn(async move { session.close().await })).collect();
        for one in closing {
            // A panic in one must not keep the others from being closed.
            let _ = one.await;
        }
    }

    fn unavailable(&self, reason: &str) -> Failure {
        Failure::Unavailable { service: self.service.clone(), reason: reason.to_owned() }
    }
}

/// A place in an entry of the table, which must be locked: else the entry could be given up first.
fn claim(entry: &Arc<Entry>) -> Claim {
    entry.users.fetch_add(1, Ordering::AcqRel);
    Claim(entry.clone())
}

fn is_spent(entry: &Entry) -> bool {
    entry.single_use && entry.users.load(Ordering::Acquire) == 0 && entry.session.get().is_some()
}
