//! Handles of things that live in one replica and are asked for through any ingress: `<replica>.<rest>`.
//!
//! The part in the clear only tells where to go. Whoever made the handle must protect it together with the rest, and must
//! refuse a handle that names another replica; whoever routes by it goes only to replicas that it knows already.
//!
//! ```
//! use outrigger_mcp::bridge::owner;
//! let handle = owner::mark("00c0ffee00c0ffee", "c2VhbGVk");
//! assert_eq!(owner::split(&handle), Some(("00c0ffee00c0ffee", "c2VhbGVk")));
//! assert_eq!(owner::split("a state that some server made"), None);
//! ```

/// Length of a replica's id: 64 random bits as lowercase hex digits.
pub const REPLICA_DIGITS: usize = 16;

/// A handle of `replica`, which must be [an id](is_replica).
pub fn mark(replica: &str, rest: &str) -> String {
    format!("{replica}.{rest}")
}

/// The replica that a handle names, and the rest. `None` when it is no such handle.
pub fn split(handle: &str) -> Option<(&str, &str)> {
    let (replica, rest) = handle.split_at_checked(REPLICA_DIGITS)?;
    let rest = rest.strip_prefix('.').filter(|rest| !rest.is_empty())?;
    is_replica(replica).then_some((replica, rest))
}

/// Whether a text has the form of a replica's id. What other members say of themselves is held against it too.
pub fn is_replica(text: &str) -> bool {
    text.len() == REPLICA_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_form_is_taken_for_a_handle() {
        let id = "0123456789abcdef";
        assert_eq!(split("0123456789abcdef.x.y"), Some((id, "x.y")));
        for other in [
            "",
            ".",
            "x",
            id,
            "0123456789abcdef.",
            "0123456789abcdefx",
            "0123456789ABCDEF.x",
            "0123456789abcde.xx",
            "0123456789abcdef0.x",
            "../../../etc/pas.x",
            "0123456789abcde\u{e9}.x",
            "\u{1f980}\u{1f980}\u{1f980}\u{1f980}.x",
        ] {
            assert_eq!(split(other), None, "{other}");
        }
        assert!(is_replica(id) && !is_replica("0123456789abcde") && !is_replica("0123456789abcdeg"));
    }
}
