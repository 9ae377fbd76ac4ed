//! forward: the message with the service's own name and our trace, to one sidecar.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use outrigger_identity::StatementError;
use outrigger_mcp::bridge::meta_keys::{SESSION, mesh_only, mesh_only_but_errors};
use outrigger_mcp::catalog::ToolHeaders;
use outrigger_mcp::edit::{Edits, MetaEdit};
use outrigger_mcp::envelope::{Message, Param};
use outrigger_mcp::headers::{self, encode};
use outrigger_mcp::json::quote;
use outrigger_mcp::revision::Revision;
use outrigger_proxy::assertion;
use outrigger_proxy::body::OutBody;
use outrigger_proxy::failure::Failure;
use outrigger_proxy::header_names;
use outrigger_proxy::peek::{Accepts, mirrors_name};
use outrigger_proxy::pool::{PooledBody, SendError, SendErrorKind};
use outrigger_proxy::trace::Span;
use outrigger_telemetry::metrics::{Retry, UpstreamErrorKind};
use tokio::time::{Instant, timeout_at};

use crate::authorize::Permitted;
use crate::breaker::Fault;
use crate::core::{Caller, Era};
use crate::owner;
use crate::retry::{Deadline, pause};
use crate::services::{InFlight, Replica, Service};

/// The path of MCP at a sidecar.
const PATH: &str = "/mcp";

/// How much later than here a call ends at the sidecar, at its deadline.
const LATER: Duration = Duration::from_millis(250);

/// What is sent, ready to be sent again where the first attempt provably sent nothing.
pub(crate) struct Outgoing {
    body: Vec<Bytes>,
    headers: HeaderMap,
}

/// The head of an answer, and its body to come.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) status: StatusCode,
    pub(crate) kind: AnswerKind,
    pub(crate) retry_after: Option<HeaderValue>,
    /// When the rest of it must have come.
    pub(crate) deadline: Option<Deadline>,
    /// When it was asked for, where it matters how long it takes.
    pub(crate) began: Option<Instant>,
    /// Why the call could be sent once more.
    again: Option<Retry>,
    pub(crate) body: PooledBody,
}

/// The two forms of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnswerKind {
    /// One message.
    Json,
    /// Events.
    Stream,
}

/// What the caller sent along.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent<'a> {
    /// The headers of a modern client, checked; `None` for messages that we made.
    pub(crate) headers: Option<&'a HeaderMap>,
    /// What it takes for an answer.
    pub(crate) accepts: Accepts,
}

impl Outgoing {
    /// Splices the service's own name, the trace and the session tag into the message; every other byte stays. Says for whom
    /// the call is.
    ///
    /// # Errors
    /// [`Failure::InvalidRequest`] when more is known of the user than can be said.
    pub(crate) fn new(
        permitted: &Permitted,
        caller: &Caller,
        message: &Message,
        span: &Span,
        sent: Sent<'_>,
    ) -> Result<Self, Failure> {
        let destination = permitted.destination();
        let (mut edits, mut headers) = (Edits::new(), HeaderMap::with_capacity(12));
        if let Some(wanted) = &destination.wanted {
            if wanted.asked != *wanted.original {
                edits.replace(wanted.token, quote(&wanted.original));
            }
            if mirrors_name(message.method) {
                put(&mut headers, &header_names::NAME, &encode(&wanted.original));
            }
        } else if let Some(task) = &destination.task {
            edits.replace(task.token, quote(&task.handle));
            put(&mut headers, &header_names::NAME, &encode(&task.handle));
        } else if let Some(target) = message.target().filter(|_| mirrors_name(message.method)) {
            put(&mut headers, &header_names::NAME, &encode(&target));
        }
        let traceparent = span.context.format();
        let traceparent = std::str::from_utf8(&traceparent).unwrap_or_default();
        let mut meta = MetaEdit { drop: Some(untold(caller.era)), set: Vec::new() };
        meta = meta.text("traceparent", traceparent).text(SESSION, &caller.session_tag);
        put(&mut headers, &header_names::TRACEPARENT, traceparent);
        if let Some(state) = span.state.as_deref().and_then(|state| std::str::from_utf8(state).ok()) {
            meta = meta.text("tracestate", state);
            put(&mut headers, &header_names::TRACESTATE, state);
        }
        meta.params(message, &mut edits);
        put(&mut headers, &header_names::METHOD, &encode(&message.method_name()));
        let accept = match (sent.accepts.json, sent.accepts.stream) {
            (true, false) => "application/json",
            (false, true) => "text/event-stream",
            _ => "application/json, text/event-stream",
        };
        headers.insert(&header_names::PROTOCOL_VERSION, HeaderValue::from_static(Revision::MODERN.as_str()));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        mirrored_arguments(&mut headers, permitted, message, sent.headers);
        let user = destination.service.assertions.of(&caller.principal, caller.until).map_err(unsaid)?;
        headers.extend(user.map(|user| (HeaderName::from_static(assertion::HEADER), user)));
        Ok(Self { body: edits.apply(message.body()), headers })
    }

