//! record: what is kept of a request once it is over. Nothing here holds arguments, results, tokens or session ids.
//!
//! An [`HttpRecord`] becomes a line of the access log when the response's body ends. A [`CallRecord`] becomes metrics
//! and a line of the audit when the call ends, which for calls of legacy sessions is another moment.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use http::{Request, Response, Version};
use outrigger_mcp::envelope::{Field, Message, Param, Shape};
use outrigger_mcp::method::Method;
use outrigger_policy::{Denial, Principal, RuleId};
use outrigger_proxy::body::{BodyEnd, OutBody};
use outrigger_proxy::failure::Failure;
use outrigger_proxy::handshake::ConnInfo;
use outrigger_telemetry::metrics::{InFlight as MetricsInFlight, Outcome};
use outrigger_telemetry::{
    AccessLog, AccessRecord, ApprovalNote, ArgumentDigest, AuditLog, AuditRecord, Decision, Metrics, ServiceMetrics,
    TraceContext, WouldDeny,
};
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::core::Caller;
use crate::places::Place;
use crate::services::{InFlight, Service};
use crate::shown;

/// Where records go.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) access: AccessLog,
    pub(crate) audit: AuditLog,
    pub(crate) metrics: Arc<Metrics>,
    /// Counts what the merged endpoint answers by itself.
    pub(crate) merged: Arc<ServiceMetrics>,
}

/// One HTTP request.
#[derive(Debug)]
pub(crate) struct HttpRecord {
    recorder: Arc<Recorder>,
    started: Instant,
    client: SocketAddr,
    principal: Option<Arc<str>>,
    version: Version,
    method: Arc<str>,
    path: Arc<str>,
    bytes_in: u64,
    failed: Option<Outcome>,
    written: bool,
}

/// One call of one caller.
#[derive(Debug)]
pub(crate) struct CallRecord {
    recorder: Arc<Recorder>,
    started: Instant,
    caller: Caller,
    method: Method,
    trace: TraceContext,
    service: Option<Arc<Service>>,
    capability: Option<Arc<str>>,
    decision: Option<(Decision, Option<Arc<str>>)>,
    would_deny: Option<Box<WouldDeny>>,
    approval: Option<Box<ApprovalNote>>,
    digest: Option<ArgumentDigest>,
    /// Arguments that the rule shows.
    shown: Option<Box<RawValue>>,
    /// Set once by whoever learns how it ended.
    outcome: Arc<OnceLock<Outcome>>,
    held: Held,
}

/// What a call occupies until it ends.
#[derive(Debug, Default)]
struct Held {
    _counted: Option<MetricsInFlight>,
    place: Option<Place>,
    replica: Option<InFlight>,
}

impl Recorder {
    /// Notes that somebody used the session of somebody else: a line of the audit that belongs to no call.
    pub(crate) fn foreign_session(&self, principal: &Principal, client: SocketAddr) {
        if !self.audit.enabled() {
            return;
        }
        // Lost records are counted by the log.
        let _ = self.audit.record(AuditRecord::foreign_session(principal.id(), client, None));
    }
}

impl HttpRecord {
    /// Begins with the head of a request.
    pub(crate) fn begin<B>(recorder: &Arc<Recorder>, conn: &ConnInfo, request: &Request<B>) -> Self {
        let text = |text: &str| if recorder.access.enabled() { Arc::from(text) } else { Arc::default() };
        Self {
            started: Instant::now(),
            client: conn.peer_addr,
            principal: None,
            version: request.version(),
            method: text(request.method().as_str()),
            path: text(request.uri().path()),
            bytes_in: 0,
            failed: None,
            written: false,
            recorder: Arc::clone(recorder),
        }
    }

    /// Who it was.
    pub(crate) fn identified(&mut self, principal: &str) {
        if self.recorder.access.enabled() {
            self.principal = Some(Arc::from(principal));
        }
    }

    /// How large its body was.
    pub(crate) fn body(&mut self, bytes: usize) {
        self.bytes_in = bytes as u64;
    }

    /// It was refused before it became a call.
    pub(crate) fn refused(&mut self, failure: &Failure) {
        self.failed = Some(outcome(failure));
        if let Some(reason) = failure.bad_request() {
            self.recorder.metrics.bad_request(reason);
        }
    }

