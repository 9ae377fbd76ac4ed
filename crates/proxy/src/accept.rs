//! The accept phase: takes connections under a permit, gives each a task, and ends them in two steps.
//!
//! ```text
//! run: accept -> permit -> task [ handshake -> serve ]      drain begins -> what waits is accepted, no more; connections drain
//!                 \ none: close at once, count              a moment on  -> those on which nothing was asked are closed
//!                                                           forced       -> what is left is cut
//! ```

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use outrigger_runtime::drain::DrainWatcher;
use outrigger_runtime::listen::Listener;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::body::OutBody;
use crate::handshake::{ConnInfo, HandshakeError, ServerTlsProvider, TlsInfo, handshake};
use crate::peers::{OpenPeers, Peer};
use crate::serve::{ConnEnd, Ends, HttpLimits, serve};
use crate::stream::{Socket, Stream};

pub(crate) mod stop;
#[cfg(test)]
mod tests;

use stop::{Stage, Stop};

/// How one listener treats its connections.
#[derive(Clone)]
pub struct ListenerSettings {
    /// The listener's name in logs, such as `inbound`.
    pub name: &'static str,
    /// Open connections at most, those in the handshake included. More are closed as they come.
    pub max_connections: usize,
    /// TLS, or plaintext when absent.
    pub tls: Option<ServerTlsProvider>,
    /// Notes the connections of clients with certificates, so that they can be looked at again.
    pub peers: Option<Arc<OpenPeers>>,
    /// For the whole TLS handshake.
    pub handshake_timeout: Duration,
    /// How often a silent peer's kernel is asked whether it is still there; it has the stall timeout to answer.
    pub probe: Option<Duration>,
    /// What a client may make us hold.
    pub http: HttpLimits,
    /// Hears what happens to connections.
    pub observer: Arc<dyn ConnObserver>,
}

impl ListenerSettings {
    /// A plaintext listener with the default limits.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            // At some 30 KiB each, 4,096 idle connections are 120 MiB: a bound for a sidecar, not a target.
            max_connections: 4096,
            tls: None,
            peers: None,
            // Ten times what a handshake over a bad mobile link takes.
            handshake_timeout: Duration::from_secs(10),
            probe: None,
            http: HttpLimits::default(),
            observer: Arc::new(NoObserver),
        }
    }
}

/// Counts connections. Called from the accept loop and from connection tasks, so it must not block.
pub trait ConnObserver: Send + Sync {
    /// A connection got its permit.
    fn opened(&self) {}
    /// A connection was closed because [`ListenerSettings::max_connections`] are open.
    fn refused(&self) {}
    /// A TLS handshake ended.
    fn handshake(&self, _peer: SocketAddr, _outcome: Result<&TlsInfo, &HandshakeError>) {}
    /// A connection that was [`ConnObserver::opened`] is over; `None` when it never got to HTTP.
    fn closed(&self, _end: Option<ConnEnd>) {}
}

/// For listeners that nobody counts.
struct NoObserver;

impl ConnObserver for NoObserver {}

/// Accepts and serves until the drain begins, lets requests in flight finish, and cuts what is left when the drain is
/// forced. Returns when no connection is left; the drain waits for that.
///
/// `service` is called for each request with what is known about its connection. Dropping the future cuts every
/// connection at once.
pub async fn run<F, R>(listener: Listener, settings: ListenerSettings, drain: DrainWatcher, service: F)
where
    F: Fn(Arc<ConnInfo>, Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Response<OutBody>> + Send + 'static,
{
    let _busy = drain.guard();
    let shared = Arc::new(Shared { stop: Arc::default(), tasks: TaskTracker::new(), settings });
    let _cut = CutOnDrop(&shared.stop);
    let permits = Arc::new(Semaphore::new(shared.settings.max_connections.min(Semaphore::MAX_PERMITS)));
    let sharing = Arc::clone(&shared);
    let mut admit = move |socket, peer| match Arc::clone(&permits).try_acquire_owned() {
        Ok(permit) => {
            sharing.settings.observer.opened();
            sharing.tasks.spawn(connection(socket, peer, permit, Arc::clone(&sharing), service.clone()));
        }
        // Accepted and dropped: left in the queue, it would hold up those who come when there is room.
        Err(_full) => sharing.settings.observer.refused(),
    };
    tokio::select! {
        () = accept_loop(&listener, &mut admit) => {}
        () = drain.signaled() => {}
    }
    // For their clients these are open already; what they sent would be reset with the listener.
    for (socket, peer) in listener.waiting() {
        admit(socket, peer);
    }
    // From here on a new connection is refused at once instead of waiting in a queue.
    drop(listener);
    shared.tasks.close();
    shared.stop.advance(Stage::Draining);
    tokio::select! {
        () = shared.tasks.wait() => return,
        () = tokio::time::sleep(FIRST_REQUEST) => shared.stop.advance(Stage::Closing),
        () = drain.forced() => {}
    }
    tokio::select! {
        () = shared.tasks.wait() => return,
        () = drain.forced() => {}
    }
    let (listener, left) = (shared.settings.name, shared.tasks.len());
    tracing::warn!(listener, left, "cutting what did not end in time");
    shared.stop.advance(Stage::Forced);
    if tokio::time::timeout(FORCE_GRACE, shared.tasks.wait()).await.is_err() {
        tracing::error!(listener, left = shared.tasks.len(), "connections that cannot be cut");
    }
}

/// Puts what a service does with a request on the heap, where an idle connection does not carry its state.
///
/// The place is there before the future, so that a failed allocation has nothing to drop: the compiler then writes the few words that a
/// future begins with, instead of making all of its many kilobytes on the stack and moving them.
#[inline(always)]
pub fn boxed<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    let place = Box::new_uninit();
    Box::into_pin(Box::write(place, make()))
}

