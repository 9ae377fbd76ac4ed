//! The metric families: one description each, from which both the registry and docs/METRICS.md are made.

use prometheus::core::Collector;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

/// What kind of time series a family holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows; resets with the process, or when its service or capability goes away and comes back.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by bucket, with sum and count.
    Histogram,
}

/// The description of one family.
#[derive(Debug, Clone, Copy)]
pub struct MetricDoc {
    /// Full name, as scraped.
    pub name: &'static str,
    /// Kind of series.
    pub kind: MetricKind,
    /// Label names, in order.
    pub labels: &'static [&'static str],
    /// One sentence for the operator.
    pub help: &'static str,
}

/// Seconds. From a sidecar's own cost (well under a millisecond) to a long tool call.
pub(super) const DURATION_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

const fn doc(name: &'static str, kind: MetricKind, labels: &'static [&'static str], help: &'static str) -> MetricDoc {
    MetricDoc { name, kind, labels, help }
}

use MetricKind::{Counter, Gauge, Histogram};

const REQUESTS: MetricDoc = doc(
    "outrigger_requests_total",
    Counter,
    &["service", "method", "capability", "outcome"],
    "Requests that ended, by how they ended.",
);
const DURATION: MetricDoc = doc(
    "outrigger_request_duration_seconds",
    Histogram,
    &["service", "method", "outcome"],
    "Time from the request's head to the end of its reply.",
);
const IN_FLIGHT: MetricDoc = doc("outrigger_in_flight", Gauge, &["service"], "Requests that have not ended.");
const CONNECTIONS_OPEN: MetricDoc =
    doc("outrigger_connections_open", Gauge, &["listener"], "Connections open now, by listener.");
const CONNECTIONS: MetricDoc = doc(
    "outrigger_connections_total",
    Counter,
    &["listener", "outcome"],
    "Incoming connections, by what became of them.",
);
const HANDSHAKES: MetricDoc =
    doc("outrigger_handshakes_total", Counter, &["outcome"], "Incoming TLS handshakes, by how they ended.");
const CERTIFICATE_EXPIRY: MetricDoc = doc(
    "outrigger_certificate_expiry_timestamp_seconds",
    Gauge,
    &["name"],
    "When a certificate in use expires, in seconds since 1970.",
);
const REGISTRATIONS: MetricDoc = doc(
    "outrigger_registrations",
    Gauge,
    &[],
    "At an ingress: sidecars that are registered. At a sidecar: ingresses where it is.",
);
const CERTIFICATE_RENEWALS: MetricDoc = doc(
    "outrigger_certificate_renewals_total",
    Counter,
    &["outcome"],
    "Times that an authority was asked for a certificate, or an agent gave one, the first one included, by what came of it.",
);
const INJECTIONS: MetricDoc = doc(
    "outrigger_injections_total",
    Counter,
    &["outcome"],
    "Pods that an API server asked this injector about, by what became of them.",
);
const CERTIFICATES_ISSUED: MetricDoc = doc(
    "outrigger_certificates_issued_total",
    Counter,
    &["proof", "outcome"],
    "Requests for certificates that this authority answered, by what the workload showed.",
);
const CHILD_RESTARTS: MetricDoc = doc(
    "outrigger_child_restarts_total",
    Counter,
    &["service"],
    "Times that a stdio server was started again after it ended.",
);
const CHILD_UP: MetricDoc = doc("outrigger_child_up", Gauge, &["service"], "1 while the stdio server runs, else 0.");
const CATALOG_STATE: MetricDoc = doc(
    "outrigger_catalog_state",
    Gauge,
    &["service", "state"],
    "1 for the state that the service's catalog is in, else 0.",
);
const CATALOG_ITEMS: MetricDoc =
    doc("outrigger_catalog_items", Gauge, &["service", "kind"], "Items of the service's catalog, by kind.");
const APPROVALS: MetricDoc = doc(
    "outrigger_approvals_total",
    Counter,
    &["outcome"],
    "Calls that a person has to approve, by what became of them.",
);
const APPROVALS_WAITING: MetricDoc =
    doc("outrigger_approvals_waiting", Gauge, &[], "Calls that wait for a person now.");
const DEVIATING: MetricDoc = doc(
    "outrigger_definitions_deviating",
    Gauge,
    &["service", "verdict"],
    "Definitions of the service that are not as `outrigger.lock` has them.",
);
const SUSPICIOUS: MetricDoc = doc(
    "outrigger_definitions_suspicious",
    Gauge,
    &["service", "class"],
    "What the scan of the service's definitions found.",
);
const LIMITED: MetricDoc =
    doc("outrigger_limited_total", Counter, &["service", "limit"], "Requests refused because a limit was passed.");
const DENIED: MetricDoc =
    doc("outrigger_denied_total", Counter, &["service", "reason"], "Requests that policy refused.");
const WOULD_DENY: MetricDoc = doc(
    "outrigger_would_deny_total",
    Counter,
    &["service", "reason"],
    "Requests that policies in audit mode would have refused, and that went on.",
);
const RELOADS: MetricDoc =
    doc("outrigger_reloads_total", Counter, &["what", "outcome"], "Reloads of configuration, policy and certificates.");
const BAD_REQUESTS: MetricDoc = doc(
    "outrigger_bad_requests_total",
    Counter,
    &["reason"],
    "Requests that broke a rule of the protocol, before any service was chosen.",
);
const UPSTREAM_ERRORS: MetricDoc = doc(
    "outrigger_upstream_errors_total",
    Counter,
    &["service", "kind"],
    "Failures towards a service, by where they arose.",
);
const EJECTIONS: MetricDoc = doc(
    "outrigger_replica_ejections_total",
    Counter,
    &["service", "reason"],
    "Times that an ingress began to leave a replica alone because calls at it failed.",
);
const REPLICAS_OUT: MetricDoc = doc(
    "outrigger_replicas_out",
    Gauge,
    &["service"],
    "Replicas that an ingress leaves alone now because calls at them failed.",
);
const RETRIES: MetricDoc = doc(
    "outrigger_retries_total",
    Counter,
    &["service", "reason"],
    "Calls that an ingress sent to a service once more, by why it may; and those that the budget for that stopped.",
);
const CONCURRENCY_LIMIT: MetricDoc = doc(
    "outrigger_concurrency_limit",
    Gauge,
    &["service"],
    "Calls at work at once that an ingress lets a service have now.",
);
const QUOTA_STORE: MetricDoc = doc(
    "outrigger_quota_store_total",
    Counter,
    &["outcome"],
    "Times that an ingress asked the shared store of limits, by what came of it.",
);
const SESSIONS_OPEN: MetricDoc =
    doc("outrigger_sessions_open", Gauge, &["kind"], "Sessions of older revisions that are open.");
const TASKS: MetricDoc = doc(
    "outrigger_tasks",
    Gauge,
    &[],
    "Tasks that are alive: what a process works on and waits for. It follows connections, streams and services; what grows without them is never ended.",
);
const PARKED_CALLS: MetricDoc =
    doc("outrigger_parked_calls", Gauge, &[], "Calls that wait for their client to answer a question of the server.");
const LISTENS_OPEN: MetricDoc = doc(
    "outrigger_listens_open",
    Gauge,
    &["service"],
    "Listens that are open: at a sidecar those of its callers; at an ingress those that it opened at each service, and under `*` those of its clients.",
);
const LISTENS_FAILING: MetricDoc = doc(
    "outrigger_listens_failing",
    Gauge,
    &["service"],
    "Listens of an ingress at a service that are not open and are tried again.",
);
const LISTEN_FAILURES: MetricDoc = doc(
    "outrigger_listen_failures_total",
    Counter,
    &["service", "reason"],
    "Listens of an ingress at a service that did not begin, or not for long, by why.",
);
const EGRESS: MetricDoc = doc(
    "outrigger_egress_total",
    Counter,
    &["service", "tool", "host", "rule", "verdict"],
    "Outbound connections and requests of a server, by tool, destination, rule and what became of them.",
);
const EGRESS_BYTES: MetricDoc = doc(
    "outrigger_egress_bytes_total",
    Counter,
    &["service", "host", "direction"],
    "Bytes that went out and came back over outbound connections.",
);
const EGRESS_CONNECT: MetricDoc = doc(
    "outrigger_egress_connect_seconds",
    Histogram,
    &["service"],
    "Time to look up and connect to a destination of a server.",
);
const EGRESS_HANDSHAKE: MetricDoc = doc(
    "outrigger_egress_handshake_seconds",
    Histogram,
    &["service"],
    "Time for TLS with a destination, where the sidecar speaks it: requests that are inspected, and those to other services.",
);
const EGRESS_OPEN: MetricDoc =
    doc("outrigger_egress_open", Gauge, &["service"], "Outbound connections of a server that are open.");
const EGRESS_LOOKUPS: MetricDoc = doc(
    "outrigger_egress_lookups_total",
    Counter,
    &["service", "outcome"],
    "Names that were looked up, by what came of it.",
);
const EGRESS_DNS_LIMITED: MetricDoc = doc(
    "outrigger_egress_dns_limited_total",
    Counter,
    &["service", "limit"],
    "Look-ups that passed a limit, and what was refused, cut or forgotten for it.",
);
const EGRESS_DROPPED: MetricDoc = doc(
    "outrigger_egress_log_dropped_total",
    Counter,
    &[],
    "Lines of the egress log lost because the writer could not keep up.",
);
const AUDIT_DROPPED: MetricDoc =
    doc("outrigger_audit_dropped_total", Counter, &[], "Audit records lost because the writer could not keep up.");
const KEY_FETCHES: MetricDoc = doc(
    "outrigger_identity_provider_fetches_total",
    Counter,
    &["issuer", "outcome"],
    "Attempts to fetch the keys of an identity provider of the configuration.",
);
const INTROSPECTIONS: MetricDoc = doc(
    "outrigger_token_introspections_total",
    Counter,
    &["issuer", "outcome"],
    "Questions to an identity provider of the configuration whether an opaque token is good.",
);
const ASSERTIONS: MetricDoc = doc(
    "outrigger_user_assertions_total",
    Counter,
    &["outcome"],
    "Requests in which a caller says for whom it calls, by what became of that.",
);
const AUDIT_SEQUENCE: MetricDoc = doc(
    "outrigger_audit_sequence",
    Gauge,
    &[],
    "Number of the last line of a signed audit: a file that ends before it was cut off.",
);
const ACCESS_DROPPED: MetricDoc = doc(
    "outrigger_access_log_dropped_total",
    Counter,
    &[],
    "Access log records lost because the writer could not keep up.",
);
const BUILD_INFO: MetricDoc =
    doc("outrigger_build_info", Gauge, &["version", "role"], "Always 1; the labels say what runs.");

/// Every family, in the order of docs/METRICS.md.
pub fn describe() -> Vec<MetricDoc> {
    let mut all = vec![
        REQUESTS,
        DURATION,
        IN_FLIGHT,
        BAD_REQUESTS,
        DENIED,
        WOULD_DENY,
        LIMITED,
        UPSTREAM_ERRORS,
        EJECTIONS,
        REPLICAS_OUT,
        RETRIES,
        CONCURRENCY_LIMIT,
        QUOTA_STORE,
        CONNECTIONS_OPEN,
        CONNECTIONS,
        HANDSHAKES,
        CERTIFICATE_EXPIRY,
        REGISTRATIONS,
        CERTIFICATE_RENEWALS,
        CERTIFICATES_ISSUED,
        INJECTIONS,
        CATALOG_STATE,
        CATALOG_ITEMS,
        APPROVALS,
        APPROVALS_WAITING,
        DEVIATING,
        SUSPICIOUS,
        CHILD_UP,
        CHILD_RESTARTS,
        SESSIONS_OPEN,
        TASKS,
        PARKED_CALLS,
        LISTENS_OPEN,
        LISTENS_FAILING,
        LISTEN_FAILURES,
        EGRESS,
        EGRESS_BYTES,
        EGRESS_CONNECT,
        EGRESS_HANDSHAKE,
        EGRESS_OPEN,
        EGRESS_LOOKUPS,
        EGRESS_DNS_LIMITED,
        EGRESS_DROPPED,
        RELOADS,
        AUDIT_DROPPED,
        AUDIT_SEQUENCE,
        KEY_FETCHES,
        INTROSPECTIONS,
        ASSERTIONS,
        ACCESS_DROPPED,
        BUILD_INFO,
    ];
    all.extend(super::discovery::docs());
    all
}

/// The registered families. Private to this module's parent: callers get typed methods only.
pub(super) struct Families {
    pub(super) requests: IntCounterVec,
    pub(super) duration: HistogramVec,
    pub(super) in_flight: IntGaugeVec,
    pub(super) connections_open: IntGaugeVec,
    pub(super) connections: IntCounterVec,
    pub(super) handshakes: IntCounterVec,
    pub(super) certificate_expiry: IntGaugeVec,
    pub(super) registrations: IntGaugeVec,
    pub(super) certificate_renewals: IntCounterVec,
    pub(super) certificates_issued: IntCounterVec,
    pub(super) injections: IntCounterVec,
    pub(super) child_restarts: IntCounterVec,
    pub(super) child_up: IntGaugeVec,
    pub(super) catalog_state: IntGaugeVec,
    pub(super) catalog_items: IntGaugeVec,
    pub(super) approvals: IntCounterVec,
    pub(super) approvals_waiting: IntGaugeVec,
    pub(super) deviating: IntGaugeVec,
    pub(super) suspicious: IntGaugeVec,
    pub(super) limited: IntCounterVec,
    pub(super) denied: IntCounterVec,
    pub(super) would_deny: IntCounterVec,
    pub(super) reloads: IntCounterVec,
    pub(super) bad_requests: IntCounterVec,
    pub(super) upstream_errors: IntCounterVec,
    pub(super) ejections: IntCounterVec,
    pub(super) replicas_out: IntGaugeVec,
    pub(super) retries: IntCounterVec,
    pub(super) concurrency_limit: IntGaugeVec,
    pub(super) quota_store: IntCounterVec,
    pub(super) sessions_open: IntGaugeVec,
    pub(super) tasks: IntGaugeVec,
    pub(super) parked_calls: IntGaugeVec,
    pub(super) listens_open: IntGaugeVec,
    pub(super) listens_failing: IntGaugeVec,
    pub(super) listen_failures: IntCounterVec,
    pub(super) egress: IntCounterVec,
    pub(super) egress_bytes: IntCounterVec,
    pub(super) egress_connect: HistogramVec,
    pub(super) egress_handshake: HistogramVec,
    pub(super) egress_open: IntGaugeVec,
    pub(super) egress_lookups: IntCounterVec,
    pub(super) egress_dns_limited: IntCounterVec,
    pub(super) egress_dropped: IntCounterVec,
    pub(super) audit_dropped: IntCounterVec,
    pub(super) audit_sequence: IntGaugeVec,
    pub(super) key_fetches: IntCounterVec,
    pub(super) introspections: IntCounterVec,
    pub(super) assertions: IntCounterVec,
    pub(super) access_dropped: IntCounterVec,
    pub(super) build_info: IntGaugeVec,
}

impl Families {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let duration = HistogramOpts::new(DURATION.name, DURATION.help).buckets(DURATION_BUCKETS.to_vec());
        let connect = HistogramOpts::new(EGRESS_CONNECT.name, EGRESS_CONNECT.help).buckets(DURATION_BUCKETS.to_vec());
        let handshake =
            HistogramOpts::new(EGRESS_HANDSHAKE.name, EGRESS_HANDSHAKE.help).buckets(DURATION_BUCKETS.to_vec());
        Ok(Self {
            requests: counter(registry, &REQUESTS)?,
            duration: registered(registry, HistogramVec::new(duration, DURATION.labels)?)?,
            in_flight: gauge(registry, &IN_FLIGHT)?,
            connections_open: gauge(registry, &CONNECTIONS_OPEN)?,
            connections: counter(registry, &CONNECTIONS)?,
            handshakes: counter(registry, &HANDSHAKES)?,
            certificate_expiry: gauge(registry, &CERTIFICATE_EXPIRY)?,
            registrations: gauge(registry, &REGISTRATIONS)?,
            certificate_renewals: counter(registry, &CERTIFICATE_RENEWALS)?,
            certificates_issued: counter(registry, &CERTIFICATES_ISSUED)?,
            injections: counter(registry, &INJECTIONS)?,
            child_restarts: counter(registry, &CHILD_RESTARTS)?,
            child_up: gauge(registry, &CHILD_UP)?,
            catalog_state: gauge(registry, &CATALOG_STATE)?,
            catalog_items: gauge(registry, &CATALOG_ITEMS)?,
            approvals: counter(registry, &APPROVALS)?,
            approvals_waiting: gauge(registry, &APPROVALS_WAITING)?,
            deviating: gauge(registry, &DEVIATING)?,
            suspicious: gauge(registry, &SUSPICIOUS)?,
            limited: counter(registry, &LIMITED)?,
            denied: counter(registry, &DENIED)?,
            would_deny: counter(registry, &WOULD_DENY)?,
            reloads: counter(registry, &RELOADS)?,
            bad_requests: counter(registry, &BAD_REQUESTS)?,
            upstream_errors: counter(registry, &UPSTREAM_ERRORS)?,
            ejections: counter(registry, &EJECTIONS)?,
            replicas_out: gauge(registry, &REPLICAS_OUT)?,
            retries: counter(registry, &RETRIES)?,
            concurrency_limit: gauge(registry, &CONCURRENCY_LIMIT)?,
            quota_store: counter(registry, &QUOTA_STORE)?,
            sessions_open: gauge(registry, &SESSIONS_OPEN)?,
            tasks: gauge(registry, &TASKS)?,
            parked_calls: gauge(registry, &PARKED_CALLS)?,
            listens_open: gauge(registry, &LISTENS_OPEN)?,
            listens_failing: gauge(registry, &LISTENS_FAILING)?,
            listen_failures: counter(registry, &LISTEN_FAILURES)?,
            egress: counter(registry, &EGRESS)?,
            egress_bytes: counter(registry, &EGRESS_BYTES)?,
            egress_connect: registered(registry, HistogramVec::new(connect, EGRESS_CONNECT.labels)?)?,
            egress_handshake: registered(registry, HistogramVec::new(handshake, EGRESS_HANDSHAKE.labels)?)?,
            egress_open: gauge(registry, &EGRESS_OPEN)?,
            egress_lookups: counter(registry, &EGRESS_LOOKUPS)?,
            egress_dns_limited: counter(registry, &EGRESS_DNS_LIMITED)?,
            egress_dropped: counter(registry, &EGRESS_DROPPED)?,
            audit_dropped: counter(registry, &AUDIT_DROPPED)?,
            audit_sequence: gauge(registry, &AUDIT_SEQUENCE)?,
            key_fetches: counter(registry, &KEY_FETCHES)?,
            introspections: counter(registry, &INTROSPECTIONS)?,
            assertions: counter(registry, &ASSERTIONS)?,
            access_dropped: counter(registry, &ACCESS_DROPPED)?,
            build_info: gauge(registry, &BUILD_INFO)?,
        })
    }
}

fn counter(registry: &Registry, doc: &MetricDoc) -> Result<IntCounterVec, prometheus::Error> {
    registered(registry, IntCounterVec::new(Opts::new(doc.name, doc.help), doc.labels)?)
}

fn gauge(registry: &Registry, doc: &MetricDoc) -> Result<IntGaugeVec, prometheus::Error> {
    registered(registry, IntGaugeVec::new(Opts::new(doc.name, doc.help), doc.labels)?)
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, family: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}
