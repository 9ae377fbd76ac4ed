//! What an ingress knows of services that it looks up. Registered only where something is looked up, so that no other
//! program carries it.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use super::families::{MetricDoc, MetricKind};
use super::labels::DiscoverySource;
use super::{Metrics, MetricsError};

const CONTACT: MetricDoc = MetricDoc {
    name: "outrigger_discovery_contact_timestamp_seconds",
    kind: MetricKind::Gauge,
    labels: &["source"],
    help: "When where services are looked up last said anything, in seconds since 1970. Quiet times of up to 100 s are usual.",
};
const FAILURES: MetricDoc = MetricDoc {
    name: "outrigger_discovery_failures_total",
    kind: MetricKind::Counter,
    labels: &["source"],
    help: "Questions to where services are looked up that got no answer; what is known stays in force.",
};
const REPLICAS: MetricDoc = MetricDoc {
    name: "outrigger_discovery_replicas",
    kind: MetricKind::Gauge,
    labels: &["source"],
    help: "Replicas that were looked up and are there now.",
};
const MISTAKES: MetricDoc = MetricDoc {
    name: "outrigger_discovery_mistakes",
    kind: MetricKind::Gauge,
    labels: &["source"],
    help: "Objects that are wrong, or for which there is no room; the log names them.",
};

/// The descriptions of these families.
pub(super) fn docs() -> Vec<MetricDoc> {
    vec![CONTACT, FAILURES, REPLICAS, MISTAKES]
}

/// The series of one source.
#[derive(Debug, Clone)]
pub struct DiscoveryMetrics {
    contact: IntGauge,
    failures: IntCounter,
    replicas: IntGauge,
    mistakes: IntGauge,
}

impl Metrics {
    /// The series of the sources that are on, in their order.
    ///
    /// # Errors
    /// When it is asked twice.
    pub fn discovery(&self, sources: &[DiscoverySource]) -> Result<Vec<DiscoveryMetrics>, MetricsError> {
        let gauge = |doc: &MetricDoc| -> Result<IntGaugeVec, prometheus::Error> {
            let family = IntGaugeVec::new(Opts::new(doc.name, doc.help), doc.labels)?;
            self.registry.register(Box::new(family.clone()))?;
            Ok(family)
        };
        let failures = IntCounterVec::new(Opts::new(FAILURES.name, FAILURES.help), FAILURES.labels)?;
        self.registry.register(Box::new(failures.clone()))?;
        let (contact, replicas, mistakes) = (gauge(&CONTACT)?, gauge(&REPLICAS)?, gauge(&MISTAKES)?);
        let series = |source: &DiscoverySource| {
            let label = [source.as_str()];
            DiscoveryMetrics {
                contact: contact.with_label_values(&label),
                failures: failures.with_label_values(&label),
                replicas: replicas.with_label_values(&label),
                mistakes: mistakes.with_label_values(&label),
            }
        };
        Ok(sources.iter().map(series).collect())
    }
}

impl DiscoveryMetrics {
    /// The source has just said something.
    pub fn contact(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.contact.set(i64::try_from(now).unwrap_or(i64::MAX));
    }

    /// A question got no answer.
    pub fn failed(&self) {
        self.failures.inc();
    }

    /// What is in force of it, and how many objects are not.
    pub fn found(&self, replicas: usize, mistakes: usize) {
        self.replicas.set(i64::try_from(replicas).unwrap_or(i64::MAX));
        self.mistakes.set(i64::try_from(mistakes).unwrap_or(i64::MAX));
    }
}
