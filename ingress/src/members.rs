//! Which replicas each service has: those of the settings, and those that registered themselves and are still there.
//!
//! Pure, over a clock that is handed in; [`crate::registry`] puts what comes out in force.

use std::collections::BTreeMap;
use std::time::Duration;

use outrigger_config::kinds::HostPort;
use tokio::time::Instant;

use crate::config::Service;

/// One who registered: it is there until the lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Lease(u64);

/// Why somebody cannot register.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    /// As many services are here already.
    #[error("{0} services have registered, and `registration.max_services` allows no more")]
    Services(usize),
    /// As many replicas of this service are.
    #[error("{0} replicas of this service have registered, and `registration.max_replicas` allows no more")]
    Replicas(usize),
}

/// How much there may be, and how long what left is remembered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Services that registered.
    pub(crate) services: usize,
    /// Replicas of each.
    pub(crate) replicas: usize,
    /// The last replica of a service stays this long after it left, so that the catalog is listed as stale.
    pub(crate) grace: Duration,
}

/// All members.
#[derive(Debug)]
pub(crate) struct Members {
    bounds: Bounds,
    configured: Vec<Service>,
    joined: BTreeMap<String, Vec<Joined>>,
    next: u64,
}

#[derive(Debug)]
struct Joined {
    settings: Service,
    address: HostPort,
    lease: Lease,
    /// Since when it is gone.
    left: Option<Instant>,
}

impl Members {
    /// With the services of the settings.
    pub(crate) fn new(configured: Vec<Service>, bounds: Bounds) -> Self {
        Self { bounds, configured, joined: BTreeMap::new(), next: 0 }
    }

    /// Other settings; who registered stays.
    pub(crate) fn configure(&mut self, configured: Vec<Service>) {
        self.configured = configured;
    }

    /// The settings of a service that the settings name.
    pub(crate) fn configured(&self, name: &str) -> Option<&Service> {
        self.configured.iter().find(|service| service.name == name)
    }

    /// A replica is there. Who registers the same address again takes the place of who did before.
    ///
    /// # Errors
    /// [`Full`].
    pub(crate) fn join(&mut self, settings: Service, address: HostPort) -> Result<Lease, Full> {
        let services = self.joined.len();
        if services >= self.bounds.services && !self.joined.contains_key(&settings.name) {
            return Err(Full::Services(services));
        }
        let lease = Lease(self.next);
        let joined = self.joined.entry(settings.name.clone()).or_default();
        // Whoever left made room.
        joined.retain(|other| other.left.is_none() && other.address != address);
        if joined.len() >= self.bounds.replicas {
            return Err(Full::Replicas(joined.len()));
        }
        joined.push(Joined { settings, address, lease, left: None });
        self.next += 1;
        Ok(lease)
    }

    /// A replica is gone. Only the last one of its service is remembered for a while.
    pub(crate) fn leave(&mut self, service: &str, lease: Lease, now: Instant) {
        let Some(joined) = self.joined.get_mut(service) else { return };
        if let Some(gone) = joined.iter_mut().find(|one| one.lease == lease) {
            gone.left = Some(now);
        }
        if joined.iter().any(|one| one.left.is_none()) {
            joined.retain(|one| one.left.is_none());
        }
    }

    /// The services with all their replicas, those of the settings first; and when that changes by itself.
    pub(crate) fn now(&mut self, now: Instant) -> (Vec<Service>, Option<Instant>) {
        let grace = self.bounds.grace;
        for joined in self.joined.values_mut() {
            joined.retain(|one| one.left.is_none_or(|left| left + grace > now));
        }
        self.joined.retain(|_, joined| !joined.is_empty());
        let mut services = self.configured.clone();
        for service in &mut services {
            let more = self.joined.get(&service.name).into_iter().flatten();
            for one in more.filter(|one| one.left.is_none()) {
                if !service.addresses.contains(&one.address) {
                    service.addresses.push(one.address.clone());
                }
            }
        }
        for (name, joined) in &self.joined {
            if self.configured(name).is_none()
                && let Some(first) = joined.first()
            {
                let addresses = joined.iter().map(|one| one.address.clone()).collect();
                services.push(Service { addresses, ..first.settings.clone() });
            }
        }
        let ends = self.joined.values().flatten().filter_map(|one| Some(one.left? + grace));
        (services, ends.min())
    }

