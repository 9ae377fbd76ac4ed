//! Makes this sidecar known at every ingress that its settings name, and keeps it so: a registration lasts as long as the
//! reply to it, which does not end.
//!
//! ```text
//!  look (every name, again and again) --> one task per address:  ask --> hold --> ask anew when it ends, or with a new
//!                                                                                  certificate before the old one goes
//! ```

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use outrigger_config::kinds::HostPort;
use outrigger_identity::{Credentials, SpiffeId, server_name};
use outrigger_mcp::json::quote;
use outrigger_proxy::body::{OutBody, read_bounded};
use outrigger_proxy::dial::{ClientTls, Endpoint};
use outrigger_proxy::pool::{Pool, PoolSettings, PooledBody};
use outrigger_telemetry::Metrics;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// How often names are looked up, and certificates looked at.
const LOOK: Duration = Duration::from_secs(1);
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// First and longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Of a refusal that is logged.
const MAX_REFUSAL: usize = 4096;

/// What it takes to register.
pub(crate) struct Register {
    credentials: Arc<Credentials>,
    /// Who the ingress must be.
    expected: SpiffeId,
    ingress: Vec<HostPort>,
    /// The registration.
    said: Bytes,
    connect: Duration,
    metrics: Arc<Metrics>,
}

/// One address of an ingress.
struct Known {
    registered: Arc<AtomicBool>,
    task: AbortHandle,
}

/// A registration: it ends with this.
struct Held {
    _pool: Pool,
    reply: PooledBody,
    /// Of the certificate that it was made with.
    generation: u64,
}

impl Register {
    /// For `service`, whose sidecar listens on `port`, or is where `advertise` says.
    pub(crate) fn new(
        credentials: Arc<Credentials>,
        expected: SpiffeId,
        ingress: Vec<HostPort>,
        (service, port, advertise): (&str, u16, Option<&HostPort>),
        connect: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        let said = match advertise {
            None => format!("{{\"service\":{},\"port\":{port}}}", quote(service)),
            Some(at) => {
                format!("{{\"service\":{},\"port\":{},\"host\":{}}}", quote(service), at.port, quote(&at.host))
            }
        };
        Self { credentials, expected, ingress, said: said.into(), connect, metrics }
    }

    /// Stays registered until the future is dropped.
    pub(crate) async fn run(self) {
        let register = Arc::new(self);
        let mut tasks = JoinSet::new();
        let mut known: HashMap<SocketAddr, Known> = HashMap::new();
        let mut told = false;
        loop {
            let (wanted, failed) = register.addresses().await;
            if let Some(error) = failed.as_ref().filter(|_| !told) {
                tracing::warn!(error, "an ingress cannot be looked up");
            }
            told = failed.is_some();
            known.retain(|address, one| {
                // One that is no longer among its name's addresses may still have us.
                let stays = wanted.contains(address) || one.registered.load(Ordering::Relaxed);
                if !stays {
                    one.task.abort();
                }
                stays
            });
            for address in wanted {
                known.entry(address).or_insert_with(|| {
                    let registered = Arc::new(AtomicBool::new(false));
                    let task = tasks.spawn(Arc::clone(&register).stay(address, Arc::clone(&registered)));
                    Known { registered, task }
                });
            }
            while tasks.try_join_next().is_some() {}
            let count = known.values().filter(|one| one.registered.load(Ordering::Relaxed)).count();
            register.metrics.registrations(count);
            sleep(LOOK).await;
        }
    }

    /// All addresses of all names, and what went wrong last.
    async fn addresses(&self) -> (Vec<SocketAddr>, Option<String>) {
        let (mut all, mut failed) = (Vec::new(), None);
        for HostPort { host, port } in &self.ingress {
            match timeout(PATIENCE, tokio::net::lookup_host((host.as_str(), *port))).await {
                Ok(Ok(addresses)) => all.extend(addresses),
                Ok(Err(error)) => failed = Some(format!("{host}: {error}")),
                Err(_) => failed = Some(format!("{host}: no answer in time")),
            }
        }
        (all, failed)
    }

    async fn stay(self: Arc<Self>, ingress: SocketAddr, registered: Arc<AtomicBool>) {
        let (mut held, mut failures): (Option<Held>, u32) = (None, 0);
        loop {
            match self.ask(ingress).await {
                Ok(new) => {
                    if held.is_none() {
                        tracing::info!(%ingress, "registered");
                    }
                    (held, failures) = (Some(new), 0);
                }
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(%ingress, error, "cannot register");
                    }
                    failures = failures.saturating_add(1);
                }
            }
            registered.store(held.is_some(), Ordering::Relaxed);
            if let Some(current) = &mut held {
                let generation = current.generation;
                tokio::select! {
                    () = current.ended() => {
                        tracing::info!(%ingress, "the ingress has ended the registration");
                        registered.store(false, Ordering::Relaxed);
                        held = None;
                    }
                    () = self.renewed(generation), if failures == 0 => continue,
                    () = sleep(LOOK), if failures > 0 => {}
                }
            }
            sleep(pause(failures)).await;
        }
    }

    /// Until there is another certificate than that one.
    async fn renewed(&self, generation: u64) {
        while self.credentials.generation() == generation {
            sleep(LOOK).await;
        }
    }

    async fn ask(&self, ingress: SocketAddr) -> Result<Held, String> {
        let generation = self.credentials.generation();
        let (credentials, expected) = (Arc::clone(&self.credentials), self.expected.clone());
        let provider = Arc::new(move || credentials.client_config(&expected));
        let tls = ClientTls { provider, server_name: server_name(ingress.ip()) };
        let endpoint = Endpoint::tcp(ingress.ip().to_string(), ingress.port()).with_tls(tls);
        let pool = Pool::new(endpoint, PoolSettings { connect_timeout: self.connect, ..PoolSettings::default() });
        let request = Request::post("/mesh/v1/register")
            .header(header::CONTENT_TYPE, "application/json")
            .body(OutBody::full(self.said.clone()))
            .map_err(|error| error.to_string())?;
        let sent = timeout(PATIENCE, pool.send(request)).await;
        let response = sent.map_err(|_| "no answer in time".to_owned())?.map_err(|error| error.to_string())?;
        if response.status() != StatusCode::OK {
            let status = response.status();
            let said = read_bounded(response.into_body(), MAX_REFUSAL, PATIENCE).await.unwrap_or_default();
            return Err(format!("{status}: {}", String::from_utf8_lossy(&said)));
        }
        Ok(Held { _pool: pool, reply: response.into_body(), generation })
    }
}

impl Held {
    /// Until the ingress, or the connection, ends it.
    async fn ended(&mut self) {
        while let Some(Ok(_)) = self.reply.frame().await {}
    }
}

/// Doubles, with a random part so that many sidecars do not come back at once.
fn pause(failures: u32) -> Duration {
    let full = BACKOFF.0.saturating_mul(1_u32 << failures.saturating_sub(1).min(10)).min(BACKOFF.1);
    full.mul_f64(0.5 + fastrand::f64() / 2.0)
}
