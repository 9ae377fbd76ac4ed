//! The plaintext admin server: health, readiness, metrics, and pages that the process adds.
//!
//! Nothing behind its pages is secret or changes anything: GET and HEAD only. What a process adds as a handler looks after
//! itself. It must answer when the proxy is in trouble,
//! so it has bounds of its own and shares none with requests.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use outrigger_telemetry::Metrics;
use outrigger_telemetry::metrics::{Listener as ListenerLabel, TEXT_FORMAT};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::listen::Listener;
use crate::ready::Readiness;

/// Connections at once: a kubelet, a few scrapers, a person. More wait in the backlog.
const MAX_CONNECTIONS: usize = 128;
/// Connections of one address; more are closed. A kubelet asks from an address of its own: who reaches this port and keeps
/// it busy must not keep it from asking after the health of a pod, or from waiting for its drain.
const MAX_OF_PEER: usize = 16;
/// Requests that one handler works on at once: of more addresses than one, and fewer than there are connections. It may take
/// long, and what a process says of its health must not wait for it.
const MAX_AT_WORK: usize = 64;
/// For the head of a request, and between requests of one connection. A scraper that comes less often connects again,
/// which is cheaper than a place held for it.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// A connection ends after this, so that one that never reads its reply does not hold its place for ever.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(600);
/// For replies under way when the server stops, or a connection reaches its age.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Plain text, as every built-in page but the metrics is.
pub const TEXT: &str = "text/plain; charset=utf-8";
/// A page for people. It is told to load nothing from elsewhere.
pub const HTML: &str = "text/html; charset=utf-8";
/// What a page may do: what comes from here.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Bytes of a request's body.
const MAX_BODY_BYTES: usize = 16 * 1024;
/// JSON.
pub const JSON: &str = "application/json";

/// What a page shows.
#[derive(Debug, Clone)]
pub struct AdminPage {
    /// HTTP status.
    pub status: StatusCode,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// The whole body.
    pub body: Bytes,
}

/// A request to a handler.
#[derive(Debug)]
pub struct AdminRequest {
    /// HTTP method.
    pub method: Method,
    /// Its path.
    pub path: String,
    /// Its headers.
    pub headers: http::HeaderMap,
    /// Its whole body.
    pub body: Bytes,
    /// Where it comes from.
    pub peer: IpAddr,
}

/// An answer to come.
pub type Answering = Pin<Box<dyn Future<Output = AdminPage> + Send>>;

type PageFn = Box<dyn Fn() -> AdminPage + Send + Sync>;
type HandlerFn = Box<dyn Fn(AdminRequest) -> Answering + Send + Sync>;

struct Handler {
    answer: HandlerFn,
    places: Semaphore,
}

/// The pages by path. Add pages, then serve.
pub struct AdminServer {
    pages: BTreeMap<&'static str, PageFn>,
    handlers: BTreeMap<&'static str, Handler>,
    metrics: Arc<Metrics>,
}

