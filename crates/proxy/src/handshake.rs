//! The handshake phase: TLS on an accepted socket, and what is known about the connection afterwards.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use outrigger_policy::Principal;
use rustls::pki_types::CertificateDer;
use rustls::{HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::dial::ALPN_H2;
use crate::stream::{Socket, Stream};

/// Gives the server configuration for one new connection, so that a certificate reload reaches new connections only.
pub type ServerTlsProvider = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// What is known about a connection. One per connection, shared with every request on it.
#[derive(Debug)]
pub struct ConnInfo {
    /// The other end of the socket.
    pub peer_addr: SocketAddr,
    /// Our end of the socket.
    pub local_addr: SocketAddr,
    /// What the TLS handshake settled; `None` on a plaintext listener.
    pub tls: Option<TlsInfo>,
    /// Who the peer is, once the first request asked (identify): certificates do not change within a connection.
    pub principal: OnceLock<Principal>,
    /// When the peer's certificate ends, once the first request asked: the connection may live longer.
    pub valid_until: OnceLock<SystemTime>,
    requests: AtomicU64,
}

/// What a TLS handshake settled.
#[derive(Clone, Debug)]
pub struct TlsInfo {
    /// The client's chain, leaf first, verified by the listener's verifier. Empty when the client showed none.
    pub peer_certs: Arc<[CertificateDer<'static>]>,
    /// The HTTP version chosen by ALPN.
    pub alpn: HttpVersion,
    /// The TLS version.
    pub version: Option<ProtocolVersion>,
    /// The key exchange group; absent on a TLS 1.3 resumption without a new exchange.
    pub group: Option<NamedGroup>,
    /// A ticket of an earlier connection was used; the certificates are those of that one.
    pub resumed: bool,
}

/// Which HTTP a connection speaks, settled before its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1, also when the client offered no ALPN.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Why a connection never got to HTTP.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer did not complete the handshake in time.
    #[error("no TLS handshake within {} ms", after.as_millis())]
    Timeout {
        /// The time that was allowed.
        after: Duration,
    },
    /// The peer broke off, spoke no TLS, or showed no certificate that we accept.
    #[error("TLS handshake failed: {0}")]
    Tls(#[source] io::Error),
}

impl ConnInfo {
    /// Of a connection that has carried nothing yet.
    pub fn new(peer_addr: SocketAddr, local_addr: SocketAddr, tls: Option<TlsInfo>) -> Self {
        Self {
            peer_addr,
            local_addr,
            tls,
            principal: OnceLock::new(),
            valid_until: OnceLock::new(),
            requests: AtomicU64::new(0),
        }
    }

    /// The client's certificates, leaf first. `None` without TLS or without a client certificate.
    pub fn peer_certs(&self) -> Option<&[CertificateDer<'static>]> {
        self.tls.as_ref().map(|tls| &*tls.peer_certs).filter(|certs| !certs.is_empty())
    }

    /// How many requests began on this connection.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Plaintext listeners speak HTTP/1.1 only: nothing that we serve without TLS needs h2, and telling them apart
    /// would mean waiting for the first bytes.
    pub(crate) fn http_version(&self) -> HttpVersion {
        self.tls.as_ref().map_or(HttpVersion::Http1, |tls| tls.alpn)
    }

    pub(crate) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }
}

/// Takes the server's part of a TLS handshake, within `timeout`. Cancelling the future closes the socket.
pub async fn handshake(
    socket: TcpStream,
    config: Arc<ServerConfig>,
    timeout: Duration,
) -> Result<(Stream, TlsInfo), HandshakeError> {
    let accepted = tokio::time::timeout(timeout, TlsAcceptor::from(config).accept(Socket::Tcp(socket)))
        .await
        .map_err(|_elapsed| HandshakeError::Timeout { after: timeout })?
        .map_err(HandshakeError::Tls)?;
    let info = describe(accepted.get_ref().1);
    Ok((Stream::Tls(Box::new(TlsStream::Server(accepted))), info))
}

fn describe(tls: &rustls::ServerConnection) -> TlsInfo {
    TlsInfo {
        peer_certs: tls
            .peer_certificates()
            .map(|certs| certs.iter().map(|cert| cert.clone().into_owned()).collect())
            .unwrap_or_default(),
        alpn: if tls.alpn_protocol() == Some(ALPN_H2) { HttpVersion::Http2 } else { HttpVersion::Http1 },
        version: tls.protocol_version(),
        group: tls.negotiated_key_exchange_group().map(|group| group.name()),
        resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
    }
}
