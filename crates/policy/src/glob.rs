//! The one pattern language of policy files: `*` stands for any run of characters (also none, also `/`),
//! everything else stands for itself. Compiled once, matched in linear time, case-sensitive.
//!
//! There are no classes, no `?` and no escapes on purpose: a policy should be readable without a manual, and a
//! pattern must not be able to cost more than one walk over the name it is held against.

use std::fmt;

/// Longest pattern accepted, in bytes. Resource URIs are the longest thing matched; 1 KiB is far above real ones.
pub const MAX_GLOB_BYTES: usize = 1024;

/// Why a text is not a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// The text is empty: it could only match the empty name, which nothing has.
    #[error("an empty pattern matches nothing; write \"*\" for everything")]
    Empty,
    /// The text is longer than [`MAX_GLOB_BYTES`].
    #[error("pattern of {0} bytes is too long; the limit is {MAX_GLOB_BYTES}")]
    TooLong(usize),
    /// The text holds a control character, which no name has: most likely a quoting accident.
    #[error("pattern holds a control character; check the quoting")]
    ControlCharacter,
}

/// A compiled pattern.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Glob {
    source: Box<str>,
    shape: Shape,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Shape {
    /// `*`
    Any,
    /// No star at all.
    Exact,
    /// One star at the end: the text before it.
    Prefix(Box<str>),
    /// Anything else: fixed start, pieces in order, fixed end.
    Pieces { start: Box<str>, middle: Box<[Box<str>]>, end: Box<str> },
}

impl Glob {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// [`GlobError`] when the text is empty, too long or holds control characters.
    pub fn new(source: &str) -> Result<Glob, GlobError> {
        if source.is_empty() {
            return Err(GlobError::Empty);
        }
        if source.len() > MAX_GLOB_BYTES {
            return Err(GlobError::TooLong(source.len()));
        }
        if source.chars().any(char::is_control) {
            return Err(GlobError::ControlCharacter);
        }
        Ok(Glob { source: source.into(), shape: Shape::of(source) })
    }

    /// The pattern that matches every name.
    pub fn any() -> Glob {
        Glob { source: "*".into(), shape: Shape::Any }
    }

    /// Whether the whole of `name` fits. Allocates nothing; time is linear in `name`.
    pub fn matches(&self, name: &str) -> bool {
        match &self.shape {
            Shape::Any => true,
            Shape::Exact => *self.source == *name,
            Shape::Prefix(prefix) => name.starts_with(&**prefix),
            Shape::Pieces { start, middle, end } => matches_pieces(start, middle, end, name),
        }
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// The one name this pattern can match, if it has no star.
    pub fn exact(&self) -> Option<&str> {
        matches!(self.shape, Shape::Exact).then_some(&*self.source)
    }

    /// Whether this is `*`: everything fits, so nothing about the name was promised.
    pub fn is_any(&self) -> bool {
        matches!(self.shape, Shape::Any)
    }
}

impl Shape {
    fn of(source: &str) -> Shape {
        if source.bytes().all(|byte| byte == b'*') {
            return Shape::Any;
        }
        let Some((start, rest)) = source.split_once('*') else {
            return Shape::Exact;
        };
        let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
        // Neighbouring stars leave empty pieces behind; `**` means what `*` means.
        let middle: Box<[Box<str>]> = middle.split('*').filter(|piece| !piece.is_empty()).map(Box::from).collect();
        if middle.is_empty() && end.is_empty() {
            return Shape::Prefix(start.into());
        }
        Shape::Pieces { start: start.into(), middle, end: end.into() }
    }
}

/// Takes each piece at its first place. That is never worse than a later place, because only what is left counts,
/// so there is nothing to go back for.
fn matches_pieces(start: &str, middle: &[Box<str>], end: &str, name: &str) -> bool {
    let Some(rest) = name.strip_prefix(start) else {
        return false;
    };
    let Some(mut rest) = rest.strip_suffix(end) else {
        return false;
    };
    for piece in middle {
        let Some(at) = rest.find(&**piece) else {
            return false;
        };
        let Some(after) = rest.get(at + piece.len()..) else {
            return false;
        };
        rest = after;
    }
    true
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Glob({:?})", self.source)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::{Glob, GlobError, MAX_GLOB_BYTES, Shape};
    use proptest::prelude::{prop_assert_eq, proptest};

    fn fits(pattern: &str, name: &str) -> bool {
        Glob::new(pattern).unwrap().matches(name)
    }

    /// The definition, without any cleverness: exponential, so for short inputs only.
    fn naive(pattern: &[char], name: &[char]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some(('*', rest)) => (0..=name.len()).any(|skip| naive(rest, &name[skip..])),
            Some((one, rest)) => name.split_first().is_some_and(|(head, tail)| head == one && naive(rest, tail)),
        }
    }

    #[test]
    fn table() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("***", "anything", true),
            ("readFile", "readFile", true),
            ("readFile", "readfile", false),
            ("read*", "read", true),
            ("read*", "reads/deep", true),
            ("read*", "xread", false),
            ("*Text", "readFileText", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "acb", false),
            ("*ab*ab*", "ab", false),
            ("*ab*ab*", "xabyabz", true),
            ("file:///data/*", "file:///data/x/y", true),
            ("a?c", "abc", false),
            ("*é", "café", true),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} against {name}");
        }
    }

    #[test]
    fn common_patterns_take_the_short_path() {
        assert!(matches!(Glob::new("read*").unwrap().shape, Shape::Prefix(_)));
        assert!(matches!(Glob::new("read**").unwrap().shape, Shape::Prefix(_)));
        assert_eq!(Glob::new("read").unwrap().exact(), Some("read"));
        assert!(Glob::new("**").unwrap().is_any());
    }

    #[test]
    fn refuses_what_cannot_be_meant() {
        assert_eq!(Glob::new(""), Err(GlobError::Empty));
        assert_eq!(Glob::new("a\nb"), Err(GlobError::ControlCharacter));
        assert_eq!(Glob::new(&"a".repeat(MAX_GLOB_BYTES + 1)), Err(GlobError::TooLong(MAX_GLOB_BYTES + 1)));
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[ab*é]{1,8}", name in "[abé]{0,12}") {
            let (p, n): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
            prop_assert_eq!(fits(&pattern, &name), naive(&p, &n));
        }

        #[test]
        fn never_panics_on_any_text(pattern in "\\PC{1,20}", name in "\\PC{0,40}") {
            let _ = fits(&pattern, &name);
        }
    }
}