/// What the connections of one listener share.
struct Shared {
    stop: Arc<Stop>,
    tasks: TaskTracker,
    settings: ListenerSettings,
}

async fn accept_loop(listener: &Listener, mut admit: impl FnMut(TcpStream, SocketAddr)) {
    loop {
        let (socket, peer) = listener.accept().await;
        admit(socket, peer);
    }
}

/// One connection from accept to end. The permit goes with it.
async fn connection<F, R>(
    socket: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
    shared: Arc<Shared>,
    service: F,
) where
    F: Fn(Arc<ConnInfo>, Request<Incoming>) -> R + Send + 'static,
    R: Future<Output = Response<OutBody>> + Send + 'static,
{
    let mut open = Open { observer: &*shared.settings.observer, end: None };
    if let Some((stream, info, noted)) = prepare(socket, peer, &shared).await {
        let Shared { stop, tasks, settings } = &*shared;
        let ends = Ends { stop: Arc::clone(stop), peer: noted, tasks: tasks.clone() };
        open.end = Some(serve(stream, Arc::new(info), &settings.http, ends, service).await);
    }
    drop(open);
    drop(permit);
}

/// From a raw socket to one that is ready for HTTP. `None` when the connection is over already.
async fn prepare(
    socket: TcpStream,
    peer: SocketAddr,
    shared: &Shared,
) -> Option<(Stream, ConnInfo, Option<Arc<Peer>>)> {
    // Fails only on a socket whose peer is gone.
    let local = socket.local_addr().ok()?;
    let settings = &shared.settings;
    // Ends the connection of a client that takes nothing, however politely its kernel answers probes.
    let _ = SockRef::from(&socket).set_tcp_user_timeout(Some(settings.http.stall_timeout));
    if let Some(every) = settings.probe {
        let _ = SockRef::from(&socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(every).with_interval(every));
    }
    let Some(provider) = &settings.tls else {
        return Some((Stream::Plain(Socket::Tcp(socket)), ConnInfo::new(peer, local, None), None));
    };
    let round = settings.peers.as_ref().map_or(0, |peers| peers.round());
    // Boxed: its state is needed for a moment, a connection's task lives for hours.
    let shaking = boxed(|| handshake(socket, provider(), settings.handshake_timeout));
    let outcome = tokio::select! {
        outcome = shaking => outcome,
        // Nothing was asked on this connection yet, so nothing is lost by closing it.
        () = shared.stop.reached(Stage::Closing) => return None,
    };
    settings.observer.handshake(peer, outcome.as_ref().map(|(_, tls)| tls));
    let (stream, tls) = outcome.ok()?;
    let noted = match settings.peers.as_ref().filter(|_| !tls.peer_certs.is_empty()) {
        Some(peers) => Some(peers.note(peer, &tls.peer_certs, round)?),
        None => None,
    };
    Some((stream, ConnInfo::new(peer, local, Some(tls)), noted))
}

/// Tells the observer that a connection is over, also when its service panicked.
struct Open<'a> {
    observer: &'a dyn ConnObserver,
    end: Option<ConnEnd>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.observer.closed(self.end);
    }
}

/// When the drain begins, how long a client that has just connected may take for its handshake and its first request: one round
/// trip of TCP, one of TLS and the way of the request, between continents. Closed at once, it would meet the end of a
/// connection that it had every reason to trust, and few clients send a call again.
const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// After the force, tasks end at their next poll; one that never comes there must not hold up the process.
const FORCE_GRACE: Duration = Duration::from_secs(1);

/// Cuts all connections when the listener's future is dropped: without it nobody would ever end them.
struct CutOnDrop<'a>(&'a Stop);

impl Drop for CutOnDrop<'_> {
    fn drop(&mut self) {
        self.0.advance(Stage::Forced);
    }
}
