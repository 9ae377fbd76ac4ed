//! The two-step stop of a listener's connections, cheap to look at from every poll of every one of them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

/// How far the stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Stage {
    /// Serving.
    Running = 0,
    /// No new connections. Each that is there ends after the request it is at, or after its first.
    Draining = 1,
    /// Connections on which nothing was asked yet end too.
    Closing = 2,
    /// The deadline has passed: cut.
    Forced = 3,
}

/// Shared by a listener and its connections.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    stage: AtomicU8,
    changed: Notify,
}

impl Stop {
    pub(crate) fn advance(&self, to: Stage) {
        self.stage.fetch_max(to as u8, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Running,
            1 => Stage::Draining,
            2 => Stage::Closing,
            _ => Stage::Forced,
        }
    }

    /// Resolves when the stop has come as far as `stage`.
    pub(crate) async fn reached(&self, stage: Stage) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.stage() >= stage {
                return;
            }
            changed.await;
        }
    }
}

/// A connection's eye on the [`Stop`]. The wait behind it takes a lock that all connections share, so it is polled once
/// to leave the waker there; after that a wake-up of the connection costs one atomic load.
pub(crate) struct StopWatch {
    stop: Arc<Stop>,
    seen: Stage,
    changed: Pin<Box<dyn Future<Output = ()> + Send>>,
    registered: Option<Waker>,
}

impl StopWatch {
    pub(crate) fn new(stop: Arc<Stop>) -> Self {
        Self { changed: next_stage(&stop, Stage::Running), stop, seen: Stage::Running, registered: None }
    }

    /// Ready once for every stage that is reached after [`Stage::Running`].
    pub(crate) fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<Stage> {
        if self.seen == Stage::Forced {
            return Poll::Pending;
        }
        let known = self.registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if known && self.stop.stage() == self.seen {
            return Poll::Pending;
        }
        self.registered = Some(cx.waker().clone());
        if self.changed.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.seen = self.stop.stage();
        self.changed = next_stage(&self.stop, self.seen);
        self.registered = None;
        Poll::Ready(self.seen)
    }
}

fn next_stage(stop: &Arc<Stop>, seen: Stage) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let stop = Arc::clone(stop);
    let next = match seen {
        Stage::Running => Stage::Draining,
        Stage::Draining => Stage::Closing,
        Stage::Closing | Stage::Forced => Stage::Forced,
    };
    Box::pin(async move { stop.reached(next).await })
}
