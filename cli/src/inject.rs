//! `outrigger inject`: sidecars in pods of Kubernetes, by a webhook or in files.
//!
//! | module | what |
//! |---|---|
//! | `config`, `settings` | the settings, and what they are for every pod |
//! | `serve` | the webhook, from settings to a running process and to its end |
//! | `certificate` | what the webhook shows to API servers |
//! | `api` | its HTTP side |
//! | `version` | versions of Kubernetes |

mod api;
#[allow(dead_code, reason = "what pods get comes next")]
mod certificate;
#[allow(dead_code, reason = "what pods get comes next")]
pub(crate) mod config;
mod serve;
#[allow(dead_code, reason = "what pods get comes next")]
mod settings;
#[allow(dead_code, reason = "what pods get comes next")]
pub(crate) mod version;

use outrigger_runtime::Exit;

use crate::args::{InjectArgs, InjectCommand};

/// Injects into files, or serves.
pub(crate) fn main(args: InjectArgs) -> anyhow::Result<Exit> {
    match args.command {
        Some(InjectCommand::Serve { config }) => serve::main(config),
        None => anyhow::bail!("injecting into files is not built yet; use `outrigger inject serve`"),
    }
}
