//! What a program says about itself: log, access log, audit, trace.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::fields::{Fields, doc};
use crate::kinds::{self, Kind, Mistake};
use crate::sections::{HOUR, KIB, MIB, SECOND};

/// The least important lines that are still written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Something failed for good.
    Error,
    /// Something needs a look.
    Warn,
    /// What the program does, per event of its life.
    Info,
    /// Details per request.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The word in the settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// The `log` section. The log goes to standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The least important lines that are still written.
    pub level: LogLevel,
    /// How they look.
    pub format: LogFormat,
}

/// Where records are written, one JSON object per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Nowhere.
    Off,
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// The end of this file, made when missing.
    File(PathBuf),
}

/// The `trace` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// A valid `traceparent` from the peer becomes the parent; otherwise every request begins a new trace.
    pub accept_incoming: bool,
    /// `X-MCPX-Trace-ID`, `X-MCPX-Span-ID` and `mcpx.trace` count where `traceparent` is absent.
    pub accept_mcpx: bool,
}

/// Reads the `log` section.
pub fn log(f: &mut Fields<'_>) -> Option<Log> {
    const LEVELS: &[(&str, LogLevel)] = &[
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    let text = doc("The least important lines that are still written.")
        .because("start, stop, reload and trouble, nothing per request");
    let level = f.with_default("level", text.env("OUTRIGGER_LOG"), kinds::choice(LEVELS), LogLevel::Info);
    let text = doc("How log lines look.")
        .because("a person reads it first; collectors want `json`")
        .env("OUTRIGGER_LOG_FORMAT");
    let formats = kinds::choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    let format = f.with_default("format", text, formats, LogFormat::Text);
    Some(Log { level, format })
}

/// Reads the `access_log` setting.
pub fn access_log(f: &mut Fields<'_>) -> Output {
    let text = doc("Where a JSON line per request goes: off, stderr, stdout, or a file.")
        .because("metrics count every request and the audit names every call")
        .env("OUTRIGGER_ACCESS_LOG");
    f.with_default("access_log", text, output(), Output::Off)
}

/// Reads the `audit` setting.
pub fn audit(f: &mut Fields<'_>) -> Output {
    let text = doc("Where a JSON line per decision goes (who, what, rule, outcome; never arguments): off, stderr, stdout, or a file.")
        .because("a denial that nobody recorded cannot be explained later")
        .env("OUTRIGGER_AUDIT");
    f.with_default("audit", text, output(), Output::Stderr)
}

/// When lines of the audit are forced to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditFsync {
    /// The system decides.
    Never,
    /// When a segment ends.
    Segment,
    /// After each batch.
    Batch,
}

/// What happens to a call that the audit cannot take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// It is made; the missing line is counted, and told in the audit.
    Drop,
    /// It is refused.
    Refuse,
}

/// The `audit_trail` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditTrail {
    /// Private key that signs; without it lines are neither chained nor signed.
    pub key: Option<PathBuf>,
    /// Bytes after which a segment ends.
    pub segment_bytes: usize,
    /// Age at which a segment ends.
    pub segment_age: Duration,
    /// When lines are forced to the disk.
    pub fsync: AuditFsync,
    /// What happens to a call that the audit cannot take.
    pub when_full: WhenFull,
}

/// Reads the `audit_trail` section.
pub fn audit_trail(f: &mut Fields<'_>) -> Option<AuditTrail> {
    let text = doc("Ed25519 private key (PEM) that signs the audit, whose lines are then chained by hashes. Made at the first start, with its public half beside it as `<file>.pub`. Without it the audit is plain lines.")
        .env("OUTRIGGER_AUDIT_KEY");
    let key = f.optional("key", text, kinds::path());
    let text = doc("A segment of this size ends: the file is kept under `<audit>.<number of its first line>`.")
        .because("a file of this size is read and checked in a second");
    let bytes = kinds::bytes(64 * KIB..=1024 * 1024 * MIB);
    let segment_bytes = f.with_default("segment_bytes", text, bytes, 64 * MIB);
    let text = doc("A segment that is this old ends.").because("a day's segment can be archived the day after");
    let age = kinds::duration(SECOND..=365 * 24 * HOUR);
    let segment_age = f.with_default("segment_age", text, age, 24 * HOUR);
    let text = doc("When lines are forced to the disk: `never` (the system decides), `segment` (when one ends) or `batch` (each time lines are written, at most 50 times a second).")
        .because("a process that dies loses nothing either way; this is about machines that die");
    const FSYNC: &[(&str, AuditFsync)] =
        &[("never", AuditFsync::Never), ("segment", AuditFsync::Segment), ("batch", AuditFsync::Batch)];
    let fsync = f.with_default("fsync", text, kinds::choice(FSYNC), AuditFsync::Segment);
    let text = doc("What happens to calls while the audit cannot be written, or not fast enough: `drop` makes them, counts the missing lines and says in the audit how many are missing; `refuse` answers 503 until it can.")
        .because("a full disk should not end all work, unless somebody wants that")
        .env("OUTRIGGER_AUDIT_WHEN_FULL");
    let words = kinds::choice(&[("drop", WhenFull::Drop), ("refuse", WhenFull::Refuse)]);
    let when_full = f.with_default("when_full", text, words, WhenFull::Drop);
    Some(AuditTrail { key, segment_bytes, segment_age, fsync, when_full })
}

/// Reads the `log` setting of the outbound half.
pub fn egress_log(f: &mut Fields<'_>) -> Output {
    let text = doc("Where a JSON line per outbound connection goes (host, rule, verdict, bytes; never what was sent): off, stderr, stdout, or a file.")
        .because("where a server connects to is what one wants to know of it")
        .env("OUTRIGGER_EGRESS_LOG");
    f.with_default("log", text, output(), Output::Stderr)
}

/// Reads the `trace` section.
pub fn trace(f: &mut Fields<'_>) -> Option<Trace> {
    let text = doc("A valid `traceparent` from the peer becomes the parent of our span.")
        .because("one trace from the agent to the tool is the point; the id gives no right to anything");
    let accept_incoming = f.with_default("accept_incoming", text, kinds::boolean(), true);
    let text = doc("Where `traceparent` is absent, `X-MCPX-Trace-ID`, `X-MCPX-Span-ID` and `mcpx.trace` count.")
        .because("clients that migrate keep their traces");
    let accept_mcpx = f.with_default("accept_mcpx", text, kinds::boolean(), true);
    Some(Trace { accept_incoming, accept_mcpx })
}

fn output() -> Kind<Output> {
    let parse = |text: &str| match text {
        "off" => Ok(Output::Off),
        "stderr" => Ok(Output::Stderr),
        "stdout" => Ok(Output::Stdout),
        path if path.contains(['/', '.', '\\']) && !path.contains('\0') => Ok(Output::File(path.into())),
        _ => {
            Err(Mistake::new("not a place for records", "off, stderr, stdout, or a path such as /var/log/audit.jsonl"))
        }
    };
    let show = |output: &Output| match output {
        Output::Off => "off".to_owned(),
        Output::Stderr => "stderr".to_owned(),
        Output::Stdout => "stdout".to_owned(),
        Output::File(path) => path.display().to_string(),
    };
    Kind::scalar("`off` | `stderr` | `stdout` | path", json!({"type": "string", "minLength": 1}), parse, show)
}