    /// Replicas that are registered now.
    pub(crate) fn registered(&self) -> usize {
        self.joined.values().flatten().filter(|one| one.left.is_none()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_proxy::peek::HeaderChecks;

    const GRACE: Duration = Duration::from_secs(60);

    fn service(name: &str, addresses: &[&str]) -> Service {
        Service {
            name: name.into(),
            addresses: addresses.iter().map(|text| HostPort::parse(text).unwrap()).collect(),
            spiffe_id: format!("spiffe://demo.test/{name}"),
            header_checks: HeaderChecks::Strict,
            safety: crate::config::Safety::default(),
        }
    }

    fn members(configured: &[Service]) -> Members {
        Members::new(configured.to_vec(), Bounds { services: 2, replicas: 2, grace: GRACE })
    }

    fn join(members: &mut Members, name: &str, address: &str) -> Result<Lease, Full> {
        members.join(service(name, &[]), HostPort::parse(address).unwrap())
    }

    fn shown(members: &mut Members, now: Instant) -> Vec<String> {
        let text = |service: Service| {
            let addresses: Vec<_> = service.addresses.iter().map(HostPort::to_string).collect();
            format!("{} {}", service.name, addresses.join(" "))
        };
        members.now(now).0.into_iter().map(text).collect()
    }

    #[test]
    fn replicas_come_and_go() {
        let now = Instant::now();
        let mut members = members(&[service("a", &["h:1"])]);
        let one = join(&mut members, "b", "x:1").unwrap();
        let two = join(&mut members, "b", "x:2").unwrap();
        join(&mut members, "a", "h:2").unwrap();
        assert_eq!(shown(&mut members, now), ["a h:1 h:2", "b x:1 x:2"]);
        assert_eq!(members.registered(), 3);
        members.leave("b", one, now);
        assert_eq!(shown(&mut members, now), ["a h:1 h:2", "b x:2"]);
        members.leave("b", one, now);
        members.leave("nobody", two, now);
        assert_eq!(shown(&mut members, now), ["a h:1 h:2", "b x:2"], "once is enough");
    }

    #[test]
    fn the_last_one_is_remembered_for_a_while_unless_another_comes() {
        let now = Instant::now();
        let mut members = members(&[]);
        let one = join(&mut members, "b", "x:1").unwrap();
        members.leave("b", one, now);
        assert_eq!(members.now(now).1, Some(now + GRACE));
        assert_eq!(shown(&mut members, now), ["b x:1"]);
        let two = join(&mut members, "b", "x:2").unwrap();
        assert_eq!(shown(&mut members, now), ["b x:2"], "a restart with another address");
        members.leave("b", two, now);
        assert!(shown(&mut members, now + GRACE).is_empty());
        assert_eq!(members.now(now + GRACE).1, None);
    }

    #[test]
    fn who_comes_again_takes_its_own_place_and_the_older_lease_ends_nothing() {
        let now = Instant::now();
        let mut members = members(&[]);
        let old = join(&mut members, "b", "x:1").unwrap();
        join(&mut members, "b", "x:1").unwrap();
        members.leave("b", old, now);
        assert_eq!((shown(&mut members, now), members.now(now).1), (vec!["b x:1".to_owned()], None));
    }

    #[test]
    fn there_are_bounds() {
        let mut members = members(&[service("a", &["h:1"])]);
        join(&mut members, "b", "x:1").unwrap();
        join(&mut members, "b", "x:2").unwrap();
        assert_eq!(join(&mut members, "b", "x:3"), Err(Full::Replicas(2)));
        join(&mut members, "c", "x:3").unwrap();
        assert_eq!(join(&mut members, "d", "x:3"), Err(Full::Services(2)));
        members.configure(Vec::new());
        assert_eq!(shown(&mut members, Instant::now()), ["b x:1 x:2", "c x:3"]);
    }
}
