//! One form for all spellings of a JSON value, so that what a client repeats can be compared with what it sent first: key
//! order, white space, escapes and the spelling of numbers do not count, everything else does.
//!
//! The form is for digests and is no JSON. Every value in it says where it ends, so no two values share a form:
//!
//! | value | form |
//! |---|---|
//! | `null`, `true`, `false` | `n`, `t`, `f` |
//! | number | `#`, its digits without zeros at either end, `e`, the exponent, `;`. `1`, `1.0` and `10e-1` are one number |
//! | string | `s`, length (4 bytes), the text in UTF-8; a lone surrogate in the three bytes that UTF-8 has no use for |
//! | array | `[`, elements, `]` |
//! | object | `{`, members by key, `}`; those of one key in the order of the text, because readers differ in which one they take |

use crate::json::{JsonError, MAX_DEPTH, Scanner};

/// The canonical form of a JSON text. What is none has one too, which no JSON text has.
pub fn canonical(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 16);
    let read = Scanner::new(text, MAX_DEPTH).and_then(|mut scanner| {
        value(text, &mut scanner, &mut out)?;
        scanner.finish()
    });
    if read.is_err() {
        out.clear();
        out.push(b'!');
        out.extend_from_slice(text);
    }
    out
}

/// Nested no deeper than the scanner allows.
fn value(text: &[u8], scanner: &mut Scanner<'_>, out: &mut Vec<u8>) -> Result<(), JsonError> {
    match scanner.peek() {
        Some(b'{') => return object(text, scanner, out),
        Some(b'[') => {
            out.push(b'[');
            scanner.array::<JsonError, _>(|scanner| value(text, scanner, out))?;
            out.push(b']');
            return Ok(());
        }
        _ => {}
    }
    let token = scanner.value()?.of(text);
    match token.first() {
        Some(b'"') => string(token, out),
        Some(&word @ (b'n' | b't' | b'f')) => out.push(word),
        _ => number(token, out),
    }
    Ok(())
}

fn object(text: &[u8], scanner: &mut Scanner<'_>, out: &mut Vec<u8>) -> Result<(), JsonError> {
    out.push(b'{');
    let begin = out.len();
    // Where each member lies in the form, and where its key ends.
    let mut members: Vec<(usize, usize, usize)> = Vec::new();
    scanner.object::<JsonError, _>(|key, scanner| {
        let start = out.len();
        string(key.span.of(text), out);
        let key_end = out.len();
        value(text, scanner, out)?;
        members.push((start, key_end, out.len()));
        Ok(())
    })?;
    let written = out.split_off(begin);
    let part = |from: usize, to: usize| written.get(from - begin..to - begin).unwrap_or_default();
    members.sort_by(|(a, a_end, _), (b, b_end, _)| part(*a, *a_end).cmp(part(*b, *b_end)));
    for (start, _, end) in members {
        out.extend_from_slice(part(start, end));
    }
    out.push(b'}');
    Ok(())
}

fn string(token: &[u8], out: &mut Vec<u8>) {
    out.push(b's');
    let length = out.len();
    out.extend_from_slice(&[0; 4]);
    let mut rest = token.get(1..token.len().saturating_sub(1)).unwrap_or_default();
    while let Some(at) = rest.iter().position(|&b| b == b'\\') {
        out.extend_from_slice(rest.get(..at).unwrap_or_default());
        rest = unescape(rest.get(at..).unwrap_or_default(), out);
    }
    out.extend_from_slice(rest);
    // A text that has spans is shorter than this can count.
    let written = (out.len() - length - 4) as u32;
    if let Some(place) = out.get_mut(length..length + 4) {
        place.copy_from_slice(&written.to_be_bytes());
    }
}

