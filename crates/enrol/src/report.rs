//! What becomes of certificates, as people hear of it: `/readyz`, a metric, and the log, which says each reason once.

use std::fmt::Display;
use std::time::SystemTime;

use outrigger_telemetry::metrics::RenewalOutcome;

use crate::obtain::Waiting;

/// What is missing without a certificate, in `/readyz`.
const BLOCKER: &str = "identity";

/// How it goes with one who gives certificates.
pub(crate) struct Report {
    waiting: Waiting,
    /// Who that is, and where.
    giver: String,
    /// What the log said last.
    told: String,
}

impl Report {
    /// Nothing is there yet.
    pub(crate) fn new(waiting: Waiting, giver: String) -> Self {
        waiting.readiness.set(BLOCKER, Err(format!("waiting for {giver}")));
        Self { waiting, giver, told: String::new() }
    }

    /// There is a certificate that was not there before.
    pub(crate) fn renewed(&mut self) {
        self.waiting.metrics.certificate_renewal(RenewalOutcome::Renewed);
        self.good();
    }

    /// The certificate that is there can be used.
    pub(crate) fn good(&mut self) {
        self.waiting.readiness.set(BLOCKER, Ok(()));
        self.told.clear();
    }

    /// There is none yet.
    pub(crate) fn none_yet(&mut self, outcome: RenewalOutcome, why: &impl Display) {
        self.waiting.metrics.certificate_renewal(outcome);
        let text = format!("waiting for {}, because {why}", self.giver);
        if text != self.told {
            tracing::warn!("{text}");
            self.missing(text);
        }
    }

    /// A try to get the next one came to nothing.
    pub(crate) fn failed(&mut self, outcome: RenewalOutcome, not_after: SystemTime, why: &impl Display) {
        self.waiting.metrics.certificate_renewal(outcome);
        self.not_renewed(not_after, why);
    }

    /// There is nothing new: said once for each reason, and again when the certificate has ended.
    pub(crate) fn not_renewed(&mut self, not_after: SystemTime, why: &impl Display) {
        let giver = &self.giver;
        let left = not_after.duration_since(SystemTime::now()).ok();
        let text = match left {
            Some(_) => format!("the certificate is not renewed yet; {giver}: {why}"),
            None => format!("the certificate has ended; waiting for {giver}, because {why}"),
        };
        if text == self.told {
            return;
        }
        match left {
            Some(left) => {
                tracing::warn!(minutes_left = left.as_secs() / 60, "{text}");
                self.told = text;
            }
            None => {
                tracing::error!("{text}");
                self.missing(text);
            }
        }
    }

    fn missing(&mut self, text: String) {
        self.waiting.readiness.set(BLOCKER, Err(text.clone()));
        self.told = text;
    }
}
