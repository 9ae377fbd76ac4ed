//! Values of the headers that mirror parts of a message: plain text or `=?base64?...?=`.
//!
//! Source: MCP 2026-07-28, basic/transports/streamable-http, "Value Encoding" and "Server Validation".
//! Bytes in, text out: this module knows no HTTP library.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use thiserror::Error;

/// The revision that a request speaks.
pub const PROTOCOL_VERSION: &str = "mcp-protocol-version";
/// The JSON-RPC method of the body.
pub const METHOD: &str = "mcp-method";
/// With a refusal of a sidecar: its server got no byte of the call. Ours, and no header of MCP.
pub const UNSENT: &str = "x-mcpx-unsent";
/// What is left of a call's time, in milliseconds: from an ingress to a sidecar. Ours, and no header of MCP.
pub const DEADLINE: &str = "x-mcpx-deadline-ms";
/// `params.name`, `params.uri` or `params.taskId` of the body.
pub const NAME: &str = "mcp-name";
/// What the names of mirrored tool arguments start with.
pub const PARAM_PREFIX: &str = "mcp-param-";
/// The session of a legacy connection.
pub const SESSION_ID: &str = "mcp-session-id";
/// Where a legacy client resumes a stream.
pub const LAST_EVENT_ID: &str = "last-event-id";
/// `no` on SSE responses, so that other proxies do not collect them.
pub const ACCEL_BUFFERING: &str = "x-accel-buffering";

/// The largest integer that every JSON implementation reads exactly: 2^53 - 1.
pub const MAX_SAFE_INTEGER: i64 = (1 << 53) - 1;

const OPEN: &str = "=?base64?";
const CLOSE: &str = "?=";

/// Why a header value cannot be read. Maps to -32020 (`HeaderMismatch`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// A byte that a plain value may not hold.
    #[error("holds a character outside visible ASCII, space and tab; encode it as =?base64?...?=")]
    Character,
    /// The base64 part has a wrong alphabet, length or padding.
    #[error("is marked =?base64?...?= but its base64 is not valid")]
    Base64,
    /// The decoded bytes are not UTF-8.
    #[error("is marked =?base64?...?= but does not decode to UTF-8")]
    Utf8,
    /// The header stands several times with different values.
    #[error("stands more than once, with different values")]
    Conflict,
}

/// Reads a header value; blanks around it do not count.
///
/// # Errors
/// [`HeaderError::Character`], [`HeaderError::Base64`] or [`HeaderError::Utf8`].
pub fn decode(value: &[u8]) -> Result<Cow<'_, str>, HeaderError> {
    let value = trim(value);
    if !value.iter().copied().all(is_plain) {
        return Err(HeaderError::Character);
    }
    // Visible ASCII is UTF-8.
    let text = std::str::from_utf8(value).map_err(|_| HeaderError::Character)?;
    let Some(encoded) = text.strip_prefix(OPEN).and_then(|rest| rest.strip_suffix(CLOSE)) else {
        return Ok(Cow::Borrowed(text));
    };
    let bytes = STANDARD.decode(encoded).map_err(|_| HeaderError::Base64)?;
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| HeaderError::Utf8)
}

/// Writes a value so that [`decode`] gives it back: plain where that is possible.
pub fn encode(text: &str) -> Cow<'_, str> {
    let blank = |b: Option<&u8>| b.is_some_and(|b| matches!(b, b' ' | b'\t'));
    let bytes = text.as_bytes();
    let plain = bytes.iter().copied().all(is_plain) && !blank(bytes.first()) && !blank(bytes.last());
    // The two markers may overlap ("=?base64?="); peers that test them one by one would try to decode that.
    let marked = text.starts_with(OPEN) && text.ends_with(CLOSE);
    if plain && !marked {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{OPEN}{}{CLOSE}", STANDARD.encode(text)))
}

/// The one value of a header that may stand several times only if every copy is the same.
///
/// # Errors
/// [`HeaderError::Conflict`] when copies differ: taking the first would let two readers see two requests.
pub fn single<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<&'a [u8]>, HeaderError> {
    let mut values = values.into_iter();
    let Some(first) = values.next() else {
        return Ok(None);
    };
    if values.all(|other| trim(other) == trim(first)) { Ok(Some(first)) } else { Err(HeaderError::Conflict) }
}

