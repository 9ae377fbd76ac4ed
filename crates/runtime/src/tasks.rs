//! Tasks with an owner, a name and an end.
//!
//! A [`TaskGroup`] belongs to whoever made it. Its tasks are asked to stop through [`TaskGroup::stopping`] and are
//! cut when they do not. Dropping the group cuts them at once: nothing runs on without an owner. For long-lived tasks and
//! connections; spawning takes a short lock.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A set of tasks that end together.
#[derive(Debug)]
pub struct TaskGroup {
    name: &'static str,
    tracker: TaskTracker,
    stop: CancellationToken,
    cut: CancellationToken,
    running: Arc<Running>,
}

#[derive(Debug, Default)]
struct Running {
    names: Mutex<BTreeMap<u64, &'static str>>,
    next: AtomicU64,
}

/// Removes a task's name when its future ends, is cut, or panics.
struct Entry {
    running: Arc<Running>,
    group: &'static str,
    number: u64,
}

impl TaskGroup {
    /// An empty group. `name` is its owner, for the log.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
            running: Arc::default(),
        }
    }

    /// Starts a task. It should end soon after [`TaskGroup::stopping`]; at the end of the stop's deadline its future
    /// is dropped where it waits.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let entry = Entry::new(&self.running, self.name, name);
        let cut = self.cut.clone();
        self.tracker.spawn(async move {
            let _entry = entry;
            cut.run_until_cancelled(task).await;
        });
    }

    /// Cancelled when the group is asked to stop. Give a clone to each task.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Names of the tasks that run, oldest first.
    pub fn running(&self) -> Vec<&'static str> {
        self.running.lock().values().copied().collect()
    }

    /// Asks every task to stop, waits up to `deadline`, cuts the rest, and waits for that too. Returns the names of
    /// those that had to be cut.
    pub async fn stop(self, deadline: Duration) -> Vec<&'static str> {
        self.stop.cancel();
        self.tracker.close();
        if tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok() {
            return Vec::new();
        }
        let left = self.running();
        tracing::warn!(group = self.name, tasks = ?left, "cutting tasks that did not stop in time");
        self.cut.cancel();
        self.tracker.wait().await;
        left
    }
}

impl Drop for TaskGroup {
    fn drop(&mut self) {
        self.stop.cancel();
        self.cut.cancel();
    }
}

impl Running {
    /// Names stay whole whatever thread panicked.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, &'static str>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn new(running: &Arc<Running>, group: &'static str, name: &'static str) -> Self {
        let number = running.next.fetch_add(1, Ordering::Relaxed);
        running.lock().insert(number, name);
        Self { running: Arc::clone(running), group, number }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let name = self.running.lock().remove(&self.number);
        if std::thread::panicking() {
            tracing::error!(group = self.group, task = name, "a task ended by a panic; please report it");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::oneshot::error::TryRecvError;
    use tokio::time::Instant;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn tasks_that_stop_when_asked_are_not_cut() {
        let group = TaskGroup::new("test");
        let stopping = group.stopping();
        group.spawn("polite", async move { stopping.cancelled().await });
        assert_eq!(group.running(), ["polite"]);
        let started = Instant::now();
        assert_eq!(group.stop(DEADLINE).await, Vec::<&str>::new());
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_that_do_not_stop_are_cut_and_named() {
        let group = TaskGroup::new("test");
        let (held, mut dropped) = tokio::sync::oneshot::channel::<()>();
        group.spawn("stubborn", async move {
            let _held = held;
            pending().await
        });
        group.spawn("quick", async {});
        let started = Instant::now();
        assert_eq!(group.stop(DEADLINE).await, ["stubborn"]);
        assert_eq!(started.elapsed(), DEADLINE);
        assert_eq!(dropped.try_recv(), Err(TryRecvError::Closed), "the future is gone when stop returns");
    }

    #[tokio::test]
    async fn a_dropped_group_cuts_its_tasks() {
        let group = TaskGroup::new("test");
        let (held, dropped) = tokio::sync::oneshot::channel::<()>();
        group.spawn("orphan", async move {
            let _held = held;
            pending().await
        });
        drop(group);
        assert!(dropped.await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_panicking_task_leaves_the_others_alone() {
        let group = TaskGroup::new("test");
        let stopping = group.stopping();
        group.spawn("bad", async { panic!("on purpose") });
        group.spawn("good", async move { stopping.cancelled().await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(group.running(), ["good"]);
        assert!(group.stop(DEADLINE).await.is_empty());
    }
}
