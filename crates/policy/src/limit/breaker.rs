//! The circuit breaker: a peer that failed several times in a row is left alone for a while, then tried once in a while.
//!
//! Only peers in trouble are remembered, so a table of them is small, and healthy ones cost a look into an empty map.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::bucket::Nanos;

/// Peers in trouble that one table remembers. Beyond, further ones are simply tried each time.
const MOST: usize = 1024;

/// When a peer is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerRule {
    /// Failures in a row; 0: never.
    pub failures: u32,
    /// For how long; then one attempt in each such span goes through until one succeeds.
    pub rest: Duration,
}

/// The peers in trouble, by whatever tells them apart.
#[derive(Debug)]
pub struct Breakers<K> {
    rule: BreakerRule,
    failing: Mutex<HashMap<K, Failing>>,
}

#[derive(Debug, Default)]
struct Failing {
    failures: u32,
    /// When the next attempt may be made.
    until: Nanos,
}

impl<K: Hash + Eq + Clone> Breakers<K> {
    /// No peer in trouble yet.
    pub fn new(rule: BreakerRule) -> Self {
        Self { rule, failing: Mutex::default() }
    }

    /// Whether a peer may be tried. While it is left alone, one attempt in each span of rest is the trial.
    ///
    /// # Errors
    /// How long it is left alone still.
    pub fn admit(&self, peer: &K, now: Nanos) -> Result<(), Duration> {
        let mut failing = self.lock();
        let Some(one) = failing.get_mut(peer).filter(|one| one.failures >= self.rule.failures) else { return Ok(()) };
        if one.until > now {
            return Err(Duration::from_nanos(one.until.0 - now.0));
        }
        // A trial that never reports back holds nothing up: the next one comes after another rest.
        one.until = self.after_rest(now);
        Ok(())
    }

    /// An attempt went well.
    pub fn succeeded(&self, peer: &K) {
        let mut failing = self.lock();
        if !failing.is_empty() {
            failing.remove(peer);
        }
    }

    /// An attempt failed.
    pub fn failed(&self, peer: &K, now: Nanos) {
        if self.rule.failures == 0 {
            return;
        }
        let until = self.after_rest(now);
        let mut failing = self.lock();
        if failing.len() >= MOST && !failing.contains_key(peer) {
            // Those whose rest is long over are in no trouble that anybody asks about.
            failing.retain(|_, one| one.until > now);
            if failing.len() >= MOST {
                return;
            }
        }
        let one = failing.entry(peer.clone()).or_default();
        one.failures = one.failures.saturating_add(1);
        one.until = until;
    }

    fn after_rest(&self, now: Nanos) -> Nanos {
        Nanos(now.0.saturating_add(Nanos::since_start(self.rule.rest).0))
    }

    /// Every use is one operation on the map, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Failing>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_peer_that_keeps_failing_is_left_alone_and_tried_again() {
        let breakers = Breakers::new(BreakerRule { failures: 2, rest: Duration::from_secs(10) });
        let at = |seconds: u64| Nanos(seconds * SECOND);
        breakers.failed(&"a", at(0));
        assert_eq!(breakers.admit(&"a", at(0)), Ok(()), "once is chance");
        breakers.failed(&"a", at(1));
        assert_eq!(breakers.admit(&"a", at(2)), Err(Duration::from_secs(9)));
        assert_eq!(breakers.admit(&"b", at(2)), Ok(()), "others are no part of it");
        assert_eq!(breakers.admit(&"a", at(11)), Ok(()), "the trial");
        assert_eq!(breakers.admit(&"a", at(12)), Err(Duration::from_secs(9)), "one at a time");
        breakers.failed(&"a", at(13));
        assert_eq!(breakers.admit(&"a", at(14)), Err(Duration::from_secs(9)));
        assert_eq!(breakers.admit(&"a", at(23)), Ok(()));
        breakers.succeeded(&"a");
        breakers.failed(&"a", at(24));
        assert_eq!(breakers.admit(&"a", at(24)), Ok(()), "failures count anew");
    }

    #[test]
    fn failures_break_each_row_and_none_is_asked_for_with_zero() {
        let never = Breakers::new(BreakerRule { failures: 0, rest: Duration::from_secs(10) });
        for _ in 0..100 {
            never.failed(&"a", Nanos(0));
        }
        assert_eq!(never.admit(&"a", Nanos(0)), Ok(()));
    }

    #[test]
    fn the_table_is_bounded() {
        let breakers = Breakers::new(BreakerRule { failures: 1, rest: Duration::from_secs(1) });
        for peer in 0..5000 {
            breakers.failed(&peer, Nanos(0));
        }
        assert_eq!(breakers.lock().len(), MOST);
        breakers.failed(&9999, Nanos(2 * SECOND));
        assert_eq!(breakers.lock().len(), 1, "those whose rest is over make room");
    }
}
