//! `outrigger bench`: what a mesh, or any MCP server over HTTP, does under load.

mod call;
mod figures;
mod load;

use anyhow::{anyhow, bail};
use outrigger_runtime::Exit;
use outrigger_telemetry::log::{self, LogFormat};

use crate::args::BenchArgs;
use crate::connect::target::Target;
use crate::output;
use call::Call;
use figures::Figures;

/// Calls that are kept to be sorted: 40 MB.
const MOST: u64 = 10_000_000;

/// Runs the command.
pub(crate) fn main(args: &BenchArgs) -> anyhow::Result<Exit> {
    log::init(LogFormat::Text, "error")?;
    let target = Target::resolve(&args.endpoint)?;
    if target.sends_token_in_the_clear() {
        output::say("warning: the token is sent over a network without TLS");
    }
    if args.rate.is_some_and(|rate| u64::from(rate).saturating_mul(args.duration.as_secs()) > MOST) {
        bail!("at most {MOST} calls are measured at once: give a lower --rate or a shorter --duration");
    }
    let mut got: anyhow::Result<Figures> = Err(anyhow!("interrupted"));
    outrigger_runtime::run(1, async {
        got = measure(args, target).await;
        Exit::Clean
    });
    let figures = got?;
    if args.json {
        output::json(&figures)?
    } else {
        output::result(&figures.to_string())
    }
    Ok(if figures.failed() == 0 { Exit::Clean } else { Exit::Failed })
}

async fn measure(args: &BenchArgs, target: Target) -> anyhow::Result<Figures> {
    load::run(args, Call::new(args, target)?).await
}
