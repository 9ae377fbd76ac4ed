//! New connections: each pays for a full handshake and one request.

use std::io;
use std::time::{Duration, Instant};

use outrigger_bench_tools::Error;
use outrigger_bench_tools::rpc::Asks;
use serde_json::Value;
use tokio::task::spawn_local;

use crate::Common;
use crate::target::Target;
use crate::window::{Tally, measure};

/// Runs the workers and reports on them.
///
/// # Errors
/// The certificates cannot be read.
pub async fn run(common: Common) -> Result<Value, Error> {
    let target = Target::new(&common.target, Asks::Call)?;
    let tally = Tally::default();
    for _ in 0..common.connections {
        spawn_local(worker(target.clone(), tally.clone()));
    }
    Ok(measure(&tally, common.seconds, &common.pid).await)
}

async fn worker(target: Target, tally: Tally) {
    loop {
        let since = Instant::now();
        match connect_and_call(&target).await {
            Ok(()) => tally.done(since),
            Err(error) => {
                tally.failed(&error);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

async fn connect_and_call(target: &Target) -> io::Result<()> {
    target.open().await?.call().await.map(drop)
}
