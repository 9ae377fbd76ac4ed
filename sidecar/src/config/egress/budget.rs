//! Settings of how much goes out: the limits of a rule, and when a destination that fails is left alone.

use outrigger_config::kinds;
use outrigger_config::sections::{SECOND, any_duration, how_many};
use outrigger_config::{Fields, doc};
use outrigger_policy::egress::Budget;
use outrigger_policy::limit::{Allowance, BreakerRule, MAX_BURST, Quota};

/// The limits of a rule.
pub(super) fn read(f: &mut Fields<'_>) -> Budget {
    let text = doc("Tunnels and readable requests that may begin, for each of its hosts.").because("any number");
    let rate = f.optional("rate", text.example("10/s"), kinds::rate());
    let text = doc("Of `rate`, how many at once after a rest.").because("one second's worth, at least 1");
    let burst = f.optional("burst", text, kinds::integer(1..=u64::from(MAX_BURST)));
    let text = doc("Tunnels and requests open at once, for each of its hosts.").because("any number");
    let connections = f.optional("connections", text, how_many());
    let text = doc(
        "Bytes that may go out in each second, minute, hour or day, for each of its hosts: heads and bodies of requests, all \
         of a tunnel. What would pass it is cut off.",
    )
    .because("any number");
    let bytes_out = f.optional("bytes_out", text.example("10MiB/h"), kinds::flow());
    let quota = rate.as_ref().map(|rate| {
        let worth = u64::from(rate.count) / rate.per.as_secs().max(1);
        let burst = u32::try_from(burst.unwrap_or(worth).clamp(1, u64::from(MAX_BURST))).unwrap_or(MAX_BURST);
        Quota::new(u64::from(rate.count), rate.per, burst)
    });
    if quota == Some(None) {
        f.mistake("rate", "the rate is faster than the clock", "at most 1000000000/s");
    }
    if burst.is_some() && rate.is_none() {
        f.mistake("burst", "there is no `rate` that it belongs to", "give a `rate`, or remove it");
    }
    let bytes_out = bytes_out.map(|flow| Allowance { most: flow.bytes, per: flow.per });
    Budget { rate: quota.flatten(), connections, bytes_out }
}

/// The `breaker` section.
pub(super) fn read_breaker(f: &mut Fields<'_>) -> Option<BreakerRule> {
    let text = doc("Connections to one host and port that fail in a row before it is left alone; 0: never.")
        .because("five are no chance, and soon come by where calls wait for a dead host");
    let failures = f.with_default("failures", text, kinds::count(0..=1000), 5);
    let text = doc("How long it is left alone; then one connection in each such time is a trial.")
        .because("a restart takes about as long");
    let rest = any_duration(f, "rest", text, 10 * SECOND);
    Some(BreakerRule { failures: u32::try_from(failures).ok()?, rest })
}
