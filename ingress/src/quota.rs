//! Counts of limits that several ingresses share, in Redis or Valkey.
//!
//! Everything that a call counts against is looked at and counted by one script, so whole or not at all, and by the store's
//! clock, so that nobody's own matters. Keys hold digests: the store learns neither callers nor tools.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use outrigger_policy::{Amount, Charge};
use outrigger_telemetry::Metrics;
use outrigger_telemetry::metrics::QuotaOutcome;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{Client, ClientTlsConfig, IntoConnectionInfo, Script, TlsCertificates};
use tokio::time::{Instant, timeout};

use crate::config::{QuotaStore, WhenAway};

/// How long nobody asks a store that did not answer: callers would only wait for it.
const LEFT_ALONE: Duration = Duration::from_millis(250);
/// A machine that acknowledges nothing for so long is gone: its connection ends, and the next question makes a new one.
const GONE: Duration = Duration::from_secs(2);

/// A store that ingresses share.
pub(crate) struct Store {
    connection: ConnectionManager,
    script: Script,
    prefix: String,
    timeout: Duration,
    when_away: WhenAway,
    metrics: std::sync::Arc<Metrics>,
    base: Instant,
    /// When it may be asked again after it did not answer, in milliseconds since `base`.
    ask_at: AtomicU64,
    /// It did not answer last time.
    away: AtomicBool,
}

/// What became of counting a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    /// It is counted everywhere.
    Taken,
    /// It is counted nowhere: the charge of this index refuses it for so long.
    Refused(usize, Duration),
    /// The store does not answer; whether it is counted is unknown.
    Away,
}

impl Store {
    /// Needs a tokio runtime; connects when first asked. Reads files.
    ///
    /// # Errors
    /// What is wrong with the settings, for the operator.
    pub(crate) fn new(settings: &QuotaStore, metrics: &std::sync::Arc<Metrics>) -> Result<Self, String> {
        let wrong = |error: redis::RedisError| format!("quota_store: {error}");
        let read = |path: &std::path::Path| {
            std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
        };
        let mut info = settings.url.as_str().into_connection_info().map_err(wrong)?;
        if let Some(path) = &settings.password_file {
            let own = info.redis_settings().clone().set_password(read(path)?.trim_end_matches(['\r', '\n']));
            info = info.set_redis_settings(own);
        }
        let probes = TcpKeepalive::new().with_time(GONE).with_interval(GONE).with_retries(2);
        info = info.set_tcp_settings(TcpSettings::default().set_user_timeout(GONE).set_keepalive(probes));
        let root_cert = settings.ca.as_deref().map(read).transpose()?.map(String::into_bytes);
        let client_tls = match &settings.client {
            Some((cert, key)) => {
                let (client_cert, client_key) = (read(cert)?.into_bytes(), read(key)?.into_bytes());
                Some(ClientTlsConfig { client_cert, client_key })
            }
            None => None,
        };
        let client = if root_cert.is_some() || client_tls.is_some() {
            Client::build_with_tls(info, TlsCertificates { client_tls, root_cert })
        } else {
            Client::open(info)
        };
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(settings.connect))
            .set_response_timeout(Some(settings.timeout))
            // Whoever asks next tries again; nobody waits for several attempts.
            .set_number_of_retries(0);
        let connection = ConnectionManager::new_lazy_with_config(client.map_err(wrong)?, config).map_err(wrong)?;
        Ok(Self {
            connection,
            script: Script::new(include_str!("quota/take.lua")),
            prefix: settings.prefix.clone(),
            timeout: settings.timeout,
            when_away: settings.when_away,
            metrics: std::sync::Arc::clone(metrics),
            base: Instant::now(),
            ask_at: AtomicU64::new(0),
            away: AtomicBool::new(false),
        })
    }

    /// What happens while it does not answer.
    pub(crate) fn when_away(&self) -> WhenAway {
        self.when_away
    }

    /// Counts a call against everything that it counts against, or against nothing.
    pub(crate) async fn take(&self, charges: &[Charge]) -> Counted {
        if self.is_left_alone() {
            return Counted::Away;
        }
        let mut call = self.script.prepare_invoke();
        for charge in charges {
            let [kind, a, b, c] = numbers(&charge.amount);
            call.key(self.key(&charge.key, [kind, a, b]));
            call.arg(kind).arg(a).arg(b).arg(c);
        }
        let mut connection = self.connection.clone();
        let answer = timeout(self.timeout, call.invoke_async::<(usize, u64)>(&mut connection)).await;
        let (outcome, counted) = match answer {
            Ok(Ok((0, _))) => (QuotaOutcome::Ok, Counted::Taken),
            Ok(Ok((which, micros))) => (QuotaOutcome::Ok, Counted::Refused(which - 1, Duration::from_micros(micros))),
            Ok(Err(error)) => {
                self.lost(&error.to_string());
                let late = error.is_timeout();
                (if late { QuotaOutcome::Timeout } else { QuotaOutcome::Failed }, Counted::Away)
            }
            Err(_elapsed) => {
                self.lost("no answer in time");
                (QuotaOutcome::Timeout, Counted::Away)
            }
        };
        self.metrics.quota_store(outcome);
        if outcome == QuotaOutcome::Ok && self.away.load(Ordering::Relaxed) && self.away.swap(false, Ordering::Relaxed)
        {
            tracing::info!("the shared store of limits answers again");
        }
        counted
    }

    /// All in one slot, should the store be a cluster: a script may not reach over slots.
    fn key(&self, counted: &str, of: [u64; 3]) -> String {
        format!("{{{}}}:{}", self.prefix, digested(counted, of))
    }

    /// Whether it failed a moment ago. One caller in each such moment finds out whether it is back.
    fn is_left_alone(&self) -> bool {
        if !self.away.load(Ordering::Relaxed) {
            return false;
        }
        let (now, at) = (self.millis(), self.ask_at.load(Ordering::Relaxed));
        let next = now.saturating_add(LEFT_ALONE.as_millis() as u64);
        now < at || self.ask_at.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed).is_err()
    }

    fn lost(&self, why: &str) {
        let next = self.millis().saturating_add(LEFT_ALONE.as_millis() as u64);
        self.ask_at.store(next, Ordering::Relaxed);
        if !self.away.swap(true, Ordering::Relaxed) {
            tracing::warn!(why, "the shared store of limits does not answer");
        }
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// What is counted, and the limit that it is held against: another limit counts anew.
fn digested(counted: &str, of: [u64; 3]) -> String {
    let [kind, a, b] = of;
    let digest = digest(&SHA256, format!("{kind} {a} {b} {counted}").as_bytes());
    let half = digest.as_ref().first_chunk::<16>().map_or(&[][..], |half| half);
    HEXLOWER.encode(half)
}

/// What the script is told of an amount; see there.
fn numbers(amount: &Amount) -> [u64; 4] {
    let micros = |span: Duration| u64::try_from(span.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX).max(1);
    match amount {
        Amount::Call(_, quota) | Amount::RuleCall(quota) => [0, micros(quota.interval()), u64::from(quota.burst()), 0],
        Amount::Cost(allowance, cost) => [1, allowance.most, micros(allowance.per), *cost],
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::digested;

    #[test]
    fn another_limit_counts_anew() {
        assert_eq!(digested("p/each\0ada", [0, 1000, 5]), digested("p/each\0ada", [0, 1000, 5]));
        assert_ne!(digested("p/each\0ada", [0, 1000, 5]), digested("p/each\0ada", [0, 500, 5]));
        assert_ne!(digested("p/each\0ada", [0, 1000, 5]), digested("p/each\0bob", [0, 1000, 5]));
    }
}
