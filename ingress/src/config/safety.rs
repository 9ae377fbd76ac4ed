//! What keeps a service, and everybody who calls it, safe when things go wrong.

use std::time::Duration;

use outrigger_config::sections::{HOUR, MINUTE, SECOND};
use outrigger_config::{Fields, doc, kinds};

/// The safety controls of one service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Safety {
    /// When a replica is left alone.
    pub breaker: Breaker,
}

/// When a replica is left alone, for how long, and how it comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    /// Failed calls in a row; 0: never.
    pub failures: u32,
    /// Percent of the calls of a window.
    pub share: u8,
    /// Calls that a window must have for its share to mean anything.
    pub calls: u32,
    /// How long calls are counted together.
    pub window: Duration,
    /// How long a replica is left alone the first time.
    pub rest: Duration,
    /// How long at most, after many times.
    pub longest_rest: Duration,
    /// Over how long its share of calls grows when it is back.
    pub recovery: Duration,
    /// Percent of the replicas that may be left alone at once.
    pub most_out: u8,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failures: 5,
            share: 50,
            calls: 20,
            window: 10 * SECOND,
            rest: 5 * SECOND,
            longest_rest: 5 * MINUTE,
            recovery: 30 * SECOND,
            most_out: 50,
        }
    }
}

/// The keys of a service that [`read`] declares.
pub const KEYS: [&str; 1] = ["breaker"];

/// Declares the safety controls of one service.
pub fn read(f: &mut Fields<'_>) -> Option<Safety> {
    let text = "When a replica (a sidecar) is left alone because calls at it fail, and how it comes back.";
    let breaker = f.section("breaker", text, read_breaker);
    Some(Safety { breaker: breaker? })
}

fn read_breaker(f: &mut Fields<'_>) -> Option<Breaker> {
    let usual = Breaker::default();
    let text = doc("Failed calls in a row after which a replica is left alone; 0: never.")
        .because("a failure or two is chance, and each one is a caller's");
    let failures = f.with_default("failures", text, kinds::count(0..=1000), usual.failures as usize);
    let text = doc("The share of failed calls within `window` at which a replica is left alone too.")
        .because("half of the calls lost is worse than one replica less");
    let share = f.with_default("share", text, kinds::percent(1..=100), usual.share);
    let text = doc("Calls within `window` that `share` needs.").because("of three calls two may fail by chance");
    let calls = f.with_default("calls", text, kinds::count(1..=1_000_000), usual.calls as usize);
    let long = kinds::duration(SECOND..=HOUR);
    let text = doc("How long calls are counted together for `share`.").because("as fast as somebody would notice");
    let window = f.with_default("window", text, long, usual.window);
    let span = || kinds::duration(Duration::from_millis(10)..=HOUR);
    let text = doc("How long a replica is left alone; then one call tries it. Twice as long each further time.")
        .because("a restart takes seconds");
    let rest = f.with_default("rest", text, span(), usual.rest);
    let text = doc("How long it is left alone at most.").because("a replica that is mended is used again soon");
    let longest_rest = f.with_default("longest_rest", text, span(), usual.longest_rest).max(rest);
    let text = doc("How long its share of the calls grows from a tenth to a whole one when it is back.")
        .because("caches are cold, and what failed under load may fail again");
    let recovery = f.with_default("recovery", text, kinds::duration(Duration::ZERO..=HOUR), usual.recovery);
    let text = doc("The share of a service's replicas that may be left alone at once; further ones are used although calls at them fail.")
        .because("when most of them fail the cause lies elsewhere, and the rest could not bear all calls");
    let most_out = f.with_default("most_out", text, kinds::percent(0..=100), usual.most_out);
    let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let (failures, calls) = (small(failures), small(calls));
    Some(Breaker { failures, share, calls, window, rest, longest_rest, recovery, most_out })
}
