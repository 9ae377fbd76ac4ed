//! Sessions that ended here, so that their ids do not open them again.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::token::SessionKey;

/// Most that are remembered, about 4 MiB. Whoever has so many ended that the oldest is forgotten could only take up an own
/// session again.
const MAX_ENDED: usize = 65_536;

/// The keys of ended sessions, for as long as their ids could be used.
#[derive(Debug)]
pub(super) struct Ended {
    kept_for: Duration,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    keys: HashSet<SessionKey>,
    /// In the order in which they ended.
    order: VecDeque<(Instant, SessionKey)>,
}

impl Ended {
    /// None so far. `kept_for` is the longest life of an id.
    pub(super) fn new(kept_for: Duration) -> Self {
        Self { kept_for, table: Mutex::default() }
    }

    /// Notes that a session ended.
    pub(super) fn add(&self, key: SessionKey) {
        let mut table = self.lock();
        if table.keys.insert(key) {
            table.order.push_back((Instant::now(), key));
        }
        if table.order.len() > MAX_ENDED {
            table.forget_oldest();
        }
    }

    /// Whether a session ended.
    pub(super) fn contains(&self, key: SessionKey) -> bool {
        self.lock().keys.contains(&key)
    }

    /// Forgets those whose ids are too old to be used.
    pub(super) fn sweep(&self, now: Instant) {
        let mut table = self.lock();
        let old = |at: Instant| now.saturating_duration_since(at) >= self.kept_for;
        while table.order.front().is_some_and(|(at, _)| old(*at)) {
            table.forget_oldest();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.keys.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ended_sessions_are_remembered_for_as_long_as_their_ids_live() {
        let ended = Ended::new(Duration::from_secs(60));
        let (first, second) = (SessionKey::random().unwrap(), SessionKey::random().unwrap());
        ended.add(first);
        ended.add(first);
        tokio::time::advance(Duration::from_secs(30)).await;
        ended.add(second);
        ended.sweep(Instant::now() + Duration::from_secs(29));
        assert!(ended.contains(first) && ended.contains(second));
        ended.sweep(Instant::now() + Duration::from_secs(30));
        assert!(!ended.contains(first) && ended.contains(second));
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_is_forgotten_when_there_are_too_many() {
        let ended = Ended::new(Duration::from_secs(60));
        let keys: Vec<_> = (0..=MAX_ENDED).map(|_| SessionKey::random().unwrap()).collect();
        keys.iter().for_each(|key| ended.add(*key));
        assert!(!ended.contains(keys[0]) && ended.contains(keys[1]) && ended.contains(keys[MAX_ENDED]));
    }
}
