//! The outbound path of one connection, top to bottom:
//!
//! ```text
//!  accept > identify > peek > authorize > forward > record
//! ```
//!
//! The server finds an HTTP and SOCKS5 proxy on loopback; on Linux its connections can be redirected here without its
//! knowledge. Whatever the way in, [`Outbound::admit`] decides, and only addresses that it checked are dialled.
//!
//! - accept is here: connections under a permit, told apart by their first byte.
//! - identify (`identify.rs`, `passes.rs`) says which tool calls are behind a connection, and which child it comes from.
//! - peek is reading what is wanted: `http.rs`, `socks.rs`, `transparent.rs`, and the first words of a tunnel (`tunnel.rs`).
//! - authorize (`authorize.rs`) holds it against the rules, looks the name up once and guards every address.
//! - forward is `Outbound::dial`, then `relay.rs` or `http/exchange.rs`.
//! - record (`record.rs`) writes metrics and the egress log.

pub mod alone;
pub mod authorize;
pub mod child_env;
mod credentials;
mod dns;
mod holder;
pub mod http;
pub mod identify;
pub mod in_force;
pub mod inspect;
mod io;
pub mod mesh;
pub mod passes;
pub mod record;
mod redirected;
pub mod refusal;
mod relay;
pub mod resolve;
mod revoke;
mod socks;
mod splice;
mod tally;
pub mod target;
mod transparent;
mod tunnel;
pub mod upload;
mod wire;

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use arc_swap::ArcSwap;
use outrigger_egress::socks::VERSION as SOCKS5;
use outrigger_policy::limit::{Breakers, Nanos};
use outrigger_runtime::descriptors;
use outrigger_telemetry::metrics::{
    ConnectionOutcome, DenyReason, EgressMetrics, LimitKind, Listener as ListenerLabel,
};
use outrigger_telemetry::{EgressLog, Metrics, ServiceMetrics};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Egress;
use crate::start::StartError;
use http::Spoken;
use identify::Calls;
use in_force::InForce;
use inspect::Inspection;
use mesh::Services;
use passes::Passes;
pub use redirected::Entrance;
use redirected::original_destination;
use resolve::Resolver;
use target::Target;
use transparent::transparent;
use wire::Wire;

/// Descriptors of one connection: its own, its destination's, and that of looking a name up.
const DESCRIPTORS: usize = 3;

/// The outbound half of a sidecar, shared by all its connections.
pub struct Outbound {
    settings: Egress,
    service: Arc<str>,
    address: SocketAddr,
    resolver: Resolver,
    services: Option<Services>,
    /// Only where a rule inspects.
    inspection: Option<Inspection>,
    log: EgressLog,
    metrics: EgressMetrics,
    service_metrics: Arc<ServiceMetrics>,
    process_metrics: Arc<Metrics>,
    /// Swapped whole by a reload.
    in_force: ArcSwap<InForce>,
    breakers: Breakers<Target>,
    started: Instant,
    /// The tool calls at work, noted by the inbound half.
    pub calls: Arc<Calls>,
    /// The credentials of the server's children, where those are told apart.
    pub passes: Arc<Passes>,
}

/// Binds the proxy's port, and makes the outbound half that will serve it. Without `services` there is no mesh.
///
/// # Errors
/// When the address cannot be listened on, or the log cannot be opened.
pub fn bind(
    service: &str,
    settings: &Egress,
    services: Option<Services>,
    metrics: &Arc<Metrics>,
) -> Result<(Entrance, Arc<Outbound>), StartError> {
    let entrance = Entrance::bind(settings)?;
    let log = EgressLog::start(&outrigger_runtime::records::sink(&settings.log), metrics.egress_dropped());
    let log = log.map_err(|error| StartError::Other(error.to_string()))?;
    let inspects = settings.rules.rules().iter().any(|rule| rule.inspect);
    let inspection = inspects.then(|| Inspection::start(service, &settings.inspection)).transpose()?;
    let outbound = Outbound::new(service, settings.clone(), entrance.address(), log, metrics);
    Ok((entrance, Arc::new(Outbound { services, inspection, ..outbound })))
}

