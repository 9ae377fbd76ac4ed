//! Which replicas each service has: those of the settings, those that registered themselves and are still there, and
//! those that were looked up.
//!
//! Pure, over a clock that is handed in; [`crate::registry`] puts what comes out in force.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use outrigger_config::kinds::HostPort;
use tokio::time::Instant;

use crate::config::{MeshService, Service};

/// One who registered: it is there until the lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Lease(u64);

/// How a replica became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Its sidecar said so.
    Registered,
    /// It was looked up.
    Found,
}

/// Why somebody cannot register.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    /// As many services came the same way already.
    #[error("{0} services came this way beside those of the settings, and `registration.max_services` allows no more")]
    Services(usize),
    /// As many replicas of this service did.
    #[error(
        "{0} replicas of this service came this way, and `registration.max_replicas`, or `max_replicas` of its MeshService, allows no more"
    )]
    Replicas(usize),
}

/// How much of each origin there may be, so that neither crowds out the other, and how long what left is remembered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Services beside those of the settings.
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
    /// What holds for services that the settings do not name.
    described: BTreeMap<String, MeshService>,
    joined: BTreeMap<String, Vec<Joined>>,
    next: u64,
    last: Option<Instant>,
}

#[derive(Debug)]
struct Joined {
    settings: Service,
    address: HostPort,
    origin: Origin,
    lease: Lease,
    /// Since when it is gone.
    left: Option<Instant>,
}

impl Members {
    /// With the services of the settings.
    pub(crate) fn new(configured: Vec<Service>, bounds: Bounds) -> Self {
        Self { bounds, configured, described: BTreeMap::new(), joined: BTreeMap::new(), next: 0, last: None }
    }

    /// Other settings. Who registered stays where `still` says that it is who it must be now.
    pub(crate) fn configure(&mut self, configured: Vec<Service>, still: impl Fn(&Service) -> bool) {
        self.configured = configured;
        let named: HashMap<&str, &Service> = self.configured.iter().map(|one| (&*one.name, one)).collect();
        for (name, joined) in &mut self.joined {
            let wanted = named.get(&**name);
            joined.retain(|one| wanted.map_or_else(|| still(&one.settings), |w| w.spiffe_id == one.settings.spiffe_id));
        }
    }

    /// Whether this is what objects said last.
    pub(crate) fn is_described(&self, described: &BTreeMap<String, MeshService>) -> bool {
        self.described == *described
    }

    /// Objects say something else of services. Those that have more replicas than they may now keep them.
    pub(crate) fn describe(&mut self, described: BTreeMap<String, MeshService>) {
        self.described = described;
    }

    /// The settings of a service that the settings name.
    pub(crate) fn configured(&self, name: &str) -> Option<&Service> {
        self.configured.iter().find(|service| service.name == name)
    }

    /// A replica is there. Several may say the same address, such as a name that stands for all of them: it stays until the
    /// last of them is gone. A sidecar that registers anew with another certificate is such a pair for a moment.
    ///
    /// # Errors
    /// [`Full`].
    pub(crate) fn join(
        &mut self,
        settings: Service,
        address: HostPort,
        origin: Origin,
        now: Instant,
    ) -> Result<Lease, Full> {
        let came = |joined: &[Joined]| joined.iter().any(|one| one.origin == origin);
        let services = self.joined.values().filter(|joined| came(joined)).count();
        if services >= self.bounds.services && !self.joined.get(&settings.name).is_some_and(|joined| came(joined)) {
            return Err(Full::Services(services));
        }
        let lease = Lease(self.next);
        let described = self.described.get(&settings.name).and_then(|said| said.max_replicas);
        let most = described.map_or(self.bounds.replicas, |most| most.min(self.bounds.replicas));
        let joined = self.joined.entry(settings.name.clone()).or_default();
        // Whoever left made room.
        joined.retain(|other| other.left.is_none());
        let alike = || joined.iter().filter(|one| one.origin == origin);
        let others: HashSet<_> = alike().map(|one| &one.address).filter(|other| **other != address).collect();
        // Twice as many registrations: each may be renewing its own.
        if others.len() >= most || alike().count() >= 2 * most {
            return Err(Full::Replicas(alike().count()));
        }
        joined.push(Joined { settings, address, origin, lease, left: None });
        self.next += 1;
        if origin == Origin::Registered {
            self.last = Some(now);
        }
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

    /// The services with all their replicas, those of the settings first.
    pub(crate) fn now(&mut self, now: Instant) -> Vec<Service> {
        let grace = self.bounds.grace;
        for joined in self.joined.values_mut() {
            joined.retain(|one| one.left.is_none_or(|left| left + grace > now));
        }
        self.joined.retain(|_, joined| !joined.is_empty());
        let named: HashSet<&str> = self.configured.iter().map(|service| &*service.name).collect();
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
            if !named.contains(&**name)
                && let Some(first) = joined.first()
            {
                let mut addresses: Vec<HostPort> = Vec::with_capacity(joined.len());
                for one in joined {
                    if !addresses.contains(&one.address) {
                        addresses.push(one.address.clone());
                    }
                }
                let mut service = Service { addresses, ..first.settings.clone() };
                if let Some(said) = self.described.get(name) {
                    service.safety.clone_from(&said.safety);
                }
                services.push(service);
            }
        }
        services
    }

