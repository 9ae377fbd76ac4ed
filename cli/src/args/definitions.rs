//! `outrigger lock` and `outrigger scan`.

use std::path::PathBuf;
use std::time::Duration;

use super::{IngressArgs, KindName, UrlArgs, duration};

/// Where definitions come from.
#[derive(Debug, clap::Args)]
pub(crate) struct SourceArgs {
    #[command(flatten)]
    pub(crate) ingress: IngressArgs,
    /// Ask one server itself instead of a mesh: its name in the mesh. The server is given at the end.
    #[arg(long, value_name = "NAME", requires = "server")]
    pub(crate) service: Option<String>,
    #[command(flatten)]
    pub(crate) asked: UrlArgs,
    /// How long to wait for each answer of a server.
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// The URL of a server, or the program that is one, with its arguments.
    #[arg(value_name = "URL|COMMAND", trailing_var_arg = true, allow_hyphen_values = true, conflicts_with = "admin")]
    pub(crate) server: Vec<String>,
}

/// Approves the definitions of tools, prompts and resources, and tells when they have changed.
///
/// Writes what the services offer now into FILE, for git: read it before you commit it. A service that is in the file already
/// stays as it was approved, and what has changed is told, until it is approved again with `--update`. An ingress holds its
/// services to the file with `integrity: { lock: FILE }`. Exits with 1 when something is not as it was approved.
#[derive(Debug, clap::Args)]
pub(crate) struct LockArgs {
    /// The lock.
    #[arg(short, long, value_name = "FILE", default_value = "outrigger.lock")]
    pub(crate) file: PathBuf,
    /// Write nothing; a service that is not in the file is told too. For CI.
    #[arg(long, conflicts_with = "update")]
    pub(crate) check: bool,
    /// Approve a service again as it is now; `*` stands for any characters. Repeatable.
    #[arg(long, value_name = "SERVICE")]
    pub(crate) update: Vec<String>,
    /// What is held to the lock. Repeatable. Without it, what was before, and for new services tools, prompts and templates.
    #[arg(long = "kind", value_enum, value_name = "KIND")]
    pub(crate) kinds: Vec<KindName>,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

/// Looks for what in definitions is meant to deceive.
///
/// Hidden characters, instructions to the model, names of files with secrets, texts about other services' tools, names that
/// look like others. A finding is a reason to look. Exits with 1 when there is one.
#[derive(Debug, clap::Args)]
pub(crate) struct ScanArgs {
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}
