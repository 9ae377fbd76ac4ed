//! How replicas stand: which of them are spared because calls at them fail, and what each call's end says of its replica.

use std::sync::{Arc, PoisonError};

use outrigger_proxy::failure::Failure;
use outrigger_telemetry::metrics::Outcome;
use tokio::time::Instant;

use super::{Health, InFlight, Replica, Service, rank};
use crate::breaker::{Fault, Standing};

/// A replica that may get a call, with what is known of it.
type Candidate<'a> = (&'a Arc<Replica>, Arc<Health>);

impl Service {
    /// The candidates without those that are left alone: where one is to be tried with this call, it alone.
    ///
    /// # Errors
    /// [`Failure::Unavailable`] when all are left alone.
    pub(super) fn spared<'a>(
        &self,
        candidates: Vec<&'a Candidate<'a>>,
        tag: &str,
    ) -> Result<Vec<&'a Candidate<'a>>, Failure> {
        let now = Instant::now();
        let stateful = candidates.iter().any(|(_, health)| health.document.as_ref().is_some_and(|d| d.stateful));
        let own = |replica: &Arc<Replica>| {
            let best = candidates.iter().max_by_key(|(other, _)| rank(tag, &other.address));
            best.is_some_and(|(best, _)| Arc::ptr_eq(best, replica))
        };
        let (mut fit, mut recovering) = (Vec::new(), Vec::new());
        for candidate in &candidates {
            let (replica, _) = candidate;
            match replica.breaker.standing(now) {
                Standing::Well => fit.push(*candidate),
                // A session stays where it is put: the same tags return first.
                Standing::Recovering(share) => {
                    let part = if stateful { rank(tag, "recovering") % 100 } else { fastrand::u64(..100) };
                    if part < u64::from(share) { fit.push(*candidate) } else { recovering.push(*candidate) }
                }
                Standing::Due if (!stateful || own(replica)) && replica.breaker.try_it(now) => {
                    return Ok(vec![*candidate]);
                }
                Standing::Due | Standing::Out => {}
            }
        }
        match (fit.is_empty(), recovering.is_empty()) {
            (false, _) => Ok(fit),
            (true, false) => Ok(recovering),
            (true, true) => Err(Failure::Unavailable {
                service: self.name.to_string(),
                reason: "calls to it keep failing; it is tried again in a moment".to_owned(),
            }),
        }
    }

    /// Notes that a call failed at a replica, which may have it left alone.
    pub(crate) fn failed_at(&self, replica: &Arc<Replica>, fault: Fault) {
        let _one = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let replicas = self.replicas();
        let others = || replicas.iter().filter(|other| !Arc::ptr_eq(other, replica) && other.breaker.is_out());
        let most = replicas.len() * usize::from(self.settings.safety.breaker.most_out);
        let ejected = replica.breaker.failed(fault, Instant::now(), || (others().count() + 1) * 100 <= most);
        if let Some((reason, rest)) = ejected {
            self.metrics.ejected(reason);
            self.count_out();
            let reason = reason.as_str();
            tracing::warn!(service = %self.name, replica = %replica.address, reason, ?rest, "calls keep failing: the replica is left alone");
        }
    }

    /// Notes that a call went well.
    pub(crate) fn succeeded_at(&self, replica: &Replica) {
        if replica.breaker.succeeded(Instant::now) {
            self.count_out();
            tracing::info!(service = %self.name, replica = %replica.address, "the replica is used again");
        }
    }

    /// Notes how a call ended whose answer had begun, unless that was known already.
    pub(crate) fn ended_at(&self, call: &InFlight, outcome: Outcome) {
        match outcome {
            _ if call.settled => {}
            Outcome::Unavailable => self.failed_at(&call.replica, Fault::NoAnswer),
            Outcome::Timeout if call.ran_out() => call.replica.breaker.untold(Instant::now()),
            Outcome::Timeout if call.waited_in_vain() => self.failed_at(&call.replica, Fault::NoAnswer),
            Outcome::Ok | Outcome::ToolError | Outcome::RpcError => self.succeeded_at(&call.replica),
            _ => {}
        }
    }

    /// Says how many replicas are left alone.
    pub(super) fn count_out(&self) {
        self.metrics.set_replicas_out(self.replicas().iter().filter(|replica| replica.breaker.is_out()).count());
    }
}
