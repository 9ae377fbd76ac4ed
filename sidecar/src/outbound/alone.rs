//! The outbound half as a process of its own: `outrigger-sidecar --egress-only`.

use std::net::SocketAddr;
use std::time::Duration;

use outrigger_runtime::watch::DEFAULT_INTERVAL;
use outrigger_runtime::{
    AdminServer, Exit, FileWatcher, ListenOptions, Listener, Readiness, ShutdownSignals, TaskGroup, descriptors,
};
use outrigger_telemetry::{Metrics, Role};
use tokio_util::sync::CancellationToken;

use super::bind;
use crate::config::EgressOnly;
use crate::own_directory;
use crate::reload;
use crate::start::{StartError, fail, init_log, report};

/// How long open connections may go on after the first signal.
const DRAIN: Duration = Duration::from_secs(10);

/// A running outbound half.
pub struct Alone {
    /// Where the proxy listens.
    pub egress: SocketAddr,
    /// Where the resolver for the server listens.
    pub dns: Option<SocketAddr>,
    /// Where health and metrics are shown.
    pub admin: Option<SocketAddr>,
    tasks: TaskGroup,
    stop: CancellationToken,
    cut: CancellationToken,
    outbound: std::sync::Arc<super::Outbound>,
}

/// Starts inside a tokio runtime.
///
/// # Errors
/// [`StartError`]; nothing is left running then.
pub fn start(config: &EgressOnly) -> Result<Alone, StartError> {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    own_directory::clean_up();
    let metrics = Metrics::new(Role::Sidecar).map_err(|e| StartError::Other(e.to_string()))?;
    let (entrance, outbound) = bind(&config.service, &config.egress, None, &metrics)?;
    let admin = config.admin.map(|at| Listener::bind(ListenOptions::new(at, "admin.listen"))).transpose()?;
    let hangups = FileWatcher::new([], DEFAULT_INTERVAL);
    let mut hangups = hangups.map_err(|error| StartError::Other(format!("cannot listen for SIGHUP: {error}")))?;
    let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
    let alone = Alone {
        egress: outbound.listen_address(),
        dns: entrance.dns_address(),
        admin: admin.as_ref().map(Listener::address),
        tasks: TaskGroup::new("egress"),
        stop: stop.clone(),
        cut: cut.clone(),
        outbound: outbound.clone(),
    };
    let watched = metrics.clone();
    if let Some(admin) = admin {
        alone.tasks.spawn("admin", AdminServer::new(metrics, Readiness::new()).serve(admin, cut.clone()));
    }
    let stopping = alone.tasks.stopping();
    let (hearing, ended) = (outbound.clone(), stopping.clone());
    alone.tasks.spawn("log", async move {
        // No files are watched: all that there is to hear is SIGHUP, which would end the process otherwise.
        while ended.run_until_cancelled(hangups.changed()).await.is_some() {
            hearing.reopen();
        }
    });
    if let Some(file) = config.file.clone() {
        let read = |name: &str, text: &str| {
            let env = |name: &str| std::env::var(name).ok();
            let read = EgressOnly::from_sources(Some((name, text)), &env);
            read.map(|config| Some(config.egress)).map_err(|e| e.to_string())
        };
        let reloading = reload::egress(outbound.clone(), watched, file, read);
        alone.tasks.spawn("egress rules", async move {
            stopping.run_until_cancelled(reloading).await;
        });
    }
    alone.tasks.spawn("egress", outbound.run(entrance, stop, cut));
    Ok(alone)
}

impl Alone {
    /// Stops: takes no more connections, lets open ones go on until a deadline or until `hurry` resolves.
    pub async fn stop(self, hurry: impl Future<Output = ()>) {
        self.stop.cancel();
        let ended = async {
            // What serves the proxy ends when its last connection does.
            while self.tasks.running().contains(&"egress") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = ended => {}
            () = hurry => {}
            () = tokio::time::sleep(DRAIN) => {}
        }
        self.cut.cancel();
        self.tasks.stop(Duration::from_secs(2)).await;
        self.outbound.close();
    }
}

/// The whole life of the process.
pub async fn process(config: EgressOnly) -> Exit {
    if let Err(error) = init_log(&config.log) {
        return fail(&error);
    }
    // It starts nobody who would inherit that.
    descriptors::raise_limit();
    let mut signals = match ShutdownSignals::install() {
        Ok(signals) => signals,
        Err(error) => return fail(&error),
    };
    let alone = match start(&config) {
        Ok(alone) => alone,
        Err(error) => return fail(&error),
    };
    let (service, mode) = (&config.service, config.egress.mode.as_str());
    tracing::info!(service, egress = %alone.egress, mode, rules = config.egress.rules.rules().len(), "listening");
    if let Some(path) = std::env::var_os("OUTRIGGER_REPORT") {
        let admin = alone.admin.map(|admin| format!(",\"admin\":\"{admin}\"")).unwrap_or_default();
        let text = format!("{{\"egress\":\"{}\"{admin}}}\n", alone.egress);
        if let Err(error) = report(path.as_ref(), &text) {
            return fail(&format!("cannot write {}: {error}", path.display()));
        }
    }
    let signal = signals.next().await;
    tracing::info!(signal, "draining");
    alone
        .stop(async move {
            signals.next().await;
        })
        .await;
    Exit::Clean
}
