//! Which replicas are left alone for a while because calls at them fail, and how they come back.
//!
//! ```text
//!         failures in a row, or a share of them            the rest is over
//!  well ----------------------------------------> out ---------------------> on trial: one call at a time
//!    ^                                             ^                            |            |
//!    |                                             \------- it fails ----------/             | it goes well
//!    \------------------------- time ------------------------- recovering <-----------------/
//! ```
//!
//! A replica is *ejected* only while enough others are left (`most_out`); each further time lasts twice as long. Beyond
//! that, one that does not answer at all is still left alone for one short rest at a time: its callers learn at once what
//! they would have learned after a timeout. While a replica is well, a call costs it two atomic operations and no lock.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_telemetry::metrics::Ejection;
use tokio::time::Instant;

use crate::config::Breaker as Rule;

/// How a call failed, as far as its replica is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing came back: no connection, or one that broke, or silence.
    NoAnswer,
    /// An answer came back, and says that the server's side failed.
    Answered,
}

/// Whether a replica may have a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Any.
    Well,
    /// This many percent of those that it would have otherwise.
    Recovering(u32),
    /// One, if [`Breaker::try_it`] agrees.
    Due,
    /// None.
    Out,
}

const WELL: u8 = 0;
const BACK: u8 = 1;
const OUT: u8 = 2;

/// The breaker of one replica.
#[derive(Debug)]
pub(crate) struct Breaker {
    rule: Rule,
    /// Failures in a row.
    failed: AtomicU32,
    /// Of those, how many of the last ones got no answer.
    silent: AtomicU32,
    /// Calls that went well ever; it is never set back, since whoever waits compares it.
    good: AtomicU32,
    /// Calls of the window that failed.
    bad: AtomicU32,
    /// [`WELL`], [`BACK`] or [`OUT`]: what the state below comes to, so that the lock is asked only in trouble.
    level: AtomicU8,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// When the window began: with the first failure after the last one.
    window: Option<Instant>,
    /// How many calls had gone well then.
    good_before: u32,
    /// How often it was ejected lately.
    times: u32,
    /// When it was well again.
    well_since: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Well,
    Out { until: Instant },
    OnTrial { since: Instant },
    Recovering { since: Instant },
}

impl Breaker {
    /// A replica that nothing is known of.
    pub(crate) fn new(rule: &Rule) -> Self {
        Self {
            rule: rule.clone(),
            failed: AtomicU32::new(0),
            silent: AtomicU32::new(0),
            good: AtomicU32::new(0),
            bad: AtomicU32::new(0),
            level: AtomicU8::new(WELL),
            state: Mutex::new(State { phase: Phase::Well, window: None, good_before: 0, times: 0, well_since: None }),
        }
    }

    /// Whether it is anything but well.
    pub(crate) fn is_troubled(&self) -> bool {
        self.level.load(Ordering::Relaxed) != WELL
    }

    /// Whether it is left alone, or tried.
    pub(crate) fn is_out(&self) -> bool {
        self.level.load(Ordering::Relaxed) == OUT
    }

