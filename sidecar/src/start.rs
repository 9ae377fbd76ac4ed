//! Puts the parts of a sidecar together: bind first, serve, then be ready when the server is.

use std::{
    ffi::OsString,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use outrigger_config::sections::{IdentitySource, Log, LogFormat as ConfigFormat, LogLevel};
use outrigger_enrol::{Obtained, Waiting, obtain};
use outrigger_identity::{Credentials, SpiffeId, TrustDomain, install_provider, warm_up};
use outrigger_mcp::catalog_kind::Kind;
use outrigger_policy::{Annotations, CapabilityKind, glob::Glob};
use outrigger_proxy::{
    accept::{self, ListenerSettings},
    circumstances::hints,
    legacy::{self, Sessions, keys::Keys},
    listens::Listens,
    observe::Connections,
    peek::PeekLimits,
    peers::OpenPeers,
    serve::HttpLimits,
    trace::TraceRules,
};
use outrigger_runtime::{
    AdminPage, AdminServer, DrainTrigger, Exit, ListenError, ListenOptions, Listener, Readiness, ShutdownSignals,
    TaskGroup,
    admin::JSON,
    descriptors,
    drain::{DrainOutcome, channel},
    records,
};
use outrigger_telemetry::{AccessLog, Metrics, Role, log::LogFormat, metrics::Listener as ListenerLabel};
use thiserror::Error;

use crate::{
    authorize::{Gate, Hints},
    caller_lists::CallerLists,
    config::{Config, Egress},
    drain::{self, Stage, Stages},
    health::{HealthDocument, ready},
    inbound::Inbound,
    keeper::Keeper,
    outbound::{self, Outbound, mesh::Services},
    own_answers::Lists,
    own_directory, probes,
    record::Recorders,
    register::Register,
    reload,
    tasks::{self, Tasks},
    upstream::{
        SessionSettings, Upstream,
        parking::{Parking, ParkingLimits},
    },
};

mod reach;

use reach::{not_inherited, reach, withheld};

/// The wait after the drain was announced, so that an ingress hears of it before the listener closes.
const ANNOUNCE: Duration = Duration::from_millis(200);

/// Why a sidecar does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Certificates cannot be used.
    #[error("identity: {0}")]
    Identity(String),
    /// Policy cannot be used.
    #[error("policy: {0}")]
    Policy(String),
    /// Anything else that the environment lacks.
    #[error("{0}")]
    Other(String),
}

/// A running sidecar.
pub struct Sidecar {
    /// Where the mesh connects.
    pub mesh: SocketAddr,
    /// Where health and metrics are shown.
    pub admin: SocketAddr,
    /// Where the server finds its proxy, if there is one.
    pub egress: Option<SocketAddr>,
    /// Whether it is ready for traffic.
    pub readiness: Readiness,
    inbound: Arc<Inbound>,
    drain: DrainTrigger,
    stages: Stages,
    tasks: TaskGroup,
    deadline: Duration,
}

