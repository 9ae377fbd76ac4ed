//! The egress log: one JSON line per outbound connection, or per request where requests can be read.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::metrics::DropCounter;
use crate::metrics::labels::EgressVerdict;
use crate::render;
use crate::sink::Sink;
use crate::trace::TraceContext;
use crate::writer::{Writer, WriterError};

/// Records that may wait for the writer.
const QUEUE_RECORDS: usize = 4096;

/// One outbound connection or request that ended. Nothing of what was sent or received is in it.
#[derive(Debug, Clone, Serialize)]
pub struct EgressRecord {
    /// When it ended.
    #[serde(serialize_with = "render::time")]
    pub time: SystemTime,
    /// Always `egress`, to tell the line from others in the same stream.
    pub event: &'static str,
    /// The service that wanted it.
    #[serde(serialize_with = "render::text")]
    pub service: Arc<str>,
    /// How it came: `connect`, `http`, `socks5`, `transparent`, `dns`.
    pub way: &'static str,
    /// The host in its one form, or as it was written where it has none.
    #[serde(serialize_with = "render::text")]
    pub host: Arc<str>,
    /// The port; 0 where none was understood.
    pub port: u16,
    /// The address that was dialled.
    pub address: Option<IpAddr>,
    /// The HTTP method, where it can be read.
    #[serde(serialize_with = "render::optional_text")]
    pub method: Option<Arc<str>>,
    /// The tools of the calls that it may belong to; one is certainty.
    pub tools: Vec<Arc<str>>,
    /// What became of it.
    pub verdict: EgressVerdict,
    /// Why it did not go well, or would have been refused.
    pub reason: Option<&'static str>,
    /// The rule that allowed it, or came nearest to it.
    #[serde(serialize_with = "render::optional_text")]
    pub rule: Option<Arc<str>>,
    /// The name mixes letters of scripts that look alike.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mixed_scripts: bool,
    /// Bytes to the destination.
    pub bytes_up: u64,
    /// Bytes from it.
    pub bytes_down: u64,
    /// From the request to the end.
    #[serde(rename = "duration_us", serialize_with = "render::micros")]
    pub duration: Duration,
    /// Of the call behind it where that is certain, else of its own.
    #[serde(rename = "trace_id", serialize_with = "render::trace_id")]
    pub trace: TraceContext,
}

/// The egress log of a process.
pub struct EgressLog {
    writer: Option<Writer<EgressRecord>>,
}

impl EgressLog {
    /// Opens the sink and starts the writer. `dropped` is [`crate::Metrics::egress_dropped`].
    ///
    /// # Errors
    /// When the sink cannot be opened or no thread started.
    pub fn start(sink: &Sink, dropped: DropCounter) -> Result<Self, WriterError> {
        Ok(Self { writer: Writer::start("egress", sink, QUEUE_RECORDS, dropped)? })
    }

    /// Whether records go anywhere.
    pub fn enabled(&self) -> bool {
        self.writer.is_some()
    }

    /// Queues a record; never blocks. A full queue drops it and counts it.
    pub fn record(&self, record: EgressRecord) {
        if let Some(writer) = &self.writer {
            // An overflow is counted by the writer, and no reason to fail a connection.
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

impl std::fmt::Debug for EgressLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EgressLog").field("enabled", &self.enabled()).finish()
    }
}
