//! The state of every part, kept from what is told. Pure.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::event::What;
use super::probe::Addresses;

/// A start that goes wrong for so long counts as failed, although the sidecar tries on: a program that is missing will
/// not appear while a person waits. Long enough for a server that needs another one, which starts too.
const FAILING: Duration = Duration::from_secs(3);
/// What a sidecar says before its first attempt has ended.
const STARTING: &str = "server: starting";

/// How a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// It has not been ready yet.
    Starting,
    /// It works.
    Ready,
    /// It was ready, runs, and is not ready now.
    Waiting,
    /// It was ready, its process died, and another one is being started.
    Restarting,
    /// It was not ready in time, or cannot be started. It may become ready yet.
    Failed,
}

impl State {
    /// The word that people and programs read.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Waiting => "waiting",
            Self::Restarting => "restarting",
            Self::Failed => "failed",
        }
    }
}

/// One part of the mesh.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Its name.
    pub(crate) name: String,
    /// How it is.
    pub(crate) state: State,
    /// Why it is not ready.
    pub(crate) reason: Option<String>,
    /// Where it listens.
    pub(crate) addresses: Option<Addresses>,
    /// Since when a start has been going wrong; `None` while it only takes its time.
    pub(crate) failing: Option<Instant>,
}

/// All parts: the services in order, then the ingress.
#[derive(Debug, Default)]
pub(crate) struct Board {
    /// The parts.
    pub(crate) entries: Vec<Entry>,
}

impl Board {
    /// All parts, starting.
    pub(crate) fn new(names: impl IntoIterator<Item = String>) -> Self {
        let entry = |name| Entry { name, state: State::Starting, reason: None, addresses: None, failing: None };
        Self { entries: names.into_iter().map(entry).collect() }
    }

    /// The services, without the ingress.
    pub(crate) fn services(&self) -> &[Entry] {
        self.entries.split_last().map_or(&[], |(_, services)| services)
    }

    /// The ingress.
    pub(crate) fn ingress(&self) -> Option<&Entry> {
        self.entries.last()
    }

    /// Notes what happened to a part. Whether its state or reason is another one now.
    pub(crate) fn note(&mut self, part: usize, what: What) -> bool {
        let Some(entry) = self.entries.get_mut(part) else {
            return false;
        };
        let (state, reason) = match (what, entry.state) {
            (What::Bound(addresses), _) => {
                let moved = entry.addresses.replace(addresses).is_none_or(|before| before != addresses);
                return moved && entry.state == State::Ready;
            }
            (What::Ready, _) => (State::Ready, None),
            (What::GaveUp(reason), _) => (State::Failed, Some(reason)),
            (What::Waiting(reason), State::Ready | State::Waiting) => (State::Waiting, Some(reason)),
            (What::Ended(reason), State::Ready | State::Waiting | State::Restarting) => {
                (State::Restarting, Some(reason))
            }
            // Of the two ways in which a start goes wrong, the last words of a process say more than its silence.
            (What::Waiting(_), State::Restarting | State::Failed) if entry.reason.is_some() => return false,
            (What::Waiting(reason) | What::Ended(reason), before) => (before, Some(reason)),
            (What::Trouble(_), _) => return false,
        };
        match &reason {
            None => entry.failing = None,
            Some(reason) if state == State::Starting && !reason.starts_with(STARTING) => {
                entry.failing.get_or_insert_with(Instant::now);
            }
            Some(_) => {}
        }
        let changed = entry.state != state || entry.reason != reason;
        (entry.state, entry.reason) = (state, reason);
        changed
    }

    /// Gives up on parts that have not been ready yet; they may still become so. Returns which.
    pub(crate) fn expire(&mut self, services_only: bool, patience: &str) -> Vec<usize> {
        let parts = if services_only { self.services().len() } else { self.entries.len() };
        let mut expired = Vec::new();
        for (index, entry) in self.entries.iter_mut().take(parts).enumerate() {
            if entry.state == State::Starting {
                entry.state = State::Failed;
                let why = entry.reason.take().unwrap_or_else(|| "it says nothing".to_owned());
                entry.reason = Some(format!("not ready within {patience}: {why}"));
                expired.push(index);
            }
        }
        expired
    }