    fn request(&self, deadline: Option<Deadline>) -> Request<OutBody> {
        let mut request = Request::new(OutBody::chunks(self.body.clone()));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = http::Uri::from_static(PATH);
        *request.headers_mut() = self.headers.clone();
        if let Some(deadline) = deadline {
            // A little later than here: should we not be there any more to cancel it.
            let left = deadline.at.saturating_duration_since(Instant::now()) + LATER;
            put(request.headers_mut(), &header_names::DEADLINE, &left.as_millis().to_string());
        }
        request
    }
}

fn unsaid(error: StatementError) -> Failure {
    match error {
        StatementError::TooLong(_) => Failure::InvalidRequest(
            "the token says more of its user than services can be told; its roles, scopes and claims take up too much"
                .to_owned(),
        ),
        other => Failure::Internal(format!("cannot say for whom a call is: {other}")),
    }
}

/// What of a client's `_meta` goes no further. Only the mesh itself says what begins with its name: a client cannot borrow
/// somebody's session. What the translation of a legacy session says of its client's answers is the mesh's own: that it was
/// not the client's is seen to there. What clients put into baggage is not vouched for by anybody.
fn untold(era: Era) -> fn(&str) -> bool {
    match era {
        Era::Modern => |key| mesh_only(key) || matches!(key, "tracestate" | "baggage"),
        Era::Legacy => |key| mesh_only_but_errors(key) || matches!(key, "tracestate" | "baggage"),
    }
}

/// `Mcp-Param-*`: those of a modern client go on as they are, also such as nobody here knows; a legacy client has none,
/// so they are made from the arguments.
fn mirrored_arguments(out: &mut HeaderMap, permitted: &Permitted, message: &Message, sent: Option<&HeaderMap>) {
    if let Some(sent) = sent {
        for (name, value) in sent {
            if name.as_str().starts_with(headers::PARAM_PREFIX) {
                out.append(name.clone(), value.clone());
            }
        }
        return;
    }
    let wanted = permitted.destination().wanted.as_ref();
    if let Some(ToolHeaders::Mirrored(mirrored)) = wanted.map(|wanted| &wanted.headers) {
        let arguments = message.params().get(Param::Arguments).map(|span| message.raw(span));
        for (name, value) in mirrored.generate(arguments) {
            if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                put(out, &name, &value);
            }
        }
    }
}

fn put(headers: &mut HeaderMap, name: &HeaderName, value: &str) {
    // Values are encoded: this does not fail.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.append(name, value);
    }
}

