//! What is known of names for a while. Only addresses are kept, a few for each name: what a resolver sends besides cannot
//! fill memory.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use outrigger_policy::egress::Name;
use tokio::time::Instant;

use super::ResolveError;

/// What is known, and until when.
pub(super) type Entry = (Result<Arc<[IpAddr]>, ResolveError>, Instant);

/// Names, at most so many.
pub(super) struct Cache {
    entries: HashMap<Name, Entry>,
    most: usize,
}

impl Cache {
    pub(super) fn new(most: usize) -> Self {
        Self { entries: HashMap::new(), most }
    }

    /// What is known now.
    pub(super) fn get(&self, name: &Name, now: Instant) -> Option<Entry> {
        self.entries.get(name).filter(|(_, until)| *until > now).cloned()
    }

    /// Notes what was said. `true`: another name, still good, had to go for it.
    pub(super) fn put(&mut self, name: &Name, entry: Entry, now: Instant) -> bool {
        if entry.1 <= now {
            return false;
        }
        let mut crowded = false;
        if self.entries.len() >= self.most && !self.entries.contains_key(name) {
            self.entries.retain(|_, (_, until)| *until > now);
            if self.entries.len() >= self.most {
                crowded = true;
                let first = self.entries.iter().min_by_key(|(_, (_, until))| *until).map(|(name, _)| name.clone());
                first.map(|name| self.entries.remove(&name));
            }
        }
        self.entries.insert(name.clone(), entry);
        crowded
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outrigger_policy::egress::Host;

    use super::*;

    fn name(text: &str) -> Name {
        match Host::parse(text).unwrap() {
            Host::Name(name) => name,
            Host::Address(_) => panic!("{text} is an address"),
        }
    }

    #[test]
    fn what_is_known_ends_with_its_time_and_room_is_made_for_the_newest() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut cache = Cache::new(2);
        let found: Result<Arc<[IpAddr]>, _> = Ok(["1.2.3.4".parse().unwrap()].into());
        assert!(!cache.put(&name("a.test"), (found.clone(), at(10)), now));
        assert!(!cache.put(&name("b.test"), (Err(ResolveError::NoAddress), at(5)), now));
        assert_eq!(cache.get(&name("a.test"), at(9)), Some((found.clone(), at(10))));
        assert_eq!(cache.get(&name("a.test"), at(10)), None);
        assert!(!cache.put(&name("c.test"), (found.clone(), at(20)), at(6)), "b.test is over");
        assert!(cache.put(&name("d.test"), (found.clone(), at(20)), at(6)), "a.test would have ended first");
        assert_eq!(cache.get(&name("a.test"), at(6)), None);
        assert!(cache.get(&name("c.test"), at(6)).is_some());
        assert!(!cache.put(&name("e.test"), (found, at(6)), at(6)), "what is not to be kept is not");
        assert_eq!(cache.entries.len(), 2);
    }
}
