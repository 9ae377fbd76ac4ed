//! The embedded authority of a mesh: a directory with `ca.pem`, `ca.key` and `crl.pem`, and what can be done with it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use zeroize::Zeroize;

use crate::files::{FileError, FileRole, Loaded};
use crate::peer::{self, PeerError};
use crate::request::CertificateRequest;
use crate::revocation::{CrlFile, Revocations, Serial};
use crate::root::{DEFAULT_ROOT_LIFE, Issued, Rank, Root, Signed};
use crate::spiffe::{SpiffeError, SpiffeId, TrustDomain};
use crate::store::{PUBLIC, SECRET, lock_dir, make_private_dir, write_atomically};

/// The roots that members believe: one, or several while one replaces another.
pub(crate) const CA_CERT: &str = "ca.pem";
/// The key that signs.
pub(crate) const CA_KEY: &str = "ca.key";
/// The key that will sign, while one replaces another.
pub(crate) const NEXT_KEY: &str = "next.key";
/// The key that did sign, while one replaces another.
pub(crate) const OLD_KEY: &str = "old.key";
/// The certificates of signers that are no roots themselves; absent where a root signs.
pub(crate) const ISSUERS: &str = "issuer.pem";
/// The revocation lists of all of them.
pub(crate) const CRL: &str = "crl.pem";

/// The name of the authority itself as a member of its mesh: workloads expect it when they ask for a certificate. No
/// workload can have it.
pub const AUTHORITY_NAME: &str = "ca";

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
    /// The name that only the authority itself has.
    #[error("`{AUTHORITY_NAME}` is the name of the authority itself; no service can have it")]
    Reserved,
    /// An authority that may not sign others.
    #[error("this authority signs workloads only; make a root for others to be below with `outrigger ca init --root`")]
    NotARoot,
    /// A replacement is under way, or none is.
    #[error("{0}")]
    Rotation(&'static str),
    /// It is too early to stop believing the old authority.
    #[error(
        "certificates of the old authority may still be in use for {} minutes; wait, or say how long they live at most with --after",
        .0.as_secs().div_ceil(60)
    )]
    TooEarly(Duration),
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
    /// Whether it signs other authorities and is itself kept offline, instead of signing workloads.
    pub offline: bool,
}

impl Default for AuthorityOptions {
    fn default() -> Self {
        Self { root_life: DEFAULT_ROOT_LIFE, offline: false }
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
        refuse_existing(dir)?;
        let rank = if options.offline { Rank::Offline } else { Rank::Signer };
        let (root, certificate_pem) = Root::generate(trust_domain, options.root_life, rank)?;
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
        Ok(Self { dir: dir.to_owned(), root: signer(dir, CA_KEY)? })
    }

    /// The name under which it is asked for certificates.
    ///
    /// # Errors
    /// A trust domain that leaves no room for a name.
    pub fn id(&self) -> Result<SpiffeId, AuthorityError> {
        Ok(self.root.trust_domain().service(AUTHORITY_NAME)?)
    }

