//! `outrigger doctor`: what an MCP server speaks and offers, and what will give trouble.
//!
//! ```text
//!  subject --open--> wire (stdio | http | sse)
//!     revisions: one fresh wire per revision, greeted in it
//!     catalog:   one more in the best revision, all lists drained
//!     findings:  what a mesh, an LLM API or an older client stumbles over
//!     report:    text for people, JSON for programs
//! ```

mod catalog;
mod findings;
mod greeting;
mod http;
mod names;
mod report;
mod revisions;
mod schemas;
mod sse;
mod stdio;
mod subject;
mod wire;

use anyhow::{Context, bail};
use outrigger_confine::Kernel;
use outrigger_mcp::catalog::Catalog;
use outrigger_runtime::{Exit, ShutdownSignals};
use outrigger_telemetry::log::{self, LogFormat};

use crate::args::DoctorArgs;
use crate::output;

use report::Report;
use subject::Subject;

/// Looks at the server and prints what was found.
pub(crate) fn main(args: DoctorArgs) -> anyhow::Result<Exit> {
    let subject = Subject::of(&args)?;
    // What a program writes to stderr is its own affair, unless somebody asks.
    log::init(LogFormat::Text, "warn")?;
    let json = args.json;
    let mut failed = None;
    let exit = outrigger_runtime::run(1, async {
        match examine(&subject, &args.service).await {
            Some(report) => {
                let exit = if report.usable() { Exit::Clean } else { Exit::Failed };
                if json {
                    failed = output::json(&report).err();
                } else {
                    output::result(report.text().trim_end());
                }
                exit
            }
            None => Exit::Failed,
        }
    });
    failed.map_or(Ok(exit), |error| Err(error.into()))
}

/// Everything that a server lists and says.
///
/// # Errors
/// It cannot be asked, or not all of it.
pub(crate) async fn catalog_of(args: &DoctorArgs) -> anyhow::Result<Catalog> {
    let subject = Subject::of(args)?;
    let report = examine(&subject, &args.service).await.context("interrupted")?;
    if !report.usable() {
        bail!("the server cannot be asked; `outrigger doctor` says more:\n{}", report.text().trim_end());
    }
    Ok(report.catalog())
}

/// `None` when the person at the terminal had enough: everything that was started is stopped.
async fn examine(subject: &Subject, service: &str) -> Option<Report> {
    let mut signals = ShutdownSignals::install().ok()?;
    tokio::select! {
        report = look(subject, service) => Some(report),
        _ = signals.next() => None,
    }
}

async fn look(subject: &Subject, service: &str) -> Report {
    let mut report = Report::new(subject.name());
    report.sandbox = subject.is_program().then(|| Kernel::look().into());
    let best = revisions::find(subject, &mut report).await;
    if let Some((transport, revision)) = best {
        catalog::read(subject, transport, revision, &mut report).await;
    }
    findings::judge(&mut report, service);
    report
}
