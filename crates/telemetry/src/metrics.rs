//! Metrics with closed labels, behind our own types: the Prometheus library does not show through.
//!
//! A label value is a variant of an enum in [`labels`], a service name from the configuration, or a capability name
//! that the catalog knows. Nothing that a caller sends becomes a label. Per-service handles live in
//! [`ServiceMetrics`]; resolve one when a snapshot is compiled, never per request.

mod discovery;
mod egress;
mod families;
pub mod labels;
mod service;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder};

pub use discovery::DiscoveryMetrics;
pub use egress::{EgressLabels, EgressMetrics};
use families::Families;
pub use families::{MetricDoc, MetricKind, describe};
pub use labels::{
    ApprovalOutcome, AssertionOutcome, BadRequestReason, CatalogState, ConnectionOutcome, DenyReason, Deviates,
    Direction, DiscoverySource, DnsLimit, EgressVerdict, Ejection, HandshakeOutcome, InjectionOutcome,
    IntrospectionOutcome, IssueOutcome, KeyFetchOutcome, LimitKind, ListenFailure, Listener, LookupOutcome, Outcome,
    ProofKind, QuotaOutcome, ReloadKind, ReloadOutcome, RenewalOutcome, Retry, Role, SessionKind, Suspicion,
    UpstreamErrorKind,
};
pub use service::{InFlight, MAX_CAPABILITIES, ServiceMetrics};

use crate::trail::SequenceGauge;

/// The content type of [`Metrics::encode`] (Prometheus text format 0.0.4).
pub const TEXT_FORMAT: &str = prometheus::TEXT_FORMAT;