/// Starts a sidecar inside a tokio runtime. `guard` is how to call this program as the sidecar, for child processes.
///
/// # Errors
/// [`StartError`]; nothing is left running then.
pub async fn start(config: Config, guard: Option<Vec<OsString>>) -> Result<Sidecar, StartError> {
    install_provider();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    own_directory::clean_up();
    let mesh = Listener::bind(ListenOptions::new(config.listen, "listen"))?;
    let admin = Listener::bind(ListenOptions::new(config.admin, "admin.listen"))?;
    let policy = reload::read_policy(&config.policy, &config.service)?;
    let metrics = Metrics::new(Role::Sidecar).map_err(|e| StartError::Other(e.to_string()))?;
    let readiness = Readiness::new();
    readiness.set("server", Err("starting".into()));
    let (mesh_address, admin_address) = (mesh.address(), admin.address());
    let tasks = TaskGroup::new("sidecar");
    // Before there is a certificate: it says what is waited for.
    let shown = Arc::new(OnceLock::new());
    let stages = Stages::new();
    let pages = admin_pages(&shown, &metrics, readiness.clone());
    tasks.spawn("admin", hooks(pages, &config, &stages).serve(admin, tasks.stopping()));
    let Obtained { credentials, keeper } = identity(&config, admin_address, &readiness, &metrics).await?;
    metrics.certificate_expiry("workload", credentials.not_after());
    let (trigger, drain) = channel();
    let outbound =
        config.egress.as_ref().map(|egress| outbound(&config, egress, &credentials, &metrics)).transpose()?;
    let egress = outbound.as_ref().map(|(_, outbound)| outbound.as_ref());
    let inbound = inbound(&config, egress, guard, credentials.clone(), policy, &metrics, drain.clone())?;

    // Nobody else sets it.
    let _ = shown.set(inbound.clone());
    let sidecar = Sidecar {
        mesh: mesh_address,
        admin: admin_address,
        egress: egress.map(Outbound::listen_address),
        readiness: readiness.clone(),
        inbound: inbound.clone(),
        drain: trigger,
        stages,
        tasks,
        deadline: config.timeouts.common.drain,
    };
    // The first handshake costs tens of milliseconds of CPU; paid now, no caller waits for it.
    let warmed = tokio::task::spawn_blocking(warm_up).await;
    warmed.map_err(|e| StartError::Other(e.to_string()))?.map_err(|e| StartError::Identity(e.to_string()))?;

    let tasks = &sidecar.tasks;
    let logs_out = outbound.as_ref().map(|(_, outbound)| Arc::clone(outbound));
    if let Some((entrance, outbound)) = outbound {
        if let Some(file) = config.file.clone() {
            let (withheld, command) = (withheld(&config), config.given_command.clone());
            let read = move |name: &str, text: &str| {
                let env = |name: &str| variable(name, command.as_deref());
                let egress = Config::from_sources(Some((name, text)), &env).map_err(|e| e.to_string())?.egress;
                egress.map(|egress| not_inherited(&egress, withheld.as_deref()).map(|()| egress)).transpose()
            };
            endless(tasks, "egress rules", reload::egress(outbound.clone(), metrics.clone(), file, read));
        }
        // Until the end: what calls do while the drain waits for them must still get out.
        tasks.spawn("egress", outbound.run(entrance, tasks.stopping(), tasks.stopping()));
    }
    endless(tasks, "keeper", inbound.keeper.clone().run());
    endless(tasks, "readiness", follow_readiness(inbound.clone(), readiness.clone()));
    endless(tasks, "housekeeping", housekeeping(inbound.clone()));
    let sweeper = inbound.clone();
    endless(tasks, "sessions", async move { sweeper.sessions.sweep().await });
    let checking = credentials.clone();
    let peers = OpenPeers::new(Arc::new(move |certs| checking.recheck(Some(certs)).map(drop)));
    if let Some(keeper) = keeper {
        endless(tasks, "identity", keeper.run(reload::renewed(peers.clone(), metrics.clone())));
    }
    endless(tasks, "certificates", reload::certificates(credentials, peers.clone(), metrics.clone()));
    endless(tasks, "policies", reload::policies(inbound.clone(), logs_out, config.policy.clone()));
    if let Some(register) = register(&config, mesh_address, &inbound.credentials, &metrics)? {
        endless(tasks, "registration", register.run());
    }
    let serving = inbound.clone();
    let settings = listener_settings(&config, &inbound, peers, &metrics);
    tasks.spawn(
        "mesh",
        accept::run(mesh, settings, drain, move |conn, request| accept::boxed(|| serving.clone().serve(conn, request))),
    );
    Ok(sidecar)
}

impl Sidecar {
    /// Stops: says so, lets calls finish until the deadline or until `hurry` resolves, then ends the server.
    pub async fn stop(self, hurry: impl Future<Output = ()>) -> DrainOutcome {
        self.stop_after(hurry, std::future::ready(())).await
    }