/// Writes the character of the escape that `text` begins with; gives what follows it.
fn unescape<'a>(text: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    let after = |n: usize| text.get(n..).unwrap_or_default();
    let plain = match text.get(1) {
        Some(b'b') => 8,
        Some(b'f') => 12,
        Some(b'n') => b'\n',
        Some(b'r') => b'\r',
        Some(b't') => b'\t',
        Some(b'u') => {
            let first = unit(text).unwrap_or_default();
            let second = unit(after(6)).filter(|low| (0xDC00..0xE000).contains(low));
            return match second.filter(|_| (0xD800..0xDC00).contains(&first)) {
                Some(low) => {
                    utf8(0x10000 + ((first - 0xD800) << 10) + (low - 0xDC00), out);
                    after(12)
                }
                None => {
                    utf8(first, out);
                    after(6)
                }
            };
        }
        Some(&other) => other,
        None => return &[],
    };
    out.push(plain);
    after(2)
}

/// The number of a `\uXXXX` at the start.
fn unit(text: &[u8]) -> Option<u32> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Surrogates that stand alone get the three bytes that a character of their number would have.
fn utf8(code: u32, out: &mut Vec<u8>) {
    match char::from_u32(code) {
        Some(char) => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        None => {
            out.extend([0xE0 | (code >> 12) as u8, 0x80 | (code >> 6 & 0x3F) as u8, 0x80 | (code & 0x3F) as u8]);
        }
    }
}

