//! HTTP/2 connections to an upstream: a few, shared by all requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::PoolSettings;
use super::error::Attempt;
use crate::body::OutBody;
use crate::peers::Cuttable;
use crate::tasks::TrackedExecutor;

/// Flow-control window of one response, bytes: what a stream whose reader stalls may hold. At 0.5 ms of round trip it
/// still allows 125 MB/s.
const STREAM_WINDOW: u32 = 64 * 1024;

/// Flow-control window of a connection, bytes: larger than that of as many streams as are opened on one, so that readers that stall
/// do not hold up the others.
///
/// Half of it is also h2's budget for small frames that nobody has read yet. Each costs what it lacks of 256 bytes, and a spent
/// budget ends the connection with all its streams: with events of 100 bytes, when 80 readers stall. The budget must not
/// be much larger, because each unread frame is also some 240 bytes here: 8 MB of frames of one byte.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// Most bytes that hyper queues per stream of request bodies.
const SEND_BUFFER: usize = 64 * 1024;

/// A peer that is gone without a word is noticed by pings while a stream is open.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// One connection. Dropping the last handle lets open streams end, then closes the connection.
pub(super) struct H2 {
    sender: SendRequest<OutBody>,
    in_flight: AtomicUsize,
}

/// A request's claim on its connection, from sending to the end of the response body.
pub(super) struct H2Stream(Arc<H2>);

impl Drop for H2Stream {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl H2 {
    /// Starts HTTP/2. The connection's driver runs as a task in `tasks`.
    pub(super) async fn handshake(
        stream: Cuttable,
        settings: &PoolSettings,
        tasks: &TaskTracker,
    ) -> hyper::Result<Arc<Self>> {
        let (sender, driver) = http2::Builder::new(TrackedExecutor(tasks.clone()))
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(u32::try_from(settings.max_head_bytes).unwrap_or(u32::MAX))
            .keep_alive_interval((!settings.h2_prior_knowledge).then_some(PING_INTERVAL))
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(TokioIo::new(stream))
            .await?;
        tasks.spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "upstream h2 connection ended");
            }
        });
        Ok(Arc::new(Self { sender, in_flight: AtomicUsize::new(0) }))
    }

    pub(super) fn claim(self: &Arc<Self>) -> H2Stream {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        H2Stream(Arc::clone(self))
    }
}

impl H2Stream {
    /// Sends a request and waits for the head of its response. Dropping the future, or later the body, resets the stream.
    pub(super) async fn send(&self, request: Request<OutBody>) -> Result<Response<Incoming>, Attempt> {
        Ok(self.0.sender.clone().try_send_request(request).await?)
    }
}

/// The open connections of one pool.
#[derive(Default)]
pub(super) struct H2Set {
    members: Vec<Member>,
}

struct Member {
    connection: Arc<H2>,
    /// When a sweep first found it without work; cleared by use.
    quiet_since: Option<Instant>,
}

impl H2Set {
    /// The least busy live connection, unless all are full and another may be opened.
    pub(super) fn pick(&mut self, settings: &PoolSettings) -> Option<H2Stream> {
        // A peer's GOAWAY closes the sender, while streams already open run to their end.
        self.members.retain(|member| !member.connection.sender.is_closed());
        let may_grow = self.members.len() < settings.h2_max_connections;
        let (load, member) = self
            .members
            .iter_mut()
            .map(|member| (member.connection.in_flight.load(Ordering::Relaxed), member))
            .min_by_key(|(load, _)| *load)?;
        if may_grow && load >= settings.h2_streams_per_connection {
            return None;
        }
        member.quiet_since = None;
        Some(member.connection.claim())
    }

    /// Adds a new connection and claims it for the request that opened it.
    pub(super) fn add(&mut self, connection: Arc<H2>) -> H2Stream {
        let stream = connection.claim();
        self.members.push(Member { connection, quiet_since: None });
        stream
    }

    /// Forgets connections that ended or had no work for `idle_timeout`.
    pub(super) fn sweep(&mut self, now: Instant, idle_timeout: Duration) {
        self.members.retain_mut(|member| {
            if member.connection.sender.is_closed() {
                return false;
            }
            if member.connection.in_flight.load(Ordering::Relaxed) > 0 {
                member.quiet_since = None;
                return true;
            }
            let since = *member.quiet_since.get_or_insert(now);
            now.duration_since(since) < idle_timeout
        });
    }

    pub(super) fn clear(&mut self) {
        self.members.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }
}
