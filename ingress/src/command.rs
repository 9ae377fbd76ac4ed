//! The command line of the ingress, for its own binary and for `outrigger ingress`.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use outrigger_config::sections;
use outrigger_runtime::{DrainOutcome, Exit, ShutdownSignals};
use outrigger_telemetry::log::{self, LogFormat};

use crate::config::Config;
use crate::start::start;

/// The edge of the mesh: one endpoint for many MCP servers.
#[derive(Debug, Parser)]
#[command(name = "outrigger-ingress", version)]
struct Arguments {
    /// Settings file (YAML). Without it everything comes from OUTRIGGER_* variables, which also override the file.
    #[arg(long, env = "OUTRIGGER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Ask a running ingress whether it is ready; exit code 0 or 1. For container health checks.
    Health,
}

/// Runs the ingress. `args` are those after the program's name, or after `outrigger ingress`.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let argv = std::iter::once(OsString::from("outrigger-ingress")).chain(args);
    let arguments = match Arguments::try_parse_from(argv) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are results; mistakes go to stderr. A closed terminal is nobody to tell.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Clean }.into();
        }
    };
    match Config::from_file(arguments.config.as_deref()) {
        Ok(config) if arguments.action.is_some() => {
            outrigger_runtime::run(1, outrigger_runtime::health_check::check(config.admin)).into()
        }
        Ok(config) => outrigger_runtime::run(config.threads.unwrap_or(0), process(config)).into(),
        Err(mistakes) => {
            let _ = writeln!(std::io::stderr(), "{mistakes}");
            Exit::Usage.into()
        }
    }
}

/// The whole life of the process. A second signal cuts the drain short. `OUTRIGGER_REPORT` names a file for the bound
/// addresses.
async fn process(config: Config) -> Exit {
    let format = match config.log.format {
        sections::LogFormat::Text => LogFormat::Text,
        sections::LogFormat::Json => LogFormat::Json,
    };
    if let Err(error) = log::init(format, level(config.log.level)) {
        return fail(&error);
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    // An ingress starts no other programs.
    outrigger_runtime::descriptors::raise_limit();
    let mut signals = match ShutdownSignals::install() {
        Ok(signals) => signals,
        Err(error) => return fail(&error),
    };
    let started = tokio::select! {
        started = Box::pin(start(config)) => started,
        // It may be waiting for a certificate; nothing was served yet.
        signal = signals.next() => {
            tracing::info!(signal, "ending before the start was complete");
            return Exit::Clean;
        }
    };
    let running = match started {
        Ok(running) => running,
        Err(error) => return fail(&error),
    };
    if let Some(path) = std::env::var_os("OUTRIGGER_REPORT") {
        let registration = running.registration.map_or_else(String::new, |at| format!(",\"registration\":\"{at}\""));
        let text = format!("{{\"mcp\":\"{}\",\"admin\":\"{}\"{registration}}}\n", running.mcp, running.admin);
        if let Err(error) = report(Path::new(&path), &text) {
            return fail(&format!("cannot write {}: {error}", path.display()));
        }
    }
    let signal = signals.next().await;
    tracing::info!(signal, "draining");
    let hurry = async {
        signals.next().await;
    };
    match running.drain_unless(hurry).await {
        DrainOutcome::Finished => Exit::Clean,
        DrainOutcome::Forced { left } => {
            tracing::warn!(left, "the drain was cut");
            Exit::Forced
        }
    }
}

/// Written beside the file and moved into place, so that nobody reads half of it.
fn report(path: &Path, text: &str) -> std::io::Result<()> {
    let partial = path.with_extension("partial");
    std::fs::write(&partial, text)?;
    std::fs::rename(&partial, path)
}

fn level(level: sections::LogLevel) -> &'static str {
    match level {
        sections::LogLevel::Error => "error",
        sections::LogLevel::Warn => "warn",
        sections::LogLevel::Info => "info",
        sections::LogLevel::Debug => "debug",
        sections::LogLevel::Trace => "trace",
    }
}

fn fail(error: &dyn Display) -> Exit {
    let _ = writeln!(std::io::stderr(), "{error}");
    Exit::Failed
}
