//! Listening sockets: bind early with an error that names the setting, accept without ever giving up.

use std::io;
use std::net::{self, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Connections that the kernel holds before they are accepted. The kernel caps it at `net.core.somaxconn`.
pub const DEFAULT_BACKLOG: u32 = 1024;

/// First and longest rest after the process ran out of descriptors or memory: long enough for connections to end.
const ACCEPT_REST: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How long a peer may take no byte of what waits for it (tcp(7), `TCP_USER_TIMEOUT`; a closed window counts too). Longer
/// than a laptop needs to change its network.
const UNREAD: Duration = Duration::from_secs(60);

/// Where and how to listen.
#[derive(Debug, Clone, Copy)]
pub struct ListenOptions {
    /// Address; port 0 lets the system choose.
    pub address: SocketAddr,
    /// Connections that wait to be accepted.
    pub backlog: u32,
    /// The setting that `address` came from, named in errors.
    pub setting: &'static str,
}

/// A socket that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (setting `{setting}`): {cause}; {hint}")]
pub struct ListenError {
    /// The address that was asked for.
    pub address: SocketAddr,
    /// The setting to change.
    pub setting: &'static str,
    /// What the system says.
    pub cause: io::Error,
    hint: &'static str,
}

/// A bound socket. Connections wait in its backlog until [`Listener::accept`] is called.
#[derive(Debug)]
pub struct Listener {
    /// The listening socket. It is watched as a stream would be, because tokio's own listener hands out only connections that it
    /// watches already.
    socket: TcpStream,
    address: SocketAddr,
    setting: &'static str,
}

impl ListenOptions {
    /// With the default backlog.
    pub fn new(address: SocketAddr, setting: &'static str) -> Self {
        Self { address, backlog: DEFAULT_BACKLOG, setting }
    }
}

impl Listener {
    /// Binds. Needs a tokio runtime.
    pub fn bind(options: ListenOptions) -> Result<Self, ListenError> {
        let ListenOptions { address, setting, .. } = options;
        let bound = open(options).and_then(|socket| {
            let address = socket.local_addr()?;
            Ok(Self { socket, address, setting })
        });
        bound.map_err(|cause| ListenError { address, setting, hint: hint(&cause), cause })
    }

    /// The bound address, with the port that the system chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection, with `TCP_NODELAY`. Never fails: a connection that broke while it waited is
    /// skipped, and out of descriptors it rests and tries again. Safe to cancel.
    pub async fn accept(&self) -> (TcpStream, SocketAddr) {
        loop {
            let (stream, peer) = self.accept_unwatched().await;
            match TcpStream::from_std(stream) {
                Ok(stream) => return (stream, peer),
                Err(error) => {
                    tracing::warn!(setting = self.setting, %error, "cannot watch a connection");
                    tokio::time::sleep(ACCEPT_REST.0).await;
                }
            }
        }
    }

    /// What waits in the backlog at this moment, as far as it can be accepted: for a listener that is about to close, whose clients
    /// would see what they sent reset. No more of them than the default backlog, so that a flood cannot hold up the close.
    pub fn waiting(&self) -> impl Iterator<Item = (TcpStream, SocketAddr)> + '_ {
        // Past tokio, which may not have heard of the last ones yet. Errors end it: there is no time for a rest.
        let accepted = std::iter::from_fn(|| {
            loop {
                match accept(&self.socket) {
                    Ok(accepted) => return Some(accepted),
                    Err(error) if broken_connection(&error) => {}
                    Err(_) => return None,
                }
            }
        });
        let watched = accepted.filter_map(|(stream, peer)| Some((TcpStream::from_std(stream).ok()?, peer)));
        watched.take(DEFAULT_BACKLOG as usize)
    }

    /// Like [`Listener::accept`], non-blocking and not yet known to the runtime: whoever finds all that it waits for in it already spares the
    /// kernel from watching it.
    pub async fn accept_unwatched(&self) -> (net::TcpStream, SocketAddr) {
        let mut rest = ACCEPT_REST.0;
        loop {
            match self.socket.async_io(Interest::READABLE, || accept(&self.socket)).await {
                Ok(accepted) => return accepted,
                Err(error) if broken_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(setting = self.setting, %error, rest_ms = rest.as_millis(), "cannot accept");
                    tokio::time::sleep(rest).await;
                    rest = (rest * 2).min(ACCEPT_REST.1);
                }
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn open(options: ListenOptions) -> io::Result<TcpStream> {
    let domain = Domain::for_address(options.address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections of the last run to time out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&options.address.into())?;
    // Accepted sockets inherit both, which spares a system call for each.
    socket.set_tcp_user_timeout(Some(UNREAD))?;
    socket.set_tcp_nodelay(true)?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    TcpStream::from_std(socket.into())
}

/// One system call where there is one for all of it.
#[cfg(target_os = "linux")]
fn accept(listener: &TcpStream) -> io::Result<(net::TcpStream, SocketAddr)> {
    use rustix::net::{SocketFlags, acceptfrom_with};
    let (stream, peer) = acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).ok_or(io::ErrorKind::ConnectionAborted)?;
    Ok((stream.into(), peer))
}

#[cfg(not(target_os = "linux"))]
fn accept(listener: &TcpStream) -> io::Result<(net::TcpStream, SocketAddr)> {
    let (stream, peer) = socket2::SockRef::from(listener).accept()?;
    stream.set_nonblocking(true)?;
    let peer = peer.as_socket().ok_or(io::ErrorKind::ConnectionAborted)?;
    Ok((stream.into(), peer))
}

/// Errors of the connection, not of the listener (accept(2), "Error handling").
fn broken_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

fn hint(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::AddrInUse => {
            "another process listens there: stop it, choose another port, or port 0 for any free one"
        }
        io::ErrorKind::PermissionDenied => {
            "this user may not bind that port: choose one above 1023, or grant CAP_NET_BIND_SERVICE"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address: use one of its own, or 0.0.0.0 or [::] for all of them"
        }
        _ => "check the address",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback(port: u16) -> ListenOptions {
        ListenOptions::new(SocketAddr::from(([127, 0, 0, 1], port)), "ingress.listen")
    }

    #[tokio::test]
    async fn port_0_reports_the_port_and_accepts_without_delay() {
        let listener = Listener::bind(loopback(0)).unwrap();
        assert_ne!(listener.address().port(), 0);
        let client = TcpStream::connect(listener.address()).await.unwrap();
        let (stream, peer) = listener.accept().await;
        assert_eq!(peer, client.local_addr().unwrap());
        assert!(stream.nodelay().unwrap());
        // A client that reads no more is cut, or it would hold what its answer occupies.
        assert_eq!(socket2::SockRef::from(&stream).tcp_user_timeout().unwrap(), Some(UNREAD));
    }

    #[tokio::test]
    async fn a_taken_port_names_the_setting_and_what_to_do() {
        let first = Listener::bind(loopback(0)).unwrap();
        let error = Listener::bind(loopback(first.address().port())).unwrap_err().to_string();
        assert!(error.contains(&first.address().to_string()), "{error}");
        assert!(error.contains("`ingress.listen`") && error.contains("port 0"), "{error}");
    }

    #[tokio::test]
    async fn a_foreign_address_is_explained() {
        let address = SocketAddr::from(([192, 0, 2, 1], 0));
        let error = Listener::bind(ListenOptions::new(address, "sidecar.listen")).unwrap_err();
        assert!(error.to_string().contains("does not have that address"), "{error}");
    }

    #[tokio::test]
    async fn a_port_can_be_bound_again_at_once() {
        let first = Listener::bind(loopback(0)).unwrap();
        let port = first.address().port();
        let client = TcpStream::connect(first.address()).await.unwrap();
        let served = first.accept().await;
        // The server closes first, so that the port is left in TIME_WAIT.
        drop((served, first, client));
        assert_eq!(Listener::bind(loopback(port)).unwrap().address().port(), port);
    }
}
