//! From settings to a [`Gateway`]: what it holds, with the bounds of each.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;
use outrigger_config::kinds::{Scheme, Url};
use outrigger_config::sections::IdentitySource;
use outrigger_proxy::legacy::keys::Keys;
use outrigger_proxy::legacy::{self, Sessions};
use outrigger_proxy::listens::Listens;
use outrigger_runtime::{drain, records};
use outrigger_telemetry::{AccessLog, Metrics};
use tokio::sync::{Notify, watch as channel};
use tokio_util::task::TaskTracker;

use super::{Error, Parts};
use crate::approvals::Approvals;
use crate::caller_lists::CallerLists;
use crate::config::{Config, Registration};
use crate::entrance::Entrance;
use crate::gateway::Gateway;
use crate::identify::Clients;
use crate::in_order::InOrder;
use crate::integrity::Integrity;
use crate::lists::CursorKey;
use crate::members::{Bounds, Members};
use crate::oauth::OAuth;
use crate::policy::{self, PolicyState};
use crate::quota::Store;
use crate::record::Recorder;
use crate::registry::Registry;
use crate::reload::read_tokens;
use crate::services::{Service, Surroundings};
use crate::snapshot::Snapshot;

/// All that serves requests.
pub(super) fn assemble(config: &Config, parts: &Parts, draining: drain::DrainWatcher) -> Result<Gateway, Error> {
    let metrics = &parts.metrics;
    let with = Surroundings {
        credentials: &parts.credentials,
        metrics,
        connect: config.timeouts.common.connect,
        in_flight: config.limits.entrance.in_flight,
    };
    let services = config.services.iter().map(|service| Service::new(service, &with).map(Arc::new));
    let services = Arc::new(services.collect::<Result<Vec<_>, _>>()?);
    let tokens = match &config.clients.tokens_file {
        Some(path) => read_tokens(path).map_err(Error::Tokens)?,
        None => config.clients.tokens.clone(),
    };
    let keys = match &config.sessions.key_file {
        Some(path) => Keys::load(path)?,
        None => Keys::random()?,
    };
    let with_certificates = config.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    let merged = metrics.service("*");
    let held = &config.limits.session;
    let listens = Listens::new(held.listens, held.listens_per_principal, Arc::clone(&merged));
    let policies = policy::Sources::new(config.policy.clone(), config.discovery.has_policies());
    let recorder = Recorder {
        access: AccessLog::start(&records::sink(&config.access_log), metrics.access_dropped())
            .map_err(|error| Error::Access(error.to_string()))?,
        audit: records::audit(&config.audit, &config.audit_trail, metrics)?,
        metrics: Arc::clone(metrics),
        merged: Arc::clone(&merged),
    };
    let recorder = Arc::new(recorder);
    let integrity = Integrity::start(config.integrity.clone(), Arc::clone(&recorder)).map_err(Error::Lock)?;
    let integrity = Arc::new(integrity);
    let (grace, page_bytes) = (config.timeouts.stale_grace, config.limits.page_bytes);
    let (snapshot, _) = Snapshot::take(None, &services, config.naming, grace, page_bytes, &integrity);
    Ok(Gateway {
        limits: config.limits.clone(),
        timeouts: config.timeouts.clone(),
        trace: config.trace.clone(),
        naming: config.naming,
        entrance: Entrance::new(config),
        clients: Clients {
            tokens: ArcSwap::from_pointee(tokens),
            anonymous: config.clients.anonymous,
            oauth: oauth(config, metrics)?,
            members: with_certificates.then(|| Arc::clone(&parts.credentials)),
            enrolled: !matches!(config.identity.source, IdentitySource::Files { .. }),
        },
        services: ArcSwap::new(services),
        registry: Registry::new(Members::new(config.services.clone(), bounds(config)), Arc::clone(&parts.credentials)),
        coming: AtomicUsize::new(
            usize::from(config.discovery.is_on()) + usize::from(config.registration.listen.is_some()),
        ),
        services_changed: Notify::new(),
        snapshot: InOrder::new(snapshot),
        policy: ArcSwap::from_pointee(PolicyState::new(policies.first()?)),
        policies,
        quotas: config
            .quota_store
            .as_ref()
            .map(|store| Store::new(store, metrics))
            .transpose()
            .map_err(Error::Quotas)?,
        generation: channel::Sender::new(0),
        cursors: ArcSwap::from_pointee(CursorKey::new(keys.cursors())),
        header_checks: config.header_checks,
        sessions: Sessions::new(session_settings(config, &listens), keys, metrics, Arc::clone(&merged)),
        listens,
        caller_lists: CallerLists::new(config.limits.caller_lists_bytes, recorder.merged.clone()),
        metrics: Arc::clone(metrics),
        integrity,
        approvals: Arc::new(Approvals::new(config.approvals.clone(), metrics)),
        recorder,
        draining,
        tasks: TaskTracker::new(),
    })
}

fn bounds(config: &Config) -> Bounds {
    let Registration { max_services, max_replicas, .. } = config.registration;
    Bounds { services: max_services, replicas: max_replicas, grace: config.timeouts.stale_grace }
}

fn oauth(config: &Config, metrics: &Metrics) -> Result<Option<OAuth>, Error> {
    let (Some(settings), Some(url)) = (&config.oauth, &config.public_url) else { return Ok(None) };
    OAuth::new(settings, &canonical(url), metrics).map(Some).map_err(Error::OAuth)
}

/// As clients spell it: without the port that its scheme has anyway (RFC 9728 section 3.3 compares texts).
fn canonical(url: &Url) -> String {
    let (scheme, usual) = if url.scheme == Scheme::Https { ("https", 443) } else { ("http", 80) };
    let host = url.authority.to_string();
    let host =
        if url.authority.port == usual { host.strip_suffix(&format!(":{usual}")).unwrap_or(&host) } else { &host };
    format!("{scheme}://{host}{}", url.path)
}

fn session_settings(config: &Config, listens: &Arc<Listens>) -> legacy::Settings {
    let (limits, timeouts) = (&config.limits, &config.timeouts);
    legacy::Settings {
        sessions: limits.sessions,
        http_sse: config.http_sse,
        sessions_per_principal: limits.sessions_per_principal,
        names: ["limits.sessions", "limits.sessions_per_principal"],
        listens: Arc::clone(listens),
        idle: timeouts.session_idle,
        max_age: config.sessions.max_age,
        each: legacy::Bounds {
            request: timeouts.common.request,
            keepalive: timeouts.keepalive,
            requests: limits.session.session_requests,
            subscriptions: limits.session.subscriptions,
            resume: legacy::Kept { bytes: limits.session.resume_bytes, life: timeouts.resume },
        },
    }
}
