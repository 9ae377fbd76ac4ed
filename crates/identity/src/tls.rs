//! The rustls configurations, each built from its parts in one place.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, Ticketer, kx_group};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, Error};

/// What may be spoken over a connection, preferred first (RFC 7301).
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// Tickets per handshake: a resumed connection brings its successor, and each costs the peer a kilobyte of memory.
const TICKETS: usize = 1;
/// Replicas of one service whose tickets a client keeps.
const REMEMBERED_REPLICAS: usize = 32;

/// The cryptography of the whole project: aws-lc, the post-quantum hybrid key exchange first.
///
/// The order is stated here so that it does not hang on a feature that some dependency might turn off.
pub fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        ..aws_lc_rs::default_provider()
    }
}

/// Makes [`provider`] the default of the process, for libraries that ask for one. The first line of every `main`.
///
/// A second call changes nothing.
pub fn install_provider() {
    // The error says that there is one already.
    let _ = provider().install_default();
}

/// Members only: TLS 1.3, tickets under keys that live and die with this configuration.
pub(crate) fn mesh_server(
    provider: &Arc<CryptoProvider>,
    clients: Arc<dyn ClientCertVerifier>,
    pair: &Arc<CertifiedKey>,
) -> Result<ServerConfig, Error> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider)).with_protocol_versions(&[&TLS13])?;
    server(builder.with_client_cert_verifier(clients), pair)
}

/// Anybody, with or without a client certificate: TLS 1.2 for the sake of old clients.
pub(crate) fn public_server(
    provider: &Arc<CryptoProvider>,
    clients: Arc<dyn ClientCertVerifier>,
    pair: &Arc<CertifiedKey>,
) -> Result<ServerConfig, Error> {
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(provider)).with_protocol_versions(&[&TLS13, &TLS12])?;
    server(builder.with_client_cert_verifier(clients), pair)
}

pub(crate) fn server(
    builder: rustls::ConfigBuilder<ServerConfig, rustls::server::WantsServerCert>,
    pair: &Arc<CertifiedKey>,
) -> Result<ServerConfig, Error> {
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(pair))));
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    // A ticket outlives neither this configuration nor, by that, a change of authorities or revocations.
    config.ticketer = Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = TICKETS;
    Ok(config)
}

/// A client that shows our certificate and believes what `servers` believes.
pub(crate) fn mesh_client(
    provider: &Arc<CryptoProvider>,
    servers: Arc<dyn ServerCertVerifier>,
    pair: &Arc<CertifiedKey>,
) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous() // rustls' word for bringing one's own verifier
        .with_custom_certificate_verifier(servers)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(pair))));
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    config.enable_sni = false; // nothing in the mesh looks at it, and it would tell a listener who is called
    config.resumption = resumption();
    Ok(config)
}

/// The same client for another peer. Its tickets are its own: a resumed handshake shows no certificate, so a ticket of
/// one peer must never be used where another is expected.
pub(crate) fn for_other_peer(template: &ClientConfig, servers: Arc<dyn ServerCertVerifier>) -> ClientConfig {
    let mut config = template.clone();
    config.dangerous().set_certificate_verifier(servers);
    config.resumption = resumption();
    config
}

fn resumption() -> Resumption {
    Resumption::in_memory_sessions(REMEMBERED_REPLICAS)
}