    /// How it stands, for the page of the admin port.
    pub(crate) fn word(&self, now: Instant) -> &'static str {
        match self.standing(now) {
            Standing::Well => "closed",
            Standing::Recovering(_) => "recovering",
            Standing::Due => "half_open",
            Standing::Out => "open",
        }
    }

    /// Whether it may have a call.
    pub(crate) fn standing(&self, now: Instant) -> Standing {
        if !self.is_troubled() {
            return Standing::Well;
        }
        let mut state = self.lock();
        match state.phase {
            Phase::Well => Standing::Well,
            Phase::Out { until } if now < until => Standing::Out,
            // A trial of which nothing was heard holds nothing up for long.
            Phase::OnTrial { since } if now < since + self.rule.rest => Standing::Out,
            Phase::Out { .. } | Phase::OnTrial { .. } => Standing::Due,
            Phase::Recovering { since } => {
                let over = now.saturating_duration_since(since);
                if over < self.rule.recovery {
                    return Standing::Recovering(percent(over, self.rule.recovery).max(10));
                }
                state.phase = Phase::Well;
                state.well_since = Some(now);
                self.level.store(WELL, Ordering::Relaxed);
                Standing::Well
            }
        }
    }

    /// Takes the one call that tries whether it is back.
    pub(crate) fn try_it(&self, now: Instant) -> bool {
        let mut state = self.lock();
        let due = match state.phase {
            Phase::Out { until } => now >= until,
            Phase::OnTrial { since } => now >= since + self.rule.rest,
            Phase::Well | Phase::Recovering { .. } => false,
        };
        if due {
            state.phase = Phase::OnTrial { since: now };
        }
        due
    }

    /// A call ended of which nobody can say how it went: if that was the trial, the next call may try it.
    pub(crate) fn untold(&self, now: Instant) {
        if !self.is_out() {
            return;
        }
        let mut state = self.lock();
        if matches!(state.phase, Phase::OnTrial { .. }) {
            state.phase = Phase::Out { until: now };
        }
    }

    /// Its sidecar answers again after it was away: the next call may try it.
    pub(crate) fn seen_again(&self, now: Instant) {
        if !self.is_out() {
            return;
        }
        let mut state = self.lock();
        if let Phase::Out { until } = &mut state.phase {
            *until = now;
        }
    }

    /// Calls that went well ever: whether anything did while one waited.
    pub(crate) fn progress(&self) -> u32 {
        self.good.load(Ordering::Relaxed)
    }

    /// A call went well. Gives whether the replica is back with it.
    pub(crate) fn succeeded(&self, now: impl FnOnce() -> Instant) -> bool {
        self.good.fetch_add(1, Ordering::Relaxed);
        if self.failed.load(Ordering::Relaxed) != 0 {
            self.failed.store(0, Ordering::Relaxed);
        }
        if self.silent.load(Ordering::Relaxed) != 0 {
            self.silent.store(0, Ordering::Relaxed);
        }
        if !self.is_out() {
            return false;
        }
        let mut state = self.lock();
        let back = matches!(state.phase, Phase::OnTrial { .. });
        if back {
            let now = now();
            self.begin_window(&mut state, now);
            state.phase = Phase::Recovering { since: now };
            self.level.store(BACK, Ordering::Relaxed);
        }
        back
    }

    /// A call failed. `may_eject` says whether enough other replicas are left; it is asked last. Gives why the replica is
    /// left alone, and for how long, when it is from now on.
    pub(crate) fn failed(
        &self,
        fault: Fault,
        now: Instant,
        may_eject: impl FnOnce() -> bool,
    ) -> Option<(Ejection, Duration)> {
        if self.rule.failures == 0 {
            return None;
        }
        let failed = self.failed.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let silent = match fault {
            Fault::NoAnswer => self.silent.fetch_add(1, Ordering::Relaxed).saturating_add(1),
            Fault::Answered => {
                self.silent.store(0, Ordering::Relaxed);
                0
            }
        };
        let mut state = self.lock();
        let on_trial = match state.phase {
            // What began before it was left alone says nothing new.
            Phase::Out { .. } => return None,
            Phase::OnTrial { .. } => true,
            Phase::Well | Phase::Recovering { .. } => false,
        };
        if state.window.is_none_or(|began| now >= began + self.rule.window) {
            self.begin_window(&mut state, now);
        }
        let bad = self.bad.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let calls = bad.saturating_add(self.progress().wrapping_sub(state.good_before));
        let too_many =
            calls >= self.rule.calls && u64::from(bad) * 100 >= u64::from(calls) * u64::from(self.rule.share);
        let in_a_row = failed >= self.rule.failures || on_trial;
        let why = if in_a_row { Ejection::Failures } else { Ejection::Share };
        if (in_a_row || too_many) && may_eject() {
            return Some((why, self.eject(&mut state, now)));
        }
        if silent >= self.rule.failures || on_trial {
            state.phase = Phase::Out { until: now + self.rule.rest };
            self.level.store(OUT, Ordering::Relaxed);
            return Some((Ejection::Circuit, self.rule.rest));
        }
        None
    }

    fn eject(&self, state: &mut State, now: Instant) -> Duration {
        // Old sins are forgotten after as long as the longest rest.
        if state.well_since.is_some_and(|since| now >= since + self.rule.longest_rest) {
            state.times = 0;
        }
        state.well_since = None;
        let rest = self.rule.rest.saturating_mul(1_u32 << state.times.min(20)).min(self.rule.longest_rest);
        state.times = state.times.saturating_add(1);
        state.phase = Phase::Out { until: now + rest };
        self.level.store(OUT, Ordering::Relaxed);
        rest
    }

    fn begin_window(&self, state: &mut State, now: Instant) {
        state.window = Some(now);
        state.good_before = self.progress();
        self.bad.store(0, Ordering::Relaxed);
    }

    /// Every change under this lock is one assignment or harmless when half done.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn percent(part: Duration, whole: Duration) -> u32 {
    u32::try_from(part.as_millis().saturating_mul(100) / whole.as_millis().max(1)).unwrap_or(100).min(100)
}

#[cfg(test)]
mod tests;
