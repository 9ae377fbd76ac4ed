//! One connection for one exchange: dialled directly, or through a proxy.

use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHORIZATION};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use super::error::{FetchError, bad_url, broken};
use super::proxy::Proxy;

/// Trace headers that go out with every request and CONNECT of one fetch.
#[derive(Debug, Clone, Default)]
pub(crate) struct TraceHeaders(HeaderMap);

impl TraceHeaders {
    /// Values that cannot be a header are left out: a bad trace never fails a call.
    pub(crate) fn new(traceparent: Option<&str>, tracestate: Option<&str>) -> Self {
        let mut headers = HeaderMap::new();
        for (name, value) in [("traceparent", traceparent), ("tracestate", tracestate)] {
            if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        Self(headers)
    }

    /// Adds the trace to a request.
    pub(crate) fn apply<B>(&self, request: &mut Request<B>) {
        request.headers_mut().extend(self.0.clone());
    }
}

/// Any byte stream that carries HTTP.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A response together with the task that drives its connection; dropping it closes the connection.
pub(crate) struct Exchange {
    pub(crate) response: Response<Incoming>,
    _driver: AbortOnDropHandle<()>,
}

/// Opens a TCP connection.
///
/// # Errors
/// [`FetchError::Connect`].
pub(crate) async fn dial(host: &str, port: u16) -> Result<TcpStream, FetchError> {
    TcpStream::connect((host, port))
        .await
        .map_err(|error| FetchError::Connect { target: format!("{host}:{port}"), reason: error.to_string() })
}

/// Asks the proxy for a tunnel (RFC 9110 section 9.3.6).
///
/// # Errors
/// The proxy cannot be reached, refuses, or breaks the exchange.
pub(crate) async fn tunnel(
    proxy: &Proxy,
    host: &str,
    port: u16,
    trace: &TraceHeaders,
) -> Result<TokioIo<hyper::upgrade::Upgraded>, FetchError> {
    let target = format!("{host}:{port}");
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = target.parse().map_err(bad_url)?;
    trace.apply(&mut request);
    request.headers_mut().insert(HOST, HeaderValue::try_from(&target).map_err(bad_url)?);
    authorize(&mut request, proxy);
    let stream = dial(&proxy.host, proxy.port).await?;
    let exchange = exchange(&proxy.host, stream, request).await?;
    if !exchange.response.status().is_success() {
        return Err(FetchError::ProxyRefused { target, status: exchange.response.status() });
    }
    // The driver hands the socket over and ends, so it must live until here.
    let upgraded = hyper::upgrade::on(exchange.response).await.map_err(|error| broken(&proxy.host, &error))?;
    Ok(TokioIo::new(upgraded))
}

/// Sends one request over a fresh connection and waits for the response head.
///
/// # Errors
/// [`FetchError::Exchange`].
pub(crate) async fn exchange(
    host: &str,
    stream: impl Stream + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<Exchange, FetchError> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(host, &error))?;
    let driver = AbortOnDropHandle::new(tokio::spawn(async move {
        // The same error reaches whoever reads the response.
        let _ = connection.with_upgrades().await;
    }));
    let response = sender.send_request(request).await.map_err(|error| broken(host, &error))?;
    Ok(Exchange { response, _driver: driver })
}

/// Adds the proxy's credentials; only for requests that the proxy itself reads.
pub(crate) fn authorize<B>(request: &mut Request<B>, proxy: &Proxy) {
    if let Some(authorization) = &proxy.authorization {
        request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
    }
}
