//! Connections to one upstream, kept and shared.
//!
//! ```text
//! send -> a live h2 connection?          -> stream on it
//!      -> an idle HTTP/1.1 connection?   -> use it; provably unsent -> once more, on a fresh one
//!      -> dial; ALPN says h2 or HTTP/1.1
//! ```
//!
//! A request is never sent twice: only one that hyper hands back whole, before any of it was written, goes to another
//! connection. There is no time limit on an answer here, because it differs per call: wrap [`Pool::send`] in
//! `tokio::time::timeout`. Dropping its future, or the response body, cancels the call at the upstream.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::body::OutBody;
use crate::dial::{self, DialError, Endpoint};
use crate::peers::{Cuttable, Registry};

mod error;
mod h1;
mod h2;
mod idle;
mod request;
mod response;
#[cfg(test)]
mod tests;

pub use error::{SendError, SendErrorKind};
pub use response::PooledBody;

use error::{Attempt, Unsent};
use h1::H1;
use h2::{H2, H2Set, H2Stream};
use idle::{IdleList, sweep_while_alive};
use request::DefaultAuthority;
use response::H1Lease;

/// Limits of a pool. Every one has a default that suits a server beside its sidecar.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// For lookup, connect and TLS together.
    pub connect_timeout: Duration,
    /// How long a request waits for one of `max_open` connections to become free.
    pub wait_timeout: Duration,
    /// How long an unused connection is kept. Must be below the upstream's own keep-alive, or requests meet connections
    /// that the upstream is just closing.
    pub idle_timeout: Duration,
    /// Unused HTTP/1.1 connections kept at most.
    pub max_idle: usize,
    /// HTTP/1.1 connections in use at most.
    pub max_open: usize,
    /// h2 connections at most.
    pub h2_max_connections: usize,
    /// Streams on each h2 connection before another one is opened.
    pub h2_streams_per_connection: usize,
    /// Response head bytes at most.
    pub max_head_bytes: usize,
    /// The upstream speaks HTTP/2 and nothing else, without being asked (RFC 9113 section 3.3): a gRPC server. Without pings,
    /// because such servers hang up on peers that ping more often than every few minutes.
    pub h2_prior_knowledge: bool,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            wait_timeout: Duration::from_secs(5),
            // Node closes idle connections after 5 s, uvicorn too: the shortest keep-alive in common use.
            idle_timeout: Duration::from_secs(4),
            max_idle: 64,
            // A legacy session holds one stream open all the time, so this is also a bound on sessions.
            max_open: 1024,
            // One connection is one flow-control window and one core of TLS; a handful spreads both.
            h2_max_connections: 4,
            // Half of the 200 that our own servers allow.
            h2_streams_per_connection: 100,
            max_head_bytes: 32 * 1024,
            h2_prior_knowledge: false,
        }
    }
}

/// A handle to the connections of one upstream. Clones share them.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    endpoint: Endpoint,
    settings: PoolSettings,
    authority: DefaultAuthority,
    idle: Mutex<IdleList>,
    h2: Mutex<H2Set>,
    /// Requests that may be on an HTTP/1.1 connection at once.
    slots: Semaphore,
    /// Held while dialling an upstream that may speak h2, so that a burst of requests shares one connection.
    dialling: tokio::sync::Mutex<()>,
    /// The last handshake chose HTTP/1.1: then dialling one after the other would only cost time.
    h1_only: AtomicBool,
    generation: AtomicU64,
    /// Who is at the other end of the connections that are open, by TLS.
    peers: Mutex<Registry>,
    /// Something became idle, or the pool is gone.
    sweeper: Arc<Notify>,
    tasks: TaskTracker,
}

impl Pool {
    /// A pool without connections. Must be called inside a tokio runtime: it starts the task that closes idle
    /// connections and ends when the last handle is dropped.
    pub fn new(endpoint: Endpoint, settings: PoolSettings) -> Self {
        let sweeper = Arc::new(Notify::new());
        let shared = Arc::new(Shared {
            authority: DefaultAuthority::of(&endpoint),
            idle: Mutex::default(),
            h2: Mutex::default(),
            slots: Semaphore::new(settings.max_open.min(Semaphore::MAX_PERMITS)),
            dialling: tokio::sync::Mutex::default(),
            h1_only: AtomicBool::new(endpoint.tls.is_none() && !settings.h2_prior_knowledge),
            generation: AtomicU64::new(0),
            peers: Mutex::default(),
            sweeper: Arc::clone(&sweeper),
            tasks: TaskTracker::new(),
            endpoint,
            settings,
        });
        shared.tasks.spawn(sweep_while_alive(Arc::downgrade(&shared), sweeper));
        Self { shared }
    }

