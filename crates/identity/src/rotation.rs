//! Authorities below a root that is kept offline, and replacing an authority without a moment in which members disagree.
//!
//! ```text
//!           believed      signs
//!  before   old           old
//!  begin    old, new      old     every member learns of the new one before it meets a certificate of it
//!  switch   old, new      new     members renew one after the other
//!  finish   new           new     once no certificate of the old one lives
//! ```

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;

use crate::authority::{
    Authority, AuthorityError, AuthorityOptions, CA_CERT, CA_KEY, CRL, ISSUERS, NEXT_KEY, OLD_KEY, certificates,
    issuers, refuse_existing, signer, write,
};
use crate::files::{FileRole, Loaded};
use crate::peer;
use crate::pem;
use crate::revocation::{CrlFile, Revocations};
use crate::root::{Rank, Root};
use crate::store::{PUBLIC, SECRET, lock_dir, make_private_dir};

/// How far the replacement of an authority is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// None is under way.
    None,
    /// The next one is believed and does not sign yet.
    Begun,
    /// The next one signs, and the one before is still believed.
    Switched,
}

impl Authority {
    /// Makes, in `dir`, an authority below this one, which can then be kept offline. In a directory that has an authority
    /// already, this begins its replacement, as [`Authority::begin`] does.
    ///
    /// # Errors
    /// When this one may not sign authorities, when `dir` belongs to another trust domain or a replacement is under way.
    pub fn init_below(&self, dir: &Path, life: Duration) -> Result<(), AuthorityError> {
        make_private_dir(dir).map_err(|source| AuthorityError::Write { path: dir.to_owned(), source })?;
        let _exclusive = lock(dir)?;
        let (below, issuer_pem) = self.signer().generate_below(life)?;
        let lists = CrlFile::read(&self.dir().join(CRL))?;
        let roots = Loaded::read(FileRole::Ca, &self.dir().join(CA_CERT))?.certificates()?;
        if dir.join(CA_CERT).exists() {
            let present = Authority::load(dir)?;
            if present.trust_domain() != self.trust_domain() {
                return Err(AuthorityError::Rotation("the directory has an authority of another trust domain"));
            }
            refuse_rotation(dir)?;
            return add_next(dir, &below, &roots, Some(&issuer_pem), Some(lists));
        }
        refuse_existing(dir)?;
        let mut lists = lists;
        lists.replace(&below, &below.sign_crl(&Revocations::default())?)?;
        write(dir, CA_KEY, &below.key_pem(), SECRET)?;
        write(dir, CRL, &lists.to_pem(), PUBLIC)?;
        write(dir, ISSUERS, &issuer_pem, PUBLIC)?;
        write(dir, CA_CERT, &to_pem(&roots), PUBLIC)
    }

    /// How far a replacement is.
    pub fn rotation(&self) -> Rotation {
        match (self.dir().join(NEXT_KEY).exists(), self.dir().join(OLD_KEY).exists()) {
            (true, _) => Rotation::Begun,
            (false, true) => Rotation::Switched,
            (false, false) => Rotation::None,
        }
    }

    /// Makes the next authority and lets members believe it beside this one. It does not sign yet.
    ///
    /// # Errors
    /// When one is under way, or this authority is below a root: then its next one is made with that root.
    pub fn begin(&self, options: &AuthorityOptions) -> Result<(), AuthorityError> {
        let _exclusive = lock(self.dir())?;
        refuse_rotation(self.dir())?;
        if !issuers(self.dir())?.is_empty() {
            let what = "this authority is below a root; make its successor with `outrigger ca intermediate`";
            return Err(AuthorityError::Rotation(what));
        }
        let rank = if options.offline { Rank::Offline } else { Rank::Signer };
        let (next, pem) = Root::generate(self.trust_domain(), options.root_life, rank)?;
        let root = Loaded::from_memory(FileRole::Ca, Path::new(CA_CERT), pem.into_bytes()).first_certificate()?;
        add_next(self.dir(), &next, &[root], None, None)
    }

    /// Lets the next authority sign. Members must have had the time to learn of it.
    ///
    /// # Errors
    /// When none was begun.
    pub fn switch(&self) -> Result<Authority, AuthorityError> {
        let _exclusive = lock(self.dir())?;
        if self.rotation() != Rotation::Begun {
            return Err(AuthorityError::Rotation("no successor was made; do that first: outrigger ca rotate begin"));
        }
        // Each file is whole at every moment, and a crash between the two steps is repaired by doing this again.
        if !self.dir().join(OLD_KEY).exists() {
            write(self.dir(), OLD_KEY, &signer(self.dir(), CA_KEY)?.key_pem(), SECRET)?;
        }
        fs::rename(self.dir().join(NEXT_KEY), self.dir().join(CA_KEY))
            .map_err(|source| AuthorityError::Write { path: self.dir().join(CA_KEY), source })?;
        Authority::load(self.dir())
    }

