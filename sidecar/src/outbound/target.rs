//! Where a connection wants to go, and how it came to us.

use std::fmt;

use outrigger_policy::egress::{Host, HostError};

/// The ways in. All end in the same decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `CONNECT host:port` to the HTTP proxy.
    Connect,
    /// A plain HTTP request to the proxy.
    Forward,
    /// SOCKS5.
    Socks,
    /// Dialled without a proxy, and redirected to us by the kernel.
    Transparent,
    /// A question to the resolver.
    Dns,
}

impl Way {
    /// The word in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Way::Connect => "connect",
            Way::Forward => "http",
            Way::Socks => "socks5",
            Way::Transparent => "transparent",
            Way::Dns => "dns",
        }
    }
}

/// A destination in its one form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Name or address.
    pub host: Host,
    /// Never 0.
    pub port: u16,
}

impl Target {
    /// Reads a host as it was written.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn parse(host: &str, port: u16) -> Result<Target, HostError> {
        Ok(Target { host: Host::parse(host)?, port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}
