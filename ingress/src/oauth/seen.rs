//! Tokens that were checked already. A signature costs more than the rest of a request, and a client sends the same token
//! with each; every thread remembers its own, so that none waits for another.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};
use tokio::time::Instant;

use crate::oauth::Proven;

/// Tokens that one thread remembers; past it all are forgotten.
const MAX_SEEN: usize = 4096;

/// Counts the changes of keys: what was checked before one is checked again.
static EPOCH: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static TOKENS: RefCell<(u64, HashMap<[u8; 32], Checked>)> = RefCell::default();
}

/// Who a token names, and for how long that need not be looked at again.
struct Checked {
    proven: Proven,
    /// Before it ends, where somebody else has the say.
    fresh: Option<Instant>,
}

/// Stands for a token at an endpoint. A digest: memory holds no tokens.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    digest: [u8; 32],
    /// When it was looked at: what is checked from then on is not remembered if keys change meanwhile.
    epoch: u64,
}

/// What one set of providers has checked.
pub(super) struct Seen {
    /// Tells sets of one process apart.
    set: u64,
}

impl Default for Seen {
    fn default() -> Self {
        Self { set: EPOCH.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Seen {
    /// Names a token, by its digest, at the endpoint of a path.
    pub(super) fn mark(&self, token: &[u8; 32], path: &str) -> Mark {
        let mut hash = Context::new(&SHA256);
        hash.update(&self.set.to_ne_bytes());
        hash.update(token);
        hash.update(path.as_bytes());
        let mut digest = [0; 32];
        digest.copy_from_slice(hash.finish().as_ref());
        Mark { digest, epoch: EPOCH.load(Ordering::Acquire) }
    }

    /// Who it named, if it was checked with the keys of now and has not ended.
    pub(super) fn find(&self, mark: &Mark) -> Option<Proven> {
        TOKENS.with_borrow(|(epoch, tokens)| {
            let Checked { proven, fresh } = tokens.get(&mark.digest).filter(|_| *epoch == mark.epoch)?;
            if fresh.is_some_and(|fresh| fresh <= Instant::now()) {
                return None;
            }
            proven.until.is_some_and(|until| SystemTime::now() < until).then(|| proven.clone())
        })
    }

    /// Remembers who it names, until it ends, but no longer than it is fresh.
    pub(super) fn keep(&self, mark: Mark, proven: &Proven, fresh: Option<Instant>) {
        TOKENS.with_borrow_mut(|(epoch, tokens)| {
            let now = EPOCH.load(Ordering::Acquire);
            if mark.epoch != now {
                return;
            }
            if *epoch != now || tokens.len() >= MAX_SEEN {
                tokens.clear();
                *epoch = now;
            }
            tokens.insert(mark.digest, Checked { proven: proven.clone(), fresh });
        });
    }
}

/// Makes every thread forget what it has checked.
pub(super) fn forget() {
    EPOCH.fetch_add(1, Ordering::Release);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outrigger_policy::Principal;

    use super::*;

    #[test]
    fn what_was_checked_is_remembered_for_its_endpoint_until_keys_change_or_it_ends() {
        let (seen, other) = (Seen::default(), Seen::default());
        let ada = |seconds| Proven {
            principal: Principal::user("ada").unwrap(),
            until: SystemTime::now().checked_add(Duration::from_secs(seconds)),
        };
        let mark = seen.mark(&[7; 32], "/mcp");
        seen.keep(mark, &ada(60), None);
        assert!(seen.find(&mark).is_some());
        assert!(seen.find(&seen.mark(&[7; 32], "/s/b/mcp")).is_none());
        assert!(other.find(&other.mark(&[7; 32], "/mcp")).is_none());
        seen.keep(mark, &ada(0), None);
        assert!(seen.find(&mark).is_none(), "ended");
        seen.keep(mark, &ada(60), Some(Instant::now()));
        assert!(seen.find(&mark).is_none(), "to be asked for again");
        seen.keep(mark, &ada(60), None);
        forget();
        seen.keep(mark, &ada(60), None);
        let mark = seen.mark(&[7; 32], "/mcp");
        assert!(seen.find(&mark).is_none(), "checked with keys of before");
    }
}
