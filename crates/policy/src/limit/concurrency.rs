//! How many calls may be under way at once: a counter with a ceiling, and a permit that counts down when dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A ceiling on calls under way, for one service. Share it in an `Arc`.
#[derive(Debug)]
pub struct Concurrency {
    limit: usize,
    in_flight: AtomicUsize,
}

/// One call under way. Dropping it, also by cancelling the future that holds it, makes room for the next.
#[derive(Debug)]
#[must_use = "dropping the permit ends the call it stands for"]
pub struct ConcurrencyPermit(Arc<Concurrency>);

impl Concurrency {
    /// A ceiling of `limit` calls at once; 0 admits none.
    pub fn new(limit: usize) -> Arc<Concurrency> {
        Arc::new(Concurrency { limit, in_flight: AtomicUsize::new(0) })
    }

    /// A permit, or `None` when as many calls as allowed are under way. Never waits.
    pub fn try_acquire(self: &Arc<Self>) -> Option<ConcurrencyPermit> {
        let one_more = |count: usize| (count < self.limit).then(|| count + 1);
        self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(ConcurrencyPermit(Arc::clone(self)))
    }

    /// Calls under way, for the health document and metrics.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The ceiling.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

impl Drop for ConcurrencyPermit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::Concurrency;

    #[test]
    fn permits_end_with_their_calls() {
        let limit = Concurrency::new(2);
        let first = limit.try_acquire().unwrap();
        let second = limit.try_acquire().unwrap();
        assert!(limit.try_acquire().is_none());
        assert_eq!(limit.in_flight(), 2);
        drop(first);
        let third = limit.try_acquire();
        assert!(third.is_some() && limit.try_acquire().is_none());
        drop((second, third));
        assert_eq!((limit.in_flight(), limit.limit()), (0, 2));
    }

    #[test]
    fn threads_never_pass_the_ceiling() {
        let limit = Concurrency::new(3);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let permit = limit.try_acquire();
                        assert!(limit.in_flight() <= 3);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(limit.in_flight(), 0);
    }
}
