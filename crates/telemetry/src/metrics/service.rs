//! The metrics of one service: every handle is resolved once, and all of them go when the service goes.
//!
//! `record` is on the path of every request. It reads one swapped pointer and one hash table, then touches atomics.
//! The mutex below is taken only when a series is made for the first time or removed.

use std::array;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use outrigger_mcp::catalog_kind::Kind;
use outrigger_mcp::method::Method;
use prometheus::{Histogram, IntCounter, IntGauge, IntGaugeVec};

use super::OpenGuard;
use super::families::Families;
use super::labels::{
    CatalogState, DenyReason, Deviates, Ejection, LimitKind, ListenFailure, Outcome, Retry, Suspicion,
    UpstreamErrorKind,
};

/// Most names of one service that get a `capability` label; the rest share `other`.
pub const MAX_CAPABILITIES: usize = 500;
/// The `capability` of a name that the catalog does not know, or that is beyond [`MAX_CAPABILITIES`].
const OTHER: &str = "other";

const METHODS: usize = Method::ALL.len();
const OUTCOMES: usize = Outcome::ALL.len();

type Slots<T, const N: usize> = [OnceLock<T>; N];

/// The metrics of one service. Made by [`super::Metrics::service`]; hold it in the routing snapshot.
pub struct ServiceMetrics {
    name: Arc<str>,
    families: Arc<Families>,
    /// By the name that the catalog knows. Replaced whole by `set_capabilities`.
    rows: ArcSwap<HashMap<Arc<str>, Arc<Row>>>,
    /// Requests without a target: `capability` is empty.
    untargeted: Row,
    other: Row,
    durations: [OnceLock<Box<Slots<Histogram, OUTCOMES>>>; METHODS],
    in_flight: IntGauge,
    listens_open: IntGauge,
    /// An ingress's alone.
    listens_failing: OnceLock<IntGauge>,
    listen_failures: Slots<IntCounter, { ListenFailure::ALL.len() }>,
    limited: Slots<IntCounter, { LimitKind::ALL.len() }>,
    denied: Slots<IntCounter, { DenyReason::ALL.len() }>,
    would_deny: Slots<IntCounter, { DenyReason::ALL.len() }>,
    upstream_errors: Slots<IntCounter, { UpstreamErrorKind::ALL.len() }>,
    /// An ingress's alone.
    ejections: Slots<IntCounter, { Ejection::ALL.len() }>,
    replicas_out: OnceLock<IntGauge>,
    retries: Slots<IntCounter, { Retry::ALL.len() }>,
    concurrency_limit: OnceLock<IntGauge>,
    child_restarts: OnceLock<IntCounter>,
    child_up: OnceLock<IntGauge>,
    /// Serialises making and removing series; true once the service is gone. A late request must not bring back
    /// a series that nobody would remove again.
    gone: Mutex<bool>,
}

/// The counters of one capability, one box per method that was ever used with it.
struct Row {
    capability: Arc<str>,
    methods: [OnceLock<Box<Slots<IntCounter, OUTCOMES>>>; METHODS],
    /// Written under `gone`; the name left the catalog.
    retired: AtomicBool,
}

/// One request that has not ended; dropping it counts it out.
#[derive(Debug)]
pub struct InFlight(IntGauge);

impl ServiceMetrics {
    pub(super) fn new(name: Arc<str>, families: Arc<Families>) -> Self {
        Self {
            in_flight: families.in_flight.with_label_values(&[&name]),
            listens_open: families.listens_open.with_label_values(&[&name]),
            listens_failing: OnceLock::new(),
            listen_failures: array::from_fn(|_| OnceLock::new()),
            rows: ArcSwap::default(),
            untargeted: Row::new(Arc::from("")),
            other: Row::new(Arc::from(OTHER)),
            durations: array::from_fn(|_| OnceLock::new()),
            limited: array::from_fn(|_| OnceLock::new()),
            denied: array::from_fn(|_| OnceLock::new()),
            would_deny: array::from_fn(|_| OnceLock::new()),
            upstream_errors: array::from_fn(|_| OnceLock::new()),
            ejections: array::from_fn(|_| OnceLock::new()),
            replicas_out: OnceLock::new(),
            retries: array::from_fn(|_| OnceLock::new()),
            concurrency_limit: OnceLock::new(),
            child_restarts: OnceLock::new(),
            child_up: OnceLock::new(),
            gone: Mutex::new(false),
            name,
            families,
        }
    }

