//! The audit: who did what, whether it was allowed and by which rule. Arguments appear as a digest only.
//!
//! With `required`, a request is admitted only while the audit can be written: ask [`AuditLog::admit`] before
//! forwarding, and answer 503 if it refuses. Half of the queue is kept for requests that were admitted and end
//! later, so that an admitted request practically never loses its record. Without `required`, records that do not
//! fit are dropped and counted.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Serialize, Serializer};

use crate::egress::EgressOfCall;
use crate::metrics::{DropCounter, Outcome};
use crate::render;
use crate::sink::Sink;
use crate::trace::{TraceContext, write_hex};
use crate::trail::TrailSettings;
use crate::writer::{Writer, WriterError};

/// Records that may wait for the writer; half of them before `admit` refuses.
const QUEUE_RECORDS: usize = 8192;

/// What policy decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// Allowed, by the rule of the record.
    Allow,
    /// Refused, by the rule of the record or because there is none.
    Deny,
}

/// SHA-256 of a call's arguments, as they were on the wire. Lets two records be compared, not read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ArgumentDigest([u8; 32]);

/// One decision and its result.
#[derive(Debug, Clone, Serialize)]
pub struct AuditRecord {
    /// When the request ended.
    #[serde(serialize_with = "render::time")]
    pub time: SystemTime,
    /// The principal on whose behalf.
    #[serde(serialize_with = "render::text")]
    pub who: Arc<str>,
    /// The workload that delivered it, where that is somebody else.
    #[serde(serialize_with = "render::optional_text")]
    pub via: Option<Arc<str>>,
    /// The peer's address.
    pub client: Option<SocketAddr>,
    /// The MCP method, from the closed set, `connect` for outbound connections, `session` for a session id that was
    /// presented by somebody else than its owner, `definition` for one that is not as it was
    /// approved, or `approval` for the word of a person.
    pub action: &'static str,
    /// The service.
    #[serde(serialize_with = "render::optional_text")]
    pub service: Option<Arc<str>>,
    /// The capability without the service's prefix, or the destination of an outbound connection.
    #[serde(serialize_with = "render::optional_text")]
    pub capability: Option<Arc<str>>,
    /// Allowed or not.
    pub decision: Decision,
    /// The rule that decided; none means that no rule matched.
    #[serde(serialize_with = "render::optional_text")]
    pub rule: Option<Arc<str>>,
    /// What policies in audit mode would have answered to something that went on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_deny: Option<Box<WouldDeny>>,
    /// What a person said of it, where one had to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<Box<ApprovalNote>>,
    /// How it ended.
    pub outcome: Outcome,
    /// From the head of the request to the end of the reply.
    #[serde(rename = "duration_us", serialize_with = "render::micros")]
    pub duration: Duration,
    /// This hop's span.
    #[serde(rename = "trace_id", serialize_with = "render::trace_id")]
    pub trace: TraceContext,
    /// What the server dialled for it, where it dialled anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Box<EgressOfCall>>,
    /// Of the arguments, when there were any.
    pub argument_digest: Option<ArgumentDigest>,
    /// The arguments that the rule shows, as JSON texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Box<serde_json::value::RawValue>>,
}

/// Whose word a call went by.
#[derive(Debug, Clone, Serialize)]
pub struct ApprovalNote {
    /// Tells calls that waited apart; joins the lines about one.
    #[serde(serialize_with = "render::text")]
    pub id: Arc<str>,
    /// Whose call it was, in the line about who said something of it.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "render::optional_text")]
    pub of: Option<Arc<str>>,
    /// Who said yes or no; nobody when nobody did.
    #[serde(serialize_with = "render::optional_text")]
    pub by: Option<Arc<str>>,
    /// `elicitation`, `desk` or `nobody`.
    pub how: &'static str,
}

/// A refusal that was only watched.
#[derive(Debug, Clone, Serialize)]
pub struct WouldDeny {
    /// Why, a word of a closed set.
    pub reason: &'static str,
    /// The rule that would have denied it, or that came nearest to allowing it.
    #[serde(serialize_with = "render::optional_text")]
    pub rule: Option<Arc<str>>,
}

impl AuditRecord {
    /// Somebody presented the id of a session of somebody else. Belongs to no call.
    pub fn foreign_session(who: &str, client: SocketAddr, service: Option<Arc<str>>) -> Self {
        Self { client: Some(client), service, ..Self::outside_calls(who.into(), "session") }
    }

    /// A definition is not as it was approved. Belongs to no call.
    pub fn deviation(service: &Arc<str>, definition: &str, verdict: &str, allowed: bool) -> Self {
        Self {
            service: Some(Arc::clone(service)),
            capability: Some(definition.into()),
            decision: if allowed { Decision::Allow } else { Decision::Deny },
            rule: Some(format!("lock:{verdict}").into()),
            outcome: if allowed { Outcome::Ok } else { Outcome::Denied },
            ..Self::outside_calls(Arc::clone(service), "definition")
        }
    }

