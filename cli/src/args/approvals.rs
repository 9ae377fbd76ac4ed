//! `outrigger approvals`.

use std::path::PathBuf;

use clap::Subcommand;

use super::IngressArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum ApprovalsCommand {
    /// Show the calls that wait for a role of yours, with their arguments
    List {
        #[command(flatten)]
        desk: DeskArgs,
    },
    /// Let a call go on, once
    Approve {
        /// Its id, as `list` shows it.
        id: String,
        #[command(flatten)]
        desk: DeskArgs,
    },
    /// Refuse a call
    Deny {
        /// Its id, as `list` shows it.
        id: String,
        #[command(flatten)]
        desk: DeskArgs,
    },
}

/// The desk of an ingress, and who comes to it.
#[derive(Debug, clap::Args)]
pub(crate) struct DeskArgs {
    #[command(flatten)]
    pub(crate) ingress: IngressArgs,
    /// A file with your bearer token for the ingress.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: PathBuf,
    /// Certificates (PEM) of authorities to believe, besides those of the system.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