    /// When the next service counts as failed because its start keeps going wrong.
    pub(crate) fn next_failing(&self) -> Option<Instant> {
        let starting = self.services().iter().filter(|entry| entry.state == State::Starting);
        starting.filter_map(|entry| entry.failing).min().map(|since| since + FAILING)
    }

    /// Gives up on services whose start has been going wrong for long; they may still become ready. Returns which.
    pub(crate) fn fail_failing(&mut self, now: Instant) -> Vec<usize> {
        let services = self.services().len();
        let mut failed = Vec::new();
        for (index, entry) in self.entries.iter_mut().take(services).enumerate() {
            if entry.state == State::Starting && entry.failing.is_some_and(|since| since + FAILING <= now) {
                entry.state = State::Failed;
                failed.push(index);
            }
        }
        failed
    }

    /// Whether every service is either ready or given up.
    pub(crate) fn services_settled(&self) -> bool {
        self.services().iter().all(|entry| entry.state != State::Starting)
    }

    /// Whether the ingress can be configured: every service has an address, or none is to be waited for.
    pub(crate) fn addresses_settled(&self) -> bool {
        self.services().iter().all(|entry| entry.addresses.is_some() || entry.state == State::Failed)
    }

    /// Where clients connect.
    pub(crate) fn clients(&self) -> Option<SocketAddr> {
        self.ingress()?.addresses.map(|addresses| addresses.mesh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> Board {
        Board::new(["fs", "ingress"].map(str::to_owned))
    }

    fn says(board: &Board) -> (State, Option<&str>) {
        (board.entries[0].state, board.entries[0].reason.as_deref())
    }

    #[test]
    fn a_part_starts_becomes_ready_dies_and_comes_back() {
        let mut board = board();
        assert!(board.note(0, What::Waiting("no catalog".into())));
        assert_eq!(says(&board), (State::Starting, Some("no catalog")));
        assert!(!board.note(0, What::Waiting("no catalog".into())), "the same again is no change");
        assert!(board.note(0, What::Ready));
        assert_eq!(says(&board), (State::Ready, None));
        assert!(board.note(0, What::Waiting("child gone".into())));
        assert_eq!(says(&board), (State::Waiting, Some("child gone")));
        assert!(board.note(0, What::Ended("killed".into())));
        assert_eq!(says(&board), (State::Restarting, Some("killed")));
        assert!(!board.note(0, What::Waiting("no catalog".into())), "why it died says more");
        assert!(board.note(0, What::Ready));
    }

    #[test]
    fn what_is_not_ready_in_time_has_failed_until_it_is() {
        let mut board = board();
        board.note(0, What::Ended("no such program".into()));
        assert!(!board.services_settled());
        assert_eq!(board.expire(true, "30 s"), [0]);
        assert_eq!(says(&board), (State::Failed, Some("not ready within 30 s: no such program")));
        assert!(board.services_settled() && board.entries[1].state == State::Starting);
        assert!(board.expire(true, "30 s").is_empty());
        assert!(board.note(0, What::Ready));
        assert_eq!(says(&board), (State::Ready, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_keeps_going_wrong_has_failed_soon_and_one_that_takes_its_time_has_not() {
        let mut board = board();
        board.note(0, What::Waiting("server: starting".into()));
        assert_eq!(board.next_failing(), None);
        board.note(0, What::Waiting("server: no such program".into()));
        let due = board.next_failing().unwrap();
        assert!(board.fail_failing(Instant::now()).is_empty(), "not at the first attempt");
        tokio::time::advance(FAILING).await;
        assert_eq!(due, Instant::now());
        assert_eq!(board.fail_failing(Instant::now()), [0]);
        assert_eq!(says(&board), (State::Failed, Some("server: no such program")));
        assert!(board.services_settled() && board.next_failing().is_none());
        assert!(board.note(0, What::Ready), "it may still become ready");
    }

    #[test]
    fn the_ingress_waits_for_addresses_but_not_for_what_failed() {
        let mut board = board();
        assert!(!board.addresses_settled());
        let address = "127.0.0.1:1".parse().unwrap();
        assert!(!board.note(0, What::Bound(Addresses { mesh: address, admin: address })));
        assert!(board.addresses_settled());
        let mut board = self::board();
        board.note(0, What::GaveUp("wrong".into()));
        assert!(board.addresses_settled());
    }
}
