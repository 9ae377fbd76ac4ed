//! One message, read once: what kind it is and where its parts lie in the original bytes.
//!
//! Everything that routing, policy, trace and translation look at is found in a single pass, down to the members of
//! `params`, `params._meta`, `result` and `result._meta`. The payload is never copied and never re-serialised.
//! Duplicates among the members that anything here reads, those of `params.ref` included, are refused: a proxy that takes
//! the first and a server that takes the last would let policy be bypassed.

use std::borrow::Cow;

use bytes::Bytes;
use thiserror::Error;

use crate::{
    json::{JsonError, Key, MAX_DEPTH, Scanner, Span, decode_string},
    method::Method,
};

macro_rules! fields {
    ($(#[$doc:meta])* $table:ident, $field:ident: $($name:ident = $text:literal,)*) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each is named after the member it stands for")]
        pub enum $field { $($name,)* }

        impl $field {
            const COUNT: usize = [$($text,)*].len();

            fn parse(name: &[u8]) -> Option<Self> {
                $(if name == $text.as_bytes() { return Some($field::$name); })*
                None
            }
        }

        /// Where the known members of one object lie.
        #[derive(Debug, Clone, Copy)]
        pub struct $table {
            object: Option<Span>,
            found: [Option<Span>; $field::COUNT],
        }

        impl $table {
            const EMPTY: Self = Self { object: None, found: [None; $field::COUNT] };

            /// The object itself, when present.
            pub fn object(&self) -> Option<Span> {
                self.object
            }

            /// Where the value of a member lies.
            pub fn get(&self, field: $field) -> Option<Span> {
                self.found[field as usize]
            }

            fn note(&mut self, body: &[u8], key: Key, value: Span) -> Result<(), EnvelopeError> {
                if let Some(field) = $field::parse(&key_bytes(body, key)) {
                    let slot = &mut self.found[field as usize];
                    if slot.is_some() {
                        return Err(EnvelopeError::Duplicate(key_bytes(body, key).into_owned()));
                    }
                    *slot = Some(value);
                }
                Ok(())
            }
        }
    };
}

fields! {
    /// Members of `params` that something here reads.
    Params, Param:
    Name = "name", Uri = "uri", Arguments = "arguments", Cursor = "cursor", Ref = "ref", Argument = "argument",
    Level = "level", RequestState = "requestState", InputResponses = "inputResponses",
    Notifications = "notifications", TaskId = "taskId", Task = "task", ProtocolVersion = "protocolVersion",
    Capabilities = "capabilities", ClientInfo = "clientInfo", RequestId = "requestId",
    ProgressToken = "progressToken", Reason = "reason", Meta = "_meta", Id = "id", Method = "method",
    Params = "params", Result = "result", Error = "error",
}

fields! {
    /// Members of `params.ref` that say what a completion is about.
    References, Reference:
    Type = "type", Name = "name", Uri = "uri",
}

fields! {
    /// Members of `_meta` that something here reads.
    Metas, Meta:
    ProtocolVersion = "io.modelcontextprotocol/protocolVersion",
    ClientCapabilities = "io.modelcontextprotocol/clientCapabilities",
    ClientInfo = "io.modelcontextprotocol/clientInfo",
    LogLevel = "io.modelcontextprotocol/logLevel",
    SubscriptionId = "io.modelcontextprotocol/subscriptionId",
    ServerInfo = "io.modelcontextprotocol/serverInfo",
    ProgressToken = "progressToken", Traceparent = "traceparent", Tracestate = "tracestate", Baggage = "baggage",
    McpxTrace = "mcpx.trace", Session = "outrigger.dev/session", RelatedTask = "io.modelcontextprotocol/related-task",
    AnswerErrors = "outrigger.dev/errors",
}

fields! {
    /// Members of `result` that something here reads.
    Results, Field:
    ResultType = "resultType", IsError = "isError", InputRequests = "inputRequests", RequestState = "requestState",
    Tools = "tools", Prompts = "prompts", Resources = "resources", ResourceTemplates = "resourceTemplates",
    NextCursor = "nextCursor", TtlMs = "ttlMs", CacheScope = "cacheScope", Meta = "_meta",
    ProtocolVersion = "protocolVersion", SupportedVersions = "supportedVersions", Capabilities = "capabilities",
    ServerInfo = "serverInfo", Instructions = "instructions", Contents = "contents", Content = "content",
    Messages = "messages", Task = "task",
}

/// Why bytes are not one acceptable JSON-RPC message. The JSON-RPC code is [`EnvelopeError::code`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EnvelopeError {
    /// Not JSON.
    #[error("{0}")]
    Json(#[from] JsonError),
    /// A batch array.
    #[error("batch arrays are not accepted here: send one JSON-RPC message per request")]
    Batch,
    /// A scalar, or nothing.
    #[error("a JSON-RPC message must be an object")]
    NotObject,
    /// A member that is read here stands twice.
    #[error("the member {:?} stands more than once", String::from_utf8_lossy(.0))]
    Duplicate(Vec<u8>),
    /// `jsonrpc` is absent or not "2.0".
    #[error("`jsonrpc` must be \"2.0\"")]
    Version,
    /// The id is null, a fraction, a boolean or a structure.
    #[error("`id` must be a string or an integer")]
    Id,
    /// `method` is not a string, or both `method` and a result are there, or none of them.
    #[error("a message must have either `method` (a string), `result` or `error`")]
    Shape,
    /// `params` or `_meta` has the wrong type.
    #[error("`{0}` must be an object")]
    NotAnObject(&'static str),
}

impl EnvelopeError {
    /// The JSON-RPC error code: -32700 where the text is not JSON, -32600 where it is not a request.
    pub fn code(&self) -> i64 {
        match self {
            EnvelopeError::Json(_) => -32700,
            EnvelopeError::NotAnObject(_) => -32602,
            _ => -32600,
        }
    }
}

/// What kind of message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Has a method and an id.
    Request,
    /// Has a method and no id.
    Notification,
    /// Has a result.
    Result,
    /// Has an error.
    Error,
}

/// A message and where its parts lie.
#[derive(Debug, Clone)]
pub struct Message {
    body: Bytes,
    object: Span,
    /// Request, notification, result or error.
    pub shape: Shape,
    /// The recognised method; [`Method::Other`] for responses too.
    pub method: Method,
    id: Option<Span>,
    method_span: Option<Span>,
    mcpx: Option<Span>,
    result: Option<Span>,
    error: Option<Span>,
    params: Params,
    meta: Metas,
    results: Results,
}

/// Messages that this process has read. Tests count by it what a message costs on its way; release builds do not.
#[cfg(debug_assertions)]
pub static READS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

/// An error together with the id of the message it concerns, where that could be read.
#[derive(Debug, Clone)]
pub struct Rejected {
    /// What is wrong.
    pub error: EnvelopeError,
    /// The raw id token of the message.
    pub id: Option<Bytes>,
}

fn key_bytes(body: &[u8], key: Key) -> Cow<'_, [u8]> {
    if key.escaped {
        return match key.decode(body) {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        };
    }
    let range = key.span.range();
    Cow::Borrowed(body.get(range.start + 1..range.end - 1).unwrap_or_default())
}

