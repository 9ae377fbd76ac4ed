//! Runs the pure functions that requests run, so that what they cost can be counted rather than timed. `counts.py` beside this
//! package runs it under callgrind and compares with `baseline.json`.
//!
//! ```console
//! outrigger-counts                        # the allocations of every case, as JSON
//! outrigger-counts CASE ROUNDS            # one case so many times, for callgrind
//! ```
#![expect(clippy::print_stdout, reason = "it is what it is for")]

mod cases;

use std::process::ExitCode;

use serde_json::{Map, Value, json};

/// Prepared, and to be run as often as wanted.
type Run = Box<dyn FnMut()>;
/// Why a case cannot be prepared.
type Broken = Box<dyn std::error::Error>;

/// Rounds before counting: what is allocated once is not what a request costs.
const WARM: u32 = 3;
/// Rounds that allocations are the mean of.
const ROUNDS: u32 = 10;

fn main() -> Result<ExitCode, Broken> {
    let mut words = std::env::args().skip(1);
    let Some(wanted) = words.next() else {
        println!("{}", Value::Object(allocations()?));
        return Ok(ExitCode::SUCCESS);
    };
    let rounds: u32 = words.next().unwrap_or_default().parse()?;
    let Some((_, prepare)) = cases::ALL.iter().find(|(name, _)| *name == wanted) else {
        println!("no such case: {wanted}");
        return Ok(ExitCode::FAILURE);
    };
    let mut run = prepare()?;
    (0..rounds).for_each(|_| run());
    Ok(ExitCode::SUCCESS)
}

/// Allocations and bytes of each case and round.
fn allocations() -> Result<Map<String, Value>, Broken> {
    let each = |(name, prepare): &(&str, cases::Prepare)| {
        let mut run = prepare()?;
        (0..WARM).for_each(|_| run());
        let counted = allocation_counter::measure(|| (0..ROUNDS).for_each(|_| run()));
        let mean = |total: u64| total as f64 / f64::from(ROUNDS);
        Ok((
            (*name).to_owned(),
            json!({ "allocations": mean(counted.count_total), "bytes": mean(counted.bytes_total) }),
        ))
    };
    cases::ALL.iter().map(each).collect()
}
