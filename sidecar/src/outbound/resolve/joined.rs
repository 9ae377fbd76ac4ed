//! One look-up for all who ask for the same name at once. There are as many as there are connections and questions, which have
//! bounds of their own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outrigger_policy::egress::Name;
use tokio::sync::OnceCell;

use super::cache::Entry;

/// Look-ups at work.
#[derive(Default)]
pub(super) struct Joined(Mutex<HashMap<Name, Arc<OnceCell<Entry>>>>);

/// One who waits; the last one forgets the look-up.
struct Waiter<'j> {
    joined: &'j Joined,
    name: &'j Name,
    answer: Arc<OnceCell<Entry>>,
}

impl Joined {
    /// What `ask` says, or what somebody else is being told already. Safe to cancel: another one asks then.
    pub(super) async fn join(&self, name: &Name, ask: impl Future<Output = Entry>) -> Entry {
        let answer = Arc::clone(self.lock().entry(name.clone()).or_default());
        let waiter = Waiter { joined: self, name, answer };
        waiter.answer.get_or_init(|| ask).await.clone()
    }

    /// Every use is one operation on the map, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Arc<OnceCell<Entry>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut asking = self.joined.lock();
        // Whoever asks from now on finds the answer in the cache, or asks anew. The two are the map and we.
        let over = self.answer.initialized() || Arc::strong_count(&self.answer) <= 2;
        if over && asking.get(self.name).is_some_and(|answer| Arc::ptr_eq(answer, &self.answer)) {
            asking.remove(self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_policy::egress::Host;
    use std::cell::Cell;
    use tokio::sync::Notify;
    use tokio::time::Instant;

    #[tokio::test]
    async fn equal_questions_are_asked_once_and_nothing_is_kept() {
        let Ok(Host::Name(name)) = Host::parse("a.test") else { panic!("a name") };
        let (joined, asked, answer) = (Joined::default(), Cell::new(0), Notify::new());
        let ask = || async {
            asked.set(asked.get() + 1);
            answer.notified().await;
            (Ok(Arc::from([[127, 0, 0, asked.get()].into()])), Instant::now())
        };
        // One that goes away does not take the others along.
        let mut gone = Box::pin(joined.join(&name, ask()));
        assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(gone.as_mut().poll(cx).is_pending())).await);
        let ((one, two), ()) =
            tokio::join!(async { tokio::join!(joined.join(&name, ask()), joined.join(&name, ask())) }, async {
                drop(gone);
                tokio::task::yield_now().await;
                answer.notify_one();
            });
        assert_eq!((asked.get(), one.0.clone()), (2, two.0));
        assert_eq!(one.0.unwrap()[..], [std::net::IpAddr::from([127, 0, 0, 2])]);
        assert!(joined.lock().is_empty());
        drop(joined.join(&name, ask()));
        assert!(joined.lock().is_empty(), "never begun");
    }
}