    /// The `service` label.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Counts a request in until the guard is dropped.
    pub fn enter(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// Requests that have not ended.
    pub fn in_flight(&self) -> u64 {
        u64::try_from(self.in_flight.get()).unwrap_or(0)
    }

    /// Records the end of a request. `capability` is the name without the service's prefix, as the catalog has
    /// it; a name that the catalog does not know is counted as `other`.
    pub fn record(&self, method: Method, capability: Option<&str>, outcome: Outcome, elapsed: Duration) {
        let rows = self.rows.load();
        let row = match capability {
            None => &self.untargeted,
            Some(name) => rows.get(name).map_or(&self.other, Arc::as_ref),
        };
        self.count_request(row, method, outcome);
        self.observe(method, outcome, elapsed);
    }

    fn count_request(&self, row: &Row, method: Method, outcome: Outcome) {
        let counters = slots(&row.methods[method as usize]);
        let labels = [&*self.name, method.as_str(), &row.capability, outcome.as_str()];
        let counter = self.resolve(&counters[outcome as usize], || {
            (!row.retired.load(Ordering::Relaxed)).then(|| self.families.requests.with_label_values(&labels))
        });
        if let Some(counter) = counter {
            counter.inc();
        }
    }

    fn observe(&self, method: Method, outcome: Outcome, elapsed: Duration) {
        let histograms = slots(&self.durations[method as usize]);
        let labels = [&*self.name, method.as_str(), outcome.as_str()];
        let histogram =
            self.resolve(&histograms[outcome as usize], || Some(self.families.duration.with_label_values(&labels)));
        if let Some(histogram) = histogram {
            histogram.observe(elapsed.as_secs_f64());
        }
    }

    /// Takes the names that the catalog knows now (tools, prompts, resources). Names that stay keep their series;
    /// names that left lose them. Beyond [`MAX_CAPABILITIES`], names that were counted before have precedence.
    pub fn set_capabilities<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let gone = self.lock();
        if *gone {
            return;
        }
        let old = self.rows.load_full();
        let mut rows = HashMap::new();
        let mut fresh = Vec::new();
        // A tool called `other` shares that row, or retiring it would take the row's series away.
        for name in names.into_iter().filter(|name| !name.is_empty() && *name != OTHER) {
            match old.get_key_value(name) {
                Some((key, row)) => drop(rows.insert(Arc::clone(key), Arc::clone(row))),
                None if fresh.len() < MAX_CAPABILITIES => fresh.push(name),
                None => {}
            }
        }
        for name in fresh {
            if rows.len() >= MAX_CAPABILITIES {
                break;
            }
            let key: Arc<str> = Arc::from(name);
            rows.entry(Arc::clone(&key)).or_insert_with(|| Arc::new(Row::new(key)));
        }
        let left: Vec<_> = old.iter().filter(|(name, _)| !rows.contains_key(*name)).collect();
        self.rows.store(Arc::new(rows));
        for (_, row) in left {
            self.retire(row);
        }
    }

    /// Says how old the catalog is.
    pub fn set_catalog_state(&self, state: CatalogState) {
        let gone = self.lock();
        if *gone {
            return;
        }
        for each in CatalogState::ALL {
            let gauge = self.families.catalog_state.with_label_values(&[&*self.name, each.as_str()]);
            gauge.set(i64::from(*each == state));
        }
    }

    /// Says how many items of a kind the catalog has.
    pub fn set_catalog_items(&self, kind: Kind, count: usize) {
        self.set(&self.families.catalog_items, kind.as_str(), count);
    }

    /// Says how many definitions are not as they were approved.
    pub fn set_deviating(&self, how: Deviates, count: usize) {
        self.set(&self.families.deviating, how.as_str(), count);
    }

    /// Says how much is suspicious about the definitions.
    pub fn set_suspicious(&self, what: Suspicion, count: usize) {
        self.set(&self.families.suspicious, what.as_str(), count);
    }

