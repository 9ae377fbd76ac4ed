//! A timed window: what happened in it, and what the processes under test used for it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use outrigger_bench_tools::process::{cpu_nanos, cpu_nanos_alone, memory};
use serde_json::{Value, json};

/// Before the window, so that pools and caches are filled.
const WARM_UP: Duration = Duration::from_millis(500);

/// What the workers report to. One thread, so a plain cell.
#[derive(Clone, Default)]
pub struct Tally(Rc<RefCell<Counts>>);

#[derive(Default)]
struct Counts {
    open: bool,
    micros: Vec<u32>,
    /// What is counted without a time of its own.
    events: u64,
    errors: u64,
    last_error: String,
}

impl Tally {
    /// One answer, `since` the request was due. Outside the window it does not count.
    pub fn done(&self, since: Instant) {
        let mut counts = self.0.borrow_mut();
        if counts.open {
            counts.micros.push(since.elapsed().as_micros().try_into().unwrap_or(u32::MAX));
        }
    }

    /// So many events that arrived.
    pub fn events(&self, arrived: usize) {
        let mut counts = self.0.borrow_mut();
        if counts.open {
            counts.events += arrived as u64;
        }
    }

    /// One failure, whenever it was.
    pub fn failed(&self, error: &dyn std::error::Error) {
        let mut counts = self.0.borrow_mut();
        counts.errors += 1;
        counts.last_error = error.to_string();
    }
}

impl Tally {
    /// What went wrong last; empty when nothing did.
    pub fn last_error(&self) -> String {
        self.0.borrow().last_error.clone()
    }
}

/// Lets the workers run, and reports on the window.
pub async fn measure(tally: &Tally, seconds: f64, pids: &[u32]) -> Value {
    tokio::time::sleep(WARM_UP).await;
    tally.0.borrow_mut().open = true;
    // The sum first and last: the shares of the processes lie within its window.
    let (cpu_before, began, alone_before) = (cpu_nanos(pids), Instant::now(), cpu_nanos_alone(pids));
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let alone = cpu_nanos_alone(pids);
    let (cpu, took) = (cpu_nanos(pids).saturating_sub(cpu_before) as f64, began.elapsed().as_secs_f64());
    let counts = std::mem::take(&mut *tally.0.borrow_mut());
    let mut micros = counts.micros;
    micros.sort_unstable();
    let done = micros.len() as f64 + counts.events as f64;
    let shares =
        alone.iter().zip(&alone_before).map(|(after, before)| after.saturating_sub(*before) as f64 / 1e3 / done);
    json!({
        "requests": done,
        "errors": counts.errors,
        "last_error": counts.last_error,
        "seconds": took,
        "rps": done / took,
        "cpu_us": (done > 0.0).then_some(cpu / 1e3 / done),
        "cpu_us_each": if done > 0.0 { shares.collect() } else { Vec::new() },
        "cpu_percent": cpu / took / 1e7,
        "p50_us": percentile(&micros, 0.5),
        "p90_us": percentile(&micros, 0.9),
        "p99_us": percentile(&micros, 0.99),
        "p999_us": percentile(&micros, 0.999),
        "max_us": micros.last(),
        "rss_kib": memory(pids).rss,
    })
}

fn percentile(sorted: &[u32], share: f64) -> Option<u32> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * share) as usize).copied()
}
