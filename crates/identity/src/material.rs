//! What a workload is and believes: its own part in memory when an authority or an agent gave it, and other trust domains
//! by file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::authority::AuthorityError;
use crate::files::{FileError, FileRole, Key, Loaded};
use crate::key::WorkloadKey;
use crate::spiffe::TrustDomain;
use crate::store::{SECRET, make_private_dir, write_atomically};
use crate::svid::Svid;
use crate::watch::{Contents, Foreign};

/// Stands in errors for the path of what never was a file.
const IN_MEMORY: &str = "(from the authority)";
/// The file that is kept in `identity.enroll.dir`.
const KEPT: &str = "identity.pem";
/// What stands before the roots in it. Readers of PEM pass over such lines.
const BELIEVED: &str = "# believed\n";
/// What stands before the revocation lists.
const REVOKED: &str = "# revoked\n";

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

/// An identity that never was a file.
#[derive(Debug)]
pub enum Given {
    /// By an authority, for a key of ours.
    Granted(Material),
    /// By an agent of the SPIFFE Workload API, with its key.
    Handed(Svid),
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

impl From<Material> for Given {
    fn from(material: Material) -> Self {
        Self::Granted(material)
    }
}

impl From<Svid> for Given {
    fn from(svid: Svid) -> Self {
        Self::Handed(svid)
    }
}

impl Given {
    /// Whom it believes. PEM.
    pub(crate) fn roots(&self) -> &str {
        match self {
            Self::Granted(material) => &material.ca_pem,
            Self::Handed(svid) => svid.roots(),
        }
    }

    pub(crate) fn contents(&self, federation: Vec<Foreign>) -> Contents {
        match self {
            Self::Granted(material) => material.contents(federation),
            Self::Handed(svid) => svid.contents(federation),
        }
    }
}

impl Material {
    /// Keeps it in a directory, as one file for the owner alone that is replaced as a whole. Writes and waits for the disk.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), AuthorityError> {
        let failed = |source| AuthorityError::Write { path: dir.join(KEPT), source };
        make_private_dir(dir).map_err(failed)?;
        let key = self.key.to_pem();
        let parts = [key.as_str(), &self.cert_chain_pem, BELIEVED, &self.ca_pem, REVOKED, &self.crl_pem];
        // As much as is needed at once, so that it never moves and leaves a copy of the key behind.
        let mut text = Zeroizing::new(String::with_capacity(parts.iter().map(|part| part.len()).sum()));
        parts.iter().for_each(|part| text.push_str(part));
        write_atomically(dir, KEPT, text.as_bytes(), SECRET).map_err(failed)
    }

    /// What [`Material::save`] kept; none when there is nothing.
    ///
    /// # Errors
    /// A file that cannot be read or is not one of these.
    pub fn load(dir: &Path) -> Result<Option<Self>, FileError> {
        let path = dir.join(KEPT);
        if !path.exists() {
            return Ok(None);
        }
        let file = Loaded::read(FileRole::Kept, &path)?;
        let malformed = || file.malformed("not what this program kept; remove it");
        let text = std::str::from_utf8(file.content()).map_err(|_| malformed())?;
        let (own, others) = text.split_once(BELIEVED).ok_or_else(malformed)?;
        let (ca, crl) = others.split_once(REVOKED).ok_or_else(malformed)?;
        let chain = own.find("-----BEGIN CERTIFICATE").and_then(|at| own.get(at..)).ok_or_else(malformed)?;
        let key = WorkloadKey::from_pem(own.as_bytes()).map_err(|_| malformed())?;
        Ok(Some(Self {
            cert_chain_pem: chain.to_owned(),
            key: Arc::new(key),
            ca_pem: ca.to_owned(),
            crl_pem: crl.to_owned(),
        }))
    }

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
