//! One question to an agent of the SPIFFE Workload API: `FetchX509SVID`, whose answer is a stream of messages without an end.
//!
//! gRPC is HTTP/2 with five bytes before each message and the outcome in the trailers; this is the part that one method needs.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, TE};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::BodyExt;
use outrigger_config::sections::AgentSocket;
use outrigger_identity::AgentError;
use outrigger_proxy::body::OutBody;
use outrigger_proxy::dial::Endpoint;
use outrigger_proxy::pool::{Pool, PoolSettings, PooledBody};
use zeroize::Zeroizing;

/// The method. The service has no package.
const METHOD: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
/// What an agent wants to see, so that nobody is made to ask it by accident (Workload Endpoint, section 6).
const SECURITY_HEADER: HeaderName = HeaderName::from_static("workload.spiffe.io");
/// A request message without fields, uncompressed.
const QUESTION: &[u8] = &[0; PREFIX];
/// What stands before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// Most bytes of a message, as much as gRPC libraries take unless told otherwise.
const MAX_MESSAGE: usize = 4 << 20;
/// For the first message, and for each from its first byte to its last. Between messages there may be days.
const PATIENCE: Duration = Duration::from_secs(20);
/// Most characters of an agent's words that are repeated in a log.
const MAX_WORDS: usize = 300;

/// Codes of gRPC that say more than that it failed.
const PERMISSION_DENIED: &str = "7";
const UNIMPLEMENTED: &str = "12";

/// Why an agent gives nothing (more).
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// Nobody listens, or not over HTTP/2.
    #[error("it cannot be reached: {0}; is the agent running, and is its socket where `spiffe_endpoint_socket` says?")]
    Unreachable(String),
    /// No answer, or half of one.
    #[error("it did not answer within {} s", PATIENCE.as_secs())]
    Timeout,
    /// It knows of no identity for us.
    #[error(
        "it has no identity for this process ({0}); make a registration entry whose selectors fit this process, and give the agent a moment to hear of it"
    )]
    Denied(String),
    /// Something else listens there.
    #[error("what listens there is no agent of the Workload API: {0}")]
    NoAgent(String),
    /// It says that it failed.
    #[error("it reports an error: {0}")]
    Failed(String),
    /// It hung up.
    #[error("it ended the stream: {0}")]
    Ended(String),
    /// It says nothing, although it should have.
    #[error("it has given no other certificate")]
    Late,
    /// A message longer than any real one.
    #[error("its message has {0} bytes, and {MAX_MESSAGE} are allowed")]
    TooLarge(usize),
    /// A message that is of no use.
    #[error("{0}")]
    Unusable(String),
}

impl From<AgentError> for StreamError {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Empty => Self::Denied("an empty answer".into()),
            other => Self::Unusable(other.to_string()),
        }
    }
}

/// The messages of one stream. Dropping it ends the stream.
pub(crate) struct Messages {
    body: PooledBody,
    /// What came and was not given out yet.
    rest: Bytes,
    /// The connection lives as long as this.
    _pool: Pool,
}

impl Messages {
    /// Asks.
    pub(crate) async fn open(socket: &AgentSocket) -> Result<Self, StreamError> {
        let endpoint = match socket {
            AgentSocket::Unix(path) => Endpoint::unix(path),
            AgentSocket::Tcp(address) => Endpoint::tcp(address.ip().to_string(), address.port()),
        };
        let settings = PoolSettings { h2_prior_knowledge: true, h2_max_connections: 1, ..PoolSettings::default() };
        let pool = Pool::new(endpoint, settings);
        let answer = tokio::time::timeout(PATIENCE, pool.send(question()));
        let answer = answer.await.map_err(|_| StreamError::Timeout)?;
        let answer = answer.map_err(|error| StreamError::Unreachable(with_causes(&*error.source)))?;
        let (head, body) = answer.into_parts();
        if head.status != StatusCode::OK {
            return Err(StreamError::NoAgent(format!("HTTP status {}", head.status.as_u16())));
        }
        if let Some(outcome) = outcome(&head.headers) {
            return Err(outcome);
        }
        let kind = head.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        if !kind.starts_with(b"application/grpc") {
            return Err(StreamError::NoAgent("it does not answer as gRPC".into()));
        }
        Ok(Self { body, rest: Bytes::new(), _pool: pool })
    }

