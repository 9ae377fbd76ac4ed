//! Names below a wildcard, counted. Whoever runs `example.com` reads every name that is looked up below it, so a rule for
//! `*.example.com` lets data out inside names; how much is bounded by their length and by how many different ones there are.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use outrigger_policy::egress::{Destination, HostPattern, Name};
use outrigger_telemetry::metrics::DnsLimit;
use tokio::time::Instant;

/// Over which different names are counted.
const WINDOW: Duration = Duration::from_secs(3600);

/// The counts of all wildcards; there are as many as rules name.
pub(super) struct Below {
    bytes: usize,
    names: usize,
    hasher: RandomState,
    windows: Mutex<HashMap<Name, Window>>,
}

struct Window {
    begun: Instant,
    /// Hashes: two names in one place count as one, by a chance that nobody can raise without the keys.
    seen: HashSet<u64>,
}

impl Below {
    pub(super) fn new(bytes: usize, names: usize) -> Self {
        Self { bytes, names, hasher: RandomState::new(), windows: Mutex::default() }
    }

    /// Whether `name`, which `destination` covers, may be looked up.
    pub(super) fn permit(&self, destination: &Destination, name: &Name, now: Instant) -> Result<(), DnsLimit> {
        let HostPattern::Below(above) = &destination.host else { return Ok(()) };
        // What stands before the suffix, without the dot between.
        let before = name.as_str().len().saturating_sub(above.as_str().len() + 1);
        if before > self.bytes {
            return Err(DnsLimit::WildcardBytes);
        }
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Window { begun: now, seen: HashSet::new() };
        let window = windows.entry(above.clone()).or_insert_with(new);
        if now.duration_since(window.begun) >= WINDOW {
            *window = new();
        }
        let hash = self.hasher.hash_one(name);
        if window.seen.len() >= self.names && !window.seen.contains(&hash) {
            return Err(DnsLimit::WildcardNames);
        }
        window.seen.insert(hash);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use outrigger_policy::egress::Host;

    use super::*;

    fn permit(below: &Below, destination: &str, host: &str, now: Instant) -> Result<(), DnsLimit> {
        let Host::Name(name) = Host::parse(host).unwrap() else { panic!("{host} is an address") };
        below.permit(&Destination::parse(destination).unwrap(), &name, now)
    }

    #[test]
    fn names_below_a_wildcard_are_short_and_few() {
        let (below, now) = (Below::new(8, 2), Instant::now());
        assert_eq!(permit(&below, "*.a.test", "12345678.a.test", now), Ok(()));
        assert_eq!(permit(&below, "*.a.test", "1234.6789.a.test", now), Err(DnsLimit::WildcardBytes));
        assert_eq!(permit(&below, "*.a.test", "b.a.test", now), Ok(()));
        assert_eq!(permit(&below, "*.a.test", "c.a.test", now), Err(DnsLimit::WildcardNames));
        assert_eq!(permit(&below, "*.a.test", "b.a.test", now), Ok(()), "seen before");
        assert_eq!(permit(&below, "*.b.test", "c.b.test", now), Ok(()), "each wildcard for itself");
        assert_eq!(permit(&below, "much-too-long.a.test", "much-too-long.a.test", now), Ok(()), "named exactly");
        assert_eq!(permit(&below, "*.a.test", "c.a.test", now + WINDOW), Ok(()));
    }
}
