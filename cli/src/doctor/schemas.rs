//! Schemas of tools: are they JSON Schema at all, and do LLM APIs take them?

use serde_json::Value;

use super::report::{Level, Report};

/// At the top of a tool's schema, these are refused by LLM APIs, although MCP allows them.
const REFUSED_ON_TOP: [&str; 5] = ["anyOf", "oneOf", "allOf", "not", "enum"];
/// As in messages elsewhere; deeper schemas are not looked into.
const MAX_DEPTH: usize = 128;

/// Judges the schema of a tool's arguments.
pub(super) fn input(tool: &str, schema: Option<&Value>, report: &mut Report) {
    let Some(schema) = schema.filter(|schema| schema.is_object()) else {
        return report.find(
            Level::Error,
            "schema-missing",
            tool,
            "it has no inputSchema; clients refuse the whole list",
        );
    };
    if schema.get("type").and_then(Value::as_str) != Some("object") {
        report.find(Level::Error, "schema-type", tool, "its inputSchema must have `\"type\": \"object\"`");
    }
    for word in REFUSED_ON_TOP.into_iter().filter(|word| schema.get(*word).is_some()) {
        let what = format!("LLM APIs refuse `{word}` at the top of a schema; move it into a property");
        report.find(Level::Warning, "schema-combinator", tool, what);
    }
    any("inputSchema", tool, schema, report);
}

/// Judges the schema of a tool's structured results.
pub(super) fn output(tool: &str, schema: Option<&Value>, report: &mut Report) {
    if let Some(schema) = schema {
        any("outputSchema", tool, schema, report);
    }
}

fn any(which: &str, tool: &str, schema: &Value, report: &mut Report) {
    if let Err(error) = jsonschema::meta::validate(schema) {
        let place = error.instance_path().to_string();
        let place = if place.is_empty() { "/".to_owned() } else { place };
        return report.find(Level::Error, "schema-invalid", tool, format!("{which} at {place}: {error}"));
    }
    let mut references = Vec::new();
    collect(schema, &mut references, 0);
    for reference in references {
        let Some(pointer) = reference.strip_prefix('#') else {
            let what = format!("{which} refers to `{reference}`, which clients must not fetch; put it under `$defs`");
            report.find(Level::Error, "schema-remote", tool, what);
            continue;
        };
        // Other anchors than pointers exist, and are rare.
        if (pointer.is_empty() || pointer.starts_with('/')) && schema.pointer(pointer).is_none() {
            let what = format!("{which} refers to `{reference}`, and nothing is there");
            report.find(Level::Error, "schema-reference", tool, what);
        }
    }
}

fn collect<'a>(value: &'a Value, references: &mut Vec<&'a str>, depth: usize) {
    if depth == MAX_DEPTH {
        return;
    }
    match value {
        Value::Object(map) => {
            references.extend(map.get("$ref").and_then(Value::as_str));
            map.values().for_each(|value| collect(value, references, depth + 1));
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, references, depth + 1)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judge(schema: Value) -> Vec<&'static str> {
        let mut report = Report::new("x");
        input("t", Some(&schema), &mut report);
        report.findings.iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn good_schemas_give_nothing() {
        assert!(judge(json!({"type": "object"})).is_empty());
        let defined =
            json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "string"}}});
        assert!(judge(defined).is_empty());
        let old = json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "additionalProperties": false});
        assert!(judge(old).is_empty());
    }

    #[test]
    fn broken_schemas_are_named() {
        assert_eq!(judge(json!({"type": "object", "properties": {"a": {"type": "text"}}})), ["schema-invalid"]);
        assert_eq!(judge(json!({"properties": {}})), ["schema-type"]);
        assert_eq!(judge(json!({"type": "object", "anyOf": [{}]})), ["schema-combinator"]);
        let dangling = json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}});
        assert_eq!(judge(dangling), ["schema-reference"]);
        let remote = json!({"type": "object", "properties": {"a": {"$ref": "https://example.com/a.json"}}});
        assert_eq!(judge(remote), ["schema-remote"]);
    }
}
