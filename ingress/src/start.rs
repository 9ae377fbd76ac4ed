//! From settings to a running ingress, and to its end: bind first, serve when ready, drain.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use outrigger_config::sections::IdentitySource;
use outrigger_enrol::{Keeper, ObtainError, Obtained, Waiting, obtain};
use outrigger_identity::{
    ClientAuth, Credentials, CredentialsError, PublicCredentials, PublicFiles, SpiffeError, TrustDomain, WarmUpError,
    warm_up,
};
use outrigger_proxy::accept::{self, ListenerSettings};
use outrigger_proxy::legacy::keys::KeysError;
use outrigger_proxy::observe::Connections;
use outrigger_proxy::peers::OpenPeers;
use outrigger_proxy::serve::HttpLimits;
use outrigger_resident::heap::{Heap, give_back};
use outrigger_runtime::{
    AdminPage, AdminRequest, AdminServer, Answering, DrainOutcome, DrainTrigger, FileWatcher, ListenError,
    ListenOptions, Listener, Readiness, TaskGroup, descriptors, drain, watch,
};
use outrigger_telemetry::audit::AuditError;
use outrigger_telemetry::metrics::{Listener as ListenerLabel, MetricsError};
use outrigger_telemetry::{Metrics, Role};
use tokio::sync::{Notify, watch as channel};
use tokio::time::Instant;

use crate::admin;
use crate::approvals::desk;
use crate::config::Config;
use crate::discovery;
use crate::gateway::Gateway;
use crate::members::Members;
use crate::oauth::OAuth;
use crate::policy::PolicyError;
use crate::register::Register;
use crate::reload::Sources;
use crate::services::Service;
use crate::snapshot::{keep, look_through, refresh};

mod assemble;

use assemble::assemble;

/// Services that have not answered by then no longer hold up readiness: the others can be used.
const FIRST_ANSWERS: Duration = Duration::from_secs(5);
/// For tasks that were asked to stop.
const LAST_WAIT: Duration = Duration::from_secs(1);
/// How often the dates of certificates behind open connections are looked at although no file changed.
const PEERS_EVERY: Duration = Duration::from_secs(600);
/// How often the own certificate's end is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Without another registration for so long, all sidecars have come: they try again within two seconds at most.
const QUIET: Duration = Duration::from_secs(1);
/// Connections that are not registrations.
const STRANGERS: usize = 64;
/// A registered sidecar whose machine does not answer for so long is gone.
const SILENT: Duration = Duration::from_secs(3);
/// How often idle rate limit buckets are forgotten.
const FORGET: Duration = Duration::from_secs(60);

