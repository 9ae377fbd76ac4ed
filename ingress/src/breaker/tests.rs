//! When a replica is left alone, for how long, and how it comes back.

use std::time::Duration;

use outrigger_telemetry::metrics::Ejection;
use proptest::prelude::{prop_assert, proptest};
use tokio::time::Instant;

use super::{Breaker, Fault, Standing};
use crate::config::Breaker as Rule;

const SECOND: Duration = Duration::from_secs(1);

fn breaker() -> Breaker {
    Breaker::new(&Rule { failures: 3, calls: 10, rest: SECOND, longest_rest: 8 * SECOND, ..Rule::default() })
}

fn fail(breaker: &Breaker, times: u32, now: Instant) -> Option<(Ejection, Duration)> {
    (0..times).filter_map(|_| breaker.failed(Fault::Answered, now, || true)).last()
}

/// Out, tried, and failed again at once.
fn relapse(breaker: &Breaker, now: Instant) -> Duration {
    assert!(breaker.try_it(now));
    breaker.failed(Fault::NoAnswer, now, || true).unwrap().1
}

#[test]
fn failures_in_a_row_have_a_replica_left_alone_and_one_success_breaks_the_row() {
    let (breaker, now) = (breaker(), Instant::now());
    assert_eq!(fail(&breaker, 2, now), None);
    breaker.succeeded(|| now);
    assert_eq!(fail(&breaker, 2, now), None);
    assert_eq!(breaker.standing(now), Standing::Well);
    assert_eq!(fail(&breaker, 1, now), Some((Ejection::Failures, SECOND)));
    assert_eq!((breaker.standing(now), breaker.is_out()), (Standing::Out, true));
    assert_eq!(fail(&breaker, 9, now), None, "what began before says nothing new");
}

#[test]
fn one_call_tries_it_and_its_share_grows_when_that_went_well() {
    let (breaker, now) = (breaker(), Instant::now());
    fail(&breaker, 3, now);
    let back = now + SECOND;
    assert!(!breaker.try_it(now), "not before its rest is over");
    assert_eq!(breaker.standing(back), Standing::Due);
    assert!(breaker.try_it(back) && !breaker.try_it(back), "one at a time");
    assert_eq!(breaker.standing(back), Standing::Out);
    assert!(breaker.try_it(back + SECOND), "a trial of which nothing is heard holds up nothing");
    assert!(breaker.succeeded(|| back) && !breaker.succeeded(|| back));
    assert_eq!(breaker.standing(back), Standing::Recovering(10));
    assert_eq!(breaker.standing(back + 15 * SECOND), Standing::Recovering(50));
    assert_eq!(breaker.standing(back + 30 * SECOND), Standing::Well);
    assert!(!breaker.is_troubled());
}

#[test]
fn a_trial_of_which_nobody_can_say_how_it_went_leaves_the_next_call_to_try() {
    let (breaker, now) = (breaker(), Instant::now());
    breaker.untold(now);
    assert_eq!(breaker.standing(now), Standing::Well);
    fail(&breaker, 3, now);
    breaker.untold(now);
    assert_eq!(breaker.standing(now), Standing::Out, "it was not tried");
    let back = now + SECOND;
    assert!(breaker.try_it(back));
    breaker.untold(back);
    assert_eq!((breaker.standing(back), breaker.is_out()), (Standing::Due, true));
}

#[test]
fn calls_that_wait_side_by_side_see_no_progress_in_a_new_window() {
    let (breaker, now) = (breaker(), Instant::now());
    breaker.succeeded(|| now);
    let began = breaker.progress();
    breaker.failed(Fault::NoAnswer, now, || true);
    breaker.failed(Fault::NoAnswer, now + 60 * SECOND, || true);
    assert_eq!(breaker.progress(), began, "nothing went well");
}