impl Message {
    /// Reads one message.
    ///
    /// # Errors
    /// [`Rejected`], with the id where it could be read.
    pub fn parse(body: Bytes) -> Result<Self, Rejected> {
        #[cfg(debug_assertions)]
        READS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut message = Self {
            body: Bytes::new(),
            object: Span::default(),
            shape: Shape::Request,
            method: Method::Other,
            id: None,
            method_span: None,
            mcpx: None,
            result: None,
            error: None,
            params: Params::EMPTY,
            meta: Metas::EMPTY,
            results: Results::EMPTY,
        };
        match message.read(&body) {
            Ok(()) => {
                message.body = body;
                Ok(message)
            }
            Err(error) => {
                let id = message.id.filter(|id| valid_id(id.of(&body))).map(|id| body.slice(id.range()));
                Err(Rejected { error, id })
            }
        }
    }

    fn read(&mut self, body: &[u8]) -> Result<(), EnvelopeError> {
        let mut scanner = Scanner::new(body, MAX_DEPTH)?;
        match scanner.peek() {
            Some(b'{') => {}
            Some(b'[') => {
                scanner.value()?;
                return Err(EnvelopeError::Batch);
            }
            _ => {
                scanner.value()?;
                return Err(EnvelopeError::NotObject);
            }
        }
        let mut version = None;
        // Wrong types and duplicates are remembered and reported after the whole text was seen, so that the id is
        // known and a syntax error wins.
        let mut wrong = None;
        self.object = scanner.object::<EnvelopeError, _>(|key, s| {
            let name = key_bytes(body, key);
            let slot = match name.as_ref() {
                b"jsonrpc" => &mut version,
                b"id" => &mut self.id,
                b"method" => &mut self.method_span,
                b"params" => {
                    let span = read_params(body, s, &mut self.params, &mut self.meta, &mut wrong)?;
                    return duplicate_or(
                        &mut None,
                        span,
                        &name,
                        self.params.object.replace(span).is_some(),
                        &mut wrong,
                    );
                }
                b"result" => {
                    let span = read_result(body, s, &mut self.results, &mut self.meta, &mut wrong)?;
                    return duplicate_or(&mut None, span, &name, self.result.replace(span).is_some(), &mut wrong);
                }
                b"error" => &mut self.error,
                b"mcpx.trace" => &mut self.mcpx,
                _ => {
                    s.value()?;
                    return Ok(());
                }
            };
            let span = s.value()?;
            let seen = slot.is_some();
            duplicate_or(slot, span, &name, seen, &mut wrong)
        })?;
        scanner.finish()?;
        if let Some(error) = wrong {
            return Err(error);
        }
        self.classify(body, version)
    }

