//! Resource URIs of several services on one endpoint: `<service>+<scheme>:` where two services claim one URI.
//!
//! Only the scheme changes, so the same rule serves URIs and RFC 6570 templates, and clients that look at the path or
//! the file ending still can. `ns+scheme` is a valid scheme (RFC 3986 section 3.1). Pages of MCP Apps keep their scheme, on
//! which hosts insist: `ui://<service>+ui://...`.

use std::borrow::Cow;

use crate::{
    apps,
    json::{JsonError, MAX_DEPTH, Scanner, Span, decode_string, write_string},
    names::check_service,
};

/// Stands before service names that start with a digit, as a scheme must start with a letter. No service name holds
/// a dot, so nothing else can look like it.
const DIGIT_PREFIX: &str = "n.";
/// Stands before service names in URIs of pages.
const PAGE_PREFIX: &str = "ui://";

/// `uri` (or a template) under the name of a service. `None` when it has no literal scheme to extend.
pub fn wrap(service: &str, uri: &str) -> Option<String> {
    if scheme(uri)? == apps::SCHEME {
        return Some([PAGE_PREFIX, service, "+", uri].concat());
    }
    let prefix = if service.starts_with(|c: char| c.is_ascii_digit()) { DIGIT_PREFIX } else { "" };
    Some([prefix, service, "+", uri].concat())
}

/// Splits a wrapped URI or template into service and original. The caller decides whether it knows the service:
/// `git+ssh:` is also somebody's scheme.
pub fn unwrap(uri: &str) -> Option<(&str, &str)> {
    if let Some((service, original)) = uri.strip_prefix(PAGE_PREFIX).and_then(|rest| rest.split_once('+')) {
        check_service(service).ok()?;
        return (scheme(original)? == apps::SCHEME).then_some((service, original));
    }
    let (head, original) = uri.split_once('+')?;
    let digit = |name: &&str| name.starts_with(|c: char| c.is_ascii_digit());
    let service = match head.strip_prefix(DIGIT_PREFIX) {
        Some(rest) => Some(rest).filter(digit),
        None => Some(head).filter(|head| !digit(head)),
    }?;
    check_service(service).ok()?;
    scheme(original)?;
    Some((service, original))
}

/// The scheme of a URI or template (RFC 3986 section 3.1).
pub fn scheme(uri: &str) -> Option<&str> {
    let (scheme, _) = uri.split_once(':')?;
    let valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    valid.then_some(scheme)
}

/// What every expansion of a template starts with.
pub fn literal_prefix(template: &str) -> &str {
    template.split_once('{').map_or(template, |(literal, _)| literal)
}

/// Rewrites the URIs of a result (raw JSON): `contents[].uri`, and `uri` of resource links and embedded resources in
/// `content[]` and `messages[].content`, and the page of an app in `_meta`. `map` gives the new URI or `None` to keep it; nothing else changes.
/// `None` when nothing changed at all, or the result is not a JSON object.
pub fn rewrite_uris(result: &[u8], map: impl Fn(&str) -> Option<String>) -> Option<Vec<u8>> {
    let mut finder = UriFinder { body: result, found: Vec::new() };
    finder.result().ok()?;
    let mut out = Vec::new();
    let mut copied = 0;
    for span in finder.found {
        let Some(new) = decode_string(span.of(result)).and_then(|old: Cow<'_, str>| map(&old)) else {
            continue;
        };
        let range = span.range();
        out.extend_from_slice(result.get(copied..range.start)?);
        write_string(&mut out, &new);
        copied = range.end;
    }
    if copied == 0 {
        return None;
    }
    out.extend_from_slice(result.get(copied..)?);
    Some(out)
}

/// Finds the tokens that [`rewrite_uris`] looks at, in the order of the text.
struct UriFinder<'a> {
    body: &'a [u8],
    found: Vec<Span>,
}

