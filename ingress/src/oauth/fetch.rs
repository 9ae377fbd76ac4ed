//! One small JSON document over HTTPS: the metadata and the keys of a provider. No redirects, bounded in bytes and time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header, request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::trust;

/// A provider that needs longer than this keeps callers waiting for nothing.
const TIME: Duration = Duration::from_secs(5);
/// Largest document.
const MAX_BYTES: usize = 512 * 1024;

/// Why a document cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum FetchError {
    /// Not a URL that can be fetched.
    #[error("{0:?} is no URL that can be fetched")]
    Url(String),
    /// Nobody there.
    #[error("{0} cannot be reached: {1}")]
    Connect(String, String),
    /// Another answer than the document.
    #[error("{0} answers {1}")]
    Status(String, StatusCode),
    /// The answer broke off or is too large.
    #[error("the answer of {0} cannot be read: {1}")]
    Broken(String, String),
    /// Too slow.
    #[error("{0} does not answer within {1:?}")]
    Slow(String, Duration),
    /// It failed again and again, and is not asked for a moment.
    #[error("{0} failed {1} times in a row and is not asked for a moment")]
    Paused(String, u32),
    /// Not the document that it should be.
    #[error("{0} is not what it should be: {1}")]
    Content(String, String),
}

/// Fetches from one provider.
pub(super) struct Fetcher {
    tls: TlsConnector,
}

impl Fetcher {
    /// Believes the authorities in a file, or those of the system.
    pub(super) fn new(ca: Option<&Path>) -> Result<Self, String> {
        let config = trust::client(ca).map_err(|error| error.to_string())?;
        Ok(Self { tls: TlsConnector::from(Arc::new(config)) })
    }

    /// The body of a 200.
    pub(super) async fn get(&self, url: &str) -> Result<Bytes, FetchError> {
        let slow = |_| Err(FetchError::Slow(url.to_owned(), TIME));
        timeout(TIME, self.fetch(url, Request::get("/"), Bytes::new())).await.unwrap_or_else(slow)
    }

    /// The body of a 200 that answers a form, sent with this `Authorization`. The caller bounds the time.
    pub(super) async fn post(&self, url: &str, form: String, who: HeaderValue) -> Result<Bytes, FetchError> {
        let request = Request::post("/")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::AUTHORIZATION, who);
        self.fetch(url, request, form.into()).await
    }

    async fn fetch(&self, url: &str, request: request::Builder, body: Bytes) -> Result<Bytes, FetchError> {
        let not_a_url = || FetchError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| not_a_url())?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(not_a_url()),
        };
        let authority = uri.authority().ok_or_else(not_a_url)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let failed = |error: &dyn std::fmt::Display| FetchError::Connect(url.to_owned(), error.to_string());
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|error| failed(&error))?;
        if !secure {
            return send(stream, (&uri, url), request, body).await;
        }
        let name = ServerName::try_from(host).map_err(|_| not_a_url())?;
        let stream = self.tls.connect(name, stream).await.map_err(|error| failed(&error))?;
        send(stream, (&uri, url), request, body).await
    }
}

async fn send<S>(
    stream: S,
    (uri, url): (&Uri, &str),
    request: request::Builder,
    body: Bytes,
) -> Result<Bytes, FetchError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let broken = |error: &dyn std::fmt::Display| FetchError::Broken(url.to_owned(), error.to_string());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let request = request
        .uri(path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .body(Full::new(body))
        .map_err(|_| FetchError::Url(url.to_owned()))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(url.to_owned(), response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
        Ok(body.map_err(|error| broken(&error))?.to_bytes())
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // The end of the connection may be what completes the body.
        _ = connection => answer.await,
    }
}
