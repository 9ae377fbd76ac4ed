//! Every family is described, every description is registered, and docs/METRICS.md is what the code says.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use outrigger_mcp::catalog_kind::Kind;
use outrigger_mcp::method::Method;

use super::*;

/// Metrics in which every family has a sample.
fn touched() -> Arc<Metrics> {
    let metrics = Metrics::new(Role::Sidecar).unwrap();
    let egress = metrics.egress("fs");
    egress.record(&EgressLabels { tools: &[], host: None, rule: "" }, EgressVerdict::Allowed, 1, 1);
    egress.connected(Duration::from_millis(1));
    egress.shook_hands(Duration::from_millis(1));
    drop(egress.open());
    egress.lookup(LookupOutcome::Found);
    egress.dns_limited(DnsLimit::Busy);
    metrics.egress_dropped();
    metrics.approval(ApprovalOutcome::Asked);
    metrics.set_approvals_waiting(0);
    metrics.set_tasks(1);
    metrics.registrations(0);
    metrics.audit_sequence();
    metrics.key_fetches("https://id.example.com");
    metrics.introspections("https://id.example.com");
    metrics.assertions();
    let fs = metrics.service("fs");
    fs.record(Method::Ping, None, Outcome::Ok, Duration::from_millis(1));
    fs.limited(LimitKind::Queue);
    fs.denied(DenyReason::NoRule);
    fs.would_deny(DenyReason::NoRule);
    fs.upstream_error(UpstreamErrorKind::Reset);
    fs.listen_failed(ListenFailure::Limited);
    drop(fs.listen_failing());
    fs.set_catalog_state(CatalogState::Fresh);
    fs.set_catalog_items(Kind::Tool, 1);
    fs.retried(Retry::Unsent);
    fs.set_concurrency_limit(1);
    metrics.quota_store(QuotaOutcome::Ok);
    fs.ejected(Ejection::Failures);
    fs.set_replicas_out(0);
    fs.set_deviating(Deviates::New, 0);
    fs.set_suspicious(Suspicion::LookAlike, 0);
    fs.set_child_up(false);
    fs.child_restarted();
    metrics.connection(Listener::Mesh, ConnectionOutcome::Limited);
    metrics.certificate_expiry("workload", UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    metrics.certificate_renewal(RenewalOutcome::Renewed);
    let looked_up = metrics.discovery(DiscoverySource::ALL).unwrap();
    looked_up.iter().for_each(DiscoveryMetrics::contact);
    metrics.certificate_issued(ProofKind::Token, IssueOutcome::Issued);
    metrics.injection(InjectionOutcome::Injected);
    metrics
}

fn text(metrics: &Metrics) -> String {
    String::from_utf8(metrics.encode().unwrap()).unwrap()
}

#[test]
fn what_is_scraped_is_what_is_described() {
    let text = text(&touched());
    let scraped: BTreeSet<_> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(str::to_owned).collect();
    let described: BTreeSet<_> = describe().iter().map(|doc| format!("{} {}", doc.name, kind_word(doc.kind))).collect();
    assert_eq!(scraped, described);
}

#[test]
fn closed_sets_start_at_zero() {
    let text = text(&Metrics::new(Role::Ingress).unwrap());
    for line in [
        r#"outrigger_handshakes_total{outcome="wrong_identity"} 0"#,
        r#"outrigger_bad_requests_total{reason="batch"} 0"#,
        r#"outrigger_reloads_total{outcome="failed",what="policy"} 0"#,
        r#"outrigger_connections_open{listener="public"} 0"#,
        "outrigger_audit_dropped_total 0",
    ] {
        assert!(text.lines().any(|each| each == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn counts_reach_their_own_label() {
    let metrics = touched();
    metrics.handshake(HandshakeOutcome::Expired);
    metrics.bad_request(BadRequestReason::Batch);
    metrics.reload(ReloadKind::Policy, ReloadOutcome::Failed);
    metrics.audit_dropped().add(3);
    let session = metrics.session_opened(SessionKind::Client);
    let connection = metrics.connection_accepted(Listener::Public);
    let listen = (metrics.service("fs").listen_opened(), metrics.service("fs").listen_failing());
    let during = text(&metrics);
    for line in [
        r#"outrigger_handshakes_total{outcome="expired"} 1"#,
        r#"outrigger_bad_requests_total{reason="batch"} 1"#,
        r#"outrigger_reloads_total{outcome="failed",what="policy"} 1"#,
        "outrigger_audit_dropped_total 3",
        r#"outrigger_sessions_open{kind="client"} 1"#,
        r#"outrigger_connections_open{listener="public"} 1"#,
        r#"outrigger_listens_open{service="fs"} 1"#,
        r#"outrigger_listens_failing{service="fs"} 1"#,
        r#"outrigger_listen_failures_total{reason="limited",service="fs"} 1"#,
        r#"outrigger_connections_total{listener="public",outcome="accepted"} 1"#,
        r#"outrigger_certificate_expiry_timestamp_seconds{name="workload"} 1800000000"#,
    ] {
        assert!(during.lines().any(|each| each == line), "{line} is missing in\n{during}");
    }
    drop((session, connection, listen));
    let after = text(&metrics);
    assert!(after.contains("outrigger_listens_open{service=\"fs\"} 0"));
    assert!(after.contains("outrigger_listens_failing{service=\"fs\"} 0"));
    assert!(after.contains("outrigger_sessions_open{kind=\"client\"} 0"));
    assert!(after.contains("outrigger_connections_open{listener=\"public\"} 0"));
}

#[test]
fn one_name_is_one_service() {
    let metrics = Metrics::new(Role::Ingress).unwrap();
    assert!(Arc::ptr_eq(&metrics.service("fs"), &metrics.service("fs")));
    metrics.remove_service("never-made");
}

#[test]
fn the_page_of_metrics_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/METRICS.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        std::fs::write(path, &page).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(found, page, "docs/METRICS.md is stale: run the tests once with UPDATE_DOCS=1");
}

fn kind_word(kind: MetricKind) -> &'static str {
    match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram => "histogram",
    }
}

fn page() -> String {
    let mut out = String::from(
        "# Metrics\n\n\
         <!-- Generated from crates/telemetry/src/metrics by its tests (UPDATE_DOCS=1); do not edit. -->\n\n\
         `/metrics` on the admin port of the sidecar (15020) and of the ingress (9090), in Prometheus text format.\n\
         Labels are closed: nothing that a caller sends becomes a label value.\n\n\
         | metric | kind | labels | meaning |\n|---|---|---|---|\n",
    );
    for doc in describe() {
        let labels: Vec<_> = doc.labels.iter().map(|label| format!("`{label}`")).collect();
        let kind = kind_word(doc.kind);
        writeln!(out, "| `{}` | {kind} | {} | {} |", doc.name, labels.join(" "), doc.help).unwrap();
    }
    out.push_str("\n## Label values\n\n| label | of | values |\n|---|---|---|\n");
    for (label, of, values) in label_values() {
        writeln!(out, "| `{label}` | {of} | {values} |").unwrap();
    }
    out
}

/// Label, where it is used, and what it may be.
fn label_values() -> Vec<(&'static str, &'static str, String)> {
    fn words<T: Copy>(all: &[T], word: fn(T) -> &'static str) -> String {
        all.iter().map(|value| format!("`{}`", word(*value))).collect::<Vec<_>>().join(" ")
    }
    let names = format!(
        "names that the service's catalog knows, at most {MAX_CAPABILITIES} per service, else `other`; \
         empty for requests that name nothing"
    );
    vec![
        ("service", "all", "names from the configuration".to_owned()),
        ("capability", "requests", names),
        ("method", "requests", words(Method::ALL, Method::as_str)),
        ("outcome", "requests", words(Outcome::ALL, Outcome::as_str)),
        ("reason", "bad requests", words(BadRequestReason::ALL, BadRequestReason::as_str)),
        ("reason", "denied, would deny", words(DenyReason::ALL, DenyReason::as_str)),
        ("limit", "limited", words(LimitKind::ALL, LimitKind::as_str)),
        ("reason", "retries", words(Retry::ALL, Retry::as_str)),
        ("outcome", "quota store", words(QuotaOutcome::ALL, QuotaOutcome::as_str)),
        ("reason", "replica ejections", words(Ejection::ALL, Ejection::as_str)),
        ("reason", "listen failures", words(ListenFailure::ALL, ListenFailure::as_str)),
        ("kind", "upstream errors", words(UpstreamErrorKind::ALL, UpstreamErrorKind::as_str)),
        ("listener", "connections", words(Listener::ALL, Listener::as_str)),
        ("outcome", "connections", words(ConnectionOutcome::ALL, ConnectionOutcome::as_str)),
        ("outcome", "handshakes", words(HandshakeOutcome::ALL, HandshakeOutcome::as_str)),
        ("state", "catalog", words(CatalogState::ALL, CatalogState::as_str)),
        ("kind", "catalog items", words(&Kind::ALL, Kind::as_str)),
        ("verdict", "definitions", words(Deviates::ALL, Deviates::as_str)),
        ("class", "definitions", words(Suspicion::ALL, Suspicion::as_str)),
        ("outcome", "approvals", words(ApprovalOutcome::ALL, ApprovalOutcome::as_str)),
        ("kind", "sessions", words(SessionKind::ALL, SessionKind::as_str)),
        (
            "tool",
            "egress",
            "tools that were called, at most 100, else `other`; `several` where it is not certain; empty outside calls"
                .to_owned(),
        ),
        ("rule", "egress", "ids of rules, at most 500, else `other`; empty without one".to_owned()),
        ("host", "egress", "destinations as the rules write them, at most 500, else `other`".to_owned()),
        ("verdict", "egress", words(EgressVerdict::ALL, EgressVerdict::as_str)),
        ("outcome", "egress lookups", words(LookupOutcome::ALL, LookupOutcome::as_str)),
        ("limit", "egress DNS", words(DnsLimit::ALL, DnsLimit::as_str)),
        ("direction", "egress bytes", words(Direction::ALL, Direction::as_str)),
        ("what", "reloads", words(ReloadKind::ALL, ReloadKind::as_str)),
        ("outcome", "reloads", words(ReloadOutcome::ALL, ReloadOutcome::as_str)),
        ("name", "certificates", "the certificate's use, as `workload` or `public`".to_owned()),
        ("role", "build", words(Role::ALL, Role::as_str)),
    ]
}
