//! Reading inside TLS, for rules that ask for it: a certificate minted for the name on the client's side, strict verification
//! on the other. Made only where some rule asks.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use outrigger_identity::{Minter, provider};
use outrigger_policy::egress::Host;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};

use super::target::Target;
use super::wire::Wire;
use crate::config::Inspection as Settings;
use crate::own_directory::OwnDirectory;
use crate::start::StartError;

/// Characters of a line of PEM (RFC 7468 section 2).
const PEM_LINE: usize = 64;

/// What inspection needs: our authority for clients, their authorities for destinations.
#[derive(Debug)]
pub struct Inspection {
    minter: Minter,
    upstream: Arc<ClientConfig>,
    bundle: PathBuf,
    /// The directory that was made for the bundle, and goes with it.
    own: Option<OwnDirectory>,
}

impl Inspection {
    /// Makes the authority, and the file that clients are given.
    ///
    /// # Errors
    /// When there is no authority to verify destinations with, or the file cannot be written.
    pub fn start(service: &str, settings: &Settings) -> Result<Self, StartError> {
        let other = |error: &dyn std::fmt::Display| StartError::Other(format!("egress.inspection: {error}"));
        let minter = Minter::new(service).map_err(|error| other(&error))?;
        let believed = believed(&settings.ca).map_err(|error| other(&error))?;
        let upstream = Arc::new(upstream(&believed).map_err(|error| other(&error))?);
        let (bundle, own) = match &settings.bundle {
            Some(path) => (path.clone(), None),
            None => {
                let own = OwnDirectory::make(0o755).map_err(|error| other(&error))?;
                (own.path().join("ca.pem"), Some(own))
            }
        };
        let text = believed.iter().map(pem).chain([minter.certificate_pem().to_owned()]).collect::<String>();
        write(&bundle, &text).map_err(|error| other(&format!("{}: {error}", bundle.display())))?;
        tracing::info!(bundle = %bundle.display(), "TLS is inspected where rules say so; clients must believe this file");
        Ok(Self { minter, upstream, bundle, own })
    }

    /// The file of authorities for clients: those of the system, and ours.
    pub fn bundle(&self) -> &Path {
        &self.bundle
    }

    /// Speaks TLS with a client as if we were the target. `hello` was read already.
    pub(super) async fn accept(&self, client: Wire, hello: &[u8], target: &Target) -> io::Result<Wire> {
        let config = self.minter.server_config(&plain_host(target)).map_err(io::Error::other)?;
        client.secure(ServerConnection::new(config).map_err(io::Error::other)?, hello).await
    }

    /// Speaks TLS with the target, which must be who it is called.
    pub(super) async fn connect(&self, origin: Wire, target: &Target) -> io::Result<Wire> {
        let name = ServerName::try_from(plain_host(target)).map_err(io::Error::other)?;
        let connection = ClientConnection::new(Arc::clone(&self.upstream), name).map_err(io::Error::other)?;
        origin.secure(connection, &[]).await
    }
}

impl Drop for Inspection {
    fn drop(&mut self) {
        if let Some(own) = &self.own {
            // At once: this is the end of the process. What is left then, the next start removes.
            let _ = fs::remove_dir_all(own.path());
        }
    }
}

/// The host without the brackets of IPv6.
fn plain_host(target: &Target) -> String {
    match &target.host {
        Host::Name(name) => name.as_str().to_owned(),
        Host::Address(address) => address.to_string(),
    }
}

/// The authorities of the system, and those of the settings.
fn believed(files: &[PathBuf]) -> io::Result<Vec<CertificateDer<'static>>> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "an authority of the system cannot be read");
    }
    let mut believed = found.certs;
    for file in files {
        let wrong = |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", file.display()));
        let before = believed.len();
        for certificate in CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))? {
            believed.push(certificate.map_err(|error| wrong(&error))?);
        }
        if believed.len() == before {
            return Err(wrong(&"no certificate in it"));
        }
    }
    if believed.is_empty() {
        return Err(io::Error::other(
            "no authority to verify destinations with: the system has none; name some in `ca`",
        ));
    }
    Ok(believed)
}

fn upstream(believed: &[CertificateDer<'static>]) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(believed.iter().cloned());
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn pem(certificate: &CertificateDer<'static>) -> String {
    let text = STANDARD.encode(certificate);
    let mut out = String::with_capacity(text.len() + text.len() / PEM_LINE + 64);
    out.push_str("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(PEM_LINE));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

/// Replaces the file whole: a reader sees the old or the new one.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("new");
    // Left behind by a process that was killed here.
    let _ = fs::remove_file(&temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    fs::rename(temporary, path)
}
