//! Looking names up, once per connection: what is checked afterwards is what is dialled.
//!
//! ```text
//!  lookup(name) --> cache.rs, bounded in names and in how long it believes them --> joined.rs --> upstream.rs, hickory
//! ```
//!
//! `below.rs` counts the names that are looked up below each wildcard: they are a way out for data.

mod below;
mod cache;
mod joined;
mod upstream;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outrigger_policy::egress::{Destination, Name};
use outrigger_telemetry::metrics::{DnsLimit, EgressMetrics, LookupOutcome};
use tokio::time::Instant;

use crate::config::EgressDns;
use below::Below;
use cache::{Cache, Entry};
use joined::Joined;
use upstream::Upstream;

/// Addresses of one name that are looked at. More are a mistake or a trick.
const MAX_ADDRESSES: usize = 32;

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// It does not exist, or has no address.
    #[error("the name has no address")]
    NoAddress,
    /// The resolver could not say.
    #[error("the name cannot be looked up: {0}")]
    Failed(Arc<str>),
    /// The resolver did not answer in time.
    #[error("the name could not be looked up in time")]
    Timeout,
}

/// The addresses of a name, and until when they are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// At least one, at most 32, each once.
    pub addresses: Arc<[IpAddr]>,
    /// When the name is looked up anew.
    pub until: Instant,
}

/// What was said about a name, and for how long it says so itself.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    outcome: Result<Vec<IpAddr>, ResolveError>,
    ttl: Duration,
}

/// Looks names up.
pub struct Resolver {
    upstream: Upstream,
    ttl: (Duration, Duration),
    cache: Mutex<Cache>,
    asking: Joined,
    below: Below,
    metrics: EgressMetrics,
}

impl Resolver {
    /// With this time limit for each look-up. Nothing is opened before the first.
    pub fn new(settings: &EgressDns, timeout: Duration, metrics: EgressMetrics) -> Self {
        Self {
            upstream: Upstream::new(settings.servers.clone(), timeout),
            ttl: (settings.min_ttl, settings.max_ttl),
            cache: Mutex::new(Cache::new(settings.cache)),
            asking: Joined::default(),
            below: Below::new(settings.wildcard_bytes, settings.wildcard_names),
            metrics,
        }
    }

    /// All addresses of a name, IPv4 first.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub async fn lookup(&self, name: &Name) -> Result<Found, ResolveError> {
        let known = self.cache(|cache| cache.get(name, Instant::now()));
        if let Some((outcome, until)) = known {
            self.metrics.lookup(LookupOutcome::Cached);
            return outcome.map(|addresses| Found { addresses, until });
        }
        // Boxed: most names are known, and need no room for it.
        let (outcome, until) = self.asking.join(name, Box::pin(self.ask(name))).await;
        outcome.map(|addresses| Found { addresses, until })
    }

    /// What others say.
    async fn ask(&self, name: &Name) -> Entry {
        let Said { outcome, ttl } = self.upstream.ask(name).await;
        self.metrics.lookup(match &outcome {
            Ok(_) => LookupOutcome::Found,
            Err(ResolveError::NoAddress) => LookupOutcome::NoAddress,
            Err(ResolveError::Failed(_)) => LookupOutcome::Failed,
            Err(ResolveError::Timeout) => LookupOutcome::Timeout,
        });
        let outcome = outcome.map(|addresses| self.bounded(addresses));
        let now = Instant::now();
        let until = now + ttl.clamp(self.ttl.0, self.ttl.1);
        if self.cache(|cache| cache.put(name, (outcome.clone(), until), now)) {
            self.metrics.dns_limited(DnsLimit::Cache);
        }
        (outcome, until)
    }

    /// Whether a name that a destination covers may be looked up: those below a wildcard are counted.
    ///
    /// # Errors
    /// Which limit it is over.
    pub fn permit(&self, destination: &Destination, name: &Name) -> Result<(), DnsLimit> {
        self.below.permit(destination, name, Instant::now()).inspect_err(|limit| self.metrics.dns_limited(*limit))
    }

    fn bounded(&self, mut addresses: Vec<IpAddr>) -> Arc<[IpAddr]> {
        let mut each = Vec::with_capacity(addresses.len().min(MAX_ADDRESSES));
        for address in addresses.drain(..) {
            if each.contains(&address) {
                continue;
            }
            if each.len() == MAX_ADDRESSES {
                self.metrics.dns_limited(DnsLimit::Addresses);
                break;
            }
            each.push(address);
        }
        each.into()
    }

    /// Every use is one operation on the map, so a panic elsewhere leaves nothing half done.
    fn cache<T>(&self, with: impl FnOnce(&mut Cache) -> T) -> T {
        with(&mut self.cache.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
