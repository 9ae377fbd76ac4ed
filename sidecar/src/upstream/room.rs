//! Room for one more session: within the limits of all and of each principal, and whose session gives way.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use super::{Entry, Key};

/// Limits of sessions, or of children that are sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caps {
    pub(super) all: usize,
    pub(super) each: usize,
}

/// What one more session takes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Nothing: there is room.
    Free,
    /// The end of this session.
    After(Key),
    /// All of this principal are in use.
    NoneOfOwn,
    /// All are in use.
    None,
}

/// Finds room. A principal at its limit gives up the session that it used longest ago. At the limit of all, the principal
/// with the most sessions does: whoever opens many takes no session of those who have few.
pub(super) fn room<'a>(
    entries: impl Iterator<Item = (&'a Key, &'a Entry)> + Clone,
    principal: &str,
    caps: Caps,
) -> Room {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    entries.clone().for_each(|(_, entry)| *counts.entry(&entry.principal).or_default() += 1);
    let count = |principal: &str| counts.get(principal).copied().unwrap_or_default();
    let idle = entries.filter(|(_, entry)| entry.is_idle());
    let last_used = |entry: &Entry| entry.last_used.load(Ordering::Relaxed);
    if count(principal) >= caps.each {
        let own = idle.filter(|(_, entry)| entry.principal == principal).min_by_key(|(_, entry)| last_used(entry));
        return own.map_or(Room::NoneOfOwn, |(key, _)| Room::After(key.clone()));
    }
    if counts.values().sum::<usize>() < caps.all {
        return Room::Free;
    }
    let most = idle.min_by_key(|(_, entry)| (std::cmp::Reverse(count(&entry.principal)), last_used(entry)));
    most.map_or(Room::None, |(key, _)| Room::After(key.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(principal, last used, in use)`; the key says which one.
    fn entries(list: &[(&str, u64, bool)]) -> Vec<(Key, Entry)> {
        let entry = |(at, (principal, last_used, busy)): (usize, &(&str, u64, bool))| {
            let key = Key { peer: principal.to_string(), session: at.to_string(), capabilities: bytes::Bytes::new() };
            let entry = Entry::new((*principal).to_owned(), *last_used, false);
            if *busy {
                entry.users.fetch_add(1, Ordering::Relaxed);
            }
            (key, entry)
        };
        list.iter().enumerate().map(entry).collect()
    }

    fn find(list: &[(&str, u64, bool)], principal: &str, all: usize, each: usize) -> String {
        let entries = entries(list);
        match room(entries.iter().map(|(key, entry)| (key, entry)), principal, Caps { all, each }) {
            Room::After(key) => key.session,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn there_is_room_below_both_limits() {
        assert_eq!(find(&[], "a", 1, 1), "Free");
        assert_eq!(find(&[("a", 1, true), ("b", 2, true)], "a", 3, 2), "Free");
    }

    #[test]
    fn a_principal_at_its_limit_gives_up_its_own_oldest() {
        let list = [("b", 1, false), ("a", 3, false), ("a", 2, false), ("a", 0, true)];
        assert_eq!(find(&list, "a", 10, 3), "2");
        assert_eq!(find(&[("b", 1, false), ("a", 1, true)], "a", 10, 1), "NoneOfOwn");
    }

    #[test]
    fn at_the_limit_of_all_whoever_has_most_gives_one_up() {
        let list = [("b", 1, false), ("a", 5, false), ("a", 4, false), ("a", 3, true)];
        assert_eq!(find(&list, "c", 4, 9), "2");
        assert_eq!(find(&list, "b", 4, 9), "2", "a newcomer takes nothing of one who has little");
        assert_eq!(find(&list, "a", 4, 9), "2");
        assert_eq!(find(&[("b", 1, false), ("a", 3, true), ("a", 3, true)], "a", 3, 9), "0", "as long as it has any");
        assert_eq!(find(&[("b", 1, true), ("a", 3, true)], "c", 2, 9), "None");
    }
}
