//! The token bucket of every rate limit, kept as one number: GCRA, the generic cell rate algorithm (ITU-T I.371).
//!
//! Instead of counting tokens and refilling them, a bucket remembers the time at which it will be full again (the
//! "theoretical arrival time"). Each call moves that time one interval on; a call that would move it further ahead
//! of now than the burst allows is refused. One atomic word, no timer, no lock, and an unused bucket needs no care.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Largest burst accepted. Together with the slowest rate (1/h) it keeps all arithmetic inside `u64` nanoseconds.
pub const MAX_BURST: u32 = 1_000_000;
/// Fastest rate accepted, per second: one call per nanosecond, the resolution of the clock.
pub const MAX_PER_SECOND: u64 = 1_000_000_000;

/// A point in time: nanoseconds since a start that the caller chose (process start), never going back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The point this long after the start. Saturates after 584 years.
    pub fn since_start(elapsed: Duration) -> Nanos {
        Nanos(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// How much a bucket admits: a steady rate, and how many calls at once on top of a rested bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota {
    /// Nanoseconds between calls at the steady rate; at least 1.
    interval: u64,
    /// Calls a full bucket admits at once; at least 1.
    burst: u32,
}

impl Quota {
    /// `count` calls per `period`, `burst` at once. `None` when a number is 0 or out of range ([`MAX_BURST`],
    /// [`MAX_PER_SECOND`], at slowest one call per hour). Intervals are rounded up, so never more than `count` are
    /// admitted per period.
    pub fn new(count: u64, period: Duration, burst: u32) -> Option<Quota> {
        let period = u64::try_from(period.as_nanos()).ok()?;
        let in_range = count > 0 && count <= period && period <= 3_600_000_000_000 && (1..=MAX_BURST).contains(&burst);
        in_range.then(|| Quota { interval: period.div_ceil(count), burst })
    }

    /// Time between calls at the steady rate.
    pub fn interval(&self) -> Duration {
        Duration::from_nanos(self.interval)
    }

    /// Calls that a full bucket admits at once.
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// How far ahead of now the bucket may be before a call and still admit it.
    fn tolerance(&self) -> u64 {
        self.interval.saturating_mul(u64::from(self.burst) - 1)
    }
}

/// The state of one bucket. A new one is full.
#[derive(Debug, Default)]
pub struct Bucket {
    /// When the bucket is full again. Only this word is shared, so relaxed ordering is enough: nothing else is
    /// published through it.
    full_at: AtomicU64,
}

/// A token that was taken and can still be put back.
#[derive(Debug)]
#[must_use = "a token that is neither used nor given back is lost to the caller"]
pub struct Taken {
    before: u64,
    after: u64,
}

impl Bucket {
    /// Takes one token, or says how long to wait for one.
    ///
    /// # Errors
    /// The time after which a token is there, if nobody else takes it first.
    pub fn take(&self, quota: &Quota, now: Nanos) -> Result<Taken, Duration> {
        let mut before = self.full_at.load(Ordering::Relaxed);
        loop {
            check_against(before, quota, now)?;
            let after = before.max(now.0).saturating_add(quota.interval);
            match self.full_at.compare_exchange_weak(before, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(Taken { before, after }),
                Err(current) => before = current,
            }
        }
    }

    /// Whether a token is there, without taking it.
    ///
    /// # Errors
    /// The time after which one is.
    pub fn peek(&self, quota: &Quota, now: Nanos) -> Result<(), Duration> {
        check_against(self.full_at.load(Ordering::Relaxed), quota, now)
    }

    /// Puts a token back, unless others have moved the bucket meanwhile: then it stays spent. Subtracting an
    /// interval in that case could admit one call more than the quota, and a limit must never do that.
    pub fn give_back(&self, taken: Taken) {
        let _ = self.full_at.compare_exchange(taken.after, taken.before, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether the bucket is full: forgetting it now loses nothing.
    pub fn is_full(&self, now: Nanos) -> bool {
        self.full_at.load(Ordering::Relaxed) <= now.0
    }
}

fn check_against(full_at: u64, quota: &Quota, now: Nanos) -> Result<(), Duration> {
    match full_at.saturating_sub(now.0.saturating_add(quota.tolerance())) {
        0 => Ok(()),
        wait => Err(Duration::from_nanos(wait)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Bucket, MAX_BURST, Nanos, Quota};
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn burst_then_steady_rate() {
        let (bucket, quota) = (Bucket::default(), Quota::new(10, SECOND, 3).unwrap());
        for _ in 0..3 {
            assert!(bucket.take(&quota, Nanos(0)).is_ok());
        }
        assert_eq!(bucket.take(&quota, Nanos(0)).unwrap_err(), Duration::from_millis(100));
        assert_eq!(bucket.take(&quota, Nanos(99_999_999)).unwrap_err(), Duration::from_nanos(1));
        assert!(bucket.take(&quota, Nanos(100_000_000)).is_ok());
        assert!(!bucket.is_full(Nanos(100_000_000)));
        assert!(bucket.is_full(Nanos(400_000_000)));
    }

    #[test]
    fn quotas_outside_the_arithmetic_are_refused() {
        assert!(Quota::new(0, SECOND, 1).is_none());
        assert!(Quota::new(1, SECOND, 0).is_none());
        assert!(Quota::new(1, SECOND, MAX_BURST + 1).is_none());
        assert!(Quota::new(1_000_000_001, SECOND, 1).is_none());
        assert!(Quota::new(1, Duration::from_secs(3601), 1).is_none());
        let third = Quota::new(3, SECOND, 1).unwrap();
        assert_eq!(third.interval(), Duration::from_nanos(333_333_334), "rounded to the strict side");
        let slowest = Quota::new(1, Duration::from_secs(3600), MAX_BURST).unwrap();
        let bucket = Bucket::default();
        assert!(bucket.take(&slowest, Nanos(u64::MAX)).is_ok(), "the end of time does not overflow");
    }

    #[test]
    fn a_token_given_back_can_be_taken_again() {
        let (bucket, quota) = (Bucket::default(), Quota::new(1, SECOND, 1).unwrap());
        let taken = bucket.take(&quota, Nanos(5)).unwrap();
        assert!(bucket.peek(&quota, Nanos(5)).is_err());
        bucket.give_back(taken);
        assert!(bucket.take(&quota, Nanos(5)).is_ok());
    }

    #[test]
    fn a_late_give_back_admits_nobody_too_many() {
        let (bucket, quota) = (Bucket::default(), Quota::new(1, SECOND, 1).unwrap());
        let early = bucket.take(&quota, Nanos(0)).unwrap();
        let _used = bucket.take(&quota, Nanos(2_000_000_000)).unwrap();
        bucket.give_back(early);
        assert!(bucket.take(&quota, Nanos(2_000_000_000)).is_err());
    }

    #[test]
    fn threads_together_get_the_burst_and_no_more() {
        let (bucket, quota) = (Bucket::default(), Quota::new(1, SECOND, 100).unwrap());
        let admitted: usize = std::thread::scope(|scope| {
            let hammer = || (0..100).filter(|_| bucket.take(&quota, Nanos(7)).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(hammer)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 100);
    }

    proptest! {
        /// In every window, not only from the start: admitted <= burst + rate * length.
        #[test]
        fn never_more_than_burst_plus_rate(
            count in 1_u64..1000, burst in 1_u32..20, gaps in proptest::collection::vec(0_u64..200_000_000, 1..200),
        ) {
            let (bucket, quota) = (Bucket::default(), Quota::new(count, SECOND, burst).unwrap());
            let mut now = 1_000_000_000_u64;
            let mut admitted = Vec::new();
            for gap in gaps {
                now += gap;
                if bucket.take(&quota, Nanos(now)).is_ok() {
                    admitted.push(now);
                }
            }
            for (first, start) in admitted.iter().enumerate() {
                for (calls, end) in (1_u128..).zip(&admitted[first..]) {
                    let refilled = u128::from(end - start) * u128::from(count) / 1_000_000_000;
                    prop_assert!(calls <= u128::from(burst) + refilled, "{calls} calls in {} ns", end - start);
                }
            }
        }

        /// The wait that is announced is neither too short nor too long.
        #[test]
        fn waiting_as_told_is_enough(count in 1_u64..1000, burst in 1_u32..20, start in 0_u64..u64::MAX / 2) {
            let (bucket, quota) = (Bucket::default(), Quota::new(count, SECOND, burst).unwrap());
            while bucket.take(&quota, Nanos(start)).is_ok() {}
            let wait = u64::try_from(bucket.peek(&quota, Nanos(start)).unwrap_err().as_nanos()).unwrap();
            prop_assert!(bucket.peek(&quota, Nanos(start + wait - 1)).is_err());
            prop_assert_eq!(bucket.peek(&quota, Nanos(start + wait)), Ok(()));
        }
    }
}
