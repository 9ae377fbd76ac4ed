//! A strict JSON scanner that finds where members lie without building a tree.
//!
//! Both proxies read a message once, keep byte ranges, and forward the original bytes. The scanner accepts
//! exactly RFC 8259 (it is fuzzed against `serde_json`), never recurses past a set depth, and allocates nothing.

use std::borrow::Cow;

use thiserror::Error;

/// A byte range inside a message. `start == end` never denotes a JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u32,
    /// Offset one past the last byte.
    pub end: u32,
}

impl Span {
    /// The bytes of `body` under this span.
    pub fn of<'a>(&self, body: &'a [u8]) -> &'a [u8] {
        body.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// The span as a `usize` range.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// Why bytes are not acceptable JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum JsonError {
    /// The text breaks the grammar of RFC 8259 at this byte.
    #[error("not valid JSON at byte {0}")]
    Syntax(usize),
    /// Arrays and objects are nested deeper than the limit.
    #[error("nested deeper than {0} levels")]
    Depth(u16),
    /// The bytes are not UTF-8, or start with a byte order mark.
    #[error("not UTF-8 (or starts with a byte order mark)")]
    Encoding,
    /// Longer than a span can address (4 GiB).
    #[error("message too long")]
    TooLong,
}

/// Nesting allowed by default; the same as `serde_json` allows, so that what we pass on others can read.
pub const MAX_DEPTH: u16 = 128;

/// A cursor over one JSON text.
#[derive(Debug)]
pub struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: u16,
    max_depth: u16,
}

/// An object key as it stands in the text.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The key with its quotes.
    pub span: Span,
    /// Whether it contains escapes, so that comparing needs decoding.
    pub escaped: bool,
}

impl Key {
    /// The decoded key.
    pub fn decode<'a>(&self, body: &'a [u8]) -> Cow<'a, str> {
        decode_string(self.span.of(body)).unwrap_or(Cow::Borrowed(""))
    }
}

impl<'a> Scanner<'a> {
    /// Starts at the first byte of `bytes`, which must be UTF-8.
    ///
    /// # Errors
    /// [`JsonError::Encoding`] or [`JsonError::TooLong`].
    pub fn new(bytes: &'a [u8], max_depth: u16) -> Result<Self, JsonError> {
        if u32::try_from(bytes.len()).is_err() {
            return Err(JsonError::TooLong);
        }
        if bytes.starts_with(b"\xef\xbb\xbf") || std::str::from_utf8(bytes).is_err() {
            return Err(JsonError::Encoding);
        }
        Ok(Self { bytes, at: 0, depth: 0, max_depth })
    }

    /// A scanner over a value that an earlier pass has already found valid.
    pub fn within(bytes: &'a [u8], span: Span) -> Self {
        let end = (span.end as usize).min(bytes.len());
        Self { bytes: bytes.get(..end).unwrap_or_default(), at: span.start as usize, depth: 0, max_depth: u16::MAX }
    }

    /// The next byte that is not white space, not consumed.
    pub fn peek(&mut self) -> Option<u8> {
        while let Some(&b) = self.bytes.get(self.at) {
            if !matches!(b, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(b);
            }
            self.at += 1;
        }
        None
    }

