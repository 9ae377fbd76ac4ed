//! From settings to a webhook that answers, and to its end: bind first, get a certificate, serve, drain.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::sections::LogFormat as ConfigFormat;
use outrigger_identity::install_provider;
use outrigger_proxy::accept::{self, ListenerSettings};
use outrigger_proxy::handshake::ServerTlsProvider;
use outrigger_proxy::observe::Connections;
use outrigger_proxy::serve::HttpLimits;
use outrigger_runtime::drain::{DrainOutcome, channel};
use outrigger_runtime::{
    AdminServer, Exit, ListenOptions, Listener, Readiness, ShutdownSignals, TaskGroup, descriptors,
};
use outrigger_telemetry::log::{self, LogFormat};
use outrigger_telemetry::metrics::Listener as ListenerLabel;
use outrigger_telemetry::{Metrics, Role};

use super::api::Api;
use super::certificate;
use super::config::Config;
use crate::files;

/// For tasks that were asked to stop.
const LAST_WAIT: Duration = Duration::from_secs(1);
/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;

/// Serves until a signal.
pub(crate) fn main(config: Option<PathBuf>) -> anyhow::Result<Exit> {
    let config = Config::from_file(config.as_deref())?;
    let mut failed = None;
    // An injection takes less than a millisecond; the second thread reads files and verifies certificates.
    let exit = outrigger_runtime::run(2, async {
        process(config).await.unwrap_or_else(|error| {
            failed = Some(error);
            Exit::Failed
        })
    });
    failed.map_or(Ok(exit), Err)
}

async fn process(config: Config) -> anyhow::Result<Exit> {
    let format = match config.log.format {
        ConfigFormat::Text => LogFormat::Text,
        ConfigFormat::Json => LogFormat::Json,
    };
    log::init(format, config.log.level.as_str())?;
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    install_provider();
    descriptors::raise_limit();
    let mut signals = ShutdownSignals::install()?;
    let listener = Listener::bind(ListenOptions::new(config.serve.listen, "listen"))?;
    let admin = Listener::bind(ListenOptions::new(config.serve.admin, "admin.listen"))?;
    let metrics = Metrics::new(Role::Injector)?;
    let (trigger, draining) = channel();
    let tasks = TaskGroup::new("injector");
    let readiness = Readiness::new();
    readiness.set("webhook", Err("starting".into()));
    let addresses = (listener.address(), admin.address());
    tasks.spawn("admin", AdminServer::new(Arc::clone(&metrics), readiness.clone()).serve(admin, tasks.stopping()));
    if let Some(path) = std::env::var_os("OUTRIGGER_REPORT") {
        let text = format!("{{\"webhook\":\"{}\",\"admin\":\"{}\"}}\n", addresses.0, addresses.1);
        files::write(std::path::Path::new(&path), text.as_bytes(), files::PUBLIC)?;
    }
    let own = tokio::select! {
        own = certificate::get(&config, &readiness, &metrics, &tasks) => own?,
        signal = signals.next() => {
            tracing::info!(signal, "stopped before there was a certificate");
            tasks.stop(LAST_WAIT).await;
            return Ok(Exit::Clean);
        }
    };
    let api = Arc::new(Api::new(&config, Arc::clone(&metrics)));
    let settings = listener_settings(&config, own.tls, &metrics);
    let serving = accept::run(listener, settings, draining, move |_, request| {
        // Boxed: an idle connection must not carry the state of a request.
        Box::pin(Arc::clone(&api).serve(request))
    });
    tasks.spawn("api servers", serving);
    readiness.set("webhook", Ok(()));
    tracing::info!(listen = %addresses.0, admin = %addresses.1, trust_domain = config.mesh.trust_domain, "the injector listens");

    let signal = signals.next().await;
    tracing::info!(signal, "draining");
    readiness.set("draining", Err("shutting down".into()));
    let hurry = async {
        signals.next().await;
    };
    let outcome = trigger.drain(config.serve.drain, hurry).await;
    tasks.stop(LAST_WAIT).await;
    Ok(match outcome {
        DrainOutcome::Finished => Exit::Clean,
        DrainOutcome::Forced { .. } => Exit::Forced,
    })
}

fn listener_settings(config: &Config, tls: ServerTlsProvider, metrics: &Arc<Metrics>) -> ListenerSettings {
    ListenerSettings {
        max_connections: descriptors::room_for(config.serve.connections, 1, "limits.connections"),
        tls: Some(tls),
        handshake_timeout: config.serve.handshake,
        http: HttpLimits { max_head_bytes: HEAD_BYTES, ..HttpLimits::default() },
        observer: Connections::new(metrics, ListenerLabel::Webhook),
        ..ListenerSettings::new("webhook")
    }
}
