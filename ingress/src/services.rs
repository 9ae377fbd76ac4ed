//! The services behind the ingress and their replicas: what is known of each, and which one gets a call.

mod standing;

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, Guard};
use outrigger_config::kinds::HostPort;
use outrigger_identity::{Credentials, SpiffeError, SpiffeId, replaced_by, server_name};
use outrigger_mcp::catalog::Catalog;
use outrigger_mcp::catalog::merge::{ServiceState, ServiceView};
use outrigger_proxy::assertion::Assertions;
use outrigger_proxy::dial::{ClientTls, Endpoint};
use outrigger_proxy::failure::Failure;
use outrigger_proxy::log_bound::LogBound;
use outrigger_proxy::peek::HeaderChecks;
use outrigger_proxy::pool::{Pool, PoolSettings};
use outrigger_telemetry::{Metrics, ServiceMetrics};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::adaptive::Adaptive;
use crate::breaker::Breaker;
use crate::config;
use crate::health::{Document, Status};
use crate::places::Places;
use crate::retry::Budget;

/// The catalog of a service of which nothing is listed: one for all, because making it takes a hash.
static NOTHING: LazyLock<Arc<Catalog>> = LazyLock::new(|| Arc::new(Catalog::empty()));

/// One service.
#[derive(Debug)]
pub(crate) struct Service {
    /// As configured, or as it registered. Its sidecars are [`Service::replicas`].
    pub(crate) settings: config::Service,
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Says for whom calls are.
    pub(crate) assertions: Assertions,
    /// Its sidecars; empty only while none has registered. Others may come and go while the service stays.
    replicas: ArcSwap<Vec<Arc<Replica>>>,
    /// Whether the last of its replicas was found to be gone: what it had is listed for a while, and nothing is called.
    departed: AtomicBool,
    /// Who each of them must be.
    expected: SpiffeId,
    /// What becomes of mirrored headers on its own endpoint.
    pub(crate) header_checks: HeaderChecks,
    /// Its series.
    pub(crate) metrics: Arc<ServiceMetrics>,
    /// Calls at work.
    pub(crate) places: Arc<Places>,
    /// How many calls may be sent again.
    pub(crate) retries: Option<Budget>,
    /// Who is left alone is decided one at a time, or more than may be would be.
    ejecting: Mutex<()>,
    /// Of lines about calls that got no answer.
    pub(crate) no_answer: LogBound,
    /// Of lines about listens that did not begin.
    pub(crate) no_listen: LogBound,
}

/// One sidecar of a service.
pub(crate) struct Replica {
    /// As configured, for logs.
    pub(crate) address: String,
    /// Connections to it.
    pub(crate) pool: Pool,
    /// Who it must be.
    expected: SpiffeId,
    /// Wakes its watcher when somebody has reason to believe that it is back.
    pub(crate) wake: Notify,
    in_flight: AtomicUsize,
    /// Whether calls at it fail.
    pub(crate) breaker: Breaker,
    health: ArcSwap<Health>,
    /// Not earlier than then its connections are replaced again, in milliseconds since 1970. Written by one task.
    rested: AtomicU64,
    /// Of what its connections showed: read once for each, for it is asked every second. Written by the same task.
    lives: Mutex<Vec<Life>>,
}

/// Until when a connection is good.
struct Life {
    shown: Arc<[CertificateDer<'static>]>,
    /// When its other end should have another certificate, and when this one ends; none for what is no certificate.
    replaced_by: Option<(SystemTime, SystemTime)>,
}

/// What is known of a replica.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health {
    /// What it said last.
    pub(crate) document: Option<Arc<Document>>,
    /// Why it cannot be asked now; `None` while it answers.
    pub(crate) unreachable: Option<String>,
    /// The same in words that tell nothing of who is at its address.
    pub(crate) kind: Option<&'static str>,
    /// Since when its server, or it, is gone.
    pub(crate) lost_at: Option<Instant>,
}

/// One call on its way to or from a replica; dropping it counts it out.
#[derive(Debug)]
pub(crate) struct InFlight {
    replica: Arc<Replica>,
    /// How much had gone well at the replica when the call began.
    progress: u32,
    /// When its tool has had as long as it may take.
    deadline: Option<Instant>,
    /// Whether it went well is known.
    settled: bool,
}

