//! Reads certificate, key, authority and revocation files, bounded and with errors that name file and cure.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{InconsistentKeys, RootCertStore};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use zeroize::Zeroize;

use crate::authority::{CA_CERT, CRL};
use crate::key::WorkloadKey;
use crate::pem::sha256;

/// Most bytes of a certificate chain, key or authority file: a hundred certificates.
const MAX_PEM: u64 = 256 * 1024;
/// Most bytes of a revocation list: over a hundred thousand entries.
const MAX_CRL: u64 = 8 * 1024 * 1024;

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileRole {
    /// The certificate, with those between it and the root.
    Cert,
    /// Its private key.
    Key,
    /// The authorities to trust.
    Ca,
    /// What they have revoked.
    Crl,
    /// All of it in one, as an enrolled workload keeps it.
    Kept,
}

impl FileRole {
    fn limit(self) -> u64 {
        match self {
            Self::Cert | Self::Key | Self::Ca => MAX_PEM,
            Self::Crl | Self::Kept => MAX_CRL,
        }
    }
}

impl fmt::Display for FileRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cert => "certificate",
            Self::Key => "private key",
            Self::Ca => "authority",
            Self::Crl => "revocation list",
            Self::Kept => "identity",
        })
    }
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be opened or read.
    #[error("cannot read the {role} file {}: {source}", path.display())]
    Read {
        /// What it is for.
        role: FileRole,
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is larger than any real one.
    #[error("the {role} file {} is larger than {} bytes", path.display(), role.limit())]
    TooLarge {
        /// What it is for.
        role: FileRole,
        /// Where it is.
        path: PathBuf,
    },
    /// It has no PEM section of the kind.
    #[error("the {role} file {} holds no {role} in PEM", path.display())]
    Empty {
        /// What it is for.
        role: FileRole,
        /// Where it is.
        path: PathBuf,
    },
    /// It has one that cannot be read.
    #[error("the {role} file {} cannot be understood: {detail}", path.display())]
    Malformed {
        /// What it is for.
        role: FileRole,
        /// Where it is.
        path: PathBuf,
        /// What is wrong; never a part of a key.
        detail: String,
    },
    /// Certificate and key are of different pairs, or the key is of a kind that TLS does not use.
    #[error("{} and {} do not belong together: {detail}", cert.display(), key.display())]
    Pair {
        /// The certificate file.
        cert: PathBuf,
        /// The key file.
        key: PathBuf,
        /// What rustls says.
        detail: String,
    },
}

/// Where a workload finds its identity. All are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// Its certificate, first in the file, then those between it and the root.
    pub cert: PathBuf,
    /// The private key of that certificate.
    pub key: PathBuf,
    /// One or more authorities whose members it talks to; several while an authority is being replaced.
    pub ca: PathBuf,
    /// Revocation lists of those authorities, if they keep any.
    pub crl: Option<PathBuf>,
}

impl IdentityFiles {
    /// The files as [`crate::Authority::init`] and [`crate::write_leaf`] lay them out in one directory.
    pub fn in_dir(dir: &Path, name: &str) -> Self {
        Self {
            cert: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key")),
            ca: dir.join(CA_CERT),
            crl: Some(dir.join(CRL)),
        }
    }
}

/// A file that was read, with what is needed to say what is wrong with it.
pub(crate) struct Loaded {
    role: FileRole,
    path: PathBuf,
    content: Vec<u8>,
}

impl Loaded {
    /// Reads a whole file of at most the size its role allows.
    pub(crate) fn read(role: FileRole, path: &Path) -> Result<Self, FileError> {
        let path = path.to_owned();
        let mut content = Vec::new();
        // One byte more than allowed tells a full file from one that goes on.
        match File::open(&path).and_then(|file| file.take(role.limit() + 1).read_to_end(&mut content)) {
            Err(source) => Err(FileError::Read { role, path, source }),
            Ok(size) if size as u64 > role.limit() => Err(FileError::TooLarge { role, path }),
            Ok(_) => Ok(Self { role, path, content }),
        }
    }

    /// Content that never was a file.
    pub(crate) fn from_memory(role: FileRole, path: &Path, content: Vec<u8>) -> Self {
        Self { role, path: path.to_owned(), content }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn content(&self) -> &[u8] {
        &self.content
    }

    /// All its certificates; at least one.
    pub(crate) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, FileError> {
        self.sections()
    }

    /// Its first certificate.
    pub(crate) fn first_certificate(&self) -> Result<CertificateDer<'static>, FileError> {
        let empty = || FileError::Empty { role: self.role, path: self.path.clone() };
        self.certificates()?.into_iter().next().ok_or_else(empty)
    }

    /// Its one private key. Whoever takes it zeroes it.
    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, FileError> {
        let mut keys: Vec<PrivateKeyDer<'static>> = self.sections()?;
        match (keys.pop(), keys.is_empty()) {
            (Some(key), true) => Ok(key),
            _ => Err(self.malformed("it holds several keys")),
        }
    }

    /// Its certificates as authorities.
    pub(crate) fn roots(&self) -> Result<RootCertStore, FileError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots.add(certificate).map_err(|error| self.malformed(&error.to_string()))?;
        }
        Ok(roots)
    }

    /// Its revocation lists; at least one.
    pub(crate) fn crls(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, FileError> {
        self.sections()
    }

    pub(crate) fn malformed(&self, detail: &str) -> FileError {
        FileError::Malformed { role: self.role, path: self.path.clone(), detail: detail.to_owned() }
    }

    fn sections<T: PemObject>(&self) -> Result<Vec<T>, FileError> {
        let found: Result<Vec<T>, pem::Error> = T::pem_slice_iter(&self.content).collect();
        match found {
            Ok(found) if found.is_empty() => Err(FileError::Empty { role: self.role, path: self.path.clone() }),
            Ok(found) => Ok(found),
            // The library quotes the line it stumbled over, which of a key must not reach a log.
            Err(_) => Err(self.malformed("broken PEM")),
        }
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if matches!(self.role, FileRole::Key | FileRole::Kept) {
            self.content.zeroize();
        }
    }
}

/// A private key: read from a file, or made here and never written.
pub(crate) enum Key {
    /// Of a file.
    File(Loaded),
    /// Of this process.
    Held(Arc<WorkloadKey>),
}

impl Key {
    /// What tells it from another key.
    pub(crate) fn mark(&self) -> Vec<u8> {
        match self {
            Self::File(file) => sha256(file.content()).to_vec(),
            Self::Held(key) => key.fingerprint().to_vec(),
        }
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::File(file) => file.path.clone(),
            Self::Held(_) => "(in memory)".into(),
        }
    }

    fn signing(&self) -> Result<Result<Arc<dyn SigningKey>, rustls::Error>, FileError> {
        match self {
            Self::File(file) => {
                let mut der = file.key()?;
                let signing = any_supported_type(&der);
                der.zeroize();
                Ok(signing)
            }
            Self::Held(key) => Ok(any_supported_type(&key.der())),
        }
    }
}

/// Certificate chain and key as one, checked to belong together.
pub(crate) fn pair(cert: &Loaded, key: &Key) -> Result<CertifiedKey, FileError> {
    let chain = cert.certificates()?;
    let matched = key.signing()?.and_then(|signing| {
        let pair = CertifiedKey::new(chain, signing);
        match pair.keys_match() {
            // A kind of key that shows no public half: the handshake will tell.
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(pair),
            Err(error) => Err(error),
        }
    });
    let wrong =
        |error: rustls::Error| FileError::Pair { cert: cert.path.clone(), key: key.path(), detail: error.to_string() };
    matched.map_err(wrong)
}