impl AdminPage {
    /// 200 with a body.
    pub fn ok(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::OK, content_type, body: body.into() }
    }

    /// A status with a text.
    pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Self {
        Self { status, content_type: TEXT, body: text.into() }
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.content_type == HTML {
            headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
            headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        }
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

impl AdminServer {
    /// With `/healthz` (the process runs), `/readyz` (503 and what is missing, until ready) and `/metrics`.
    pub fn new(metrics: Arc<Metrics>, readiness: Readiness) -> Self {
        let scraped = Arc::clone(&metrics);
        Self { pages: BTreeMap::new(), handlers: BTreeMap::new(), metrics }
            .page("/healthz", || AdminPage::text(StatusCode::OK, "ok\n"))
            .page("/readyz", move || ready_page(&readiness))
            .page("/metrics", move || metrics_page(&scraped))
    }

    /// Adds a page, or replaces one. It is made anew for every request, on a thread that serves requests: it must
    /// be quick and must not block.
    #[must_use]
    pub fn page(mut self, path: &'static str, page: impl Fn() -> AdminPage + Send + Sync + 'static) -> Self {
        self.pages.insert(path, Box::new(page));
        self
    }

    /// Adds what is not only read. Whoever does so decides who may ask. A path that ends in `/` stands for all below it.
    #[must_use]
    pub fn handler(
        mut self,
        path: &'static str,
        handler: impl Fn(AdminRequest) -> Answering + Send + Sync + 'static,
    ) -> Self {
        let handler = Handler { answer: Box::new(handler), places: Semaphore::new(MAX_AT_WORK) };
        self.handlers.insert(path, handler);
        self
    }

    /// Serves until `stop`, then lets replies under way finish within a second. Dropping the future cuts them.
    pub async fn serve(self, listener: Listener, stop: CancellationToken) {
        let server = Arc::new(self);
        let mut connections = JoinSet::new();
        let mut peers = HashMap::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = connections.join_next_with_id() => {
                    peers.remove(&ended.map_or_else(|error| error.id(), |(id, ())| id));
                }
                (stream, peer) = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                    let peer = peer.ip().to_canonical();
                    if peers.values().filter(|other| **other == peer).count() >= MAX_OF_PEER {
                        tracing::debug!(%peer, "too many admin connections of one address");
                        continue;
                    }
                    let task = connections.spawn(Arc::clone(&server).serve_connection(stream, peer, stop.clone()));
                    peers.insert(task.id(), peer);
                }
            }
        }
        // Closes the socket first: a late request is refused instead of left waiting.
        drop(listener);
        let ended = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_WAIT, ended).await;
    }

    async fn serve_connection(self: Arc<Self>, stream: TcpStream, peer: IpAddr, stop: CancellationToken) {
        let _open = self.metrics.connection_accepted(ListenerLabel::Admin);
        let service = service_fn(|request: Request<Incoming>| {
            let server = Arc::clone(&self);
            async move {
                Ok::<_, Infallible>(match server.handler_of(request.uri().path()) {
                    Some(handler) => handle(handler, request, peer).await.into_response(),
                    None => server.answer(&request),
                })
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(MAX_HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = stop.cancelled() => finish(connection).await,
            () = tokio::time::sleep(MAX_CONNECTION_AGE) => finish(connection).await,
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "admin connection");
        }
    }

    fn handler_of(&self, path: &str) -> Option<&Handler> {
        let below = || self.handlers.iter().find(|(own, _)| own.ends_with('/') && path.starts_with(**own));
        self.handlers.get(path).or_else(|| below().map(|(_, handler)| handler))
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let Some(page) = self.pages.get(request.uri().path()) else {
            let known: Vec<_> = self.pages.keys().copied().collect();
            let text = format!("no such page; there are {}\n", known.join(" "));
            return AdminPage::text(StatusCode::NOT_FOUND, text).into_response();
        };
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let text = "this page is only read: use GET or HEAD\n";
            let mut response = AdminPage::text(StatusCode::METHOD_NOT_ALLOWED, text).into_response();
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        page().into_response()
    }
}

impl std::fmt::Debug for AdminServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminServer").field("pages", &self.pages.keys()).finish_non_exhaustive()
    }
}

/// Reads the body, which is small, and asks.
async fn handle(handler: &Handler, request: Request<Incoming>, peer: IpAddr) -> AdminPage {
    let Ok(_place) = handler.places.try_acquire() else {
        return AdminPage::text(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once\n");
    };
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY_BYTES).collect();
    let Ok(Ok(body)) = tokio::time::timeout(HEADER_TIMEOUT, body).await else {
        return AdminPage::text(StatusCode::BAD_REQUEST, "the body is too large, too slow, or broke off\n");
    };
    let path = head.uri.path().to_owned();
    (handler.answer)(AdminRequest { method: head.method, path, headers: head.headers, body: body.to_bytes(), peer })
        .await
}

type Connection<S> = http1::Connection<TokioIo<TcpStream>, S>;

/// Lets the reply under way finish, for a short time.
async fn finish<S>(mut connection: std::pin::Pin<&mut Connection<S>>) -> hyper::Result<()>
where
    S: hyper::service::HttpService<Incoming, ResBody = Full<Bytes>>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    connection.as_mut().graceful_shutdown();
    tokio::time::timeout(LAST_WAIT, connection).await.unwrap_or(Ok(()))
}

fn ready_page(readiness: &Readiness) -> AdminPage {
    // One reading for both, or a change between the two gives a 503 that says `ready`.
    let missing = readiness.missing();
    let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    AdminPage::text(status, crate::ready::describe(&missing))
}

fn metrics_page(metrics: &Metrics) -> AdminPage {
    // Nobody counts them; whoever asks is told how many there are now.
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        metrics.set_tasks(runtime.metrics().num_alive_tasks());
    }
    match metrics.encode() {
        Ok(text) => AdminPage::ok(TEXT_FORMAT, text),
        Err(error) => AdminPage::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

#[cfg(test)]
mod tests;
