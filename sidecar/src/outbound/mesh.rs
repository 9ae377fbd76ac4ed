//! Service to service: `http://<service>.mesh/mcp` goes to that service's sidecar over mTLS, as this workload. What the
//! workload may do there is the other sidecar's policy.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::kinds::HostPort;
use outrigger_identity::{Credentials, SpiffeId, server_name};
use outrigger_policy::egress::Host;
use outrigger_telemetry::metrics::EgressMetrics;
use rustls::{ClientConfig, ClientConnection};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::refusal::Why;
use super::target::Target;
use super::wire::Wire;
use crate::config::Mesh;

/// What health checks and other words between proxies stand under; servers have no business there.
const BETWEEN_PROXIES: &str = "/mesh/";
/// Bytes of the file of addresses at most.
const MAX_FILE: u64 = 1024 * 1024;

/// What names of the mesh are said to be, to servers that use no proxy: the rules of redirection send what is dialled there to
/// the sidecar, whatever else is loopback. It needs no route, and where the rules are missing nothing leaves the machine.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 150, 0, 1);

/// The services of the mesh, as this workload reaches them.
#[derive(Debug)]
pub struct Services {
    credentials: Arc<Credentials>,
    mesh: Mesh,
}

/// The service that a target names, where it names one. Such a name is never looked up.
pub(super) fn service(target: &Target) -> Option<&str> {
    match &target.host {
        Host::Name(name) => name.in_mesh(),
        Host::Address(_) => None,
    }
}

/// Whether a path is for servers to call.
pub(super) fn is_open(path: &str) -> bool {
    !path.starts_with(BETWEEN_PROXIES)
}

impl Services {
    /// Reached with these credentials, at these addresses.
    pub fn new(credentials: Arc<Credentials>, mesh: Mesh) -> Self {
        Self { credentials, mesh }
    }

    /// Connects to the sidecar of a service, and to nobody else.
    pub(super) async fn dial(&self, service: &str, within: Duration, metrics: &EgressMetrics) -> Result<Wire, Why> {
        let expected = self.credentials.id().trust_domain().service(service).map_err(|_| unknown(service))?;
        let connecting = async {
            let begun = Instant::now();
            let address = self.address(service).await?;
            let socket = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(Why::Connect)?;
            // Fails only on a connection that is dead already.
            let _ = socket.set_nodelay(true);
            metrics.connected(begun.elapsed());
            let begun = Instant::now();
            let secured = self.secure(socket, &expected).await.map_err(Why::Tls)?;
            metrics.shook_hands(begun.elapsed());
            Ok(secured)
        };
        tokio::time::timeout(within, connecting)
            .await
            .unwrap_or_else(|_elapsed| Err(Why::Connect(io::ErrorKind::TimedOut.into())))
    }

    async fn secure(&self, socket: TcpStream, expected: &SpiffeId) -> io::Result<Wire> {
        let name = server_name(socket.peer_addr()?.ip());
        let mut config = ClientConfig::clone(&self.credentials.client_config(expected));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        Wire::from(socket).secure(connection, &[]).await
    }

    async fn address(&self, service: &str) -> Result<HostPort, Why> {
        if let Some((_, address)) = self.mesh.services.iter().find(|(name, _)| name == service) {
            return Ok(address.clone());
        }
        let Some(file) = &self.mesh.file else { return Err(unknown(service)) };
        let listed = read_addresses(file).await.map_err(|error| {
            tracing::warn!(file = %file.display(), %error, "the addresses of services cannot be read");
            unknown(service)
        })?;
        listed.get(service).and_then(|address| HostPort::parse(address)).ok_or_else(|| unknown(service))
    }
}

fn unknown(service: &str) -> Why {
    Why::NoService(service.to_owned())
}

/// Read anew each time: it is written when sidecars have found their ports, and whenever they move.
async fn read_addresses(file: &Path) -> io::Result<HashMap<String, String>> {
    let mut text = Vec::new();
    let file = match tokio::fs::File::open(file).await {
        // Nobody has an address yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        opened => opened?,
    };
    file.take(MAX_FILE).read_to_end(&mut text).await?;
    Ok(serde_json::from_slice(&text)?)
}