    /// The same, but once no call is left it stays for the server, which still has its way out, until `last` resolves.
    pub async fn stop_after(self, hurry: impl Future<Output = ()>, last: impl Future<Output = ()>) -> DrainOutcome {
        self.stages.reach(Stage::Draining);
        self.inbound.keeper.draining();
        tokio::time::sleep(ANNOUNCE).await;
        let outcome = self.drain.drain(self.deadline, hurry).await;
        self.stages.reach(Stage::Drained);
        last.await;
        // First the keeper, or it would start the server again.
        let left = self.tasks.stop(Duration::from_secs(2)).await;
        if !left.is_empty() {
            tracing::warn!(?left, "tasks that did not end");
        }
        self.inbound.upstream.close().await;
        self.inbound.recorders.close();
        outcome
    }
}

/// Adds what a kubelet asks besides.
fn hooks(mut pages: AdminServer, config: &Config, stages: &Stages) -> AdminServer {
    if config.drain_hook {
        let stages = stages.clone();
        pages = pages.handler(drain::PATH, move |request| Box::pin(stages.clone().answer(request)));
    }
    let probes = Arc::new(config.probes.clone());
    pages.handler(probes::PREFIX, move |request| Box::pin(probes::answer(Arc::clone(&probes), request)))
}

/// A task that goes on until the sidecar stops.
fn endless(tasks: &TaskGroup, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    let stopping = tasks.stopping();
    tasks.spawn(name, async move {
        stopping.run_until_cancelled(task).await;
    });
}

fn outbound(
    config: &Config,
    egress: &Egress,
    credentials: &Arc<Credentials>,
    metrics: &Arc<Metrics>,
) -> Result<(outbound::Entrance, Arc<Outbound>), StartError> {
    let services = Services::new(Arc::clone(credentials), config.mesh.clone());
    outbound::bind(&config.service, egress, Some(services), metrics)
}

/// What makes this sidecar known, if the settings say where.
fn register(
    config: &Config,
    mesh: SocketAddr,
    credentials: &Arc<Credentials>,
    metrics: &Arc<Metrics>,
) -> Result<Option<Register>, StartError> {
    let settings = &config.register;
    if settings.ingress.is_empty() {
        return Ok(None);
    }
    let of_domain = || format!("spiffe://{}/ingress", config.identity.trust_domain);
    let expected = SpiffeId::parse(&settings.spiffe_id.clone().unwrap_or_else(of_domain));
    let expected = expected.map_err(|error| StartError::Identity(error.to_string()))?;
    let place = (config.service.as_str(), mesh.port(), settings.advertise.as_ref());
    let (ingress, connect) = (settings.ingress.clone(), config.timeouts.common.connect);
    Ok(Some(Register::new(Arc::clone(credentials), expected, ingress, place, connect, Arc::clone(metrics))))
}

async fn identity(
    config: &Config,
    admin: SocketAddr,
    readiness: &Readiness,
    metrics: &Arc<Metrics>,
) -> Result<Obtained, StartError> {
    let wrong = |e: &dyn std::fmt::Display| StartError::Identity(e.to_string());
    let domain = TrustDomain::parse(&config.identity.trust_domain).map_err(|e| wrong(&e))?;
    let expected = domain.service(&config.service).map_err(|e| wrong(&e))?;
    match &config.identity.source {
        IdentitySource::Files { .. } => {}
        IdentitySource::Enroll(enroll) => {
            tracing::info!(authority = enroll.url(), %admin, "asking the authority for a certificate");
        }
        IdentitySource::Agent(agent) => tracing::info!(%agent, %admin, "asking the agent for a certificate"),
    }
    let waiting = Waiting { readiness: readiness.clone(), metrics: Arc::clone(metrics) };
    obtain(&config.identity, Some(expected), waiting).await.map_err(|e| wrong(&e))
}