/// Sends to one replica of the service, and to another one when the first provably got nothing, or when the call may run
/// twice. What `owner` holds goes to it and nowhere else. Gives the head of the answer. Dropping the future or the body
/// cancels the call.
///
/// # Errors
/// [`Failure::Unavailable`], [`Failure::Timeout`], [`Failure::Deadline`] or [`Failure::Broken`], each naming the service;
/// [`Failure::Interaction`] when the owner cannot be reached.
pub(crate) async fn forward(
    permitted: &Permitted,
    caller: &Caller,
    outgoing: &Outgoing,
    owner: Option<Arc<Replica>>,
    terms: Terms<'_>,
) -> Answered {
    let service = &permitted.destination().service;
    let silent_at = Instant::now() + terms.silence;
    let owned = owner.is_some();
    let mut replica = owner.map_or_else(|| service.pick(&caller.session_tag, None), Ok)?;
    if let Some(budget) = &service.retries {
        budget.earn();
    }
    let mut sent = Sends::default();
    loop {
        let (answered, why) = match attempt(service, &replica, outgoing, silent_at, &terms).await? {
            Ok(answered) => {
                let why = answered.as_ref().ok().and_then(|(upstream, _)| upstream.again);
                (answered, why)
            }
            Err(error) if owned && !error.sent => {
                report(service, &replica, &error);
                return Err(owner::gone());
            }
            Err(error) => {
                let why = if error.sent { Retry::Repeatable } else { Retry::Unsent };
                (Err(report(service, &replica, &error)), Some(why))
            }
        };
        let Some(why) = why.filter(|_| !owned) else { return answered };
        let Some(next) = sent.next(service, caller, &replica, why, &terms) else { return answered };
        service.metrics.retried(why);
        if why == Retry::Repeatable {
            // Not longer than the call may take: the next attempt finds out at once.
            let until = terms.deadline.map_or(silent_at, |deadline| deadline.at.min(silent_at));
            tokio::time::sleep_until((Instant::now() + pause(sent.repeated)).min(until)).await;
        }
        replica = next;
    }
}

/// How long an answer may take, and what else holds for one call.
pub(crate) struct Terms<'a> {
    /// The longest silence.
    pub(crate) silence: Duration,
    /// When it must be over.
    pub(crate) deadline: Option<Deadline>,
    /// Whether it may run twice.
    pub(crate) repeatable: &'a (dyn Fn() -> bool + Sync),
    /// How long it takes tells how many calls do the service good.
    pub(crate) measured: bool,
}

impl Terms<'_> {
    /// Of a call that runs once.
    pub(crate) fn once(silence: Duration) -> Self {
        Self { silence, deadline: None, repeatable: &|| false, measured: false }
    }
}

/// How often a call was sent again.
#[derive(Default)]
struct Sends {
    moved: bool,
    repeated: u32,
}

impl Sends {
    /// Where it goes next, if it may go anywhere.
    fn next(
        &mut self,
        service: &Service,
        caller: &Caller,
        last: &Arc<Replica>,
        why: Retry,
        terms: &Terms<'_>,
    ) -> Option<Arc<Replica>> {
        let tag = &caller.session_tag;
        if why != Retry::Repeatable {
            let other = (!self.moved).then(|| service.pick(tag, Some(last)).ok()).flatten();
            self.moved = true;
            return other;
        }
        // What a server with sessions did for the caller it did in one replica: it goes there again, or nowhere.
        let stateful = service.stateful();
        if stateful && last.breaker.is_out() {
            return None;
        }
        let most = service.settings.safety.retries.as_ref()?.attempts;
        if self.repeated >= most || !(terms.repeatable)() {
            return None;
        }
        if !service.retries.as_ref()?.spend() {
            service.metrics.retried(Retry::OverBudget);
            return None;
        }
        self.repeated += 1;
        if stateful {
            return Some(Arc::clone(last));
        }
        service.pick(tag, Some(last)).or_else(|_| service.pick(tag, None)).ok()
    }
}

type Answered = Result<(Upstream, InFlight), Failure>;

async fn attempt(
    service: &Service,
    replica: &Arc<Replica>,
    outgoing: &Outgoing,
    silent_at: Instant,
    terms: &Terms<'_>,
) -> Result<Result<Answered, SendError>, Failure> {
    let in_flight = replica.enter().until(terms.deadline.map(|deadline| deadline.at));
    let began = terms.measured.then(Instant::now);
    let until = terms.deadline.map_or(silent_at, |deadline| deadline.at.min(silent_at));
    match timeout_at(until, replica.pool.send(outgoing.request(terms.deadline))).await {
        Err(_elapsed) => {
            service.metrics.upstream_error(UpstreamErrorKind::Timeout);
            if in_flight.ran_out() {
                replica.breaker.untold(Instant::now());
            } else if in_flight.waited_in_vain() {
                service.failed_at(replica, Fault::NoAnswer);
            }
            Err(match terms.deadline.filter(|deadline| deadline.at <= silent_at) {
                Some(Deadline { after, .. }) => Failure::Deadline { service: service.name.to_string(), after },
                None => Failure::Timeout { service: service.name.to_string(), after: terms.silence },
            })
        }
        Ok(Err(error)) => {
            // What is amiss on our side of the connection says nothing of the other.
            if !matches!(error.kind, SendErrorKind::Exhausted | SendErrorKind::Body) {
                service.failed_at(replica, Fault::NoAnswer);
            }
            Ok(Err(error))
        }
        Ok(Ok(response)) => {
            if replica.health().unreachable.is_some() {
                replica.wake.notify_one();
            }
            Ok(Ok(judged(service, replica, in_flight, head(service, response)).map(|(upstream, in_flight)| {
                let began = began.filter(|_| upstream.kind == AnswerKind::Json);
                (Upstream { deadline: terms.deadline, began, ..upstream }, in_flight)
            })))
        }
    }
}