    /// Where this pool connects to.
    pub fn endpoint(&self) -> &Endpoint {
        &self.shared.endpoint
    }

    /// Sends a request and returns the response as soon as its head is there; the body streams.
    ///
    /// A missing `Host` is filled in from the endpoint. Hop-by-hop headers must have been removed by the caller.
    /// Cancelling the future cancels the request at the upstream.
    pub async fn send(&self, request: Request<OutBody>) -> Result<Response<PooledBody>, SendError> {
        let picked = lock(&self.shared.h2).pick(&self.shared.settings);
        let returned = match picked {
            Some(stream) => self.send_h2(stream, request).await?,
            None => {
                let slot = self.slot().await?;
                match self.shared.take_idle() {
                    Some((connection, generation)) => {
                        self.send_h1(H1Lease { connection, generation, slot }, request).await?
                    }
                    // Boxed, here and below: dialling is rare, and every request would have room for it.
                    None => return Box::pin(self.send_fresh(slot, request)).await,
                }
            }
        };
        match returned {
            Sent::Answered(response) => Ok(response),
            Sent::Returned(unsent) => {
                tracing::debug!(error = %unsent.error, "kept connection was closed; once more on a fresh one");
                let slot = self.slot().await?;
                Box::pin(self.send_fresh(slot, unsent.request)).await
            }
        }
    }

    /// Stops using the connections open now: idle ones close, busy ones close when their response ends. For a change of
    /// certificates.
    pub fn retire(&self) {
        self.shared.generation.fetch_add(1, Ordering::AcqRel);
        lock(&self.shared.h2).clear();
        let idle = lock(&self.shared.idle).take_all();
        idle.into_iter().for_each(|entry| entry.connection.close());
    }