/// Of what the service lists to everybody. Tools of lists that are one caller's own count as tools without hints.
fn hints_of(keeper: Arc<Keeper>) -> Hints {
    Box::new(move |kind, name| match kind {
        CapabilityKind::Tool => hints(keeper.offer().catalog.find(Kind::Tool, name)),
        CapabilityKind::Prompt | CapabilityKind::Resource | CapabilityKind::Template => Annotations::default(),
    })
}

fn inbound(
    config: &Config,
    outbound: Option<&Outbound>,
    guard: Option<Vec<OsString>>,
    credentials: Arc<Credentials>,
    policy: outrigger_policy::PolicySet,
    metrics: &Arc<Metrics>,
    drain: outrigger_runtime::DrainWatcher,
) -> Result<Arc<Inbound>, StartError> {
    let other = |e: &dyn std::fmt::Display| StartError::Other(e.to_string());
    let service_metrics = metrics.service(&config.service);
    let settings = session_settings(config);
    let held = &config.limits.session;
    let listens = Listens::new(held.listens, held.listens_per_principal, service_metrics.clone());
    let upstream = Arc::new(Upstream::new(&config.service, reach(config, outbound, guard)?, settings, metrics));
    let keeper = Keeper::new(upstream.clone(), config.catalog.clone(), config.restart.clone(), service_metrics.clone());
    let caller_lists = CallerLists::new(upstream.clone(), keeper.clone(), config.catalog.clone());
    let recorders = Recorders {
        metrics: service_metrics.clone(),
        access: AccessLog::start(&records::sink(&config.access_log), metrics.access_dropped())
            .map_err(|e| other(&e))?,
        audit: records::audit(&config.audit, &config.audit_trail, metrics).map_err(|e| other(&e))?,
    };
    let replica = replica_id().map_err(|e| other(&e))?;
    let globs = |patterns: &[String]| patterns.iter().map(|one| Glob::new(one)).collect::<Result<Vec<_>, _>>();
    let ingresses = match config.ingresses.as_slice() {
        [] => &[format!("spiffe://{}/ingress", config.identity.trust_domain)],
        named => named,
    };
    let ingresses = globs(ingresses).map_err(|e| other(&e))?;
    Ok(Arc::new(Inbound {
        service: config.service.as_str().into(),
        credentials,
        allowed_callers: globs(&config.allowed_callers).map_err(|e| other(&e))?,
        ingresses: ingresses.clone(),
        header_checks: config.header_checks,
        peek: PeekLimits { body_bytes: config.limits.entrance.body_bytes, body_timeout: config.timeouts.common.body },
        gate: Gate::new(
            &config.service,
            reload::rules(policy),
            config.limits.entrance.in_flight,
            service_metrics.clone(),
            hints_of(keeper.clone()),
        )
        .with_ingresses(ingresses),
        upstream,
        keeper,
        parking: Arc::new(
            Parking::new(&replica, &config.service, parking_limits(config), metrics).map_err(|e| other(&e))?,
        ),
        tasks: Arc::new(Tasks::new(&replica, task_settings(config), service_metrics.clone()).map_err(|e| other(&e))?),
        lists: Lists::default(),
        caller_lists,
        health: HealthDocument { service: config.service.clone(), replica, limit: config.limits.entrance.in_flight },
        sessions: Sessions::new(
            client_sessions(config, &listens),
            Keys::random().map_err(|e| other(&e))?,
            metrics,
            service_metrics,
        ),
        listens,
        subscriptions: held.subscriptions,
        event_bytes: config.limits.entrance.event_bytes,
        recorders: Arc::new(recorders),
        assertions: metrics.assertions(),
        metrics: metrics.clone(),
        idle: config.timeouts.common.request,
        served: AtomicU64::new(0),
        calls: outbound.map(|outbound| outbound.calls.clone()),
        trace: TraceRules { incoming: config.trace.accept_incoming, mcpx: config.trace.accept_mcpx },
        requests_per_connection: config.limits.entrance.requests_per_connection,
        drain,
    }))
}

fn parking_limits(config: &Config) -> ParkingLimits {
    ParkingLimits {
        all: config.limits.parked_calls,
        each: config.limits.parked_calls_per_principal,
        patience: config.timeouts.answer,
    }
}

