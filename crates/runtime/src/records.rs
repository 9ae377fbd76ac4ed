//! Opens what records are written to, as the settings say.

use outrigger_config::sections::{AuditFsync, AuditTrail, Output, WhenFull};
use outrigger_telemetry::audit::AuditError;
use outrigger_telemetry::trail::{Fsync, TrailSettings};
use outrigger_telemetry::{AuditLog, Metrics, Sink};

/// Where records go.
pub fn sink(output: &Output) -> Sink {
    match output {
        Output::Off => Sink::Off,
        Output::Stderr => Sink::Stderr,
        Output::Stdout => Sink::Stdout,
        Output::File(path) => Sink::File(path.clone()),
    }
}

/// Starts the audit, as a signed trail when there is a key for it.
///
/// # Errors
/// When the file, the key or the thread cannot be had.
pub fn audit(output: &Output, settings: &AuditTrail, metrics: &Metrics) -> Result<AuditLog, AuditError> {
    let trail = settings.key.as_ref().map(|key| TrailSettings {
        key: key.clone(),
        segment_bytes: settings.segment_bytes as u64,
        segment_age: settings.segment_age,
        fsync: match settings.fsync {
            AuditFsync::Never => Fsync::Never,
            AuditFsync::Segment => Fsync::Segment,
            AuditFsync::Batch => Fsync::Batch,
        },
        sequence: metrics.audit_sequence(),
    });
    AuditLog::start(&sink(output), settings.when_full == WhenFull::Refuse, trail, metrics.audit_dropped())
}
