//! Where connections arrive, also those that the kernel sent here, and where those were going.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};

use outrigger_confine::defer_accept;
use outrigger_runtime::{ListenError, ListenOptions, Listener};
use rustix::io::Errno;
use socket2::SockRef;

use super::dns::Sockets;
use crate::config::Egress;
use crate::redirect::ENGINE_RESOLVER;
use crate::start::StartError;

/// Seconds that the kernel keeps a connection without words to itself: with them there, one wake-up serves it.
const FIRST_WORDS: u8 = 1;
/// Where the system says whom to ask for names.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The setting that names the port.
const SETTING: &str = "egress.listen";

/// Where connections of the server arrive.
pub struct Entrance {
    proxy: Listener,
    /// The same port of the other loopback address: the kernel redirects within a family.
    twin: Option<Listener>,
    /// The resolver's sockets.
    pub(super) dns: Option<Sockets>,
}

impl Entrance {
    /// Binds; also for redirected connections when it is to be `transparent`.
    pub(super) fn bind(settings: &Egress) -> Result<Self, StartError> {
        let transparent = settings.transparent;
        let proxy = Listener::bind(ListenOptions::new(settings.listen, SETTING))?;
        // Clients of a proxy speak first; of redirected connections some wait for the server to.
        if !transparent && let Err(error) = defer_accept(&proxy, FIRST_WORDS) {
            tracing::debug!(%error, "connections are taken before their first words are there");
        }
        let twin = other_loopback(proxy.address()).filter(|_| transparent);
        let twin = match twin.map(|twin| Listener::bind(ListenOptions::new(twin, SETTING))).transpose() {
            // A machine without that family redirects nothing of it.
            Err(ListenError { cause, .. })
                if matches!(cause.kind(), ErrorKind::AddrNotAvailable | ErrorKind::Unsupported)
                    || cause.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error()) =>
            {
                None
            }
            other => other?,
        };
        let dns = settings.dns.listen.map(|at| Sockets::bind(at, transparent)).transpose()?;
        let entrance = Self { proxy, twin, dns };
        if let Some(dns) = entrance.dns_address() {
            tracing::info!(%dns, "listening for names that the server looks up");
            if transparent && settings.dns.servers.is_empty() && names_engine_resolver(RESOLV_CONF) {
                tracing::warn!(
                    "Docker's resolver in {RESOLV_CONF} asks others from inside this network namespace, from where questions \
                     are redirected back here: no name outside of Docker will have an address; set `egress.dns.servers` \
                     (OUTRIGGER_EGRESS_DNS_SERVERS)"
                );
            }
        }
        Ok(entrance)
    }

    /// Where the server finds its resolver.
    pub(super) fn dns_address(&self) -> Option<SocketAddr> {
        self.dns.as_ref().and_then(Sockets::address)
    }

    /// Where the server finds its proxy.
    pub(super) fn address(&self) -> SocketAddr {
        self.proxy.address()
    }

    /// The next connection. Safe to cancel.
    pub(super) async fn accept(&self) -> TcpStream {
        let Some(twin) = &self.twin else { return self.proxy.accept_unwatched().await.0 };
        tokio::select! {
            (stream, _) = self.proxy.accept_unwatched() => stream,
            (stream, _) = twin.accept_unwatched() => stream,
        }
    }
}

/// Whether a resolv.conf sends all questions to the resolver of a container engine.
fn names_engine_resolver(path: &str) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().any(|line| line.split_whitespace().eq(["nameserver", ENGINE_RESOLVER]))
}

/// What a redirected connection dialled; `None` for one that dialled us. The kernel says it (`SO_ORIGINAL_DST`), so that
/// the client cannot.
pub(super) fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let own = canonical(stream.local_addr().ok()?);
    let socket = SockRef::from(stream);
    // Without connection tracking there is no answer, and there are no redirections either.
    let original = if own.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    let original = canonical(original.ok()?.as_socket()?);
    (original != own).then_some(original)
}

/// The loopback address of the other family, where redirected connections of that family arrive: the kernel sends them to
/// its own loopback address.
pub(super) fn other_loopback(address: SocketAddr) -> Option<SocketAddr> {
    match address.ip() {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => Some((Ipv6Addr::LOCALHOST, address.port()).into()),
        IpAddr::V6(Ipv6Addr::LOCALHOST) => Some((Ipv4Addr::LOCALHOST, address.port()).into()),
        // Whoever listens on all addresses, or on one of another network, hears what is sent there.
        _ => None,
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resolver_of_an_engine_is_recognised() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        std::fs::write(path, "search a\nnameserver 127.0.0.11\noptions ndots:0\n").unwrap();
        assert!(names_engine_resolver(path));
        std::fs::write(path, "nameserver 127.0.0.1\n# nameserver 127.0.0.11\n").unwrap();
        assert!(!names_engine_resolver(path) && !names_engine_resolver("/nowhere"));
    }

    #[test]
    fn a_connection_to_us_was_not_redirected() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = std::net::TcpListener::bind(address).unwrap();
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (stream, _) = listener.accept().unwrap();
            assert_eq!(original_destination(&stream), None);
        }
    }

    #[test]
    fn the_other_loopback_address_has_the_same_port() {
        let of = |text: &str| other_loopback(text.parse().unwrap()).map(|address| address.to_string());
        assert_eq!(of("127.0.0.1:15001").as_deref(), Some("[::1]:15001"));
        assert_eq!(of("[::1]:15001").as_deref(), Some("127.0.0.1:15001"));
        assert_eq!(of("0.0.0.0:15001"), None);
    }
}
