//! `outrigger egress`.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum EgressCommand {
    /// Say whether a service may reach something, by which rule, and why not; dials nothing
    ///
    /// Exits with 0 when it is allowed and with 1 when it is denied.
    Test(EgressTestArgs),
    /// Make the rules that let through what was let through, for each tool its own
    Suggest {
        /// Egress logs, written with `mode: observe`.
        #[arg(required = true, value_name = "LOG")]
        logs: Vec<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct EgressTestArgs {
    /// Where to: https://host/path, http://host/path (which can be read), or host:port.
    pub(crate) url: String,
    /// The service, one of `mesh.yaml`.
    #[arg(long, value_name = "SERVICE")]
    pub(crate) service: Option<String>,
    /// A tool whose call is at work. Repeatable.
    #[arg(long = "tool", value_name = "TOOL")]
    pub(crate) tools: Vec<String>,
    /// The HTTP method, where the request can be read.
    #[arg(long, default_value = "GET")]
    pub(crate) method: String,
    /// An address that the name has. Repeatable.
    #[arg(long = "address", value_name = "ADDRESS")]
    pub(crate) addresses: Vec<std::net::IpAddr>,
    /// The file of the mesh.
    #[arg(long, value_name = "FILE", default_value = "mesh.yaml")]
    pub(crate) mesh: PathBuf,
    /// The settings of a sidecar, instead of a mesh.
    #[arg(long, value_name = "FILE", conflicts_with = "service")]
    pub(crate) config: Option<PathBuf>,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
