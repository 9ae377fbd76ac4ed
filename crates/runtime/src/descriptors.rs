//! How many connections fit into the descriptors that the system lets this process have.
//!
//! Without descriptors nothing works any more, not even telling so: the admin port could not accept either.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors kept for connections to others, files and the admin port: this part of all, and at least so many.
const RESERVE: (u64, u64) = (4, 64);

/// Lets this process have as many descriptors as it may (`ulimit -Hn`). Not for processes that start others: what they start
/// would inherit it, and programs that call select(2) fail with large numbers.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum || limit.maximum.is_none() {
        // Where it is not allowed, the connections are limited instead.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}

/// The number of connections to hold, when `wanted` are configured under `setting` and need so many descriptors `each`. Warns
/// when they do not fit.
pub fn room_for(wanted: usize, each: usize, setting: &'static str) -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    let room = fitting(wanted, each, limit);
    tell(wanted, room, setting, limit);
    room
}

/// The same for a second listener beside the main one: both take from the same descriptors.
pub fn room_for_both(main: usize, second: usize, setting: &'static str) -> (usize, usize) {
    let limit = getrlimit(Resource::Nofile).current;
    let room = fitting_both(main, second, limit);
    tell(main, room.0, setting, limit);
    tell(second, room.1, setting, limit);
    room
}

fn tell(wanted: usize, room: usize, setting: &'static str, descriptors: Option<u64>) {
    if room < wanted {
        let what = "fewer connections fit: raise `ulimit -n`, or lower the setting";
        tracing::warn!(setting, wanted, room, descriptors, "{what}");
    }
}

fn free(descriptors: u64) -> usize {
    let free = descriptors.saturating_sub((descriptors / RESERVE.0).max(RESERVE.1)).max(1);
    usize::try_from(free).unwrap_or(usize::MAX)
}

fn fitting(wanted: usize, each: usize, descriptors: Option<u64>) -> usize {
    let Some(all) = descriptors else { return wanted };
    wanted.min((free(all) / each.max(1)).max(1))
}

fn fitting_both(main: usize, second: usize, descriptors: Option<u64>) -> (usize, usize) {
    let Some(all) = descriptors else { return (main, second) };
    let free = free(all);
    // Whoever gets less than it wants has at least its part: a quarter, or the rest.
    let quarter = (free / 4).max(1);
    let second = second.min(quarter.max(free.saturating_sub(main)));
    (main.min(free.saturating_sub(second).max(1)), second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_descriptors_are_kept_for_other_things() {
        for (wanted, each, descriptors, room) in [
            (1000, 1, None, 1000),
            (1000, 1, Some(1_048_576), 1000),
            (10_000, 1, Some(1024), 768),
            (1024, 1, Some(256), 192),
            (1024, 1, Some(100), 36),
            (1024, 1, Some(10), 1),
            (1024, 3, Some(1024), 256),
            (100, 3, Some(1024), 100),
            (1024, 3, Some(10), 1),
        ] {
            assert_eq!(fitting(wanted, each, descriptors), room, "{wanted} of {descriptors:?}");
        }
    }

    #[test]
    fn two_listeners_share_what_there_is() {
        for (main, second, descriptors, room) in [
            (1000, 1000, None, (1000, 1000)),
            (1000, 1000, Some(1_048_576), (1000, 1000)),
            (10_000, 10_000, Some(1024), (576, 192)),
            (10_000, 100, Some(1024), (668, 100)),
            (100, 10_000, Some(1024), (100, 668)),
            (1000, 1000, Some(10), (1, 1)),
        ] {
            assert_eq!(fitting_both(main, second, descriptors), room, "{main} and {second} of {descriptors:?}");
        }
    }
}
