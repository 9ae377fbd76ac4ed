//! One request to whoever knows the services: a connection of its own, a token that is read anew, an answer that is read in
//! bounded pieces.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use outrigger_config::kinds::{Scheme, Url};
use outrigger_identity::RootsError;
use outrigger_proxy::body::{ReadError, read_bounded};
use outrigger_proxy::dial::{ClientTls, DialError, Endpoint, dial};
use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::trust;

/// For a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Of an answer that says why there is none.
const MAX_REFUSAL: usize = 64 * 1024;
/// Characters of such an answer that are shown.
const SHOWN: usize = 300;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ContactError {
    /// A file that is needed to ask.
    #[error("cannot read {path}: {cause}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The file that says whom to believe.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// Nobody there, or somebody else.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    /// Not what can be sent.
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    /// The answer cannot be read.
    #[error("the answer cannot be read: {0}")]
    Read(#[from] ReadError),
    /// Another answer than hoped for.
    #[error("{status}: {reason:?}")]
    Status {
        /// The HTTP status.
        status: StatusCode,
        /// What the answer says about it.
        reason: String,
    },
    /// It takes too long.
    #[error("no answer within {} s", .0.as_secs())]
    Slow(Duration),
    /// One line of an answer is too long.
    #[error("more than {0} bytes in one line")]
    Line(usize),
    /// The answer is not what it should be.
    #[error("the answer is not what it should be: {0}")]
    Content(String),
}

/// How the token is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// `Authorization: Bearer` (RFC 6750).
    Bearer,
    /// `X-Consul-Token`.
    Consul,
}

/// Somebody who can be asked.
#[derive(Debug)]
pub(super) struct Contact {
    url: Url,
    /// Who signs its certificate; those that the machine believes without it.
    ca: Option<PathBuf>,
    token: Option<(PathBuf, Shown)>,
}

/// An answer whose body is still coming.
pub(super) struct Answer {
    /// The headers.
    pub(super) headers: HeaderMap,
    body: Incoming,
    read: BytesMut,
    /// Drives the connection, which ends with the answer.
    _connection: AbortOnDropHandle<()>,
}

impl Contact {
    /// At an URL without a path.
    pub(super) fn new(url: Url, ca: Option<PathBuf>, token: Option<(PathBuf, Shown)>) -> Self {
        Self { url, ca, token }
    }

    /// Asks for something; only a 200 is an answer.
    pub(super) async fn get(&self, path: &str, patience: Duration) -> Result<Answer, ContactError> {
        self.ask(Request::builder().method(Method::GET).uri(path), Bytes::new(), patience).await
    }

    /// Sends a request; only a 200 is an answer. `patience` is for its head.
    pub(super) async fn ask(
        &self,
        request: http::request::Builder,
        body: Bytes,
        patience: Duration,
    ) -> Result<Answer, ContactError> {
        let endpoint = self.endpoint().await?;
        let mut request = request
            .header(header::HOST, self.url.authority.to_string())
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("outrigger/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))?;
        if let Some((path, shown)) = &self.token {
            let (name, value) = token(path, *shown).await?;
            request.headers_mut().insert(name, value);
        }
        let stream = dial(&endpoint, CONNECT).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            // Whoever reads the body sees how it ends.
            let _ = connection.await;
        }));
        let sent = timeout(patience, sender.send_request(request)).await;
        let (head, body) = sent.map_err(|_| ContactError::Slow(patience))??.into_parts();
        if head.status != StatusCode::OK {
            let said = read_bounded(body, MAX_REFUSAL, CONNECT).await.unwrap_or_default();
            return Err(ContactError::Status { status: head.status, reason: reason(&said) });
        }
        Ok(Answer { headers: head.headers, body, read: BytesMut::new(), _connection: connection })
    }

    async fn endpoint(&self) -> Result<Endpoint, ContactError> {
        let at = &self.url.authority;
        let endpoint = Endpoint::tcp(at.host.clone(), at.port);
        if self.url.scheme != Scheme::Https {
            return Ok(endpoint);
        }
        let ca = self.ca.clone();
        // Reads files.
        let config = tokio::task::spawn_blocking(move || trust::client(ca.as_deref())).await;
        let config = config.map_err(|error| ContactError::Content(error.to_string()))??;
        let server_name = ServerName::try_from(at.host.clone());
        let server_name = server_name.map_err(|error| ContactError::Content(error.to_string()))?;
        let config = Arc::new(config);
        Ok(endpoint.with_tls(ClientTls { provider: Arc::new(move || Arc::clone(&config)), server_name }))
    }
}

impl Answer {
    /// All of it.
    pub(super) async fn whole(self, max: usize, patience: Duration) -> Result<Bytes, ContactError> {
        Ok(read_bounded(self.body, max, patience).await?)
    }

    /// The next line of it, without its end; nothing when it is over. Safe to cancel.
    pub(super) async fn line(&mut self, max: usize) -> Result<Option<Bytes>, ContactError> {
        let mut looked = 0;
        loop {
            if let Some(end) = self.read.iter().skip(looked).position(|byte| *byte == b'\n') {
                let line = self.read.split_to(looked + end + 1);
                return Ok(Some(line.freeze().slice(..looked + end)));
            }
            looked = self.read.len();
            if looked > max {
                return Err(ContactError::Line(max));
            }
            match self.body.frame().await {
                // What has no end is no line.
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.read.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

async fn token(path: &Path, shown: Shown) -> Result<(HeaderName, HeaderValue), ContactError> {
    let failed = |cause: String| ContactError::File { path: path.to_owned(), cause };
    let file = path.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(file)).await;
    let text = read.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))?;
    let (name, text) = match shown {
        Shown::Bearer => (header::AUTHORIZATION, format!("Bearer {}", text.trim())),
        Shown::Consul => (HeaderName::from_static("x-consul-token"), text.trim().to_owned()),
    };
    let mut value = HeaderValue::try_from(text).map_err(|_| failed("it is no token".to_owned()))?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// What an answer says went wrong: the `message` of a `Status` of the API server, or its text.
fn reason(said: &[u8]) -> String {
    let status: Option<serde_json::Value> = serde_json::from_slice(said).ok();
    let message = status.as_ref().and_then(|status| status["message"].as_str()).map(str::to_owned);
    let text = message.unwrap_or_else(|| String::from_utf8_lossy(said).trim().to_owned());
    text.chars().take(SHOWN).collect()
}
