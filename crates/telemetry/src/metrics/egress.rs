//! The metrics of what one service dials out.

use std::sync::Arc;
use std::time::Duration;

use super::OpenGuard;
use super::families::Families;
use super::labels::{Direction, DnsLimit, EgressVerdict, LookupOutcome};

/// Counts outbound connections and requests. `host` is a destination as a rule writes it, or `None`: `other`.
pub struct EgressMetrics {
    service: Arc<str>,
    families: Arc<Families>,
}

/// The `host` of what no rule names, and of rules beyond those that are told apart.
const OTHER: &str = "other";

impl EgressMetrics {
    pub(super) fn new(service: Arc<str>, families: Arc<Families>) -> Self {
        Self { service, families }
    }

    /// Counts the end of a connection or request, with its bytes up and down.
    pub fn record(&self, host: Option<&str>, verdict: EgressVerdict, up: u64, down: u64) {
        let host = host.unwrap_or(OTHER);
        self.families.egress.with_label_values(&[&self.service, host, verdict.as_str()]).inc();
        for (direction, bytes) in [(Direction::Up, up), (Direction::Down, down)] {
            if bytes > 0 {
                let labels = [&self.service, host, direction.as_str()];
                self.families.egress_bytes.with_label_values(&labels).inc_by(bytes);
            }
        }
    }

    /// Takes note of how long it took to look up and connect.
    pub fn connected(&self, elapsed: Duration) {
        self.families.egress_connect.with_label_values(&[&*self.service]).observe(elapsed.as_secs_f64());
    }

    /// Counts a name that was looked up.
    pub fn lookup(&self, outcome: LookupOutcome) {
        self.families.egress_lookups.with_label_values(&[&*self.service, outcome.as_str()]).inc();
    }

    /// Counts a limit of looking names up that was passed.
    pub fn dns_limited(&self, limit: DnsLimit) {
        self.families.egress_dns_limited.with_label_values(&[&*self.service, limit.as_str()]).inc();
    }

    /// Counts an open connection until the guard is dropped.
    pub fn open(&self) -> OpenGuard {
        OpenGuard::new(&self.families.egress_open.with_label_values(&[&*self.service]))
    }
}

impl std::fmt::Debug for EgressMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EgressMetrics").field("service", &self.service).finish_non_exhaustive()
    }
}