/// Why an ingress cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Certificates.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A name in the mesh.
    #[error(transparent)]
    Name(#[from] SpiffeError),
    /// Who we are.
    #[error(transparent)]
    Identity(#[from] ObtainError),
    /// Policy files.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The tokens file.
    #[error("{0}")]
    Tokens(String),
    /// What the identity providers need.
    #[error("{0}")]
    OAuth(String),
    /// The approved definitions.
    #[error("the lock cannot be used: {0}")]
    Lock(String),
    /// What it takes to look services up.
    #[error("{0}")]
    Discovery(String),
    /// The shared store of limits.
    #[error("{0}")]
    Quotas(String),
    /// The keys of session ids.
    #[error(transparent)]
    SessionKeys(#[from] KeysError),
    /// The audit.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The access log.
    #[error("access log: {0}")]
    Access(String),
    /// Metrics.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// Cryptography.
    #[error(transparent)]
    WarmUp(#[from] WarmUpError),
    /// Watching files.
    #[error("cannot watch files: {0}")]
    Watch(std::io::Error),
}

/// An ingress that serves.
#[derive(Debug)]
pub struct Running {
    /// Where clients connect.
    pub mcp: SocketAddr,
    /// Where health, metrics and the catalog are shown.
    pub admin: SocketAddr,
    /// Where sidecars register, if they can.
    pub registration: Option<SocketAddr>,
    /// Says what is missing until it is ready.
    pub readiness: Readiness,
    gateway: Arc<Gateway>,
    trigger: DrainTrigger,
    tasks: TaskGroup,
    deadline: Duration,
}

/// Everything that is read or opened before anything is served.
struct Parts {
    credentials: Arc<Credentials>,
    public: Option<Arc<PublicCredentials>>,
    peers: Option<Arc<OpenPeers>>,
    registered: Arc<OpenPeers>,
    metrics: Arc<Metrics>,
}

/// Serves until `shutdown` resolves, then drains.
///
/// # Errors
/// [`Error`] when it cannot start.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<DrainOutcome, Error> {
    let running = start(config).await?;
    shutdown.await;
    tracing::info!("shutting down");
    Ok(running.drain().await)
}

/// Binds, loads and serves. Needs a tokio runtime.
///
/// # Errors
/// [`Error`]; nothing is left behind.
pub async fn start(config: Config) -> Result<Running, Error> {
    warm_up()?;
    let mcp = Listener::bind(ListenOptions::new(config.listen, "listen"))?;
    let admin = Listener::bind(ListenOptions::new(config.admin, "admin.listen"))?;
    let watched = FileWatcher::new(watched_files(&config), watch::DEFAULT_INTERVAL).map_err(Error::Watch)?;
    let public = load_public(&config)?;
    let metrics = Metrics::new(Role::Ingress)?;
    let readiness = Readiness::new();
    let registration =
        config.registration.listen.map(|at| Listener::bind(ListenOptions::new(at, "registration.listen")));
    let registration = registration.transpose()?;
    let (mcp_address, admin_address) = (mcp.address(), admin.address());
    let tasks = TaskGroup::new("ingress");
    // Before there is a certificate: it says what is waited for.
    let shown = Arc::new(OnceLock::new());
    serve_admin(&tasks, admin, &shown, &metrics, &readiness);
    let Obtained { credentials, keeper } = identity(&config, admin_address, &readiness, &metrics).await?;
    metrics.certificate_expiry("workload", credentials.not_after());
    if let Some(public) = &public {
        metrics.certificate_expiry("public", public.not_after());
    }
    let enrolled = keeper.is_some().then(|| Arc::clone(&credentials));
    let peers = public.as_ref().map(|public| open_peers(public, enrolled));
    let checking = Arc::clone(&credentials);
    let registered = OpenPeers::new(Arc::new(move |certs| checking.recheck(Some(certs)).map(drop)));
    let parts = Parts { credentials, peers, registered, public, metrics };
    let (trigger, watcher) = drain::channel();
    let gateway = Arc::new(assemble(&config, &parts, watcher)?);
    let discovery = discovery::Sources::new(&config, &gateway, &readiness).map_err(Error::Discovery)?;
    // Nobody else sets it.
    let _ = shown.set(Arc::clone(&gateway));
    let running = Running {
        mcp: mcp_address,
        admin: admin_address,
        registration: registration.as_ref().map(Listener::address),
        readiness,
        deadline: config.timeouts.common.drain,
        gateway: Arc::clone(&gateway),
        trigger,
        tasks,
    };
    running.watch_services(&config);
    running.watch_expiry(&parts);
    running.watch_files(watched, &config, &parts, keeper);
    if config.discovery.is_on() {
        running.discover(discovery);
    }
    if config.discovery.is_on() || registration.is_some() {
        let gateway = Arc::clone(&running.gateway);
        running.spawn("members", async move { gateway.registry.keep(Arc::clone(&gateway)).await });
    }
    let (for_clients, for_sidecars) = room(&config);
    if let Some(listener) = registration {
        running.serve_sidecars(listener, &config, &parts, for_sidecars);
    }
    running.serve_clients(mcp, &config, &parts, for_clients);
    tracing::info!(mcp = %running.mcp, admin = %running.admin, services = gateway.services.load().len(), "the ingress listens");
    Ok(running)
}

impl Running {
    /// Stops accepting, ends listens with a result, lets calls finish until the deadline, then cuts.
    pub async fn drain(self) -> DrainOutcome {
        self.drain_unless(std::future::pending()).await
    }

    /// The same; `hurry` cuts the wait short.
    pub async fn drain_unless(self, hurry: impl Future<Output = ()>) -> DrainOutcome {
        self.readiness.set("draining", Err("shutting down".into()));
        let outcome = self.trigger.drain(self.deadline, hurry).await;
        self.gateway.tasks.close();
        let _ = tokio::time::timeout(LAST_WAIT, self.gateway.tasks.wait()).await;
        self.tasks.stop(LAST_WAIT).await;
        let recorder = Arc::clone(&self.gateway.recorder);
        // Closing writes what is queued, which may block.
        let closed = tokio::task::spawn_blocking(move || {
            recorder.access.close();
            recorder.audit.close();
        });
        let _ = closed.await;
        outcome
    }

    /// What requests share, for tests and embedders.
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    fn watch_services(&self, config: &Config) {
        let news = Arc::new(Notify::new());
        refresh(&self.gateway);
        let wait = config.timeouts.health_wait;
        self.spawn("health", crate::watch::watch_all(Arc::clone(&self.gateway), wait, Arc::clone(&news)));
        self.spawn("snapshots", keep(Arc::clone(&self.gateway), news));
        self.spawn("definitions", look_through(Arc::clone(&self.gateway)));
        let gateway = Arc::clone(&self.gateway);
        let waiting: Vec<_> = gateway
            .services
            .load()
            .iter()
            .map(|service| {
                (Arc::clone(service), self.readiness.block(format!("service {}", service.name), "has not answered yet"))
            })
            .collect();
        self.spawn("first answers", first_answers(gateway, waiting));
        let gateway = Arc::clone(&self.gateway);
        self.spawn("rate limits", async move {
            loop {
                tokio::time::sleep(FORGET).await;
                let policy = gateway.policy();
                policy.limits.forget_idle(policy.now());
            }
        });
        let gateway = Arc::clone(&self.gateway);
        for provider in gateway.clients.oauth.iter().flat_map(OAuth::providers) {
            let provider = Arc::clone(provider);
            self.spawn("identity provider", async move { provider.keep_fresh().await });
        }
        let approvals = Arc::clone(&gateway.approvals);
        self.spawn("approvals", async move { approvals.sweep().await });
        self.spawn("sessions", async move { gateway.sessions().sweep().await });
    }

    fn watch_files(&self, watcher: FileWatcher, config: &Config, parts: &Parts, keeper: Option<Keeper>) {
        let sources = Arc::new(Sources {
            gateway: Arc::clone(&self.gateway),
            tokens: config.clients.tokens_file.clone(),
            session_keys: config.sessions.key_file.clone(),
            settings: config.file.clone(),
            lock: config.integrity.lock.clone(),
            credentials: Arc::clone(&parts.credentials),
            public: parts.public.clone(),
            peers: parts.peers.clone(),
            registered: Arc::clone(&parts.registered),
        });
        if let Some(keeper) = keeper {
            let sources = Arc::clone(&sources);
            self.spawn("identity", keeper.run(move |reload| sources.took_up(reload)));
        }
        let mut watcher = watcher;
        let mut again = tokio::time::interval_at(Instant::now() + PEERS_EVERY, PEERS_EVERY);
        let mut heap = Heap::default();
        self.spawn("reload", async move {
            loop {
                let change = tokio::select! {
                    change = watcher.changed() => Some(change),
                    _ = again.tick() => None,
                    () = heap.due() => {
                        let _ = tokio::task::spawn_blocking(give_back).await;
                        continue;
                    }
                };
                if change.is_some() {
                    heap.replaced();
                }
                let sources = Arc::clone(&sources);
                // Reading files and verifying block; a panic in there must not end reloading.
                let work = tokio::task::spawn_blocking(move || match change {
                    Some(change) => sources.reload(&change),
                    None => sources.recheck_peers(),
                });
                let _ = work.await;
            }
        });
    }

    /// Connections outlive the certificates with which they began. Those to a sidecar that should have another one by now
    /// give way to new ones; when ours has expired, all end, and what follows is refused
    /// by the handshake, with its reason, until there is another one.
    fn watch_expiry(&self, parts: &Parts) {
        let (gateway, credentials) = (Arc::clone(&self.gateway), Arc::clone(&parts.credentials));
        self.spawn("expiry", async move {
            let mut told = false;
            loop {
                tokio::time::sleep(LOOK).await;
                let now = std::time::SystemTime::now();
                let services = gateway.services.load();
                services.iter().for_each(|s| s.replicas().iter().for_each(|replica| replica.refresh(now)));
                let expired = now > credentials.not_after();
                if expired && !told {
                    tracing::error!("the certificate of this ingress has expired: no service can be reached");
                    services.iter().for_each(|s| s.replicas().iter().for_each(|replica| replica.pool.retire()));
                }
                told = expired;
            }
        });
    }

    fn serve_clients(&self, listener: Listener, config: &Config, parts: &Parts, room: usize) {
        let (limits, timeouts) = (&config.limits.entrance, &config.timeouts.common);
        let tls = parts.public.clone().map(|public| -> outrigger_proxy::handshake::ServerTlsProvider {
            Arc::new(move || public.server_config())
        });
        let settings = ListenerSettings {
            max_connections: room,
            tls,
            peers: parts.peers.clone(),
            handshake_timeout: timeouts.handshake,
            // One timer of hyper covers both the pause between requests and the head: the longer one counts.
            http: HttpLimits {
                head_timeout: timeouts.idle.max(timeouts.header),
                max_head_bytes: limits.header_bytes,
                stall_timeout: timeouts.stalled,
                ..HttpLimits::default()
            },
            observer: Connections::new(&parts.metrics, ListenerLabel::Public),
            ..ListenerSettings::new("public")
        };
        let gateway = Arc::clone(&self.gateway);
        let serving = accept::run(listener, settings, self.gateway.draining.clone(), move |conn, request| {
            accept::boxed(|| Arc::clone(&gateway).serve(conn, request))
        });
        self.tasks.spawn("clients", serving);
    }

    /// Looks services up. Ready when all have been looked up once and have answered, or after a while.
    fn discover(&self, sources: discovery::Sources) {
        let (gateway, waiting) =
            (Arc::clone(&self.gateway), self.readiness.block("discovery", "services are being looked up"));
        let known = channel::Sender::new(false);
        let mut looked_up = known.subscribe();
        self.spawn("first discovery", async move {
            let first = async {
                let _ = looked_up.wait_for(|known| *known).await;
                all_answered(&gateway).await;
            };
            if tokio::time::timeout(FIRST_ANSWERS, first).await.is_err() {
                tracing::warn!("services have not been looked up, or have not answered yet; serving what is known");
            }
            gateway.coming.fetch_sub(1, Ordering::Relaxed);
            drop(waiting);
        });
        self.spawn("discovery", sources.run(Arc::clone(&self.gateway), known));
    }

    /// Where sidecars say that they are there.
    fn serve_sidecars(&self, listener: Listener, config: &Config, parts: &Parts, room: usize) {
        let (gateway, waiting) =
            (Arc::clone(&self.gateway), self.readiness.block("registrations", "sidecars are still coming"));
        self.spawn("first registrations", async move {
            let _ = tokio::time::timeout(FIRST_ANSWERS, registered(&gateway)).await;
            gateway.coming.fetch_sub(1, Ordering::Relaxed);
            drop(waiting);
        });
        let (bounds, credentials) = (&config.registration, Arc::clone(&parts.credentials));
        let settings = ListenerSettings {
            max_connections: room,
            tls: Some(Arc::new(move || credentials.server_config())),
            peers: Some(Arc::clone(&parts.registered)),
            handshake_timeout: config.timeouts.common.handshake,
            http: HttpLimits {
                head_timeout: config.timeouts.common.header,
                max_head_bytes: config.limits.entrance.header_bytes,
                stall_timeout: SILENT,
                ..HttpLimits::default()
            },
            probe: Some(SILENT / 3),
            observer: Connections::new(&parts.metrics, ListenerLabel::Registration),
            ..ListenerSettings::new("registration")
        };
        let register = Register::new(Arc::clone(&self.gateway), Arc::clone(&parts.credentials), bounds.clone());
        let register = Arc::new(register);
        let serving = accept::run(listener, settings, self.gateway.draining.clone(), move |conn, request| {
            accept::boxed(|| Arc::clone(&register).serve(conn, request))
        });
        self.tasks.spawn("sidecars", serving);
    }

    /// A task that ends with the ingress, wherever it waits.
    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.tasks.stopping();
        self.tasks.spawn(name, async move {
            stopping.run_until_cancelled(task).await;
        });
    }
}

/// `shown` is empty until there is a certificate.
fn serve_admin(
    tasks: &TaskGroup,
    listener: Listener,
    shown: &Arc<OnceLock<Arc<Gateway>>>,
    metrics: &Arc<Metrics>,
    readiness: &Readiness,
) {
    let shown_too = shown;
    let shown = Arc::clone(shown);
    let catalog = move || match shown.get() {
        Some(gateway) => admin::catalog(gateway),
        None => AdminPage::text(http::StatusCode::SERVICE_UNAVAILABLE, "no certificate yet\n"),
    };
    let shown = Arc::clone(shown_too);
    let definitions = move || match shown.get() {
        Some(gateway) => admin::definitions(gateway),
        None => AdminPage::text(http::StatusCode::SERVICE_UNAVAILABLE, "no certificate yet\n"),
    };
    let server = AdminServer::new(Arc::clone(metrics), readiness.clone())
        .page("/catalog", catalog)
        .page("/definitions", definitions)
        .page("/approvals", desk::page)
        .page("/approvals.js", desk::script)
        .page("/approvals.css", desk::style)
        .handler("/approvals/list", at_desk(shown_too))
        .handler("/approvals/decide", at_desk(shown_too));
    tasks.spawn("admin", server.serve(listener, tasks.stopping()));
}

/// Where people approve calls.
fn at_desk(shown: &Arc<OnceLock<Arc<Gateway>>>) -> impl Fn(AdminRequest) -> Answering + Send + Sync + 'static {
    let shown = Arc::clone(shown);
    move |request| match shown.get() {
        Some(gateway) => Box::pin(desk::serve(Arc::clone(gateway), request)),
        None => Box::pin(async { AdminPage::text(http::StatusCode::SERVICE_UNAVAILABLE, "no certificate yet\n") }),
    }
}

