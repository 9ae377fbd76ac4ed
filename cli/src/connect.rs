//! `outrigger connect`: the mesh over stdio, for desktop clients that start a program.
//!
//! ```text
//!  stdin --lines--> relay --POST--> mesh --JSON or SSE--> answer --outbox--> stdout
//!                     |  legacy: session (id, version, GET stream)
//!                     \  modern: headers from the body, a closed stream is a cancelled call
//! ```

pub(crate) mod answer;
pub(crate) mod client;
mod legacy;
mod lines;
pub(crate) mod modern;
mod outbox;
mod relay;
pub(crate) mod target;
#[cfg(test)]
mod testing;

use std::time::Duration;

use outrigger_runtime::{Exit, ShutdownSignals};
use outrigger_telemetry::log::{self, LogFormat};

use crate::args::ConnectArgs;

use client::Client;
use outbox::Outbox;
use relay::Relay;
use target::Target;

/// Calls that are under way at the end of stdin may finish within this: `printf ... | outrigger connect` gets answers.
const LAST_CALLS: Duration = Duration::from_secs(5);

/// Relays until stdin ends, stdout is closed, or a signal comes.
pub(crate) fn main(args: ConnectArgs) -> anyhow::Result<Exit> {
    let target = Target::resolve(&args)?;
    // Stdout carries the protocol; clients show stderr when something is wrong.
    log::init(LogFormat::Text, "warn")?;
    if target.sends_token_in_the_clear() {
        tracing::warn!("the token travels unencrypted; use https for a mesh on another machine");
    }
    Ok(outrigger_runtime::run(1, run(target)))
}

async fn run(target: Target) -> Exit {
    let mut signals = match ShutdownSignals::install() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "signals cannot be handled");
            return Exit::Failed;
        }
    };
    let (outbox, mut writer) = Outbox::stdout();
    let mut relay = Relay::new(Client::new(target), outbox);
    let finish = tokio::select! {
        () = relay.run(tokio::io::stdin()) => true,
        _ = signals.next() => false,
        _ = &mut writer => false,
    };
    if finish {
        tokio::select! {
            () = relay.finish(LAST_CALLS) => {}
            _ = signals.next() => {}
            _ = &mut writer => {}
        }
    }
    relay.close().await;
    if !writer.is_finished() {
        // Every sender is gone with the relay, so it ends when all is written.
        let _ = tokio::time::timeout(LAST_CALLS, writer).await;
    }
    Exit::Clean
}