    /// Services whose last replica was found to be gone. One whose sidecar registered may only have lost a connection, and
    /// says itself how it is.
    pub(crate) fn departed(&self) -> HashSet<String> {
        let found = |joined: &[Joined]| joined.iter().any(|one| one.origin == Origin::Found);
        let gone = |joined: &[Joined]| joined.iter().all(|one| one.left.is_some()) && found(joined);
        let here = |name: &str| self.configured(name).is_some_and(|service| !service.addresses.is_empty());
        let departed = self.joined.iter().filter(|(name, joined)| gone(joined) && !here(name));
        departed.map(|(name, _)| name.clone()).collect()
    }

    /// When the services change by themselves because a grace ends.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.joined.values().flatten().filter_map(|one| Some(one.left? + self.bounds.grace)).min()
    }

    /// Whether somebody is still there.
    pub(crate) fn holds(&self, service: &str, lease: Lease) -> bool {
        self.joined.get(service).is_some_and(|joined| joined.iter().any(|one| one.lease == lease && one.left.is_none()))
    }

    /// When somebody registered last.
    pub(crate) fn last(&self) -> Option<Instant> {
        self.last
    }

    /// Replicas that are registered now.
    pub(crate) fn registered(&self) -> usize {
        let registered = |one: &&Joined| one.left.is_none() && one.origin == Origin::Registered;
        self.joined.values().flatten().filter(registered).count()
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
        members.join(service(name, &[]), HostPort::parse(address).unwrap(), Origin::Registered, Instant::now())
    }

    fn shown(members: &mut Members, now: Instant) -> Vec<String> {
        let text = |service: Service| {
            let addresses: Vec<_> = service.addresses.iter().map(HostPort::to_string).collect();
            format!("{} {}", service.name, addresses.join(" "))
        };
        members.now(now).into_iter().map(text).collect()
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
        assert_eq!(members.next_end(), Some(now + GRACE));
        assert_eq!(shown(&mut members, now), ["b x:1"]);
        let two = join(&mut members, "b", "x:2").unwrap();
        assert_eq!(shown(&mut members, now), ["b x:2"], "a restart with another address");
        members.leave("b", two, now);
        assert!(shown(&mut members, now + GRACE).is_empty());
        assert_eq!(members.next_end(), None);
    }

    #[test]
    fn an_address_stays_until_all_who_said_it_are_gone() {
        let now = Instant::now();
        let mut members = members(&[]);
        let old = join(&mut members, "b", "x:1").unwrap();
        let new = join(&mut members, "b", "x:1").unwrap();
        assert_eq!(shown(&mut members, now), ["b x:1"]);
        members.leave("b", old, now);
        assert_eq!((shown(&mut members, now), members.next_end()), (vec!["b x:1".to_owned()], None));
        let again = join(&mut members, "b", "x:1").unwrap();
        members.leave("b", again, now);
        assert_eq!(members.next_end(), None, "whichever of them goes");
        members.leave("b", new, now);
        assert_eq!(members.next_end(), Some(now + GRACE));
    }

    #[test]
    fn only_found_ones_depart() {
        let now = Instant::now();
        let mut members = members(&[]);
        let registered = join(&mut members, "a", "x:1").unwrap();
        let find = |members: &mut Members| {
            members.join(service("b", &[]), HostPort::parse("x:2").unwrap(), Origin::Found, now).unwrap()
        };
        let found = find(&mut members);
        assert_eq!((members.registered(), members.departed().len()), (1, 0));
        members.leave("a", registered, now);
        members.leave("b", found, now);
        assert!(!members.holds("b", found));
        assert_eq!(members.departed(), HashSet::from(["b".to_owned()]));
        assert_eq!(shown(&mut members, now), ["a x:1", "b x:2"], "both are remembered");
        assert!(find(&mut members) != found);
        assert!(members.departed().is_empty());
    }

    #[test]
    fn objects_say_what_holds_for_services_that_the_settings_do_not_name() {
        let now = Instant::now();
        let mut members = members(&[service("a", &["h:1"])]);
        let said = MeshService::parse("it", r#"{"max_replicas": 1, "concurrency": {"limit": 7}}"#).unwrap();
        let all = BTreeMap::from([("a".to_owned(), said.clone()), ("b".to_owned(), said)]);
        members.describe(all.clone());
        assert!(members.is_described(&all));
        join(&mut members, "b", "x:1").unwrap();
        assert_eq!(join(&mut members, "b", "x:2"), Err(Full::Replicas(1)));
        let limits: Vec<_> = members.now(now).iter().map(|service| service.safety.concurrency.limit).collect();
        assert_eq!(limits, [None, Some(7)], "the settings name the first");
        members.describe(BTreeMap::new());
        join(&mut members, "b", "x:2").unwrap();
        assert_eq!(members.now(now)[1].safety, crate::config::Safety::default());
    }

    #[test]
    fn those_who_register_and_those_who_are_found_leave_each_other_room() {
        let mut members = members(&[]);
        let mut find = |name: &str, address: &str| {
            members.join(service(name, &[]), HostPort::parse(address).unwrap(), Origin::Found, Instant::now())
        };
        for (name, address) in [("b", "x:1"), ("b", "x:2"), ("c", "x:1")] {
            find(name, address).unwrap();
        }
        assert_eq!((find("b", "x:3"), find("d", "x:1")), (Err(Full::Replicas(2)), Err(Full::Services(2))));
        join(&mut members, "b", "x:3").unwrap();
        join(&mut members, "d", "x:1").unwrap();
        assert_eq!(join(&mut members, "c", "x:1"), Err(Full::Services(2)));
        assert_eq!(shown(&mut members, Instant::now()), ["b x:1 x:2 x:3", "c x:1", "d x:1"]);
    }

    #[test]
    fn there_are_bounds() {
        let mut members = members(&[service("a", &["h:1"])]);
        join(&mut members, "b", "x:1").unwrap();
        join(&mut members, "b", "x:2").unwrap();
        assert_eq!(join(&mut members, "b", "x:3"), Err(Full::Replicas(2)));
        join(&mut members, "c", "x:3").unwrap();
        assert_eq!(join(&mut members, "d", "x:3"), Err(Full::Services(2)));
        for _ in 0..2 {
            join(&mut members, "b", "x:1").unwrap();
        }
        assert_eq!(join(&mut members, "b", "x:1"), Err(Full::Replicas(4)), "each may renew");
        members.configure(Vec::new(), |_| true);
        assert_eq!(shown(&mut members, Instant::now()), ["b x:1 x:2", "c x:3"]);
        let other = Service { spiffe_id: "spiffe://demo.test/other".into(), ..service("c", &[]) };
        members.configure(vec![other], |service| service.name != "b");
        assert_eq!(shown(&mut members, Instant::now()), ["c "], "who may not be it any more is not");
    }
}
