//! All sessions of a proxy: opened under caps, found by id, ended when idle; and those of other replicas, taken up
//! from what their ids say.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use crate::failure::Failure;
use crate::listens::Listens;
use arc_swap::ArcSwap;
use outrigger_mcp::bridge::to_client::Client;
use outrigger_telemetry::metrics::{LimitKind, SessionKind};
use outrigger_telemetry::{Metrics, ServiceMetrics};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ended::Ended;
use super::http_sse::Connections;
use super::initialize::Line;
use super::keys::Keys;
use super::resume::Kept;
use super::seam::{Caller, ListKind, Route};
use super::session::{Opening, Session, SessionId};
use super::token::{self, SessionKey, Token};

/// How often idle sessions and old events are looked for, at most: events are kept for a minute.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// What one session is held to.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// A question to the client, or a silent call.
    pub request: Duration,
    /// A silent stream getting a sign of life.
    pub keepalive: Duration,
    /// Requests at work at once, and as many questions to the client (`limits.session_requests`).
    pub requests: usize,
    /// Resources that it subscribes to (`limits.subscriptions`).
    pub subscriptions: usize,
    /// What a client whose stream broke may still ask for.
    pub resume: Kept,
}

/// What sessions are held to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Sessions in all.
    pub sessions: usize,
    /// Sessions of one principal.
    pub sessions_per_principal: usize,
    /// What the settings of these two are called.
    pub names: [&'static str; 2],
    /// Streams on which clients listen, of every revision.
    pub listens: Arc<Listens>,
    /// A session in which nothing happens.
    pub idle: Duration,
    /// How long after its beginning a session may be taken up by others.
    pub max_age: Duration,
    /// What each session is held to.
    pub each: Bounds,
    /// Whether clients may use HTTP+SSE.
    pub http_sse: bool,
}

/// Sessions by their ids.
pub(super) type Table = RwLock<HashMap<SessionId, Arc<Session>>>;

/// The sessions of legacy clients of one proxy.
#[derive(Debug)]
pub struct Sessions {
    max: usize,
    pub(super) max_per_principal: usize,
    pub(super) names: [&'static str; 2],
    idle: Duration,
    max_age: Duration,
    pub(super) each: Bounds,
    metrics: Arc<Metrics>,
    /// Where refusals count.
    pub(super) refused: Arc<ServiceMetrics>,
    pub(super) listens: Arc<Listens>,
    pub(super) closed: CancellationToken,
    http_sse: bool,
    keys: ArcSwap<Keys>,
    ended: Ended,
    pub(super) table: Arc<Table>,
    /// Event streams of clients over HTTP+SSE.
    pub(super) connections: Arc<Connections>,
}

impl Sessions {
    /// No session yet. `keys` seal the ids; what is refused counts in `refused`.
    pub fn new(settings: Settings, keys: Keys, metrics: &Arc<Metrics>, refused: Arc<ServiceMetrics>) -> Self {
        Self {
            max: settings.sessions,
            max_per_principal: settings.sessions_per_principal,
            idle: settings.idle,
            max_age: settings.max_age,
            names: settings.names,
            each: settings.each,
            http_sse: settings.http_sse,
            metrics: Arc::clone(metrics),
            refused,
            listens: settings.listens,
            closed: CancellationToken::new(),
            keys: ArcSwap::from_pointee(keys),
            ended: Ended::new(settings.max_age),
            table: Arc::default(),
            connections: Arc::default(),
        }
    }

    /// Whether clients may use HTTP+SSE.
    pub fn http_sse(&self) -> bool {
        self.http_sse
    }

    /// Whether we could have made this session id, alive or not: then the request is a legacy one, whatever else it
    /// says.
    pub fn minted(&self, id: &str) -> bool {
        token::minted(id)
    }

    /// Puts other keys in force. Sessions that are held here go on.
    pub fn set_keys(&self, keys: Keys) {
        self.keys.store(Arc::new(keys));
    }

    /// Ends idle sessions until the drain is over. Runs as a task of the proxy; dropping it ends every session.
    pub async fn sweep(&self) {
        let _all = self.closed.clone().drop_guard();
        let mut ticks = tokio::time::interval(SWEEP_EVERY.min(self.idle));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.sweep_at(Instant::now());
        }
    }

    /// Ends the sessions that are idle at `now`, and forgets old events of the others.
    pub(super) fn sweep_at(&self, now: Instant) {
        let idle = |session: &Session| {
            session.idle_since().is_some_and(|since| now.saturating_duration_since(since) >= self.idle)
        };
        let (over, alive): (Vec<_>, Vec<_>) = self.read().values().cloned().partition(|session| idle(session));
        for session in alive {
            session.sweep(now);
        }
        for session in over {
            self.end(&session);
        }
        self.ended.sweep(now);
    }

