//! `outrigger inject`: sidecars in pods of Kubernetes, by a webhook or in files.
//!
//! | module | what |
//! |---|---|
//! | `manifests`, `yaml` | injecting into files |
//! | `check` | whether a sidecar would start as it is told to |
//! | `config`, `settings` | the settings, and what they are for every pod |
//! | `serve` | the webhook, from settings to a running process and to its end |
//! | `certificate` | what the webhook shows to API servers |
//! | `api`, `review` | its HTTP side, and what the answer is |
//! | `cluster` | what it asks of its cluster |
//! | `version` | versions of Kubernetes |

mod api;
mod certificate;
mod check;
mod cluster;
pub(crate) mod config;
mod manifests;
mod namespaces;
mod review;
mod serve;
mod settings;
pub(crate) mod version;
mod yaml;

use outrigger_runtime::Exit;

use crate::args::{InjectArgs, InjectCommand};

/// Injects into files, or serves.
pub(crate) fn main(args: InjectArgs) -> anyhow::Result<Exit> {
    match args.command {
        Some(InjectCommand::Serve { config }) => serve::main(config),
        None if args.uninject => manifests::uninject(&args.files),
        None => manifests::main(&manifests::Wanted {
            files: args.files,
            all: args.all,
            config: args.config,
            version: args.kubernetes_version,
        }),
    }
}
