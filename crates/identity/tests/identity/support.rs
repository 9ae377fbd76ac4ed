//! A mesh in a temporary directory, certificates that no honest authority issues, and handshakes.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_identity::{
    Authority, AuthorityOptions, CredentialOptions, Credentials, IdentityFiles, PeerError, SpiffeId, TrustDomain,
    provider, server_name, write_leaf,
};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::client::ResolvesClientCert;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;
use tokio::io::DuplexStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use x509_parser::prelude::{FromDer, X509Certificate};

pub const DAY: Duration = Duration::from_secs(24 * 3600);

/// An authority with its directory.
pub struct Mesh {
    pub dir: TempDir,
    pub authority: Authority,
}

impl Mesh {
    pub fn new() -> Self {
        Self::of("demo.outrigger.local")
    }

    pub fn of(trust_domain: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let domain = TrustDomain::parse(trust_domain).unwrap();
        let authority = Authority::init(dir.path(), &domain, &AuthorityOptions::default()).unwrap();
        Self { dir, authority }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn id(&self, service: &str) -> SpiffeId {
        self.authority.trust_domain().service(service).unwrap()
    }

    pub fn files(&self, name: &str) -> IdentityFiles {
        IdentityFiles::in_dir(self.path(), name)
    }

    /// Issues (again) and writes.
    pub fn issue(&self, service: &str) {
        write_leaf(self.path(), service, &self.authority.issue(service, DAY, &[]).unwrap()).unwrap();
    }

    pub fn member(&self, service: &str) -> Arc<Credentials> {
        self.issue(service);
        self.load(service)
    }

    pub fn load(&self, name: &str) -> Arc<Credentials> {
        Credentials::load(self.files(name), &CredentialOptions::default()).unwrap()
    }

    /// A certificate signed by this authority that differs from a proper one for `service` as `change` says.
    pub fn forge(&self, service: &str, change: impl FnOnce(&mut CertificateParams)) -> Arc<CertifiedKey> {
        let mut params = CertificateParams::default();
        params.not_before = (SystemTime::now() - DAY).into();
        params.not_after = (SystemTime::now() + DAY).into();
        params.subject_alt_names = vec![uri(self.id(service).as_str())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let chain = vec![params.signed_by(&key, &self.issuer()).unwrap().der().clone()];
        Arc::new(CertifiedKey::from_der(chain, key.into(), &provider()).unwrap())
    }

    fn issuer(&self) -> Issuer<'static, KeyPair> {
        let key = KeyPair::from_pem(&std::fs::read_to_string(self.path().join("ca.key")).unwrap()).unwrap();
        let root = CertificateDer::from_pem_file(self.path().join("ca.pem")).unwrap();
        let (_, root) = X509Certificate::from_der(&root).unwrap();
        let common_name = root.subject().iter_common_name().next().unwrap().as_str().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, self.authority.trust_domain().as_str());
        params.distinguished_name.push(DnType::CommonName, common_name);
        Issuer::new(params, key)
    }
}

pub fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

/// The same client showing another certificate.
pub fn client_with(config: &ClientConfig, pair: Arc<CertifiedKey>) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(pair));
    Arc::new(config)
}

/// The same client showing no certificate.
pub fn client_without(config: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.client_auth_cert_resolver = Arc::new(NoCertificate);
    Arc::new(config)
}

/// The same server showing another certificate.
pub fn server_with(config: &ServerConfig, pair: Arc<CertifiedKey>) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.cert_resolver = Arc::new(SingleCertAndKey::from(pair));
    Arc::new(config)
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }
    fn has_certs(&self) -> bool {
        false
    }
}

type Client = client::TlsStream<DuplexStream>;
type Server = server::TlsStream<DuplexStream>;

/// What each side says. A client of TLS 1.3 is done before the server has judged its certificate.
pub async fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> (io::Result<Client>, io::Result<Server>) {
    handshake_as(client, server, server_name([127, 0, 0, 1].into())).await
}

pub async fn handshake_as(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: ServerName<'static>,
) -> (io::Result<Client>, io::Result<Server>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connect = TlsConnector::from(Arc::clone(client)).connect(name, near);
    let accept = TlsAcceptor::from(Arc::clone(server)).accept(far);
    tokio::join!(connect, accept)
}

/// Both sides agree, and bytes go both ways (which also brings the client its tickets).
pub async fn connect(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> (Client, Server) {
    let (client, server) = handshake(client, server).await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    exchange(&mut client, &mut server).await;
    (client, server)
}

pub async fn exchange(client: &mut Client, server: &mut Server) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut byte = [0];
    client.write_all(b"a").await.unwrap();
    client.flush().await.unwrap();
    server.read_exact(&mut byte).await.unwrap();
    server.write_all(&byte).await.unwrap();
    server.flush().await.unwrap();
    client.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"a");
}

/// rustls' own reason for a failed side.
pub fn tls_error<T>(side: io::Result<T>) -> rustls::Error {
    let error = side.err().expect("the handshake succeeded");
    error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()).unwrap_or_else(|| panic!("{error:?}")).clone()
}

/// Our reason for a failed side.
pub fn peer_error<T>(side: io::Result<T>) -> PeerError {
    match tls_error(side) {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.downcast_ref::<PeerError>().unwrap_or_else(|| panic!("{other:?}")).clone()
        }
        other => panic!("{other:?}"),
    }
}

pub fn certificates(side: &rustls::CommonState) -> Vec<CertificateDer<'static>> {
    side.peer_certificates().unwrap().to_vec()
}
