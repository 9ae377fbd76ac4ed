//! Finds placeholders of secrets in what goes by, also in the spellings that clients give to text on its way: percent-encoded, as in a
//! form, escaped as in JSON, each of it in part, repeated and mixed; in base64 and in hexadecimal digits.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Bytes of the longest escape: `\u0041`.
const LONGEST_ESCAPE: usize = 6;

/// What is looked for.
#[derive(Default, Clone, PartialEq, Eq)]
pub struct Placeholders {
    /// Each spelling in its one form, and which placeholder it is of.
    needles: Vec<(Vec<u8>, usize)>,
    longest: usize,
}

/// One text that goes by, in pieces.
#[derive(Default)]
pub struct Search {
    /// An escape that has begun.
    escape: Vec<u8>,
    /// What was read, in its one form, as far as a placeholder may have begun in it.
    seen: Vec<u8>,
}

impl Placeholders {
    /// Of these texts, told apart by their numbers. Empty ones are in everything, and left out.
    pub fn new<'t>(texts: impl IntoIterator<Item = (usize, &'t [u8])>) -> Self {
        let mut needles: Vec<(Vec<u8>, usize)> = Vec::new();
        for (number, text) in texts {
            for spelling in spellings(text) {
                let needle: Vec<u8> = spelling.into_iter().map(one_form).collect();
                if !needle.is_empty() && !needles.contains(&(needle.clone(), number)) {
                    needles.push((needle, number));
                }
            }
        }
        let longest = needles.iter().map(|(needle, _)| needle.len()).max().unwrap_or_default();
        Self { needles, longest }
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.needles.is_empty()
    }
}

/// The values of placeholders are not shown.
impl std::fmt::Debug for Placeholders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Placeholders").field(&self.needles.len()).finish()
    }
}

impl Search {
    /// Reads on: the number of a placeholder that is complete now, of those that `counts`.
    pub fn find(&mut self, all: &Placeholders, bytes: &[u8], counts: impl Fn(usize) -> bool) -> Option<usize> {
        for byte in bytes {
            self.read(*byte);
        }
        let at = |place: usize| {
            let rest = self.seen.get(place..).unwrap_or_default();
            all.needles.iter().find(|(needle, number)| rest.starts_with(needle) && counts(*number))
        };
        let found = (0..self.seen.len()).find_map(at).map(|(_, number)| *number);
        let done = self.seen.len().saturating_sub(all.longest.saturating_sub(1));
        self.seen.drain(..done);
        found
    }

    fn read(&mut self, byte: u8) {
        if self.escape.is_empty() && !matches!(byte, b'%' | b'\\') {
            return self.seen.push(one_form(byte));
        }
        self.escape.push(byte);
        // What an escape stands for may begin another one: text is often escaped twice.
        while let Some(&first) = self.escape.first() {
            match escaped(&self.escape) {
                Escaped::Begun => return,
                Escaped::Is(byte) => {
                    self.escape.clear();
                    self.escape.push(byte);
                    if !matches!(byte, b'%' | b'\\') {
                        self.seen.push(one_form(byte));
                        self.escape.clear();
                    }
                }
                Escaped::No => {
                    self.seen.push(one_form(first));
                    self.escape.remove(0);
                }
            }
        }
    }
}

/// What the beginning of an escape is.
enum Escaped {
    Begun,
    Is(u8),
    No,
}

fn escaped(text: &[u8]) -> Escaped {
    let value = |digits: &[u8]| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok();
    let hex = |digits: &[u8]| digits.iter().all(u8::is_ascii_hexdigit);
    match text {
        [b'%', digits @ ..] if digits.len() < 2 && hex(digits) => Escaped::Begun,
        [b'%', digits @ ..] if hex(digits) => value(digits).map_or(Escaped::No, Escaped::Is),
        [b'\\'] => Escaped::Begun,
        [b'\\', b'u', digits @ ..] if text.len() < LONGEST_ESCAPE && hex(digits) => Escaped::Begun,
        // What is beyond stands in placeholders as it is, if at all.
        [b'\\', b'u', b'0', b'0', digits @ ..] if hex(digits) => value(digits).map_or(Escaped::No, Escaped::Is),
        [b'\\', byte @ (b'"' | b'\\' | b'/')] => Escaped::Is(*byte),
        _ => Escaped::No,
    }
}