fn number(token: &[u8], out: &mut Vec<u8>) {
    out.push(b'#');
    let (sign, rest) = token.strip_prefix(b"-").map_or((&b""[..], token), |rest| (b"-", rest));
    let (mantissa, exponent) = match rest.iter().position(|b| matches!(b, b'e' | b'E')) {
        Some(at) => (rest.get(..at).unwrap_or_default(), rest.get(at + 1..).unwrap_or_default()),
        None => (rest, &b"0"[..]),
    };
    let fraction = mantissa.iter().position(|&b| b == b'.').map_or(0, |at| mantissa.len() - at - 1);
    let start = out.len();
    out.extend_from_slice(sign);
    let digits = mantissa.iter().filter(|b| b.is_ascii_digit()).skip_while(|&&b| b == b'0');
    out.extend(digits);
    let before = out.len();
    while out.len() > start && out.last() == Some(&b'0') {
        out.pop();
    }
    if out.len() == start + sign.len() {
        // Zero has no sign: encoders disagree about that of -0.
        out.truncate(start);
        out.extend_from_slice(b"0;");
        return;
    }
    let dropped = before - out.len();
    match std::str::from_utf8(exponent).ok().and_then(|text| text.parse::<i64>().ok()) {
        Some(exponent) => {
            let exponent = i128::from(exponent) + dropped as i128 - fraction as i128;
            out.extend_from_slice(format!("e{exponent};").as_bytes());
        }
        // Beyond all counting it is only equal to itself.
        None => {
            out.truncate(start);
            out.push(b'=');
            out.extend_from_slice(token);
            out.push(b';');
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn spellings_of_one_value_share_a_form() {
        for same in [
            &[r#"{"a":1,"b":[true,null]}"#, "{ \"b\" : [ true , null ],\n\"\\u0061\":1.0 }"][..],
            &[r#""\u00e9\n\/\ud83e\udd80\"""#, "\"é\\u000a/🦀\\u0022\""],
            &["100", "1e2", "1E+2", "100.000", "1000e-1", "0.1e3"],
            &["0", "-0", "0.0", "0e9", "0E99999999999999999999"],
            &["-1.50", "-15e-1"],
            &["12345678901234567890123", "12345678901234567890123.0"],
            &[r#"{"x":{"q":1,"p":2},"":[]}"#, r#"{"":[],"x":{"p":2,"q":1}}"#],
            &[r#""\ud800""#, r#""\uD800""#],
        ] {
            let forms: Vec<_> = same.iter().map(|text| canonical(text.as_bytes())).collect();
            assert!(forms.iter().all(|form| *form == forms[0]), "{same:?}");
        }
    }

    #[test]
    fn different_values_do_not() {
        let different = [
            "null",
            "true",
            "false",
            "0",
            "1",
            "-1",
            "10",
            "1.1",
            "11",
            "\"1\"",
            "\"\"",
            "[]",
            "{}",
            "[[]]",
            "[{}]",
            "[1,1]",
            "[11]",
            "[\"\",\"\"]",
            "[\"\"]",
            r#"{"a":1}"#,
            r#"{"a":"1"}"#,
            r#"{"a":1,"a":2}"#,
            r#"{"a":2,"a":1}"#,
            r#"{"a":2}"#,
            r#"{"a":{"b":1}}"#,
            r#"{"a":{},"b":1}"#,
            r#"["a","b"]"#,
            r#"["ab"]"#,
            r#"{"a":["b"]}"#,
            "9007199254740993",
            "9007199254740992",
            "1e400",
            "1e401",
            "1e99999999999999999999",
            "1e99999999999999999998",
            r#""\ud800""#,
            r#""\udc00""#,
            "\"\u{fffd}\"",
            r#""\ud83e\udd80""#,
            r#""\udd80\ud83e""#,
            "x",
            "",
            "1 2",
        ];
        for (i, one) in different.iter().enumerate() {
            for other in &different[i + 1..] {
                assert_ne!(canonical(one.as_bytes()), canonical(other.as_bytes()), "{one} and {other}");
            }
        }
    }

    #[test]
    fn what_is_nested_too_deep_is_taken_as_it_is() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        assert_eq!(canonical(deep.as_bytes())[..3], *b"![[");
        let allowed = "[".repeat(128) + &"]".repeat(128);
        assert_eq!(canonical(allowed.as_bytes()), allowed.as_bytes());
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-20i64..20).prop_map(Value::from),
            "[a\"\\\\\u{0}-\u{20}é🦀]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[ab\"é]{0,2}", inner, 0..4).prop_map(|map| json!(map)),
            ]
        })
    }

    /// The same value as another encoder would write it; `dice` says how.
    fn spelt(value: &Value, dice: &mut impl Iterator<Item = u8>, out: &mut String) {
        let mut roll = || dice.next().unwrap_or_default();
        let space = [" ", "", "\n\t", ""][usize::from(roll() % 4)];
        out.push_str(space);
        match value {
            Value::Array(list) => {
                out.push('[');
                for (i, one) in list.iter().enumerate() {
                    out.push_str(if i > 0 { "," } else { "" });
                    spelt(one, dice, out);
                }
                out.push(']');
            }
            Value::Object(map) => {
                let mut members: Vec<_> = map.iter().collect();
                let turn = usize::from(roll()) % members.len().max(1);
                members.rotate_left(turn);
                out.push('{');
                for (i, (key, one)) in members.into_iter().enumerate() {
                    out.push_str(if i > 0 { "," } else { "" });
                    spelt(&Value::from(key.as_str()), dice, out);
                    out.push_str(": ");
                    spelt(one, dice, out);
                }
                out.push('}');
            }
            Value::String(text) if roll() % 2 == 0 => {
                let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
                out.push_str(&format!("\"{escaped}\""));
            }
            Value::Number(number) => {
                out.push_str(&format!("{number}{}", ["", ".0", "e0", ".00E+0"][usize::from(roll() % 4)]))
            }
            other => out.push_str(&other.to_string()),
        }
        out.push_str(space);
    }

    proptest! {
        #[test]
        fn a_form_says_the_value_and_nothing_else(one in values(), other in values(), dice: Vec<u8>) {
            let mut again = String::new();
            spelt(&one, &mut dice.into_iter().cycle(), &mut again);
            let form = canonical(one.to_string().as_bytes());
            prop_assert_eq!(&form, &canonical(again.as_bytes()), "{}", again);
            prop_assert_eq!(one == other, form == canonical(other.to_string().as_bytes()));
        }

        #[test]
        fn any_text_has_one(text in any::<String>()) {
            canonical(text.as_bytes());
        }
    }
}
