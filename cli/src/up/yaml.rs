//! Writes settings as YAML that people like to read. Only what settings need: sections, lists and scalars.

use std::fmt::Write;

use serde_json::Value;

/// The value (an object) as YAML, under a comment of one line.
pub(crate) fn document(comment: &str, value: &Value) -> String {
    let mut out = format!("# {comment}\n");
    section(&mut out, value, 0);
    out
}

fn section(out: &mut String, value: &Value, depth: usize) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let _ = write!(out, "{:width$}{}:", "", scalar(&Value::from(key.as_str())), width = depth * 2);
        match value {
            Value::Object(members) if !members.is_empty() => {
                out.push('\n');
                section(out, value, depth + 1);
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                out.push('\n');
                for item in items {
                    let _ = writeln!(out, "{:width$}- {item}", "", width = depth * 2 + 2);
                }
            }
            Value::Array(items) => {
                let items: Vec<String> = items.iter().map(ToString::to_string).collect();
                let _ = writeln!(out, " [{}]", items.join(", "));
            }
            other => {
                let _ = writeln!(out, " {}", scalar(other));
            }
        }
    }
}

/// Plain where no reader could take it for anything but this text, else in double quotes: JSON's escapes are YAML's.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        other => other.to_string(),
    }
}

fn is_plain(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    let reserved = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.bytes().all(word)
        && !reserved.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use outrigger_config::{Document, Node};
    use serde_json::json;

    use super::document;

    #[test]
    fn values_come_back_as_they_were() {
        let awkward = "no: \"quote\" \\ # \u{1} ü\n";
        let value = json!({"service": "fs", "listen": "127.0.0.1:0", "off": "off", "on": true, "count": 3,
            "command": ["x", "", awkward, "1"], "env": {awkward: awkward}, "tokens": [{"subject": awkward}], "none": {}});
        let text = document("a comment", &value);
        let parsed = Document::parse("x.yaml", &text).unwrap_or_else(|wrong| panic!("{wrong}\n{text}"));
        let get = |key: &str| parsed.node.get(key).and_then(Node::text);
        assert_eq!((get("service"), get("listen"), get("off")), (Some("fs"), Some("127.0.0.1:0"), Some("off")));
        let words: Vec<_> = parsed.node.get("command").and_then(Node::items).unwrap().iter().map(Node::text).collect();
        assert_eq!(words, [Some("x"), Some(""), Some(awkward), Some("1")]);
        let env = parsed.node.get("env").and_then(Node::entries).unwrap();
        assert_eq!((env[0].key.as_str(), env[0].value.text()), (awkward, Some(awkward)));
        let tokens = parsed.node.get("tokens").and_then(Node::items).unwrap();
        assert_eq!(tokens[0].get("subject").and_then(Node::text), Some(awkward));
        assert!(text.contains("\nservice: fs\n"), "{text}");
    }
}
