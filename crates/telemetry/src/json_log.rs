//! A log of JSON lines, one for each record: lossy under overload and never in anybody's way.

use std::fmt;

use serde::Serialize;

use crate::metrics::DropCounter;
use crate::sink::Sink;
use crate::writer::{Writer, WriterError};

/// What a log has lines of.
pub trait Line: Serialize + Send + 'static {
    /// The log's name, for the writer's thread and its complaints.
    const LOG: &'static str;
    /// Records that may wait for the writer.
    const QUEUE: usize;
}

/// The log of a process for one kind of record.
pub struct JsonLog<R> {
    writer: Option<Writer<R>>,
}

impl<R: Line> JsonLog<R> {
    /// Opens the sink and starts the writer. `dropped` counts what is lost.
    ///
    /// # Errors
    /// When the sink cannot be opened or no thread started.
    pub fn start(sink: &Sink, dropped: DropCounter) -> Result<Self, WriterError> {
        Ok(Self { writer: Writer::start(R::LOG, sink, R::QUEUE, dropped)? })
    }

    /// Whether records go anywhere. When not, the caller need not build them.
    pub fn enabled(&self) -> bool {
        self.writer.is_some()
    }

    /// Queues a record; never blocks. A full queue drops it and counts it.
    pub fn record(&self, record: R) {
        if let Some(writer) = &self.writer {
            // An overflow is counted by the writer, and no reason to fail what is recorded.
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

impl<R: Line> fmt::Debug for JsonLog<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLog").field("log", &R::LOG).field("enabled", &self.enabled()).finish()
    }
}
