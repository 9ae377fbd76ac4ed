//! Limits together: what each counts, that a refusal costs nothing, and what a reload keeps.

use super::{CapabilityLimits, ClientLimits, LimitRule, Limited, Limits, Nanos, Per, Quota, take_all};
use crate::capability::{Capability, CapabilityKind};
use crate::glob::Glob;
use crate::principal::Principal;
use crate::rule::Coverage;
use proptest::prelude::{prop_assert, proptest};
use std::sync::Arc;
use std::time::Duration;

const NOW: Nanos = Nanos(1_000_000_000);

/// `burst` calls at once, then one per second.
fn limit(name: &str, per: Per, burst: u32) -> Arc<LimitRule> {
    let quota = Quota::new(1, Duration::from_secs(1), burst).unwrap();
    Arc::new(LimitRule { name: name.into(), per, coverage: Coverage::everything(), quota })
}

fn tool<'a>(service: &'a str, name: &'a str) -> Capability<'a> {
    Capability { kind: CapabilityKind::Tool, service, name }
}

fn user(name: &str) -> Principal {
    Principal::user(name).unwrap()
}

fn call(limits: &Limits, who: &str, service: &str, name: &str, now: Nanos) -> Result<(), Limited> {
    Limits::check(&limits.for_client(&user(who), now), &limits.for_capability(&tool(service, name), now), now)
}

fn refused_by(outcome: Result<(), Limited>) -> String {
    outcome.unwrap_err().limit.to_string()
}

#[test]
fn each_kind_counts_its_own() {
    let per = |per| Limits::new(&[limit("l", per, 1)], 64);
    let client = per(Per::Client);
    assert!(call(&client, "ada", "fs", "read", NOW).is_ok());
    assert_eq!(refused_by(call(&client, "ada", "vector", "add", NOW)), "l", "one client, whatever it calls");
    assert!(call(&client, "bob", "fs", "read", NOW).is_ok());

    let service = per(Per::Service);
    assert!(call(&service, "ada", "fs", "read", NOW).is_ok());
    assert!(call(&service, "bob", "fs", "write", NOW).is_err(), "one service, whoever calls whatever");
    assert!(call(&service, "ada", "vector", "add", NOW).is_ok());

    let tools = per(Per::Tool);
    assert!(call(&tools, "ada", "fs", "read", NOW).is_ok());
    assert!(call(&tools, "bob", "fs", "read", NOW).is_err(), "one tool, whoever calls");
    assert!(call(&tools, "ada", "fs", "write", NOW).is_ok());
    assert!(call(&tools, "ada", "vector", "read", NOW).is_ok(), "the same name of another service");
}

#[test]
fn a_limit_counts_only_what_it_covers() {
    let mut rule = LimitRule::clone(&limit("l", Per::Client, 1));
    rule.coverage.services = [Glob::new("fs").unwrap()].into();
    rule.coverage.capabilities = [Glob::new("write*").unwrap()].into();
    let limits = Limits::new(&[Arc::new(rule)], 64);
    for _ in 0..5 {
        assert!(call(&limits, "ada", "fs", "read", NOW).is_ok());
        assert!(call(&limits, "ada", "vector", "write", NOW).is_ok());
    }
    assert!(call(&limits, "ada", "fs", "writeA", NOW).is_ok());
    assert!(call(&limits, "ada", "fs", "writeB", NOW).is_err());
}

#[test]
fn a_refusal_costs_nothing_elsewhere() {
    let rules = [limit("client", Per::Client, 2), limit("service", Per::Service, 3), limit("tool", Per::Tool, 1)];
    let limits = Limits::new(&rules, 64);
    assert!(call(&limits, "ada", "fs", "read", NOW).is_ok());
    for _ in 0..10 {
        assert_eq!(refused_by(call(&limits, "ada", "fs", "read", NOW)), "tool");
    }
    // Had the ten refusals taken anything, these two could not both pass.
    assert!(call(&limits, "ada", "fs", "write", NOW).is_ok());
    assert!(call(&limits, "bob", "fs", "list", NOW).is_ok());
    assert_eq!(refused_by(call(&limits, "bob", "fs", "other", NOW)), "service");
}

#[test]
fn a_call_that_loses_a_race_gives_back_what_it_took() {
    let limits = Limits::new(&[limit("client", Per::Client, 1), limit("service", Per::Service, 1)], 64);
    assert!(call(&limits, "ada", "fs", "read", NOW).is_ok());
    // What `check` does after its look has passed and somebody else was quicker.
    let (bob, capability) = (limits.for_client(&user("bob"), NOW), limits.for_capability(&tool("fs", "read"), NOW));
    assert_eq!(refused_by(take_all(capability.buckets(&bob, NOW), NOW)), "service");
    assert!(call(&limits, "bob", "vector", "add", NOW).is_ok(), "bob's own token was given back");
}