/// What callers are told of a service (`_meta["outrigger.dev/services"]`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Its catalog is up to date.
    Ok,
    /// Its last catalog is listed.
    Stale,
    /// Nothing of it is listed.
    Down(String),
}

impl Service {
    /// A service of the configuration.
    ///
    /// # Errors
    /// When its SPIFFE id is none, which the configuration has checked.
    pub(crate) fn new(settings: &config::Service, with: &Surroundings<'_>) -> Result<Self, SpiffeError> {
        let expected = SpiffeId::parse(&settings.spiffe_id)?;
        let places = places(&settings.safety.concurrency, with.in_flight);
        let metrics = with.metrics.service(&settings.name);
        metrics.set_concurrency_limit(places.limit());
        let replica = |address: &HostPort| Arc::new(Replica::new(address, &expected, &settings.safety.breaker, with));
        let replicas = settings.addresses.iter().map(replica).collect();
        let service = Self {
            settings: settings.clone(),
            name: Arc::from(settings.name.as_str()),
            assertions: Assertions::new(with.credentials, &expected),
            replicas: ArcSwap::from_pointee(replicas),
            departed: AtomicBool::new(false),
            expected,
            header_checks: settings.header_checks,
            metrics,
            places,
            retries: settings.safety.retries.as_ref().map(Budget::new),
            ejecting: Mutex::default(),
            no_answer: LogBound::default(),
            no_listen: LogBound::default(),
        };
        service.count_out();
        Ok(service)
    }

    /// Whether this is the service of these settings, wherever its sidecars are.
    pub(crate) fn stays(&self, settings: &config::Service) -> bool {
        let config::Service { name, addresses: _, spiffe_id, header_checks, safety } = settings;
        let own = &self.settings;
        (name, spiffe_id, header_checks, safety) == (&own.name, &own.spiffe_id, &own.header_checks, &own.safety)
    }

    /// Its sidecars now.
    pub(crate) fn replicas(&self) -> Guard<Arc<Vec<Arc<Replica>>>> {
        self.replicas.load()
    }

    /// These are its sidecars from now on. Those that stay keep their connections and what is known of them; calls at those
    /// that go end as they would have. One at a time calls this.
    pub(crate) fn has_replicas(&self, addresses: &[HostPort], with: &Surroundings<'_>) {
        let old = self.replicas.load();
        if old.len() == addresses.len() && old.iter().zip(addresses).all(|(one, at)| one.address == at.to_string()) {
            return;
        }
        let next = addresses.iter().map(|address| {
            let text = address.to_string();
            let known = old.iter().find(|replica| replica.address == text);
            known
                .cloned()
                .unwrap_or_else(|| Arc::new(Replica::new(address, &self.expected, &self.settings.safety.breaker, with)))
        });
        self.replicas.store(Arc::new(next.collect()));
        self.count_out();
    }

    /// Whether it is only remembered. Says whether that is new.
    pub(crate) fn set_departed(&self, departed: bool) -> bool {
        self.departed.swap(departed, Ordering::Relaxed) != departed
    }

    /// What the service offers as far as it is known now, what callers are told about that, and when to look again
    /// because a grace period ends.
    pub(crate) fn view(&self, now: Instant, grace: Duration) -> (ServiceView, Condition, Option<Instant>) {
        let healths: Vec<_> = self.replicas().iter().map(|replica| replica.health()).collect();
        let view = |catalog: Option<&Arc<Catalog>>, state| ServiceView {
            name: Arc::clone(&self.name),
            catalog: catalog.unwrap_or(&NOTHING).clone(),
            state,
        };
        if let Some(catalog) = healths.iter().filter(|health| health.live()).find_map(|health| health.catalog()) {
            return match self.departed.load(Ordering::Relaxed) {
                false => (view(Some(catalog), ServiceState::Fresh), Condition::Ok, None),
                // Whoever remembers it forgets it in time.
                true => (view(Some(catalog), ServiceState::Stale), Condition::Stale, None),
            };
        }
        let lost = healths.iter().filter_map(|health| Some((health.lost_at? + grace, health.catalog()?)));
        match lost.max_by_key(|(until, _)| *until) {
            Some((until, catalog)) if until > now => {
                (view(Some(catalog), ServiceState::Stale), Condition::Stale, Some(until))
            }
            _ => (view(None, ServiceState::Missing), Condition::Down(why_missing(&healths)), None),
        }
    }

