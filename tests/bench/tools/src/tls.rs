//! TLS of the benchmarks: 1.3 only, client certificates, no resumption, so that every handshake is a full one.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::Error;

/// A client that presents `client.pem` and trusts `ca.pem` of the folder. X25519 alone, because not every peer has more.
///
/// # Errors
/// A file is missing or not what its name says.
pub fn client(folder: &Path) -> Result<Arc<ClientConfig>, Error> {
    let kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let provider = Arc::new(CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() });
    let (chain, key) = identity(folder, "client")?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(&folder.join("ca.pem"))?)
        .with_client_auth_cert(chain, key)?;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// A server that presents `server.pem` and demands a client certificate of `ca.pem`.
///
/// # Errors
/// A file is missing or not what its name says.
pub fn server(folder: &Path) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&folder.join("ca.pem"))?), provider.clone())
            .build()?;
    let (chain, key) = identity(folder, "server")?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Servers of one authority, each with a certificate of its own.
#[derive(Debug)]
pub struct Server {
    provider: Arc<CryptoProvider>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Server {
    /// Servers that demand client certificates of the authorities in a file.
    ///
    /// # Errors
    /// The file is missing or holds none.
    pub fn new(ca: &Path) -> Result<Self, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let roots = Arc::new(roots(ca)?);
        let clients = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
        Ok(Self { provider, clients })
    }

    /// One that presents this certificate.
    ///
    /// # Errors
    /// The texts hold no certificate with its key.
    pub fn with(&self, chain: &[u8], key: &[u8]) -> Result<Arc<ServerConfig>, Error> {
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>()?;
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::clone(&self.clients))
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// The first record that a client of this host sends.
///
/// # Errors
/// The host is no name that TLS can ask for.
pub fn client_hello(host: &str) -> Result<Vec<u8>, Error> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut hello = Vec::new();
    ClientConnection::new(Arc::new(config), ServerName::try_from(host.to_owned())?)?.write_tls(&mut hello)?;
    Ok(hello)
}

fn identity(folder: &Path, name: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let chain = CertificateDer::pem_file_iter(folder.join(format!("{name}.pem")))?.collect::<Result<_, _>>()?;
    Ok((chain, PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key")))?))
}

fn roots(file: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file)? {
        roots.add(certificate?)?;
    }
    Ok(roots)
}
