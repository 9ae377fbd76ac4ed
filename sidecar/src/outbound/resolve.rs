//! Looking names up, once per connection: what is checked afterwards is what is dialled.

use std::net::IpAddr;
use std::time::Duration;

use outrigger_policy::egress::Name;

/// Addresses of one name that are looked at. More are a mistake or a trick.
const MAX_ADDRESSES: usize = 32;

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// It does not exist, or has no address.
    #[error("the name has no address")]
    NoAddress,
    /// The resolver could not say.
    #[error("the name cannot be looked up: {0}")]
    Failed(std::io::Error),
    /// The resolver did not answer in time.
    #[error("the name could not be looked up in time")]
    Timeout,
}

/// Looks names up with the system's resolver.
#[derive(Debug)]
pub struct Resolver {
    timeout: Duration,
}

impl Resolver {
    /// With this time limit for each look-up.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout }
    }

    /// All addresses of a name, in the resolver's order.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub async fn lookup(&self, name: &Name) -> Result<Vec<IpAddr>, ResolveError> {
        let found = tokio::time::timeout(self.timeout, tokio::net::lookup_host((name.as_str(), 0)))
            .await
            .map_err(|_elapsed| ResolveError::Timeout)?
            .map_err(ResolveError::Failed)?;
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in found.map(|socket| socket.ip()).take(MAX_ADDRESSES) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() { Err(ResolveError::NoAddress) } else { Ok(addresses) }
    }
}
