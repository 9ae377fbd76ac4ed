//! What the halves of the ingress share: who calls, where to, and what comes back.
//!
//! Modern clients are served by [`Gateway::respond`], which relays bytes. Clients of older revisions are served by
//! `legacy`, which translates and then asks [`Gateway::call`] with the message that a modern client would have sent.
//!
//! [`Gateway::respond`]: crate::gateway::Gateway::respond
//! [`Gateway::call`]: crate::gateway::Gateway::call

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use outrigger_mcp::bridge::to_client::Client;
use outrigger_mcp::envelope::{Message, Meta, Rejected};
use outrigger_policy::{ClientLimits, Principal};
use outrigger_proxy::failure::Failure;

use crate::policy::PolicyState;
use crate::relay::MessageStream;
use crate::view::SERVER_INFO;

/// Which kind of client asks. Lists differ: modern HTTP clients must not see tools with invalid header annotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Era {
    /// 2026-07-28 and later.
    Modern,
    /// Anything with a handshake.
    Legacy,
}

/// Who calls, proven, with everything that is fixed for one request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The proven identity.
    pub principal: Principal,
    /// The other end of the socket.
    pub address: SocketAddr,
    /// The policy in force when the request came: one request, one snapshot.
    pub policy: Arc<PolicyState>,
    /// The caller's own rate limit buckets.
    pub limits: ClientLimits,
    /// Callers of one class see the same lists.
    pub class: u64,
    /// Where a parent span may be found besides the message.
    pub trace: TraceHeaders,
    /// What stateful servers tell sessions apart by: `p.<hash of the principal>` for modern clients, `c.<random>` for
    /// a legacy session.
    pub session_tag: Arc<str>,
    /// What the client said of itself, for requests that we make on its behalf: a stateful server's session is opened with
    /// it, whoever comes first.
    pub declared: Declared,
    /// Which lists it sees.
    pub era: Era,
}

/// What a client said of itself; raw JSON objects.
#[derive(Debug, Clone)]
pub struct Declared {
    /// Its capabilities.
    pub capabilities: Bytes,
    /// Its `clientInfo`.
    pub info: Bytes,
}

impl Default for Declared {
    /// Nothing, in our own name.
    fn default() -> Self {
        Self { capabilities: Bytes::from_static(b"{}"), info: Bytes::from_static(SERVER_INFO.as_bytes()) }
    }
}

impl Declared {
    /// What a legacy client said in `initialize`.
    pub fn of_client(client: &Client) -> Self {
        Self { capabilities: client.capabilities.clone(), info: client.info.clone() }
    }

    /// What a modern request says.
    pub fn of(message: &Message) -> Self {
        let object =
            |field| message.meta().get(field).map(|span| message.slice(span)).filter(|raw| raw.starts_with(b"{"));
        let own = Self::default();
        Self {
            capabilities: object(Meta::ClientCapabilities).unwrap_or(own.capabilities),
            info: object(Meta::ClientInfo).unwrap_or(own.info),
        }
    }
}

impl Caller {
    /// The same caller inside a legacy session, whose tag nobody else knows.
    #[must_use]
    pub fn in_session(self, tag: impl Into<Arc<str>>, declared: Declared) -> Self {
        Self { session_tag: tag.into(), declared, era: Era::Legacy, ..self }
    }
}

/// The trace headers of a request, raw: validity is judged where the parent is chosen.
#[derive(Debug, Clone, Default)]
pub struct TraceHeaders {
    /// `traceparent`.
    pub traceparent: Option<HeaderValue>,
    /// `tracestate`.
    pub tracestate: Option<HeaderValue>,
    /// `X-MCPX-Trace-ID`, from clients that migrate.
    pub mcpx_trace: Option<HeaderValue>,
    /// `X-MCPX-Span-ID`.
    pub mcpx_span: Option<HeaderValue>,
}

impl TraceHeaders {
    /// Picks them out of a request.
    pub fn of(headers: &HeaderMap) -> Self {
        let get = |name: &str| headers.get(name).cloned();
        Self {
            traceparent: get("traceparent"),
            tracestate: get("tracestate"),
            mcpx_trace: get("x-mcpx-trace-id"),
            mcpx_span: get("x-mcpx-span-id"),
        }
    }
}

/// Which endpoint was asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Route {
    /// `/mcp`: every service, with prefixed names.
    Merged,
    /// `/s/<service>/mcp`: one service under its own names. It exists, and the caller may use some of it.
    Service(Arc<str>),
}

/// A request as read from the socket, with its body.
#[derive(Debug)]
pub struct Inbound {
    /// POST, GET or DELETE.
    pub method: Method,
    /// As sent; `Authorization` has been removed.
    pub headers: HeaderMap,
    /// The body of a POST, within the limit; empty for other methods.
    pub body: Bytes,
    /// The message in the body of a POST, or why it is none (a batch array, for one).
    pub message: Option<Result<Message, Rejected>>,
}

/// What a call gave.
#[derive(Debug)]
pub enum Answer {
    /// One message: a result or an error, with the HTTP status that goes with it in the modern revision.
    Message {
        /// The whole JSON-RPC message.
        body: Bytes,
        /// As a modern client would see it.
        status: StatusCode,
    },
    /// Notifications of this request, then its result.
    Stream(AnswerStream),
}

/// The messages of a streamed answer. Dropping it cancels the call at the service.
#[derive(Debug)]
pub struct AnswerStream {
    pub(crate) messages: Box<MessageStream>,
}

impl AnswerStream {
    /// The next message; `None` after the last one. Cancelling the future loses nothing.
    ///
    /// # Errors
    /// The stream broke off, or nothing came within the idle timeout. There is no further message then.
    pub async fn next(&mut self) -> Result<Option<Message>, Failure> {
        self.messages.next().await
    }
}

/// One of the three things whose change a client can be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListKind {
    /// `notifications/tools/list_changed`.
    Tools,
    /// `notifications/prompts/list_changed`.
    Prompts,
    /// `notifications/resources/list_changed`: resources and templates.
    Resources,
}

impl ListKind {
    /// All three.
    pub const ALL: [ListKind; 3] = [ListKind::Tools, ListKind::Prompts, ListKind::Resources];

    /// The method of the notification.
    pub fn method(self) -> &'static str {
        match self {
            ListKind::Tools => "notifications/tools/list_changed",
            ListKind::Prompts => "notifications/prompts/list_changed",
            ListKind::Resources => "notifications/resources/list_changed",
        }
    }
}

/// What a caller wants to be told of besides changes of lists, which always are.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// URIs of resources, as the caller writes them. Those that it may not read are left out.
    pub resources: Vec<String>,
    /// Also what servers of older revisions send outside any call (`outrigger.dev/session`); for legacy sessions.
    pub session: bool,
}

/// Something that a caller who listens is told.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a listener has a few of them at a time")]
pub enum Change {
    /// What the caller sees of a list is another one now.
    List(ListKind),
    /// The content of a resource changed. The URI is the one that the caller used.
    Resource {
        /// As the caller subscribed to it.
        uri: String,
    },
    /// A message of the service for this session that belongs to no call, as the sidecar wraps it.
    Session {
        /// Which service; answers go to [`Route::Service`] of it.
        service: Arc<str>,
        /// The notification.
        message: Message,
    },
}
