//! `outrigger audit`.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Find lines that were edited, removed, added or put in another order
    ///
    /// Exits with 0 when the audit is whole and with 1 when it is not. Whoever can write the file can cut off its end:
    /// `--expect` takes the number that the metric `outrigger_audit_sequence` had.
    Verify(AuditVerifyArgs),
    /// Print the lines that fit all conditions
    Query(Box<AuditQueryArgs>),
}

#[derive(Debug, clap::Args)]
pub(crate) struct AuditVerifyArgs {
    /// Audit files. The kept segments of each (`<file>.<number>`) are read with it.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// The public key (`audit_trail.key` with `.pub`) of the process that wrote it, from where nobody who can write the
    /// audit can write. Repeatable: a key may have been replaced.
    #[arg(long = "key", required = true, value_name = "FILE")]
    pub(crate) keys: Vec<PathBuf>,
    /// The last line must have at least this number.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) expect: Option<u64>,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct AuditQueryArgs {
    /// Audit files. The kept segments of each (`<file>.<number>`) are read before it.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Who; `*` stands for any characters, here and below.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) who: Option<String>,
    /// The service.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) service: Option<String>,
    /// The tool, prompt or resource, under the service's own name.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) capability: Option<String>,
    /// The MCP method, such as `tools/call`.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) action: Option<String>,
    /// `allow` or `deny`.
    #[arg(long, value_name = "DECISION")]
    pub(crate) decision: Option<String>,
    /// The rule that decided, as `<policy>/<rule>`.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) rule: Option<String>,
    /// How it ended: `ok`, `tool_error`, `denied`, ...
    #[arg(long, value_name = "PATTERN")]
    pub(crate) outcome: Option<String>,
    /// An argument that a rule shows, as `NAME=VALUE`. Repeatable; all have to fit.
    #[arg(long = "argument", value_name = "NAME=PATTERN")]
    pub(crate) arguments: Vec<String>,
    /// The id of an approval, or who gave or refused it.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) approval: Option<String>,
    /// The trace id, which joins the lines of ingress and sidecars.
    #[arg(long, value_name = "ID")]
    pub(crate) trace: Option<String>,
    /// From this time on: a duration before now (`1h`), or the beginning of a time in UTC (`2026-11-21T09:30`).
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Before this time, in the same form.
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// Print the lines as they are.
    #[arg(long)]
    pub(crate) json: bool,
}
