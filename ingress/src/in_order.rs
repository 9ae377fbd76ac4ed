//! A value that is made anew of what is known at the time. Who looks takes no lock; who makes waits for who is making, so that
//! what was made of older knowledge never replaces what was made of newer.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};

/// The last one that was made.
pub(crate) struct InOrder<T> {
    current: ArcSwap<T>,
    making: Mutex<()>,
}

impl<T> InOrder<T> {
    pub(crate) fn new(first: T) -> Self {
        Self { current: ArcSwap::from_pointee(first), making: Mutex::default() }
    }

    /// For a moment.
    pub(crate) fn load(&self) -> Guard<Arc<T>> {
        self.current.load()
    }

    /// For longer.
    pub(crate) fn load_full(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Makes the next one. Everything that `make` goes by is looked up inside it. Gives the rest of what it gave.
    pub(crate) fn replace<R>(&self, make: impl FnOnce() -> (T, R)) -> R {
        // There is nothing behind the lock that a panic could leave half done.
        let _turn = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, rest) = make();
        self.current.store(Arc::new(next));
        rest
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_made_of_older_knowledge_does_not_come_back() {
        let (known, shown) = (&AtomicU32::new(1), &InOrder::new(0));
        let (looked, other_may_begin) = mpsc::channel();
        let (done, other_is_done) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                shown.replace(|| {
                    let old = known.load(Ordering::SeqCst);
                    looked.send(()).unwrap();
                    // The other one would be done by now if nothing kept it.
                    let _ = other_is_done.recv_timeout(Duration::from_millis(200));
                    (old, ())
                });
            });
            other_may_begin.recv().unwrap();
            known.store(2, Ordering::SeqCst);
            shown.replace(|| (known.load(Ordering::SeqCst), ()));
            // Nobody waits for it any more where they take turns.
            let _ = done.send(());
        });
        assert_eq!(**shown.load(), 2);
    }
}