    /// For people: how many replicas it has, how many of them answer, and why another one does not.
    pub(crate) fn standing(&self) -> (usize, usize, Option<&'static str>) {
        if self.departed.load(Ordering::Relaxed) {
            return (0, 0, None);
        }
        let healths: Vec<_> = self.replicas().iter().map(|replica| replica.health()).collect();
        let live = healths.iter().filter(|health| health.live()).count();
        let why = healths.iter().find_map(|health| match &health.document {
            _ if health.unreachable.is_some() => health.kind,
            Some(document) if document.status == Status::Down => Some("its server does not answer"),
            _ => None,
        });
        (healths.len(), live, why)
    }

    /// Whether it has ever answered.
    pub(crate) fn asked(&self) -> bool {
        self.replicas().iter().any(|replica| replica.health().document.is_some())
    }

    /// Whether its server has sessions, by what is known.
    pub(crate) fn stateful(&self) -> bool {
        self.replicas()
            .iter()
            .any(|replica| replica.health().document.as_ref().is_some_and(|document| document.stateful))
    }

    /// Whether its lists depend on who asks, by what is known.
    pub(crate) fn per_caller(&self) -> bool {
        let says = |health: &Health| health.live() && health.document.as_ref().is_some_and(|d| d.per_caller);
        self.replicas().iter().any(|replica| says(&replica.health()))
    }

    /// The replica that said that this is its id.
    pub(crate) fn replica(&self, id: &str) -> Option<Arc<Replica>> {
        let said =
            |replica: &Replica| replica.health().document.as_ref().is_some_and(|d| d.replica.as_deref() == Some(id));
        self.replicas().iter().find(|replica| said(replica)).cloned()
    }

    /// The replica for a call. Servers with sessions keep theirs in one sidecar, so there the session tag chooses; else
    /// the less busy one of two random ones gets it. `except` has just failed.
    ///
    /// # Errors
    /// [`Failure::Unavailable`] when no replica may be asked.
    pub(crate) fn pick(&self, tag: &str, except: Option<&Arc<Replica>>) -> Result<Arc<Replica>, Failure> {
        if self.departed.load(Ordering::Relaxed) {
            let reason = "none of its replicas is there any more".to_owned();
            return Err(Failure::Unavailable { service: self.name.to_string(), reason });
        }
        let replicas = self.replicas();
        let others = replicas.iter().filter(|replica| except.is_none_or(|except| !Arc::ptr_eq(replica, except)));
        let others: Vec<_> = others.map(|replica| (replica, replica.health())).collect();
        let mut candidates: Vec<_> = others.iter().filter(|(_, health)| health.live() && !health.draining()).collect();
        if candidates.is_empty() {
            // Nobody is known to be well. One that could not be asked may be back by now; a refused connection costs little.
            candidates =
                others.iter().filter(|(_, health)| health.document.is_none() || health.unreachable.is_some()).collect();
        }
        if candidates.iter().any(|(replica, _)| replica.breaker.is_troubled()) {
            candidates = self.spared(candidates, tag)?;
        }
        let stateful = candidates.iter().any(|(_, health)| health.document.as_ref().is_some_and(|d| d.stateful));
        let chosen = match candidates.as_slice() {
            [] => None,
            [(only, _)] => Some(*only),
            several if stateful => {
                several.iter().map(|(replica, _)| *replica).max_by_key(|replica| rank(tag, &replica.address))
            }
            several => {
                let first = fastrand::usize(..several.len());
                let second = (first + 1 + fastrand::usize(..several.len() - 1)) % several.len();
                [first, second]
                    .iter()
                    .filter_map(|at| several.get(*at))
                    .map(|(replica, _)| *replica)
                    .min_by_key(|r| r.in_flight())
            }
        };
        chosen.cloned().ok_or_else(|| {
            let healths: Vec<_> = others.into_iter().map(|(_, health)| health).collect();
            Failure::Unavailable { service: self.name.to_string(), reason: why_missing(&healths) }
        })
    }
}