/// Names of hosts and fields come in any case, and a form has `+` for a space.
fn one_form(byte: u8) -> u8 {
    if byte == b'+' { b' ' } else { byte.to_ascii_lowercase() }
}

/// The text, its digits, and what stays of it in base64 whatever stands around it.
fn spellings(text: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![text.to_vec(), text.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()];
    for before in 0..3 {
        let shifted = [&[0; 2][..before], text].concat();
        // Characters that hold bits of what stands before, or after, are nobody's.
        let (from, to) = ((before * 8).div_ceil(6), shifted.len() * 8 / 6);
        for encoded in [STANDARD_NO_PAD.encode(&shifted), URL_SAFE_NO_PAD.encode(&shifted)] {
            all.push(encoded.as_bytes().get(from..to).unwrap_or_default().to_vec());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;

    const TEXT: &str = "stand-in_for/Key 1";

    fn found(text: &[u8]) -> bool {
        let all = Placeholders::new([(7, TEXT.as_bytes()), (8, b"")]);
        let whole = Search::default().find(&all, text, |_| true);
        // In pieces it is the same.
        let mut search = Search::default();
        let pieces: Vec<_> = text.iter().filter_map(|byte| search.find(&all, &[*byte], |_| true)).collect();
        assert_eq!(whole.is_some(), !pieces.is_empty(), "{}", text.escape_ascii());
        assert!(whole.is_none_or(|number| number == 7));
        assert_eq!(Search::default().find(&all, text, |number| number != 7), None);
        whole.is_some()
    }

    #[test]
    fn every_spelling_on_the_way_is_found() {
        let percent = |upper: bool| -> String {
            TEXT.bytes().map(|byte| if upper { format!("%{byte:02X}") } else { format!("%{byte:02x}") }).collect()
        };
        let twice = percent(true).replace('%', "%25");
        let unicode: String = TEXT.bytes().map(|byte| format!("\\u{byte:04x}")).collect();
        for text in [
            TEXT.to_owned(),
            TEXT.to_uppercase(),
            percent(true),
            percent(false),
            format!("/?key={twice}&b=1"),
            twice.replace('%', "%25"),
            "%73tand-%69n_for%2fKey%201".to_owned(),
            "key=stand-in_for%2FKey+1".to_owned(),
            format!("{{\"key\":\"{unicode}\"}}"),
            r#"{"key":"stand-in_for\/Key 1"}"#.to_owned(),
            format!(r#"{{"text":"{{\"key\":\"{}\"}}"}}"#, unicode.replace('\\', "\\\\")),
            r"%5Cu0073tand-in_for\u002FKey 1".to_owned(),
            "%%73tand-in_for/Key 1".to_owned(),
            r"\%73tand-in_for/Key 1".to_owned(),
            "7374616e642d696e5f666f722f4B65792031".to_owned(),
        ] {
            assert!(found(format!("before {text} after").as_bytes()), "{text}");
        }
        for around in ["", "u", "us", "use", "user:"] {
            for after in ["", "x", "xy", "xyz"] {
                let text = format!("{around}{TEXT}{after}");
                for encoded in [STANDARD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
                    assert!(found(format!("Basic {encoded}").as_bytes()), "{text}");
                    assert!(found(encoded.replace('+', "%2B").replace('/', "\\/").as_bytes()), "{text}");
                }
            }
        }
    }

    #[test]
    fn nothing_else_is() {
        for text in ["stand-in_for/Key", "stand-in_for/Key  1", "%7Ztand-in_for/Key 1", "100% of \\u12 and \\", "%", ""]
        {
            assert!(!found(text.as_bytes()), "{text}");
        }
        assert!(Placeholders::new([(0, &b""[..])]).is_empty());
    }
}