impl UriFinder<'_> {
    fn result(&mut self) -> Result<(), JsonError> {
        let body = self.body;
        let mut scanner = Scanner::new(body, MAX_DEPTH)?;
        scanner.object::<JsonError, _>(|key, s| match &*key.decode(body) {
            "contents" => each(s, |s| self.holder(s).map(drop)),
            "content" => self.blocks(s),
            "messages" => each(s, |s| self.message(s)),
            "_meta" => {
                self.found.extend(apps::pages(body, s.value()?));
                Ok(())
            }
            _ => s.value().map(drop),
        })?;
        scanner.finish()
    }

    fn message(&mut self, s: &mut Scanner<'_>) -> Result<(), JsonError> {
        let body = self.body;
        if s.peek() != Some(b'{') {
            return s.value().map(drop);
        }
        s.object::<JsonError, _>(|key, s| match &*key.decode(body) {
            "content" => self.blocks(s),
            _ => s.value().map(drop),
        })
        .map(drop)
    }

    /// Content blocks: an array of them, or a single one as in prompts.
    fn blocks(&mut self, s: &mut Scanner<'_>) -> Result<(), JsonError> {
        if s.peek() == Some(b'[') { each(s, |s| self.block(s)) } else { self.block(s) }
    }

    fn block(&mut self, s: &mut Scanner<'_>) -> Result<(), JsonError> {
        let body = self.body;
        if s.peek() != Some(b'{') {
            return s.value().map(drop);
        }
        // What to keep is known when `type` is, which may come last.
        let before = self.found.len();
        let (mut kind, mut own, mut embedded) = (None, Vec::new(), Vec::new());
        s.object::<JsonError, _>(|key, s| {
            match &*key.decode(body) {
                "type" => kind = Some(s.value()?),
                "uri" => own.push(s.value()?),
                "resource" => embedded.extend(self.holder(s)?),
                _ => drop(s.value()?),
            }
            Ok(())
        })?;
        self.found.truncate(before);
        let kind = kind.and_then(|kind| decode_string(kind.of(body)));
        match kind.as_deref() {
            Some("resource_link") => self.found.extend(own),
            Some("resource") => self.found.extend(embedded),
            _ => {}
        }
        Ok(())
    }

    /// An object that has a `uri`, which is noted. Where it has two, readers differ in which one they take.
    fn holder(&mut self, s: &mut Scanner<'_>) -> Result<Vec<Span>, JsonError> {
        let body = self.body;
        if s.peek() != Some(b'{') {
            return s.value().map(|_| Vec::new());
        }
        let mut uris = Vec::new();
        s.object::<JsonError, _>(|key, s| {
            let value = s.value()?;
            if key.decode(body) == "uri" {
                uris.push(value);
            }
            Ok(())
        })?;
        self.found.extend(&uris);
        Ok(uris)
    }
}

