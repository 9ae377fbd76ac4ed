//! Where the authority is, how it is known, and what proves us: the settings, as far as they can be used at once. Files are
//! read at each attempt, because tokens are replaced while we wait.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::sections::{self, Authority, JoinProof};
use outrigger_identity::{
    AUTHORITY_NAME, Anchor, CredentialsError, Federation, SpiffeError, SpiffeId, TrustDomain, first_contact,
};
use outrigger_proxy::dial::Endpoint;
use rustls::ClientConfig;
use zeroize::{Zeroize, Zeroizing};

use crate::contact::ContactError;
use crate::protocol::Proof;

/// Most bytes of a file with a token. Those of Kubernetes have some 1,200.
const MAX_TOKEN: u64 = 16 * 1024;
/// Most bytes of a file with roots.
const MAX_BUNDLE: u64 = 256 * 1024;

/// Everything about the authority that does not change while the process runs.
pub(crate) struct Source {
    /// For logs and readiness: `https://ca.example:8440`.
    pub(crate) url: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) authority: SpiffeId,
    pub(crate) life: Option<Duration>,
    pub(crate) dir: Option<PathBuf>,
    known_by: sections::Anchor,
    proof: JoinProof,
}

impl Source {
    pub(crate) fn new(identity: &sections::Identity, settings: &sections::Enroll) -> Result<Self, SpiffeError> {
        let trust_domain = TrustDomain::parse(&identity.trust_domain)?;
        let Authority { host, port } = &settings.authority;
        Ok(Self {
            url: settings.url(),
            endpoint: Endpoint::tcp(host.clone(), *port),
            authority: trust_domain.service(AUTHORITY_NAME)?,
            trust_domain,
            life: settings.life,
            dir: settings.dir.clone(),
            known_by: settings.known_by.clone(),
            proof: settings.proof.clone(),
        })
    }

    /// TLS for a workload that has no certificate.
    pub(crate) fn first_contact(&self) -> Result<Arc<ClientConfig>, ContactError> {
        let anchor = match &self.known_by {
            sections::Anchor::File(path) => {
                let pem = read(path, MAX_BUNDLE)?;
                Anchor::Bundle(pem.to_string())
            }
            sections::Anchor::Digest(digest) => Anchor::Digest(*digest),
        };
        first_contact(&self.trust_domain, &anchor)
            .map_err(|error: CredentialsError| ContactError::Own(error.to_string()))
    }

    /// What shows who we are, as it is now.
    pub(crate) fn proof(&self) -> Result<Proof, ContactError> {
        let of_file = |path: &Path| -> Result<Zeroizing<String>, ContactError> {
            let text = read(path, MAX_TOKEN)?;
            let token = Zeroizing::new(text.trim().to_owned());
            if token.is_empty() {
                return Err(ContactError::Own(format!("{} is empty", path.display())));
            }
            Ok(token)
        };
        Ok(match &self.proof {
            JoinProof::Token(token) => Proof::Token(Zeroizing::new(token.reveal().to_owned())),
            JoinProof::TokenFile(path) => Proof::Token(of_file(path)?),
            JoinProof::KubernetesTokenFile(path) => Proof::Kubernetes(of_file(path)?),
        })
    }
}

/// The other trust domains of the settings.
pub(crate) fn federation(identity: &sections::Identity) -> Result<Vec<Federation>, SpiffeError> {
    let one = |it: &sections::Federated| {
        let trust_domain = TrustDomain::parse(&it.trust_domain)?;
        Ok(Federation { trust_domain, bundle: it.bundle.clone(), crl: it.crl.clone() })
    };
    identity.federation.iter().map(one).collect()
}

fn read(path: &Path, limit: u64) -> Result<Zeroizing<String>, ContactError> {
    let failed = |what: &dyn std::fmt::Display| ContactError::Own(format!("cannot read {}: {what}", path.display()));
    // As much as is allowed at once, so that it never moves and leaves a copy behind.
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(limit + 1).unwrap_or_default()));
    let read = File::open(path).and_then(|file| file.take(limit + 1).read_to_string(&mut text));
    match read {
        Ok(bytes) if bytes as u64 > limit => {
            text.zeroize();
            Err(failed(&format!("it has more than {limit} bytes")))
        }
        Ok(_) => Ok(text),
        Err(error) => Err(failed(&error)),
    }
}
