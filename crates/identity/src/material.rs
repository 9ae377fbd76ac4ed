//! What a workload is and believes: its own part in memory when an authority gave it, and other trust domains by file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::files::{FileRole, Key, Loaded};
use crate::key::WorkloadKey;
use crate::spiffe::TrustDomain;
use crate::watch::{Contents, Foreign};

/// Stands in errors for the path of what never was a file.
const IN_MEMORY: &str = "(from the authority)";

/// A certificate that an authority gave to this process, with the key that never left it.
#[derive(Debug, Clone)]
pub struct Material {
    /// The certificate, then those between it and the root. PEM.
    pub cert_chain_pem: String,
    /// Its key.
    pub key: Arc<WorkloadKey>,
    /// The roots to believe. PEM.
    pub ca_pem: String,
    /// What they and those below them have revoked. PEM.
    pub crl_pem: String,
}

/// Another trust domain whose workloads are believed. Its roots vouch for its own workloads and nobody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Federation {
    /// Its name.
    pub trust_domain: TrustDomain,
    /// Its roots, PEM; read again when the file changes.
    pub bundle: PathBuf,
    /// What it has revoked, PEM.
    pub crl: Option<PathBuf>,
}

impl Material {
    pub(crate) fn contents(&self, federation: Vec<Foreign>) -> Contents {
        let part = |role, text: &str| Loaded::from_memory(role, Path::new(IN_MEMORY), text.as_bytes().to_vec());
        Contents {
            cert: part(FileRole::Cert, &self.cert_chain_pem),
            key: Key::Held(Arc::clone(&self.key)),
            ca: Some(part(FileRole::Ca, &self.ca_pem)),
            crl: Some(part(FileRole::Crl, &self.crl_pem)),
            federation,
        }
    }
}
