//! Who is at the other end of open connections, and the means to end one: a peer that loses our trust loses the
//! connections that it has.
//!
//! Requests never look here. A connection is noted once, after its handshake, and watches one flag of its own; when
//! certificates or revocations change, [`OpenPeers::recheck`] looks at all of them again.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use outrigger_identity::PeerError;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::Stream;

/// Says whether a chain, leaf first, would pass a handshake now.
pub type PeerCheck = Arc<dyn Fn(&[CertificateDer<'static>]) -> Result<(), PeerError> + Send + Sync>;

/// The peer of one connection: its certificates, and the flag that cuts the connection.
#[derive(Debug)]
pub struct Peer {
    /// The other end of a socket that we accepted.
    addr: Option<SocketAddr>,
    certs: Arc<[CertificateDer<'static>]>,
    cut: AtomicBool,
    /// Of whoever drives the connection now.
    driver: Mutex<Option<Waker>>,
}

impl Peer {
    /// Leaf first; never empty.
    pub(crate) fn certs(&self) -> &[CertificateDer<'static>] {
        &self.certs
    }

    pub(crate) fn shown(&self) -> Arc<[CertificateDer<'static>]> {
        Arc::clone(&self.certs)
    }

    pub(crate) fn cut(&self) {
        // Before the waker is taken: whoever leaves one afterwards sees it.
        self.cut.store(true, Ordering::Release);
        if let Some(driver) = lock(&self.driver).take() {
            driver.wake();
        }
    }
}

/// A driver's eye on its [`Peer`]. While the same task drives, a look costs one relaxed load.
#[derive(Debug)]
pub(crate) struct CutWatch {
    peer: Option<Arc<Peer>>,
    registered: Option<Waker>,
}

impl CutWatch {
    /// Without a peer the connection is never cut.
    pub(crate) fn new(peer: Option<Arc<Peer>>) -> Self {
        Self { peer, registered: None }
    }

    /// Whether the connection must end; otherwise `cx` is woken when it must.
    pub(crate) fn is_cut(&mut self, cx: &Context<'_>) -> bool {
        let Some(peer) = &self.peer else { return false };
        // Whoever only looks at an idle connection must not take the place of who waits.
        let looks = cx.waker().will_wake(Waker::noop());
        if looks || self.registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            // Being woken by the cut orders this load after it.
            return peer.cut.load(Ordering::Relaxed);
        }
        *lock(&peer.driver) = Some(cx.waker().clone());
        self.registered = Some(cx.waker().clone());
        peer.cut.load(Ordering::Acquire)
    }
}

/// A connection to an upstream that reads an error once it is cut. HTTP engines read all the time that they wait, and
/// end whatever goes on when reading fails.
#[derive(Debug)]
pub(crate) struct Cuttable {
    stream: Stream,
    cut: CutWatch,
}

impl Cuttable {
    pub(crate) fn new(stream: Stream, peer: Option<Arc<Peer>>) -> Self {
        Self { stream, cut: CutWatch::new(peer) }
    }

    pub(crate) fn get(&self) -> &Stream {
        &self.stream
    }
}

impl AsyncRead for Cuttable {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.cut.is_cut(cx) {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the peer is no longer believed",
            )));
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Cuttable {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// The peers of connections that are open. Those that ended are forgotten by and by.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    members: Vec<Weak<Peer>>,
    /// Length at which the ended ones are sorted out.
    full: usize,
}

/// Below this many a registry is not worth sorting out.
const FEW: usize = 16;

impl Registry {
    /// Notes an upstream.
    pub(crate) fn add(&mut self, certs: Arc<[CertificateDer<'static>]>) -> Arc<Peer> {
        self.note(Peer { addr: None, certs, cut: AtomicBool::new(false), driver: Mutex::default() })
    }

    fn note(&mut self, peer: Peer) -> Arc<Peer> {
        if self.members.len() >= self.full {
            self.members.retain(|peer| peer.strong_count() > 0);
            // Twice what is left, so that the cost per connection stays the same however many there are.
            self.full = (self.members.len() * 2).max(FEW);
        }
        let peer = Arc::new(peer);
        self.members.push(Arc::downgrade(&peer));
        peer
    }

    pub(crate) fn open(&self) -> Vec<Arc<Peer>> {
        self.members.iter().filter_map(Weak::upgrade).collect()
    }
}

/// The connections of a listener whose peers showed certificates.
pub struct OpenPeers {
    check: PeerCheck,
    /// Counts the calls of [`OpenPeers::recheck`].
    rounds: AtomicU64,
    registry: Mutex<Registry>,
}

impl OpenPeers {
    /// `check` is asked about every peer at each [`OpenPeers::recheck`].
    pub fn new(check: PeerCheck) -> Arc<Self> {
        Arc::new(Self { check, rounds: AtomicU64::new(0), registry: Mutex::default() })
    }

    /// Cuts the connections of peers that would be refused now; gives how many. Call it when what is believed has changed.
    /// Verifies chains, about 0.2 ms each: not for a thread that serves requests.
    pub fn recheck(&self) -> usize {
        // First, so that a handshake that began under what was believed before knows when it is noted.
        self.rounds.fetch_add(1, Ordering::AcqRel);
        let open = lock(&self.registry).open();
        open.iter().filter(|peer| self.refuses(peer)).inspect(|peer| peer.cut()).count()
    }

    /// Notes a connection whose handshake began in `round`; `None` when its peer is refused since.
    pub(crate) fn note(
        &self,
        addr: SocketAddr,
        certs: &Arc<[CertificateDer<'static>]>,
        round: u64,
    ) -> Option<Arc<Peer>> {
        let certs = Arc::clone(certs);
        let peer = Peer { addr: Some(addr), certs, cut: AtomicBool::new(false), driver: Mutex::default() };
        let (peer, now) = {
            let mut registry = lock(&self.registry);
            (registry.note(peer), self.round())
        };
        (now == round || !self.refuses(&peer)).then_some(peer)
    }

    /// To be taken before the configuration of a handshake is.
    pub(crate) fn round(&self) -> u64 {
        self.rounds.load(Ordering::Acquire)
    }

    fn refuses(&self, peer: &Peer) -> bool {
        match (self.check)(&peer.certs) {
            Ok(()) => false,
            Err(error) => {
                tracing::warn!(peer = ?peer.addr, %error, "an open connection is cut: its certificate is no longer accepted");
                true
            }
        }
    }
}

impl std::fmt::Debug for OpenPeers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenPeers").field("rounds", &self.rounds).finish_non_exhaustive()
    }
}

/// A panic while one of these short locks is held cannot leave what is behind it half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl std::task::Wake for Nobody {
        fn wake(self: Arc<Self>) {}
    }

    fn addr() -> SocketAddr {
        ([127, 0, 0, 1], 1).into()
    }

    fn certs(name: &'static [u8]) -> Arc<[CertificateDer<'static>]> {
        Arc::from([CertificateDer::from(name)])
    }

    fn refusing_bad() -> Arc<OpenPeers> {
        OpenPeers::new(Arc::new(|certs| match certs.first() {
            Some(cert) if cert.as_ref() == b"bad" => Err(PeerError::OutsideLife),
            _ => Ok(()),
        }))
    }

    #[test]
    fn only_the_refused_are_cut() {
        let peers = refusing_bad();
        let round = peers.round();
        let good = peers.note(addr(), &certs(b"good"), round).unwrap();
        let bad = peers.note(addr(), &certs(b"bad"), round).unwrap();
        drop(peers.note(addr(), &certs(b"bad"), round));
        assert_eq!(peers.recheck(), 1, "one of two has ended");
        let waker = Waker::from(Arc::new(Nobody));
        let cx = Context::from_waker(&waker);
        assert!(CutWatch::new(Some(bad)).is_cut(&cx));
        assert!(!CutWatch::new(Some(good)).is_cut(&cx));
    }

    #[test]
    fn a_handshake_that_overlaps_a_change_is_checked_again() {
        let peers = refusing_bad();
        let before = peers.round();
        peers.recheck();
        assert!(peers.note(addr(), &certs(b"bad"), before).is_none());
        assert!(peers.note(addr(), &certs(b"good"), before).is_some());
    }

    #[test]
    fn ended_connections_are_forgotten() {
        let mut registry = Registry::default();
        let kept: Vec<_> = (0..20).map(|_| registry.add(certs(b"kept"))).collect();
        for _ in 0..10_000 {
            registry.add(certs(b"gone"));
        }
        assert_eq!(registry.open().len(), kept.len());
        assert!(registry.members.len() <= 4 * kept.len(), "{}", registry.members.len());
    }
}
