//! Reload: policy, tokens, session keys and certificates are read again when their files change. A bad file changes nothing: the last
//! good one stays in force, and the failure is logged and counted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use outrigger_identity::{Credentials, PublicCredentials, Reload};
use outrigger_proxy::legacy::keys::Keys;
use outrigger_proxy::peers::OpenPeers;
use outrigger_runtime::Change;
use outrigger_telemetry::Metrics;
use outrigger_telemetry::metrics::{ReloadKind, ReloadOutcome};

use crate::config::{Config, tokens_from_file};
use crate::gateway::Gateway;
use crate::integrity::read_lock;
use crate::lists::CursorKey;
use crate::services::Replica;
use crate::snapshot::{announce, refresh};

/// What can be read again.
pub(crate) struct Sources {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) tokens: Option<PathBuf>,
    pub(crate) session_keys: Option<PathBuf>,
    /// The settings file, of which the services are read again.
    pub(crate) settings: Option<PathBuf>,
    /// The approved definitions.
    pub(crate) lock: Option<PathBuf>,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) public: Option<Arc<PublicCredentials>>,
    /// Clients that are connected with certificates.
    pub(crate) peers: Option<Arc<OpenPeers>>,
    /// Sidecars that registered.
    pub(crate) registered: Arc<OpenPeers>,
}

impl Sources {
    /// Reacts to a change of files, or to SIGHUP. Reads files.
    pub(crate) fn reload(&self, change: &Change) {
        let touched = |paths: &[PathBuf]| match change {
            Change::Hangup => true,
            Change::Files(changed) => paths.iter().any(|path| changed.contains(path)),
        };
        if touched(&self.gateway.policies.paths) {
            self.reload_policy();
        }
        if let Some(path) = self.tokens.as_ref().filter(|path| touched(std::slice::from_ref(path))) {
            self.reload_tokens(path);
        }
        if let Some(path) = self.session_keys.as_ref().filter(|path| touched(std::slice::from_ref(path))) {
            self.reload_session_keys(path);
        }
        if let Some(path) = self.lock.as_ref().filter(|path| touched(std::slice::from_ref(path))) {
            self.reload_lock(path);
        }
        if let Some(path) = self.settings.as_ref().filter(|path| touched(std::slice::from_ref(path))) {
            self.reload_services(path);
        }
        self.reload_certificates();
        if *change == Change::Hangup {
            self.gateway.recorder.access.reopen();
            self.gateway.recorder.audit.reopen();
        }
    }

    fn reload_policy(&self) {
        let read = self.gateway.policies.reload(&self.gateway).map(|rules| tracing::info!(rules, "policy reloaded"));
        self.count(ReloadKind::Policy, read.map_err(|error| error.to_string()));
    }

    fn reload_tokens(&self, path: &PathBuf) {
        let read = read_tokens(path).map(|table| {
            tracing::info!(tokens = table.len(), "tokens reloaded");
            self.gateway.clients.tokens.store(Arc::new(table));
            announce(&self.gateway.generation);
        });
        self.count(ReloadKind::Tokens, read);
    }

    fn reload_session_keys(&self, path: &Path) {
        let read = Keys::load(path).map(|keys| {
            tracing::info!(keys = keys.count(), "session keys reloaded");
            self.gateway.cursors.store(Arc::new(CursorKey::new(keys.cursors())));
            self.gateway.sessions.set_keys(keys);
        });
        self.count(ReloadKind::SessionKeys, read.map_err(|error| error.to_string()));
    }

    fn reload_lock(&self, path: &Path) {
        let read = read_lock(path).map(|lock| {
            tracing::info!(services = lock.services().count(), "lock reloaded");
            self.gateway.integrity.set_lock(lock);
            refresh(&self.gateway);
        });
        self.count(ReloadKind::Lock, read);
    }

    fn reload_services(&self, path: &Path) {
        let read = Config::from_file(Some(path)).and_then(|config| {
            let services = config.services.len();
            let change = self.gateway.registry.configure(&self.gateway, config.services);
            change.map(|()| services).map_err(|error| error.to_string())
        });
        let applied = read.map(|services| {
            tracing::info!(services, "services reloaded; other settings change with a restart");
            refresh(&self.gateway);
        });
        self.count(ReloadKind::Services, applied);
    }

    fn reload_certificates(&self) {
        let metrics = &self.gateway.metrics;
        self.took_up(self.credentials.reload_if_changed());
        if let Some(public) = &self.public
            && note(metrics, "public", public.reload_if_changed())
        {
            self.recheck_clients();
        }
    }

    /// What to do when our certificate, or whom we believe, has changed. Verifies chains.
    pub(crate) fn took_up(&self, reload: Reload) {
        if note(&self.gateway.metrics, "workload", reload) {
            // New calls prove themselves anew.
            self.replicas().iter().for_each(|replica| replica.pool.retire());
            self.recheck_sidecars();
            self.recheck_clients();
        }
    }

    /// Looks at everybody with a certificate again who is connected, because certificates expire.
    pub(crate) fn recheck_peers(&self) {
        self.recheck_sidecars();
        self.recheck_clients();
    }

    /// Calls under way go on on their connections, unless their sidecar is no longer believed.
    fn recheck_sidecars(&self) {
        self.registered.recheck();
        self.replicas().iter().for_each(|replica| replica.recheck(&self.credentials));
    }

    fn replicas(&self) -> Vec<Arc<Replica>> {
        self.gateway.services.load().iter().flat_map(|service| service.replicas().to_vec()).collect()
    }

    fn recheck_clients(&self) {
        if let Some(peers) = &self.peers {
            peers.recheck();
        }
    }

    fn count(&self, what: ReloadKind, outcome: Result<(), String>) {
        let outcome = match outcome {
            Ok(()) => ReloadOutcome::Applied,
            Err(error) => {
                tracing::error!(what = what.as_str(), error, "reload failed; the last good one stays in force");
                ReloadOutcome::Failed
            }
        };
        self.gateway.metrics.reload(what, outcome);
    }
}

/// Reads a file of tokens.
///
/// # Errors
/// What is wrong, for the operator.
pub(crate) fn read_tokens(path: &PathBuf) -> Result<outrigger_policy::TokenTable, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    tokens_from_file(&path.display().to_string(), &text).map_err(|mistakes| mistakes.to_string())
}

/// Counts a reload of certificates; true when there are new ones.
fn note(metrics: &Metrics, name: &'static str, reload: Reload) -> bool {
    match reload {
        Reload::Unchanged => false,
        Reload::Swapped { not_after } => {
            tracing::info!(name, "certificates reloaded");
            metrics.certificate_expiry(name, not_after);
            metrics.reload(ReloadKind::Certificates, ReloadOutcome::Applied);
            true
        }
        Reload::Failed(error) => {
            tracing::error!(name, %error, "certificates cannot be used; the last good ones stay in force");
            metrics.reload(ReloadKind::Certificates, ReloadOutcome::Failed);
            false
        }
    }
}
