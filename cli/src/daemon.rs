//! What programs have in common that this tool runs until a signal: `ca serve` and `inject serve`.

use std::path::Path;
use std::time::Duration;

use outrigger_config::sections::{Log, LogFormat as ConfigFormat};
use outrigger_config::{Diagnostic, Diagnostics, Env};
use outrigger_identity::install_provider;
use outrigger_runtime::drain::{DrainOutcome, DrainTrigger};
use outrigger_runtime::{Exit, Readiness, ShutdownSignals, TaskGroup, descriptors};
use outrigger_telemetry::log::{self, LogFormat};

use crate::files;

/// For tasks that were asked to stop.
pub(crate) const LAST_WAIT: Duration = Duration::from_secs(1);

/// Reads settings from a file, if there is one, and the variables of this process, which win.
pub(crate) fn settings<T>(
    path: Option<&Path>,
    read: impl Fn(Option<(&str, &str)>, Env<'_>) -> Result<T, Diagnostics>,
) -> anyhow::Result<T> {
    let env = |name: &str| std::env::var(name).ok();
    let Some(path) = path else { return Ok(read(None, &env)?) };
    let (name, text) = (path.display().to_string(), files::read(path)?);
    Ok(read(Some((&name, &text)), &env)?)
}

/// Runs it to its end.
pub(crate) fn run(threads: usize, process: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    let mut failed = None;
    let exit = outrigger_runtime::run(threads, async {
        process.await.unwrap_or_else(|error| {
            failed = Some(error);
            Exit::Failed
        })
    });
    failed.map_or(Ok(exit), Err)
}

/// What comes before everything else: the log, and what a process has once.
pub(crate) fn begin(log: &Log, warnings: &[Diagnostic]) -> anyhow::Result<ShutdownSignals> {
    let format = match log.format {
        ConfigFormat::Text => LogFormat::Text,
        ConfigFormat::Json => LogFormat::Json,
    };
    log::init(format, log.level.as_str())?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    install_provider();
    descriptors::raise_limit();
    Ok(ShutdownSignals::install()?)
}

/// Writes for whoever started us where we listen, if that is wanted.
pub(crate) fn report(text: &str) -> anyhow::Result<()> {
    match std::env::var_os("OUTRIGGER_REPORT") {
        Some(path) => files::write(Path::new(&path), text.as_bytes(), files::PUBLIC),
        None => Ok(()),
    }
}

/// Waits for a signal, then for what goes on.
pub(crate) async fn end(
    mut signals: ShutdownSignals,
    readiness: &Readiness,
    trigger: DrainTrigger,
    drain: Duration,
    tasks: TaskGroup,
) -> Exit {
    let signal = signals.next().await;
    tracing::info!(signal, "draining");
    readiness.set("draining", Err("shutting down".into()));
    let hurry = async {
        signals.next().await;
    };
    let outcome = trigger.drain(drain, hurry).await;
    tasks.stop(LAST_WAIT).await;
    match outcome {
        DrainOutcome::Finished => Exit::Clean,
        DrainOutcome::Forced { .. } => Exit::Forced,
    }
}
