//! Whom the ingress believes outside of the mesh.

use std::path::Path;

use outrigger_identity::{RootsError, add_roots};
use rustls::{ClientConfig, RootCertStore};

/// TLS towards somebody whose authority is in a file, or else among those of the system. Reads files.
pub(crate) fn client(ca: Option<&Path>) -> Result<ClientConfig, RootsError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => add_roots(&mut roots, path)?,
        // Some systems carry certificates that nobody can read; the others are good.
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}
