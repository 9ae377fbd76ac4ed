//! What is said about the calls.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::call::Failed;
use crate::args::BenchArgs;

/// Reasons that are told apart.
const REASONS: usize = 16;

/// The calls of one connection, or of all.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Microseconds of each call that succeeded.
    took: Vec<u32>,
    failed: BTreeMap<Failed, u64>,
    /// Calls that began after they were due, because every connection was busy.
    pub(super) late: u64,
    /// Calls that were due and for which there was no connection until the end.
    pub(super) never_begun: u64,
}

impl Tally {
    pub(super) fn count(&mut self, took: Duration, answer: Result<(), Failed>) {
        match answer {
            Ok(()) => self.took.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX)),
            Err(reason) => self.fail(reason, 1),
        }
    }

    pub(super) fn add(&mut self, other: Tally) {
        self.took.extend(other.took);
        other.failed.into_iter().for_each(|(reason, count)| self.fail(reason, count));
        self.late += other.late;
        self.never_begun += other.never_begun;
    }

    fn fail(&mut self, reason: Failed, count: u64) {
        let known = self.failed.len() < REASONS || self.failed.contains_key(&reason);
        *self.failed.entry(if known { reason } else { "another reason".to_owned() }).or_default() += count;
    }
}

/// The result, as `--json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    /// `tools/list`, or the tool.
    what: String,
    connections: u16,
    /// Calls per second that were due; none: as many as were answered.
    rate: Option<u32>,
    /// From the end of the warm-up to the last answer.
    seconds: f64,
    /// Calls with a result.
    succeeded: u64,
    /// Of these, per second.
    per_second: f64,
    /// The others, by reason.
    failed: BTreeMap<Failed, u64>,
    /// Calls that began after they were due, because every connection was busy. What they waited is in their latency.
    late: u64,
    /// Calls that were due and for which there was no connection until the end.
    never_begun: u64,
    /// Of those that succeeded; none when there are none.
    latency_us: Option<Latency>,
}

/// In microseconds.
#[derive(Debug, Serialize)]
struct Latency {
    mean: u64,
    p50: u32,
    p90: u32,
    p99: u32,
    p999: u32,
    max: u32,
}

impl Figures {
    pub(super) fn of(args: &BenchArgs, mut tally: Tally, took: Duration) -> Self {
        tally.took.sort_unstable();
        let succeeded = tally.took.len() as u64;
        Self {
            what: args.tool.clone().unwrap_or_else(|| "tools/list".to_owned()),
            connections: args.connections,
            rate: args.rate,
            seconds: took.as_secs_f64(),
            succeeded,
            per_second: succeeded as f64 / took.as_secs_f64(),
            failed: tally.failed,
            late: tally.late,
            never_begun: tally.never_begun,
            latency_us: latency(&tally.took),
        }
    }

    /// Calls without a result.
    pub(super) fn failed(&self) -> u64 {
        self.failed.values().sum::<u64>() + self.never_begun
    }
}

/// Of sorted calls.
fn latency(took: &[u32]) -> Option<Latency> {
    let at = |share: f64| {
        let rank = (share * took.len() as f64).ceil() as usize;
        took.get(rank.saturating_sub(1)).copied()
    };
    let mean = took.iter().map(|took| u64::from(*took)).sum::<u64>().checked_div(took.len() as u64)?;
    Some(Latency { mean, p50: at(0.5)?, p90: at(0.9)?, p99: at(0.99)?, p999: at(0.999)?, max: *took.last()? })
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let due =
            self.rate.map_or_else(|| "as many calls as possible".to_owned(), |rate| format!("{rate} calls a second"));
        writeln!(f, "{}: {} connections, {due}, {:.1} s", self.what, self.connections, self.seconds)?;
        write!(f, "succeeded  {} ({:.1} a second), failed {}", self.succeeded, self.per_second, self.failed())?;
        if let Some(l) = &self.latency_us {
            let ms = |us: u32| format!("{}.{:02}", us / 1000, us % 1000 / 10);
            let (p50, p90, p99, p999, max) = (ms(l.p50), ms(l.p90), ms(l.p99), ms(l.p999), ms(l.max));
            write!(f, "\nlatency    p50 {p50} ms, p90 {p90} ms, p99 {p99} ms, p99.9 {p999} ms, most {max} ms")?;
        }
        for (reason, count) in &self.failed {
            write!(f, "\nfailed     {count}: {reason}")?;
        }
        if self.never_begun > 0 {
            write!(f, "\nfailed     {}: due, but every connection was busy until the end", self.never_begun)?;
        }
        if self.late > 0 {
            write!(f, "\nlate       {} calls began after they were due: all connections were busy", self.late)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_calls_that_were() {
        let all: Vec<u32> = (1..=1000).collect();
        let l = latency(&all).unwrap();
        assert_eq!((l.mean, l.p50, l.p90, l.p99, l.p999, l.max), (500, 500, 900, 990, 999, 1000));
        let one = latency(&[7]).unwrap();
        assert_eq!((one.p50, one.p999, one.max), (7, 7, 7));
        assert!(latency(&[]).is_none());
    }

    #[test]
    fn reasons_are_bounded_and_add_up() {
        let (mut all, mut one) = (Tally::default(), Tally::default());
        for n in 0..100 {
            one.count(Duration::ZERO, Err(format!("reason {n}")));
        }
        one.count(Duration::from_secs(5000), Ok(()));
        all.add(one);
        assert!(all.failed.len() <= REASONS + 1, "{:?}", all.failed);
        assert_eq!(all.failed.values().sum::<u64>(), 100);
        assert_eq!(all.took, [u32::MAX]);
    }
}
