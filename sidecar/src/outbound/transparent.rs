//! Connections that the kernel redirected to us: their destination is what they say, never the address they dialled, unless
//! a rule names that address.

use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_egress::client_hello;
use outrigger_policy::egress::{Ask, Host, Request};

use super::http::{Opened, Spoken};
use super::io::{read_into, write_all};
use super::passes::{ChildId, Shown};
use super::record::Record;
use super::refusal::{Refusal, Why};
use super::target::{Target, Way};
use super::wire::Wire;
use super::{Outbound, http, tunnel};
use crate::config::Mode;

/// Serves one redirected connection; `original` is what its client dialled. A refusal is a reset.
pub(super) async fn transparent(outbound: Arc<Outbound>, stream: Wire, original: SocketAddr) {
    let mut buffer = Vec::new();
    let dialled = Target { host: Host::Address(original.ip()), port: original.port() };
    let child = match outbound.child(Shown::Nothing, &stream, Some(original)).await {
        Ok(child) => child,
        Err(why) => {
            let mut record = Record::begin(&outbound, Way::Transparent);
            record.wants(&dialled, Request::Sealed);
            record.refused(&why.into());
            return reset(&stream);
        }
    };
    if outbound.is_raw(&dialled, child) {
        // The server may be the one to speak first.
        return tunnelled(&outbound, stream, buffer, dialled, child).await;
    }
    let first = tokio::time::timeout(outbound.settings.timeouts.hello, read_into(&stream, &mut buffer)).await;
    // Where nothing is enforced, the server may be the one to speak first, too.
    if first.is_err() && outbound.in_force().mode == Mode::Observe {
        return tunnelled(&outbound, stream, buffer, dialled, child).await;
    }
    if !matches!(first, Ok(Ok(read)) if read > 0) {
        let mut record = Record::begin(&outbound, Way::Transparent);
        record.comes_from(child);
        record.wants(&dialled, Request::Sealed);
        record.refused(&Why::Silent.into());
        return reset(&stream);
    }
    if buffer.first().is_some_and(u8::is_ascii_alphabetic) {
        return http::serve(&outbound, stream, buffer, Spoken::ToServer(original.port(), child)).await;
    }
    let named = match tunnel::read_hello(&stream, &mut buffer, outbound.settings.timeouts.hello).await {
        Ok(client_hello::ClientHello { name: Some(name), .. }) => Target::parse(&name, original.port()).ok(),
        Ok(_) | Err(_) => None,
    };
    tunnelled(&outbound, stream, buffer, named.unwrap_or(dialled), child).await;
}

async fn tunnelled(outbound: &Arc<Outbound>, stream: Wire, buffer: Vec<u8>, target: Target, child: Option<ChildId>) {
    let mut record = Record::begin(outbound, Way::Transparent);
    record.comes_from(child);
    record.wants(&target, Request::Sealed);
    let opened = async {
        let permitted = outbound.admit(&target, record.behind(), Request::Sealed).await?;
        let origin = if permitted.inspect { None } else { Some(outbound.dial(&permitted).await?) };
        Ok::<_, Refusal>((permitted, origin))
    };
    match opened.await {
        Ok((permitted, None)) => {
            record.permitted(&permitted);
            drop(record);
            let opened = Opened { target, way: Way::Transparent, child };
            http::enter(outbound, stream, buffer, opened, permitted).await;
        }
        Ok((permitted, Some((origin, address)))) => {
            record.permitted(&permitted);
            record.address = Some(address);
            outbound.tunnel((&stream, &origin), buffer, &target, &permitted, &mut record).await;
        }
        Err(refusal) => {
            record.refused(&refusal);
            // TLS can be told; anything else only sees the reset.
            if buffer.first() == Some(&22) {
                let _ = write_all(&stream, &tunnel::ACCESS_DENIED).await;
            } else {
                reset(&stream);
            }
        }
    }
}

/// Makes the close a reset: the client learns at once that nobody answers.
fn reset(stream: &Wire) {
    // Fails only on a connection that is over.
    if let Ok(socket) = stream.socket() {
        let _ = rustix::net::sockopt::set_socket_linger(socket, Some(std::time::Duration::ZERO));
    }
}

impl Outbound {
    /// Whether a rule lets anything through to this very address.
    fn is_raw(&self, dialled: &Target, child: Option<ChildId>) -> bool {
        let Host::Address(address) = &dialled.host else { return false };
        let behind = self.calls.behind_child(child);
        let names = behind.names();
        let tools = behind.as_tools(&names);
        let addresses = std::slice::from_ref(address);
        let ask = Ask { host: &dialled.host, port: dialled.port, tools, request: Request::Sealed, addresses };
        self.in_force().rules.decide(&ask).is_ok_and(|allowed| allowed.rule.raw)
    }
}
