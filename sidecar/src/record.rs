//! record: runs once per request, when the reply's body has ended; metrics, access log and audit.

use std::{
    any::Any,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use hyper::body::Incoming;
use outrigger_mcp::{
    envelope::{Message, Param},
    method::Method,
};
use outrigger_policy::{ConcurrencyPermit, Denial, Principal, RuleId};
use outrigger_proxy::failure::Failure;
use outrigger_proxy::{
    body::{BodyEnd, OnEnd},
    handshake::{ConnInfo, HttpVersion},
};
use outrigger_telemetry::{
    AccessLog, AccessRecord, ArgumentDigest, AuditLog, AuditRecord, Decision, EgressOfCall, ServiceMetrics,
    TraceContext, WouldDeny,
    metrics::{InFlight, Outcome},
};
use tokio::time::Instant;

use crate::outbound::identify::AtWork;
use crate::upstream::session::Session;

/// Where records go.
pub struct Recorders {
    /// Metrics of the one service.
    pub metrics: Arc<ServiceMetrics>,
    /// One line per request.
    pub access: AccessLog,
    /// One line per decision.
    pub audit: AuditLog,
}

impl Recorders {
    /// Notes that somebody used the session of somebody else.
    pub fn foreign_session(&self, who: &Principal, client: SocketAddr) {
        if !self.audit.enabled() {
            return;
        }
        let record = AuditRecord::foreign_session(who.id(), client, Some(self.metrics.name().clone()));
        if let Err(error) = self.audit.record(record) {
            tracing::error!(%error, "an audit record was lost");
        }
    }

    /// Opens log files again, after a rotation.
    pub fn reopen(&self) {
        self.access.reopen();
        self.audit.reopen();
    }

    /// Writes what is queued and ends the writers.
    pub fn close(&self) {
        self.access.close();
        self.audit.close();
    }
}

/// One request being measured. Filled in as the phases learn more, written when the reply has ended.
pub struct Record {
    recorders: Arc<Recorders>,
    started: Instant,
    client: SocketAddr,
    http_version: &'static str,
    http_method: http::Method,
    path: Arc<str>,
    status: u16,
    bytes_in: u64,
    /// What is asked, once read.
    pub method: Option<Method>,
    /// Tool, prompt or resource, once read.
    pub capability: Option<Arc<str>>,
    /// Who asks.
    pub who: Option<Principal>,
    /// What policy said, and by which rule.
    pub decision: Option<(Decision, Option<RuleId>)>,
    /// What policies in audit mode would have said.
    pub would_deny: Option<Denial>,
    /// Digest of the arguments, when the audit wants it.
    pub digest: Option<ArgumentDigest>,
    /// This hop's span.
    pub trace: TraceContext,
    /// How it ended, as far as known.
    pub outcome: Outcome,
    /// What is found out while the reply goes by; it wins.
    told: Option<Arc<OnceLock<Outcome>>>,
    /// Held until the end.
    pub permit: Option<ConcurrencyPermit>,
    in_flight: Option<InFlight>,
    /// The call of a tool, for the outbound half; held until the end.
    pub at_work: Option<AtWork>,
    /// What else lasts as long as the reply.
    held: Option<Box<dyn Any + Send>>,
    /// Whether it is an HTTP request, which has a line in the access log.
    http: bool,
    written: bool,
}

impl Record {
    /// Starts measuring.
    pub fn begin(recorders: &Arc<Recorders>, conn: &ConnInfo, request: &http::Request<Incoming>) -> Box<Self> {
        let h2 = conn.tls.as_ref().is_some_and(|tls| tls.alpn == HttpVersion::Http2);
        let mut record = Self::new(recorders, conn.peer_addr);
        record.http_version = if h2 { "HTTP/2" } else { "HTTP/1.1" };
        record.http_method = request.method().clone();
        if recorders.access.enabled() {
            record.path = request.uri().path().into();
        }
        record
    }

    /// A message of a session, which comes and goes apart from the HTTP requests that carry it.
    pub fn of_call(recorders: &Arc<Recorders>, client: SocketAddr, who: &Principal) -> Box<Self> {
        let mut record = Self::new(recorders, client);
        record.who = Some(who.clone());
        record.http = false;
        record
    }

    fn new(recorders: &Arc<Recorders>, client: SocketAddr) -> Box<Self> {
        Box::new(Self {
            recorders: recorders.clone(),
            started: Instant::now(),
            client,
            http_version: "",
            http_method: http::Method::POST,
            path: Arc::default(),
            status: 0,
            bytes_in: 0,
            method: None,
            capability: None,
            who: None,
            decision: None,
            would_deny: None,
            digest: None,
            trace: TraceContext::under(None),
            outcome: Outcome::Ok,
            told: None,
            permit: None,
            in_flight: Some(recorders.metrics.enter()),
            at_work: None,
            held: None,
            http: true,
            written: false,
        })
    }

    /// Says which session serves it.
    pub fn served_by(&self, session: &Session) {
        if let (Some(at_work), Some(child)) = (&self.at_work, session.child()) {
            at_work.runs_in(child);
        }
    }

    /// The other end of the connection.
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// Whether it is a message of a session here, not one that a request brought as it is.
    pub fn of_session(&self) -> bool {
        !self.http
    }

    /// Where to put how the reply ended, for who looks at it as it goes by.
    pub fn told(&mut self) -> Arc<OnceLock<Outcome>> {
        self.told.get_or_insert_default().clone()
    }

    /// What is asked is recorded elsewhere: this is only the HTTP request that carried it, or that listens.
    pub fn carries(&mut self, bytes_in: usize) {
        self.bytes_in = bytes_in as u64;
        (self.method, self.capability, self.digest) = (None, None, None);
        (self.decision, self.would_deny, self.permit, self.in_flight) = (None, None, None, None);
    }

    /// Keeps something until the reply has ended.
    pub fn hold(&mut self, what: impl Any + Send) {
        self.held = Some(Box::new(what));
    }

    /// Whether a line of it will be in the audit, where there must be one.
    ///
    /// # Errors
    /// [`Failure::Unaudited`].
    pub fn auditable(&self) -> Result<(), Failure> {
        self.recorders.audit.admit().map_err(|_| Failure::Unaudited)
    }

    /// Takes note of the message.
    pub fn message(&mut self, message: &Message) {
        self.method = Some(message.method);
        self.bytes_in = message.body().len() as u64;
        self.capability = message.target().map(|target| target.as_ref().into());
        if self.recorders.audit.enabled()
            && let Some(arguments) = message.params().get(Param::Arguments)
        {
            self.digest = Some(ArgumentDigest::of(message.raw(arguments)));
        }
    }

    /// Takes note of the status that is sent.
    pub fn status(&mut self, status: http::StatusCode) {
        self.status = status.as_u16();
    }

    fn write(&mut self, bytes_out: u64, end: BodyEnd) {
        self.written = true;
        let outcome = match (end, self.told.as_ref().and_then(|told| told.get().copied()).unwrap_or(self.outcome)) {
            (BodyEnd::Dropped, Outcome::Ok) => Outcome::Cancelled,
            (BodyEnd::Failed, Outcome::Ok) => Outcome::RpcError,
            (_, outcome) => outcome,
        };
        let duration: Duration = self.started.elapsed();
        let Some(method) = self.method else { return self.write_access(None, outcome, duration, bytes_out) };
        self.recorders.metrics.record(method, self.capability.as_deref(), outcome, duration);
        if self.recorders.audit.enabled()
            && let (Some((decision, rule)), Some(who)) = (&self.decision, &self.who)
        {
            let record = AuditRecord {
                time: SystemTime::now(),
                who: who.id().into(),
                via: who.via().map(|workload| workload.id().into()),
                client: Some(self.client),
                action: method.as_str(),
                service: Some(self.recorders.metrics.name().clone()),
                capability: self.capability.clone(),
                decision: *decision,
                rule: rule.as_ref().map(|rule| rule.as_str().into()),
                would_deny: self.would_deny.as_ref().map(|denial| {
                    let rule = denial.rule.as_ref().map(|rule| rule.as_str().into());
                    Box::new(WouldDeny { reason: denial.reason.as_str(), rule })
                }),
                outcome,
                duration,
                trace: self.trace,
                egress: self.egress(),
                argument_digest: self.digest,
                // What rules show, the ingress shows.
                arguments: None,
                approval: None,
            };
            if let Err(error) = self.recorders.audit.record(record) {
                tracing::error!(%error, "an audit record was lost");
            }
        }
        self.write_access(Some(method), outcome, duration, bytes_out);
    }

    /// What the server dialled for a call of a tool.
    fn egress(&self) -> Option<Box<EgressOfCall>> {
        self.at_work.as_ref().and_then(AtWork::told)
    }

    fn write_access(&self, method: Option<Method>, outcome: Outcome, duration: Duration, bytes_out: u64) {
        if !self.http || !self.recorders.access.enabled() {
            return;
        }
        self.recorders.access.record(AccessRecord {
            time: SystemTime::now(),
            client: Some(self.client),
            principal: self.who.as_ref().map(|who| who.id().into()),
            http_version: self.http_version,
            http_method: self.http_method.as_str().into(),
            path: self.path.clone(),
            status: self.status,
            method: method.map(Method::as_str),
            service: Some(self.recorders.metrics.name().clone()),
            capability: self.capability.clone(),
            outcome,
            duration,
            bytes_in: self.bytes_in,
            bytes_out,
            trace: self.trace,
            egress: self.egress(),
        });
    }
}

impl OnEnd for Record {
    fn ended(mut self: Box<Self>, bytes: u64, end: BodyEnd) {
        self.write(bytes, end);
    }
}

impl Drop for Record {
    /// A caller that went away before there was an answer is recorded too: its call may have been run.
    fn drop(&mut self) {
        if !self.written {
            self.write(0, BodyEnd::Dropped);
        }
    }
}
