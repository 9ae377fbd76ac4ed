//! Event streams: what one event costs that is passed on.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use outrigger_bench_tools::Error;
use outrigger_bench_tools::rpc::Asks;
use serde_json::Value;
use tokio::task::spawn_local;

use crate::Common;
use crate::target::Target;
use crate::window::{Tally, measure};

/// Until every stream has begun. A thousand handshakes take a slow proxy two seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Opens a stream on each connection and counts the events of all.
///
/// # Errors
/// The certificates cannot be read, or not every stream begins.
pub async fn run(common: Common, micros: u64) -> Result<Value, Error> {
    let target = Target::new(&common.target, Asks::Events(micros))?;
    let (tally, begun) = (Tally::default(), Rc::new(Cell::new(0)));
    for _ in 0..common.connections {
        let (target, tally, begun) = (target.clone(), tally.clone(), begun.clone());
        spawn_local(async move {
            if let Err(error) = listen(&target, &tally, &begun).await {
                tally.failed(&error);
            }
        });
    }
    let since = Instant::now();
    while begun.get() < common.connections {
        if since.elapsed() > PATIENCE {
            return Err(format!(
                "only {} of {} streams began; {}",
                begun.get(),
                common.connections,
                tally.last_error()
            )
            .into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(measure(&tally, common.seconds, &common.pid).await)
}

/// Reads one stream. It ends only with an error.
async fn listen(target: &Target, tally: &Tally, begun: &Cell<usize>) -> io::Result<()> {
    let mut connection = target.open().await?;
    connection.begin_events().await?;
    begun.set(begun.get() + 1);
    loop {
        tally.events(connection.events().await?);
        // What TLS has ready costs none of the budget by itself, and one stream would keep the others waiting.
        tokio::task::coop::consume_budget().await;
    }
}
