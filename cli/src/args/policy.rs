//! `outrigger policy`.

use std::path::PathBuf;

use clap::Subcommand;

use super::KindName;

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Say whether somebody may use a capability, by which rule, and why not by the others
    ///
    /// Exits with 0 when it is allowed and with 1 when it is denied.
    Explain(ExplainArgs),
    /// Compare policies with a file of expectations, for CI
    ///
    /// Exits with 0 when all of them hold and with 1 when one does not. docs/POLICY.md describes the file.
    Test(PolicyTestArgs),
    /// Say who gains and who loses what between two versions of a policy, by recorded audit logs
    ///
    /// Exits with 0 when nobody gains or loses anything and with 1 when somebody does.
    Diff(PolicyDiffArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct PolicyDiffArgs {
    /// The policy that was in force when the audit was recorded.
    #[arg(value_name = "OLD")]
    pub(crate) old: PathBuf,
    /// The policy that is to come.
    #[arg(value_name = "NEW")]
    pub(crate) new: PathBuf,
    /// An audit log. Repeatable.
    #[arg(long = "audit-log", value_name = "LOG", required = true)]
    pub(crate) logs: Vec<PathBuf>,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PolicyTestArgs {
    /// The expectations.
    #[arg(value_name = "FILE")]
    pub(crate) expectations: PathBuf,
    /// A policy file, instead of those that the expectations name. Repeatable; all are read as one.
    #[arg(long = "policy", value_name = "FILE")]
    pub(crate) policies: Vec<PathBuf>,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    /// What is asked for: SERVICE.NAME, such as fs.readFileText, or fs.file:///notes/a.txt with --kind resource.
    #[arg(value_name = "SERVICE.NAME")]
    pub(crate) capability: String,
    /// Who asks: a user (alice), a workload (spiffe://demo.outrigger.local/indexer), or `anonymous`.
    #[arg(long = "as", value_name = "PRINCIPAL")]
    pub(crate) principal: String,
    /// A policy file. Repeatable; all are read as one. Without it, what `outrigger up` wrote: .outrigger/policy.yaml.
    #[arg(long = "policy", value_name = "FILE")]
    pub(crate) policies: Vec<PathBuf>,
    /// A scope that the user was granted. Repeatable.
    #[arg(long = "scope", value_name = "SCOPE")]
    pub(crate) scopes: Vec<String>,
    /// A role that the user was granted. Repeatable.
    #[arg(long = "role", value_name = "ROLE")]
    pub(crate) roles: Vec<String>,
    /// A claim of the user's token, for conditions and `requires`. Repeatable, also for several values of one claim.
    #[arg(long = "claim", value_name = "NAME=VALUE")]
    pub(crate) claims: Vec<String>,
    /// What kind of capability it is.
    #[arg(long, value_enum, default_value = "tool")]
    pub(crate) kind: KindName,
    /// The arguments of a call, a JSON object. Without these three, what a list can tell is told.
    #[arg(long, value_name = "JSON")]
    pub(crate) arguments: Option<String>,
    /// When the call is made, such as 2026-11-21T09:30:00Z. Now, if there are arguments or a source.
    #[arg(long, value_name = "TIME", value_parser = crate::commands::policy::request::time)]
    pub(crate) time: Option<std::time::SystemTime>,
    /// The address that the call comes from.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) source: Option<std::net::IpAddr>,
    /// The tool's `annotations` as its server lists them, a JSON object.
    #[arg(long, value_name = "JSON")]
    pub(crate) annotations: Option<String>,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
