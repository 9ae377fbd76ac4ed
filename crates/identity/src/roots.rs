//! Authorities outside of the mesh, in files that somebody names: of an identity provider, an API server, a mesh elsewhere.

use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject};

/// Why a file does not say whom to believe.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// It is not there, is no PEM, or holds something that is no authority.
    #[error("cannot read certificates from {path}: {cause}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// With it nobody would be believed, which only shows when somebody is met.
    #[error("{0} holds no certificate")]
    Empty(PathBuf),
}

/// Adds the authorities in a file (PEM) to those that are believed.
///
/// # Errors
/// [`RootsError`]. Some of the file may have been added then.
pub fn add_roots(roots: &mut RootCertStore, path: &Path) -> Result<(), RootsError> {
    let failed = |cause: &dyn std::fmt::Display| RootsError::Read { path: path.to_owned(), cause: cause.to_string() };
    let before = roots.len();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))? {
        roots.add(certificate.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
    }
    if roots.len() == before { Err(RootsError::Empty(path.to_owned())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_authorities_is_a_mistake() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let add = || add_roots(&mut RootCertStore::empty(), &path);
        assert!(matches!(add(), Err(RootsError::Read { .. })), "nothing there");
        for (text, empty) in [
            ("", true),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", true),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", false),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n", false),
        ] {
            std::fs::write(&path, text).unwrap();
            let wrong = add().unwrap_err();
            assert_eq!(matches!(wrong, RootsError::Empty(_)), empty, "{text:?}: {wrong}");
            assert!(wrong.to_string().contains("ca.pem"), "{wrong}");
        }
    }
}