    /// Cuts the connections whose upstream `check` refuses, whatever goes on on them, and gives how many. After a change of
    /// authorities or revocations [`Pool::retire`] comes first: then no connection that is being opened is overlooked.
    /// Verifying takes about 0.2 ms for each chain that is new: not for a thread that serves requests.
    pub fn recheck(&self, check: impl Fn(&[CertificateDer<'static>]) -> bool) -> usize {
        let open = lock(&self.shared.peers).open();
        open.iter().filter(|peer| !check(peer.certs())).inspect(|peer| peer.cut()).count()
    }

    /// What the upstream showed on each of the connections that are open, leaf first.
    pub fn certificates(&self) -> Vec<Arc<[CertificateDer<'static>]>> {
        lock(&self.shared.peers).open().iter().map(|peer| peer.shown()).collect()
    }

    async fn slot(&self) -> Result<Slot, SendError> {
        let shared = &self.shared;
        let permit = match shared.slots.try_acquire() {
            Ok(permit) => permit,
            Err(_full) => match timeout(shared.settings.wait_timeout, shared.slots.acquire()).await {
                Ok(Ok(permit)) => permit,
                Ok(Err(_)) | Err(_) => return Err(SendError::exhausted(shared.settings.max_open)),
            },
        };
        // `Slot` gives it back: a permit that borrows could not travel with the response.
        permit.forget();
        Ok(Slot(Arc::clone(shared)))
    }

    async fn send_fresh(&self, slot: Slot, request: Request<OutBody>) -> Result<Response<PooledBody>, SendError> {
        let sent = match self.connect().await? {
            Fresh::H1 { connection, generation } => {
                self.send_h1(H1Lease { connection, generation, slot }, request).await?
            }
            Fresh::H2(stream) => {
                // The slot counts HTTP/1.1 connections only.
                drop(slot);
                self.send_h2(stream, request).await?
            }
        };
        match sent {
            Sent::Answered(response) => Ok(response),
            Sent::Returned(unsent) => Err(SendError::unsent(unsent.error)),
        }
    }

    async fn send_h1(&self, lease: H1Lease, mut request: Request<OutBody>) -> Result<Sent, SendError> {
        self.shared.authority.prepare_h1(&mut request);
        let H1Lease { connection, generation, slot } = lease;
        match connection.send(request).await {
            Ok((connection, response)) => {
                let lease = H1Lease { connection, generation, slot };
                Ok(Sent::Answered(response.map(|body| PooledBody::h1(body, lease))))
            }
            Err(Attempt::Unsent(unsent)) => Ok(Sent::Returned(unsent)),
            Err(Attempt::Sent(error)) => Err(SendError::sent(error)),
        }
    }

    async fn send_h2(&self, stream: H2Stream, mut request: Request<OutBody>) -> Result<Sent, SendError> {
        self.shared.authority.prepare_h2(&mut request);
        match stream.send(request).await {
            Ok(response) => Ok(Sent::Answered(response.map(|body| PooledBody::h2(body, stream)))),
            Err(Attempt::Unsent(unsent)) => Ok(Sent::Returned(unsent)),
            Err(Attempt::Sent(error)) => Err(SendError::sent(error)),
        }
    }

    /// Opens a connection, or waits for another request's dialling to give a stream.
    async fn connect(&self) -> Result<Fresh, SendError> {
        let shared = &*self.shared;
        let limit = shared.settings.connect_timeout;
        let _turn = if shared.h1_only.load(Ordering::Relaxed) {
            None
        } else {
            let turn = timeout(limit, shared.dialling.lock())
                .await
                .map_err(|_| DialError::Timeout { target: shared.endpoint.target.clone(), after: limit })?;
            if let Some(stream) = lock(&shared.h2).pick(&shared.settings) {
                return Ok(Fresh::H2(stream));
            }
            Some(turn)
        };
        let (stream, generation) = self.dial().await?;
        if shared.settings.h2_prior_knowledge || dial::speaks_h2(stream.get()) {
            let connection = H2::handshake(stream, &shared.settings, &shared.tasks).await;
            let connection = connection.map_err(SendError::unsent)?;
            // Before the claim, so that the sweeper finds it.
            shared.sweeper.notify_one();
            return Ok(Fresh::H2(shared.keep_h2(connection, generation)));
        }
        shared.h1_only.store(true, Ordering::Relaxed);
        let connection = H1::handshake(stream, &shared.settings).await.map_err(SendError::unsent)?;
        Ok(Fresh::H1 { connection: Box::new(connection), generation })
    }

    /// A connection whose upstream is believed now: one that was verified by what held before a retirement is let go of
    /// unused.
    async fn dial(&self) -> Result<(Cuttable, u64), DialError> {
        let shared = &*self.shared;
        loop {
            let generation = shared.generation.load(Ordering::Acquire);
            let stream = dial::dial(&shared.endpoint, shared.settings.connect_timeout).await?;
            let certs = dial::peer_certs(&stream);
            let mut peers = lock(&shared.peers);
            let peer = certs.map(|certs| peers.add(certs));
            if peer.is_none() || shared.generation.load(Ordering::Acquire) == generation {
                return Ok((Cuttable::new(stream, peer), generation));
            }
        }
    }
}

/// How an attempt that did not fail for good ended.
enum Sent {
    Answered(Response<PooledBody>),
    Returned(Box<Unsent>),
}

/// What dialling gave.
enum Fresh {
    H1 { connection: Box<H1>, generation: u64 },
    H2(H2Stream),
}

/// One of the pool's `max_open`, given back when dropped.
struct Slot(Arc<Shared>);

impl Slot {
    fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.slots.add_permits(1);
    }
}

impl Shared {
    /// The most recently used connection that is still good.
    fn take_idle(&self) -> Option<(Box<H1>, u64)> {
        let current = self.generation.load(Ordering::Relaxed);
        loop {
            // The lock is not held while the socket is looked at.
            let entry = lock(&self.idle).pop()?;
            let mut connection = entry.connection;
            let fresh = entry.since.elapsed() < self.settings.idle_timeout && entry.generation == current;
            if fresh && connection.is_usable() {
                return Some((connection, entry.generation));
            }
            connection.close();
        }
    }

    /// Keeps a connection whose response has ended, if it is good for another.
    fn give_back(&self, lease: H1Lease) {
        let H1Lease { mut connection, generation, slot } = lease;
        let keep = generation == self.generation.load(Ordering::Relaxed) && connection.is_usable();
        if !keep {
            connection.close();
        } else if let Some(refused) = lock(&self.idle).push(connection, generation, self.settings.max_idle) {
            refused.close();
        } else {
            self.sweeper.notify_one();
        }
        // Last, so that whoever waits for a slot finds the connection.
        drop(slot);
    }

    /// Adds a new h2 connection to the set, unless the pool was retired while it was being opened: then it serves the
    /// request that opened it and no other.
    fn keep_h2(&self, connection: Arc<H2>, generation: u64) -> H2Stream {
        let mut set = lock(&self.h2);
        if generation == self.generation.load(Ordering::Relaxed) { set.add(connection) } else { connection.claim() }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.sweeper.notify_one();
    }
}

/// A panic while one of these short locks is held cannot leave the lists half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("endpoint", &self.shared.endpoint).finish_non_exhaustive()
    }
}
