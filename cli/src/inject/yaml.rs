//! Manifests as text: documents that are not ours to change keep their bytes, others are read as Kubernetes reads them (YAML
//! 1.1: `0644` is octal, `yes` is true) and written so that every reader takes them for the same.

use std::fmt::Write as _;

use outrigger_config::{Diagnostics, Document, Node, Value as Held};
use serde_json::{Map, Number, Value};

/// One document of a file, with the line that begins it.
pub(crate) struct Part<'a> {
    text: &'a str,
    /// Lines of the file before it.
    line: usize,
}

/// The documents of a file, in order. Together they are the file.
pub(crate) fn split(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 0, 0);
    for (line, content) in text.split_inclusive('\n').enumerate() {
        let begins =
            content.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if begins && at > start {
            parts.extend(text.get(start..at).map(|text| Part { text, line: start_line }));
            (start, start_line) = (at, line);
        }
        at += content.len();
    }
    parts.extend(text.get(start..).filter(|text| !text.is_empty()).map(|text| Part { text, line: start_line }));
    parts
}

impl<'a> Part<'a> {
    /// As it stands in the file.
    pub(crate) fn text(&self) -> &'a str {
        self.text
    }

    /// What it says; none when nothing stands there.
    pub(crate) fn read(&self, file: &str) -> Result<Option<Value>, Diagnostics> {
        // Mistakes then have the lines of the file.
        let placed = format!("{}{}", "\n".repeat(self.line), self.text);
        let document = Document::parse(file, &placed)?;
        if let [first, ..] = document.mistakes() {
            return Err(first.clone().into());
        }
        if document.node.value == Held::Null {
            return Ok(None);
        }
        json(&document, &document.node).map(Some)
    }

    /// Something else in its place.
    pub(crate) fn replaced(&self, value: &Value) -> String {
        let mut out = if self.text.starts_with("---") { "---\n".to_owned() } else { String::new() };
        block(&mut out, value, 0);
        out
    }
}

fn json(document: &Document, node: &Node) -> Result<Value, Diagnostics> {
    Ok(match &node.value {
        Held::Null => Value::Null,
        Held::Scalar(scalar) if scalar.plain => plain(&scalar.text),
        Held::Scalar(scalar) => Value::from(scalar.text.as_str()),
        Held::Seq(items) => items.iter().map(|item| json(document, item)).collect::<Result<_, _>>()?,
        Held::Map(entries) => {
            let mut members = Map::new();
            for entry in entries {
                if entry.key == "<<" {
                    let message = "merge keys are not read";
                    return Err(document.diagnostic(entry.at, "", message).hint("write the members out").into());
                }
                members.insert(entry.key.clone(), json(document, &entry.value)?);
            }
            Value::Object(members)
        }
    })
}

/// What a text without quotes means.
fn plain(text: &str) -> Value {
    match text {
        "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Value::Bool(false),
        _ => number(text).map_or_else(|| Value::from(text), Value::Number),
    }
}

fn number(text: &str) -> Option<Number> {
    let digits = text.trim_start_matches(['+', '-']);
    if text.len() - digits.len() > 1 || !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let radix = |digits: &str, radix| u64::from_str_radix(digits, radix).ok();
    let whole = match digits.as_bytes() {
        [b'0', b'x', ..] => radix(digits.get(2..)?, 16),
        [b'0', b'o', ..] => radix(digits.get(2..)?, 8),
        [b'0', b'b', ..] => radix(digits.get(2..)?, 2),
        [b'0', _, ..] if digits.bytes().all(|digit| digit.is_ascii_digit()) => radix(digits, 8),
        _ => digits.parse().ok(),
    };
    match whole {
        Some(whole) if text.starts_with('-') => Some(Number::from(0_i64.checked_sub_unsigned(whole)?)),
        Some(whole) => Some(Number::from(whole)),
        None if digits.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte)) => {
            text.parse().ok().and_then(Number::from_f64)
        }
        None => None,
    }
}

fn block(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(members) if !members.is_empty() => members.iter().for_each(|(name, value)| {
            let _ = write!(out, "{:width$}{}:", "", text(name), width = depth * 2);
            // Lists of Kubernetes are not indented below their name.
            below(out, value, if value.is_array() { depth } else { depth + 1 });
        }),
        Value::Array(items) if !items.is_empty() => items.iter().for_each(|item| {
            let _ = write!(out, "{:width$}-", "", width = depth * 2);
            let mut inner = String::new();
            match item {
                Value::Object(members) if !members.is_empty() => {
                    block(&mut inner, item, depth + 1);
                    // The first member stands behind the dash.
                    let _ = write!(out, " {}", inner.trim_start());
                }
                other => below(out, other, depth + 1),
            }
        }),
        other => {
            let _ = writeln!(out, "{:width$}{}", "", scalar(other), width = depth * 2);
        }
    }
}

