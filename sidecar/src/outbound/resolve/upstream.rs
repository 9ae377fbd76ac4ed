//! Asking other resolvers, by hickory: transport, retries, search lists and the hosts file are its business; what of an answer
//! is believed is ours.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{self, RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use outrigger_policy::egress::Name;
use tokio::time::Instant;

use super::{ResolveError, Said};

/// How long the other family's answer is waited for when one has answered: some resolvers never say that there is no AAAA.
const OTHER_FAMILY: Duration = Duration::from_millis(500);
/// How long a failure is believed. Without it a resolver in trouble is asked again by every connection.
const FAILURE: Duration = Duration::from_secs(2);
/// How often the system's files are looked at for a change.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Aliases in a row; hickory itself asks on for no more.
const MOST_ALIASES: usize = 8;
/// Tries of one question, whatever the system's file says.
const MOST_TRIES: usize = 5;
/// The same of one try.
const SHORTEST_TRY: Duration = Duration::from_millis(100);
/// Questions at once to one server; hickory fails what is above.
const AT_ONCE: usize = 1024;

/// The resolvers of the settings, or of the system.
pub(super) struct Upstream {
    servers: Vec<SocketAddr>,
    timeout: Duration,
    built: Mutex<Option<Built>>,
}

struct Built {
    resolver: TokioResolver,
    files: [Option<SystemTime>; 2],
    looked: Instant,
}

impl Upstream {
    /// Nothing is read or opened before the first question.
    pub(super) fn new(servers: Vec<SocketAddr>, timeout: Duration) -> Self {
        Self { servers, timeout, built: Mutex::new(None) }
    }

    /// What is said about a name.
    pub(super) async fn ask(&self, name: &Name) -> Said {
        let resolver = match self.resolver() {
            Ok(resolver) => resolver,
            Err(error) => return Said { outcome: Err(failed(&error)), ttl: FAILURE },
        };
        let one = |kind| {
            let resolver = resolver.clone();
            async move { resolver.lookup(name.as_str(), kind).await }
        };
        let (v4, v6) = (one(RecordType::A), one(RecordType::AAAA));
        tokio::pin!(v4, v6);
        let (mut first, mut second) = (None, None);
        let mut until = Instant::now() + self.timeout;
        while first.is_none() || second.is_none() {
            let answer = tokio::select! {
                // An answer that is there counts, also when we were held up until its time was over.
                biased;
                answer = &mut v4, if first.is_none() => first.insert(answer),
                answer = &mut v6, if second.is_none() => second.insert(answer),
                () = tokio::time::sleep_until(until) => break,
            };
            if answer.is_ok() {
                until = until.min(Instant::now() + OTHER_FAMILY);
            }
        }
        said(first, second)
    }

    /// The resolver, made anew when the system's files have changed.
    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(built) = &mut *built {
            let fresh = now.duration_since(built.looked) < LOOK_AGAIN;
            built.looked = if fresh { built.looked } else { now };
            if fresh || files() == built.files {
                return Ok(built.resolver.clone());
            }
        }
        let files = files();
        let (config, own) = if self.servers.is_empty() { of_system() } else { (of_settings(&self.servers), None) };
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options(self.timeout, own.as_ref());
        let resolver = builder.build()?;
        *built = Some(Built { resolver: resolver.clone(), files, looked: now });
        Ok(resolver)
    }
}

/// `own` is what the system asks for: how long one try takes, and how many there are. It must fit into our `timeout`.
fn options(timeout: Duration, own: Option<&ResolverOpts>) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    // A name with a dot is asked for as it is first; the search list comes after, whatever `ndots` says.
    options.ndots = 1;
    options.timeout = own.map_or(timeout / 2, |own| own.timeout.min(timeout / 2).max(SHORTEST_TRY));
    // In the system's file the first try counts, here those after it.
    options.attempts = own.map_or(1, |own| own.attempts.clamp(1, MOST_TRIES) - 1);
    options.try_tcp_on_error = true;
    // Ours keeps only addresses.
    options.cache_size = 0;
    options.max_active_requests = AT_ONCE;
    options
}

fn of_settings(servers: &[SocketAddr]) -> ResolverConfig {
    let server = |address: &SocketAddr| {
        let mut both = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
        both.iter_mut().for_each(|connection| connection.port = address.port());
        NameServerConfig::new(address.ip(), true, both.into())
    };
    ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect())
}