    /// Checks that nothing but white space is left.
    ///
    /// # Errors
    /// [`JsonError::Syntax`] when something is.
    pub fn finish(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.bad()),
        }
    }

    fn bad(&self) -> JsonError {
        JsonError::Syntax(self.at)
    }

    fn expect(&mut self, byte: u8) -> Result<(), JsonError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        Err(self.bad())
    }

    fn span_from(&self, start: usize) -> Span {
        // `new` refused texts that do not fit.
        Span { start: start as u32, end: self.at as u32 }
    }

    /// Walks the members of an object; `member` is called with the scanner standing before each value and must
    /// consume exactly that value. Returns the span of the whole object.
    ///
    /// # Errors
    /// Whatever the text or `member` says is wrong.
    pub fn object<E, F>(&mut self, mut member: F) -> Result<Span, E>
    where
        E: From<JsonError>,
        F: FnMut(Key, &mut Self) -> Result<(), E>,
    {
        self.expect(b'{')?;
        let start = self.at - 1;
        self.enter()?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            self.depth -= 1;
            return Ok(self.span_from(start));
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.bad().into());
            }
            let key = self.string()?;
            self.expect(b':')?;
            member(key, self)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    self.depth -= 1;
                    return Ok(self.span_from(start));
                }
                _ => return Err(self.bad().into()),
            }
        }
    }

    /// Walks the elements of an array, like [`Scanner::object`].
    ///
    /// # Errors
    /// Whatever the text or `element` says is wrong.
    pub fn array<E, F>(&mut self, mut element: F) -> Result<Span, E>
    where
        E: From<JsonError>,
        F: FnMut(&mut Self) -> Result<(), E>,
    {
        self.expect(b'[')?;
        let start = self.at - 1;
        self.enter()?;
        if self.peek() == Some(b']') {
            self.at += 1;
            self.depth -= 1;
            return Ok(self.span_from(start));
        }
        loop {
            element(self)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    self.depth -= 1;
                    return Ok(self.span_from(start));
                }
                _ => return Err(self.bad().into()),
            }
        }
    }

    fn enter(&mut self) -> Result<(), JsonError> {
        self.depth += 1;
        if self.depth > self.max_depth {
            return Err(JsonError::Depth(self.max_depth));
        }
        Ok(())
    }

    /// Consumes one value of any kind and returns where it lies.
    ///
    /// # Errors
    /// [`JsonError::Syntax`] or [`JsonError::Depth`].
    pub fn value(&mut self) -> Result<Span, JsonError> {
        let first = self.peek().ok_or_else(|| self.bad())?;
        let start = self.at;
        match first {
            b'{' => return self.object::<JsonError, _>(|_, s| s.value().map(drop)),
            b'[' => return self.array::<JsonError, _>(|s| s.value().map(drop)),
            b'"' => return self.string().map(|k| k.span),
            b't' => self.literal(b"true")?,
            b'f' => self.literal(b"false")?,
            b'n' => self.literal(b"null")?,
            b'-' | b'0'..=b'9' => self.number()?,
            _ => return Err(self.bad()),
        }
        Ok(self.span_from(start))
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), JsonError> {
        if self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
            self.at += word.len();
            return Ok(());
        }
        Err(self.bad())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == start { Err(self.bad()) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<(), JsonError> {
        if self.bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        if self.bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// Consumes a string; the scanner must stand on its opening quote.
    ///
    /// # Errors
    /// [`JsonError::Syntax`] on a raw control character, a bad escape or a missing end.
    pub fn string(&mut self) -> Result<Key, JsonError> {
        let start = self.at;
        let mut escaped = false;
        self.at += 1;
        loop {
            self.at += plain_run(self.bytes.get(self.at..).unwrap_or_default());
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Key { span: self.span_from(start), escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return Err(self.bad()),
            }
        }
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => {
                let hex = self.bytes.get(self.at + 2..self.at + 6).unwrap_or_default();
                if hex.len() != 4 || !hex.iter().all(u8::is_ascii_hexdigit) {
                    return Err(self.bad());
                }
                self.at += 6;
            }
            _ => return Err(self.bad()),
        }
        Ok(())
    }
}

/// Bytes after which a string is a long one.
const SHORT: usize = 64;

/// Length of the prefix without a quote, a backslash or a control character. Strings are where the bytes of big messages
/// are: most are short and looked at eight bytes at a time, the rest of a long one in pieces that become vectors.
fn plain_run(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let mut done = 0;
    for chunk in bytes.chunks_exact(8).take(SHORT / 8) {
        let Ok(word) = <[u8; 8]>::try_from(chunk) else { break };
        let word = u64::from_le_bytes(word);
        let quote = word ^ (ONES * b'"' as u64);
        let slash = word ^ (ONES * b'\\' as u64);
        // The classic zero-byte test, and its cousin for bytes below 0x20. What they borrow goes upwards: above the first
        // byte that is found others may be wrong, the first one never is.
        let hit = (quote.wrapping_sub(ONES) & !quote)
            | (slash.wrapping_sub(ONES) & !slash)
            | (word.wrapping_sub(ONES * 0x20) & !word);
        if hit & HIGH != 0 {
            return done + (hit & HIGH).trailing_zeros() as usize / 8;
        }
        done += 8;
    }
    let rest = bytes.get(done..).unwrap_or_default();
    if done == SHORT { SHORT + long_run(rest) } else { done + slow_run(rest) }
}

fn slow_run(bytes: &[u8]) -> usize {
    bytes.iter().position(ends_run).unwrap_or(bytes.len())
}

/// What [`plain_run`] finds, for the rest of a long string.
#[inline(never)]
fn long_run(bytes: &[u8]) -> usize {
    // No `any`: a fold that looks at every byte has no branches.
    let plain = |piece: &&[u8]| !piece.iter().fold(false, |found, byte| found | ends_run(byte));
    let done = 32 * bytes.chunks_exact(32).take_while(plain).count();
    done + slow_run(bytes.get(done..).unwrap_or_default())
}

