//! The access log: one JSON line per HTTP request, lossy under overload and never in its way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::metrics::{DropCounter, Outcome};
use crate::render;
use crate::sink::Sink;
use crate::trace::TraceContext;
use crate::writer::{Writer, WriterError};

/// Records that may wait for the writer: 0.4 s of the highest rate that one process serves.
const QUEUE_RECORDS: usize = 8192;

/// One HTTP request that ended. Strings are shared with snapshots where they come from there.
#[derive(Debug, Clone, Serialize)]
pub struct AccessRecord {
    /// When it ended.
    #[serde(serialize_with = "render::time")]
    pub time: SystemTime,
    /// The caller's address as the socket has it.
    pub client: Option<SocketAddr>,
    /// Who called, proven; never a token.
    #[serde(serialize_with = "render::optional_text")]
    pub principal: Option<Arc<str>>,
    /// `HTTP/1.1`, `HTTP/2`.
    pub http_version: &'static str,
    /// The HTTP method.
    #[serde(serialize_with = "render::text")]
    pub http_method: Arc<str>,
    /// The path; a query is cut off.
    #[serde(serialize_with = "render::path")]
    pub path: Arc<str>,
    /// The status that was sent.
    pub status: u16,
    /// The MCP method, from the closed set.
    pub method: Option<&'static str>,
    /// The service, when one was chosen.
    #[serde(serialize_with = "render::optional_text")]
    pub service: Option<Arc<str>>,
    /// The capability, without the service's prefix.
    #[serde(serialize_with = "render::optional_text")]
    pub capability: Option<Arc<str>>,
    /// How it ended.
    pub outcome: Outcome,
    /// From the head of the request to the end of the reply.
    #[serde(rename = "duration_us", serialize_with = "render::micros")]
    pub duration: Duration,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the reply's body.
    pub bytes_out: u64,
    /// This hop's span.
    #[serde(rename = "trace_id", serialize_with = "render::trace_id")]
    pub trace: TraceContext,
}

/// The access log of a process.
pub struct AccessLog {
    writer: Option<Writer<AccessRecord>>,
}

impl AccessLog {
    /// Opens the sink and starts the writer. `dropped` is [`crate::Metrics::access_dropped`].
    pub fn start(sink: &Sink, dropped: DropCounter) -> Result<Self, WriterError> {
        Ok(Self { writer: Writer::start("access", sink, QUEUE_RECORDS, dropped)? })
    }

    /// Whether records go anywhere. When not, the caller need not build them.
    pub fn enabled(&self) -> bool {
        self.writer.is_some()
    }

    /// Queues a record; never blocks. A full queue drops it and counts it.
    pub fn record(&self, record: AccessRecord) {
        if let Some(writer) = &self.writer {
            // An overflow is counted by the writer, and no reason to fail a request.
            let _ = writer.push(record);
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

impl std::fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessLog").field("enabled", &self.enabled()).finish()
    }
}