    fn set(&self, family: &IntGaugeVec, label: &str, count: usize) {
        let gone = self.lock();
        if !*gone {
            family.with_label_values(&[&*self.name, label]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Counts a request that a limit refused.
    pub fn limited(&self, limit: LimitKind) {
        self.count(&self.limited[limit as usize], || {
            self.families.limited.with_label_values(&[&*self.name, limit.as_str()])
        });
    }

    /// Counts a request that policy refused.
    pub fn denied(&self, reason: DenyReason) {
        self.count(&self.denied[reason as usize], || {
            self.families.denied.with_label_values(&[&*self.name, reason.as_str()])
        });
    }

    /// Counts a request that went on although policies in audit mode would have refused it.
    pub fn would_deny(&self, reason: DenyReason) {
        self.count(&self.would_deny[reason as usize], || {
            self.families.would_deny.with_label_values(&[&*self.name, reason.as_str()])
        });
    }

    /// Counts a failure towards the service.
    pub fn upstream_error(&self, kind: UpstreamErrorKind) {
        self.count(&self.upstream_errors[kind as usize], || {
            self.families.upstream_errors.with_label_values(&[&*self.name, kind.as_str()])
        });
    }

    /// Counts an open listen until the guard is dropped.
    pub fn listen_opened(&self) -> OpenGuard {
        OpenGuard::new(&self.listens_open)
    }

    /// Listens that are open.
    pub fn listens_open(&self) -> u64 {
        u64::try_from(self.listens_open.get()).unwrap_or(0)
    }

    /// Counts a listen of ours that is not open until the guard is dropped. `None` once the service is gone.
    pub fn listen_failing(&self) -> Option<OpenGuard> {
        let make = || Some(self.families.listens_failing.with_label_values(&[&*self.name]));
        self.resolve(&self.listens_failing, make).map(OpenGuard::new)
    }

    /// Listens of ours that are not open.
    pub fn listens_failing(&self) -> u64 {
        self.listens_failing.get().and_then(|gauge| u64::try_from(gauge.get()).ok()).unwrap_or(0)
    }

    /// Counts a listen of ours that did not begin, or not for long.
    pub fn listen_failed(&self, why: ListenFailure) {
        self.count(&self.listen_failures[why as usize], || {
            self.families.listen_failures.with_label_values(&[&*self.name, why.as_str()])
        });
    }

    /// Counts that a replica is left alone from now on.
    pub fn ejected(&self, why: Ejection) {
        self.count(&self.ejections[why as usize], || {
            self.families.ejections.with_label_values(&[&*self.name, why.as_str()])
        });
    }

    /// Says how many replicas are left alone.
    pub fn set_replicas_out(&self, count: usize) {
        let make = || Some(self.families.replicas_out.with_label_values(&[&*self.name]));
        if let Some(gauge) = self.resolve(&self.replicas_out, make) {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Counts a call that is sent once more, or is not.
    pub fn retried(&self, why: Retry) {
        self.count(&self.retries[why as usize], || {
            self.families.retries.with_label_values(&[&*self.name, why.as_str()])
        });
    }

    /// Says how many calls may be at work at once.
    pub fn set_concurrency_limit(&self, limit: usize) {
        let make = || Some(self.families.concurrency_limit.with_label_values(&[&*self.name]));
        if let Some(gauge) = self.resolve(&self.concurrency_limit, make) {
            gauge.set(i64::try_from(limit).unwrap_or(i64::MAX));
        }
    }

    /// Counts a restart of the stdio server.
    pub fn child_restarted(&self) {
        self.count(&self.child_restarts, || self.families.child_restarts.with_label_values(&[&*self.name]));
    }

    /// Says whether the stdio server runs.
    pub fn set_child_up(&self, up: bool) {
        let make = || Some(self.families.child_up.with_label_values(&[&*self.name]));
        if let Some(gauge) = self.resolve(&self.child_up, make) {
            gauge.set(i64::from(up));
        }
    }

    /// Removes every series of the service. Requests that end later are not counted any more.
    pub(super) fn remove(&self) {
        let mut gone = self.lock();
        *gone = true;
        let rows = self.rows.swap(Arc::default());
        rows.values().map(Arc::as_ref).chain([&self.untargeted, &self.other]).for_each(|row| self.retire(row));
        // Removing a series that was never made is an error by design of the library, and no loss here.
        let (families, name) = (&self.families, &*self.name);
        for method in Method::ALL {
            for outcome in Outcome::ALL {
                let _ = families.duration.remove_label_values(&[name, method.as_str(), outcome.as_str()]);
            }
        }
        for limit in LimitKind::ALL {
            let _ = families.limited.remove_label_values(&[name, limit.as_str()]);
        }
        for reason in DenyReason::ALL {
            let _ = families.denied.remove_label_values(&[name, reason.as_str()]);
            let _ = families.would_deny.remove_label_values(&[name, reason.as_str()]);
        }
        for kind in UpstreamErrorKind::ALL {
            let _ = families.upstream_errors.remove_label_values(&[name, kind.as_str()]);
        }
        for why in ListenFailure::ALL {
            let _ = families.listen_failures.remove_label_values(&[name, why.as_str()]);
        }
        for state in CatalogState::ALL {
            let _ = families.catalog_state.remove_label_values(&[name, state.as_str()]);
        }
        for kind in Kind::ALL {
            let _ = families.catalog_items.remove_label_values(&[name, kind.as_str()]);
        }
        for why in Ejection::ALL {
            let _ = families.ejections.remove_label_values(&[name, why.as_str()]);
        }
        let _ = families.replicas_out.remove_label_values(&[name]);
        for how in Deviates::ALL {
            let _ = families.deviating.remove_label_values(&[name, how.as_str()]);
        }
        for what in Suspicion::ALL {
            let _ = families.suspicious.remove_label_values(&[name, what.as_str()]);
        }
        for why in Retry::ALL {
            let _ = families.retries.remove_label_values(&[name, why.as_str()]);
        }
        let _ = families.concurrency_limit.remove_label_values(&[name]);
        let _ = families.child_restarts.remove_label_values(&[name]);
        let _ = families.child_up.remove_label_values(&[name]);
        let _ = families.in_flight.remove_label_values(&[name]);
        let _ = families.listens_open.remove_label_values(&[name]);
        let _ = families.listens_failing.remove_label_values(&[name]);
    }

    /// Removes the series of a row. The caller holds the lock.
    fn retire(&self, row: &Row) {
        row.retired.store(true, Ordering::Relaxed);
        for method in Method::ALL {
            let Some(counters) = row.methods[*method as usize].get() else { continue };
            for outcome in Outcome::ALL.iter().filter(|o| counters[**o as usize].get().is_some()) {
                let labels = [&*self.name, method.as_str(), &row.capability, outcome.as_str()];
                let _ = self.families.requests.remove_label_values(&labels);
            }
        }
    }

    fn count(&self, slot: &OnceLock<IntCounter>, make: impl FnOnce() -> IntCounter) {
        if let Some(counter) = self.resolve(slot, || Some(make())) {
            counter.inc();
        }
    }

    /// The handle in `slot`, made on first use. `None` once the service is gone.
    fn resolve<'a, T>(&self, slot: &'a OnceLock<T>, make: impl FnOnce() -> Option<T>) -> Option<&'a T> {
        if let Some(handle) = slot.get() {
            return Some(handle);
        }
        let gone = self.lock();
        if !*gone && slot.get().is_none() {
            // Only this thread can set it: the lock is held.
            let _ = slot.set(make()?);
        }
        slot.get()
    }

    /// A thread that panicked while holding the lock left nothing half-done that matters here.
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for ServiceMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceMetrics").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Row {
    fn new(capability: Arc<str>) -> Self {
        Self { capability, methods: array::from_fn(|_| OnceLock::new()), retired: AtomicBool::new(false) }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn slots<T>(slot: &OnceLock<Box<Slots<T, OUTCOMES>>>) -> &Slots<T, OUTCOMES> {
    slot.get_or_init(|| Box::new(array::from_fn(|_| OnceLock::new())))
}

#[cfg(test)]
mod tests;