    /// Writes everything when the response's body ends. Replaces the body's hook.
    pub(crate) fn finish(mut self, response: Response<OutBody>, call: Option<CallRecord>) -> Response<OutBody> {
        if call.is_none() && !self.recorder.access.enabled() {
            return response;
        }
        let status = response.status().as_u16();
        response.map(|body| {
            body.on_end(Box::new(move |bytes, end| {
                let outcome = match end {
                    BodyEnd::Completed => self.failed.unwrap_or(Outcome::Ok),
                    BodyEnd::Failed => Outcome::Unavailable,
                    BodyEnd::Dropped => Outcome::Cancelled,
                };
                let outcome = call.as_ref().map_or(outcome, |call| call.settle(outcome));
                self.write(status, bytes, outcome, call.as_ref());
                drop(call);
            }))
        })
    }

    fn write(&mut self, status: u16, bytes_out: u64, outcome: Outcome, call: Option<&CallRecord>) {
        self.written = true;
        if !self.recorder.access.enabled() {
            return;
        }
        self.recorder.access.record(AccessRecord {
            time: SystemTime::now(),
            client: Some(self.client),
            principal: self.principal.take(),
            http_version: if self.version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" },
            http_method: Arc::clone(&self.method),
            path: Arc::clone(&self.path),
            status,
            method: call.map(|call| call.method.as_str()),
            service: call.and_then(|call| Some(Arc::clone(&call.service.as_ref()?.name))),
            capability: call.and_then(|call| call.capability.clone()),
            outcome,
            duration: self.started.elapsed(),
            bytes_in: self.bytes_in,
            bytes_out,
            trace: call.map_or_else(TraceContext::new_root, |call| call.trace),
            egress: None,
        });
    }
}

impl Drop for HttpRecord {
    /// A client that went away before there was an answer has a line too; no status was sent.
    fn drop(&mut self) {
        if !self.written {
            self.write(0, 0, Outcome::Cancelled, None);
        }
    }
}

impl CallRecord {
    /// Begins when a message has been read.
    pub(crate) fn begin(recorder: &Arc<Recorder>, caller: &Caller, method: Method, trace: TraceContext) -> Self {
        Self {
            recorder: Arc::clone(recorder),
            started: Instant::now(),
            caller: caller.clone(),
            method,
            trace,
            service: None,
            capability: None,
            decision: None,
            would_deny: None,
            approval: None,
            digest: None,
            shown: None,
            outcome: Arc::default(),
            held: Held::default(),
        }
    }

    /// Notes where it goes.
    pub(crate) fn routed(&mut self, service: &Arc<Service>, capability: Option<&Arc<str>>, message: &Message) {
        self.held._counted = Some(service.metrics.enter());
        self.service = Some(Arc::clone(service));
        self.capability = capability.cloned();
        if self.recorder.audit.enabled() {
            self.digest = message.params().get(Param::Arguments).map(|span| ArgumentDigest::of(message.raw(span)));
        }
    }

    /// Whether a line of it will be in the audit, where there must be one.
    ///
    /// # Errors
    /// [`Failure::Unaudited`].
    pub(crate) fn auditable(&self) -> Result<(), Failure> {
        self.recorder.audit.admit().map_err(|_| Failure::Unaudited)
    }

    /// Notes what policy decided.
    pub(crate) fn allowed(&mut self, rule: Option<&str>) {
        self.decision = Some((Decision::Allow, rule.map(Arc::from)));
    }

    /// Notes the arguments that the rule which decided shows.
    pub(crate) fn show(&mut self, rule: Option<&RuleId>, message: &Message) {
        let shown =
            rule.filter(|_| self.recorder.audit.enabled()).and_then(|rule| self.caller.policy.rules.shown(rule));
        self.shown = shown.and_then(|shown| shown::arguments(shown, message));
    }

    /// Notes what a person said.
    pub(crate) fn approved(&mut self, note: ApprovalNote) {
        self.approval = Some(Box::new(note));
    }

    /// This hop's span.
    pub(crate) fn trace(&self) -> TraceContext {
        self.trace
    }

    /// Notes what policies in audit mode would have decided.
    pub(crate) fn would_deny(&mut self, denial: &Denial) {
        let rule = denial.rule.as_ref().map(|rule| rule.as_str().into());
        self.would_deny = Some(Box::new(WouldDeny { reason: denial.reason.as_str(), rule }));
    }

    /// Notes what policy decided; `rule` is the one that came nearest.
    pub(crate) fn denied(&mut self, rule: Option<&str>) {
        self.decision = Some((Decision::Deny, rule.map(Arc::from)));
        self.settle(Outcome::Denied);
    }

