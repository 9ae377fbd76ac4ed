//! All sessions of an ingress: opened under caps, found by id, ended when idle.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use outrigger_mcp::bridge::to_client::Client;
use outrigger_policy::Principal;
use outrigger_proxy::failure::Failure;
use outrigger_telemetry::Metrics;
use outrigger_telemetry::metrics::SessionKind;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::session::{Opening, Session, SessionId};
use crate::config::{Limits, Timeouts};
use crate::core::{Caller, ListKind, Route};

/// Random bytes of a session id; the specification asks for something that cannot be guessed.
const ID_BYTES: usize = 20;
/// How often idle sessions and old events are looked for, at most: events are kept for a minute.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// How long things take in a session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// A question to the client, or a silent call.
    pub(super) request: Duration,
    /// A silent stream getting a sign of life.
    pub(super) keepalive: Duration,
}

/// The sessions of legacy clients. The gateway owns it: [`Gateway::sessions`].
///
/// [`Gateway::sessions`]: crate::gateway::Gateway::sessions
#[derive(Debug)]
pub struct Sessions {
    max: usize,
    max_per_principal: usize,
    idle: Duration,
    pace: Pace,
    metrics: Arc<Metrics>,
    /// One permit for each stream on which a client may listen.
    pub(super) listens: Arc<Semaphore>,
    closed: CancellationToken,
    table: RwLock<HashMap<SessionId, Arc<Session>>>,
}

/// The names of a new session.
pub(super) struct Names {
    pub(super) id: SessionId,
    pub(super) tag: Arc<str>,
    pub(super) event_prefix: Arc<str>,
}

impl Names {
    /// Fresh random ones.
    ///
    /// # Errors
    /// [`Failure::Internal`] when the system has no randomness.
    pub(super) fn random() -> Result<Self, Failure> {
        Ok(Self {
            id: SessionId(random_hex::<ID_BYTES>()?.into()),
            tag: format!("c.{}", random_hex::<16>()?).into(),
            event_prefix: random_hex::<6>()?.into(),
        })
    }
}

impl Sessions {
    /// No session yet.
    pub fn new(limits: &Limits, timeouts: &Timeouts, metrics: &Arc<Metrics>) -> Self {
        Self {
            max: limits.sessions,
            max_per_principal: limits.sessions_per_principal,
            idle: timeouts.session_idle,
            pace: Pace { request: timeouts.common.request, keepalive: timeouts.keepalive },
            metrics: Arc::clone(metrics),
            listens: Arc::new(Semaphore::new(limits.listens)),
            closed: CancellationToken::new(),
            table: RwLock::default(),
        }
    }

    /// Whether we could have made this session id, alive or not: then the request is a legacy one, whatever else it
    /// says.
    pub fn minted(&self, id: &str) -> bool {
        id.len() == ID_BYTES * 2 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }

    /// Ends idle sessions until the drain is over. Runs as a task of the ingress; dropping it ends every session.
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
    }

    /// Opens a session.
    ///
    /// # Errors
    /// [`Failure::Limited`] when the caller, or everybody together, has as many as allowed and all are in use.
    pub(super) fn open(
        &self,
        names: Names,
        caller: &Caller,
        route: &Route,
        client: Client,
        lists: Vec<ListKind>,
    ) -> Result<Arc<Session>, Failure> {
        let mut table = self.write();
        let own = table.values().filter(|session| session.principal.id() == caller.principal.id()).count();
        if own >= self.max_per_principal {
            let mine = |session: &Session| session.principal.id() == caller.principal.id();
            give_way(&mut table, mine).ok_or_else(|| super::limited("sessions of one principal"))?;
        }
        if table.len() >= self.max {
            give_way(&mut table, |_| true).ok_or_else(|| super::limited("sessions"))?;
        }
        let session = Session::new(Opening {
            id: names.id,
            tag: names.tag,
            event_prefix: names.event_prefix,
            principal: caller.principal.clone(),
            route: route.clone(),
            client,
            lists,
            pace: self.pace,
            closed: self.closed.child_token(),
            open: self.metrics.session_opened(SessionKind::Client),
        });
        table.insert(session.id.clone(), Arc::clone(&session));
        Ok(session)
    }

    /// The session with this id, if it is this principal's and belongs to this route. Anything else is the same
    /// answer: an id alone proves nothing.
    ///
    /// # Errors
    /// [`Failure::UnknownSession`].
    pub(super) fn find(&self, id: &str, principal: &Principal, route: &Route) -> Result<Arc<Session>, Failure> {
        let found = self.read().get(&SessionId(id.into())).cloned();
        let session = found
            .filter(|session| session.principal.id() == principal.id() && session.route == *route)
            .ok_or(Failure::UnknownSession)?;
        session.touch();
        Ok(session)
    }

    /// Ends a session.
    pub(super) fn end(&self, session: &Session) {
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

/// Ends the session that has been idle for longest among some.
fn give_way(table: &mut HashMap<SessionId, Arc<Session>>, among: impl Fn(&Session) -> bool) -> Option<()> {
    let idle =
        table.values().filter(|session| among(session)).filter_map(|session| Some((session.idle_since()?, session)));
    let id = idle.min_by_key(|(since, _)| *since).map(|(_, session)| session.id.clone())?;
    table.remove(&id)?.close();
    Some(())
}

fn random_hex<const N: usize>() -> Result<String, Failure> {
    let mut bytes = [0u8; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Failure::Internal("no randomness from the system".into()))?;
    let mut text = String::with_capacity(N * 2);
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    Ok(text)
}