#[test]
fn the_longest_wait_is_announced() {
    let slow = Quota::new(1, Duration::from_secs(60), 1).unwrap();
    let slow = Arc::new(LimitRule { quota: slow, ..LimitRule::clone(&limit("slow", Per::Service, 1)) });
    let limits = Limits::new(&[limit("fast", Per::Client, 1), slow], 64);
    assert!(call(&limits, "ada", "fs", "read", NOW).is_ok());
    let refusal = call(&limits, "ada", "fs", "read", NOW).unwrap_err();
    assert_eq!((&*refusal.limit, refusal.per, refusal.retry_after), ("slow", Per::Service, Duration::from_secs(60)));
    assert_eq!(refusal.to_string(), "rate limit slow (per service) reached; try again in 60000 ms");
    assert!(call(&limits, "ada", "fs", "read", Nanos(NOW.0 + 60_000_000_000)).is_ok());
}

#[test]
fn without_limits_everything_passes() {
    let limits = Limits::new(&[], 64);
    for _ in 0..100 {
        assert!(call(&limits, "ada", "fs", "read", NOW).is_ok());
    }
    assert_eq!(limits.keys(), 0);
}

#[test]
fn a_reload_gives_nobody_a_fresh_burst() {
    let before = Limits::new(&[limit("kept", Per::Client, 1), limit("changed", Per::Service, 1)], 64);
    let (client, capability) = (before.for_client(&user("ada"), NOW), before.for_capability(&tool("fs", "read"), NOW));
    assert!(Limits::check(&client, &capability, NOW).is_ok());
    let after = before.reload(&[limit("kept", Per::Client, 1), limit("changed", Per::Service, 5)]);
    let refusal = call(&after, "ada", "fs", "read", NOW);
    assert_eq!(refused_by(refusal), "kept");
    assert!(call(&after, "bob", "fs", "read", NOW).is_ok(), "the changed limit begins anew");
}

#[test]
fn handles_from_before_a_reload_count_in_the_same_buckets() {
    let before = Limits::new(&[], 64);
    let old_client = before.for_client(&user("ada"), NOW);
    let after = before.reload(&[limit("new", Per::Client, 1)]);
    let capability = after.for_capability(&tool("fs", "read"), NOW);
    assert!(Limits::check(&old_client, &capability, NOW).is_ok());
    assert!(Limits::check(&old_client, &capability, NOW).is_err(), "an old handle is no way around a new limit");
    assert!(call(&after, "ada", "fs", "read", NOW).is_err());
}

#[test]
fn idle_keys_are_forgotten_in_time() {
    let limits = Limits::new(&[limit("l", Per::Client, 1)], 64);
    for name in ["ada", "bob"] {
        assert!(call(&limits, name, "fs", "read", NOW).is_ok());
    }
    assert_eq!((limits.forget_idle(NOW), limits.keys()), (0, 2), "they are still being counted");
    assert_eq!((limits.forget_idle(Nanos(NOW.0 + 1_000_000_000)), limits.keys()), (2, 0));
}

#[test]
fn racing_calls_never_pass_any_limit_together() {
    let limits = Limits::new(&[limit("client", Per::Client, 30), limit("service", Per::Service, 50)], 64);
    let capability = limits.for_capability(&tool("fs", "read"), NOW);
    let admitted = |who: &str| {
        let client = limits.for_client(&user(who), NOW);
        let hammer = |client: ClientLimits, capability: CapabilityLimits| {
            move || (0..200).filter(|_| Limits::check(&client, &capability, NOW).is_ok()).count()
        };
        (hammer(client.clone(), capability.clone()), hammer(client, capability.clone()))
    };
    let ((ada1, ada2), (bob1, bob2)) = (admitted("ada"), admitted("bob"));
    let (ada, bob) = std::thread::scope(|scope| {
        let (a1, a2, b1, b2) = (scope.spawn(ada1), scope.spawn(ada2), scope.spawn(bob1), scope.spawn(bob2));
        (a1.join().unwrap() + a2.join().unwrap(), b1.join().unwrap() + b2.join().unwrap())
    });
    assert!(ada <= 30 && bob <= 30 && ada + bob <= 50, "{ada} and {bob}");
}

proptest! {
    /// Whatever is called in whatever order: no bucket of any kind admits more than its burst at one instant, and
    /// what is refused is refused by a bucket that is really empty.
    #[test]
    fn admits_exactly_what_every_bucket_has(
        calls in proptest::collection::vec((0_usize..3, 0_usize..2, 0_usize..3), 0..80),
        client in 1_u32..6, service in 1_u32..10, per_tool in 1_u32..5,
    ) {
        let rules = [limit("c", Per::Client, client), limit("s", Per::Service, service), limit("t", Per::Tool, per_tool)];
        let limits = Limits::new(&rules, 1024);
        let (mut clients, mut services, mut tools) = ([0_u32; 3], [0_u32; 2], [[0_u32; 3]; 2]);
        for (who, at, what) in calls {
            let room = clients[who] < client && services[at] < service && tools[at][what] < per_tool;
            let outcome = call(&limits, ["a", "b", "c"][who], ["fs", "db"][at], ["x", "y", "z"][what], NOW);
            prop_assert!(outcome.is_ok() == room, "{outcome:?} where room is {room}");
            if room {
                clients[who] += 1;
                services[at] += 1;
                tools[at][what] += 1;
            }
        }
    }
}