/// Until sidecars have come, no more do, and all have answered: an ingress that starts again is ready when it knows what its
/// predecessor did.
async fn registered(gateway: &Gateway) {
    loop {
        tokio::time::sleep(QUIET / 4).await;
        let quiet = gateway.registry.ask(Members::last).is_some_and(|last| last.elapsed() >= QUIET);
        if quiet && gateway.services.load().iter().all(|service| service.asked()) {
            refresh(gateway);
            return;
        }
    }
}

/// Until every service that has replicas has answered.
async fn all_answered(gateway: &Gateway) {
    loop {
        tokio::time::sleep(QUIET / 20).await;
        // One that has no replica has nobody to ask.
        if gateway.services.load().iter().all(|service| service.replicas().is_empty() || service.asked()) {
            refresh(gateway);
            return;
        }
    }
}

/// Unblocks readiness service by service, and all of it after a while.
async fn first_answers(gateway: Arc<Gateway>, mut waiting: Vec<(Arc<Service>, outrigger_runtime::BlockReady)>) {
    let mut generation = gateway.generation.subscribe();
    let answers = async {
        loop {
            // Ready means that what it answered is listed.
            let snapshot = gateway.snapshot.load_full();
            waiting.retain(|(service, _)| !snapshot.has_answer_of(&service.name));
            if waiting.is_empty() || generation.changed().await.is_err() {
                return;
            }
        }
    };
    if tokio::time::timeout(FIRST_ANSWERS, answers).await.is_err() {
        tracing::warn!("some services have not answered yet; serving the others");
    }
}

