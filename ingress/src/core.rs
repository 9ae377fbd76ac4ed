//! What the halves of the ingress share: who calls, where to, and what comes back.
//!
//! Modern clients are served by [`Gateway::respond`], which relays bytes. Clients of older revisions are served by
//! `legacy`, which translates and then asks [`Gateway::call`] with the message that a modern client would have sent.
//!
//! [`Gateway::respond`]: crate::gateway::Gateway::respond
//! [`Gateway::call`]: crate::gateway::Gateway::call

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use outrigger_mcp::envelope::Message;
use outrigger_policy::{ClientLimits, Principal};
use outrigger_proxy::failure::Failure;
pub use outrigger_proxy::legacy::seam::{Change, Declared, Era, Inbound, ListKind, Route, Wanted};

use crate::oauth::Resource;
use crate::policy::PolicyState;
use crate::relay::MessageStream;

/// Who calls, proven, with everything that is fixed for one request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The proven identity.
    pub principal: Principal,
    /// When the proof of it ends, if it ends by itself.
    pub until: Option<SystemTime>,
    /// What may be said about better tokens, to somebody who came with one of a provider.
    pub(crate) resource: Option<Arc<Resource>>,
    /// The other end of the socket.
    pub address: SocketAddr,
    /// The policy in force when the request came: one request, one snapshot.
    pub policy: Arc<PolicyState>,
    /// The caller's own rate limit buckets.
    pub limits: ClientLimits,
    /// What a call may cost at most, by the client's own word.
    pub cost_budget: Option<u64>,
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

impl Caller {
    /// Callers of one class see the same lists. Asks every rule that is about the caller: for lists, not for calls.
    #[must_use]
    pub fn class(&self) -> u64 {
        self.policy.rules.visibility_class(&self.principal)
    }

    /// The same caller inside a legacy session, whose tag nobody else knows.
    #[must_use]
    pub fn in_session(self, tag: impl Into<Arc<str>>, declared: Declared) -> Self {
        Self { session_tag: tag.into(), declared, era: Era::Legacy, ..self }
    }
}

/// `X-MCPX-Cost-Budget`: what a call may cost at most.
///
/// # Errors
/// It is there and is no whole number, or is there twice.
pub(crate) fn cost_budget(headers: &HeaderMap) -> Result<Option<u64>, Failure> {
    let mut given = headers.get_all("x-mcpx-cost-budget").iter();
    let read = match (given.next(), given.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value.to_str().ok().and_then(|text| text.trim().parse().ok()),
        (Some(_), Some(_)) => None,
    };
    let wrong = || Failure::InvalidRequest("X-MCPX-Cost-Budget must be one whole number".to_owned());
    read.map(Some).ok_or_else(wrong)
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
