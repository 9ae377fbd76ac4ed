//! Which responses count as text, and their decoding.

/// A charset that is decoded without a table library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Charset {
    /// UTF-8 and its subset US-ASCII; malformed bytes become U+FFFD.
    Utf8,
    /// ISO-8859-1: each byte is the code point of that number.
    Latin1,
}

/// The media type without parameters, in lower case.
pub(crate) fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether a media type (see [`essence`]) is text that a model can read.
pub(crate) fn is_textual(essence: &str) -> bool {
    const NAMED: [&str; 9] = [
        "application/json",
        "application/xml",
        "application/javascript",
        "application/ecmascript",
        "application/yaml",
        "application/x-yaml",
        "application/toml",
        "application/x-ndjson",
        "application/sql",
    ];
    essence.starts_with("text/")
        || NAMED.contains(&essence)
        || (essence.starts_with("application/") && (essence.ends_with("+json") || essence.ends_with("+xml")))
        || essence == "image/svg+xml"
}

/// The charset parameter; UTF-8 if there is none.
///
/// # Errors
/// The name of a charset that is not supported.
pub(crate) fn charset(content_type: &str) -> Result<Charset, String> {
    let named = content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"').to_ascii_lowercase())
    });
    match named.as_deref() {
        None | Some("utf-8" | "utf8" | "us-ascii" | "ascii") => Ok(Charset::Utf8),
        Some("iso-8859-1" | "latin1") => Ok(Charset::Latin1),
        Some(other) => Err(other.chars().take(40).collect()),
    }
}

/// Decodes the bytes; `cut` says that the end is missing, so a split last character is dropped rather than replaced.
pub(crate) fn decode(bytes: &[u8], charset: Charset, cut: bool) -> String {
    match charset {
        Charset::Latin1 => bytes.iter().copied().map(char::from).collect(),
        Charset::Utf8 => {
            let whole = match std::str::from_utf8(bytes) {
                // `error_len` is None exactly when the input ends inside a character.
                Err(error) if cut && error.error_len().is_none() => bytes.get(..error.valid_up_to()).unwrap_or(bytes),
                _ => bytes,
            };
            String::from_utf8_lossy(whole).into_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_is_textual() {
        for yes in ["text/html", "text/plain", "application/json", "application/atom+xml", "application/ld+json"] {
            assert!(is_textual(yes), "{yes}");
        }
        for no in ["image/png", "application/octet-stream", "application/pdf", "video/mp4", "", "textual/x"] {
            assert!(!is_textual(no), "{no}");
        }
        assert_eq!(essence("Text/HTML; charset=utf-8"), "text/html");
    }

    #[test]
    fn charsets_are_found_and_unknown_ones_named() {
        assert_eq!(charset("text/html"), Ok(Charset::Utf8));
        assert_eq!(charset("text/html; Charset=\"UTF-8\""), Ok(Charset::Utf8));
        assert_eq!(charset("text/html;charset=iso-8859-1"), Ok(Charset::Latin1));
        assert_eq!(charset("text/html; charset=koi8-r"), Err("koi8-r".to_owned()));
    }

    #[test]
    fn decoding_is_lossy_inside_and_clean_at_a_cut() {
        assert_eq!(decode(b"a\xffb", Charset::Utf8, false), "a\u{fffd}b");
        assert_eq!(decode("aé".as_bytes().get(..2).unwrap(), Charset::Utf8, true), "a");
        assert_eq!(decode(b"caf\xe9", Charset::Latin1, false), "café");
    }
}