/// What services share.
pub(crate) struct Surroundings<'a> {
    /// Who we are.
    pub(crate) credentials: &'a Arc<Credentials>,
    /// Where their series are.
    pub(crate) metrics: &'a Arc<Metrics>,
    /// Connect timeout of their pools.
    pub(crate) connect: Duration,
    /// Calls at once, per service.
    pub(crate) in_flight: usize,
}

impl Replica {
    fn new(address: &HostPort, expected: &SpiffeId, breaker: &config::Breaker, with: &Surroundings<'_>) -> Self {
        let (credentials, dialled) = (Arc::clone(with.credentials), expected.clone());
        let tls = ClientTls {
            // Asked per connection, so that new certificates reach new connections.
            provider: Arc::new(move || credentials.client_config(&dialled)),
            server_name: tls_name(&address.host),
        };
        let endpoint = Endpoint::tcp(address.host.clone(), address.port).with_tls(tls);
        let settings = PoolSettings { connect_timeout: with.connect, ..PoolSettings::default() };
        Self {
            address: address.to_string(),
            pool: Pool::new(endpoint, settings),
            expected: expected.clone(),
            wake: Notify::new(),
            in_flight: AtomicUsize::new(0),
            breaker: Breaker::new(breaker),
            health: ArcSwap::default(),
            rested: AtomicU64::new(0),
            lives: Mutex::default(),
        }
    }

    /// Looks at who is at the other end of its connections again, and cuts those that would be refused now. See
    /// [`Pool::recheck`].
    pub(crate) fn recheck(&self, credentials: &Credentials) {
        let good = |certs: &[CertificateDer<'_>]| credentials.recheck(Some(certs)).is_ok_and(|id| id == self.expected);
        let cut = self.pool.recheck(good);
        if cut > 0 {
            tracing::warn!(replica = %self.address, cut, "connections to a sidecar are cut: its certificate is no longer accepted");
        }
    }

    /// Lets new calls use new connections when the sidecar should have another certificate than the one with which the
    /// present ones began, so that no call is under way on one whose certificate ends. To be called every second or so.
    pub(crate) fn refresh(&self, now: SystemTime) {
        let mut lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        let known = std::mem::take(&mut *lives);
        let life = |shown: Arc<[CertificateDer<'static>]>| {
            let known = known.iter().find(|life| Arc::ptr_eq(&life.shown, &shown)).map(|life| life.replaced_by);
            Life { replaced_by: known.unwrap_or_else(|| replaced_by(shown.first()?)), shown }
        };
        lives.extend(self.pool.certificates().into_iter().map(life));
        let over = lives
            .iter()
            .filter_map(|life| life.replaced_by)
            .filter(|(by, _)| *by <= now)
            .map(|(_, end)| end.duration_since(now).unwrap_or_default());
        let Some(left) = over.min() else { return };
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let since_epoch = millis(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        if since_epoch < self.rested.load(Ordering::Relaxed) {
            return;
        }
        // A sidecar that is late shows the same one again: asked ever more often, but a few times in all.
        self.rested.store(since_epoch.saturating_add(millis(left / 4)), Ordering::Relaxed);
        self.pool.retire();
    }

    /// Calls that it works on for us.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a call in.
    pub(crate) fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight { progress: self.breaker.progress(), deadline: None, settled: false, replica: Arc::clone(self) }
    }

    /// What is known of it.
    pub(crate) fn health(&self) -> Arc<Health> {
        self.health.load_full()
    }

    /// Notes what it said; `None` that nothing has changed since. Only its watcher calls this.
    pub(crate) fn answered(&self, document: Option<Document>) {
        let old = self.health();
        let known = old.catalog();
        let document = document.map(|document| Arc::new(document.with_known(known))).or_else(|| old.document.clone());
        if old.unreachable.is_some() {
            self.breaker.seen_again(Instant::now());
        }
        let down = document.as_ref().is_some_and(|document| document.status == Status::Down);
        let lost_at = if down { old.lost_at.or_else(|| Some(Instant::now())) } else { None };
        self.health.store(Arc::new(Health { document, unreachable: None, kind: None, lost_at }));
    }

    /// Notes that it cannot be asked. Only its watcher calls this.
    pub(crate) fn lost(&self, reason: String, kind: &'static str) {
        let old = self.health();
        let lost_at = old.lost_at.or_else(|| Some(Instant::now()));
        let (document, unreachable, kind) = (old.document.clone(), Some(reason), Some(kind));
        self.health.store(Arc::new(Health { document, unreachable, kind, lost_at }));
    }
}

impl Health {
    /// It answers, and its server too.
    fn live(&self) -> bool {
        self.unreachable.is_none() && self.document.as_ref().is_some_and(|document| document.status != Status::Down)
    }

