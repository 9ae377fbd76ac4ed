//! One Streamable HTTP server: how a message is posted to it, in either era.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method as HttpMethod, Request, Response, StatusCode, header};
use outrigger_mcp::{
    envelope::{Message, Meta},
    headers,
    method::Method,
    oversized::Clue,
    revision::Revision,
    sse::{Event, Parser},
};
use outrigger_proxy::{
    body::{OutBody, ReadError, read_bounded},
    failure::Failure,
    header_names,
    pool::{Pool, PooledBody, SendError, SendErrorKind},
};

/// Where the server is and what bounds its replies.
#[derive(Clone)]
pub struct HttpServer {
    /// Name of the service, for errors.
    pub service: String,
    /// Connections to it.
    pub pool: Pool,
    /// Path and query of its MCP endpoint.
    pub path: http::uri::PathAndQuery,
    /// Largest reply or event.
    pub event_bytes: usize,
    /// Time for an answer to begin.
    pub request_timeout: Duration,
    /// It has 400 for a `ping` also in sessions that it knows: nothing can be told from that.
    pub finds_ping_bad: Arc<AtomicBool>,
}

/// The body of an answer.
pub enum Answer {
    /// One JSON message.
    Json(Bytes),
    /// A stream of events.
    Stream(Box<EventStream>),
    /// Accepted, nothing to read.
    Empty,
}

/// An event stream being read.
pub struct EventStream {
    body: PooledBody,
    parser: Parser,
    /// The id of the last event that had one.
    pub last_id: Option<Bytes>,
    /// The last `retry` in milliseconds.
    pub retry: Option<u64>,
}

impl HttpServer {
    fn unavailable(&self, error: &SendError) -> Failure {
        tracing::debug!(service = self.service, error = %error, "the server was not reached");
        if error.sent {
            return self.broken("it closed the connection before it answered");
        }
        let reason = match error.kind {
            SendErrorKind::Exhausted => "all connections to it are busy",
            _ => "it does not accept connections",
        };
        Failure::Unavailable { service: self.service.clone(), reason: reason.into() }
    }

