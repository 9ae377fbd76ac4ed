//! The first certificate: asked for until there is one, while readiness says why there is none.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrigger_config::sections::{Identity, IdentitySource};
use outrigger_identity::{
    CredentialOptions, Credentials, CredentialsError, IdentityFiles, Material, Reload, SpiffeError, SpiffeId,
    WorkloadKey,
};
use outrigger_runtime::Readiness;
use outrigger_telemetry::Metrics;
use outrigger_telemetry::metrics::RenewalOutcome;

use crate::contact::{Contact, ContactError, always};
use crate::follow::{self, Follower};
use crate::keep::Renewer;
use crate::pace::Pace;
use crate::protocol::{Grant, Query};
use crate::report::Report;
use crate::source::{self, Source};

/// Clocks that differ by more are worth a word: certificates begin five minutes early for smaller differences.
const SKEW: Duration = Duration::from_secs(60);

/// Why there is no identity and will be none.
#[derive(Debug, thiserror::Error)]
pub enum ObtainError {
    /// Files that cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A name in the mesh.
    #[error(transparent)]
    Name(#[from] SpiffeError),
}

/// An identity, and what keeps it fresh if that is our work.
pub struct Obtained {
    /// Who we are.
    pub credentials: Arc<Credentials>,
    /// To be run until the end of the process; none when somebody else replaces files.
    pub keeper: Option<Keeper>,
}

/// What keeps an identity fresh.
pub enum Keeper {
    /// Renews what an authority gave.
    Authority(Box<Renewer>),
    /// Takes up what an agent hands out.
    Agent(Box<Follower>),
}

impl Keeper {
    /// Goes on for ever. `changed` hears of every change, on a thread that may block, and must tell those who hold connections.
    /// Safe to cancel.
    pub async fn run(self, changed: impl Fn(Reload) + Send + Sync + 'static) {
        match self {
            Self::Authority(renewer) => renewer.run(Arc::new(changed)).await,
            Self::Agent(follower) => follower.run(Arc::new(changed)).await,
        }
    }
}

/// Whom to tell how it goes.
#[derive(Clone)]
pub struct Waiting {
    /// Says what is missing.
    pub readiness: Readiness,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// Gets the identity of the settings: from its files at once, from an authority or an agent when it answers. `expected` is who
/// we must be, unless the settings say it.
/// Safe to cancel.
///
/// # Errors
/// [`ObtainError`], for what waiting does not cure.
pub async fn obtain(
    identity: &Identity,
    expected: Option<SpiffeId>,
    waiting: Waiting,
) -> Result<Obtained, ObtainError> {
    let options = CredentialOptions {
        trust_domain: Some(outrigger_identity::TrustDomain::parse(&identity.trust_domain)?),
        expected: identity.spiffe_id.as_deref().map(SpiffeId::parse).transpose()?.or(expected),
        federation: source::federation(identity)?,
    };
    let settings = match &identity.source {
        IdentitySource::Files { cert, key, ca, crl } => {
            let files = IdentityFiles { cert: cert.clone(), key: key.clone(), ca: ca.clone(), crl: crl.clone() };
            return Ok(Obtained { credentials: Credentials::load(files, &options)?, keeper: None });
        }
        IdentitySource::Agent(socket) => {
            let follower = follow::first(socket, &options, waiting).await;
            return Ok(Obtained {
                credentials: follower.credentials(),
                keeper: Some(Keeper::Agent(Box::new(follower))),
            });
        }
        IdentitySource::Enroll(settings) => settings,
    };
    let source = Source::new(identity, settings)?;
    let mut report = Report::new(waiting, format!("the authority at {}", source.url));
    let (credentials, material, version) = match kept(&source, &options) {
        Some((credentials, material)) => {
            report.good();
            (credentials, material, String::new())
        }
        None => first(&source, &options, &mut report).await,
    };
    let renewer = Renewer::new(source, Arc::clone(&credentials), material, version, report);
    Ok(Obtained { credentials, keeper: Some(Keeper::Authority(Box::new(renewer))) })
}

/// What an earlier run left in `identity.dir`, if it is still good.
fn kept(source: &Source, options: &CredentialOptions) -> Option<(Arc<Credentials>, Material)> {
    let dir = source.dir.as_ref()?;
    let material = match Material::load(dir) {
        Ok(material) => material?,
        Err(error) => {
            tracing::warn!(%error, "the kept certificate cannot be used; asking for another");
            return None;
        }
    };
    match Credentials::enrolled(material.clone(), options) {
        Ok(credentials) => Some((credentials, material)),
        Err(error) => {
            tracing::info!(%error, "the kept certificate is no longer good; asking for another");
            None
        }
    }
}

async fn first(
    source: &Source,
    options: &CredentialOptions,
    report: &mut Report,
) -> (Arc<Credentials>, Material, String) {
    let mut pace = Pace::default();
    let mut key = None;
    loop {
        match attempt(source, options, &mut key).await {
            Ok(found) => {
                report.renewed();
                tracing::info!(id = %found.0.id(), authority = source.url, "the authority gave a certificate");
                return found;
            }
            Err(why) => report.none_yet(outcome(&why), &why),
        }
        tokio::time::sleep(pace.failed(fastrand::f64())).await;
    }
}

/// One try. The key stays the same until one succeeds: a token is used up by a key, so that an answer that was lost does
/// not cost another token.
async fn attempt(
    source: &Source,
    options: &CredentialOptions,
    key: &mut Option<Arc<WorkloadKey>>,
) -> Result<(Arc<Credentials>, Material, String), ContactError> {
    let (grant, material) = by_proof(source, options.expected.as_ref(), key).await?;
    let version = grant.bundle.version.clone();
    let made = Credentials::enrolled(material.clone(), options);
    let credentials = made.map_err(|error| unusable(&error, &grant))?;
    save(source, &material);
    Ok((credentials, material, version))
}

/// Asks for a certificate with the proof of the settings.
pub(crate) async fn by_proof(
    source: &Source,
    id: Option<&SpiffeId>,
    key: &mut Option<Arc<WorkloadKey>>,
) -> Result<(Grant, Material), ContactError> {
    let key = match key {
        Some(key) => Arc::clone(key),
        None => Arc::clone(key.insert(Arc::new(WorkloadKey::generate()?))),
    };
    let contact = Contact::new(&source.endpoint, always(source.first_contact()?));
    let life = source.life.map(|life| life.as_secs());
    let query = Query { csr: key.request(id)?, proof: Some(source.proof()?), life };
    let grant = contact.certificate(&query).await?;
    let material = material(&grant, key);
    Ok((grant, material))
}

pub(crate) fn material(grant: &Grant, key: Arc<WorkloadKey>) -> Material {
    Material {
        cert_chain_pem: grant.certificate.clone(),
        key,
        ca_pem: grant.bundle.ca.clone(),
        crl_pem: grant.bundle.crl.clone(),
    }
}

/// Keeps it for the next run, if that is wanted. That it cannot be kept is no reason not to use it.
pub(crate) fn save(source: &Source, material: &Material) {
    let Some(dir) = &source.dir else { return };
    if let Err(error) = material.save(dir) {
        tracing::error!(%error, "the certificate cannot be kept for the next start");
    }
}

/// Why a certificate is of no use, with what clocks have to do with it.
pub(crate) fn unusable(error: &CredentialsError, grant: &Grant) -> ContactError {
    let here = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let apart = here.as_secs().abs_diff(grant.now);
    let clocks = if apart > SKEW.as_secs() {
        format!("; the clocks of the authority and of this machine are {apart} s apart")
    } else {
        String::new()
    };
    ContactError::Answer(format!("{error}{clocks}"))
}

pub(crate) fn outcome(error: &ContactError) -> RenewalOutcome {
    match error {
        ContactError::Refused(_) => RenewalOutcome::Refused,
        _ => RenewalOutcome::Failed,
    }
}

#[cfg(test)]
mod tests {
    use outrigger_identity::PeerError;

    use super::*;
    use crate::protocol::Bundle;

    #[test]
    fn clocks_that_differ_are_named_when_a_certificate_is_of_no_use() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let shown = |now| {
            let bundle = Bundle { ca: String::new(), crl: String::new(), version: String::new() };
            let grant = Grant {
                id: "spiffe://demo/fs".into(),
                serial: "01".into(),
                certificate: String::new(),
                not_after: now + 60,
                now,
                bundle,
            };
            let error = CredentialsError::Own { cert: "x".into(), source: PeerError::OutsideLife };
            unusable(&error, &grant).to_string()
        };
        assert!(!shown(now).contains("clocks"));
        let ahead = shown(now + 3600);
        assert!(ahead.contains("clocks of the authority and of this machine are 3"), "{ahead}");
        assert!(shown(now - 3600).contains("s apart"));
    }
}
