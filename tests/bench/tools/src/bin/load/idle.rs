//! Memory: of a program that does nothing, and per connection that does nothing.

use std::time::Duration;

use outrigger_bench_tools::Error;
use outrigger_bench_tools::process::{Memory, cpu_nanos, memory};
use outrigger_bench_tools::rpc::Asks;
use serde_json::{Value, json};

use crate::Common;
use crate::target::{Connection, Target};

/// Until a program has given back what it will give back.
const SETTLE: Duration = Duration::from_secs(1);

/// Opens the connections one after the other, each with one request, and holds them.
///
/// # Errors
/// The certificates cannot be read, or a connection fails.
pub async fn run(common: Common, at_last: usize) -> Result<Value, Error> {
    let target = Target::new(&common.target, Asks::Call)?;
    // The first connection pays for what is set up once.
    target.open().await?.call().await?;
    tokio::time::sleep(SETTLE).await;
    let before = memory(&common.pid);
    let mut held = Vec::with_capacity(common.connections.max(at_last));
    let after = hold(&target, &mut held, common.connections, &common.pid).await?;
    let cpu_before = cpu_nanos(&common.pid);
    tokio::time::sleep(Duration::from_secs_f64(common.seconds)).await;
    let cpu = cpu_nanos(&common.pid).saturating_sub(cpu_before) as f64;
    let last = if at_last > 0 { Some(hold(&target, &mut held, at_last, &common.pid).await?) } else { None };
    let each = |with: Memory, count: usize| (with.rss as f64 - before.rss as f64) / count.max(1) as f64;
    Ok(json!({
        "connections": common.connections,
        "rss_kib": before.rss,
        "pss_kib": before.pss,
        "rss_with_connections_kib": after.rss,
        "kib_per_connection": each(after, common.connections),
        "connections_at_last": at_last,
        "rss_at_last_kib": last.map(|last| last.rss),
        "kib_per_connection_at_last": last.map(|last| each(last, at_last)),
        "idle_cpu_percent": cpu / common.seconds / 1e7,
    }))
}

/// Opens connections until so many are held; returns the memory that they take once they rest.
async fn hold(target: &Target, held: &mut Vec<Connection>, count: usize, pids: &[u32]) -> Result<Memory, Error> {
    while held.len() < count {
        let mut connection = target.open().await?;
        connection.call().await?;
        held.push(connection);
    }
    tokio::time::sleep(SETTLE).await;
    Ok(memory(pids))
}