/// A value behind its name or dash.
fn below(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            out.push('\n');
            block(out, value, depth);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            block(out, value, depth);
        }
        Value::String(lines) if is_literal(lines) => {
            let lines_end = lines.ends_with('\n');
            let _ = writeln!(out, " |{}", if lines_end { "" } else { "-" });
            for line in lines.lines() {
                let width = if line.is_empty() { 0 } else { depth.max(1) * 2 };
                let _ = writeln!(out, "{:width$}{line}", "");
            }
        }
        other => {
            let _ = writeln!(out, " {}", scalar(other));
        }
    }
}

/// Several lines that can stand as they are: no reader may strip or fold anything of them.
fn is_literal(text: &str) -> bool {
    let good = |line: &str| !line.ends_with(' ') && line.chars().all(is_printable);
    text.contains('\n') && !text.starts_with([' ', '\n']) && !text.ends_with("\n\n") && text.split('\n').all(good)
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(value) => text(value),
        other => other.to_string(),
    }
}

/// Without quotes where no reader could take it for anything but this text.
fn text(value: &str) -> String {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    let reserved = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let is_plain = value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && value.bytes().all(word)
        && !reserved.contains(&value.to_ascii_lowercase().as_str());
    if is_plain {
        return value.to_owned();
    }
    let mut out = String::from("\"");
    for character in value.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            other if is_printable(other) => out.push(other),
            other => {
                let _ = write!(out, "\\U{:08X}", u32::from(other));
            }
        }
    }
    out.push('"');
    out
}

fn is_printable(character: char) -> bool {
    !character.is_control() && !matches!(character, '\u{2028}' | '\u{2029}' | '\u{FEFF}' | '\u{FFFE}' | '\u{FFFF}')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Value {
        split(text).first().unwrap().read("x.yaml").unwrap().unwrap()
    }

    #[test]
    fn documents_are_told_apart_and_together_are_the_file() {
        let text = "# first\na: 1\n---\nb: |\n  ---\n  x\n--- # third\nc: 3\n---\n";
        let parts = split(text);
        assert_eq!(parts.iter().map(Part::text).collect::<String>(), text);
        let values: Vec<_> = parts.iter().map(|part| part.read("x").unwrap()).collect();
        assert_eq!(values, [Some(json!({"a": 1})), Some(json!({"b": "---\nx\n"})), Some(json!({"c": 3})), None]);
        let wrong = split("a: 1\n---\nb: [\n").get(1).unwrap().read("x.yaml").unwrap_err().to_string();
        assert!(wrong.contains("x.yaml:3") || wrong.contains("x.yaml:4"), "{wrong}");
    }

    #[test]
    fn texts_without_quotes_mean_what_kubernetes_takes_them_for() {
        let text = "[0644, 0x1F, 0o17, 12, -3, 1.5, 1e3, yes, Off, ~, NULL, 1.2.3, 10m, 64Mi, 08, \"12\", 12-3, .5, +]";
        let meant = json!([
            420, 31, 15, 12, -3, 1.5, 1000.0, true, false, null, null, "1.2.3", "10m", "64Mi", 8.0, "12", "12-3", 0.5,
            "+"
        ]);
        assert_eq!(read(text), meant);
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let value = json!({"kind": "Pod", "no": "yes", "0644": "0644", "empty": {}, "none": [], "null": null,
            "lines": "a\n  b\n\nc\n", "open": "a\nb", "odd": " a\nb ", "blank": "a \nb", "twice": "a\n\n", "quote": "\"\\\u{7f}\u{2028}\t",
            "list": [{"a": [1, [2, 3]], "b": {"c": "d: e"}}, "x\ny\n", [], {}, [["deep"]], -1, 1.5, true], "at": "a: b # c", "dash": "- a",
            "star": "*a", "number": "12", "space": "", "unicode": "ü → 🦀"});
        let part = Part { text: "---\n", line: 0 };
        let written = part.replaced(&value);
        assert_eq!(read(&written), value, "{written}");
        let again: Value = value.clone();
        assert_eq!(Part { text: "a: b", line: 0 }.replaced(&again), written.trim_start_matches("---\n"));
    }

    #[test]
    fn what_would_be_lost_is_a_mistake() {
        let wrong = |text: &str| split(text).first().unwrap().read("x.yaml").unwrap_err().to_string();
        assert!(wrong("a: &x { b: 1 }\nc: { <<: *x }\n").contains("merge keys"));
        assert!(wrong("a: 1\na: 2\n").contains('a'));
    }
}
