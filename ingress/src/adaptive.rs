//! How many calls at once do a service good: found out from how long they take.
//!
//! A server has a knee: up to it more calls at once mean more work done, beyond it they only wait for each other. Each call
//! is compared with what its tool usually takes; while calls take longer than that, places are taken away, and else a few
//! are added, as long as they are used. What a tool *usually takes* is learned where calls cannot be waiting for each other:
//! at less than half of the places, and now and then, while all are taken, by letting only half of them be taken for a moment (a *dip*).
//! Without dips the learned time would follow a queue that never empties.
//!
//! A call costs a few atomic operations; one in each window of calls takes the lock and decides.

use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Adaptive as Rule;

/// Tools whose usual time is kept; those that share one are taken together.
const TOOLS: usize = 64;
/// The shortest window, and the fewest calls in it.
const WINDOW: Duration = Duration::from_millis(100);
const CALLS: u32 = 20;
/// Added to both times before they are compared, in microseconds: a millisecond more is no queue.
const GRACE: u64 = 500;
/// Calls may take this much longer than usual, in 1/1024.
const TOLERANCE: f64 = 1.4 * 1024.0;
/// One call counts at most this much, in 1/1024 of the usual time.
const MOST: u64 = 64 * 1024;
/// Windows with all places taken between two dips.
const DIP_EVERY: u32 = 25;
/// The longest dip, for services with few calls.
const LONGEST_DIP: Duration = Duration::from_secs(5);

/// Decides how many places a service has.
#[derive(Debug)]
pub(crate) struct Adaptive {
    least: usize,
    most: usize,
    begins_with: usize,
    /// What each tool usually takes, in microseconds; 0: not known.
    usual: Box<[AtomicU64]>,
    hasher: RandomState,
    base: Instant,
    /// When the window began and the dip, if there is one, in microseconds since `base`; [`u64::MAX`]: none.
    began: AtomicU64,
    dip: AtomicU64,
    /// Of the window: how much longer than usual its calls took in 1/1024, how many they are, how many had no answer, and
    /// how many were at work at once.
    slow: AtomicU64,
    calls: AtomicU32,
    failed: AtomicU32,
    busiest: AtomicUsize,
    half: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: f64,
    /// Windows with all places taken since the last dip.
    full: u32,
}

impl Adaptive {
    /// Between the bounds of the setting; `most` is what the fixed limit says.
    pub(crate) fn new(rule: &Rule, most: usize) -> Self {
        let least = rule.min.min(most);
        let begins_with = rule.start.clamp(least, most);
        Self {
            least,
            most,
            begins_with,
            usual: std::iter::repeat_with(AtomicU64::default).take(TOOLS).collect(),
            hasher: RandomState::new(),
            base: Instant::now(),
            began: AtomicU64::new(0),
            dip: AtomicU64::new(u64::MAX),
            slow: AtomicU64::new(0),
            calls: AtomicU32::new(0),
            failed: AtomicU32::new(0),
            busiest: AtomicUsize::new(0),
            half: AtomicUsize::new(begins_with / 2),
            state: Mutex::new(State { limit: begins_with as f64, full: 0 }),
        }
    }

    /// Places at first.
    pub(crate) fn begins_with(&self) -> usize {
        self.begins_with
    }

    /// A call ended. Gives the number of places when it was the last one of a window.
    pub(crate) fn ended(
        &self,
        what: &str,
        began: Instant,
        now: Instant,
        answered: bool,
        at_once: usize,
    ) -> Option<usize> {
        let (began, now) = (self.micros(began), self.micros(now));
        let dip = self.dip.load(Ordering::Relaxed);
        if answered {
            self.compare(what, began, now.saturating_sub(began), dip, at_once);
        } else {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        // In a dip only what began in it counts: the rest had to wait before.
        let counts = dip == u64::MAX || began >= dip;
        let calls = self.calls.fetch_add(u32::from(counts), Ordering::Relaxed) + u32::from(counts);
        self.busiest.fetch_max(at_once, Ordering::Relaxed);
        let passed = Duration::from_micros(now.saturating_sub(self.began.load(Ordering::Relaxed)));
        let over = (calls >= CALLS && passed >= WINDOW) || (dip != u64::MAX && passed >= LONGEST_DIP);
        if over { self.decide(now) } else { None }
    }

    /// Where a tool's usual time is kept; a few tools may share it.
    fn slot(&self, what: &str) -> usize {
        usize::try_from(self.hasher.hash_one(what) % TOOLS as u64).unwrap_or_default()
    }

    fn compare(&self, what: &str, began: u64, took: u64, dip: u64, at_once: usize) {
        let Some(usual) = self.usual.get(self.slot(what)) else { return };
        let known = usual.load(Ordering::Relaxed);
        let learned = match known {
            0 => took.max(1),
            _ if dip != u64::MAX && began >= dip => towards(known, took, 8),
            _ if took < known => towards(known, took, 16),
            _ if at_once <= self.half.load(Ordering::Relaxed) => towards(known, took, 64),
            _ => known,
        };
        if learned != known {
            usual.store(learned, Ordering::Relaxed);
        }
        let compared = (took + GRACE).saturating_mul(1024) / (if known == 0 { took } else { known } + GRACE);
        self.slow.fetch_add(compared.min(MOST), Ordering::Relaxed);
    }

    /// Ends the window. Whoever comes second lets the first one do it.
    fn decide(&self, now: u64) -> Option<usize> {
        let mut state = self.state.try_lock().ok()?;
        let calls = self.calls.swap(0, Ordering::Relaxed);
        let failed = self.failed.swap(0, Ordering::Relaxed);
        let slow = self.slow.swap(0, Ordering::Relaxed) as f64;
        let busiest = self.busiest.swap(0, Ordering::Relaxed);
        self.began.store(now, Ordering::Relaxed);
        if self.dip.swap(u64::MAX, Ordering::Relaxed) == u64::MAX {
            self.follow(&mut state, calls, failed, slow, busiest);
        }
        let limit = self.places(state.limit);
        self.half.store(limit / 2, Ordering::Relaxed);
        if state.full < DIP_EVERY {
            return Some(limit);
        }
        state.full = 0;
        self.dip.store(now, Ordering::Relaxed);
        Some((limit / 2).max(self.least.min(2)).max(1))
    }

    /// The next limit, by what the window showed.
    fn follow(&self, state: &mut State, calls: u32, failed: u32, slow: f64, busiest: usize) {
        let answered = f64::from(calls.saturating_sub(failed).max(1));
        let limit = state.limit;
        let used = busiest >= self.places(limit) * 9 / 10;
        state.full += u32::from(used);
        if failed * 10 > calls {
            state.limit = limit * 0.9;
        } else if used {
            let gradient = (TOLERANCE * answered / slow.max(1.0)).clamp(0.5, 1.0);
            state.limit = limit * 0.8 + (limit * gradient + limit.sqrt()) * 0.2;
        }
        state.limit = state.limit.clamp(self.least as f64, self.most as f64);
    }

    /// Whole places.
    fn places(&self, limit: f64) -> usize {
        (limit.round() as usize).clamp(self.least, self.most)
    }

    fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.base).as_micros()).unwrap_or(u64::MAX - 1)
    }
}

/// One part of so many of the way.
fn towards(from: u64, to: u64, parts: u64) -> u64 {
    if to >= from { from + (to - from) / parts } else { from - (from - to).div_ceil(parts) }
}

#[cfg(test)]
mod tests;
