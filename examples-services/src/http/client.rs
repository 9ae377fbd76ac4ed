//! A small HTTP/1.1 client: one GET at a time, redirects, proxies, and a limit on everything.
//!
//! ```text
//! fetch > checked url > dial (direct | absolute-form via proxy | CONNECT) > TLS? > GET > redirect? > text
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION,
    USER_AGENT,
};
use hyper::{Request, Response};
use rmcp::schemars;
use rustls::pki_types::ServerName;
use serde::Serialize;
use tokio_rustls::TlsConnector;
use url::Url;

use super::connection::{Exchange, Stream, TraceHeaders, authorize, dial, exchange, tunnel};
use super::error::{FetchError, bad_url, broken};
use super::proxy::Proxies;
use super::text;

/// Longest URL that is accepted, in bytes.
const MAX_URL_BYTES: usize = 8192;

/// What one fetch may cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of the body that are kept.
    pub(crate) max_bytes: usize,
    /// Redirects that are followed.
    pub(crate) max_redirects: usize,
    /// The whole fetch, redirects included.
    pub(crate) timeout: Duration,
}

/// What `fetchText` returns.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Page {
    /// The URL that answered, after redirects.
    pub(crate) url: String,
    /// HTTP status code; an error page is returned like any other.
    pub(crate) status: u16,
    /// The response's Content-Type.
    pub(crate) content_type: String,
    /// The decoded text.
    pub(crate) text: String,
    /// True if the page was longer than the service returns.
    pub(crate) truncated: bool,
}

/// Fetches pages. Holds no connection between calls.
pub(crate) struct Fetcher {
    proxies: Proxies,
    limits: Limits,
    tls: TlsConnector,
}

impl Fetcher {
    /// Loads the system's trusted roots (or those of `SSL_CERT_FILE`).
    ///
    /// # Errors
    /// rustls refuses its own default protocol versions, which means a broken build.
    pub(crate) fn new(proxies: Proxies, limits: Limits) -> Result<Self, rustls::Error> {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a trusted root certificate could not be loaded");
        }
        let mut roots = rustls::RootCertStore::empty();
        let (added, _ignored) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            tracing::warn!("no trusted root certificates found: https fetches will fail; set SSL_CERT_FILE");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { proxies, limits, tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Fetches one page as text. Dropping the future closes its connection.
    ///
    /// # Errors
    /// [`FetchError`]; an HTTP error status is not one.
    pub(crate) async fn fetch(&self, url: &str, trace: &TraceHeaders) -> Result<Page, FetchError> {
        tokio::time::timeout(self.limits.timeout, self.follow(url, trace))
            .await
            .unwrap_or(Err(FetchError::Timeout(self.limits.timeout)))
    }

    async fn follow(&self, url: &str, trace: &TraceHeaders) -> Result<Page, FetchError> {
        let mut url = parse_url(url)?;
        for _ in 0..=self.limits.max_redirects {
            let exchange = self.get(&url, trace).await?;
            match redirect_target(&url, &exchange.response)? {
                Some(next) => url = next,
                None => return self.page(&url, exchange).await,
            }
        }
        Err(FetchError::TooManyRedirects(self.limits.max_redirects))
    }

    /// Sends the GET over a fresh connection, through a proxy if one is configured for the URL.
    async fn get(&self, url: &Url, trace: &TraceHeaders) -> Result<Exchange, FetchError> {
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(80);
        let secure = url.scheme() == "https";
        let proxy = self.proxies.for_url(url);
        let stream: Box<dyn Stream> = match proxy {
            Some(proxy) if secure => Box::new(tunnel(proxy, host, port, trace).await?),
            Some(proxy) => Box::new(dial(&proxy.host, proxy.port).await?),
            None => Box::new(dial(host.trim_matches(['[', ']']), port).await?),
        };
        let mut request = get_request(url, trace)?;
        match proxy {
            Some(proxy) if !secure => authorize(&mut request, proxy),
            _ => *request.uri_mut() = origin_form(url)?,
        }
        let stream: Box<dyn Stream> = if secure { Box::new(self.handshake(host, stream).await?) } else { stream };
        exchange(host, stream, request).await
    }

    async fn handshake(
        &self,
        host: &str,
        stream: Box<dyn Stream>,
    ) -> Result<tokio_rustls::client::TlsStream<Box<dyn Stream>>, FetchError> {
        let failed = |reason: String| FetchError::Tls { host: host.to_owned(), reason };
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
            .map_err(|error| failed(error.to_string()))?;
        self.tls.connect(name, stream).await.map_err(|error| failed(error.to_string()))
    }

    /// Turns the final response into text, reading no more than the limit.
    async fn page(&self, url: &Url, exchange: Exchange) -> Result<Page, FetchError> {
        let (head, mut body) = exchange.response.into_parts();
        let content_type = header_text(&head.headers, &CONTENT_TYPE);
        let essence = text::essence(&content_type);
        if !text::is_textual(&essence) {
            let shown =
                if essence.is_empty() { "no content type".to_owned() } else { essence.chars().take(100).collect() };
            return Err(FetchError::NotText(shown));
        }
        let encoding = header_text(&head.headers, &CONTENT_ENCODING);
        if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity") {
            return Err(FetchError::Encoded(encoding));
        }
        let charset = text::charset(&content_type).map_err(FetchError::Charset)?;
        let (bytes, truncated) = read_bounded(&mut body, self.limits.max_bytes)
            .await
            .map_err(|error| broken(url.host_str().unwrap_or_default(), &error))?;
        Ok(Page {
            url: url.to_string(),
            status: head.status.as_u16(),
            content_type,
            text: text::decode(&bytes, charset, truncated),
            truncated,
        })
    }
}

