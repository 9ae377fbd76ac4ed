//! Tasks of the server behind this sidecar: whose they are, what they are called on the mesh, and, for a server of
//! 2025-11-25, what the extension of 2026-07-28 makes of them.
//!
//! ```text
//!  tools/call --> drive: the server announces a task --> kept here, with its session, until it is too old
//!  tasks/get|update|cancel --> follow: asks the server about it, and translates
//!  a modern server's tasks --> names: nothing is kept, only ids are sealed and opened
//! ```
//!
//! A task belongs to the principal that made it, as far as the calling workload tells ([`Owner`]): the ingress names its
//! clients. Its id is sealed with that ([`ids`]), under a key of this process.
//!
//! [`Owner`]: crate::upstream::owner::Owner

mod follow;
mod names;
mod watch;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::{hmac, rand::SystemRandom};
use outrigger_mcp::{
    bridge::tasks::{ids, to_server::Questions},
    envelope::Message,
};
use outrigger_proxy::failure::Failure;
use outrigger_telemetry::{ServiceMetrics, metrics::LimitKind};
use tokio::time::Instant;

pub use names::{Names, concerns};
pub use watch::Watch;

use crate::upstream::{Lease, exchange::Exchange, session::Session};

/// Tasks of one client on a server of 2025-11-25.
const PER_OWNER: usize = 64;
/// When to try again while there are as many as allowed.
const RETRY: Duration = Duration::from_secs(30);

/// The tasks that a sidecar knows.
pub struct Tasks {
    replica: String,
    key: hmac::Key,
    kept: Mutex<HashMap<String, Arc<Task>>>,
    settings: Settings,
    metrics: Arc<ServiceMetrics>,
}

/// Bounds for tasks.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Tasks at most.
    pub max: usize,
    /// How long one is kept at most, from its beginning.
    pub life: Duration,
}

/// A task on a server of 2025-11-25.
pub struct Task {
    /// Its id on the mesh.
    pub handle: String,
    /// Its id at the server.
    id: String,
    owner: String,
    session: Arc<Session>,
    ttl: Duration,
    until: Instant,
    /// The server said that it is over.
    over: AtomicBool,
    /// Held while it is asked about: answers of two at once would be mixed up.
    state: tokio::sync::Mutex<State>,
}

/// What changes while a task is followed.
struct State {
    /// Keeps its session. A call may have the session of a task that is over.
    lease: Option<Lease>,
    asked: Questions,
    /// The open `tasks/result`, on which the server asks.
    results: Option<Exchange>,
}

impl Tasks {
    /// None yet.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(replica: &str, settings: Settings, metrics: Arc<ServiceMetrics>) -> Result<Self, &'static str> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).map_err(|_| "no randomness")?;
        Ok(Self { replica: replica.to_owned(), key, kept: Mutex::default(), settings, metrics })
    }

    /// How long the server is asked to keep a task.
    pub fn life(&self) -> Duration {
        self.settings.life
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Task>>> {
        // Every use is one map operation, so a panic elsewhere leaves nothing half done.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mac(&self, bytes: &[u8]) -> [u8; ids::SEAL_BYTES] {
        let mut out = [0; ids::SEAL_BYTES];
        let tag = hmac::sign(&self.key, bytes);
        out.copy_from_slice(tag.as_ref().get(..ids::SEAL_BYTES).unwrap_or(&[0; ids::SEAL_BYTES]));
        out
    }

    fn handle(&self, owner: &str, id: &str) -> Option<String> {
        ids::handle(&self.replica, owner, id, |bytes| self.mac(bytes))
    }

    fn open<'h>(&self, owner: &str, handle: &'h str) -> Option<&'h str> {
        ids::open(&self.replica, owner, handle, |bytes| self.mac(bytes))
    }

    /// Whether `owner` may begin one more. To be asked before the server is.
    ///
    /// # Errors
    /// [`Failure::Limited`].
    pub fn room(&self, owner: &str) -> Result<(), Failure> {
        let kept = self.kept();
        let running = |task: &&Arc<Task>| !task.over.load(Ordering::Relaxed);
        let over = |limit| Err(Failure::over(&self.metrics, LimitKind::Tasks, limit, RETRY));
        if kept.values().filter(|task| task.owner == owner).filter(running).count() >= PER_OWNER {
            return over("64 tasks at work of one principal");
        }
        if kept.len() >= self.settings.max {
            return over("limits.tasks");
        }
        Ok(())
    }

    /// Keeps a task that the server announced, and its session with it. `None` when its id cannot be one.
    pub fn keep(&self, owner: &str, id: String, ttl: Option<Duration>, lease: Lease) -> Option<Arc<Task>> {
        let handle = self.handle(owner, &id)?;
        let ttl = ttl.unwrap_or(self.settings.life).min(self.settings.life);
        let session = lease.session.clone();
        let state = State { lease: Some(lease), asked: Questions::default(), results: None };
        let task = Arc::new(Task {
            handle: handle.clone(),
            id,
            owner: owner.to_owned(),
            session,
            ttl,
            until: Instant::now() + ttl,
            over: AtomicBool::new(false),
            state: tokio::sync::Mutex::new(state),
        });
        let mut kept = self.kept();
        // Those that are over give way to those that are not.
        if kept.len() >= self.settings.max {
            let oldest = kept.values().filter(|t| t.over.load(Ordering::Relaxed)).min_by_key(|t| t.until);
            let oldest = oldest.map(|task| task.handle.clone());
            oldest.and_then(|handle| kept.remove(&handle));
        }
        kept.insert(handle, task.clone());
        Some(task)
    }

    /// The task of this name, if it is this owner's.
    ///
    /// # Errors
    /// The same for one that does not exist and for somebody else's.
    pub fn find(&self, owner: &str, handle: &str) -> Result<Arc<Task>, Failure> {
        self.open(owner, handle).ok_or_else(unknown)?;
        self.kept().get(handle).filter(|task| task.owner == owner).cloned().ok_or_else(unknown)
    }

    /// Gives up tasks that are too old: the server is told of those that still run. To be called now and then.
    pub fn expire(&self) {
        let now = Instant::now();
        let late: Vec<Arc<Task>> = {
            let mut kept = self.kept();
            let handles: Vec<_> = kept.values().filter(|task| task.until <= now).map(|t| t.handle.clone()).collect();
            handles.iter().filter_map(|handle| kept.remove(handle)).collect()
        };
        for task in late.into_iter().filter(|task| !task.over.load(Ordering::Relaxed)) {
            follow::cancel_detached(task.session.clone(), task.id.clone());
        }
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.kept().len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Task {
    /// How long it is kept.
    pub fn ttl_ms(&self) -> u64 {
        self.ttl.as_millis() as u64
    }

    /// What the server says of itself.
    pub fn server_info(&self) -> &[u8] {
        &self.session.greeted().info
    }

    fn ended(&self, state: &mut State) {
        self.over.store(true, Ordering::Relaxed);
        state.asked.clear();
        state.results = None;
        state.lease = state.lease.take().map(Lease::to_listen);
    }
}

/// The answer for a task that does not exist, or is somebody else's.
fn unknown() -> Failure {
    Failure::InvalidParams("Task not found".into())
}

/// Whose tasks the tasks of this request are.
pub fn owner(caller: &str, request: &Message) -> String {
    use crate::upstream::{Asker, owner::Owner};
    let session = request.meta_text(outrigger_mcp::envelope::Meta::Session);
    Owner::of(Asker { peer: caller, session: session.as_deref() }).principal
}

pub(crate) use follow::cancel_detached;
pub use follow::{Running, begin, cancel, describe, update, wait_for};
