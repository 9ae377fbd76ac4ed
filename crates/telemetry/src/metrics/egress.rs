//! The metrics of what one service dials out.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::IntGauge;

use super::OpenGuard;
use super::families::Families;
use super::labels::{Direction, DnsLimit, EgressVerdict, LookupOutcome};

/// Counts outbound connections and requests. Labels are closed sets, or bounded.
pub struct EgressMetrics {
    service: Arc<str>,
    families: Arc<Families>,
    open: IntGauge,
    tools: Mutex<HashSet<Arc<str>>>,
}

/// What a connection is counted under.
#[derive(Debug, Clone, Copy)]
pub struct EgressLabels<'a> {
    /// The tools that it may belong to.
    pub tools: &'a [Arc<str>],
    /// The destination as a rule writes it; nothing is `other`.
    pub host: Option<&'a str>,
    /// The rule, of a closed set; empty without one.
    pub rule: &'a str,
}

/// Tools that have a label of their own.
const MAX_TOOLS: usize = 100;
/// The `tool` of what may belong to more than one.
const SEVERAL: &str = "several";

/// The `host` of what no rule names, and of rules beyond those that are told apart.
const OTHER: &str = "other";

impl EgressMetrics {
    pub(super) fn new(service: Arc<str>, families: Arc<Families>) -> Self {
        let open = families.egress_open.with_label_values(&[&*service]);
        Self { service, families, open, tools: Mutex::default() }
    }

    /// Counts the end of a connection or request, with its bytes up and down.
    pub fn record(&self, labels: &EgressLabels<'_>, verdict: EgressVerdict, up: u64, down: u64) {
        let host = labels.host.unwrap_or(OTHER);
        let tool = self.tool(labels.tools);
        let values = [&*self.service, &*tool, host, labels.rule, verdict.as_str()];
        self.families.egress.with_label_values(&values).inc();
        for (direction, bytes) in [(Direction::Up, up), (Direction::Down, down)] {
            if bytes > 0 {
                let labels = [&self.service, host, direction.as_str()];
                self.families.egress_bytes.with_label_values(&labels).inc_by(bytes);
            }
        }
    }

    /// How metrics call the tool behind a connection: the names that came first have a label of their own.
    fn tool(&self, tools: &[Arc<str>]) -> Arc<str> {
        match tools {
            [] => Arc::default(),
            [tool] => {
                let mut known = self.tools.lock().unwrap_or_else(PoisonError::into_inner);
                if !known.contains(tool) {
                    if known.len() >= MAX_TOOLS {
                        return OTHER.into();
                    }
                    known.insert(Arc::clone(tool));
                }
                Arc::clone(tool)
            }
            _ => SEVERAL.into(),
        }
    }

    /// Takes note of how long it took to speak TLS with a destination.
    pub fn shook_hands(&self, elapsed: Duration) {
        self.families.egress_handshake.with_label_values(&[&*self.service]).observe(elapsed.as_secs_f64());
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
        OpenGuard::new(&self.open)
    }
}

impl std::fmt::Debug for EgressMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EgressMetrics").field("service", &self.service).finish_non_exhaustive()
    }
}
