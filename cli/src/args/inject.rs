//! `outrigger inject`: sidecars in pods.

use std::path::PathBuf;

use clap::Subcommand;

/// Adds a sidecar to pods of Kubernetes.
///
/// With `-f`, to manifests: reads files, writes YAML to stdout. A workload (Pod, Deployment, StatefulSet, DaemonSet, ReplicaSet,
/// Job, CronJob, or a List of them) that asks for it by the annotation `outrigger.dev/inject: "true"`, on its pods or on their
/// Namespace in the same files, gets what the webhook (`outrigger inject serve`) would give it; everything else passes as it
/// is. Exits with 1 when a pod asks for what it cannot have. docs/KUBERNETES.md lists the annotations.
#[derive(Debug, clap::Args)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
pub(crate) struct InjectArgs {
    #[command(subcommand)]
    pub(crate) command: Option<InjectCommand>,
    /// Manifests, with any number of documents; `-` is stdin. Repeatable.
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Also what does not ask for it, unless it says `outrigger.dev/inject: "false"`.
    #[arg(long)]
    pub(crate) all: bool,
    /// Take out again what was added to these manifests; what has no sidecar stays as it is.
    #[arg(long, conflicts_with_all = ["all", "config", "kubernetes_version"])]
    pub(crate) uninject: bool,
    /// Settings (YAML) of the injector. Without it everything comes from OUTRIGGER_* variables, which also override the file.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The version of Kubernetes that the manifests are for, such as 1.28: native sidecars need 1.29.
    #[arg(long, value_name = "VERSION", value_parser = crate::inject::version::parse)]
    pub(crate) kubernetes_version: Option<crate::inject::version::Version>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum InjectCommand {
    /// Answer an API server, as a mutating admission webhook
    ///
    /// Settings: `outrigger docs configuration`. Health and metrics are on another port, in plain text.
    Serve {
        /// Settings file (YAML). Without it everything comes from OUTRIGGER_* variables, which also override the file.
        #[arg(long, env = "OUTRIGGER_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
    },
}
