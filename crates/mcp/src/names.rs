//! Names on the merged endpoint: `<service>__<capability>`, shortened where they would be too long.
//!
//! A service name never holds `_` or `.`, so the first joiner always splits an exposed name in one way, whatever the
//! capability is called. A call may use either joiner; which one lists use is configuration.

use sha2::{Digest, Sha256};
use thiserror::Error;

/// Longest service name, so that a prefix leaves room for the capability.
pub const MAX_SERVICE_NAME: usize = 20;
/// Longest exposed name by default: the limit of the large LLM APIs (`^[A-Za-z0-9_-]{1,64}$`).
pub const DEFAULT_MAX_NAME: usize = 64;
/// The smallest limit that fits a service name, a joiner, one character, `_` and the hash.
pub const MIN_MAX_NAME: usize = MAX_SERVICE_NAME + LONGEST_JOINER + 1 + HASH_PART;

/// `_` and 8 hex digits.
const HASH_PART: usize = 9;
const LONGEST_JOINER: usize = 2;

/// Why a name cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Not a service name.
    #[error(
        "service name {0:?} is not valid: use 1 to {MAX_SERVICE_NAME} of a-z, 0-9 and `-`, with a letter or digit first and last"
    )]
    Service(String),
    /// The limit is too small to hold shortened names.
    #[error("a limit of {0} bytes for exposed names is too small: use at least {MIN_MAX_NAME}")]
    Limit(usize),
}

/// What stands between the service and the capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Joiner {
    /// `fs__readFileText`: legal for every LLM API.
    #[default]
    Underscores,
    /// `fs.readFileText`: as in policy and logs.
    Dot,
}

impl Joiner {
    /// The joiner as text.
    pub fn as_str(self) -> &'static str {
        match self {
            Joiner::Underscores => "__",
            Joiner::Dot => ".",
        }
    }
}

/// How capabilities of several services are named on one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Naming {
    joiner: Joiner,
    max_name: usize,
}

impl Default for Naming {
    fn default() -> Self {
        Self { joiner: Joiner::default(), max_name: DEFAULT_MAX_NAME }
    }
}

impl Naming {
    /// A naming with a limit in bytes for exposed names.
    ///
    /// # Errors
    /// [`NameError::Limit`] when the limit is below [`MIN_MAX_NAME`].
    pub fn new(joiner: Joiner, max_name: usize) -> Result<Self, NameError> {
        if max_name < MIN_MAX_NAME {
            return Err(NameError::Limit(max_name));
        }
        Ok(Self { joiner, max_name })
    }

    /// What stands between the service and the capability in lists.
    pub fn joiner(&self) -> Joiner {
        self.joiner
    }

    /// The longest exposed name, in bytes.
    pub fn max_name(&self) -> usize {
        self.max_name
    }

    /// The name under which a capability is listed. The same on every replica and after every restart.
    pub fn expose(&self, service: &str, name: &str) -> String {
        match self.shorten(service, name) {
            Some(short) => [service, self.joiner.as_str(), &short].concat(),
            None => [service, self.joiner.as_str(), name].concat(),
        }
    }

    /// What stands after the joiner when the name is too long: `<first k>_<8 hex of sha256>`. `None` when it fits.
    ///
    /// It is the same for both joiners (as if the longer one were used), so that either spelling of a listed name
    /// can be called.
    pub fn shorten(&self, service: &str, name: &str) -> Option<String> {
        let room = self.max_name.saturating_sub(service.len() + LONGEST_JOINER);
        if name.len() <= room {
            return None;
        }
        let hash = Sha256::new().chain_update(service).chain_update("__").chain_update(name).finalize();
        let kept = &name[..name.floor_char_boundary(room.saturating_sub(HASH_PART))];
        Some(format!("{kept}_{}", hex(&hash[..4])))
    }
}