    fn classify(&mut self, body: &[u8], version: Option<Span>) -> Result<(), EnvelopeError> {
        if version.map(|v| v.of(body)) != Some(b"\"2.0\"") {
            return Err(EnvelopeError::Version);
        }
        let outcome = self.result.is_some() || self.error.is_some();
        // An error reply may carry `id: null`: the peer could not read our id.
        let null_id = self.id.is_some_and(|id| id.of(body) == b"null");
        if let Some(id) = self.id
            && !valid_id(id.of(body))
            && !(null_id && self.error.is_some())
        {
            return Err(EnvelopeError::Id);
        }
        self.shape = match (self.method_span, self.result, self.error) {
            (Some(method), None, None) => {
                let token = method.of(body);
                if token.first() != Some(&b'"') {
                    return Err(EnvelopeError::Shape);
                }
                self.method = match decode_string(token) {
                    Some(name) => Method::parse(name.as_bytes()),
                    None => Method::Other,
                };
                if self.id.is_some() { Shape::Request } else { Shape::Notification }
            }
            (None, Some(_), None) if self.id.is_some() => Shape::Result,
            (None, None, Some(_)) => Shape::Error,
            _ => return Err(EnvelopeError::Shape),
        };
        debug_assert!(!outcome || self.method_span.is_none());
        Ok(())
    }

    /// The original bytes.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The outermost object.
    pub fn object(&self) -> Span {
        self.object
    }

    /// The raw id token, exactly as sent (`"1"` and `1` differ; big integers stay whole).
    pub fn id(&self) -> Option<Bytes> {
        self.id.map(|id| self.body.slice(id.range()))
    }

    /// Where the id lies.
    pub fn id_span(&self) -> Option<Span> {
        self.id
    }

    /// The method name as text.
    pub fn method_name(&self) -> Cow<'_, str> {
        self.method_span.and_then(|span| decode_string(span.of(&self.body))).unwrap_or(Cow::Borrowed(""))
    }

    /// Where the method name's token lies.
    pub fn method_span(&self) -> Option<Span> {
        self.method_span
    }

    /// Members of `params`.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Members of `params._meta` (requests, notifications) or `result._meta` (results).
    pub fn meta(&self) -> &Metas {
        &self.meta
    }

    /// Members of `result`.
    pub fn results(&self) -> &Results {
        &self.results
    }

    /// Where `result` lies.
    pub fn result_span(&self) -> Option<Span> {
        self.result
    }

    /// Where `error` lies.
    pub fn error_span(&self) -> Option<Span> {
        self.error
    }

    /// The bytes under a span of this message, without copying.
    pub fn slice(&self, span: Span) -> Bytes {
        self.body.slice(span.range())
    }

    /// The bytes under a span, borrowed.
    pub fn raw(&self, span: Span) -> &[u8] {
        span.of(&self.body)
    }

    /// A member of `params` as text, when it is a string.
    pub fn text(&self, field: Param) -> Option<Cow<'_, str>> {
        decode_string(self.params.get(field)?.of(&self.body))
    }

    /// A member of `_meta` as text, when it is a string.
    pub fn meta_text(&self, field: Meta) -> Option<Cow<'_, str>> {
        decode_string(self.meta.get(field)?.of(&self.body))
    }

    /// A member of `result` as text, when it is a string.
    pub fn result_text(&self, field: Field) -> Option<Cow<'_, str>> {
        decode_string(self.results.get(field)?.of(&self.body))
    }

    /// The migration trace member of the message (`mcpx.trace`), raw.
    pub fn mcpx_trace(&self) -> Option<&[u8]> {
        self.mcpx.or(self.meta.get(Meta::McpxTrace)).map(|span| span.of(&self.body))
    }

    /// What a request is aimed at, as mirrored in `Mcp-Name` (streamable HTTP, 2026-07-28): the tool or prompt
    /// name, the resource URI, or the task id.
    pub fn target(&self) -> Option<Cow<'_, str>> {
        match self.method {
            Method::ToolsCall | Method::PromptsGet => self.text(Param::Name),
            Method::ResourcesRead | Method::ResourcesSubscribe | Method::ResourcesUnsubscribe => self.text(Param::Uri),
            Method::TasksGet | Method::TasksUpdate | Method::TasksCancel | Method::TasksResult => {
                self.text(Param::TaskId)
            }
            _ => None,
        }
    }

    /// The code of an error reply.
    pub fn error_code(&self) -> Option<i64> {
        let span = crate::json::member(&self.body, self.error?, "code")?;
        std::str::from_utf8(span.of(&self.body)).ok()?.parse().ok()
    }

    /// The message of an error reply.
    pub fn error_message(&self) -> Option<String> {
        let span = crate::json::member(&self.body, self.error?, "message")?;
        decode_string(span.of(&self.body)).map(Cow::into_owned)
    }
}

