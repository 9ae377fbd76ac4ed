//! From settings to an authority that answers, and to its end: bind first, serve, drain.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use outrigger_proxy::accept::{self, ListenerSettings};
use outrigger_proxy::observe::Connections;
use outrigger_proxy::serve::HttpLimits;
use outrigger_runtime::drain::channel;
use outrigger_runtime::{AdminServer, Exit, ListenOptions, Listener, Readiness, TaskGroup, descriptors, health_check};
use outrigger_telemetry::metrics::Listener as ListenerLabel;
use outrigger_telemetry::{Metrics, Role};

use super::api::Api;
use super::audit::Audit;
use super::config::Config;
use super::issue::Issuer;
use super::join;
use super::rate::RateLimit;
use super::state::{self, State, follow};
use crate::daemon;

/// Bytes of a request's head.
const HEAD_BYTES: usize = 8 * 1024;

/// Asks a running one, which has the same settings, whether it is ready.
pub(crate) fn health(config: Option<&Path>) -> anyhow::Result<Exit> {
    let config = Config::from_file(config)?;
    Ok(outrigger_runtime::run(1, health_check::check(config.admin)))
}

/// Serves until a signal.
pub(crate) fn main(config: Option<PathBuf>, dir: Option<PathBuf>) -> anyhow::Result<Exit> {
    let mut config = Config::from_file(config.as_deref())?;
    if let Some(dir) = dir {
        if config.audit == config.dir.join("audit.jsonl") {
            config.audit = dir.join("audit.jsonl");
        }
        config.dir = dir;
    }
    // Signing is quick; two threads keep a slow disk from holding up those who only listen for news.
    daemon::run(2, process(config))
}

async fn process(config: Config) -> anyhow::Result<Exit> {
    let signals = daemon::begin(&config.log, &config.warnings)?;
    let listener = Listener::bind(ListenOptions::new(config.listen, "listen"))?;
    let admin = Listener::bind(ListenOptions::new(config.admin, "admin.listen"))?;
    let metrics = Metrics::new(Role::Authority)?;
    if let Some(trust_domain) = &config.trust_domain {
        state::make(&config.dir, trust_domain)?;
    }
    let state = Arc::new(State::load(&config.dir)?);
    if let Some(join) = &config.join {
        join::keep(&config.dir, join)?;
    }
    metrics.certificate_expiry("authority", state.credentials.not_after());
    let audit = Audit::open(&config.audit, config.dir.join("audit.key"), metrics.audit_sequence());
    let audit = Arc::new(audit.with_context(|| format!("cannot open the audit {}", config.audit.display()))?);

    let (trigger, draining) = channel();
    let tasks = TaskGroup::new("authority");
    let readiness = Readiness::new();
    let stopping = tasks.stopping();
    let following = follow(Arc::clone(&state), Arc::clone(&audit), Arc::clone(&metrics));
    tasks.spawn("directory", async move {
        stopping.run_until_cancelled(following).await;
    });
    if let Some(join) = config.join.clone() {
        let (stopping, dir) = (tasks.stopping(), config.dir.clone());
        tasks.spawn("join", async move {
            stopping.run_until_cancelled(join::follow(dir, join)).await;
        });
    }
    let addresses = (listener.address(), admin.address());
    tasks.spawn("admin", AdminServer::new(Arc::clone(&metrics), readiness.clone()).serve(admin, tasks.stopping()));
    let api = Arc::new(Api {
        issuer: Arc::new(Issuer::new(&config, Arc::clone(&state), audit, Arc::clone(&metrics))),
        rate: RateLimit::new(config.requests),
        body_bytes: config.body_bytes,
        body_timeout: config.body,
        draining: draining.clone(),
    });
    let settings = listener_settings(&config, &state, &metrics);
    let serving = accept::run(listener, settings, draining, move |conn, request| {
        // Boxed: an idle connection must not carry the state of a request.
        Box::pin(Arc::clone(&api).serve(conn, request))
    });
    tasks.spawn("workloads", serving);
    let domain = state.authority.load().trust_domain().to_string();
    tracing::info!(listen = %addresses.0, admin = %addresses.1, trust_domain = domain, "the authority listens");
    daemon::report(&format!("{{\"ca\":\"{}\",\"admin\":\"{}\"}}\n", addresses.0, addresses.1))?;
    Ok(daemon::end(signals, &readiness, trigger, config.drain, tasks).await)
}

fn listener_settings(config: &Config, state: &Arc<State>, metrics: &Arc<Metrics>) -> ListenerSettings {
    let state = Arc::clone(state);
    ListenerSettings {
        max_connections: descriptors::room_for(config.connections, 1, "limits.connections"),
        tls: Some(Arc::new(move || state.credentials.server_config())),
        handshake_timeout: config.handshake,
        http: HttpLimits { max_head_bytes: HEAD_BYTES, ..HttpLimits::default() },
        observer: Connections::new(metrics, ListenerLabel::Authority),
        ..ListenerSettings::new("authority")
    }
}
