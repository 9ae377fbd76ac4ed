//! Whose something is: a parked call, a session. Two measures, because a principal may have many clients.

use super::Asker;

/// Bytes of a session tag; an ingress makes 67.
pub const MAX_TAG: usize = 128;

/// Whose something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The calling workload and its client's session: nobody else gets at it.
    pub exact: String,
    /// The calling workload and the principal behind it, as far as the tag tells: what is counted for limits.
    pub principal: String,
}

impl Owner {
    /// The owner of what this asker begins.
    pub fn of(asker: Asker<'_>) -> Self {
        let tag = asker.session.unwrap_or_default();
        Self {
            exact: format!("{} {tag}", asker.peer),
            principal: match principal_of(tag) {
                Some(principal) => format!("{} {principal}", asker.peer),
                None => asker.peer.to_owned(),
            },
        }
    }
}

/// The principal in a tag (docs/decisions/0002-session-extension.md): `p.<principal>` or `c.<session>.<principal>`. Only
/// believed of those who may say so; others are refused before.
pub fn principal_of(tag: &str) -> Option<&str> {
    match tag.split_once('.')? {
        ("p", principal) => Some(principal),
        ("c", rest) => rest.split_once('.').map(|(_, principal)| principal),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_of_one_principal_have_owners_of_their_own_and_count_together() {
        let of = |peer, tag| Owner::of(Asker { peer, session: Some(tag) });
        let (one, two, modern) = (of("i", "c.1.ada"), of("i", "c.2.ada"), of("i", "p.ada"));
        assert_ne!(one.exact, two.exact);
        assert!(one.principal == two.principal && one.principal == modern.principal);
        assert_ne!(one.principal, of("i", "c.3.bob").principal);
        assert_ne!(one.principal, of("other", "c.1.ada").principal, "a workload speaks for its own callers only");
        // Tags that tell no principal count for their workload.
        assert_eq!(of("i", "c.1").principal, Owner::of(Asker { peer: "i", session: None }).principal);
    }
}
