//! From settings to a webhook that answers, and to its end: bind first, get a certificate, serve, drain.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use outrigger_inject::Settings;
use outrigger_proxy::accept::{self, ListenerSettings};
use outrigger_proxy::handshake::ServerTlsProvider;
use outrigger_proxy::observe::Connections;
use outrigger_proxy::serve::HttpLimits;
use outrigger_runtime::drain::channel;
use outrigger_runtime::{AdminServer, Exit, ListenOptions, Listener, Readiness, TaskGroup, descriptors};
use outrigger_telemetry::metrics::Listener as ListenerLabel;
use outrigger_telemetry::{Metrics, Role};
use tokio::sync::watch;

use super::api::Api;
use super::cluster::{self, Cluster};
use super::config::{Config, Native};
use super::version::Version;
use super::{certificate, settings};
use crate::daemon;

/// How often files that pods get are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// What is missing until it is known whether the cluster has native sidecars, in `/readyz`: a guess may make pods that never start.
const VERSION: &str = "cluster version";
/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;

/// Serves until a signal.
pub(crate) fn main(config: Option<PathBuf>) -> anyhow::Result<Exit> {
    let config = Config::from_file(config.as_deref())?;
    // An injection takes less than a millisecond; the second thread reads files and verifies certificates.
    daemon::run(2, process(config))
}

async fn process(config: Config) -> anyhow::Result<Exit> {
    let mut signals = daemon::begin(&config.log, &config.warnings)?;
    let listener = Listener::bind(ListenOptions::new(config.serve.listen, "listen"))?;
    let admin = Listener::bind(ListenOptions::new(config.serve.admin, "admin.listen"))?;
    let metrics = Metrics::new(Role::Injector)?;
    let (trigger, draining) = channel();
    let tasks = TaskGroup::new("injector");
    let readiness = Readiness::new();
    readiness.set("webhook", Err("starting".into()));
    let addresses = (listener.address(), admin.address());
    tasks.spawn("admin", AdminServer::new(Arc::clone(&metrics), readiness.clone()).serve(admin, tasks.stopping()));
    daemon::report(&format!("{{\"webhook\":\"{}\",\"admin\":\"{}\"}}\n", addresses.0, addresses.1))?;
    let own = tokio::select! {
        own = certificate::get(&config, &readiness, &metrics, &tasks) => own?,
        signal = signals.next() => {
            tracing::info!(signal, "stopped before there was a certificate");
            tasks.stop(daemon::LAST_WAIT).await;
            return Ok(Exit::Clean);
        }
    };
    let cluster = Arc::new(Cluster::new(config.kubernetes.clone()));
    let settings = follow_settings(&config, own.roots.clone(), &cluster, &readiness, &tasks)?;
    if let (Some(name), Some(roots)) = (config.serve.webhook.clone(), own.roots) {
        let (cluster, readiness) = (Arc::clone(&cluster), readiness.clone());
        let stopping = tasks.stopping();
        // Before the task begins: nobody may find everything ready meanwhile.
        readiness.set(cluster::BLOCKER, Err("not looked at yet".into()));
        tasks.spawn("webhook configuration", async move {
            stopping.run_until_cancelled(cluster.keep_bundle(&name, roots, &readiness)).await;
        });
    }
    let api = Arc::new(Api::new(&config, Arc::clone(&metrics), cluster, settings));
    let listening = listener_settings(&config, own.tls, &metrics);
    let serving = accept::run(listener, listening, draining, move |_, request| {
        // Boxed: an idle connection must not carry the state of a request.
        Box::pin(Arc::clone(&api).serve(request))
    });
    tasks.spawn("api servers", serving);
    readiness.set("webhook", Ok(()));
    tracing::info!(listen = %addresses.0, admin = %addresses.1, trust_domain = config.mesh.trust_domain, "the injector listens");

    Ok(daemon::end(signals, &readiness, trigger, config.serve.drain, tasks).await)
}

/// What pods get, made anew when a file or the roots have changed, and once the cluster's version is known: until
/// then, the injector is not ready.
fn follow_settings(
    config: &Config,
    roots: Option<watch::Receiver<String>>,
    cluster: &Arc<Cluster>,
    readiness: &Readiness,
    tasks: &TaskGroup,
) -> anyhow::Result<Arc<ArcSwap<Settings>>> {
    let read = {
        let config = config.clone();
        move |native| settings::compile(&config, roots.as_ref().map(|roots| roots.borrow().clone()), native)
    };
    let mut native = config.native != Native::Never;
    let current = Arc::new(ArcSwap::from_pointee(read(native)?));
    let (shown, cluster, readiness) = (Arc::clone(&current), Arc::clone(cluster), readiness.clone());
    let mut guessed = config.native == Native::Auto;
    if guessed {
        readiness.set(
            VERSION,
            Err("waiting for `/version` of the API server; `kubernetes.native_sidecars` says it otherwise".into()),
        );
    }
    let stopping = tasks.stopping();
    let read = Arc::new(read);
    tasks.spawn("settings", async move {
        let following = async {
            let mut version = pin!(cluster.version());
            let mut told = String::new();
            loop {
                let read = Arc::clone(&read);
                let Ok(next) = tokio::task::spawn_blocking(move || read(native)).await else { return };
                let settled = !guessed && next.is_ok();
                match next {
                    Ok(next) if next != **shown.load() => {
                        tracing::info!(
                            "pods get something else from now on: files, roots or the cluster's version have changed"
                        );
                        shown.store(Arc::new(next));
                    }
                    Ok(_) => told.clear(),
                    Err(error) => {
                        let error = format!("{error:#}");
                        if error != told {
                            tracing::error!(error, "what the settings name cannot be used; the last good state stays");
                            told = error;
                        }
                    }
                }
                if settled {
                    readiness.set(VERSION, Ok(()));
                }
                tokio::select! {
                    version = &mut version, if guessed => {
                        (native, guessed) = (version >= Version::NATIVE_SIDECARS, false);
                        tracing::info!(native, "whether the cluster has native sidecars");
                    }
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        };
        stopping.run_until_cancelled(following).await;
    });
    Ok(current)
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