fn client_sessions(config: &Config, listens: &Arc<Listens>) -> legacy::Settings {
    let (limits, timeouts) = (&config.limits, &config.timeouts);
    legacy::Settings {
        http_sse: config.http_sse,
        sessions: limits.client_sessions,
        sessions_per_principal: limits.client_sessions_per_principal,
        names: ["limits.client_sessions", "limits.client_sessions_per_principal"],
        listens: listens.clone(),
        idle: timeouts.client_session_idle,
        // The key ends with the process, so nobody takes a session up; those that ended stay ended this long.
        max_age: timeouts.client_session_idle,
        each: legacy::Bounds {
            request: timeouts.common.request,
            keepalive: crate::listen::KEEP_ALIVE,
            requests: limits.session.session_requests,
            subscriptions: limits.session.subscriptions,
            resume: legacy::Kept { bytes: limits.session.resume_bytes, life: timeouts.resume },
        },
    }
}

fn task_settings(config: &Config) -> tasks::Settings {
    tasks::Settings { max: config.limits.tasks, life: config.timeouts.task }
}

fn session_settings(config: &Config) -> SessionSettings {
    SessionSettings {
        scope: config.session,
        era: config.era,
        max_sessions: (config.limits.sessions, config.limits.sessions_per_principal),
        max_children: (config.limits.children, config.limits.children_per_principal),
        idle: config.timeouts.session_idle,
        probe: config.timeouts.probe,
        // Package runners install on first use; the greeting that follows must survive that.
        initialize: config.timeouts.probe.max(Duration::from_secs(60)),
        line_bytes: config.limits.line_bytes,
    }
}

fn listener_settings(
    config: &Config,
    inbound: &Inbound,
    peers: Arc<OpenPeers>,
    metrics: &Arc<Metrics>,
) -> ListenerSettings {
    let credentials = inbound.credentials.clone();
    ListenerSettings {
        max_connections: descriptors::room_for(config.limits.entrance.connections, 1, "limits.connections"),
        tls: Some(Arc::new(move || credentials.server_config())),
        peers: Some(peers),
        handshake_timeout: config.timeouts.common.handshake,
        http: HttpLimits {
            head_timeout: config.timeouts.common.header.max(config.timeouts.common.idle),
            max_head_bytes: config.limits.entrance.header_bytes,
            stall_timeout: config.timeouts.common.stalled,
            ..HttpLimits::default()
        },
        observer: Connections::new(metrics, ListenerLabel::Mesh),
        ..ListenerSettings::new("mesh")
    }
}

/// `shown` is empty until there is a certificate.
fn admin_pages(shown: &Arc<OnceLock<Arc<Inbound>>>, metrics: &Arc<Metrics>, readiness: Readiness) -> AdminServer {
    let shown = shown.clone();
    AdminServer::new(metrics.clone(), readiness).page("/catalog", move || {
        let Some(shown) = shown.get() else {
            return AdminPage::text(http::StatusCode::SERVICE_UNAVAILABLE, "no certificate yet\n");
        };
        let offer = shown.keeper.offer();
        let pieces = shown.health.pieces(&offer, shown.gate.concurrency.in_flight());
        AdminPage::ok(JSON, outrigger_mcp::edit::concat(&pieces))
    })
}

async fn follow_readiness(inbound: Arc<Inbound>, readiness: Readiness) {
    let mut offers = inbound.keeper.offers();
    loop {
        let state = ready(&offers.borrow_and_update());
        readiness.set("server", state);
        if offers.changed().await.is_err() {
            return;
        }
    }
}