/// The integer that a JSON number denotes, whatever its spelling (`42`, `42.0`, `4.2e1`), when it lies in the range
/// that every implementation reads exactly (see [`MAX_SAFE_INTEGER`]).
pub fn safe_integer(number: &str) -> Option<i64> {
    // serde_json checks the grammar; the value is computed here because an f64 would round.
    serde_json::from_str::<serde_json::Number>(number).ok()?;
    let (negative, unsigned) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number),
    };
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [whole, fraction].concat();
    let significant = digits.trim_end_matches('0');
    let dropped = i64::try_from(digits.len() - significant.len()).ok()?;
    let significant = significant.trim_start_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    let zeros = exponent.parse::<i64>().ok()?.checked_sub(i64::try_from(fraction.len()).ok()?)?.checked_add(dropped)?;
    // 2^53 has 16 digits, so more cannot be in range; fewer than zero zeros means a fraction is left.
    let zeros = u32::try_from(zeros).ok().filter(|zeros| significant.len() + *zeros as usize <= 16)?;
    let value = significant.parse::<i64>().ok()?.checked_mul(10_i64.checked_pow(zeros)?)?;
    (value <= MAX_SAFE_INTEGER).then_some(if negative { -value } else { value })
}

/// Whether a character may stand in the name of a header (`tchar`, RFC 9110 section 5.6.2).
pub fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

fn is_plain(b: u8) -> bool {
    matches!(b, b' '..=b'~' | b'\t')
}

fn trim(value: &[u8]) -> &[u8] {
    let start = value.iter().position(|b| !matches!(b, b' ' | b'\t')).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !matches!(b, b' ' | b'\t')).map_or(start, |last| last + 1);
    value.get(start..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_of_the_specification() {
        for (text, header) in [
            ("us-west1", "us-west1"),
            ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
            (" padded ", "=?base64?IHBhZGRlZCA=?="),
            ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
            ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
            ("a b\tc", "a b\tc"),
            ("", ""),
        ] {
            assert_eq!(encode(text), header);
            assert_eq!(decode(header.as_bytes()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn bad_values_are_refused() {
        assert_eq!(decode("检索".as_bytes()), Err(HeaderError::Character));
        assert_eq!(decode(b"a\x7fb"), Err(HeaderError::Character));
        for bad in
            ["=?base64?x?=", "=?base64?SGVsbG8?=", "=?base64?SGVs_G8=?=", "=?base64?SGV sbG8=?=", "=?base64?QR==?="]
        {
            assert_eq!(decode(bad.as_bytes()), Err(HeaderError::Base64), "{bad}");
        }
        assert_eq!(decode(b"=?base64?/w==?="), Err(HeaderError::Utf8));
    }

    #[test]
    fn markers_are_exact() {
        for plain in ["=?BASE64?eA==?=", "=?base64?eA==", "=?base64?="] {
            assert_eq!(decode(plain.as_bytes()).as_deref(), Ok(plain));
        }
        assert_eq!(decode(b" \t=?base64?eA==?= ").as_deref(), Ok("x"));
        assert_ne!(encode("=?base64?="), "=?base64?=");
    }

    #[test]
    fn copies_must_agree() {
        assert_eq!(single([]), Ok(None));
        assert_eq!(single([b"a".as_slice(), b" a "]), Ok(Some(b"a".as_slice())));
        assert_eq!(single([b"a".as_slice(), b"b"]), Err(HeaderError::Conflict));
    }

    #[test]
    fn integers_compare_by_value() {
        for (text, value) in [
            ("42", 42),
            ("42.0", 42),
            ("4.2e1", 42),
            ("420E-1", 42),
            ("-7", -7),
            ("-0.0", 0),
            ("0e999", 0),
            ("100", 100),
            ("9007199254740991", MAX_SAFE_INTEGER),
            ("-9007199254740991.000", -MAX_SAFE_INTEGER),
        ] {
            assert_eq!(safe_integer(text), Some(value), "{text}");
        }
        for bad in [
            "9007199254740992",
            "9007199254740990.5",
            "1.5",
            "1e-1",
            "1e99",
            "042",
            "+1",
            "0x1",
            "",
            " 1e",
            "1e99999999999999999999",
        ] {
            assert_eq!(safe_integer(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_text_survives(text in any::<String>()) {
            let header = encode(&text);
            prop_assert!(header.bytes().all(is_plain));
            let back = decode(header.as_bytes()).map(Cow::into_owned);
            prop_assert_eq!(back, Ok(text));
        }

        #[test]
        fn integers_agree_with_a_wide_computation(mantissa in -99_999_i64..=99_999, exponent in -6_i32..=6) {
            let value = i128::from(mantissa) * 10_i128.pow((exponent + 6).unsigned_abs());
            let expected = (value % 1_000_000 == 0).then_some((value / 1_000_000) as i64);
            prop_assert_eq!(safe_integer(&format!("{mantissa}e{exponent}")), expected);
        }
    }
}
