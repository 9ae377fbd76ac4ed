//! One form of a definition for people (sorted, one member a line, nothing hidden) and one number for it.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use outrigger_mcp::canonical::canonical;
use outrigger_mcp::json::{JsonError, MAX_DEPTH, Scanner, decode_string};

use crate::show::is_hidden;

/// SHA-256 over the canonical form of a definition: how it is spelt does not count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of a definition as its server sent it.
    pub fn of(definition: &[u8]) -> Self {
        let mut out = [0; 32];
        out.copy_from_slice(digest(&SHA256, &canonical(definition)).as_ref());
        Self(out)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Writes a JSON value with sorted members, indented; the first line is not. What is hidden in texts is escaped. The
/// canonical form stays what it was.
///
/// # Errors
/// It is no JSON.
pub(crate) fn write_pretty(text: &[u8], indent: usize, out: &mut Vec<u8>) -> Result<(), JsonError> {
    let mut scanner = Scanner::new(text, MAX_DEPTH)?;
    value(text, &mut scanner, indent, out)?;
    scanner.finish()
}

fn value(text: &[u8], scanner: &mut Scanner<'_>, indent: usize, out: &mut Vec<u8>) -> Result<(), JsonError> {
    match scanner.peek() {
        Some(b'{') => object(text, scanner, indent, out),
        Some(b'[') => array(text, scanner, indent, out),
        Some(b'"') => {
            string(scanner.value()?.of(text), out);
            Ok(())
        }
        _ => {
            out.extend_from_slice(scanner.value()?.of(text));
            Ok(())
        }
    }
}

fn object(text: &[u8], scanner: &mut Scanner<'_>, indent: usize, out: &mut Vec<u8>) -> Result<(), JsonError> {
    let mut members: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    scanner.object::<JsonError, _>(|key, scanner| {
        let mut written = Vec::new();
        string(key.span.of(text), &mut written);
        written.extend_from_slice(b": ");
        value(text, scanner, indent + 2, &mut written)?;
        // By the text of the key, which follows its tag and length; those of one name stay in their order.
        let name = canonical(key.span.of(text)).split_off(5);
        members.push((name, written));
        Ok(())
    })?;
    members.sort_by(|(a, _), (b, _)| a.cmp(b));
    lines(b"{}", members.into_iter().map(|(_, member)| member), indent, out);
    Ok(())
}

fn array(text: &[u8], scanner: &mut Scanner<'_>, indent: usize, out: &mut Vec<u8>) -> Result<(), JsonError> {
    let mut elements = Vec::new();
    scanner.array::<JsonError, _>(|scanner| {
        let mut written = Vec::new();
        value(text, scanner, indent + 2, &mut written)?;
        elements.push(written);
        Ok(())
    })?;
    lines(b"[]", elements.into_iter(), indent, out);
    Ok(())
}

/// One line each between brackets.
pub(crate) fn lines(brackets: &[u8; 2], each: impl Iterator<Item = Vec<u8>>, indent: usize, out: &mut Vec<u8>) {
    let [open, close] = *brackets;
    out.push(open);
    let mut any = false;
    for one in each {
        out.extend_from_slice(if any { b",\n" } else { b"\n" });
        out.resize(out.len() + indent + 2, b' ');
        out.extend_from_slice(&one);
        any = true;
    }
    if any {
        out.push(b'\n');
        out.resize(out.len() + indent, b' ');
    }
    out.push(close);
}

/// A string token with everything hidden escaped. One that is no text (a lone surrogate) stays as it is.
fn string(token: &[u8], out: &mut Vec<u8>) {
    match decode_string(token) {
        Some(text) => out.extend_from_slice(quoted(&text).as_bytes()),
        None => out.extend_from_slice(token),
    }
}

/// A text as a JSON string with everything hidden escaped.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_hidden(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pretty(text: &str) -> String {
        let mut out = Vec::new();
        write_pretty(text.as_bytes(), 0, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn members_are_sorted_and_nothing_is_hidden() {
        let text = r#"{"name":"a","description":"x\u200by","list":[1.0,{}],"none":[],"deep":{"b":1,"a":null}}"#;
        let expected = "{\n  \"deep\": {\n    \"a\": null,\n    \"b\": 1\n  },\n  \"description\": \"x\\u200by\",\n  \"list\": [\n    \
                        1.0,\n    {}\n  ],\n  \"name\": \"a\",\n  \"none\": []\n}";
        assert_eq!(pretty(text), expected);
        assert_eq!(pretty("\"\u{e0041}\u{202e}\\u001b\""), "\"\\udb40\\udc41\\u202e\\u001b\"");
        assert!(write_pretty(b"{", 0, &mut Vec::new()).is_err());
    }

    #[test]
    fn the_digest_is_of_the_value() {
        assert_eq!(Digest::of(br#"{"a":1,"b":2}"#), Digest::of(b"{ \"b\": 2.0, \"\\u0061\": 1 }"));
        assert_ne!(Digest::of(br#"{"a":1}"#), Digest::of(br#"{"a":1,"a":1}"#));
        let text = Digest::of(b"{}").to_string();
        assert!(text.starts_with("sha256:") && text.len() == 71, "{text}");
    }

    proptest! {
        #[test]
        fn the_form_for_people_is_the_same_value(text: String, key: String, number: f64, again: bool) {
            let token = serde_json::to_string(&text).unwrap();
            let key = serde_json::to_string(&key).unwrap();
            let twice = if again { format!(",{key}:true") } else { String::new() };
            let whole = format!("{{{key}:[{token},{{\"\\ud800\":{number:e}}}]{twice}}}");
            let shown = pretty(&whole);
            prop_assert_eq!(Digest::of(whole.as_bytes()), Digest::of(shown.as_bytes()), "{}", shown);
            prop_assert_eq!(pretty(&shown), shown);
        }
    }
}