fn parse_url(text: &str) -> Result<Url, FetchError> {
    if text.len() > MAX_URL_BYTES {
        return Err(FetchError::BadUrl(format!("longer than {MAX_URL_BYTES} bytes")));
    }
    checked_url(Url::parse(text).map_err(|error| FetchError::BadUrl(error.to_string()))?)
}

/// What holds for the first URL and for every redirect.
fn checked_url(url: Url) -> Result<Url, FetchError> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(FetchError::Scheme(url.scheme().to_owned()));
    }
    // A password in a URL would end up in logs, here and at every proxy.
    if !url.username().is_empty() || url.password().is_some() {
        return Err(FetchError::Credentials);
    }
    if url.as_str().len() > MAX_URL_BYTES {
        return Err(FetchError::BadUrl(format!("longer than {MAX_URL_BYTES} bytes")));
    }
    Ok(url)
}

fn redirect_target(base: &Url, response: &Response<Incoming>) -> Result<Option<Url>, FetchError> {
    let status = response.status();
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let target = location.and_then(|location| base.join(location).ok()).ok_or(FetchError::BadRedirect(status))?;
    checked_url(target).map(Some)
}

/// The request in absolute form, which a plain HTTP proxy wants; [`origin_form`] shortens it for everyone else.
fn get_request(url: &Url, trace: &TraceHeaders) -> Result<Request<Empty<Bytes>>, FetchError> {
    let mut absolute = url.clone();
    absolute.set_fragment(None);
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = absolute.as_str().parse().map_err(bad_url)?;
    let authority = match url.port() {
        Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
        None => url.host_str().unwrap_or_default().to_owned(),
    };
    trace.apply(&mut request);
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::try_from(authority).map_err(bad_url)?);
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("outrigger-example-http/", env!("CARGO_PKG_VERSION"))));
    headers.insert(ACCEPT, HeaderValue::from_static("text/*, application/json, application/xml;q=0.9, */*;q=0.1"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Ok(request)
}

fn origin_form(url: &Url) -> Result<hyper::Uri, FetchError> {
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}{query}", url.path()).parse().map_err(bad_url)
}

/// Reads at most `limit` bytes; true if there was more.
async fn read_bounded(body: &mut Incoming, limit: usize) -> Result<(Vec<u8>, bool), hyper::Error> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        let room = limit - bytes.len();
        bytes.extend_from_slice(data.get(..room).unwrap_or(&data));
        if data.len() > room {
            return Ok((bytes, true));
        }
    }
    Ok((bytes, false))
}

fn header_text(headers: &HeaderMap, name: &HeaderName) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().chars().take(200).collect()
}
