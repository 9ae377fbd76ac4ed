//! The webhook's own certificate: from files that somebody replaces, or from the authority of the mesh, which then also says
//! by which roots API servers know it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use outrigger_config::sections::{self, Enroll, Identity, IdentitySource};
use outrigger_enrol::{Waiting, obtain};
use outrigger_identity::{ClientAuth, Credentials, PublicCredentials, PublicFiles, Reload, TrustDomain};
use outrigger_proxy::handshake::ServerTlsProvider;
use outrigger_runtime::{Readiness, TaskGroup};
use outrigger_telemetry::Metrics;
use outrigger_telemetry::metrics::{ReloadKind, ReloadOutcome};
use tokio::sync::watch;

use super::config::{Anchor, Certificate, Config};

/// How often files are looked at.
const EVERY: Duration = Duration::from_secs(5);
/// Under which name metrics show its end.
const NAME: &str = "webhook";

/// What the webhook shows.
pub(crate) struct Own {
    pub(crate) tls: ServerTlsProvider,
    /// By which roots it is known, PEM; none when somebody else says so.
    pub(crate) roots: Option<watch::Receiver<String>>,
}

/// Gets it, and keeps it fresh. Waits for the authority.
pub(crate) async fn get(
    config: &Config,
    readiness: &Readiness,
    metrics: &Arc<Metrics>,
    tasks: &TaskGroup,
) -> anyhow::Result<Own> {
    match &config.serve.certificate {
        Certificate::Files { cert, key } => {
            let files = PublicFiles { cert: cert.clone(), key: key.clone() };
            let credentials = PublicCredentials::load(files, ClientAuth::None)?;
            metrics.certificate_expiry(NAME, credentials.not_after());
            let stopping = tasks.stopping();
            let following = follow(Arc::clone(&credentials), Arc::clone(metrics));
            tasks.spawn("certificate", async move {
                stopping.run_until_cancelled(following).await;
            });
            Ok(Own { tls: Arc::new(move || credentials.server_config()), roots: None })
        }
        Certificate::Enrolled { service, proof, dir } => {
            let authority = config.mesh.authority.as_ref();
            let authority =
                authority.context("the webhook's certificate is to be of the authority: set `mesh.ca_url`")?;
            let known_by = match &authority.anchor {
                Anchor::File(path) => sections::Anchor::File(path.clone()),
                Anchor::Digest(digest) => sections::Anchor::Digest(*digest),
            };
            let enroll = Enroll {
                authority: authority.at.clone(),
                known_by,
                proof: proof.clone(),
                life: None,
                dir: dir.clone(),
            };
            let trust_domain = config.mesh.trust_domain.clone();
            let expected = TrustDomain::parse(&trust_domain)?.service(service)?;
            tracing::info!(authority = enroll.url(), "asking the authority for a certificate");
            let source = IdentitySource::Enroll(enroll);
            let identity = Identity { trust_domain, spiffe_id: None, source, federation: Vec::new() };
            let waiting = Waiting { readiness: readiness.clone(), metrics: Arc::clone(metrics) };
            let obtained = obtain(&identity, Some(expected), waiting).await?;
            enrolled(obtained, metrics, tasks)
        }
        Certificate::None => anyhow::bail!(
            "the webhook has no certificate: set `tls.kubernetes_token_file` (OUTRIGGER_KUBERNETES_TOKEN_FILE) for one of \
             the mesh's authority, or `tls.cert` and `tls.key` (OUTRIGGER_CERT, OUTRIGGER_KEY) for files"
        ),
    }
}

fn enrolled(obtained: outrigger_enrol::Obtained, metrics: &Arc<Metrics>, tasks: &TaskGroup) -> anyhow::Result<Own> {
    let credentials = obtained.credentials;
    metrics.certificate_expiry(NAME, credentials.not_after());
    let config = Arc::new(ArcSwap::new(credentials.open_server_config()?));
    let (tell, roots) = watch::channel(roots_of(&credentials)?);
    let shown = Arc::clone(&config);
    if let Some(keeper) = obtained.keeper {
        let (credentials, metrics) = (Arc::clone(&credentials), Arc::clone(metrics));
        let changed = move |reload: Reload| {
            if let Reload::Swapped { not_after } = reload {
                metrics.certificate_expiry(NAME, not_after);
                match credentials.open_server_config() {
                    Ok(next) => config.store(next),
                    Err(error) => tracing::error!(%error, "the renewed certificate cannot be used; the last one stays"),
                }
                if let Ok(roots) = roots_of(&credentials) {
                    tell.send_replace(roots);
                }
            }
        };
        let stopping = tasks.stopping();
        tasks.spawn("certificate", async move {
            stopping.run_until_cancelled(keeper.run(changed)).await;
        });
    }
    Ok(Own { tls: Arc::new(move || shown.load_full()), roots: Some(roots) })
}

fn roots_of(credentials: &Credentials) -> anyhow::Result<String> {
    credentials.roots_pem().context("the authority named no roots")
}

/// Looks at the files for ever.
async fn follow(credentials: Arc<PublicCredentials>, metrics: Arc<Metrics>) {
    let mut told = String::new();
    loop {
        tokio::time::sleep(EVERY).await;
        let look = Arc::clone(&credentials);
        let Ok(reload) = tokio::task::spawn_blocking(move || look.reload_if_changed()).await else { continue };
        match reload {
            Reload::Unchanged => {}
            Reload::Swapped { not_after } => {
                metrics.certificate_expiry(NAME, not_after);
                metrics.reload(ReloadKind::Certificates, ReloadOutcome::Applied);
                tracing::info!("took up the changed certificate");
                told.clear();
            }
            // Repeated at every look; said once.
            Reload::Failed(error) => {
                let text = error.to_string();
                if text != told {
                    metrics.reload(ReloadKind::Certificates, ReloadOutcome::Failed);
                    tracing::error!(error = text, "the changed certificate cannot be used; the last good one stays");
                    told = text;
                }
            }
        }
    }
}
