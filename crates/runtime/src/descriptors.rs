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

/// The number of connections to hold, when `wanted` are configured under `setting`. Warns when they do not fit.
pub fn room_for(wanted: usize, setting: &'static str) -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    let room = fitting(wanted, limit);
    if room < wanted {
        tracing::warn!(
            setting,
            wanted,
            room,
            descriptors = limit,
            "fewer connections fit: raise `ulimit -n`, or lower the setting"
        );
    }
    room
}

fn fitting(wanted: usize, descriptors: Option<u64>) -> usize {
    let Some(all) = descriptors else { return wanted };
    let free = all.saturating_sub((all / RESERVE.0).max(RESERVE.1)).max(1);
    wanted.min(usize::try_from(free).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_descriptors_are_kept_for_other_things() {
        for (wanted, descriptors, room) in [
            (1000, None, 1000),
            (1000, Some(1_048_576), 1000),
            (10_000, Some(1024), 768),
            (1024, Some(256), 192),
            (1024, Some(100), 36),
            (1024, Some(10), 1),
        ] {
            assert_eq!(fitting(wanted, descriptors), room, "{wanted} of {descriptors:?}");
        }
    }
}