    /// Opens a session.
    ///
    /// # Errors
    /// [`Failure::Limited`] when the caller, or everybody together, has as many as allowed and all are in use.
    pub(super) fn open(
        &self,
        key: SessionKey,
        caller: &Caller,
        route: &Route,
        client: Client,
        lists: Vec<ListKind>,
        line: Option<Line>,
    ) -> Result<Arc<Session>, Failure> {
        let token = Token::begin(key, &caller.principal, route, &client, &lists);
        let id = SessionId(token.seal(&self.keys.load())?.into());
        self.add(id, token, client, caller, false, line)
    }

    /// The session with this id, if it is this caller's and belongs to this route. Anything else is the same answer: an id
    /// alone proves nothing.
    ///
    /// # Errors
    /// [`Failure::UnknownSession`], or [`Failure::ForeignSession`], which looks the same from outside; for a session that
    /// is taken up, those of [`Sessions::open`].
    pub(super) fn find(&self, id: &str, caller: &Caller, route: &Route) -> Result<Arc<Session>, Failure> {
        let found = self.read().get(id).cloned();
        let session = match found {
            Some(session) if session.principal.id() != caller.principal.id() => return Err(Failure::ForeignSession),
            Some(session) if session.route != *route => return Err(Failure::UnknownSession),
            Some(session) => session,
            None => self.take_up(id, caller, route)?,
        };
        session.touch();
        Ok(session)
    }

    /// A session that another replica opened, or this one before it was restarted.
    fn take_up(&self, id: &str, caller: &Caller, route: &Route) -> Result<Arc<Session>, Failure> {
        let token = Token::open(&self.keys.load(), id).ok_or(Failure::UnknownSession)?;
        if !token.is_of(&caller.principal) {
            return Err(Failure::ForeignSession);
        }
        let usable = token.route == *route && !token.is_over(self.max_age) && !self.ended.contains(token.key);
        let client = token.client.clone().filter(|_| usable).ok_or(Failure::UnknownSession)?;
        self.add(SessionId(id.into()), token, client, caller, true, None)
    }

    fn add(
        &self,
        id: SessionId,
        token: Token,
        client: Client,
        caller: &Caller,
        taken_up: bool,
        line: Option<Line>,
    ) -> Result<Arc<Session>, Failure> {
        let event_prefix = token::random_prefix()?;
        let mut table = self.write();
        if let Some(session) = table.get(&id) {
            // Somebody was faster with the same session.
            return Ok(Arc::clone(session));
        }
        self.make_room(&mut table, caller)?;
        let (outside, closed) = match line {
            Some(line) => (Some(line.outside), line.closed),
            None => (None, self.closed.child_token()),
        };
        let session = Session::new(Opening {
            id,
            key: token.key,
            event_prefix: event_prefix.into(),
            principal: caller.principal.clone(),
            route: token.route,
            client,
            lists: token.lists,
            bounds: self.each,
            metrics: Arc::clone(&self.refused),
            closed,
            outside,
            open: self.metrics.session_opened(SessionKind::Client),
            taken_up,
        });
        table.insert(session.id.clone(), Arc::clone(&session));
        Ok(session)
    }

    fn make_room(&self, table: &mut HashMap<SessionId, Arc<Session>>, caller: &Caller) -> Result<(), Failure> {
        let mine = |session: &Session| session.principal.id() == caller.principal.id();
        let [all, each] = self.names;
        let over = |setting| super::limited(&self.refused, LimitKind::ClientSessions, setting);
        if table.values().filter(|session| mine(session)).count() >= self.max_per_principal {
            self.give_way(table, mine).ok_or_else(|| over(each))?;
        }
        if table.len() >= self.max {
            self.give_way(table, |_| true).ok_or_else(|| over(all))?;
        }
        Ok(())
    }

    /// Ends the session that has been idle for longest among some.
    fn give_way(&self, table: &mut HashMap<SessionId, Arc<Session>>, among: impl Fn(&Session) -> bool) -> Option<()> {
        let idle = table
            .values()
            .filter(|session| among(session))
            .filter_map(|session| Some((session.idle_since()?, session)));
        let id = idle.min_by_key(|(since, _)| *since).map(|(_, session)| session.id.clone())?;
        let session = table.remove(&id)?;
        self.ended.add(session.key);
        session.close();
        Some(())
    }

    /// Ends a session.
    pub(super) fn end(&self, session: &Session) {
        // In this order: nobody must take it up in between.
        self.ended.add(session.key);
        self.write().remove(&session.id);
        session.close();
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<SessionId, Arc<Session>>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<SessionId, Arc<Session>>> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}