/// Whether a name could be one that [`Naming::shorten`] made: it ends in `_` and 8 hex digits.
pub fn looks_shortened(name: &str) -> bool {
    let hash = name.len().checked_sub(HASH_PART).and_then(|at| name.as_bytes().get(at..));
    let digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    hash.is_some_and(|hash| hash.first() == Some(&b'_') && hash.iter().skip(1).all(digit))
}

/// Checks the rule `[a-z0-9]([a-z0-9-]*[a-z0-9])?`, at most [`MAX_SERVICE_NAME`] bytes.
///
/// # Errors
/// [`NameError::Service`].
pub fn check_service(name: &str) -> Result<(), NameError> {
    let ends = |b: Option<&u8>| b.is_some_and(|b| *b != b'-');
    let bytes = name.as_bytes();
    let valid = bytes.len() <= MAX_SERVICE_NAME
        && bytes.iter().all(|b| is_service_byte(*b))
        && ends(bytes.first())
        && ends(bytes.last());
    if valid { Ok(()) } else { Err(NameError::Service(name.to_owned())) }
}

/// Splits an exposed name at its first joiner, of either spelling, into service and capability.
/// Shortened names come back shortened; the merged catalog knows what they stand for.
pub fn split(exposed: &str) -> Option<(&str, &str)> {
    let end = exposed.bytes().position(|b| !is_service_byte(b))?;
    let (service, rest) = exposed.split_at_checked(end)?;
    check_service(service).ok()?;
    let name = rest.strip_prefix("__").or_else(|| rest.strip_prefix('.'))?;
    (!name.is_empty()).then_some((service, name))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn is_service_byte(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn service_names() {
        for good in ["a", "7", "fs", "a-b", "a--b", "x".repeat(20).as_str()] {
            assert_eq!(check_service(good), Ok(()), "{good}");
        }
        for bad in ["", "-", "-a", "a-", "A", "a_b", "a.b", "ä", "a b", "x".repeat(21).as_str()] {
            assert!(check_service(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn split_takes_the_first_joiner() {
        assert_eq!(split("a__b__c"), Some(("a", "b__c")));
        assert_eq!(split("a.b__c"), Some(("a", "b__c")));
        assert_eq!(split("a__b.c"), Some(("a", "b.c")));
        assert_eq!(split("a-b___c"), Some(("a-b", "_c")));
        assert_eq!(split("fs.检索"), Some(("fs", "检索")));
        for none in ["search", "a_b", "a__", "a.", "__x", ".x", "A__x", "a-__x", ""] {
            assert_eq!(split(none), None, "{none}");
        }
    }

    #[test]
    fn long_names_are_shortened_the_same_way_for_ever() {
        let naming = Naming::default();
        let long = "n".repeat(100);
        let exposed = naming.expose("fs", &long);
        assert_eq!(exposed.len(), DEFAULT_MAX_NAME);
        // A change here breaks policies and prompts that hold the old name.
        assert_eq!(exposed, format!("fs__{}_{}", "n".repeat(51), "543ca3f1"));
        let dotted = Naming::new(Joiner::Dot, 64).unwrap().expose("fs", &long);
        assert_eq!(split(&dotted), split(&exposed));
        assert_eq!(naming.expose("fs", &"n".repeat(60)), format!("fs__{}", "n".repeat(60)));
        assert_eq!(Naming::new(Joiner::Dot, 31), Err(NameError::Limit(31)));
    }

    proptest! {
        #[test]
        fn exposing_and_splitting_round_trip(
            service in "[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?", name in "\\PC{1,60}", dot in any::<bool>(), max in 32_usize..200
        ) {
            let joiner = if dot { Joiner::Dot } else { Joiner::Underscores };
            let naming = Naming::new(joiner, max).unwrap();
            let exposed = naming.expose(&service, &name);
            prop_assert!(exposed.len() <= max);
            let (got, rest) = split(&exposed).unwrap();
            prop_assert_eq!(got, service.as_str());
            match naming.shorten(&service, &name) {
                Some(short) => prop_assert_eq!(rest, short),
                None => prop_assert_eq!(rest, name),
            }
        }
    }
}
