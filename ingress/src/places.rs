//! The places of a service: how many calls are at work at once, and how many of them are one client's.
//!
//! No lock and no allocation: a call takes one place of the service and one of its client, by atomic counters. Clients are
//! counted in two rows of counters, each by another hash; who shares a counter in one row hardly does in both, and the
//! smaller count is the one that holds. Chance can so count too much for a client, never too little.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use tokio::time::Instant;

use crate::adaptive::Adaptive;

/// Counters in each row: 4 KiB for both, and two of twenty busy clients share both theirs once in a thousand services.
const ROW: usize = 512;

/// The places of one service.
#[derive(Debug)]
pub(crate) struct Places {
    /// How many there are now.
    limit: AtomicUsize,
    taken: AtomicUsize,
    /// Percent of the places that one client may have.
    share: u8,
    /// Two rows; empty where one client may have all.
    clients: Box<[AtomicU32]>,
    hasher: RandomState,
    adaptive: Option<Adaptive>,
}

/// One call at work. Dropping it makes room for the next.
#[derive(Debug)]
#[must_use = "dropping the place ends the call it stands for"]
pub(crate) struct Place {
    places: Arc<Places>,
    client: Option<[usize; 2]>,
}

/// Which places are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// All.
    Service,
    /// All that the client may have.
    Client,
}

impl Places {
    /// So many places, of which one client may have this share in percent. With `adaptive` there are fewer at times.
    pub(crate) fn new(most: usize, share: u8, adaptive: Option<Adaptive>) -> Arc<Self> {
        let counters = if share < 100 { 2 * ROW } else { 0 };
        Arc::new(Self {
            limit: AtomicUsize::new(adaptive.as_ref().map_or(most, |adaptive| adaptive.begins_with())),
            taken: AtomicUsize::new(0),
            share,
            clients: std::iter::repeat_with(AtomicU32::default).take(counters).collect(),
            hasher: RandomState::new(),
            adaptive,
        })
    }

    /// A place for a call of this client. Never waits.
    ///
    /// # Errors
    /// [`Full`].
    pub(crate) fn take(self: &Arc<Self>, client: &str) -> Result<Place, Full> {
        let limit = self.limit();
        let one_more = |taken: usize| (taken < limit).then(|| taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).map_err(|_| Full::Service)?;
        let mut place = Place { places: Arc::clone(self), client: None };
        if !self.clients.is_empty() {
            let slots = self.slots(client);
            let before =
                slots.map(|slot| self.clients.get(slot).map_or(0, |count| count.fetch_add(1, Ordering::Relaxed)));
            place.client = Some(slots);
            let most = (limit * usize::from(self.share)).div_ceil(100).max(1);
            if before.into_iter().min().is_some_and(|count| count as usize >= most) {
                return Err(Full::Client);
            }
        }
        Ok(place)
    }

    /// Calls at work.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// How many may be at work now.
    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Whether it matters how long calls take.
    pub(crate) fn adapts(&self) -> bool {
        self.adaptive.is_some()
    }

    /// A call ended: what it asked for, when it began, and whether it was answered. Gives the number of places when that is
    /// another one now.
    pub(crate) fn ended(&self, what: &str, began: Instant, now: Instant, answered: bool) -> Option<usize> {
        let limit = self.adaptive.as_ref()?.ended(what, began, now, answered, self.taken())?;
        (self.limit.swap(limit, Ordering::Relaxed) != limit).then_some(limit)
    }

    fn slots(&self, client: &str) -> [usize; 2] {
        let hash = self.hasher.hash_one(client);
        let [low, high] = [hash & 0xffff_ffff, hash >> 32].map(|half| usize::try_from(half).unwrap_or_default() % ROW);
        [low, ROW + high]
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let places = &self.places;
        places.taken.fetch_sub(1, Ordering::Relaxed);
        for slot in self.client.into_iter().flatten() {
            if let Some(count) = places.clients.get(slot) {
                count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Full, Places};

    #[test]
    fn places_end_with_their_calls() {
        let places = Places::new(2, 100, None);
        let (first, second) = (places.take("a").unwrap(), places.take("a").unwrap());
        assert_eq!(places.take("b").err(), Some(Full::Service));
        drop(first);
        let third = places.take("b");
        assert!(third.is_ok());
        drop((second, third));
        assert_eq!(places.taken(), 0);
    }

    #[test]
    fn one_client_leaves_room_for_others() {
        let places = Places::new(8, 75, None);
        let held: Vec<_> = (0..6).map(|_| places.take("a").unwrap()).collect();
        for _ in 0..10 {
            assert_eq!(places.take("a").err(), Some(Full::Client), "a refusal takes nothing");
        }
        let others = [places.take("b").unwrap(), places.take("c").unwrap()];
        assert_eq!(places.take("d").err(), Some(Full::Service));
        drop(held);
        assert!(places.take("a").is_ok());
        drop(others);
        assert_eq!(places.taken(), 0);
        assert!(places.clients.iter().all(|count| count.load(std::sync::atomic::Ordering::Relaxed) == 0));
    }

    #[test]
    fn the_smallest_service_has_a_place_for_everybody() {
        let places = Places::new(1, 1, None);
        let held = places.take("a").unwrap();
        assert_eq!(places.take("a").err(), Some(Full::Service));
        drop(held);
        assert!(places.take("b").is_ok());
    }

    #[test]
    fn threads_never_pass_either_bound() {
        let places = Places::new(6, 50, None);
        std::thread::scope(|scope| {
            for client in ["a", "a", "b", "b"] {
                let places = &places;
                scope.spawn(move || {
                    for _ in 0..2000 {
                        let held: Vec<_> = (0..4).filter_map(|_| places.take(client).ok()).collect();
                        assert!(places.taken() <= 6 && held.len() <= 3);
                    }
                });
            }
        });
        assert_eq!(places.taken(), 0);
    }
}