    /// The first message, which an agent has at once.
    pub(crate) async fn first(&mut self) -> Result<Zeroizing<Vec<u8>>, StreamError> {
        tokio::time::timeout(PATIENCE, self.next()).await.unwrap_or(Err(StreamError::Timeout))
    }

    /// The next message, whenever it comes. When cancelled, what has come of it is lost: open another stream then.
    pub(crate) async fn next(&mut self) -> Result<Zeroizing<Vec<u8>>, StreamError> {
        while self.rest.is_empty() {
            self.rest = self.piece().await?;
        }
        tokio::time::timeout(PATIENCE, self.message()).await.unwrap_or(Err(StreamError::Timeout))
    }

    /// The message that has begun.
    async fn message(&mut self) -> Result<Zeroizing<Vec<u8>>, StreamError> {
        let mut prefix = Vec::with_capacity(PREFIX);
        self.fill(&mut prefix, PREFIX).await?;
        let [compressed, length @ ..] = <[u8; PREFIX]>::try_from(prefix).unwrap_or_default();
        if compressed != 0 {
            return Err(StreamError::Unusable("its message is compressed, which nobody asked for".into()));
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_MESSAGE {
            return Err(StreamError::TooLarge(length));
        }
        let mut message = Zeroizing::new(Vec::new());
        self.fill(&mut message, length).await?;
        Ok(message)
    }

    /// Takes `wanted` bytes. Room is made as they come, and what was moved is zeroed: a key may be among them.
    async fn fill(&mut self, into: &mut Vec<u8>, wanted: usize) -> Result<(), StreamError> {
        while into.len() < wanted {
            if self.rest.is_empty() {
                self.rest = self.piece().await?;
            }
            let part = self.rest.split_to(self.rest.len().min(wanted - into.len()));
            let needed = into.len() + part.len();
            if needed > into.capacity() {
                let mut larger = Vec::with_capacity((needed * 2).min(wanted));
                larger.extend_from_slice(into);
                drop(Zeroizing::new(std::mem::replace(into, larger)));
            }
            into.extend_from_slice(&part);
        }
        Ok(())
    }

    async fn piece(&mut self) -> Result<Bytes, StreamError> {
        loop {
            let frame = match self.body.frame().await {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Err(StreamError::Ended(with_causes(&error))),
                None => return Err(StreamError::Ended("it said no reason".into())),
            };
            match frame.into_data() {
                Ok(data) => return Ok(data),
                Err(frame) => {
                    if let Some(trailers) = frame.trailers_ref() {
                        let done = || StreamError::Ended("it has no more to say".into());
                        return Err(outcome(trailers).unwrap_or_else(done));
                    }
                }
            }
        }
    }
}

fn question() -> Request<OutBody> {
    let mut request = Request::new(OutBody::full(QUESTION));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(METHOD);
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(SECURITY_HEADER, HeaderValue::from_static("true"));
    request
}

/// What a head or trailers say of how it went; none when it goes on, or went well.
fn outcome(headers: &HeaderMap) -> Option<StreamError> {
    let code = headers.get("grpc-status")?.to_str().unwrap_or("?");
    if code == "0" {
        return None;
    }
    let words = headers.get("grpc-message").map_or(&b""[..], HeaderValue::as_bytes);
    let words: String = String::from_utf8_lossy(words).chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect();
    // As it is sent; that spaces may be written `%20` is no reason for a decoder.
    let said = format!("gRPC status {}: {words}", code.chars().take(10).collect::<String>());
    Some(match code {
        PERMISSION_DENIED => StreamError::Denied(said),
        UNIMPLEMENTED => StreamError::NoAgent(said),
        _ => StreamError::Failed(said),
    })
}

/// An error and what is behind it: the libraries put what matters there.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