#[test]
fn each_relapse_doubles_the_rest_up_to_its_bound_and_long_health_forgets_them() {
    let (breaker, mut now) = (breaker(), Instant::now());
    fail(&breaker, 3, now);
    for seconds in [2, 4, 8, 8] {
        now += 10 * SECOND;
        assert_eq!(relapse(&breaker, now), seconds * SECOND);
    }
    now += 10 * SECOND;
    assert!(breaker.try_it(now) && breaker.succeeded(|| now));
    now += 30 * SECOND;
    assert_eq!(breaker.standing(now), Standing::Well);
    assert_eq!(fail(&breaker, 3, now + SECOND), Some((Ejection::Failures, 8 * SECOND)), "well for a moment only");
    now += 20 * SECOND;
    assert!(breaker.try_it(now) && breaker.succeeded(|| now));
    assert_eq!(breaker.standing(now + 30 * SECOND), Standing::Well);
    assert_eq!(fail(&breaker, 3, now + 40 * SECOND), Some((Ejection::Failures, SECOND)));
}

#[test]
fn a_share_of_failures_counts_only_among_enough_calls_of_one_window() {
    let (breaker, now) = (breaker(), Instant::now());
    let mixed = |pairs: u32, now: Instant| {
        (0..pairs).find_map(|_| {
            breaker.succeeded(|| now);
            breaker.failed(Fault::Answered, now, || true)
        })
    };
    assert_eq!(mixed(4, now), None);
    assert_eq!(mixed(4, now + 10 * SECOND), None, "the next window");
    assert_eq!(mixed(2, now + 10 * SECOND), Some((Ejection::Share, SECOND)));
}

#[test]
fn the_floor_keeps_a_replica_that_answers_and_rests_one_that_does_not() {
    let (breaker, now) = (breaker(), Instant::now());
    for _ in 0..50 {
        assert_eq!(breaker.failed(Fault::Answered, now, || false), None);
    }
    assert_eq!(breaker.standing(now), Standing::Well);
    for _ in 0..2 {
        assert_eq!(breaker.failed(Fault::NoAnswer, now, || false), None);
    }
    for second in 0..5 {
        let now = now + second * SECOND;
        assert!(second == 0 || breaker.try_it(now));
        assert_eq!(breaker.failed(Fault::NoAnswer, now, || false), Some((Ejection::Circuit, SECOND)), "no growing");
    }
}

#[test]
fn a_sidecar_that_is_seen_again_is_tried_at_once() {
    let (breaker, now) = (breaker(), Instant::now());
    fail(&breaker, 3, now);
    breaker.seen_again(now);
    assert_eq!(breaker.standing(now), Standing::Due);
}

#[test]
fn without_failures_to_count_nothing_is_left_alone() {
    let breaker = Breaker::new(&Rule { failures: 0, ..Rule::default() });
    assert_eq!(fail(&breaker, 1000, Instant::now()), None);
    assert!(!breaker.is_troubled());
}

proptest! {
    /// Whatever happens in whatever order: what is left alone comes back to a trial after at most its longest rest.
    #[test]
    fn nobody_is_left_alone_for_ever(events in proptest::collection::vec((0_u8..5, 0_u64..3000), 0..200)) {
        let (breaker, mut now) = (breaker(), Instant::now());
        for (event, millis) in events {
            now += Duration::from_millis(millis);
            match event {
                0 => drop(breaker.succeeded(|| now)),
                1 => drop(breaker.failed(Fault::NoAnswer, now, || millis % 2 == 0)),
                2 => drop(breaker.failed(Fault::Answered, now, || true)),
                3 => drop(breaker.try_it(now)),
                _ => breaker.seen_again(now),
            }
        }
        let later = now + 8 * SECOND;
        prop_assert!(breaker.standing(later) != Standing::Out);
        if breaker.standing(later) == Standing::Due {
            prop_assert!(breaker.try_it(later) && breaker.succeeded(|| later));
        }
        prop_assert!(breaker.standing(later + 31 * SECOND) == Standing::Well);
    }
}