    fn draining(&self) -> bool {
        self.document.as_ref().is_some_and(|document| document.status == Status::Draining)
    }

    fn catalog(&self) -> Option<&Arc<Catalog>> {
        self.document.as_ref()?.catalog.as_ref()
    }
}

impl InFlight {
    /// Its tool may take until then.
    pub(crate) fn until(mut self, deadline: Option<Instant>) -> Self {
        self.deadline = deadline;
        self
    }

    /// It was ended because its tool took longer than it may: no fault of the replica.
    pub(crate) fn ran_out(&self) -> bool {
        self.deadline.is_some_and(|at| at <= Instant::now())
    }

    /// Its replica is known to have done well, or not.
    pub(crate) fn settled(mut self) -> Self {
        self.settled = true;
        self
    }

    /// Nothing at all has gone well at the replica since the call began: a tool that takes its time is no sign of
    /// trouble while others are answered.
    pub(crate) fn waited_in_vain(&self) -> bool {
        self.replica.breaker.progress() == self.progress
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.replica.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Condition {
    /// The text for callers.
    pub(crate) fn text(&self) -> String {
        match self {
            Condition::Ok => "ok".to_owned(),
            Condition::Stale => "stale".to_owned(),
            Condition::Down(reason) => format!("down: {reason}"),
        }
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica")
            .field("address", &self.address)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

fn places(rule: &config::Concurrency, in_flight: usize) -> Arc<Places> {
    let most = rule.limit.unwrap_or(in_flight);
    Places::new(most, rule.per_client, rule.adaptive.as_ref().map(|adaptive| Adaptive::new(adaptive, most)))
}

/// For callers, so without addresses and causes.
fn why_missing(healths: &[Arc<Health>]) -> String {
    let said = |health: &Arc<Health>| {
        let document = health.document.as_ref()?;
        let reason = document.reason.clone();
        match document.status {
            _ if health.unreachable.is_some() => Some("it cannot be reached".to_owned()),
            Status::Down => Some(reason.unwrap_or_else(|| "its server does not answer".to_owned())),
            Status::Draining => Some("it is shutting down".to_owned()),
            Status::Serving | Status::Degraded => {
                Some(reason.unwrap_or_else(|| "its catalog is not known yet".to_owned()))
            }
        }
    };
    let unreachable = healths.iter().any(|health| health.unreachable.is_some());
    let otherwise = if unreachable { "it cannot be reached" } else { "it has not answered yet" };
    healths.iter().find_map(said).unwrap_or_else(|| otherwise.to_owned())
}

/// The rank of a replica for a tag (rendezvous hashing): the same on every ingress that has the address spelled the same,
/// and when a replica goes only its own tags move. By address and not by id, because a sidecar that restarts has a new id,
/// and would draw sessions away from replicas that still hold them. FNV-1a, with a last mixing because neighbours differ in their last byte only.
fn rank(tag: &str, address: &str) -> u64 {
    let bytes = tag.bytes().chain([0]).chain(address.bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}

/// It is neither sent nor verified, but keeps the tickets of replicas apart.
fn tls_name(host: &str) -> ServerName<'static> {
    let any = IpAddr::from([0, 0, 0, 0]);
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => server_name(address),
        Err(_) => ServerName::try_from(host.to_owned()).unwrap_or_else(|_| server_name(any)),
    }
}