fn each(s: &mut Scanner<'_>, element: impl FnMut(&mut Scanner<'_>) -> Result<(), JsonError>) -> Result<(), JsonError> {
    if s.peek() != Some(b'[') {
        return s.value().map(drop);
    }
    let mut element = element;
    s.array::<JsonError, _>(|s| element(s)).map(drop)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wrapping_changes_the_scheme_alone() {
        assert_eq!(wrap("fs", "file:///a").as_deref(), Some("fs+file:///a"));
        assert_eq!(wrap("fs", "repo://{owner}/x").as_deref(), Some("fs+repo://{owner}/x"));
        assert_eq!(wrap("7zip", "file:///a").as_deref(), Some("n.7zip+file:///a"));
        assert_eq!(wrap("7zip", "ui://a/b").as_deref(), Some("ui://7zip+ui://a/b"));
        for none in ["no-scheme", "{+path}", "{scheme}://x", "1a:b", "", ":x", "a b:c"] {
            assert_eq!(wrap("fs", none), None, "{none}");
        }
    }

    #[test]
    fn unwrapping_reads_only_what_wrapping_wrote() {
        assert_eq!(unwrap("fs+file:///a+b"), Some(("fs", "file:///a+b")));
        assert_eq!(unwrap("a+git+ssh://x"), Some(("a", "git+ssh://x")));
        assert_eq!(unwrap("n.7zip+file:///a"), Some(("7zip", "file:///a")));
        assert_eq!(unwrap("ui://7zip+ui://a/b+c"), Some(("7zip", "ui://a/b+c")));
        for none in ["ui://a", "ui://a+b", "ui://a+file:///b", "ui://A+ui://b", "ui://a/b+ui://c"] {
            assert_eq!(unwrap(none), None, "{none}");
        }
        for none in
            ["file:///a+b:c", "7zip+file:///a", "n.fs+file:///a", "FS+file:///a", "fs+nothing", "+a:b", "file:///a"]
        {
            assert_eq!(unwrap(none), None, "{none}");
        }
    }

    fn shout(uri: &str) -> Option<String> {
        uri.starts_with("file:").then(|| format!("fs+{uri}"))
    }

    #[test]
    fn rewrites_only_the_members_that_name_resources() {
        let result = br#"{ "contents" : [ {"uri":"file:///a","text":"file:///a"}, {"text":"x","uri":"http:\/\/b"} ],
            "content":[{"uri":"file:///c","type":"resource_link","n":1.0},{"type":"text","uri":"file:///no"},
              {"resource":{"uri":"file:\/\/\/d","blob":""},"type":"resource"},{"type":"resource_link","resource":{"uri":"file:///no"}}, 7],
            "messages":[{"role":"user","content":{"type":"resource","resource":{"uri":"file:///e"}}},null],
            "structuredContent":{"uri":"file:///no","contents":[{"uri":"file:///no"}]},"_meta":{"uri":"file:///no","ui":{"resourceUri":"file:///f"}}}"#;
        let expected = String::from_utf8_lossy(result)
            .replace(r#"{"uri":"file:///a","#, r#"{"uri":"fs+file:///a","#)
            .replace(r#""file:///c""#, r#""fs+file:///c""#)
            .replace(r#""file:\/\/\/d""#, r#""fs+file:///d""#)
            .replace(r#""file:///e""#, r#""fs+file:///e""#)
            .replace(r#""file:///f""#, r#""fs+file:///f""#);
        let got = rewrite_uris(result, shout).unwrap();
        assert_eq!(String::from_utf8(got).unwrap(), expected);
    }

    #[test]
    fn a_uri_that_stands_twice_is_rewritten_twice() {
        let result = r#"{"contents":[{"uri":"file:a","uri":"file:b"}],"content":[{"uri":"file:a","type":"resource_link","uri":"file:b"},{"type":"resource","resource":{"uri":"file:a","uri":"file:b"},"resource":{"uri":"file:a"}}]}"#;
        let got = rewrite_uris(result.as_bytes(), shout).unwrap();
        assert_eq!(String::from_utf8(got).unwrap(), result.replace("file:", "fs+file:"));
    }

    #[test]
    fn nothing_to_change_says_so() {
        for same in [
            r#"{"content":[{"type":"text","text":"file:///a"}]}"#,
            "{}",
            "[]",
            "nonsense",
            r#"{"contents":{"uri":"file:///a"}}"#,
        ] {
            assert_eq!(rewrite_uris(same.as_bytes(), shout), None, "{same}");
        }
    }

    proptest! {
        #[test]
        fn wrap_and_unwrap_round_trip(
            service in "[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", uri in "([a-zA-Z][a-zA-Z0-9+.-]{0,6}|ui):\\PC{0,20}"
        ) {
            let wrapped = wrap(&service, &uri).unwrap();
            prop_assert!(scheme(&wrapped).is_some());
            prop_assert_eq!(unwrap(&wrapped), Some((service.as_str(), uri.as_str())));
        }

        #[test]
        fn rewriting_never_panics(text in "[\\[\\]{}:,\"a ]{0,12}(\"contents\":\\[\\{\"uri\":\"file:a\"\\}\\])?[\\]}]{0,3}") {
            if let Some(out) = rewrite_uris(text.as_bytes(), shout) {
                prop_assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok());
            }
        }
    }
}
