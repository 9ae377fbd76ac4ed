//! Trace context, metrics with closed labels, access log and audit.
//!
//! ```text
//!  request  --> trace      which span is this, and whose child
//!    |
//!  record   --> metrics    counters and histograms, resolved handles only
//!           --> access     one JSON line per HTTP request     \  bounded queue, one writer
//!           --> audit      one JSON line per decision          | thread each, formatted there
//!           --> egress     one JSON line per outbound connection /
//!  operator --> log        `tracing` to stderr
//! ```
//!
//! Nothing here holds arguments, results, tokens or session ids.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may fail loudly"))]

pub mod access;
pub mod audit;
pub mod egress;
pub mod json_log;
pub mod log;
pub mod metrics;
mod render;
pub mod sink;
pub mod trace;
mod tracestate;
pub mod trail;
mod writer;

pub use access::{AccessLog, AccessRecord};
pub use audit::{ApprovalNote, ArgumentDigest, AuditLog, AuditRecord, AuditUnavailable, Decision, WouldDeny};
pub use egress::{EgressLog, EgressOfCall, EgressRecord, RefusedEgress};
pub use metrics::{Metrics, Role, ServiceMetrics};
pub use render::rfc3339;
pub use sink::Sink;
pub use trace::TraceContext;
