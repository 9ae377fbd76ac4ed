//! Texts of servers as a person can safely see them: what is invisible, or would move the cursor, is spelt out.

use std::fmt::Write;

use crate::definition::write_pretty;

/// Whether a character shows nothing, or changes how what is around it is shown.
pub(crate) fn is_hidden(c: char) -> bool {
    matches!(c,
        '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\x7f'..='\u{9f}'
        | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// The text on one line with everything hidden spelt out as `\u{..}`, cut after so many characters of it.
pub fn visible(text: &str, most: usize) -> String {
    let mut out = String::with_capacity(text.len().min(most + 16));
    for (shown, c) in text.chars().enumerate() {
        if shown == most {
            out.push('…');
            break;
        }
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_hidden(c) => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
            c => out.push(c),
        }
    }
    out
}

/// A JSON text as a person can safely read it: one member a line, letters as letters and not as escapes, and everything
/// hidden spelt out. What is no JSON comes as it is.
pub fn readable(json: &[u8]) -> String {
    let mut out = Vec::with_capacity(json.len());
    match write_pretty(json, 0, &mut out) {
        Ok(()) => String::from_utf8(out).unwrap_or_default(),
        Err(_) => String::from_utf8_lossy(json).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_hidden_stays_hidden() {
        assert_eq!(
            visible("a\u{200b}b\u{1b}[0m\u{202e}\u{e0041}\n", 99),
            "a\\u{200b}b\\u{1b}[0m\\u{202e}\\u{e0041}\\n"
        );
        assert_eq!(visible("schön 🦀", 99), "schön 🦀");
        assert_eq!(visible("abcdef", 3), "abc…");
        assert_eq!(visible("abc", 3), "abc");
    }

    #[test]
    fn json_is_read_as_it_is_meant() {
        let shown = readable(br#"{"path":"\u002fetc\u002fpasswd\u202e","a":[1]}"#);
        assert_eq!(shown, "{\n  \"a\": [\n    1\n  ],\n  \"path\": \"/etc/passwd\\u202e\"\n}");
        assert_eq!(readable(b"x"), "x");
    }
}
