//! Makes the cryptography ready before readiness is announced.
//!
//! The first handshake of a process costs tens of milliseconds of CPU (self-tests, tables, entropy), every later one
//! less than one. Doing one in memory at start keeps that out of the first request.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConnection, Connection, ServerConnection};

use crate::authority::AuthorityError;
use crate::credentials::{CredentialOptions, CredentialsError, Snapshot, server_name};
use crate::files::{FileRole, Key, Loaded};
use crate::root::{Rank, Root};
use crate::spiffe::TrustDomain;
use crate::tls;
use crate::watch::Contents;

/// The throw-away certificates live this long.
const LIFE: Duration = Duration::from_secs(60);
/// A handshake of TLS 1.3 needs two rounds; one that needs more than this will not end.
const MAX_ROUNDS: usize = 8;

/// Why the rehearsal failed. The real handshakes would fail as well.
#[derive(Debug, thiserror::Error)]
pub enum WarmUpError {
    /// No certificate could be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// No configuration could be made.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The two sides did not agree.
    #[error("handshake in memory: {0}")]
    Tls(#[from] rustls::Error),
    /// Never happens with buffers in memory; rustls' interface allows for it.
    #[error("handshake in memory: {0}")]
    Io(#[from] io::Error),
    /// The two sides went on and on.
    #[error("the handshake in memory does not end")]
    Endless,
}

/// One mutual handshake in memory, with certificates that are then thrown away. Takes some 50 ms of CPU the first time.
///
/// # Errors
/// When the cryptography of this machine does not work.
pub fn warm_up() -> Result<(), WarmUpError> {
    let domain = TrustDomain::parse("warm-up.invalid").map_err(AuthorityError::from)?;
    let (root, ca) = Root::generate(&domain, LIFE, Rank::Signer)?;
    let issued = root.issue("warm-up", LIFE, &[])?;
    let file = |role, pem: String| Loaded::from_memory(role, Path::new("(in memory)"), pem.into_bytes());
    let contents = Contents {
        cert: file(FileRole::Cert, issued.cert_chain_pem),
        key: Key::File(file(FileRole::Key, issued.key_pem)),
        ca: Some(file(FileRole::Ca, ca)),
        crl: None,
        federation: Vec::new(),
    };
    let snapshot = Snapshot::compile(&Arc::new(tls::provider()), &contents, &CredentialOptions::default(), 1)?;
    let name = server_name(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let mut client = Connection::from(ClientConnection::new(snapshot.client(&issued.id), name)?);
    let mut server = Connection::from(ServerConnection::new(snapshot.server())?);
    for _ in 0..MAX_ROUNDS {
        pass(&mut client, &mut server)?;
        pass(&mut server, &mut client)?;
        if !client.is_handshaking() && !server.is_handshaking() {
            return Ok(());
        }
    }
    Err(WarmUpError::Endless)
}

/// Gives everything that one side has to say to the other.
fn pass(from: &mut Connection, to: &mut Connection) -> Result<(), WarmUpError> {
    let mut flight = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut flight)?;
    }
    let mut rest = flight.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest)?;
        to.process_new_packets()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rehearsal_works_and_can_be_repeated() {
        warm_up().unwrap();
        warm_up().unwrap();
    }
}
