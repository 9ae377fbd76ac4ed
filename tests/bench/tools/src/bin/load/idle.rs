//! Memory: of a program that does nothing, and per connection that does nothing.

use std::time::Duration;

use outrigger_bench_tools::Error;
use outrigger_bench_tools::process::{cpu_nanos, memory};
use serde_json::{Value, json};

use crate::Common;
use crate::target::Target;

/// Until a program has given back what it will give back.
const SETTLE: Duration = Duration::from_secs(1);

/// Opens the connections one after the other, each with one request, and holds them.
///
/// # Errors
/// The certificates cannot be read, or a connection fails.
pub async fn run(common: Common) -> Result<Value, Error> {
    let target = Target::new(&common.target)?;
    // The first connection pays for what is set up once.
    target.open().await?.call().await?;
    tokio::time::sleep(SETTLE).await;
    let before = memory(&common.pid);
    let mut held = Vec::with_capacity(common.connections);
    for _ in 0..common.connections {
        let mut connection = target.open().await?;
        connection.call().await?;
        held.push(connection);
    }
    tokio::time::sleep(SETTLE).await;
    let after = memory(&common.pid);
    let cpu_before = cpu_nanos(&common.pid);
    tokio::time::sleep(Duration::from_secs_f64(common.seconds)).await;
    let cpu = cpu_nanos(&common.pid).saturating_sub(cpu_before) as f64;
    Ok(json!({
        "connections": held.len(),
        "rss_kib": before.rss,
        "pss_kib": before.pss,
        "rss_with_connections_kib": after.rss,
        "kib_per_connection": (after.rss as f64 - before.rss as f64) / held.len().max(1) as f64,
        "idle_cpu_percent": cpu / common.seconds / 1e7,
    }))
}
