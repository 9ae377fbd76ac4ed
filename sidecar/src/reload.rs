//! Takes up changed certificates and policies without dropping a connection; a bad file keeps the last good one.

use std::{path::PathBuf, sync::Arc, time::Duration};

use outrigger_identity::{Credentials, Reload};
use outrigger_policy::{Limits, PolicySet, Reader, condition::Engine, limit::DEFAULT_MAX_KEYS};
use outrigger_proxy::peers::OpenPeers;
use outrigger_resident::heap::{Heap, give_back};
use outrigger_runtime::watch::{Change, DEFAULT_INTERVAL, FileWatcher};
use outrigger_telemetry::{
    Metrics,
    metrics::{ReloadKind, ReloadOutcome},
};
use tokio::time::Instant;

use crate::{authorize::Rules, config::Egress, inbound::Inbound, outbound::Outbound, start::StartError};

/// What understands the conditions of rules. The lean sidecar is built without (docs/decisions/0019).
#[cfg(feature = "conditions")]
const ENGINE: Option<&dyn Engine> = Some(&outrigger_conditions::Cel);
#[cfg(not(feature = "conditions"))]
const ENGINE: Option<&dyn Engine> = None;

/// How often certificates are looked at.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(5);
/// How often the dates of certificates behind open connections are looked at although no file changed.
const PEERS_EVERY: Duration = Duration::from_secs(600);

/// Reads and compiles policy files. None at all means that nothing is allowed.
///
/// # Errors
/// The text for the operator, with every mistake.
pub fn read_policy(files: &[PathBuf], service: &str) -> Result<PolicySet, StartError> {
    if files.is_empty() {
        tracing::warn!("no policy file: every call is denied; set `policy` (OUTRIGGER_POLICY)");
        return Ok(PolicySet::deny_all());
    }
    let mut texts = Vec::with_capacity(files.len());
    for path in files {
        let text = std::fs::read_to_string(path)
            .map_err(|e| StartError::Policy(format!("cannot read {}: {e}", path.display())))?;
        texts.push((path.display().to_string(), text));
    }
    let documents: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let reader = Reader { engine: ENGINE, service: Some(service) };
    reader.compile(&documents).map_err(|mistakes| StartError::Policy(mistakes.to_string()))
}

/// The rules of a policy, with fresh limits.
pub fn rules(policy: PolicySet) -> Rules {
    Rules { limits: Limits::of_policy(&policy, DEFAULT_MAX_KEYS), policy }
}

/// Watches policy files for ever, and opens the logs again on SIGHUP.
pub async fn policies(inbound: Arc<Inbound>, outbound: Option<Arc<Outbound>>, files: Vec<PathBuf>) {
    let Ok(mut watcher) = FileWatcher::new(files.clone(), DEFAULT_INTERVAL) else { return };
    let mut heap = Heap::default();
    loop {
        let change = tokio::select! {
            change = watcher.changed() => change,
            () = heap.due() => {
                let _ = tokio::task::spawn_blocking(give_back).await;
                continue;
            }
        };
        heap.replaced();
        if change == Change::Hangup {
            inbound.recorders.reopen();
            outbound.iter().for_each(|outbound| outbound.reopen());
        }
        let (paths, service) = (files.clone(), inbound.service.clone());
        // Ten thousand rules take a while, and the one thread of a sidecar has calls to serve.
        let Ok(read) = tokio::task::spawn_blocking(move || read_policy(&paths, &service)).await else { continue };
        let outcome = match read {
            Ok(policy) => {
                let limits = inbound.gate.rules.load().limits.reload_policy(&policy);
                inbound.gate.rules.store(Arc::new(Rules { policy, limits }));
                tracing::info!("took up the changed policy");
                ReloadOutcome::Applied
            }
            Err(error) => {
                tracing::error!(%error, "the changed policy cannot be used; the last good one stays");
                ReloadOutcome::Failed
            }
        };
        inbound.metrics.reload(ReloadKind::Policy, outcome);
    }
}

/// Watches the settings file for ever, for what the server may reach; `read` reads it. Other settings wait for a restart.
pub async fn egress(
    outbound: Arc<Outbound>,
    metrics: Arc<Metrics>,
    file: PathBuf,
    read: impl Fn(&str, &str) -> Result<Option<Egress>, String>,
) {
    let Ok(mut watcher) = FileWatcher::new([file.clone()], DEFAULT_INTERVAL) else { return };
    loop {
        watcher.changed().await;
        let name = file.display().to_string();
        let text = std::fs::read_to_string(&file).map_err(|error| format!("cannot read {name}: {error}"));
        let changed = text.and_then(|text| read(&name, &text));
        let outcome = match changed.map(|egress| egress.ok_or("there is no `egress` any more")) {
            Ok(Ok(egress)) => take_up(&outbound, &egress),
            Ok(Err(error)) => failed(error),
            Err(error) => failed(&error),
        };
        metrics.reload(ReloadKind::Egress, outcome);
    }
}

fn failed(error: &str) -> ReloadOutcome {
    tracing::error!(%error, "what the server may reach cannot be read; the last good rules stay");
    ReloadOutcome::Failed
}

fn take_up(outbound: &Outbound, egress: &Egress) -> ReloadOutcome {
    if !outbound.in_force().differs_from(egress) {
        return ReloadOutcome::Unchanged;
    }
    if let Err(why) = outbound.can_take_up(egress) {
        return failed(&why);
    }
    let (rules, mode) = (egress.rules.rules().len(), egress.mode.as_str());
    tracing::info!(rules, mode, "took up what the server may reach");
    outbound.reload(egress);
    ReloadOutcome::Applied
}

/// What to do when the authority gave another certificate, or other roots and revocations.
pub fn renewed(peers: Arc<OpenPeers>, metrics: Arc<Metrics>) -> impl Fn(Reload) + Send + Sync + 'static {
    move |reload| {
        if let Reload::Swapped { not_after } = reload {
            peers.recheck();
            metrics.certificate_expiry("workload", not_after);
            metrics.reload(ReloadKind::Certificates, ReloadOutcome::Applied);
        }
    }
}

/// Watches certificates for ever, and looks at the peers of open connections again when they changed, and now and then
/// because certificates expire.
pub async fn certificates(credentials: Arc<Credentials>, peers: Arc<OpenPeers>, metrics: Arc<Metrics>) {
    let mut complained = false;
    let mut checked = Instant::now();
    loop {
        tokio::time::sleep(CERTIFICATES_EVERY).await;
        let (look, open) = (credentials.clone(), peers.clone());
        let due = checked.elapsed() >= PEERS_EVERY;
        let looked = tokio::task::spawn_blocking(move || {
            let reload = look.reload_if_changed();
            let check = due || matches!(reload, Reload::Swapped { .. });
            if check {
                open.recheck();
            }
            (reload, check)
        });
        let Ok((reload, peers_checked)) = looked.await else { continue };
        if peers_checked {
            checked = Instant::now();
        }
        match reload {
            Reload::Unchanged => {}
            Reload::Swapped { not_after } => {
                complained = false;
                metrics.certificate_expiry("workload", not_after);
                metrics.reload(ReloadKind::Certificates, ReloadOutcome::Applied);
                tracing::info!("took up the changed certificates");
            }
            Reload::Failed(error) => {
                if !complained {
                    metrics.reload(ReloadKind::Certificates, ReloadOutcome::Failed);
                    tracing::error!(%error, "the changed certificates cannot be used; the last good ones stay");
                }
                complained = true;
            }
        }
    }
}