/// The families cannot be registered or written out.
#[derive(Debug, thiserror::Error)]
#[error("metrics: {0}; this is a mistake in Outrigger, please report it")]
pub struct MetricsError(#[from] prometheus::Error);

/// All metrics of a process. Shared as `Arc<Metrics>`.
pub struct Metrics {
    registry: Registry,
    families: Arc<Families>,
    /// Taken when a snapshot is compiled, not per request.
    services: Mutex<HashMap<Arc<str>, Arc<ServiceMetrics>>>,
    connections_open: Vec<IntGauge>,
    handshakes: Vec<IntCounter>,
    bad_requests: Vec<IntCounter>,
    sessions_open: Vec<IntGauge>,
    parked_calls: IntGauge,
    audit_dropped: IntCounter,
    access_dropped: IntCounter,
}

/// Something that is open and counted; dropping it counts it out.
#[derive(Debug)]
pub struct OpenGuard(IntGauge);

/// Counts fetches of the keys of one identity provider.
#[derive(Debug, Clone)]
pub struct KeyFetches(Vec<IntCounter>);

/// Counts what ingresses say of their users.
#[derive(Debug, Clone)]
pub struct AssertionCounter(Vec<IntCounter>);

/// Counts questions to one identity provider about tokens.
#[derive(Debug, Clone)]
pub struct Introspections(Vec<IntCounter>);

/// Counts records that a log lost.
#[derive(Debug, Clone)]
pub struct DropCounter(IntCounter);

impl Metrics {
    /// Registers every family. Closed sets without a service start at 0, so that a rate over them is right from
    /// the first event.
    pub fn new(role: Role) -> Result<Arc<Self>, MetricsError> {
        let registry = Registry::new();
        let families = Families::register(&registry)?;
        families.build_info.with_label_values(&[env!("CARGO_PKG_VERSION"), role.as_str()]).set(1);
        for kind in ReloadKind::ALL {
            for outcome in ReloadOutcome::ALL {
                families.reloads.with_label_values(&[kind.as_str(), outcome.as_str()]);
            }
        }
        let counter = |family: &IntCounterVec, label: &str| family.with_label_values(&[label]);
        let gauge = |family: &IntGaugeVec, label: &str| family.with_label_values(&[label]);
        Ok(Arc::new(Self {
            connections_open: Listener::ALL.iter().map(|l| gauge(&families.connections_open, l.as_str())).collect(),
            handshakes: HandshakeOutcome::ALL.iter().map(|o| counter(&families.handshakes, o.as_str())).collect(),
            bad_requests: BadRequestReason::ALL.iter().map(|r| counter(&families.bad_requests, r.as_str())).collect(),
            sessions_open: SessionKind::ALL.iter().map(|k| gauge(&families.sessions_open, k.as_str())).collect(),
            parked_calls: families.parked_calls.with_label_values::<&str>(&[]),
            audit_dropped: families.audit_dropped.with_label_values::<&str>(&[]),
            access_dropped: families.access_dropped.with_label_values::<&str>(&[]),
            services: Mutex::default(),
            families: Arc::new(families),
            registry,
        }))
    }

    /// Everything in Prometheus text format; see [`TEXT_FORMAT`].
    pub fn encode(&self) -> Result<Vec<u8>, MetricsError> {
        let mut text = String::new();
        TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text)?;
        Ok(text.into_bytes())
    }

    /// The metrics of a service of the configuration, made on first use. Takes a lock: call it when a snapshot is
    /// compiled and keep the handle.
    pub fn service(&self, name: &str) -> Arc<ServiceMetrics> {
        let mut services = self.lock_services();
        if let Some(known) = services.get(name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = Arc::from(name);
        let made = Arc::new(ServiceMetrics::new(Arc::clone(&name), Arc::clone(&self.families)));
        services.insert(name, Arc::clone(&made));
        made
    }

    /// Removes a service that left the configuration, with all its series.
    pub fn remove_service(&self, name: &str) {
        // Under the lock: a service of the same name made meanwhile must not lose its new series.
        let mut services = self.lock_services();
        if let Some(service) = services.remove(name) {
            service.remove();
        }
    }

    /// Counts an accepted connection, and that it is open until the guard is dropped.
    pub fn connection_accepted(&self, listener: Listener) -> OpenGuard {
        self.connection(listener, ConnectionOutcome::Accepted);
        OpenGuard::new(&self.connections_open[listener as usize])
    }

    /// Counts a connection that was refused or broke.
    pub fn connection(&self, listener: Listener, outcome: ConnectionOutcome) {
        self.families.connections.with_label_values(&[listener.as_str(), outcome.as_str()]).inc();
    }

    /// Counts the end of a TLS handshake.
    pub fn handshake(&self, outcome: HandshakeOutcome) {
        self.handshakes[outcome as usize].inc();
    }

    /// Counts a request that broke a rule of the protocol.
    pub fn bad_request(&self, reason: BadRequestReason) {
        self.bad_requests[reason as usize].inc();
    }

    /// Counts a reload.
    pub fn reload(&self, what: ReloadKind, outcome: ReloadOutcome) {
        self.families.reloads.with_label_values(&[what.as_str(), outcome.as_str()]).inc();
    }

    /// Counts an open session until the guard is dropped.
    pub fn session_opened(&self, kind: SessionKind) -> OpenGuard {
        OpenGuard::new(&self.sessions_open[kind as usize])
    }

    /// Says how many tasks are alive.
    pub fn set_tasks(&self, count: usize) {
        let gauge = self.families.tasks.with_label_values::<&str>(&[]);
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a parked call until the guard is dropped.
    pub fn call_parked(&self) -> OpenGuard {
        OpenGuard::new(&self.parked_calls)
    }

    /// Counts what became of a call that a person has to approve.
    pub fn approval(&self, outcome: ApprovalOutcome) {
        self.families.approvals.with_label_values(&[outcome.as_str()]).inc();
    }

    /// Says how many calls wait for a person.
    pub fn set_approvals_waiting(&self, count: usize) {
        let gauge = self.families.approvals_waiting.with_label_values::<&str>(&[]);
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Says when a certificate in use expires. `name` is the use (`workload`, `public`), not its subject.
    pub fn certificate_expiry(&self, name: &'static str, expires: SystemTime) {
        let seconds = expires.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let gauge = self.families.certificate_expiry.with_label_values(&[name]);
        gauge.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// How many registrations there are, by one side.
    pub fn registrations(&self, count: usize) {
        self.families.registrations.with_label_values(&[] as &[&str]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts what came of asking the authority for a certificate.
    pub fn certificate_renewal(&self, outcome: RenewalOutcome) {
        self.families.certificate_renewals.with_label_values(&[outcome.as_str()]).inc();
    }

    /// Counts what the authority answered. Called once in a while, so the labels are looked up each time.
    pub fn certificate_issued(&self, proof: ProofKind, outcome: IssueOutcome) {
        self.families.certificates_issued.with_label_values(&[proof.as_str(), outcome.as_str()]).inc();
    }

    /// Counts what became of a pod that an injector was asked about.
    pub fn injection(&self, outcome: InjectionOutcome) {
        self.families.injections.with_label_values(&[outcome.as_str()]).inc();
    }

    /// For [`crate::AuditLog`].
    pub fn audit_dropped(&self) -> DropCounter {
        DropCounter(self.audit_dropped.clone())
    }

    /// Counts fetches of the keys of an identity provider.
    pub fn key_fetches(&self, issuer: &str) -> KeyFetches {
        let counter =
            |outcome: &KeyFetchOutcome| self.families.key_fetches.with_label_values(&[issuer, outcome.as_str()]);
        KeyFetches(KeyFetchOutcome::ALL.iter().map(counter).collect())
    }

    /// Counts what ingresses say of their users.
    pub fn assertions(&self) -> AssertionCounter {
        let counter = |outcome: &AssertionOutcome| self.families.assertions.with_label_values(&[outcome.as_str()]);
        AssertionCounter(AssertionOutcome::ALL.iter().map(counter).collect())
    }

    /// Counts questions to an identity provider about tokens.
    pub fn introspections(&self, issuer: &str) -> Introspections {
        let counter = |outcome: &IntrospectionOutcome| {
            self.families.introspections.with_label_values(&[issuer, outcome.as_str()])
        };
        Introspections(IntrospectionOutcome::ALL.iter().map(counter).collect())
    }

    /// Counts a question to the shared store of limits.
    pub fn quota_store(&self, outcome: QuotaOutcome) {
        self.families.quota_store.with_label_values(&[outcome.as_str()]).inc();
    }

    /// For the trail of [`crate::AuditLog`].
    pub fn audit_sequence(&self) -> SequenceGauge {
        SequenceGauge(self.families.audit_sequence.with_label_values::<&str>(&[]))
    }

    /// For [`crate::AccessLog`].
    pub fn access_dropped(&self) -> DropCounter {
        DropCounter(self.access_dropped.clone())
    }

    /// For [`crate::EgressLog`].
    pub fn egress_dropped(&self) -> DropCounter {
        DropCounter(self.families.egress_dropped.with_label_values::<&str>(&[]))
    }

    /// The metrics of what a service dials out.
    pub fn egress(&self, service: &str) -> EgressMetrics {
        EgressMetrics::new(service.into(), Arc::clone(&self.families))
    }

    fn lock_services(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<ServiceMetrics>>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl OpenGuard {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl KeyFetches {
    /// Counts one.
    pub fn record(&self, outcome: KeyFetchOutcome) {
        self.0[outcome as usize].inc();
    }
}

impl AssertionCounter {
    /// Counts one.
    pub fn record(&self, outcome: AssertionOutcome) {
        self.0[outcome as usize].inc();
    }
}

impl Introspections {
    /// Counts one.
    pub fn record(&self, outcome: IntrospectionOutcome) {
        self.0[outcome as usize].inc();
    }
}

impl DropCounter {
    /// Counts lost records.
    pub fn add(&self, records: u64) {
        self.0.inc_by(records);
    }
}

#[cfg(test)]
mod tests;