impl Outbound {
    /// The outbound half of a service, listening at `address`.
    pub fn new(service: &str, settings: Egress, address: SocketAddr, log: EgressLog, metrics: &Arc<Metrics>) -> Self {
        Self {
            service: service.into(),
            address,
            resolver: Resolver::new(&settings.dns, settings.timeouts.resolve, metrics.egress(service)),
            services: None,
            inspection: None,
            log,
            metrics: metrics.egress(service),
            service_metrics: metrics.service(service),
            process_metrics: Arc::clone(metrics),
            in_force: ArcSwap::from_pointee(InForce::new(&settings)),
            breakers: Breakers::new(settings.breaker),
            started: Instant::now(),
            calls: Calls::new(settings.attribution),
            passes: Arc::default(),
            settings,
        }
    }

    /// The rules of this moment.
    pub fn in_force(&self) -> Arc<InForce> {
        self.in_force.load_full()
    }

    /// The settings.
    pub fn settings(&self) -> &Egress {
        &self.settings
    }

    /// The file of certificates that clients must believe, where TLS is read inside.
    pub fn bundle(&self) -> Option<&std::path::Path> {
        self.inspection.as_ref().map(Inspection::bundle)
    }

    /// Where the proxy listens.
    pub fn listen_address(&self) -> SocketAddr {
        self.address
    }

    /// accept: serves until `stop`, then waits for open connections until `cut`.
    pub async fn run(self: Arc<Self>, mut entrance: Entrance, stop: CancellationToken, cut: CancellationToken) {
        // Who is served here must not take the descriptors that everything else needs.
        let wanted = self.settings.limits.connections.min(Semaphore::MAX_PERMITS);
        let room = descriptors::room_for(wanted, DESCRIPTORS, "egress.limits.connections");
        let permits = Arc::new(Semaphore::new(room));
        let tasks = TaskTracker::new();
        if let Some(dns) = entrance.dns.take() {
            dns.serve(&self, &tasks, &stop);
        }
        loop {
            let stream = tokio::select! {
                stream = entrance.accept() => stream,
                () = stop.cancelled() => break,
            };
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                self.process_metrics.connection(ListenerLabel::Outbound, ConnectionOutcome::Limited);
                continue;
            };
            let (outbound, cut) = (Arc::clone(&self), cut.clone());
            tasks.spawn(async move {
                let _open = outbound.process_metrics.connection_accepted(ListenerLabel::Outbound);
                cut.run_until_cancelled(outbound.serve(stream)).await;
                drop(permit);
            });
        }
        drop(entrance);
        tasks.close();
        tasks.wait().await;
    }

    async fn serve(self: &Arc<Self>, stream: TcpStream) {
        if self.settings.transparent
            && let Some(original) = original_destination(&stream)
        {
            return Box::pin(transparent(Arc::clone(self), stream.into(), original)).await;
        }
        let (stream, mut said) = (Wire::from(stream), Vec::new());
        // An error, or no time left: it said nothing, or is gone.
        let _ = tokio::time::timeout(self.settings.timeouts.header, io::read_into(&stream, &mut said)).await;
        match said.first() {
            // Boxed: what one way needs, the other ways' connections need not hold.
            Some(&SOCKS5) => Box::pin(socks::serve(self, stream, said)).await,
            Some(_) => Box::pin(http::serve(self, stream, said, Spoken::ToProxy)).await,
            None => {}
        }
    }

    /// Writes what is queued for the log.
    pub fn close(&self) {
        self.log.close();
    }

    /// Opens the log's file again, after a rotation.
    pub fn reopen(&self) {
        self.log.reopen();
    }

    /// Whether changed rules can be put in force as they are.
    ///
    /// # Errors
    /// Why that needs a restart.
    pub fn can_take_up(&self, settings: &Egress) -> Result<(), String> {
        match settings.rules.rules().iter().find(|rule| rule.inspect) {
            Some(rule) if self.inspection.is_none() => Err(format!(
                "restart needed, because `{}` inspects TLS and no rule did at the start: the authority is made then, and the server \
                 learns when it starts what to believe",
                rule.id.as_str()
            )),
            _ => Ok(()),
        }
    }

    /// Puts changed rules in force. Tunnels that they do not allow are cut.
    pub fn reload(&self, settings: &Egress) {
        let changed = self.in_force().reload(settings);
        let before = self.in_force.swap(Arc::new(changed));
        before.replaced.cancel();
    }

    fn denied(&self, reason: DenyReason) {
        self.service_metrics.denied(reason);
    }

    fn limited(&self) {
        self.service_metrics.limited(LimitKind::Egress);
    }

    /// The time that limits count in.
    fn now(&self) -> Nanos {
        Nanos::since_start(self.started.elapsed())
    }
}
