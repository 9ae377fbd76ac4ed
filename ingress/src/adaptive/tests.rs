//! Servers with a knee, simulated: whether it is found, left alone, and found again where it moves. No clock but ours.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use proptest::prelude::{prop_assert, proptest};
use tokio::time::Instant;

use super::Adaptive;
use crate::config::Adaptive as Rule;

/// A server that works on `workers` calls at once; the others wait in order. Clients call again as soon as they are answered,
/// and a little later when they are refused.
struct World {
    adaptive: Adaptive,
    limit: usize,
    workers: usize,
    /// What each tool takes, in microseconds.
    tools: Vec<u64>,
    base: Instant,
    now: u64,
    /// Ends of calls at work: when, tool, when it began.
    at_work: BinaryHeap<Reverse<(u64, usize, u64)>>,
    waiting: VecDeque<(usize, u64)>,
    /// When clients call next.
    clients: BinaryHeap<Reverse<u64>>,
    random: fastrand::Rng,
}

impl World {
    fn new(workers: usize, tools: &[u64], clients: usize, seed: u64) -> Self {
        // Tools that share a place in the table are another matter: the hash is random, so such a table is thrown away.
        let apart = |adaptive: &Adaptive| {
            let slots = (0..tools.len()).map(|tool| adaptive.slot(&format!("tool-{tool}")));
            slots.collect::<std::collections::HashSet<_>>().len() == tools.len()
        };
        let made = || Adaptive::new(&Rule { min: 2, start: 20 }, 500);
        let adaptive = std::iter::repeat_with(made).find(apart).expect("there are many hashes");
        Self {
            limit: adaptive.begins_with(),
            adaptive,
            workers,
            tools: tools.to_vec(),
            base: Instant::now(),
            now: 0,
            at_work: BinaryHeap::new(),
            waiting: VecDeque::new(),
            clients: (0..clients as u64).map(Reverse).collect(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    fn start(&mut self, tool: usize, began: u64) {
        let takes = (self.tools[tool] as f64 * (0.8 + 0.4 * self.random.f64())) as u64;
        self.at_work.push(Reverse((self.now + takes, tool, began)));
    }

    /// Runs for so long, and gives the mean of the limits on the way, and calls answered per second.
    fn run(&mut self, seconds: u64) -> (f64, f64) {
        let until = self.now + seconds * 1_000_000;
        let (mut limits, mut looks, mut answered, mut look_at) = (0.0, 0.0, 0.0, self.now);
        loop {
            let call = self.clients.peek().map_or(u64::MAX, |Reverse(at)| *at);
            let end = self.at_work.peek().map_or(u64::MAX, |Reverse((at, ..))| *at);
            self.now = call.min(end);
            if self.now >= until {
                self.now = until;
                return (limits / looks, answered / seconds as f64);
            }
            while look_at <= self.now {
                limits += self.limit as f64;
                looks += 1.0;
                look_at += 10_000;
            }
            if call <= end {
                self.clients.pop();
                self.call();
            } else if let Some(Reverse((_, tool, began))) = self.at_work.pop() {
                self.end(tool, began);
                answered += 1.0;
            }
        }
    }

    fn call(&mut self) {
        if self.at_work.len() + self.waiting.len() >= self.limit {
            return self.clients.push(Reverse(self.now + 5_000 + self.random.u64(..5_000)));
        }
        let tool = self.random.usize(..self.tools.len());
        if self.at_work.len() < self.workers {
            self.start(tool, self.now)
        } else {
            self.waiting.push_back((tool, self.now))
        }
    }

    fn end(&mut self, tool: usize, began: u64) {
        let at_once = self.at_work.len() + self.waiting.len() + 1;
        let at = |micros| self.base + Duration::from_micros(micros);
        let next = self.adaptive.ended(&format!("tool-{tool}"), at(began), at(self.now), true, at_once);
        self.limit = next.unwrap_or(self.limit);
        if let Some((tool, began)) = self.waiting.pop_front() {
            self.start(tool, began);
        }
        self.clients.push(Reverse(self.now));
    }
}

#[test]
fn the_knee_is_found_from_below_and_from_above() {
    for workers in [4, 10, 40, 150] {
        let mut world = World::new(workers, &[20_000], 400, 1);
        world.run(60);
        let (limit, answered) = world.run(30);
        let (knee, best) = (workers as f64, workers as f64 * 50.0);
        assert!(limit > knee * 0.9 && limit < knee * 3.0 + 4.0, "{workers} workers: {limit} places");
        assert!(answered > best * 0.9, "{workers} workers: {answered} of {best} calls per second");
    }
}

#[test]
fn tools_that_differ_a_thousand_times_are_told_apart() {
    let mut world = World::new(16, &[1_000, 5_000, 1_000_000], 300, 2);
    world.run(120);
    let (limit, _) = world.run(60);
    assert!(limit > 14.0 && limit < 64.0, "{limit} places for 16 workers");
}

#[test]
fn a_server_that_loses_its_workers_is_followed_and_followed_back() {
    let mut world = World::new(40, &[20_000], 400, 3);
    world.run(60);
    world.workers = 8;
    world.run(60);
    let (down, _) = world.run(20);
    assert!(down < 30.0, "{down} places for 8 workers");
    world.workers = 40;
    // What waits is taken up as places allow.
    world.run(60);
    let (up, answered) = world.run(20);
    assert!(up > 34.0 && answered > 1700.0, "{up} places for 40 workers, {answered} calls per second");
}

#[test]
fn a_server_that_becomes_slow_is_no_reason_to_starve_it() {
    let mut world = World::new(20, &[10_000], 200, 4);
    world.run(60);
    world.tools = vec![80_000];
    world.run(90);
    let (limit, answered) = world.run(30);
    assert!(limit > 16.0 && limit < 70.0, "{limit} places for 20 workers");
    assert!(answered > 0.85 * 250.0, "{answered} of 250 calls per second");
}

#[test]
fn few_calls_change_nothing() {
    let mut world = World::new(10, &[20_000], 3, 5);
    assert_eq!(world.run(60).0, 20.0);
}

#[test]
fn failures_take_places_away_down_to_the_least() {
    let adaptive = Adaptive::new(&Rule { min: 3, start: 30 }, 100);
    let mut now = Instant::now();
    let mut limit = 30;
    for _ in 0..20_000 {
        now += Duration::from_millis(10);
        limit = adaptive.ended("x", now, now, false, 10).unwrap_or(limit);
    }
    assert_eq!(limit, 3);
}

#[test]
fn the_fixed_limit_is_the_most() {
    let adaptive = Adaptive::new(&Rule { min: 50, start: 80 }, 10);
    assert_eq!((adaptive.begins_with(), adaptive.least), (10, 10));
}

proptest! {
    /// Whatever calls take: there are never more places than the most, and never none.
    #[test]
    fn bounds_hold(calls in proptest::collection::vec((0_u64..1_000_000, 0_u8..4, 0_usize..80, proptest::bool::ANY), 0..500)) {
        let adaptive = Adaptive::new(&Rule { min: 2, start: 5 }, 40);
        let mut now = Instant::now();
        for (took, tool, at_once, answered) in calls {
            let began = now;
            now += Duration::from_micros(took);
            if let Some(limit) = adaptive.ended(&tool.to_string(), began, now, answered, at_once) {
                prop_assert!((1..=40).contains(&limit), "{}", limit);
            }
        }
    }
}