fn ends_run(byte: &u8) -> bool {
    matches!(byte, b'"' | b'\\' | ..0x20)
}

/// Decodes a JSON string token (with its quotes). Borrows when there is nothing to unescape.
/// `None` when it is not a string or holds a lone surrogate (which has no meaning as text).
pub fn decode_string(token: &[u8]) -> Option<Cow<'_, str>> {
    let text = token.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if !text.contains(&b'\\') {
        return std::str::from_utf8(text).ok().map(Cow::Borrowed);
    }
    serde_json::from_slice::<String>(token).ok().map(Cow::Owned)
}

/// Appends `text` to `out` as a JSON string token.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    // Writing a str to a Vec cannot fail: there is no io and strings always have a JSON form.
    let _ = serde_json::to_writer(out, text);
}

/// `text` as a JSON string token.
pub fn quote(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    write_string(&mut out, text);
    String::from_utf8(out).unwrap_or_default()
}

/// Where the members of an object lie: `(key, value)` in their order. Empty when `span` is not an object.
pub fn members(body: &[u8], span: Span) -> Vec<(Key, Span)> {
    let mut found = Vec::new();
    let _ = Scanner::within(body, span).object::<JsonError, _>(|key, s| {
        let value = s.value()?;
        found.push((key, value));
        Ok(())
    });
    found
}

/// The value of one member of an object.
pub fn member(body: &[u8], span: Span, name: &str) -> Option<Span> {
    members(body, span).into_iter().find(|(key, _)| key.decode(body) == name).map(|(_, value)| value)
}

/// Where the elements of an array lie. `None` when `span` is not an array.
pub fn elements(body: &[u8], span: Span) -> Option<Vec<Span>> {
    let mut found = Vec::new();
    Scanner::within(body, span)
        .array::<JsonError, _>(|s| {
            found.push(s.value()?);
            Ok(())
        })
        .ok()?;
    Some(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan(bytes: &[u8]) -> Result<Span, JsonError> {
        let mut s = Scanner::new(bytes, MAX_DEPTH)?;
        let span = s.value()?;
        s.finish()?;
        Ok(span)
    }

    #[test]
    fn accepts_and_refuses_what_the_grammar_says() {
        for good in
            ["{}", "[]", " [1, -0, 1.5e+3, \"\\u12aF\\n\"] ", "null", "\"\u{1F980}\"", "{\"a\":{\"b\":[true,false]}}"]
        {
            assert!(scan(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in [
            "",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "01",
            "1.",
            "+1",
            "nul",
            "\"\\x\"",
            "\"\\u12\"",
            "\"a\nb\"",
            "{1:2}",
            "[1 2]",
            "1 2",
            "\u{feff}{}",
        ] {
            assert!(scan(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(scan(b"\"\xff\""), Err(JsonError::Encoding));
    }

    #[test]
    fn depth_is_bounded() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(scan(deep(128).as_bytes()).is_ok());
        assert_eq!(scan(deep(129).as_bytes()), Err(JsonError::Depth(128)));
        assert_eq!(scan(deep(1_000_000).as_bytes()), Err(JsonError::Depth(128)));
    }

    #[test]
    fn long_strings_end_where_they_end() {
        for length in (0..200).chain([1000, 1023, 1024]) {
            for end in *b"\"\\\n\x1f\0" {
                let mut text = "a\u{7f}\u{e9} ".repeat(300).into_bytes();
                text.truncate(length);
                text.push(end);
                text.extend_from_slice(b"tail, long enough for pieces of thirty-two bytes, twice: 0123456789");
                assert_eq!(plain_run(&text), length, "{end}");
            }
            assert_eq!(plain_run(&vec![b'x'; length]), length);
        }
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(text in "[\\[\\]{}:,\"\\\\ tfn0-9.eE+a-]{0,24}") {
            let ours = scan(text.as_bytes()).is_ok();
            let theirs = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
            prop_assert_eq!(ours, theirs);
        }

        #[test]
        fn runs_end_where_a_look_at_each_byte_says(bytes in prop::collection::vec(
            prop_oneof![4 => any::<u8>(), 1 => 0u8..0x25, 1 => Just(b'\\')], 0..100,
        )) {
            for start in 0..bytes.len() {
                prop_assert_eq!(plain_run(&bytes[start..]), slow_run(&bytes[start..]));
            }
        }

        #[test]
        fn strings_round_trip(text in any::<String>()) {
            let token = quote(&text);
            prop_assert!(scan(token.as_bytes()).is_ok());
            prop_assert_eq!(decode_string(token.as_bytes()).map(Cow::into_owned), Some(text));
        }
    }
}
