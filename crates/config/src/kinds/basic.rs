//! Text, booleans, whole numbers, words from a list, paths, secrets.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde_json::json;

use super::{Kind, Mistake, quoted};
use crate::secret::Secret;
use crate::suggest;

/// Any text that is not empty.
pub fn text() -> Kind<String> {
    Kind::scalar(
        "text",
        json!({"type": "string", "minLength": 1}),
        |text| not_empty(text).map(str::to_owned),
        Clone::clone,
    )
}

/// A text with a rule of its own, and the pattern that a JSON Schema states for it.
pub struct Checked {
    /// The name in documentation.
    pub name: &'static str,
    /// A regular expression that every good value matches.
    pub pattern: &'static str,
    /// Whether a value is good.
    pub accepts: fn(&str) -> bool,
    /// What a good value looks like.
    pub hint: &'static str,
}

/// A text that must satisfy `rule`.
pub fn checked(rule: Checked) -> Kind<String> {
    let schema = json!({"type": "string", "pattern": rule.pattern});
    let name = rule.name;
    let parse = move |text: &str| {
        if (rule.accepts)(text) {
            return Ok(text.to_owned());
        }
        Err(Mistake::new(format!("{} is not a valid {}", quoted(text), rule.name), rule.hint))
    };
    Kind::scalar(name, schema, parse, Clone::clone)
}

/// A text that is never shown: not in `Debug`, not in a mistake.
pub fn secret() -> Kind<Secret> {
    let kind = Kind::scalar(
        "secret text",
        json!({"type": ["string", "number", "boolean"]}),
        |text| Ok(Secret::new(text)),
        |_| "(hidden)".into(),
    );
    Kind { is_secret: true, ..kind }
}

/// The SHA-256 of something in 64 hexadecimal digits, as lower case. Mistakes do not show the text: somebody may have put
/// the token itself here.
pub fn sha256() -> Kind<String> {
    let parse = |text: &str| {
        if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(text.to_ascii_lowercase());
        }
        Err(Mistake::new("not a SHA-256", "64 hexadecimal digits, from `printf %s \"$TOKEN\" | sha256sum`"))
    };
    let schema = json!({"type": "string", "pattern": "^[0-9a-fA-F]{64}$"});
    Kind { is_secret: true, ..Kind::scalar("SHA-256 in hexadecimal", schema, parse, Clone::clone) }
}

/// `true` or `false`, and nothing that merely resembles them (`yes`, `on`, `1`).
pub fn boolean() -> Kind<bool> {
    let parse = |text: &str| match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Mistake::new(format!("{} is not a boolean", quoted(text)), "write true or false")),
    };
    Kind::scalar("true or false", json!({"type": "boolean"}), parse, ToString::to_string)
}

/// A whole number inside a range.
pub fn integer(range: RangeInclusive<u64>) -> Kind<u64> {
    let (low, high) = (*range.start(), *range.end());
    let schema = json!({"type": "integer", "minimum": low, "maximum": high});
    let parse = move |text: &str| {
        let hint = format!("a whole number from {low} to {high}");
        // `parse` would take `+5`; digits only keeps file and environment as strict as the schema.
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse::<u64>() {
            Ok(value) if digits && range.contains(&value) => Ok(value),
            Ok(_) if digits => Err(Mistake::new(format!("{} is out of range", quoted(text)), hint)),
            _ => Err(Mistake::new(format!("{} is not a whole number", quoted(text)), hint)),
        }
    };
    Kind::scalar(format!("number {low} to {high}"), schema, parse, ToString::to_string)
}

/// A count of things held in memory: [`integer`] as `usize`.
pub fn count(range: RangeInclusive<u64>) -> Kind<usize> {
    let kind = integer(range);
    let parse = kind.from_text;
    let narrow = move |text: &str| {
        let too_large = |_| Mistake::new(format!("{} is too large for this machine", quoted(text)), "a smaller number");
        parse(text).and_then(|value| usize::try_from(value).map_err(too_large))
    };
    Kind::scalar(kind.name, kind.schema, narrow, ToString::to_string)
}

/// One word of a list, each standing for a value.
pub fn choice<T: Copy + PartialEq + 'static>(words: &'static [(&'static str, T)]) -> Kind<T> {
    let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let all = names.join(", ");
    let shown: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    let parse = move |text: &str| {
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let hint = match suggest::nearest(text, words.iter().map(|(word, _)| *word)) {
            Some(word) => format!("did you mean `{word}`? one of {all}"),
            None => format!("one of {all}"),
        };
        Err(Mistake::new(format!("{} is not known here", quoted(text)), hint))
    };
    let show = |value: &T| {
        let word = words.iter().find(|(_, known)| known == value).map(|(word, _)| *word);
        word.unwrap_or_default().to_owned()
    };
    Kind::scalar(shown.join(" | "), json!({"enum": names}), parse, show)
}

/// A path of the file system, as written: relative ones are the program's working directory's.
pub fn path() -> Kind<PathBuf> {
    let schema = json!({"type": "string", "minLength": 1});
    Kind::scalar("path", schema, |text| not_empty(text).map(PathBuf::from), |path| path.display().to_string())
}

fn not_empty(text: &str) -> Result<&str, Mistake> {
    if text.is_empty() || text.contains('\0') {
        return Err(Mistake::new("the text is empty or holds a zero byte", "write a value, or remove the line"));
    }
    Ok(text)
}
