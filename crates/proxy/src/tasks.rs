//! Hands the tasks that hyper starts by itself to a [`TaskTracker`], so that each has an owner that can wait for it.

use hyper::rt::Executor;
use tokio_util::task::TaskTracker;

/// hyper's executor over a tracker.
#[derive(Clone, Debug)]
pub(crate) struct TrackedExecutor(pub(crate) TaskTracker);

impl<F> Executor<F> for TrackedExecutor
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}
