//! A line of JSON for everything that the authority issued or refused. It is on the disk before the answer goes out; when it
//! cannot be written, nothing is issued.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use outrigger_telemetry::rfc3339;
use outrigger_telemetry::trail::{Fsync, SequenceGauge, SureError, SureTrail, TrailSettings};
use serde::Serialize;

/// A file of the trail ends with this many bytes: years of a small mesh.
const SEGMENT: u64 = 64 * 1024 * 1024;
/// Or when it is this old.
const AGE: Duration = Duration::from_secs(365 * 24 * 3600);

/// One decision. Proofs and keys are never in it.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Line<'a> {
    /// When.
    pub(crate) time: String,
    /// `issued` or `refused`.
    pub(crate) decision: &'static str,
    /// `token`, `kubernetes`, `certificate` or `none`.
    pub(crate) proof: &'static str,
    /// The public id of a token, the user of Kubernetes, or the SPIFFE id of a certificate.
    pub(crate) who: Option<&'a str>,
    /// Whom the certificate names.
    pub(crate) id: Option<&'a str>,
    pub(crate) serial: Option<&'a str>,
    pub(crate) not_after: Option<u64>,
    /// Why it was refused, in one word.
    pub(crate) reason: Option<&'a str>,
    pub(crate) detail: Option<&'a str>,
    pub(crate) peer: Option<SocketAddr>,
}

/// The signed trail.
pub(crate) struct Audit(Mutex<SureTrail>);

impl Audit {
    /// Goes on with it, or begins it; the key is made where there is none.
    pub(crate) fn open(path: &Path, key: PathBuf, sequence: SequenceGauge) -> Result<Self, SureError> {
        let settings = TrailSettings { key, segment_bytes: SEGMENT, segment_age: AGE, fsync: Fsync::Batch, sequence };
        SureTrail::open(path, settings).map(|trail| Self(Mutex::new(trail)))
    }

    /// Writes a line and waits until it is on the disk. Blocks.
    pub(crate) fn write(&self, line: &Line<'_>) -> Result<(), SureError> {
        let line = Line { time: rfc3339(SystemTime::now()), ..line.clone() };
        self.trail().write(&line)
    }

    /// Ends the file and begins another one, for whoever keeps them.
    pub(crate) fn turn(&self) -> Result<(), SureError> {
        self.trail().turn()
    }

    fn trail(&self) -> MutexGuard<'_, SureTrail> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