/// Notes what the head of an answer says of its replica.
fn judged(service: &Service, replica: &Arc<Replica>, in_flight: InFlight, head: Result<Upstream, Failure>) -> Answered {
    match head {
        Ok(upstream) if upstream.status.is_server_error() => {
            service.failed_at(replica, Fault::Answered);
            Ok((upstream, in_flight.settled()))
        }
        // How a stream went shows at its end.
        Ok(upstream) if upstream.kind == AnswerKind::Stream => Ok((upstream, in_flight)),
        Ok(upstream) => {
            service.succeeded_at(replica);
            Ok((upstream, in_flight.settled()))
        }
        Err(failure) => {
            service.failed_at(replica, Fault::Answered);
            Err(failure)
        }
    }
}

/// Reads the head of an answer. What a sidecar says against us is not for the caller.
fn head(service: &Service, response: Response<PooledBody>) -> Result<Upstream, Failure> {
    let (parts, body) = response.into_parts();
    let broken = |reason: String| {
        service.metrics.upstream_error(UpstreamErrorKind::Protocol);
        Failure::Broken { service: service.name.to_string(), reason }
    };
    if matches!(parts.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        tracing::warn!(service = %service.name, status = %parts.status, "the sidecar refuses this ingress; look at its policy");
        return Err(broken("its sidecar refuses this ingress".into()));
    }
    let media = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim();
    let kind = if media.eq_ignore_ascii_case("application/json") {
        AnswerKind::Json
    } else if media.eq_ignore_ascii_case("text/event-stream") {
        AnswerKind::Stream
    } else {
        return Err(broken(format!("its answer ({}) is neither JSON nor an event stream", parts.status)));
    };
    let retry_after = parts.headers.get(header::RETRY_AFTER).cloned();
    let again = match parts.status {
        StatusCode::SERVICE_UNAVAILABLE if parts.headers.contains_key(headers::UNSENT) => Some(Retry::Refused),
        StatusCode::BAD_GATEWAY => Some(Retry::Repeatable),
        _ => None,
    };
    Ok(Upstream { status: parts.status, kind, retry_after, again, deadline: None, began: None, body })
}

/// For metrics, and for callers.
pub(crate) fn kind_and_reason(kind: SendErrorKind) -> (UpstreamErrorKind, &'static str) {
    match kind {
        SendErrorKind::Connect => (UpstreamErrorKind::Connect, "it cannot be reached"),
        SendErrorKind::Tls => (UpstreamErrorKind::Tls, "it cannot be reached securely"),
        SendErrorKind::Timeout => (UpstreamErrorKind::Timeout, "it cannot be reached in time"),
        SendErrorKind::Exhausted => (UpstreamErrorKind::Overloaded, "all connections to it are busy"),
        SendErrorKind::Closed => (UpstreamErrorKind::Reset, "the connection closed before it answered"),
        SendErrorKind::Protocol | SendErrorKind::Body => (UpstreamErrorKind::Protocol, "its answer is not HTTP"),
    }
}

/// Counts and logs a request that got no answer, and says what the caller is told.
fn report(service: &Service, replica: &Replica, error: &SendError) -> Failure {
    let (kind, reason) = kind_and_reason(error.kind);
    service.metrics.upstream_error(kind);
    if let Some(left_out) = service.no_answer.admit() {
        tracing::warn!(service = %service.name, replica = %replica.address, %error, left_out, "no answer from a sidecar");
    }
    let (service, reason) = (service.name.to_string(), reason.to_owned());
    if error.sent { Failure::Broken { service, reason } } else { Failure::Unavailable { service, reason } }
}
