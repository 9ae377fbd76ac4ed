//! MCP Apps (SEP-1865): tools that come with a page to show, which is a resource of theirs.
//!
//! The page is named in `_meta`, of a tool and by some servers of results too. Hosts read it as any resource, so the name
//! must be the one under which the resource can be read here.

use crate::json::{Span, member};

/// The name of the extension in `capabilities.extensions`.
pub const EXTENSION: &str = "io.modelcontextprotocol/ui";
/// The scheme of pages. Hosts insist on it.
pub const SCHEME: &str = "ui";
/// Where hosts look besides `ui.resourceUri`: before the extension was agreed upon, and in one vendor's own form of it.
const FLAT: [&str; 2] = ["ui/resourceUri", "openai/outputTemplate"];

/// The tokens that name a page in a `_meta` object at `meta` of `body`, in the order of the text.
pub fn pages(body: &[u8], meta: Span) -> Vec<Span> {
    let nested = member(body, meta, "ui").and_then(|ui| member(body, ui, "resourceUri"));
    let flat = FLAT.iter().filter_map(|name| member(body, meta, name));
    let mut found: Vec<Span> = nested.into_iter().chain(flat).collect();
    found.sort_unstable_by_key(|span| span.start);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_found_wherever_hosts_look() {
        let body = br#"{"ui/resourceUri":"a","ui":{"visibility":["app"],"resourceUri":"b"},"openai/outputTemplate":"c","x":{"resourceUri":"d"}}"#;
        let whole = Span { start: 0, end: body.len() as u32 };
        let found: Vec<_> = pages(body, whole).into_iter().map(|span| span.of(body)).collect();
        assert_eq!(found, [b"\"a\"", b"\"b\"", b"\"c\""]);
        for none in [&b"{}"[..], b"7", br#"{"ui":"x"}"#, br#"{"ui":{}}"#] {
            assert!(pages(none, Span { start: 0, end: none.len() as u32 }).is_empty());
        }
    }
}