    /// Somebody said whether a call may go on. Has a line besides that of the call.
    pub fn approval(by: &str, yes: bool, note: ApprovalNote) -> Self {
        Self {
            decision: if yes { Decision::Allow } else { Decision::Deny },
            outcome: if yes { Outcome::Ok } else { Outcome::Denied },
            approval: Some(Box::new(note)),
            ..Self::outside_calls(by.into(), "approval")
        }
    }

    fn outside_calls(who: Arc<str>, action: &'static str) -> Self {
        Self {
            time: SystemTime::now(),
            who,
            via: None,
            client: None,
            action,
            service: None,
            capability: None,
            decision: Decision::Deny,
            rule: None,
            would_deny: None,
            approval: None,
            outcome: Outcome::Denied,
            duration: Duration::ZERO,
            trace: TraceContext::new_root(),
            egress: None,
            argument_digest: None,
            arguments: None,
        }
    }
}

/// The audit cannot take records now; the caller answers 503.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuditUnavailable {
    /// The last write failed.
    #[error("the audit cannot be written; the log says why")]
    Failing,
    /// The writer cannot keep up.
    #[error("the audit is written too slowly for the rate of requests")]
    Behind,
}

/// The audit cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The sink or the thread.
    #[error(transparent)]
    Writer(#[from] WriterError),
    /// Required, but goes nowhere.
    #[error("the audit is required but its sink is `off`: name a file, `stderr` or `stdout`, or do not require it")]
    RequiredButOff,
}

/// The audit of a process.
pub struct AuditLog {
    writer: Option<Writer<AuditRecord>>,
    required: bool,
}

impl AuditLog {
    /// Opens the sink and starts the writer; with a trail, its lines are signed. `dropped` is
    /// [`crate::Metrics::audit_dropped`].
    ///
    /// # Errors
    /// When the sink, the key or the thread cannot be had.
    pub fn start(
        sink: &Sink,
        required: bool,
        trail: Option<TrailSettings>,
        dropped: DropCounter,
    ) -> Result<Self, AuditError> {
        Self::with_capacity(sink, required, trail, dropped, QUEUE_RECORDS)
    }

    fn with_capacity(
        sink: &Sink,
        required: bool,
        trail: Option<TrailSettings>,
        dropped: DropCounter,
        capacity: usize,
    ) -> Result<Self, AuditError> {
        let writer = match trail {
            Some(trail) => Writer::start_trail("audit", sink, capacity, dropped, trail)?,
            None => Writer::start("audit", sink, capacity, dropped)?,
        };
        if required && writer.is_none() {
            return Err(AuditError::RequiredButOff);
        }
        Ok(Self { writer, required })
    }

    /// Whether records go anywhere. When not, the caller need not build them.
    pub fn enabled(&self) -> bool {
        self.writer.is_some()
    }

    /// Whether a request may be forwarded. Errors only if the audit is required and cannot keep its promise.
    pub fn admit(&self) -> Result<(), AuditUnavailable> {
        let Some(writer) = self.writer.as_ref().filter(|_| self.required) else { return Ok(()) };
        if writer.crowded() {
            return Err(AuditUnavailable::Behind);
        }
        if writer.failing() { Err(AuditUnavailable::Failing) } else { Ok(()) }
    }

    /// Queues a record; never blocks. A record that does not fit is counted as dropped; that is an error only if
    /// the audit is required.
    pub fn record(&self, record: AuditRecord) -> Result<(), AuditUnavailable> {
        let Some(writer) = &self.writer else { return Ok(()) };
        match writer.push(record) {
            Err(_) if self.required => Err(AuditUnavailable::Behind),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Opens the file again, after a rotation moved it away.
    pub fn reopen(&self) {
        self.writer.iter().for_each(Writer::reopen);
    }

    /// Writes out what is queued and stops. Blocks for the time of the writes.
    pub fn close(&self) {
        self.writer.iter().for_each(Writer::close);
    }
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("AuditLog");
        out.field("enabled", &self.enabled()).field("required", &self.required).finish()
    }
}

impl ArgumentDigest {
    /// Of the raw bytes of the arguments.
    pub fn of(arguments: &[u8]) -> Self {
        let mut out = [0; 32];
        out.copy_from_slice(digest(&SHA256, arguments).as_ref());
        Self(out)
    }

    fn hex(self) -> [u8; 64] {
        let mut out = [0; 64];
        write_hex(&self.0, &mut out);
        out
    }
}

impl Serialize for ArgumentDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(str::from_utf8(&self.hex()).unwrap_or_default())
    }
}

impl fmt::Debug for ArgumentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.hex()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