async fn housekeeping(inbound: Arc<Inbound>) {
    let mut tick = tokio::time::interval(Duration::from_secs(10));
    let (mut seen, mut given_back) = (0, None);
    loop {
        tick.tick().await;
        let served = inbound.served.load(Ordering::Relaxed);
        // Idle since the last look: what served the requests before, or only starting, need not stay resident.
        if served == seen && given_back != Some(served) {
            given_back = Some(served);
            if let Err(error) = outrigger_resident::give_back_code() {
                tracing::debug!(%error, "unused code stays resident");
            }
        }
        seen = served;
        inbound.upstream.reap().await;
        inbound.parking.expire().await;
        inbound.tasks.expire();
        inbound.gate.rules.load().limits.forget_idle(inbound.gate.now());
    }
}

/// Starts the log as the settings say.
pub(crate) fn init_log(log: &Log) -> Result<(), impl std::fmt::Display + use<>> {
    let format = match log.format {
        ConfigFormat::Text => LogFormat::Text,
        ConfigFormat::Json => LogFormat::Json,
    };
    outrigger_telemetry::log::init(format, level(log.level))
}

fn level(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}

/// A new one for each process: what an earlier one held is gone with it. Of the form of
/// [`outrigger_mcp::bridge::owner::is_replica`].
fn replica_id() -> Result<String, &'static str> {
    let mut bytes = [0u8; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| "no randomness")?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// The whole life of the process: start, report where it listens, wait for a signal, drain.
pub async fn process(config: Config, self_command: Vec<OsString>) -> Exit {
    if let Err(error) = init_log(&config.log) {
        return fail(&error);
    }
    let mut signals = match ShutdownSignals::install() {
        Ok(signals) => signals,
        Err(error) => return fail(&error),
    };
    let service = config.service.clone();
    let starting = Box::pin(start(config, (!self_command.is_empty()).then_some(self_command)));
    let started = tokio::select! {
        started = starting => started,
        // It may be waiting for a certificate; nothing was served yet.
        signal = signals.next() => {
            tracing::info!(signal, "ending before the start was complete");
            return Exit::Clean;
        }
    };
    let sidecar = match started {
        Ok(sidecar) => sidecar,
        Err(error) => return fail(&error),
    };
    tracing::info!(service, mesh = %sidecar.mesh, admin = %sidecar.admin, "listening");
    if let Some(egress) = sidecar.egress {
        tracing::info!(service, %egress, "listening for what the server dials");
    }
    if let Some(path) = std::env::var_os("OUTRIGGER_REPORT") {
        let egress = sidecar.egress.map(|egress| format!(",\"egress\":\"{egress}\"")).unwrap_or_default();
        let text = format!("{{\"mesh\":\"{}\",\"admin\":\"{}\"{egress}}}\n", sidecar.mesh, sidecar.admin);
        if let Err(error) = report(path.as_ref(), &text) {
            return fail(&format!("cannot write {}: {error}", path.display()));
        }
    }
    let stages = sidecar.stages.clone();
    let outcome = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "draining");
            let hurry = async move {
                signals.next().await;
            };
            sidecar.stop(hurry).await
        }
        () = stages.reached(Stage::Asked) => {
            tracing::info!("draining, as a hook asks");
            // A signal ends the drain, and one after the drain the process: the pod is ending, and that will come.
            let signals = tokio::sync::Mutex::new(signals);
            let next = || async {
                signals.lock().await.next().await;
            };
            sidecar.stop_after(next(), next()).await
        }
    };
    match outcome {
        DrainOutcome::Finished => Exit::Clean,
        DrainOutcome::Forced { .. } => Exit::Forced,
    }
}

/// A variable of this process; the command is what the command line gives, if it gives one.
pub(crate) fn variable(name: &str, command: Option<&str>) -> Option<String> {
    let given = command.filter(|_| name == "OUTRIGGER_COMMAND").map(str::to_owned);
    given.or_else(|| std::env::var(name).ok())
}

/// Writes a small file so that a reader sees all of it or nothing.
pub(crate) fn report(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, text)?;
    std::fs::rename(temporary, path)
}

pub(crate) fn fail(error: &dyn std::fmt::Display) -> Exit {
    tracing::error!("{error}");
    // The log may not be up yet, and this is the last word.
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "outrigger-sidecar: {error}");
    Exit::Failed
}
