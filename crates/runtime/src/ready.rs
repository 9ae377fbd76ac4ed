//! Readiness: a process is ready when nothing blocks it, and else says what is missing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The blockers of a process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// By name, then by number: one name may block more than once.
    blockers: Mutex<BTreeMap<(String, u64), String>>,
    next: AtomicU64,
    /// Sent under the lock of `blockers`, so that its order is theirs.
    ready: watch::Sender<bool>,
}

/// One thing that is missing; dropping it says that it is there.
#[derive(Debug)]
pub struct BlockReady {
    shared: Arc<Shared>,
    key: (String, u64),
}

/// The number of entries made by [`Readiness::set`]; guards count from 1.
const SET: u64 = 0;

impl Readiness {
    /// Nothing blocks yet. Make the first guard before the admin server starts, or it reports ready too early.
    pub fn new() -> Self {
        let made = Self::default();
        made.shared.publish(&made.shared.lock());
        made
    }

    /// Blocks until the guard is dropped. `why` is for the operator (`waiting for the first catalog`).
    pub fn block(&self, name: impl Into<String>, why: impl Into<String>) -> BlockReady {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed) + 1;
        let key = (name.into(), number);
        self.shared.change(|blockers| drop(blockers.insert(key.clone(), why.into())));
        BlockReady { shared: Arc::clone(&self.shared), key }
    }

    /// Sets a condition that comes and goes: `Err` blocks with its text, `Ok` does not.
    pub fn set(&self, name: &str, state: Result<(), String>) {
        let key = (name.to_owned(), SET);
        self.shared.change(|blockers| match state {
            Ok(()) => drop(blockers.remove(&key)),
            Err(why) => drop(blockers.insert(key, why)),
        });
    }

    /// Whether nothing blocks.
    pub fn ready(&self) -> bool {
        *self.shared.ready.borrow()
    }

    /// What blocks: names and reasons, by name.
    pub fn missing(&self) -> Vec<(String, String)> {
        let blockers = self.shared.lock();
        blockers.iter().map(|((name, _), why)| (name.clone(), why.clone())).collect()
    }

    /// `ready`, or one line per blocker.
    pub fn text(&self) -> String {
        describe(&self.missing())
    }

    /// Waits until nothing blocks. Safe to cancel.
    pub async fn wait(&self) {
        // Fails only when the sender is gone, and `self` holds it.
        let _ = self.shared.ready.subscribe().wait_for(|ready| *ready).await;
    }
}

impl BlockReady {
    /// Replaces the reason.
    pub fn because(&self, why: impl Into<String>) {
        self.shared.change(|blockers| drop(blockers.insert(self.key.clone(), why.into())));
    }
}

impl Drop for BlockReady {
    fn drop(&mut self) {
        self.shared.change(|blockers| drop(blockers.remove(&self.key)));
    }
}

/// What is missing, for people: `ready`, or a line per blocker.
pub(crate) fn describe(missing: &[(String, String)]) -> String {
    if missing.is_empty() {
        return "ready\n".to_owned();
    }
    let lines = missing.iter().map(|(name, why)| format!("{name}: {why}\n"));
    std::iter::once("not ready\n".to_owned()).chain(lines).collect()
}

type Blockers = BTreeMap<(String, u64), String>;

impl Shared {
    fn change(&self, edit: impl FnOnce(&mut Blockers)) {
        let mut blockers = self.lock();
        edit(&mut blockers);
        self.publish(&blockers);
    }

    fn publish(&self, blockers: &Blockers) {
        let ready = blockers.is_empty();
        self.ready.send_if_modified(|before| std::mem::replace(before, ready) != ready);
    }

    /// A map of strings is whole whatever thread panicked.
    fn lock(&self) -> MutexGuard<'_, Blockers> {
        self.blockers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_missing_is_ready() {
        let readiness = Readiness::new();
        assert!(readiness.ready());
        assert_eq!(readiness.text(), "ready\n");
    }

    #[test]
    fn the_text_lists_what_is_missing_until_the_guard_goes() {
        let readiness = Readiness::new();
        let catalog = readiness.block("catalog", "not fetched");
        readiness.set("certificate", Err("expired".to_owned()));
        catalog.because("the server answered 500");
        assert!(!readiness.ready());
        assert_eq!(readiness.text(), "not ready\ncatalog: the server answered 500\ncertificate: expired\n");
        readiness.set("certificate", Ok(()));
        assert!(!readiness.ready());
        drop(catalog);
        assert!(readiness.ready());
    }

    #[test]
    fn one_name_may_block_twice() {
        let readiness = Readiness::new();
        let (first, second) = (readiness.block("child", "starting"), readiness.block("child", "starting"));
        drop(first);
        assert!(!readiness.ready());
        drop(second);
        assert!(readiness.ready());
    }

    #[tokio::test]
    async fn a_waiter_wakes_when_the_last_blocker_goes() {
        let readiness = Readiness::new();
        let guard = readiness.block("catalog", "not fetched");
        let waiter = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.wait().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        drop(guard);
        waiter.await.unwrap();
    }
}
