//! What is asked for: a tool, prompt, resource or resource template of one service.

use serde::Serialize;
use std::fmt;

/// The four things a service can offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CapabilityKind {
    /// Called with `tools/call`.
    Tool,
    /// Fetched with `prompts/get`.
    Prompt,
    /// Read with `resources/read`; its name is its URI.
    Resource,
    /// Listed with `resources/templates/list`; its name is the URI template.
    Template,
}

impl CapabilityKind {
    /// Every kind, in the order in which documents list them.
    pub const ALL: [CapabilityKind; 4] =
        [CapabilityKind::Tool, CapabilityKind::Prompt, CapabilityKind::Resource, CapabilityKind::Template];

    /// The word used in policy files, logs and explanations.
    pub fn as_str(self) -> &'static str {
        match self {
            CapabilityKind::Tool => "tool",
            CapabilityKind::Prompt => "prompt",
            CapabilityKind::Resource => "resource",
            CapabilityKind::Template => "template",
        }
    }
}

impl fmt::Display for CapabilityKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One capability of one service, as a call or a list entry names it. Borrowed: decisions copy nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Capability<'a> {
    /// Which of the four it is.
    pub kind: CapabilityKind,
    /// The service's name, never the merged `<service>__<name>` spelling.
    pub service: &'a str,
    /// The service's own name for it: tool or prompt name, resource URI or URI template.
    pub name: &'a str,
}

impl Capability<'_> {
    /// Whether the name is a URI with a `..` segment, plain or percent-encoded (also doubly). A server that resolves
    /// such a URI leaves the place its text starts with, so a pattern like `file:///public/*` must not cover it.
    pub(crate) fn climbs(&self) -> bool {
        match self.kind {
            CapabilityKind::Tool | CapabilityKind::Prompt => false,
            CapabilityKind::Resource | CapabilityKind::Template => has_parent_segment(self.name),
        }
    }

    /// Whether the name is a URI whose text does not show where it leads: one that [climbs](Self::climbs), writes plain
    /// characters or separators in percent-encoding, or spells its scheme in capitals. For rules that deny.
    pub(crate) fn hides(&self) -> bool {
        match self.kind {
            CapabilityKind::Tool | CapabilityKind::Prompt => false,
            CapabilityKind::Resource | CapabilityKind::Template => {
                has_parent_segment(self.name) || has_needless_escape(self.name) || has_loud_scheme(self.name)
            }
        }
    }
}

/// Whether some percent-encoding stands for what needs none (RFC 3986, section 2.3), or for `/`, `\` or `%`, at which
/// servers disagree on what is meant.
fn has_needless_escape(uri: &str) -> bool {
    let mut rest = uri.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        let [high, low, ..] = after else { continue };
        let (b'%', Some(high), Some(low)) = (*first, hex(*high), hex(*low)) else { continue };
        let byte = high * 16 + low;
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/' | b'\\' | b'%') {
            return true;
        }
    }
    false
}

/// Whether the scheme has capitals: it means the same in small letters (RFC 3986, section 3.1).
fn has_loud_scheme(uri: &str) -> bool {
    uri.split_once(':').is_some_and(|(scheme, _)| scheme.bytes().any(|byte| byte.is_ascii_uppercase()))
}

impl fmt::Display for Capability<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.service, self.name)
    }
}

/// Walks the URI once, decoding as it goes, and looks for a segment that is exactly two dots. `/`, `\`, `:` (after
/// a scheme) and the start of a query, fragment or path parameter end a segment.
pub(crate) fn has_parent_segment(uri: &str) -> bool {
    let mut rest = uri.as_bytes();
    // Dots seen since the last separator; `None` once the segment holds anything else.
    let mut dots = Some(0_u32);
    loop {
        let (byte, after) = match rest {
            [] => return dots == Some(2),
            [b'%', after @ ..] => decode(after),
            [byte, after @ ..] => (*byte, after),
        };
        rest = after;
        match byte {
            b'/' | b'\\' | b':' | b'?' | b'#' | b';' if dots == Some(2) => return true,
            b'/' | b'\\' | b':' => dots = Some(0),
            b'.' => dots = dots.map(|seen| seen.saturating_add(1)),
            _ => dots = None,
        }
    }
}

/// Decodes what follows a `%`, looking through repeated encoding (`%252e` is `%2e` is `.`). A malformed escape
/// stands for itself.
fn decode(mut after: &[u8]) -> (u8, &[u8]) {
    while let [b'2', b'5', rest @ ..] = after {
        after = rest;
    }
    match after {
        [high, low, rest @ ..] => match (hex(*high), hex(*low)) {
            (Some(high), Some(low)) => (high * 16 + low, rest),
            _ => (b'%', after),
        },
        _ => (b'%', after),
    }
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Capability, CapabilityKind, has_parent_segment};

    #[test]
    fn parent_segments_are_seen_through_encodings() {
        for uri in [
            "file:///a/../b",
            "file:///a/..",
            "../a",
            "file:///a/%2e%2E/b",
            "file:///a%2f..%2fb",
            "file:///a\\..\\b",
            "file:///a/%252e%252e/b",
            "file:///a/%25252e./b",
            "x://a/..?q",
            "x://a/..#f",
            "x://a/..;v/b",
            "file:../a",
        ] {
            assert!(has_parent_segment(uri), "{uri}");
        }
    }

    #[test]
    fn ordinary_names_are_left_alone() {
        for uri in [
            "file:///a/b",
            "file:///a/...",
            "file:///a/..b",
            "x://a/b..",
            "x://a/./b",
            "x://100%",
            "x://%zz",
            "{a}..",
            "",
        ] {
            assert!(!has_parent_segment(uri), "{uri}");
        }
    }

    #[test]
    fn uris_that_hide_where_they_lead_are_seen() {
        let hides = |name| Capability { kind: CapabilityKind::Resource, service: "fs", name }.hides();
        for uri in
            ["file:///%65tc/passwd", "file:///etc%2fpasswd", "file:///%2565tc", "FILE:///etc/passwd", "x:/a/../b"]
        {
            assert!(hides(uri), "{uri}");
        }
        for uri in ["file:///a%20b", "file:///caf%C3%A9", "file:///A", "x://100%", "x://%zz", "plain", "{a}%"] {
            assert!(!hides(uri), "{uri}");
        }
        assert!(!Capability { kind: CapabilityKind::Tool, service: "fs", name: "A:%41" }.hides());
    }

    #[test]
    fn a_tool_name_is_no_path() {
        let tool = Capability { kind: CapabilityKind::Tool, service: "fs", name: "a/../b" };
        assert!(!tool.climbs());
        assert!(Capability { kind: CapabilityKind::Resource, ..tool }.climbs());
        assert_eq!(tool.to_string(), "fs.a/../b");
    }
}
