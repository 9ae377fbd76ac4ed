//! The authority as it is in its directory now: who signs, what is believed and revoked. Other commands change the directory
//! while this process runs; it looks every second.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use outrigger_enrol::protocol::Bundle;
use outrigger_identity::{
    Authority, AuthorityCredentials, AuthorityOptions, CertificateRequest, Material, Trust, TrustDomain, WorkloadKey,
    renew_at,
};
use outrigger_runtime::watch::{Change, FileWatcher};
use outrigger_telemetry::Metrics;
use outrigger_telemetry::metrics::{ReloadKind, ReloadOutcome};
use tokio::sync::watch;

use super::audit::Audit;

/// How often the directory is looked at: revocations reach workloads within seconds.
const LOOK: Duration = Duration::from_secs(1);
/// Life of the certificate of our own listener.
const OWN_LIFE: Duration = Duration::from_secs(24 * 3600);
/// What other commands change.
const FILES: [&str; 4] = ["ca.key", "ca.pem", "issuer.pem", "crl.pem"];

/// What requests share.
pub(crate) struct State {
    pub(crate) dir: PathBuf,
    pub(crate) authority: ArcSwap<Authority>,
    pub(crate) credentials: AuthorityCredentials,
    pub(crate) bundle: watch::Sender<Arc<Bundle>>,
}

impl State {
    /// Reads the directory for the first time.
    pub(crate) fn load(dir: &Path) -> anyhow::Result<Self> {
        let authority = Authority::load(dir).with_context(|| crate::commands::ca::unusable(dir))?;
        let trust = authority.trust()?;
        let credentials = AuthorityCredentials::new(&own(&authority, &trust)?)?;
        Ok(Self {
            dir: dir.to_owned(),
            authority: ArcSwap::from_pointee(authority),
            credentials,
            bundle: watch::Sender::new(Arc::new(bundle(trust))),
        })
    }

    /// Reads the directory again. On an error everything stays as it was.
    fn reload(&self) -> anyhow::Result<()> {
        let authority = Authority::load(&self.dir)?;
        let trust = authority.trust()?;
        self.credentials.replace(&own(&authority, &trust)?)?;
        self.authority.store(Arc::new(authority));
        let next = Arc::new(bundle(trust));
        self.bundle.send_if_modified(|present| {
            let changed = present.version != next.version;
            *present = next;
            changed
        });
        Ok(())
    }
}

/// Makes an authority in a directory that has none, as `ca init` does.
///
/// # Errors
/// One that is there and is of another mesh, or cannot be used; what cannot be written.
pub(crate) fn make(dir: &Path, trust_domain: &str) -> anyhow::Result<()> {
    let there = ["ca.key", "ca.pem"].iter().any(|name| dir.join(name).symlink_metadata().is_ok());
    let authority = if there {
        Authority::load(dir).with_context(|| crate::commands::ca::unusable(dir))?
    } else {
        let domain = TrustDomain::parse(trust_domain)?;
        let made = Authority::init(dir, &domain, &AuthorityOptions::default());
        let made = made.with_context(|| format!("no authority can be made in {}", dir.display()))?;
        let key = dir.join("ca.key");
        tracing::info!(%trust_domain, key = %key.display(), "made an authority; whoever has its key can be anybody in this mesh, and it belongs in a backup");
        made
    };
    let found = authority.trust_domain().to_string();
    if found != trust_domain {
        let dir = dir.display();
        bail!(
            "the authority in {dir} is of {found}, and `trust_domain` is {trust_domain}: change the setting, or use another directory"
        );
    }
    Ok(())
}

/// Follows the directory, and renews our own certificate, for ever.
pub(crate) async fn follow(state: Arc<State>, audit: Arc<Audit>, metrics: Arc<Metrics>) {
    let files = FILES.map(|name| state.dir.join(name));
    let Ok(mut watcher) = FileWatcher::new(files, LOOK) else { return };
    loop {
        let due = renew_at(SystemTime::now(), state.credentials.not_after(), fastrand::f64());
        let rest = due.duration_since(SystemTime::now()).unwrap_or_default().max(LOOK);
        let change = tokio::select! {
            change = watcher.changed() => Some(change),
            () = tokio::time::sleep(rest) => None,
        };
        let (state, audit) = (Arc::clone(&state), Arc::clone(&audit));
        let reloaded = tokio::task::spawn_blocking(move || {
            if change == Some(Change::Hangup) {
                audit.turn().context("cannot go on with the audit")?;
            }
            state.reload().map(|()| state.credentials.not_after())
        });
        // A panic in there has been reported, and the next change is looked at all the same.
        let Ok(reloaded) = reloaded.await else { continue };
        match reloaded {
            Ok(not_after) => {
                tracing::info!("read the authority's directory");
                metrics.certificate_expiry("authority", not_after);
                metrics.reload(ReloadKind::Certificates, ReloadOutcome::Applied);
            }
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the authority's directory cannot be used; the last good state stays"
                );
                metrics.reload(ReloadKind::Certificates, ReloadOutcome::Failed);
            }
        }
    }
}

/// The authority as a member of its own mesh, with a new key.
fn own(authority: &Authority, trust: &Trust) -> anyhow::Result<Material> {
    let key = WorkloadKey::generate()?;
    let request = CertificateRequest::parse(key.request(None)?.as_bytes())?;
    let signed = authority.sign_itself(&request, OWN_LIFE)?;
    Ok(Material {
        cert_chain_pem: signed.cert_chain_pem,
        key: Arc::new(key),
        ca_pem: trust.ca_pem.clone(),
        crl_pem: trust.crl_pem.clone(),
    })
}

fn bundle(trust: Trust) -> Bundle {
    let digest = digest(&SHA256, format!("{}\0{}", trust.ca_pem, trust.crl_pem).as_bytes());
    let version = HEXLOWER.encode(digest.as_ref().first_chunk::<12>().map_or(&[][..], |part| part));
    Bundle { ca: trust.ca_pem, crl: trust.crl_pem, version }
}
