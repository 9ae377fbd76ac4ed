//! One task per replica that knows how it is: it asks once, then every question waits for a change.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use outrigger_proxy::body::{OutBody, read_bounded};
use outrigger_proxy::pool::SendError;
use outrigger_telemetry::metrics::UpstreamErrorKind;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use crate::forward::kind_and_reason;
use crate::gateway::Gateway;
use crate::health::Document;
use crate::services::{Replica, Service};

/// The largest document: the largest catalog that is collected, and a little.
const MAX_DOCUMENT: usize = 64 << 20;
/// For the answer to travel, beyond the time that the sidecar may hold the question.
const MARGIN: Duration = Duration::from_secs(5);
/// First and longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Between questions that are answered at once: bounds what a sidecar whose catalog flaps, or that cannot hold a question,
/// costs us.
const PACE: Duration = Duration::from_millis(50);
/// The same for answers that say nothing new.
const IDLE_PACE: Duration = Duration::from_secs(1);

/// What came of a question.
enum Answer {
    Changed(Document, Option<HeaderValue>),
    Same,
}

/// Watches every replica of the services in force, until the future is dropped.
pub(crate) async fn watch_all(gateway: Arc<Gateway>, wait: Duration, changed: Arc<Notify>) {
    let mut tasks = JoinSet::new();
    // By where it is in memory; the key stays true while we hold the replica.
    let mut watching: HashMap<usize, (Arc<Replica>, AbortHandle)> = HashMap::new();
    loop {
        let mut gone = std::mem::take(&mut watching);
        for service in gateway.services.load().iter() {
            for replica in service.replicas().iter() {
                let at = Arc::as_ptr(replica).addr();
                let watched = gone.remove(&at).unwrap_or_else(|| {
                    let (service, watched) = (Arc::clone(service), Arc::clone(replica));
                    let task = watch(service, watched, wait, Arc::clone(&changed));
                    (Arc::clone(replica), tasks.spawn(task))
                });
                watching.insert(at, watched);
            }
        }
        gone.values().for_each(|(_, task)| task.abort());
        while tasks.try_join_next().is_some() {}
        changed.notify_one();
        gateway.services_changed.notified().await;
    }
}

/// Watches until the future is dropped. `changed` is told whenever the service may have to be listed anew.
pub(crate) async fn watch(service: Arc<Service>, replica: Arc<Replica>, wait: Duration, changed: Arc<Notify>) {
    let mut etag: Option<HeaderValue> = None;
    let mut failures = 0_u32;
    loop {
        let asked = Instant::now();
        // While it is away nobody must wait for a change to learn that it is back.
        let hold = if failures == 0 && etag.is_some() { wait } else { Duration::ZERO };
        match ask(&replica, etag.as_ref(), hold).await {
            Ok(Answer::Changed(document, tag)) => {
                if failures > 1 {
                    tracing::info!(service = %service.name, replica = %replica.address, "the sidecar answers again");
                }
                failures = 0;
                etag = tag;
                replica.answered(Some(document));
                changed.notify_one();
                let pace = if etag.is_some() { PACE } else { IDLE_PACE };
                sleep(pace.saturating_sub(asked.elapsed())).await;
            }
            Ok(Answer::Same) => {
                let was_away = replica.health().unreachable.is_some();
                replica.answered(None);
                if was_away {
                    changed.notify_one();
                }
                let pace = if failures > 0 { Duration::ZERO } else { IDLE_PACE };
                failures = 0;
                sleep(pace.saturating_sub(asked.elapsed())).await;
            }
            Err(Unanswered { reason, shown, kind }) => {
                failures = failures.saturating_add(1);
                // A question that was held may break off because the sidecar closes old connections; the next one tells.
                if failures > 1 || hold.is_zero() {
                    failures = failures.max(2);
                    kind.into_iter().for_each(|kind| service.metrics.upstream_error(kind));
                    if replica.health().unreachable.is_none() {
                        tracing::warn!(service = %service.name, replica = %replica.address, reason, "the sidecar cannot be asked");
                    }
                    replica.lost(reason, shown);
                    changed.notify_one();
                    let _ = timeout(backoff(failures), replica.wake.notified()).await;
                }
            }
        }
    }
}

/// Why there is no answer, for the log and for metrics.
struct Unanswered {
    reason: String,
    /// For those who may not know who else is there.
    shown: &'static str,
    kind: Option<UpstreamErrorKind>,
}

impl Unanswered {
    fn because(reason: impl ToString) -> Self {
        Self { reason: reason.to_string(), shown: "its answer is not that of a sidecar", kind: None }
    }
}

impl From<SendError> for Unanswered {
    fn from(error: SendError) -> Self {
        let (kind, shown) = kind_and_reason(error.kind);
        Self { kind: Some(kind), shown, reason: error.to_string() }
    }
}

/// One question.
async fn ask(replica: &Replica, etag: Option<&HeaderValue>, hold: Duration) -> Result<Answer, Unanswered> {
    let path = match hold.as_secs() {
        0 => "/mesh/v1/health".to_owned(),
        seconds => format!("/mesh/v1/health?wait={seconds}s"),
    };
    let mut request = Request::get(path).body(OutBody::empty()).map_err(Unanswered::because)?;
    if let Some(etag) = etag {
        request.headers_mut().insert(header::IF_NONE_MATCH, etag.clone());
    }
    let sent = timeout(hold + MARGIN, replica.pool.send(request)).await;
    let response = sent.map_err(|_| Unanswered {
        shown: "it does not answer in time",
        ..Unanswered::because("no answer in time")
    })??;
    match response.status() {
        StatusCode::NOT_MODIFIED => Ok(Answer::Same),
        StatusCode::OK => {
            let etag = response.headers().get(header::ETAG).cloned();
            let body: Bytes =
                read_bounded(response.into_body(), MAX_DOCUMENT, MARGIN).await.map_err(Unanswered::because)?;
            // What arrives lies in a buffer of the connection, all of which the catalog would keep.
            let document = Document::parse(&Bytes::copy_from_slice(&body)).map_err(Unanswered::because)?;
            Ok(Answer::Changed(document, etag))
        }
        status => Err(Unanswered::because(format!("the health endpoint answered {status}"))),
    }
}

/// Doubles, with a random part so that many ingresses do not come back at once.
fn backoff(failures: u32) -> Duration {
    let full = BACKOFF.0.saturating_mul(1_u32 << failures.saturating_sub(2).min(10)).min(BACKOFF.1);
    full.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound() {
        for (failures, full) in [(2, 100), (3, 200), (4, 400), (30, 5000), (u32::MAX, 5000)] {
            let pause = backoff(failures).as_millis();
            assert!((full / 2..=full).contains(&pause), "{failures}: {pause}");
        }
    }
}