fn duplicate_or(
    slot: &mut Option<Span>,
    span: Span,
    name: &[u8],
    seen: bool,
    wrong: &mut Option<EnvelopeError>,
) -> Result<(), EnvelopeError> {
    if seen {
        wrong.get_or_insert_with(|| EnvelopeError::Duplicate(name.to_vec()));
    } else {
        *slot = Some(span);
    }
    Ok(())
}

fn read_params(
    body: &[u8],
    s: &mut Scanner<'_>,
    params: &mut Params,
    meta: &mut Metas,
    wrong: &mut Option<EnvelopeError>,
) -> Result<Span, EnvelopeError> {
    if s.peek() != Some(b'{') {
        let span = s.value()?;
        wrong.get_or_insert(EnvelopeError::NotAnObject("params"));
        return Ok(span);
    }
    s.object(|key, s| {
        let value = match key_bytes(body, key).as_ref() {
            b"_meta" => read_meta(body, s, meta, wrong)?,
            b"ref" if s.peek() == Some(b'{') => read_reference(body, s, wrong)?,
            _ => s.value()?,
        };
        if let Err(error) = params.note(body, key, value) {
            wrong.get_or_insert(error);
        }
        Ok(())
    })
}

/// Looks only for duplicates: policy decides on the name in a reference, so the server must not find another one there.
fn read_reference(body: &[u8], s: &mut Scanner<'_>, wrong: &mut Option<EnvelopeError>) -> Result<Span, EnvelopeError> {
    let mut members = References::EMPTY;
    s.object(|key, s| {
        let value = s.value()?;
        if let Err(error) = members.note(body, key, value) {
            wrong.get_or_insert(error);
        }
        Ok(())
    })
}

fn read_result(
    body: &[u8],
    s: &mut Scanner<'_>,
    results: &mut Results,
    meta: &mut Metas,
    wrong: &mut Option<EnvelopeError>,
) -> Result<Span, EnvelopeError> {
    if s.peek() != Some(b'{') {
        return Ok(s.value()?);
    }
    let span = s.object(|key, s| {
        let is_meta = key_bytes(body, key).as_ref() == b"_meta" && s.peek() == Some(b'{');
        let value = if is_meta { read_meta(body, s, meta, wrong)? } else { s.value()? };
        if let Err(error) = results.note(body, key, value) {
            wrong.get_or_insert(error);
        }
        Ok::<(), EnvelopeError>(())
    })?;
    results.object = Some(span);
    Ok(span)
}

fn read_meta(
    body: &[u8],
    s: &mut Scanner<'_>,
    meta: &mut Metas,
    wrong: &mut Option<EnvelopeError>,
) -> Result<Span, EnvelopeError> {
    if s.peek() != Some(b'{') {
        let span = s.value()?;
        wrong.get_or_insert(EnvelopeError::NotAnObject("_meta"));
        return Ok(span);
    }
    let span = s.object(|key, s| {
        let value = s.value()?;
        if let Err(error) = meta.note(body, key, value) {
            wrong.get_or_insert(error);
        }
        Ok::<(), EnvelopeError>(())
    })?;
    meta.object = Some(span);
    Ok(span)
}

/// Whether a raw token is an id that JSON-RPC in MCP allows: a string, or an integer of any size.
fn valid_id(token: &[u8]) -> bool {
    match token {
        [b'"', ..] => true,
        [b'-', digits @ ..] | digits if !digits.is_empty() => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