    /// Keeps what the call occupies until it ends.
    pub(crate) fn hold(&mut self, place: Option<Place>, replica: InFlight) {
        self.held.place = place;
        self.held.replica = Some(replica);
    }

    /// Notes how it ended, unless that is known already, and gives what counts.
    pub(crate) fn settle(&self, outcome: Outcome) -> Outcome {
        *self.outcome.get_or_init(|| outcome)
    }

    /// Notes how long its answer took, or that there was none, for the number of places of its service.
    pub(crate) fn measured(&self, service: &Service, began: Instant, answered: bool) {
        let what = self.capability.as_deref().unwrap_or_default();
        if let Some(limit) = service.places.ended(what, began, Instant::now(), answered) {
            service.metrics.set_concurrency_limit(limit);
        }
    }

    /// Notes that it ended early.
    pub(crate) fn failed(&self, failure: &Failure) {
        let outcome = self.settle(outcome(failure));
        // What was not sent at all says nothing of how much the service can do.
        let sent = self.held.replica.is_some() || !matches!(failure, Failure::Unavailable { .. } | Failure::Draining);
        if let Some(service) =
            self.service.as_ref().filter(|_| sent && matches!(outcome, Outcome::Unavailable | Outcome::Timeout))
        {
            self.measured(service, self.started, false);
        }
        if let Some(reason) = failure.bad_request() {
            self.recorder.metrics.bad_request(reason);
        }
    }

    /// Lets others say how it ended.
    pub(crate) fn outcome_slot(&self) -> Arc<OnceLock<Outcome>> {
        Arc::clone(&self.outcome)
    }
}

impl Drop for CallRecord {
    /// A call that nobody settled was let go of: its caller went away.
    fn drop(&mut self) {
        let outcome = self.settle(Outcome::Cancelled);
        let elapsed = self.started.elapsed();
        if let (Some(service), Some(call)) = (&self.service, &self.held.replica) {
            service.ended_at(call, outcome);
        }
        let metrics = self.service.as_ref().map_or(&self.recorder.merged, |service| &service.metrics);
        metrics.record(self.method, self.capability.as_deref(), outcome, elapsed);
        let Some((decision, rule)) = self.decision.take().filter(|_| self.recorder.audit.enabled()) else { return };
        let record = AuditRecord {
            time: SystemTime::now(),
            who: Arc::from(self.caller.principal.id()),
            via: None,
            client: Some(self.caller.address),
            action: self.method.as_str(),
            service: self.service.as_ref().map(|service| Arc::clone(&service.name)),
            capability: self.capability.take(),
            decision,
            rule,
            would_deny: self.would_deny.take(),
            approval: self.approval.take(),
            outcome,
            duration: elapsed,
            trace: self.trace,
            egress: None,
            argument_digest: self.digest,
            arguments: self.shown.take(),
        };
        // Lost records are counted by the log.
        let _ = self.recorder.audit.record(record);
    }
}

/// How a failure counts.
pub(crate) fn outcome(failure: &Failure) -> Outcome {
    match failure {
        Failure::UnknownCapability { .. } | Failure::CallerRefused | Failure::Denied { .. } => Outcome::Denied,
        Failure::Limited { .. } => Outcome::Limited,
        Failure::Unauthenticated(_) | Failure::InvalidToken => Outcome::Unauthenticated,
        Failure::Unavailable { .. }
        | Failure::Broken { .. }
        | Failure::ReplyTooLarge { .. }
        | Failure::Starting
        | Failure::Draining => Outcome::Unavailable,
        Failure::Timeout { .. } | Failure::Deadline { .. } => Outcome::Timeout,
        Failure::Internal(_) => Outcome::Internal,
        Failure::Interaction(_) => Outcome::RpcError,
        _ => Outcome::BadRequest,
    }
}

/// Whether a reply asks the client something instead of answering.
pub(crate) fn asks(reply: &Message) -> bool {
    reply.results().get(Field::ResultType).is_some_and(|span| reply.raw(span) == b"\"input_required\"")
}

/// How a reply counts.
pub(crate) fn reply_outcome(reply: &Message) -> Outcome {
    let tool_error = || reply.results().get(Field::IsError).is_some_and(|span| reply.raw(span) == b"true");
    match reply.shape {
        Shape::Error => Outcome::RpcError,
        _ if tool_error() => Outcome::ToolError,
        _ => Outcome::Ok,
    }
}
