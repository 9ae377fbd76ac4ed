//! One HTTP+SSE server (2024-11-05): a channel whose messages leave as POSTs and come back on one event stream.
//!
//! ```text
//!  GET  --> event stream: `endpoint` says where to post, then replies and whatever else the server says
//!  POST --> 202; the reply comes on the stream
//! ```
//!
//! The stream is the session: when either side closes it, all that it carried is over.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method as HttpMethod, StatusCode, header};
use outrigger_mcp::sse_endpoint::{self, Origin};
use outrigger_proxy::{dial::Target, failure::Failure};
use outrigger_telemetry::ServiceMetrics;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    channel::{Channel, Outlet},
    http::{EventStream, HttpServer, copy_trace, legacy_fields},
};

/// Cancellations, refusals and answers to pings on their way at once; beyond it they are dropped.
const DETACHED: usize = 64;
/// Reading the empty answer to a POST, so that its connection can be used again.
const DRAIN: Duration = Duration::from_secs(1);

/// The POSTs of one session.
pub struct Posts {
    endpoint: Arc<HttpServer>,
    detached: Arc<Semaphore>,
    ended: CancellationToken,
    /// Closes the event stream with the channel.
    _end: DropGuard,
}

impl std::fmt::Debug for Posts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The path has the session's id, which is a credential.
        f.debug_struct("Posts").field("service", &self.endpoint.service).finish_non_exhaustive()
    }
}

/// Connects: opens the event stream and waits, at most `patience`, until it has said where to post.
///
/// # Errors
/// Unavailable, with what is wrong about the stream or the endpoint.
pub async fn open(
    server: &HttpServer,
    patience: Duration,
    metrics: Arc<ServiceMetrics>,
) -> Result<Arc<Channel>, Failure> {
    let unavailable = |reason: String| Failure::Unavailable { service: server.service.clone(), reason };
    let (path, events) = match tokio::time::timeout(patience, connect(server)).await {
        Ok(connected) => connected?,
        Err(_) => return Err(unavailable(format!("no `endpoint` event within {patience:?} (HTTP+SSE)"))),
    };
    let ended = CancellationToken::new();
    let posts = Posts {
        endpoint: Arc::new(HttpServer { path, ..server.clone() }),
        detached: Arc::new(Semaphore::new(DETACHED)),
        ended: ended.clone(),
        _end: ended.clone().drop_guard(),
    };
    let channel = Channel::new(&server.service, Outlet::Posts(posts), metrics);
    let reader = read(Arc::downgrade(&channel), events, server.event_bytes);
    tokio::spawn(async move { ended.run_until_cancelled(reader).await });
    Ok(channel)
}

async fn connect(server: &HttpServer) -> Result<(http::uri::PathAndQuery, EventStream), Failure> {
    let unavailable = |reason: String| Failure::Unavailable { service: server.service.clone(), reason };
    let mut fields = legacy_fields(None, None);
    fields.remove(header::CONTENT_TYPE);
    fields.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
    let response = server.send(HttpMethod::GET, fields, Vec::new()).await?;
    let kind = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if response.status() != StatusCode::OK || !kind.to_ascii_lowercase().starts_with(b"text/event-stream") {
        let status = response.status().as_u16();
        return Err(unavailable(format!("it answered GET with status {status} and no event stream (HTTP+SSE)")));
    }
    let mut events = server.events_skipping(response.into_body());
    loop {
        match events.next_event().await {
            Ok(Some(event)) if event.is(b"endpoint") => {
                let value = event.data.unwrap_or_default();
                let path = sse_endpoint::resolve(origin(server), server.path.as_str(), &value)
                    .map_err(|error| unavailable(error.to_string()))?;
                let path = path.parse().map_err(|_| unavailable("its `endpoint` event is no path".into()))?;
                return Ok((path, events));
            }
            // Nothing can be for us before we know where to answer.
            Ok(Some(_)) => {}
            Ok(None) => return Err(unavailable("its event stream ended without an `endpoint` event".into())),
            Err(why) => return Err(unavailable(format!("no `endpoint` event: {why}"))),
        }
    }
}

fn origin(server: &HttpServer) -> Origin<'_> {
    let endpoint = server.pool.endpoint();
    let scheme = if endpoint.tls.is_some() { "https" } else { "http" };
    match &endpoint.target {
        Target::Tcp { host, port } => Origin { scheme, host, port: *port },
        // As in the `Host` header that goes there.
        Target::Unix(_) => Origin { scheme, host: "localhost", port: 80 },
    }
}

async fn read(channel: std::sync::Weak<Channel>, mut events: EventStream, limit: usize) {
    let why = loop {
        let next = events.next().await;
        let Some(channel) = channel.upgrade() else { return };
        match next {
            Ok(Some(data)) => channel.on_bytes(data),
            Ok(None) => break "it closed its event stream",
            Err(_) => match events.take_oversized() {
                Some(clue) => channel.on_oversized(clue.id(), limit),
                None => break "its event stream broke off",
            },
        }
    };
    if let Some(channel) = channel.upgrade() {
        channel.close(why);
    }
}

impl Posts {
    /// Posts a message. What was begun goes on when the caller leaves: a server that sees half of a request may end more
    /// than that.
    ///
    /// # Errors
    /// Unavailable or broken; [`Failure::UnknownSession`] when the server does not know the session any more.
    pub(super) async fn post(&self, pieces: Vec<Bytes>, trace: &[(&str, Bytes)]) -> Result<(), Failure> {
        let mut fields = legacy_fields(None, None);
        copy_trace(trace, &mut fields);
        let (told, outcome) = oneshot::channel();
        let (server, ended) = (self.endpoint.clone(), self.ended.clone());
        tokio::spawn(async move { ended.run_until_cancelled(deliver(&server, fields, pieces, told)).await });
        outcome.await.unwrap_or_else(|_| Err(self.endpoint.broken("its event stream ended")))
    }

    /// Posts a message that nobody waits for.
    pub(super) fn post_now(&self, message: Bytes) {
        let Ok(place) = self.detached.clone().try_acquire_owned() else { return };
        let (server, ended) = (self.endpoint.clone(), self.ended.clone());
        tokio::spawn(async move {
            let (told, outcome) = oneshot::channel();
            ended.run_until_cancelled(deliver(&server, legacy_fields(None, None), vec![message], told)).await;
            if let Ok(Err(error)) = outcome.await {
                tracing::debug!(%error, "a message to the server was lost");
            }
            drop(place);
        });
    }

    /// Closes the event stream, and drops what is still on its way.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }
}

async fn deliver(
    server: &HttpServer,
    fields: http::HeaderMap,
    pieces: Vec<Bytes>,
    told: oneshot::Sender<Result<(), Failure>>,
) {
    let response = match server.send(HttpMethod::POST, fields, pieces).await {
        Ok(response) => response,
        Err(failure) => return drop(told.send(Err(failure))),
    };
    let outcome = match response.status() {
        status if status.is_success() => Ok(()),
        StatusCode::NOT_FOUND | StatusCode::GONE => Err(Failure::UnknownSession),
        status => Err(server.broken(&format!("it refused a message with status {}", status.as_u16()))),
    };
    // Whoever waited may be gone.
    let _ = told.send(outcome);
    let _ = tokio::time::timeout(DRAIN, server.read(response.into_body())).await;
}