    /// What members must have to believe it and those before and after it.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn trust(&self) -> Result<Trust, AuthorityError> {
        let text = |role, name| -> Result<String, AuthorityError> {
            let file = Loaded::read(role, &self.dir.join(name))?;
            String::from_utf8(file.content().to_vec()).map_err(|_| file.malformed("not text").into())
        };
        Ok(Trust { ca_pem: text(FileRole::Ca, CA_CERT)?, crl_pem: text(FileRole::Crl, CRL)? })
    }

    /// SHA-256 of the public key of each root that members believe, newest last: what a workload can be told to expect at
    /// its first contact (`identity.enroll.ca_sha256`).
    ///
    /// # Errors
    /// When `ca.pem` cannot be read.
    pub fn fingerprints(&self) -> Result<Vec<[u8; 32]>, AuthorityError> {
        let roots = Loaded::read(FileRole::Ca, &self.dir.join(CA_CERT))?.certificates()?;
        roots.iter().map(|root| Ok(peer::key_fingerprint(root)?)).collect()
    }

    /// Whose names it may sign.
    pub fn trust_domain(&self) -> &TrustDomain {
        self.root.trust_domain()
    }

    pub(crate) fn signer(&self) -> &Root {
        &self.root
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
        not_reserved(service)?;
        self.root.issue(service, life, hosts)
    }

    /// Makes a certificate for the key of a request. The caller has established that it comes from `service`, whatever the
    /// request says. `hosts` are as for [`Authority::issue`].
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn sign(
        &self,
        request: &CertificateRequest,
        service: &str,
        life: Duration,
        hosts: &[&str],
    ) -> Result<Signed, AuthorityError> {
        not_reserved(service)?;
        self.root.sign(request, service, life, hosts)
    }

    /// Makes a certificate for the authority as a member of its own mesh, for its listener.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn sign_itself(&self, request: &CertificateRequest, life: Duration) -> Result<Signed, AuthorityError> {
        self.root.sign(request, AUTHORITY_NAME, life, &[])
    }

    /// Adds a serial number to `crl.pem`. Returns whether it is new there. Members refuse the certificate as soon as
    /// they have read the new file.
    ///
    /// # Errors
    /// When the present list cannot be read: it is never started afresh, which would pardon everyone on it.
    pub fn revoke(&self, serial: &Serial) -> Result<bool, AuthorityError> {
        let _exclusive =
            lock_dir(&self.dir).map_err(|source| AuthorityError::Write { path: self.dir.clone(), source })?;
        let mut lists = CrlFile::read(&self.dir.join(CRL))?;
        let mut new = false;
        // On the list of each of our signers: whose certificate it is does not show in a number, and numbers are random.
        for key in [CA_KEY, NEXT_KEY, OLD_KEY] {
            if !self.dir.join(key).exists() {
                continue;
            }
            let signer = signer(&self.dir, key)?;
            let mut revocations = lists.of(&signer)?;
            if revocations.add(serial, SystemTime::now())? {
                lists.replace(&signer, &signer.sign_crl(&revocations)?)?;
                new = true;
            }
        }
        if new {
            write(&self.dir, CRL, &lists.to_pem(), PUBLIC)?;
        }
        Ok(new)
    }

    /// Revokes the first certificate of a PEM file. Returns its serial and whether it is new on the list.
    ///
    /// # Errors
    /// [`AuthorityError::ForeignCertificate`] when this authority did not issue it; else as [`Authority::revoke`].
    pub fn revoke_file(&self, path: &Path) -> Result<(Serial, bool), AuthorityError> {
        let certificate = Loaded::read(FileRole::Cert, path)?.first_certificate()?;
        if !self.issued(&certificate)? {
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
        let revocations = CrlFile::read(&self.dir.join(CRL))?.of(&self.root)?;
        Ok(revocations.entries.into_iter().map(|(serial, _)| serial).collect())
    }

    /// Whether one of our signers, past and future ones included, issued a certificate.
    fn issued(&self, certificate: &CertificateDer<'_>) -> Result<bool, AuthorityError> {
        for signer in certificates(&self.dir)? {
            if peer::issued_by(certificate, &signer)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What members must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// The roots to believe. PEM.
    pub ca_pem: String,
    /// What they and those below them have revoked. PEM.
    pub crl_pem: String,
}

/// The certificates of all signers and roots of a directory.
pub(crate) fn certificates(dir: &Path) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
    let mut all = Loaded::read(FileRole::Ca, &dir.join(CA_CERT))?.certificates()?;
    all.extend(issuers(dir)?);
    Ok(all)
}

/// The certificates of signers below a root.
pub(crate) fn issuers(dir: &Path) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
    let path = dir.join(ISSUERS);
    if !path.exists() {
        return Ok(Vec::new());
    }
    Ok(Loaded::read(FileRole::Ca, &path)?.certificates()?)
}

/// A key of a directory, with the certificate that belongs to it.
pub(crate) fn signer(dir: &Path, key: &str) -> Result<Root, AuthorityError> {
    let roots = Loaded::read(FileRole::Ca, &dir.join(CA_CERT))?.certificates()?;
    let mut der = Loaded::read(FileRole::Key, &dir.join(key))?.key()?;
    let key = KeyPair::try_from(&der);
    der.zeroize();
    let key = key?;
    let public = rcgen::PublicKeyData::subject_public_key_info(&key);
    let belongs = |certificate: &CertificateDer<'_>| {
        peer::authority_facts(certificate).is_ok_and(|facts| facts.public_key == public)
    };
    if let Some(root) = roots.iter().find(|root| belongs(root)) {
        return Root::from_parts(root.clone(), key, false);
    }
    match issuers(dir)?.into_iter().find(|issuer| belongs(issuer)) {
        Some(issuer) => Root::from_parts(issuer, key, true),
        None => Err(AuthorityError::KeyMismatch),
    }
}

pub(crate) fn refuse_existing(dir: &Path) -> Result<(), AuthorityError> {
    let there = [CA_KEY, CA_CERT, CRL, ISSUERS].map(|name| dir.join(name));
    match there.into_iter().find(|path| path.symlink_metadata().is_ok()) {
        Some(path) => Err(AuthorityError::Exists(path)),
        None => Ok(()),
    }
}

fn not_reserved(service: &str) -> Result<(), AuthorityError> {
    if service == AUTHORITY_NAME { Err(AuthorityError::Reserved) } else { Ok(()) }
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

pub(crate) fn write(dir: &Path, name: &str, content: &str, mode: u32) -> Result<(), AuthorityError> {
    write_atomically(dir, name, content.as_bytes(), mode)
        .map_err(|source| AuthorityError::Write { path: dir.join(name), source })
}