/// What `/etc/resolv.conf` says; without it there is still the hosts file.
fn of_system() -> (ResolverConfig, Option<ResolverOpts>) {
    read_system_conf().map(|(config, options)| (config, Some(options))).unwrap_or_else(|error| {
        tracing::warn!(%error, "no resolver in /etc/resolv.conf: only names of /etc/hosts have addresses");
        (ResolverConfig::from_parts(None, Vec::new(), Vec::new()), None)
    })
}

fn files() -> [Option<SystemTime>; 2] {
    ["/etc/resolv.conf", "/etc/hosts"].map(|path| std::fs::metadata(path).and_then(|file| file.modified()).ok())
}

/// One or two answers joined; the shorter time counts.
fn said(first: Option<Result<Lookup, NetError>>, second: Option<Result<Lookup, NetError>>) -> Said {
    let (mut addresses, mut ttl, mut nothing, mut error) = (Vec::new(), None, 0, None);
    let mut shorter = |seconds: Option<u32>| {
        let seconds = Duration::from_secs(seconds.unwrap_or_default().into());
        ttl = Some(ttl.map_or(seconds, |ttl: Duration| ttl.min(seconds)));
    };
    for answer in [first, second].into_iter().flatten() {
        match answer {
            Ok(lookup) => {
                let (found, seconds) = believed(&lookup);
                if found.is_empty() {
                    nothing += 1;
                }
                addresses.extend(found);
                shorter(Some(seconds));
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                nothing += 1;
                // That one family is missing does not make what the other has short-lived.
                error.get_or_insert((ResolveError::NoAddress, none.negative_ttl));
            }
            Err(NetError::Timeout) => error = Some((ResolveError::Timeout, None)),
            Err(other) => error = Some((failed(&other), None)),
        }
    }
    if !addresses.is_empty() {
        return Said { outcome: Ok(addresses), ttl: ttl.unwrap_or_default() };
    }
    match error {
        Some((ResolveError::NoAddress, seconds)) if nothing == 2 => {
            let ttl = Duration::from_secs(seconds.unwrap_or_default().into());
            Said { outcome: Err(ResolveError::NoAddress), ttl }
        }
        None if nothing == 2 => Said { outcome: Err(ResolveError::NoAddress), ttl: FAILURE },
        Some((error @ ResolveError::Failed(_), _)) => Said { outcome: Err(error), ttl: FAILURE },
        Some(_) | None => Said { outcome: Err(ResolveError::Timeout), ttl: FAILURE },
    }
}

fn failed(error: &NetError) -> ResolveError {
    ResolveError::Failed(error.to_string().into())
}

/// The addresses of the name that was asked for, over its aliases, and for how many seconds all of that is good. Records of
/// other names that came along are nobody's.
fn believed(lookup: &Lookup) -> (Vec<IpAddr>, u32) {
    let answers = lookup.answers();
    let (mut at, mut ttl): (&rr::Name, u32) = (lookup.query().name(), u32::MAX);
    for _ in 0..MOST_ALIASES {
        let alias = answers.iter().find_map(|record| match &record.data {
            RData::CNAME(to) if record.name.eq_ignore_root(at) => Some((&to.0, record.ttl)),
            _ => None,
        });
        let Some((to, seconds)) = alias else { break };
        (at, ttl) = (to, ttl.min(seconds));
    }
    let own = answers.iter().filter(|record| record.name.eq_ignore_root(at));
    let mut addresses = Vec::new();
    for record in own {
        if let Some(address) = record.data.ip_addr() {
            addresses.push(address);
            ttl = ttl.min(record.ttl);
        }
    }
    (addresses, if ttl == u32::MAX { 0 } else { ttl })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_says_how_often_and_how_long_within_our_time() {
        let of = |seconds, attempts| {
            let mut own = ResolverOpts::default();
            (own.timeout, own.attempts, own.ndots) = (Duration::from_secs(seconds), attempts, 5);
            let options = options(Duration::from_secs(6), Some(&own));
            assert_eq!(options.ndots, 1);
            (options.timeout.as_secs(), options.attempts)
        };
        assert_eq!(of(1, 3), (1, 2));
        assert_eq!(of(5, 2), (3, 1), "not longer than there is time for two");
        assert_eq!(of(1, 0), (1, 0));
        assert_eq!(of(1, 1000), (1, MOST_TRIES - 1));
    }
}