    /// The server's fault, in words for the caller.
    pub fn broken(&self, reason: &str) -> Failure {
        Failure::Broken { service: self.service.clone(), reason: reason.into() }
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// # Errors
    /// Unavailable, broken or timed out.
    pub async fn send(
        &self,
        method: HttpMethod,
        fields: HeaderMap,
        pieces: Vec<Bytes>,
    ) -> Result<Response<PooledBody>, Failure> {
        let mut request = Request::new(OutBody::chunks(pieces));
        *request.method_mut() = method;
        *request.uri_mut() = self.path.clone().into();
        *request.headers_mut() = fields;
        match tokio::time::timeout(self.request_timeout, self.pool.send(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.unavailable(&error)),
            Err(_) => Err(Failure::Timeout { service: self.service.clone(), after: self.request_timeout }),
        }
    }

    /// Reads an answer that is JSON whole, or prepares to read its events.
    ///
    /// # Errors
    /// Broken, when the body is neither, too large or cut off.
    pub async fn answer(&self, response: Response<PooledBody>) -> Result<Answer, Failure> {
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if response.status() == StatusCode::ACCEPTED || response.status() == StatusCode::NO_CONTENT {
            return Ok(Answer::Empty);
        }
        match kind.as_str() {
            "text/event-stream" => Ok(Answer::Stream(Box::new(self.events(response.into_body())))),
            "application/json" => self.read(response.into_body()).await.map(Answer::Json),
            _ => Err(self
                .broken(&format!("it answered with status {} and content type {kind:?}", response.status().as_u16()))),
        }
    }

    /// Reads events from a body.
    pub fn events(&self, body: PooledBody) -> EventStream {
        EventStream { body, parser: Parser::new(self.event_bytes), last_id: None, retry: None }
    }

    /// Reads events from a body, and skips those that are too large.
    pub fn events_skipping(&self, body: PooledBody) -> EventStream {
        EventStream { parser: Parser::skipping(self.event_bytes), ..self.events(body) }
    }

    /// Reads a whole body within the limits.
    ///
    /// # Errors
    /// Broken or timed out.
    pub async fn read(&self, body: PooledBody) -> Result<Bytes, Failure> {
        read_bounded(body, self.event_bytes, self.request_timeout).await.map_err(|e| match e {
            ReadError::TooLarge { limit } => Failure::ReplyTooLarge { service: self.service.clone(), limit },
            ReadError::Timeout { after } => Failure::Timeout { service: self.service.clone(), after },
            ReadError::Broken(_) => self.broken("its reply broke off"),
        })
    }
}

impl EventStream {
    /// The data of the next message; `None` at the end of the stream.
    ///
    /// # Errors
    /// A text for the log when an event is too large or the connection failed.
    pub async fn next(&mut self) -> Result<Option<Bytes>, String> {
        while let Some(event) = self.next_event().await? {
            // Priming events have empty data; other event types than `message` are not ours to read.
            let is_message = event.is(b"message");
            if let Some(data) = event.data.filter(|data| is_message && !data.is_empty()) {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// What is left of an event that was skipped, when that was the error.
    pub fn take_oversized(&mut self) -> Option<Clue> {
        self.parser.take_skipped()
    }

    /// The next event of any type.
    ///
    /// # Errors
    /// As [`EventStream::next`].
    pub async fn next_event(&mut self) -> Result<Option<Event>, String> {
        use http_body_util::BodyExt;
        loop {
            if let Some(event) = self.parser.next_event().map_err(|e| e.to_string())? {
                if event.id.is_some() {
                    self.last_id.clone_from(&event.id);
                }
                if event.retry.is_some() {
                    self.retry = event.retry;
                }
                return Ok(Some(event));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(error.to_string()),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.parser.push(data);
                    }
                }
            }
        }
    }
}

/// The headers of every POST.
fn posting() -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(8);
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    fields
}

/// The headers of a POST to a legacy session. Nothing that a client sent is passed on.
pub fn legacy_fields(session: Option<&HeaderValue>, revision: Option<Revision>) -> HeaderMap {
    let mut fields = posting();
    if let Some(session) = session {
        fields.insert(&header_names::SESSION_ID, session.clone());
    }
    if let Some(revision) = revision.filter(|r| *r >= Revision::V2025_06_18) {
        fields.insert(&header_names::PROTOCOL_VERSION, HeaderValue::from_static(revision.as_str()));
    }
    fields
}

/// The headers of a modern POST, made from the message itself, so that they cannot differ from it.
pub fn modern_fields(message: &Message) -> HeaderMap {
    let mut fields = posting();
    // Both are nearly always among the known ones, which cost no allocation.
    match message.meta_text(Meta::ProtocolVersion).as_deref() {
        Some(version) if version == Revision::MODERN.as_str() => {
            fields.insert(&header_names::PROTOCOL_VERSION, HeaderValue::from_static(Revision::MODERN.as_str()));
        }
        Some(version) => {
            drop(HeaderValue::from_str(version).map(|value| fields.insert(&header_names::PROTOCOL_VERSION, value)))
        }
        None => {}
    }
    match message.method {
        Method::Other => {
            drop(HeaderValue::from_str(&message.method_name()).map(|value| fields.insert(&header_names::METHOD, value)))
        }
        known => drop(fields.insert(&header_names::METHOD, HeaderValue::from_static(known.as_str()))),
    }
    if outrigger_proxy::peek::mirrors_name(message.method)
        && let Some(value) = message.target().and_then(|t| HeaderValue::from_str(&headers::encode(&t)).ok())
    {
        fields.insert(&header_names::NAME, value);
    }
    fields
}

/// The trace context that is in `_meta`, for servers that read headers. Values are quoted text without escapes.
pub fn copy_trace(trace: &[(&str, Bytes)], fields: &mut HeaderMap) {
    for (name, value) in trace {
        let plain = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or_default();
        let known =
            [&header_names::TRACEPARENT, &header_names::TRACESTATE].into_iter().find(|known| known.as_str() == *name);
        if let (Some(name), Ok(value)) = (known, HeaderValue::from_bytes(plain)) {
            fields.insert(name, value);
        }
    }
}
