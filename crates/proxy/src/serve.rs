//! Serves HTTP on one connection, HTTP/1.1 or h2 as the handshake settled, until it ends, drains or is cut.
//!
//! hyper keeps the future of an HTTP/1.1 request inside the connection, also while the connection is idle: a service
//! with a large future should box it. Where there are many connections, those that rest have no hyper (`rest.rs`).

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::task::TaskTracker;

use crate::accept::stop::{Stage, Stop, StopWatch};
use crate::body::OutBody;
use crate::handshake::{ConnInfo, HttpVersion};
use crate::peers::{CutWatch, Peer};
use crate::stream::Stream;

mod rest;
pub(crate) mod stalled;
#[cfg(test)]
mod tests;

use rest::{Clock, Deadline, Held, Io};
use stalled::Streams;

/// Limits on what a client may make us hold.
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// HTTP/1.1: how long a request head may take, counted from when the connection became idle, so it is the keep-alive
    /// time as well. h2: how long a new connection may go without a request.
    pub head_timeout: Duration,
    /// Bytes of a request head, start line included.
    pub max_head_bytes: usize,
    /// Open streams of one h2 connection.
    pub max_streams: u32,
    /// How long a client may take nothing of an answer that waits for it.
    pub stall_timeout: Duration,
    /// h2: how often an otherwise silent connection is pinged.
    pub ping_interval: Duration,
    /// h2: how long the answer to a ping may take before the connection is cut.
    pub ping_timeout: Duration,
    /// HTTP/1.1: open connections up to which each keeps its buffers between two requests.
    pub buffers_kept: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            // Above the 4 s after which our own pools let go of idle connections, below what a loris needs.
            head_timeout: Duration::from_secs(30),
            // Bearer tokens with many claims reach 8 KiB.
            max_head_bytes: 32 * 1024,
            max_streams: 200,
            // Longer than a phone is without a network in a lift.
            stall_timeout: Duration::from_secs(60),
            ping_interval: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(10),
            // Making them anew costs a microsecond, and those of so few are 2 MiB at most.
            buffers_kept: 128,
        }
    }
}

/// The most that one connection reads ahead of its request's reader, bytes. hyper's default is 400 KiB.
const READ_BUFFER: usize = 64 * 1024;

/// Flow-control window of one h2 request body, bytes: what a stream whose reader stalls may hold.
const STREAM_WINDOW: u32 = 128 * 1024;

/// Flow-control window of one h2 connection, bytes: what all its stalled streams together may hold.
const CONNECTION_WINDOW: u32 = 512 * 1024;

/// Most bytes that h2 queues per stream of responses.
const SEND_BUFFER: usize = 64 * 1024;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnEnd {
    /// Closed between requests by either side, also by draining.
    Closed,
    /// No request came in time.
    TimedOut,
    /// What came was not HTTP, or passed a limit.
    Malformed,
    /// The peer went away in the middle of something, or the socket failed.
    Broken,
    /// Cut by us when the drain deadline had passed.
    Forced,
    /// Cut by us because the peer's certificate is no longer accepted.
    Untrusted,
}

/// What ends a connection from outside, and what must end with it.
pub(crate) struct Ends {
    /// Of the listener.
    pub(crate) stop: Arc<Stop>,
    /// Of this connection, if its peer showed a certificate.
    pub(crate) peer: Option<Arc<Peer>>,
    /// Gets the tasks that h2 starts for its streams.
    pub(crate) tasks: TaskTracker,
}

