//! The agent of the SPIFFE Workload API that gives an identity: where its socket is.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::json;

use crate::kinds::{Kind, Mistake};

/// Where an agent listens, as `SPIFFE_ENDPOINT_SOCKET` says it (SPIFFE Workload Endpoint, section 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentSocket {
    /// A Unix socket.
    Unix(PathBuf),
    /// An address; nothing on the way is encrypted.
    Tcp(SocketAddr),
}

impl fmt::Display for AgentSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// `unix:///run/spire/agent/public/api.sock` or `tcp://127.0.0.1:8081`. No names: the specification has none.
pub(super) fn agent_socket() -> Kind<AgentSocket> {
    let parse = |text: &str| {
        let hint = "unix:///run/spire/agent/public/api.sock, or tcp:// with an IP address and a port";
        let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:"));
        let path = path.filter(|path| path.starts_with('/') && path.len() > 1 && !path.contains(['?', '#', '\0']));
        let address = || text.strip_prefix("tcp://").and_then(|address| address.parse().ok());
        let socket = path.map(|path| AgentSocket::Unix(path.into())).or_else(|| address().map(AgentSocket::Tcp));
        socket.ok_or_else(|| Mistake::new("this is no address of a SPIFFE Workload API", hint))
    };
    Kind::scalar("socket address", json!({"type": "string", "pattern": "^(unix:/|tcp://)"}), parse, ToString::to_string)
}