async fn identity(
    config: &Config,
    admin: SocketAddr,
    readiness: &Readiness,
    metrics: &Arc<Metrics>,
) -> Result<Obtained, ObtainError> {
    match &config.identity.source {
        IdentitySource::Files { .. } => {}
        IdentitySource::Enroll(enroll) => {
            tracing::info!(authority = enroll.url(), %admin, "asking the authority for a certificate");
        }
        IdentitySource::Agent(agent) => tracing::info!(%agent, %admin, "asking the agent for a certificate"),
    }
    let waiting = Waiting { readiness: readiness.clone(), metrics: Arc::clone(metrics) };
    obtain(&config.identity, None, waiting).await
}

/// Connections of clients, and of sidecars that register.
fn room(config: &Config) -> (usize, usize) {
    const SETTING: &str = "limits.connections";
    let (clients, bounds) = (config.limits.entrance.connections, &config.registration);
    if bounds.listen.is_none() {
        return (descriptors::room_for(clients, 1, SETTING), 0);
    }
    // And those that hear that they cannot register, or register anew with another certificate.
    let sidecars = bounds.max_services.saturating_mul(bounds.max_replicas).saturating_add(STRANGERS);
    descriptors::room_for_both(clients, sidecars.min(clients), SETTING)
}

fn load_public(config: &Config) -> Result<Option<Arc<PublicCredentials>>, Error> {
    let Some(tls) = &config.tls else { return Ok(None) };
    let clients = match &tls.client_ca {
        None => ClientAuth::None,
        Some(ca) => ClientAuth::Optional {
            ca: ca.clone(),
            crl: match &config.identity.source {
                IdentitySource::Files { crl, .. } => crl.clone(),
                // What the authority or agent says is asked when the client is identified.
                IdentitySource::Enroll(_) | IdentitySource::Agent(_) => None,
            },
            trust_domain: TrustDomain::parse(&config.identity.trust_domain)?,
        },
    };
    let files = PublicFiles { cert: tls.cert.clone(), key: tls.key.clone() };
    Ok(Some(PublicCredentials::load(files, clients)?))
}

/// Clients with certificates, to be checked as the listener does, and by what our authority has revoked if it says so.
fn open_peers(public: &Arc<PublicCredentials>, enrolled: Option<Arc<Credentials>>) -> Arc<OpenPeers> {
    let public = Arc::clone(public);
    OpenPeers::new(Arc::new(move |certs| {
        public.recheck(certs)?;
        enrolled.as_ref().map_or(Ok(()), |credentials| credentials.recheck(Some(certs)).map(drop))
    }))
}

fn watched_files(config: &Config) -> Vec<PathBuf> {
    let mut files = config.identity.files();
    files.extend(config.file.clone());
    files.extend(config.policy.iter().cloned());
    files.extend(config.clients.tokens_file.clone());
    files.extend(config.sessions.key_file.clone());
    files.extend(config.integrity.lock.clone());
    if let Some(tls) = &config.tls {
        files.extend([tls.cert.clone(), tls.key.clone()]);
        files.extend(tls.client_ca.clone());
    }
    files
}
