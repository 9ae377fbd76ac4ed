//! Shutdown in two steps: say it, let work finish to a deadline, then cut.
//!
//! ```text
//!  DrainTrigger::drain --> DrainWatcher::signaled   stop accepting, say `draining`
//!        | waits for every DrainGuard to be dropped: holding one *is* "still busy"
//!        +-- deadline or `hurry` --> DrainWatcher::forced   cut what is left
//! ```

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Makes a trigger, held by `main`, and the first of its watchers.
pub fn channel() -> (DrainTrigger, DrainWatcher) {
    let watcher =
        DrainWatcher { signal: CancellationToken::new(), force: CancellationToken::new(), busy: TaskTracker::new() };
    (DrainTrigger { watcher: watcher.clone() }, watcher)
}

/// Starts the drain. There is one; dropping it without draining forces, so that nothing outlives its owner.
#[derive(Debug)]
pub struct DrainTrigger {
    watcher: DrainWatcher,
}

/// Learns of the drain and gives out guards. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DrainWatcher {
    signal: CancellationToken,
    force: CancellationToken,
    busy: TaskTracker,
}

/// One piece of work that a drain waits for.
#[derive(Debug)]
pub struct DrainGuard {
    watcher: DrainWatcher,
    /// Held, never read: the tracker counts these.
    _busy: TaskTrackerToken,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainOutcome {
    /// All work finished.
    Finished,
    /// The deadline passed, or somebody hurried.
    Forced {
        /// Guards that were still held.
        left: usize,
    },
}

impl DrainTrigger {
    /// Says that the drain has begun, without waiting; for work to do before the wait (telling the ingress).
    pub fn signal(&self) {
        self.watcher.signal.cancel();
    }

    /// Begins the drain and waits for every guard, but not past `deadline` nor past `hurry` (a second signal). Then
    /// forces, whatever the outcome.
    pub async fn drain(self, deadline: Duration, hurry: impl Future<Output = ()>) -> DrainOutcome {
        self.signal();
        let busy = &self.watcher.busy;
        busy.close();
        tokio::select! {
            biased;
            () = busy.wait() => DrainOutcome::Finished,
            () = hurry => DrainOutcome::Forced { left: busy.len() },
            () = tokio::time::sleep(deadline) => DrainOutcome::Forced { left: busy.len() },
        }
    }
}

impl Drop for DrainTrigger {
    fn drop(&mut self) {
        self.watcher.signal.cancel();
        self.watcher.force.cancel();
    }
}

impl DrainWatcher {
    /// Whether the drain has begun.
    pub fn draining(&self) -> bool {
        self.signal.is_cancelled()
    }

    /// Waits until the drain begins. Safe to cancel.
    pub async fn signaled(&self) {
        self.signal.cancelled().await;
    }

    /// Waits until what is left must end now. Safe to cancel.
    pub async fn forced(&self) {
        self.force.cancelled().await;
    }

    /// Marks the caller busy until the guard is dropped. Also possible during a drain: a connection that was
    /// accepted before may still begin its last call.
    pub fn guard(&self) -> DrainGuard {
        DrainGuard { watcher: self.clone(), _busy: self.busy.token() }
    }

    /// Guards that are held.
    pub fn busy(&self) -> usize {
        self.busy.len()
    }
}

impl DrainGuard {
    /// The watcher that this guard belongs to.
    pub fn watcher(&self) -> &DrainWatcher {
        &self.watcher
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn an_idle_process_drains_at_once() {
        let (trigger, watcher) = channel();
        let started = Instant::now();
        assert_eq!(trigger.drain(DEADLINE, pending()).await, DrainOutcome::Finished);
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert!(watcher.draining());
        watcher.forced().await;
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_ends_before_the_deadline_is_waited_for() {
        let (trigger, watcher) = channel();
        let guard = watcher.guard();
        let work = tokio::spawn(async move {
            guard.watcher().signaled().await;
            tokio::time::sleep(Duration::from_secs(10)).await;
            !guard.watcher().force.is_cancelled()
        });
        let started = Instant::now();
        assert_eq!(trigger.drain(DEADLINE, pending()).await, DrainOutcome::Finished);
        assert_eq!(started.elapsed(), Duration::from_secs(10));
        assert!(work.await.unwrap(), "nothing was forced while the work went on");
    }

    #[tokio::test(start_paused = true)]
    async fn work_past_the_deadline_is_forced_and_counted() {
        let (trigger, watcher) = channel();
        let guards = [watcher.guard(), watcher.guard()];
        let started = Instant::now();
        assert_eq!(trigger.drain(DEADLINE, pending()).await, DrainOutcome::Forced { left: 2 });
        assert_eq!(started.elapsed(), DEADLINE);
        guards[0].watcher().forced().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_cuts_the_wait() {
        let (trigger, watcher) = channel();
        let _guard = watcher.guard();
        let hurry = tokio::time::sleep(Duration::from_secs(1));
        assert_eq!(trigger.drain(DEADLINE, hurry).await, DrainOutcome::Forced { left: 1 });
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_begins_during_the_drain_counts_too() {
        let (trigger, watcher) = channel();
        let first = watcher.guard();
        let late = tokio::spawn(async move {
            first.watcher().signaled().await;
            let second = first.watcher().guard();
            drop(first);
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(second);
        });
        assert_eq!(trigger.drain(DEADLINE, pending()).await, DrainOutcome::Finished);
        assert!(late.is_finished());
        assert_eq!(watcher.busy(), 0);
    }

    #[tokio::test]
    async fn a_lost_trigger_forces() {
        let (trigger, watcher) = channel();
        assert!(!watcher.draining());
        drop(trigger);
        watcher.forced().await;
    }
}
