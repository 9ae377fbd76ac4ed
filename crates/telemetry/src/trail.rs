//! A trail: lines that cannot be edited, removed or put in another order unseen, in files that end and follow each other.
//!
//! ```text
//!  audit.jsonl.000000000000   segment  line  line ... end     each line holds the hash of the one before it, across files
//!  audit.jsonl.000000004711   segment  line  lost  line ... end
//!  audit.jsonl                segment  line  line             the one that grows
//! ```
//!
//! Besides records a trail has lines of its own, told by their member `event`: `segment` begins a file and names the key,
//! `end` says that what follows is in another file or that the process stopped, `lost` that records were dropped here.

mod chain;
mod key;
mod segment;
mod sure;
mod verify;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use prometheus::IntGauge;
use serde::Serialize;

pub use crate::trail::key::{KeyError, PublicKey};
pub use crate::trail::sure::{SureError, SureTrail};
pub use crate::trail::verify::{Fault, FaultKind, Report, segments, verify};

use crate::render;
use crate::trail::chain::Chain;
use crate::trail::key::SigningKey;
use crate::trail::segment::Resumed;

/// When what was written is forced to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fsync {
    /// The system decides.
    #[default]
    Never,
    /// When a segment ends.
    Segment,
    /// After each batch of lines, before anything else is written.
    Batch,
}

/// How a trail is kept.
#[derive(Debug, Clone)]
pub struct TrailSettings {
    /// The file of the private key; made when it is missing.
    pub key: PathBuf,
    /// Bytes after which a segment ends.
    pub segment_bytes: u64,
    /// Age at which a segment ends, if it has lines.
    pub segment_age: Duration,
    /// When lines are forced to the disk.
    pub fsync: Fsync,
    /// Says the number of the last line.
    pub sequence: SequenceGauge,
}

/// The number of the last line of a trail, as a metric: whoever cuts off the end of the file cannot turn this back.
#[derive(Debug, Clone)]
pub struct SequenceGauge(pub(crate) IntGauge);

/// A trail cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum TrailError {
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The file that it goes on in.
    #[error("cannot go on with the trail in {}: {cause}", path.display())]
    Resume {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
}

/// The writing end, on the writer's thread.
pub(crate) struct Trail {
    chain: Chain,
    settings: TrailSettings,
    file: Option<PathBuf>,
    /// Bytes in the file, lines in waiting included.
    bytes: u64,
    began: SystemTime,
    /// Number of the first line of this file.
    first: u64,
}

/// A line that is no record.
#[derive(Serialize)]
struct Event {
    #[serde(serialize_with = "render::time")]
    time: SystemTime,
    #[serde(flatten)]
    what: What,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum What {
    /// A file begins, or a process goes on with it.
    Segment {
        /// Of these lines.
        version: u8,
        /// Public key, hex.
        key: String,
        /// Whether the one before ended in order. False after a crash.
        clean: bool,
        /// Bytes of half a line that a crash left, now cut off.
        torn_bytes: u64,
    },
    /// A file or process ends.
    End {
        /// Why.
        reason: &'static str,
    },
    /// Records are missing here.
    Lost {
        /// How many.
        records: u64,
    },
}

impl Trail {
    /// Goes on with the trail in this file, or begins one; without a file, begins one. Its first line is put into `lines`.
    pub(crate) fn begin(settings: TrailSettings, file: Option<&Path>, lines: &mut Vec<u8>) -> Result<Self, TrailError> {
        let key = SigningKey::load_or_make(&settings.key)?;
        let resumed = file.map_or_else(
            || Ok(Resumed::fresh()),
            |path| {
                segment::resume(path, &key.public())
                    .map_err(|cause| TrailError::Resume { path: path.to_owned(), cause })
            },
        )?;
        let chain = Chain::after(key, resumed.next, resumed.previous);
        let mut trail = Self {
            chain,
            settings,
            file: file.map(Path::to_owned),
            bytes: resumed.bytes,
            began: SystemTime::now(),
            first: resumed.first.unwrap_or(resumed.next),
        };
        trail.header(lines, resumed.clean, resumed.torn);
        trail.seal(lines);
        Ok(trail)
    }

    /// Gives the object at the end of `lines` its place.
    pub(crate) fn link(&mut self, lines: &mut Vec<u8>, start: usize) {
        self.chain.link(lines, start);
    }

    /// Says that records were lost, before those that follow.
    pub(crate) fn lost(&mut self, lines: &mut Vec<u8>, records: u64) {
        self.event(lines, What::Lost { records });
    }

    /// Completes a batch.
    pub(crate) fn seal(&mut self, lines: &mut Vec<u8>) {
        self.chain.seal(lines);
        self.bytes += lines.len() as u64;
        self.settings.sequence.0.set(i64::try_from(self.chain.next()).unwrap_or(i64::MAX) - 1);
    }

    /// Completes the last batch of a segment.
    pub(crate) fn end(&mut self, lines: &mut Vec<u8>, reason: &'static str) {
        self.event(lines, What::End { reason });
        self.seal(lines);
    }

    /// Whether the segment should end with the lines that wait.
    pub(crate) fn is_full(&self, waiting: usize) -> bool {
        let has_lines = self.file.is_some() && self.chain.next() > self.first + 1;
        let bytes = self.bytes.saturating_add(waiting as u64);
        has_lines
            && (bytes >= self.settings.segment_bytes
                || self.began.elapsed().unwrap_or_default() >= self.settings.segment_age)
    }

    /// Under which name the segment is kept once it has ended; none for streams.
    pub(crate) fn kept_as(&self) -> Option<PathBuf> {
        self.file.as_deref().map(|path| segment::kept_as(path, self.first))
    }

    /// Begins the next segment: its first line is put into `lines`.
    pub(crate) fn next_segment(&mut self, lines: &mut Vec<u8>) {
        self.bytes = 0;
        self.began = SystemTime::now();
        self.first = self.chain.next();
        self.header(lines, true, 0);
        self.seal(lines);
    }

    /// Whether lines are forced to the disk now: after a batch, or at the end of a segment.
    pub(crate) fn wants_sync(&self, end_of_segment: bool) -> bool {
        match self.settings.fsync {
            Fsync::Never => false,
            Fsync::Segment => end_of_segment,
            Fsync::Batch => true,
        }
    }

    fn header(&mut self, lines: &mut Vec<u8>, clean: bool, torn_bytes: u64) {
        let key = self.chain.key().public().to_string();
        self.event(lines, What::Segment { version: 1, key, clean, torn_bytes });
    }

    fn event(&mut self, lines: &mut Vec<u8>, what: What) {
        let start = lines.len();
        match serde_json::to_writer(&mut *lines, &Event { time: SystemTime::now(), what }) {
            Ok(()) => self.chain.link(lines, start),
            Err(error) => {
                lines.truncate(start);
                tracing::error!(%error, "an event of the trail cannot be formatted");
            }
        }
    }
}

#[cfg(test)]
mod tests;
