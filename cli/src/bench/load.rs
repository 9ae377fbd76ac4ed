//! The load: connections that call when calls are due.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::bail;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::MOST;
use super::call::Call;
use super::figures::{Figures, Tally};
use crate::args::BenchArgs;
use crate::output;

/// Calls before this are not counted: connections open, lists are fetched, caches fill.
const WARM_UP: Duration = Duration::from_secs(1);
/// A person at the terminal hears of it so often.
const NEWS: Duration = Duration::from_secs(5);

/// What the connections share.
struct Plan {
    call: Call,
    begin: Instant,
    counted: Instant,
    end: Instant,
    /// Seconds between two calls; none where each connection calls as fast as it can.
    every: Option<f64>,
    begun: AtomicU64,
    ended: AtomicU64,
}

/// Loads the endpoint for as long as wanted.
///
/// # Errors
/// The very first call failed: nothing else would be measured.
pub(super) async fn run(args: &BenchArgs, call: Call) -> anyhow::Result<Figures> {
    if let Err(reason) = call.make().await {
        bail!("the first call failed: {reason}");
    }
    let begin = Instant::now();
    let counted = begin + WARM_UP;
    let every = args.rate.map(|rate| 1.0 / f64::from(rate));
    let (begun, ended) = (AtomicU64::new(0), AtomicU64::new(0));
    let plan = Arc::new(Plan { call, begin, counted, end: counted + args.duration, every, begun, ended });
    let mut connections = JoinSet::new();
    for _ in 0..args.connections {
        connections.spawn(connection(Arc::clone(&plan)));
    }
    let mut all = Tally::default();
    let mut news = tokio::time::interval_at(begin + NEWS, NEWS);
    loop {
        tokio::select! {
            joined = connections.join_next() => match joined {
                Some(tally) => all.add(tally?),
                None => break,
            },
            _ = news.tick() => {
                let seconds = begin.elapsed().as_secs();
                output::say(&format!("{seconds} s: {} calls answered", plan.ended.load(Ordering::Relaxed)));
            }
        }
    }
    Ok(Figures::of(args, all, counted.elapsed()))
}

/// One connection: takes the next call, waits until it is due, makes it.
async fn connection(plan: Arc<Plan>) -> Tally {
    let mut tally = Tally::default();
    loop {
        let number = plan.begun.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let due = plan.every.map_or(now, |every| plan.begin + Duration::from_secs_f64(every * number as f64));
        if due >= plan.end || number > 2 * MOST {
            return tally;
        }
        let counts = due >= plan.counted;
        if now >= plan.end {
            tally.never_begun += u64::from(counts);
            continue;
        }
        // Late because every connection waits for an answer: that is the server's time. Late because of a timer: it is ours.
        let from = if due > now {
            sleep_until(due).await;
            Instant::now()
        } else {
            due
        };
        let answer = plan.call.make().await;
        plan.ended.fetch_add(1, Ordering::Relaxed);
        if counts {
            tally.late += u64::from(due < now);
            tally.count(from.elapsed(), answer);
        }
    }
}