/// Serves `stream` to its end.
pub(crate) async fn serve<F, R>(
    stream: Stream,
    info: Arc<ConnInfo>,
    limits: &HttpLimits,
    ends: Ends,
    service: F,
) -> ConnEnd
where
    F: Fn(Arc<ConnInfo>, Request<Incoming>) -> R + Send + 'static,
    R: Future<Output = Response<OutBody>> + Send + 'static,
{
    let Ends { stop, peer, tasks } = ends;
    let version = info.http_version();
    let mut watches = Watches {
        stop: StopWatch::new(Arc::clone(&stop)),
        stage: Stage::Running,
        told: false,
        info: Arc::clone(&info),
        cut: CutWatch::new(peer),
    };
    let first_request_by = limits.head_timeout;
    let seen = Arc::clone(&info);
    let service = service_fn(move |request| {
        info.count_request();
        let response = service(Arc::clone(&info), request);
        // It may be answered before hyper hears of the stop, and the client would be told nothing.
        let last = version == HttpVersion::Http1 && stop.stage() != Stage::Running;
        async move {
            let mut response = response.await;
            stalled::begun();
            if last {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    match version {
        HttpVersion::Http1 => serve_http1(stream, seen, limits, watches, tasks, service).await,
        HttpVersion::Http2 => {
            // Boxed, so that the more common and smaller HTTP/1.1 connection does not pay for its size.
            let mut connection = Box::pin(http2(limits, tasks).serve_connection(TokioIo::new(stream), service));
            let mut serving = pin!(poll_fn(move |cx| watches.poll(connection.as_mut(), cx)));
            // hyper puts no limit on how long an h2 client may stay silent.
            match tokio::time::timeout(first_request_by, serving.as_mut()).await {
                Ok(end) => end,
                Err(_elapsed) if seen.requests() == 0 => ConnEnd::TimedOut,
                Err(_elapsed) => serving.await,
            }
        }
    }
}

/// Serves an HTTP/1.1 connection to its end, with rests.
async fn serve_http1<S>(
    stream: Stream,
    info: Arc<ConnInfo>,
    limits: &HttpLimits,
    mut watches: Watches,
    tasks: TaskTracker,
    mut service: S,
) -> ConnEnd
where
    S: hyper::service::HttpService<Incoming, ResBody = OutBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let held = Held::new(info);
    let mut deadline = Deadline::within(limits.head_timeout);
    let mut io = Io::new(stream, Arc::clone(&held));
    loop {
        // Boxed, so that a connection that rests does not pay for its size.
        let mut connection = Box::new(http1(limits, &held).serve_connection(TokioIo::new(io), service));
        watches.told = false;
        let ended = poll_fn(|cx| match watches.poll(Pin::new(&mut *connection), cx) {
            Poll::Pending if !held.awaits_head() => Poll::Pending,
            Poll::Pending if held.nothing() && tasks.len() > limits.buffers_kept => Poll::Ready(None),
            Poll::Pending => deadline.poll(&held, cx).map(|()| Some(ConnEnd::TimedOut)),
            ended => ended.map(Some),
        });
        if let Some(end) = ended.await {
            return end;
        }
        let parts = connection.into_parts();
        (io, service) = (parts.io.into_inner().reading_first(parts.read_buf), parts.service);
        let woken = poll_fn(|cx| match watches.poll_resting(&io, cx) {
            Poll::Pending => deadline.poll(&held, cx).map(|()| Err(ConnEnd::TimedOut)),
            woken => woken,
        });
        if let Err(end) = woken.await {
            return end;
        }
    }
}

fn http1(limits: &HttpLimits, held: &Arc<Held>) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(Clock(Arc::clone(held)))
        .header_read_timeout(limits.head_timeout)
        .max_header_size(limits.max_head_bytes)
        .max_buf_size(READ_BUFFER)
        // A client that closes its writing half has gone away: its call is cancelled.
        .half_close(false);
    // `pipeline_flush` stays off: with it, a second request waiting in the buffer holds back the events of the first.
    // `max_headers` stays at hyper's 100: setting it costs an allocation per request.
    builder
}

fn http2(limits: &HttpLimits, tasks: TaskTracker) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(Streams { tasks, patience: limits.stall_timeout });
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(u32::try_from(limits.max_head_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(limits.ping_interval)
        .keep_alive_timeout(limits.ping_timeout);
    builder
}

/// What ends a connection from outside, as its task sees it.
struct Watches {
    stop: StopWatch,
    /// How far the stop has come, as far as this connection has heard.
    stage: Stage,
    /// hyper was told to end the connection.
    told: bool,
    /// Knows whether anything was asked yet.
    info: Arc<ConnInfo>,
    cut: CutWatch,
}

impl Watches {
    /// Polls a connection to its end while watching for the stop and for the cut.
    fn poll<C: Drainable>(&mut self, mut connection: Pin<&mut C>, cx: &mut Context<'_>) -> Poll<ConnEnd> {
        // First: what a peer that lost our trust has sent must not be served.
        if self.cut.is_cut(cx) {
            return Poll::Ready(ConnEnd::Untrusted);
        }
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(end_of(ended));
        }
        while let Poll::Ready(stage) = self.stop.poll_change(cx) {
            self.stage = stage;
        }
        let ending = match self.stage {
            Stage::Running => false,
            // After the poll: the first request may have come in it.
            Stage::Draining => self.info.requests() > 0,
            // hyper would wait for the rest of a head that has begun.
            Stage::Closing if self.info.http_version() == HttpVersion::Http1 && self.info.requests() == 0 => {
                return Poll::Ready(ConnEnd::Closed);
            }
            Stage::Closing => true,
            Stage::Forced => return Poll::Ready(ConnEnd::Forced),
        };
        if ending && !self.told {
            self.told = true;
            connection.as_mut().drain();
            // An idle connection ends right here.
            return connection.poll(cx).map(end_of);
        }
        Poll::Pending
    }

    /// Ready when a connection that rests must be served again, or is over.
    fn poll_resting(&mut self, io: &Io, cx: &mut Context<'_>) -> Poll<Result<(), ConnEnd>> {
        if self.cut.is_cut(cx) {
            return Poll::Ready(Err(ConnEnd::Untrusted));
        }
        // Before the stop: what has come by now is answered.
        if io.poll_readable(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let stage = ready!(self.stop.poll_change(cx));
        self.stage = stage;
        Poll::Ready(if stage == Stage::Forced { Err(ConnEnd::Forced) } else { Ok(()) })
    }
}

/// What hyper's two connection types have in common.
trait Drainable: Future<Output = hyper::Result<()>> {
    fn drain(self: Pin<&mut Self>);
}

impl<S, B> Drainable for http1::Connection<TokioIo<Io>, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: http_body::Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
{
    fn drain(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<S, B> Drainable for http2::Connection<TokioIo<Stream>, S, Streams>
where
    S: hyper::service::HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: http_body::Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
    Streams: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    fn drain(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

fn end_of(ended: hyper::Result<()>) -> ConnEnd {
    match ended {
        Ok(()) => ConnEnd::Closed,
        Err(error) if error.is_timeout() => ConnEnd::TimedOut,
        Err(error) if error.is_parse() => ConnEnd::Malformed,
        Err(_) => ConnEnd::Broken,
    }
}
