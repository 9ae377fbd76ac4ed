//! Streamable HTTP for a service: a hyper HTTP/1.1 listener around rmcp's tower service.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rmcp::ServerHandler;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::transport::{MAX_MESSAGE_BYTES, TransportArgs};

/// The one path that speaks MCP.
const MCP_PATH: &str = "/mcp";
/// Open connections: a sidecar needs a handful, so this only stops a runaway client.
const MAX_CONNECTIONS: usize = 256;
/// Sessions of the handshake revisions held in memory; idle ones end after rmcp's five minutes.
const MAX_SESSIONS: usize = 256;
/// A peer that sends its request head slower than this is cut off.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// What calls in flight get to finish after a signal.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept (out of file descriptors), so that the loop does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// The first revision without sessions; revisions are dates, so they compare as text.
const SESSIONLESS_SINCE: &str = "2026-07-28";

type Reply = Response<BoxBody<Bytes, std::convert::Infallible>>;

/// What every connection shares.
struct Endpoint<S> {
    mcp: StreamableHttpService<S, LocalSessionManager>,
    sessions: Arc<LocalSessionManager>,
}

/// Binds, prints `listening on http://...` on stderr, and serves until SIGINT or SIGTERM.
///
/// # Errors
/// The address cannot be bound or the signal handler cannot be installed.
pub(crate) async fn serve<S>(args: &TransportArgs, service: S) -> anyhow::Result<()>
where
    S: ServerHandler + Clone,
{
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let sessions = Arc::new(LocalSessionManager::default());
    let endpoint = Arc::new(Endpoint {
        mcp: StreamableHttpService::new(
            move || Ok(service.clone()),
            Arc::clone(&sessions),
            server_config(args, stop.clone()),
        ),
        sessions,
    });
    let mut signals = Signals::install()?;
    // `eprintln!` would panic if nobody reads stderr.
    let _ = writeln!(std::io::stderr(), "listening on http://{address}{MCP_PATH}");

    let connections = TaskTracker::new();
    tokio::select! {
        () = accept_loop(&listener, &endpoint, &connections, &stop) => {}
        () = signals.wait() => {}
    }
    drop(listener);
    stop.cancel();
    connections.close();
    // Past the deadline the process ends and cuts whatever is left.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, connections.wait()).await;
    Ok(())
}

/// Which Host and Origin headers pass: loopback names, our own address, and what the flags add; no browser origin.
fn server_config(args: &TransportArgs, stop: CancellationToken) -> StreamableHttpServerConfig {
    let mut config = StreamableHttpServerConfig::default()
        .with_cancellation_token(stop)
        .with_max_request_body_bytes(MAX_MESSAGE_BYTES)
        .enforce_origin_validation();
    config.allowed_hosts.push(args.listen.ip().to_string());
    config.allowed_hosts.extend(args.allow_hosts.iter().cloned());
    config
}

async fn accept_loop<S>(
    listener: &TcpListener,
    endpoint: &Arc<Endpoint<S>>,
    connections: &TaskTracker,
    stop: &CancellationToken,
) where
    S: ServerHandler + Clone,
{
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // The semaphore is never closed, so a failed acquire cannot happen; ending the loop is the safe answer.
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (endpoint, stop) = (Arc::clone(endpoint), stop.clone());
                connections.spawn(async move {
                    let _permit = permit;
                    if let Err(error) = serve_connection(stream, endpoint, stop).await {
                        tracing::debug!(%peer, %error, "connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn serve_connection<S>(
    stream: TcpStream,
    endpoint: Arc<Endpoint<S>>,
    stop: CancellationToken,
) -> hyper::Result<()>
where
    S: ServerHandler + Clone,
{
    let answer = service_fn(move |request| {
        let endpoint = Arc::clone(&endpoint);
        async move { Ok::<_, std::convert::Infallible>(endpoint.reply(request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), answer);
    tokio::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}

impl<S: ServerHandler + Clone> Endpoint<S> {
    async fn reply(&self, request: Request<Incoming>) -> Reply {
        if request.uri().path() != MCP_PATH {
            return plain(StatusCode::NOT_FOUND, "the MCP endpoint is /mcp\n");
        }
        if may_open_session(&request) && self.sessions.sessions.read().await.len() >= MAX_SESSIONS {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "too many sessions; end one or try again later\n");
        }
        self.mcp.handle(request).await
    }
}

/// Whether the request can start a session: only the handshake revisions do, with a POST that names none.
fn may_open_session<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let sessionless =
        headers.get("mcp-protocol-version").is_some_and(|version| version.as_bytes() >= SESSIONLESS_SINCE.as_bytes());
    request.method() == Method::POST && !headers.contains_key("mcp-session-id") && !sessionless
}

fn plain(status: StatusCode, text: &'static str) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from_static(text.as_bytes())).boxed());
    *reply.status_mut() = status;
    reply
}

/// The signals that end the service.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn install() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::post(MCP_PATH);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn only_a_handshake_post_without_a_session_may_open_one() {
        assert!(may_open_session(&post(&[])));
        assert!(may_open_session(&post(&[("MCP-Protocol-Version", "2025-11-25")])));
        assert!(!may_open_session(&post(&[("MCP-Protocol-Version", "2026-07-28")])));
        assert!(!may_open_session(&post(&[("Mcp-Session-Id", "a")])));
        assert!(!may_open_session(&Request::get(MCP_PATH).body(()).unwrap()));
    }
}
