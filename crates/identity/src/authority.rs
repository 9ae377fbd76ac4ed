//! The embedded authority of a mesh: a directory with `ca.pem`, `ca.key` and `crl.pem`, and what can be done with it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::KeyPair;

use crate::files::{FileError, FileRole, Loaded};
use crate::peer::PeerError;
use crate::revocation::{Revocations, Serial};
use crate::root::{DEFAULT_ROOT_LIFE, Issued, Root};
use crate::spiffe::{SpiffeError, TrustDomain};
use crate::store::{PUBLIC, SECRET, lock_dir, make_private_dir, write_atomically};

pub(crate) const CA_CERT: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
pub(crate) const CRL: &str = "crl.pem";

/// Why the authority refuses.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// `init` where something is already.
    #[error("{} exists; an authority is never overwritten, because every certificate it issued would be lost with it", .0.display())]
    Exists(PathBuf),
    /// A file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file could not be read or understood.
    #[error(transparent)]
    File(#[from] FileError),
    /// A service name that cannot be one.
    #[error(transparent)]
    Name(#[from] SpiffeError),
    /// A host name that cannot be in a certificate.
    #[error("`{0}` is neither a DNS name nor an IP address")]
    HostName(String),
    /// More host names than a certificate should carry.
    #[error("{0} host names on one certificate are too many; the limit is 64")]
    TooManyHosts(usize),
    /// A name that would hide another file.
    #[error("`{0}` cannot name certificate files; use letters, digits, `-`, `_`, `.`, and not `ca` or `crl`")]
    FileName(String),
    /// A life of nothing.
    #[error("a certificate needs a life of at least one second")]
    LeafLife,
    /// A root life of nothing or of more than 30 years.
    #[error("an authority lives between one second and 30 years")]
    RootLife,
    /// The authority itself is past its end.
    #[error("the authority has expired; make a new one")]
    Expired,
    /// `ca.key` does not belong to `ca.pem`.
    #[error("ca.key does not belong to ca.pem; restore the two from the same backup")]
    KeyMismatch,
    /// A root that another tool made.
    #[error(
        "ca.pem was not made by this tool; issue certificates with the tool that made it and give their files to the mesh"
    )]
    ForeignRoot,
    /// `ca.pem` is not the certificate of an authority.
    #[error("ca.pem is not usable: {0}")]
    Root(#[from] PeerError),
    /// A certificate of another authority cannot be revoked here.
    #[error("{} was issued by another authority", .0.display())]
    ForeignCertificate(PathBuf),
    /// Not a serial number.
    #[error("`{0}` is not a serial number; give its hexadecimal digits or a certificate file")]
    Serial(String),
    /// The list is as long as readers accept.
    #[error("the revocation list is full ({0} entries); make a new authority")]
    CrlFull(usize),
    /// The system gave no random numbers.
    #[error("no random numbers from the system")]
    Random,
    /// The certificate library refused.
    #[error("cannot make the certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// What can be chosen when an authority is made.
#[derive(Debug, Clone)]
pub struct AuthorityOptions {
    /// Life of the root certificate; [`DEFAULT_ROOT_LIFE`] unless set.
    pub root_life: Duration,
}

impl Default for AuthorityOptions {
    fn default() -> Self {
        Self { root_life: DEFAULT_ROOT_LIFE }
    }
}

/// An authority on disk, ready to sign.
pub struct Authority {
    dir: PathBuf,
    root: Root,
}

impl Authority {
    /// Makes a new authority with an empty revocation list in `dir`, which is created for the owner alone if missing.
    ///
    /// # Errors
    /// [`AuthorityError::Exists`] when any of its files is there already; otherwise what went wrong while writing.
    pub fn init(dir: &Path, trust_domain: &TrustDomain, options: &AuthorityOptions) -> Result<Self, AuthorityError> {
        let failed = |source| AuthorityError::Write { path: dir.to_owned(), source };
        make_private_dir(dir).map_err(failed)?;
        let _exclusive = lock_dir(dir).map_err(failed)?;
        for name in [CA_KEY, CA_CERT, CRL] {
            let path = dir.join(name);
            if path.symlink_metadata().is_ok() {
                return Err(AuthorityError::Exists(path));
            }
        }
        let (root, certificate_pem) = Root::generate(trust_domain, options.root_life)?;
        let crl = root.sign_crl(&Revocations::default())?;
        write(dir, CA_KEY, &root.key_pem(), SECRET)?;
        write(dir, CRL, &crl, PUBLIC)?;
        // Last, because its presence is what says that the authority is complete.
        write(dir, CA_CERT, &certificate_pem, PUBLIC)?;
        Ok(Self { dir: dir.to_owned(), root })
    }

    /// Opens an authority that [`Authority::init`] made.
    ///
    /// # Errors
    /// When a file is missing, is not what it should be, or the two do not belong together.
    pub fn load(dir: &Path) -> Result<Self, AuthorityError> {
        let certificate = Loaded::read(FileRole::Ca, &dir.join(CA_CERT))?.first_certificate()?;
        let key = Loaded::read(FileRole::Key, &dir.join(CA_KEY))?.key()?;
        Ok(Self { dir: dir.to_owned(), root: Root::from_parts(certificate, KeyPair::try_from(&key)?)? })
    }

    /// Whose names it may sign.
    pub fn trust_domain(&self) -> &TrustDomain {
        self.root.trust_domain()
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// When the root certificate ends, and with it everything it signed.
    pub fn not_after(&self) -> SystemTime {
        self.root.not_after()
    }

    /// The root certificate's file, to give to those who should trust this mesh.
    pub fn certificate_path(&self) -> PathBuf {
        self.dir.join(CA_CERT)
    }

    /// Makes a certificate and key that name exactly `spiffe://<trust domain>/<service>`.
    ///
    /// It lives for `life` from now, but never longer than the root. `hosts` are DNS names and IP addresses for clients
    /// that verify those (the public listener of the ingress); members of the mesh ignore them.
    ///
    /// # Errors
    /// A name that breaks its rules, no life, or an authority that has expired.
    pub fn issue(&self, service: &str, life: Duration, hosts: &[&str]) -> Result<Issued, AuthorityError> {
        self.root.issue(service, life, hosts)
    }

    /// Adds a serial number to `crl.pem`. Returns whether it is new there. Members refuse the certificate as soon as
    /// they have read the new file.
    ///
    /// # Errors
    /// When the present list cannot be read: it is never started afresh, which would pardon everyone on it.
    pub fn revoke(&self, serial: &Serial) -> Result<bool, AuthorityError> {
        let _exclusive =
            lock_dir(&self.dir).map_err(|source| AuthorityError::Write { path: self.dir.clone(), source })?;
        let mut revocations = Revocations::read(&self.dir.join(CRL))?;
        if !revocations.add(serial, SystemTime::now())? {
            return Ok(false);
        }
        write(&self.dir, CRL, &self.root.sign_crl(&revocations)?, PUBLIC)?;
        Ok(true)
    }

    /// Revokes the first certificate of a PEM file. Returns its serial and whether it is new on the list.
    ///
    /// # Errors
    /// [`AuthorityError::ForeignCertificate`] when this authority did not issue it; else as [`Authority::revoke`].
    pub fn revoke_file(&self, path: &Path) -> Result<(Serial, bool), AuthorityError> {
        let certificate = Loaded::read(FileRole::Cert, path)?.first_certificate()?;
        if !crate::peer::issued_by(&certificate, self.root.certificate())? {
            return Err(AuthorityError::ForeignCertificate(path.to_owned()));
        }
        let serial = Serial::of(&certificate)?;
        let new = self.revoke(&serial)?;
        Ok((serial, new))
    }

    /// The serial numbers on `crl.pem`, oldest first.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub fn revoked(&self) -> Result<Vec<Serial>, AuthorityError> {
        let revocations = Revocations::read(&self.dir.join(CRL))?;
        Ok(revocations.entries.into_iter().map(|(serial, _)| serial).collect())
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("dir", &self.dir)
            .field("trust_domain", self.trust_domain())
            .finish_non_exhaustive()
    }
}

/// Writes `dir/<name>.key` (0600) and `dir/<name>.pem`, each atomically; the directory is made if missing.
///
/// A reader that comes between the two sees a pair that does not match, keeps the one it has, and finds both next time.
///
/// # Errors
/// [`AuthorityError::FileName`] for a name with a slash or one that the authority itself uses, and failures to write.
pub fn write_leaf(dir: &Path, name: &str, issued: &Issued) -> Result<(), AuthorityError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.starts_with('.') || matches!(name, "ca" | "crl") || !name.bytes().all(allowed) {
        return Err(AuthorityError::FileName(name.chars().take(64).collect()));
    }
    make_private_dir(dir).map_err(|source| AuthorityError::Write { path: dir.to_owned(), source })?;
    write(dir, &format!("{name}.key"), &issued.key_pem, SECRET)?;
    write(dir, &format!("{name}.pem"), &issued.cert_chain_pem, PUBLIC)
}

fn write(dir: &Path, name: &str, content: &str, mode: u32) -> Result<(), AuthorityError> {
    write_atomically(dir, name, content.as_bytes(), mode)
        .map_err(|source| AuthorityError::Write { path: dir.join(name), source })
}
