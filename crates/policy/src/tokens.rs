//! Static bearer tokens: who presents which, known here only by SHA-256 digest.
//!
//! The caller hashes what was presented and passes the digest; this crate never sees a token. The digest is compared
//! with every entry in constant time and the walk never stops early, so the time tells nothing about how near a
//! guess came or which entry it hit. A plain hash is enough because tokens are random (at least 128 bits): there is
//! nothing to guess from a dictionary.

use crate::principal::{Principal, PrincipalError};
use std::fmt;
use subtle::{ConditionallySelectable, ConstantTimeEq};

/// Most static tokens in one table: every lookup walks them all. More callers than this need an identity provider.
pub const MAX_TOKENS: usize = 1024;

/// One token as configured.
#[derive(Clone, PartialEq, Eq)]
pub struct StaticToken {
    /// Who presents it.
    pub subject: String,
    /// SHA-256 of the token's text, 64 hexadecimal digits.
    pub sha256: String,
    /// Roles granted.
    pub roles: Vec<String>,
    /// Scopes granted.
    pub scopes: Vec<String>,
}

/// Why a token cannot be in the table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a SHA-256 digest. Says nothing about the text, which might be a token put in the wrong place.
    #[error("sha256 must be 64 hexadecimal digits; make it with: printf %s \"$TOKEN\" | sha256sum")]
    BadDigest,
    /// Two subjects with one token could not be told apart.
    #[error("the same token is given to {first} already; each subject needs its own")]
    Duplicate {
        /// The subject that has it.
        first: String,
    },
    /// The table is full.
    #[error("more than {MAX_TOKENS} static tokens; use an identity provider")]
    TooMany,
    /// The subject or its grants are not acceptable.
    #[error(transparent)]
    Principal(#[from] PrincipalError),
}

/// The tokens in force.
#[derive(Clone, Default)]
pub struct TokenTable {
    entries: Vec<Entry>,
}

#[derive(Clone)]
struct Entry {
    digest: [u8; 32],
    principal: Principal,
}

impl TokenTable {
    /// Adds a token. One at a time, so that each mistake can be reported at its own place in a file.
    ///
    /// # Errors
    /// [`TokenError`] when the digest is malformed or taken, the subject is no name, or the table is full.
    pub fn insert(&mut self, token: &StaticToken) -> Result<(), TokenError> {
        let digest = parse_digest(&token.sha256).ok_or(TokenError::BadDigest)?;
        if let Some(principal) = self.lookup(&digest) {
            return Err(TokenError::Duplicate { first: principal.id().to_owned() });
        }
        if self.entries.len() >= MAX_TOKENS {
            return Err(TokenError::TooMany);
        }
        let principal = Principal::user(&token.subject)?.with_grants(&token.roles, &token.scopes)?;
        self.entries.push(Entry { digest, principal });
        Ok(())
    }

    /// The principal whose token has this SHA-256 digest. Takes the same time whichever entry it is, or none.
    pub fn lookup(&self, presented: &[u8; 32]) -> Option<&Principal> {
        let mut found = u32::MAX;
        for (index, entry) in (0_u32..).zip(&self.entries) {
            found.conditional_assign(&index, entry.digest.ct_eq(presented));
        }
        self.entries.get(usize::try_from(found).ok()?).map(|entry| &entry.principal)
    }

    /// Whether some token still stands for this very principal, with the same grants.
    pub fn names(&self, principal: &Principal) -> bool {
        self.entries.iter().any(|entry| entry.principal == *principal)
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no token at all: then nobody can authenticate by one.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Names the subjects only: a digest is no token, but it is enough to test guesses against.
impl fmt::Debug for TokenTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subjects = self.entries.iter().map(|entry| entry.principal.id());
        f.write_str("TokenTable ")?;
        f.debug_list().entries(subjects).finish()
    }
}

impl fmt::Debug for StaticToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticToken")
            .field("subject", &self.subject)
            .field("roles", &self.roles)
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

fn parse_digest(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    if pairs.len() != digest.len() {
        return None;
    }
    for (byte, [high, low]) in digest.iter_mut().zip(pairs) {
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::{MAX_TOKENS, StaticToken, TokenError, TokenTable};
    use crate::principal::PrincipalError;

    fn token(subject: &str, digest: [u8; 32]) -> StaticToken {
        let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        StaticToken { subject: subject.into(), sha256, roles: vec!["dev".into()], scopes: vec!["read".into()] }
    }

    #[test]
    fn finds_first_middle_and_last_and_nothing_else() {
        let mut table = TokenTable::default();
        assert!(table.lookup(&[0; 32]).is_none(), "an empty table knows nobody");
        for n in 0..3_u8 {
            table.insert(&token(&format!("user{n}"), [n; 32])).unwrap();
        }
        for n in 0..3_u8 {
            let who = table.lookup(&[n; 32]).unwrap();
            assert_eq!(who.id(), format!("user:user{n}"));
            assert!(who.has_scope("read") && who.has_role("dev"));
        }
        let mut near = [1; 32];
        near[31] = 2;
        assert!(table.lookup(&near).is_none());
    }

    #[test]
    fn upper_case_digests_are_the_same_digest() {
        let mut table = TokenTable::default();
        let mut ada = token("ada", [0xab; 32]);
        ada.sha256 = ada.sha256.to_uppercase();
        table.insert(&ada).unwrap();
        assert!(table.lookup(&[0xab; 32]).is_some());
    }

    #[test]
    fn refuses_bad_entries() {
        let mut table = TokenTable::default();
        table.insert(&token("ada", [1; 32])).unwrap();
        let first = "user:ada".to_owned();
        assert_eq!(table.insert(&token("eve", [1; 32])), Err(TokenError::Duplicate { first }));
        for bad in ["", "00", &"g".repeat(64), &"0".repeat(63), &"0".repeat(65), &"0".repeat(66), &"é".repeat(32)] {
            let wrong = StaticToken { sha256: bad.to_owned(), ..token("eve", [2; 32]) };
            assert_eq!(table.insert(&wrong), Err(TokenError::BadDigest), "{bad}");
        }
        let nobody = token("", [3; 32]);
        assert_eq!(table.insert(&nobody), Err(TokenError::Principal(PrincipalError::EmptySubject)));
        assert_eq!(table.len(), 1, "a refused token is not in the table");
    }

    #[test]
    fn the_table_is_bounded() {
        let mut table = TokenTable::default();
        for n in 0..=MAX_TOKENS {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&n.to_be_bytes());
            let full = n == MAX_TOKENS;
            assert_eq!(table.insert(&token("ada", digest)).is_err(), full);
        }
    }

    #[test]
    fn debug_shows_no_digest() {
        let mut table = TokenTable::default();
        let ada = token("ada", [0xab; 32]);
        table.insert(&ada).unwrap();
        let shown = format!("{table:?} {ada:?}");
        assert!(shown.contains("ada") && !shown.contains("abab") && !shown.contains("171"), "{shown}");
    }
}
