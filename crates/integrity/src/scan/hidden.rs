//! Characters that are in a text and not seen in it.

use crate::show::is_hidden;

/// What does not show in a text, in words.
pub(super) fn look(text: &str) -> Option<String> {
    if text.bytes().all(|b| matches!(b, b'\t' | b'\n' | b'\r' | b' '..=b'~')) {
        return None;
    }
    let right_to_left = text.chars().any(is_right_to_left);
    let (mut count, mut first) = (0_usize, None);
    let mut before = None;
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if is_hidden(c) && !has_its_place(c, before, rest.peek().copied(), right_to_left) {
            count += 1;
            first.get_or_insert(c);
        }
        before = Some(c);
    }
    let first = first?;
    let (number, word) = (first as u32, name(first));
    Some(match count {
        1 => format!("{word} (U+{number:04X})"),
        more => format!("{word} (U+{number:04X}), {more} characters in all that do not show"),
    })
}

/// Joiners inside words of scripts that need them, the selectors of emoji, and direction marks in text that runs from
/// right to left are how such texts are written.
fn has_its_place(c: char, before: Option<char>, after: Option<char>, right_to_left: bool) -> bool {
    let beyond_ascii = |c: Option<char>| c.is_some_and(|c| !c.is_ascii() && !is_hidden(c) || c == '\u{fe0f}');
    match c {
        '\u{200c}' | '\u{200d}' => beyond_ascii(before) && beyond_ascii(after),
        // Also those of keycaps: 1, selector, keycap.
        '\u{fe0f}' => beyond_ascii(before) || after == Some('\u{20e3}'),
        '\u{fe00}'..='\u{fe0e}' | '\u{180b}'..='\u{180d}' => beyond_ascii(before),
        '\u{200e}' | '\u{200f}' | '\u{61c}' => right_to_left,
        _ => false,
    }
}

fn is_right_to_left(c: char) -> bool {
    matches!(c, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}') && !is_hidden(c)
}

fn name(c: char) -> &'static str {
    match c {
        '\u{1b}' | '\u{9b}' => "a terminal escape",
        '\0'..='\x1f' | '\x7f'..='\u{9f}' => "a control character",
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}' => {
            "a character that turns text around"
        }
        '\u{e0000}'..='\u{e007f}' => "a tag character, which models can read and people cannot see",
        '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}' => "a variation selector, in which text can hide",
        _ => "a character of no width",
    }
}

#[cfg(test)]
mod tests {
    use super::look;

    #[test]
    fn what_does_not_show_is_found() {
        for (text, word) in [
            ("a\u{200b}b", "U+200B"),
            ("a\u{feff}", "no width"),
            ("gpj.\u{202e}exe", "turns text around"),
            ("a\u{2066}b", "turns text around"),
            ("\u{1b}[8mhidden", "terminal escape"),
            ("a\u{9b}0m", "terminal escape"),
            ("\u{8}", "control character"),
            ("ok\u{e0049}\u{e0067}", "2 characters"),
            ("ok\u{e0149}", "variation selector"),
            ("x\u{fe0f}\u{fe0f}", "variation selector"),
            ("re\u{ad}ad", "no width"),
            ("a\u{200d}b", "U+200D"),
            ("plain \u{200e} text", "turns text around"),
        ] {
            let found = look(text).unwrap_or_default();
            assert!(found.contains(word), "{text:?}: {found}");
        }
    }

    #[test]
    fn what_scripts_need_is_not() {
        for text in ["plain\ttext\r\n", "schön — “so”", "👩‍💻 ❤️ 1️⃣", "می‌خواهم", "שלום\u{200f}!", "क्‍ष", "日本語"]
        {
            assert_eq!(look(text), None, "{text}");
        }
    }
}
