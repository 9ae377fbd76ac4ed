//! The buckets of one limit, or what was spent of one budget, by key, in bounded memory.
//!
//! Keys come from outside (client names, tool names, URIs), so the table holds a keyed hash of each instead of its
//! text and never more entries than its cap. Full buckets that nobody holds are forgotten: a new one is the same.
//! When the table is at its cap with buckets that are all in use, further keys share one overflow bucket. That can
//! refuse too much, never admit too much: inventing keys is no way around a limit.

use super::bucket::{Bucket, Nanos};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Locks are taken when a handle is resolved, not per call; this many keep two cores apart.
const SHARDS: usize = 16;

/// What is kept for each key.
pub(crate) trait Kept: Default {
    /// Whether it is as a new one, so that forgetting it loses nothing.
    fn is_at_rest(&self, now: Nanos) -> bool;
}

impl Kept for Bucket {
    fn is_at_rest(&self, now: Nanos) -> bool {
        self.is_full(now)
    }
}

/// Buckets by key.
#[derive(Debug)]
pub(crate) struct KeyTable<V = Bucket> {
    /// Two hashers with keys of their own give 128 bits: no two keys share a bucket by chance or on purpose.
    hashers: [RandomState; 2],
    shards: [Mutex<HashMap<u128, Arc<V>>>; SHARDS],
    shard_cap: usize,
    overflow: Arc<V>,
}

impl<V: Kept> KeyTable<V> {
    /// A table of at most about `cap` keys (rounded up to a multiple of the shard count).
    pub(crate) fn new(cap: usize) -> KeyTable<V> {
        KeyTable {
            hashers: [RandomState::new(), RandomState::new()],
            shards: Default::default(),
            shard_cap: cap.div_ceil(SHARDS).max(1),
            overflow: Arc::default(),
        }
    }

    /// The bucket of a key, made if it is new.
    pub(crate) fn bucket(&self, key: &impl Hash, now: Nanos) -> Arc<V> {
        let [high, low] = self.hashers.each_ref().map(|hasher| u128::from(hasher.hash_one(key)));
        let Some(shard) = usize::try_from(low).ok().and_then(|low| self.shards.get(low % SHARDS)) else {
            return Arc::clone(&self.overflow);
        };
        let mut shard = lock(shard);
        let key = high << 64 | low;
        if let Some(bucket) = shard.get(&key) {
            return Arc::clone(bucket);
        }
        if shard.len() >= self.shard_cap {
            forget_idle(&mut shard, now);
        }
        if shard.len() >= self.shard_cap {
            return Arc::clone(&self.overflow);
        }
        Arc::clone(shard.entry(key).or_default())
    }

    /// Drops every bucket that is full and held by nobody; gives the number dropped.
    pub(crate) fn forget_idle(&self, now: Nanos) -> usize {
        self.shards.iter().map(|shard| forget_idle(&mut lock(shard), now)).sum()
    }

    /// Number of keys held.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }
}

/// A bucket that a caller holds must stay: a second one for the same key would double its rate. Handles are cloned
/// out of the table only under this lock, so a count of one cannot rise while we look.
fn forget_idle<V: Kept>(shard: &mut HashMap<u128, Arc<V>>, now: Nanos) -> usize {
    let before = shard.len();
    shard.retain(|_, bucket| Arc::strong_count(bucket) > 1 || !bucket.is_at_rest(now));
    before - shard.len()
}

/// No code panics under these locks, and a half-done change to a map of buckets would harm nobody.
fn lock<V>(shard: &Mutex<HashMap<u128, Arc<V>>>) -> MutexGuard<'_, HashMap<u128, Arc<V>>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::{KeyTable, Nanos, SHARDS};
    use crate::limit::bucket::{Bucket, Quota};
    use std::sync::Arc;
    use std::time::Duration;

    fn quota() -> Quota {
        Quota::new(1, Duration::from_secs(1), 1).unwrap()
    }

    #[test]
    fn one_key_one_bucket() {
        let table = KeyTable::<Bucket>::new(64);
        let first = table.bucket(&"a", Nanos(0));
        assert!(Arc::ptr_eq(&first, &table.bucket(&"a", Nanos(0))));
        assert!(!Arc::ptr_eq(&first, &table.bucket(&"b", Nanos(0))));
    }

    #[test]
    fn idle_keys_are_forgotten_and_held_or_used_ones_kept() {
        let table = KeyTable::<Bucket>::new(64);
        let held = table.bucket(&"held", Nanos(0));
        let _ = table.bucket(&"used", Nanos(0)).take(&quota(), Nanos(0)).unwrap();
        let _ = table.bucket(&"idle", Nanos(0));
        assert_eq!(table.forget_idle(Nanos(0)), 1);
        assert_eq!(table.forget_idle(Nanos(1_000_000_000)), 1, "the used one is full again");
        assert!(Arc::ptr_eq(&held, &table.bucket(&"held", Nanos(0))));
    }

    #[test]
    fn the_table_never_outgrows_its_cap() {
        let table = KeyTable::<Bucket>::new(32);
        for key in 0..10_000_u32 {
            let _ = table.bucket(&key, Nanos(0)).take(&quota(), Nanos(0));
        }
        assert!(table.len() <= 32);
        // A second later all of them are idle, and a new key gets a bucket of its own again.
        let later = Nanos(10_000_000_000_000);
        assert!(!Arc::ptr_eq(&table.bucket(&"new", later), &table.overflow));
    }

    #[test]
    fn inventing_keys_is_no_way_around_a_limit() {
        let table = KeyTable::<Bucket>::new(SHARDS);
        let admitted = (0..1000_u32).filter(|key| table.bucket(key, Nanos(0)).take(&quota(), Nanos(0)).is_ok()).count();
        assert_eq!(admitted, SHARDS + 1, "one per key up to the cap, and one from the shared bucket");
    }
}