    /// Lets nobody believe the old authority any more. `lives` is how long a certificate lives at most that it signed.
    ///
    /// # Errors
    /// When none was switched, or [`AuthorityError::TooEarly`].
    pub fn finish(&self, lives: Duration) -> Result<(), AuthorityError> {
        let _exclusive = lock(self.dir())?;
        if self.rotation() != Rotation::Switched {
            return Err(AuthorityError::Rotation(
                "the successor does not sign yet; do that first: outrigger ca rotate switch",
            ));
        }
        let path = self.dir().join(OLD_KEY);
        let switched = fs::metadata(&path).and_then(|meta| meta.modified());
        let switched = switched.map_err(|source| AuthorityError::Write { path: path.clone(), source })?;
        let since = SystemTime::now().duration_since(switched).unwrap_or_default();
        if let Some(left) = lives.checked_sub(since).filter(|left| !left.is_zero()) {
            return Err(AuthorityError::TooEarly(left));
        }
        let old = signer(self.dir(), OLD_KEY)?;
        let same = |certificate: &CertificateDer<'_>| certificate == old.certificate();
        let mut below = issuers(self.dir())?;
        below.retain(|issuer| !same(issuer));
        let own = signer(self.dir(), CA_KEY)?;
        let mut roots = Loaded::read(FileRole::Ca, &self.dir().join(CA_CERT))?.certificates()?;
        let needed = |root: &CertificateDer<'_>| {
            root == own.certificate() || below.iter().any(|issuer| peer::issued_by(issuer, root).unwrap_or(true))
        };
        roots.retain(|root| needed(root));
        // Believed first, lists last: a certificate without a list of its authority would be refused.
        write(self.dir(), CA_CERT, &to_pem(&roots), PUBLIC)?;
        if self.dir().join(ISSUERS).exists() {
            write(self.dir(), ISSUERS, &to_pem(&below), PUBLIC)?;
        }
        let left = certificates(self.dir())?;
        let subjects: Vec<&[u8]> = left.iter().filter_map(|certificate| peer::subject(certificate).ok()).collect();
        let mut lists = CrlFile::read(&self.dir().join(CRL))?;
        lists.retain(|issuer| subjects.contains(&issuer));
        write(self.dir(), CRL, &lists.to_pem(), PUBLIC)?;
        fs::remove_file(&path).map_err(|source| AuthorityError::Write { path, source })
    }
}

fn lock(dir: &Path) -> Result<fs::File, AuthorityError> {
    lock_dir(dir).map_err(|source| AuthorityError::Write { path: dir.to_owned(), source })
}

fn refuse_rotation(dir: &Path) -> Result<(), AuthorityError> {
    if dir.join(NEXT_KEY).exists() || dir.join(OLD_KEY).exists() {
        return Err(AuthorityError::Rotation("a replacement is under way; end it with `outrigger ca rotate finish`"));
    }
    Ok(())
}

/// Puts a successor beside the present signer. Its key comes last: that it is there says that the rest is.
fn add_next(
    dir: &Path,
    next: &Root,
    roots: &[CertificateDer<'static>],
    issuer_pem: Option<&str>,
    above: Option<CrlFile>,
) -> Result<(), AuthorityError> {
    let mut lists = CrlFile::read(&dir.join(CRL))?;
    above.into_iter().for_each(|above| lists.merge(above));
    lists.replace(next, &next.sign_crl(&Revocations::default())?)?;
    write(dir, CRL, &lists.to_pem(), PUBLIC)?;
    if let Some(pem) = issuer_pem {
        let present = to_pem(&issuers(dir)?);
        write(dir, ISSUERS, &(present + pem), PUBLIC)?;
    }
    let mut believed = Loaded::read(FileRole::Ca, &dir.join(CA_CERT))?.certificates()?;
    for root in roots {
        if !believed.contains(root) {
            believed.push(root.clone());
        }
    }
    write(dir, CA_CERT, &to_pem(&believed), PUBLIC)?;
    write(dir, NEXT_KEY, &next.key_pem(), SECRET)
}

fn to_pem(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|certificate| pem::encode("CERTIFICATE", certificate)).collect()
}
