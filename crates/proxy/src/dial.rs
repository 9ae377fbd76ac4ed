//! Opening a connection to an upstream: address, socket, TLS handshake, all under one deadline.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{TlsConnector, TlsStream};

use crate::stream::{Socket, Stream};

/// When a silent connection to another machine is probed first, how often then, and how often in vain before it is over.
const PROBE: (Duration, Duration, u32) = (Duration::from_secs(15), Duration::from_secs(5), 3);

#[cfg(test)]
mod tests;

/// The ALPN name of HTTP/2 (RFC 9113 section 3.1).
pub(crate) const ALPN_H2: &[u8] = b"h2";

/// Where an upstream listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A name or literal address, and a port.
    Tcp {
        /// A DNS name, or an IP address without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// The path of a Unix stream socket.
    Unix(PathBuf),
}

/// Gives the client configuration for one new connection, so that a certificate reload reaches new connections only.
pub type ClientTlsProvider = Arc<dyn Fn() -> Arc<ClientConfig> + Send + Sync>;

/// TLS towards an upstream. Who the peer must be is the business of the configuration's verifier.
#[derive(Clone)]
pub struct ClientTls {
    /// Asked once per connection.
    pub provider: ClientTlsProvider,
    /// The name for SNI and for the verifier.
    pub server_name: ServerName<'static>,
}

/// Everything needed to open one connection.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where to.
    pub target: Target,
    /// TLS, or plaintext when absent (loopback and Unix sockets).
    pub tls: Option<ClientTls>,
}

/// Why no connection came to be. Nothing of a request was sent in any of these.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address.
    #[error("no address for `{host}`: {source}")]
    Resolve {
        /// The name that was looked up.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No address accepted the connection. The error is the last address's.
    #[error("cannot connect to {target}: {source}")]
    Connect {
        /// The target as configured.
        target: Target,
        /// What the system said.
        source: io::Error,
    },
    /// The TLS handshake failed: wrong peer, wrong certificate, no common parameters.
    #[error("TLS handshake with {target} failed: {source}")]
    Tls {
        /// The target as configured.
        target: Target,
        /// What rustls said.
        source: io::Error,
    },
    /// Lookup, connect and handshake together took too long.
    #[error("no connection to {target} within {} ms", after.as_millis())]
    Timeout {
        /// The target as configured.
        target: Target,
        /// The time that was allowed.
        after: Duration,
    },
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl std::fmt::Debug for ClientTls {
    /// Without the configuration: it holds the private key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// A plaintext TCP endpoint.
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        Self { target: Target::Tcp { host: host.into(), port }, tls: None }
    }

    /// A Unix socket.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self { target: Target::Unix(path.into()), tls: None }
    }

    /// The same endpoint spoken to over TLS.
    #[must_use]
    pub fn with_tls(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }
}

/// Opens a connection within `timeout`, handshake included. Cancelling the future closes what is half open.
pub async fn dial(endpoint: &Endpoint, timeout: Duration) -> Result<Stream, DialError> {
    match tokio::time::timeout(timeout, open(endpoint)).await {
        Ok(opened) => opened,
        Err(_elapsed) => Err(DialError::Timeout { target: endpoint.target.clone(), after: timeout }),
    }
}

async fn open(endpoint: &Endpoint) -> Result<Stream, DialError> {
    let socket = match &endpoint.target {
        Target::Tcp { host, port } => Socket::Tcp(connect_tcp(&endpoint.target, host, *port).await?),
        Target::Unix(path) => Socket::Unix(
            UnixStream::connect(path)
                .await
                .map_err(|source| DialError::Connect { target: endpoint.target.clone(), source })?,
        ),
    };
    let Some(tls) = &endpoint.tls else { return Ok(Stream::Plain(socket)) };
    if let Socket::Tcp(stream) = &socket {
        // It is on another machine, perhaps: one that is gone says nothing, and a reply may be silent for hours.
        let probes = TcpKeepalive::new().with_time(PROBE.0).with_interval(PROBE.1).with_retries(PROBE.2);
        let _ = SockRef::from(stream).set_tcp_keepalive(&probes);
    }
    let connector = TlsConnector::from((tls.provider)());
    let stream = connector
        .connect(tls.server_name.clone(), socket)
        .await
        .map_err(|source| DialError::Tls { target: endpoint.target.clone(), source })?;
    Ok(Stream::Tls(Box::new(TlsStream::Client(stream))))
}

/// Tries the addresses of `host` one after the other. An upstream is on loopback or in the same cluster, where a dead
/// address refuses at once; racing them would open sockets that nobody uses.
async fn connect_tcp(target: &Target, host: &str, port: u16) -> Result<TcpStream, DialError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return connect_address(SocketAddr::new(address, port))
            .await
            .map_err(|source| DialError::Connect { target: target.clone(), source });
    }
    let unresolved = |source| DialError::Resolve { host: host.to_owned(), source };
    let addresses = tokio::net::lookup_host((host, port)).await.map_err(unresolved)?;
    let mut last = None;
    for address in addresses {
        match connect_address(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(source) => Err(DialError::Connect { target: target.clone(), source }),
        None => Err(unresolved(io::Error::from(io::ErrorKind::NotFound))),
    }
}

async fn connect_address(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Requests and events are small and latency matters more than the number of packets.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether the handshake settled on HTTP/2. Plaintext is always HTTP/1.1: there is no prior knowledge to have.
pub(crate) fn speaks_h2(stream: &Stream) -> bool {
    match stream {
        Stream::Plain(_) => false,
        Stream::Tls(tls) => tls.get_ref().1.alpn_protocol() == Some(ALPN_H2),
    }
}

/// The certificates that the upstream showed, leaf first; `None` on plaintext.
pub(crate) fn peer_certs(stream: &Stream) -> Option<Arc<[CertificateDer<'static>]>> {
    let Stream::Tls(tls) = stream else { return None };
    tls.get_ref().1.peer_certificates().map(|certs| certs.iter().map(|cert| cert.clone().into_owned()).collect())
}
