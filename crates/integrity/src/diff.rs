//! What differs between two definitions, member by member, for people.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::show::visible;

/// Lines of one difference that are told.
const MAX_CHANGES: usize = 32;
/// Characters of a value that are told.
const MAX_SHOWN: usize = 200;
/// Characters before the first difference of two texts that are told.
const CONTEXT: usize = 24;

/// One member that is not what it was. Its text holds nothing hidden and has a bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was not there.
    Added(String, String),
    /// It is gone.
    Removed(String, String),
    /// It was something else.
    Changed(String, String, String),
    /// More members differ than are told.
    More(usize),
    /// What differs cannot be told member by member: numbers beyond counting, or a member that stands twice.
    Spelling,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Added(path, new) => write!(f, "+ {path}: {new}"),
            Change::Removed(path, old) => write!(f, "- {path}: {old}"),
            Change::Changed(path, old, new) => write!(f, "~ {path}: {old} -> {new}"),
            Change::More(count) => write!(f, "  and {count} more"),
            Change::Spelling => f.write_str("~ members that stand twice, or numbers beyond counting"),
        }
    }
}

impl Serialize for Change {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The differences between two definitions that are known to differ; `None` is one that is not there.
pub(crate) fn diff(old: Option<&[u8]>, new: Option<&[u8]>) -> Vec<Change> {
    let (old, new) = (flat(old), flat(new));
    let mut changes = Vec::new();
    for (path, before) in &old {
        match new.get(path) {
            None => changes.push(Change::Removed(path.clone(), shown(before, 0))),
            Some(after) if after != before => {
                let from = first_difference(before, after).saturating_sub(CONTEXT);
                changes.push(Change::Changed(path.clone(), shown(before, from), shown(after, from)));
            }
            Some(_) => {}
        }
    }
    let added = new.iter().filter(|(path, _)| !old.contains_key(*path));
    changes.extend(added.map(|(path, value)| Change::Added(path.clone(), shown(value, 0))));
    if changes.is_empty() {
        changes.push(Change::Spelling);
    }
    if changes.len() > MAX_CHANGES {
        let more = changes.len() - MAX_CHANGES;
        changes.truncate(MAX_CHANGES);
        changes.push(Change::More(more));
    }
    changes
}

/// The leaves of a definition under their paths.
fn flat(definition: Option<&[u8]>) -> BTreeMap<String, String> {
    let mut leaves = BTreeMap::new();
    if let Some(value) = definition.and_then(|definition| serde_json::from_slice::<Value>(definition).ok()) {
        collect(&value, String::new(), &mut leaves);
    }
    leaves
}

/// Nested no deeper than `serde_json` reads.
fn collect(value: &Value, path: String, leaves: &mut BTreeMap<String, String>) {
    let below = |name: &str| {
        let name = visible(name, MAX_SHOWN);
        if path.is_empty() { name } else { format!("{path}.{name}") }
    };
    match value {
        Value::Object(members) if !members.is_empty() => {
            members.iter().for_each(|(name, value)| collect(value, below(name), leaves));
        }
        Value::Array(list) if !list.is_empty() => {
            list.iter().enumerate().for_each(|(at, value)| collect(value, below(&at.to_string()), leaves));
        }
        leaf => drop(leaves.insert(path, leaf.to_string())),
    }
}

fn first_difference(one: &str, other: &str) -> usize {
    one.chars().zip(other.chars()).take_while(|(a, b)| a == b).count()
}

fn shown(text: &str, from: usize) -> String {
    let rest: String = text.chars().skip(from).take(MAX_SHOWN + 1).collect();
    let shown = visible(&rest, MAX_SHOWN);
    if from > 0 { format!("…{shown}") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(old: Option<&str>, new: Option<&str>) -> Vec<String> {
        diff(old.map(str::as_bytes), new.map(str::as_bytes)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_member_is_told() {
        let old = r#"{"name":"a","description":"Reads a file.","annotations":{"readOnlyHint":true},"x":[1,2]}"#;
        let new = r#"{"x":[1,3],"name":"a","description":"Reads a file.\u200b","inputSchema":{"type":"object"}}"#;
        assert_eq!(
            texts(Some(old), Some(new)),
            [
                "- annotations.readOnlyHint: true",
                "~ description: \"Reads a file.\" -> \"Reads a file.\\u{200b}\"",
                "~ x.1: 2 -> 3",
                "+ inputSchema.type: \"object\"",
            ]
        );
        assert_eq!(texts(None, Some(r#"{"name":"a"}"#)), ["+ name: \"a\""]);
        assert_eq!(texts(Some("{\"a\":1,\"a\":2}"), Some("{\"a\":2}")).len(), 1);
    }

    #[test]
    fn a_difference_at_the_end_of_a_long_text_is_seen_and_all_is_bounded() {
        let long = "x".repeat(5000);
        let (old, new) = (format!("{{\"d\":\"{long}\"}}"), format!("{{\"d\":\"{long}<IMPORTANT>{long}\"}}"));
        let text = &texts(Some(&old), Some(&new))[0];
        assert!(text.contains("<IMPORTANT>") && text.len() < 600, "{text}");
        let many: serde_json::Map<String, Value> = (0..100).map(|n| (n.to_string(), n.into())).collect();
        let told = texts(None, Some(&Value::Object(many).to_string()));
        assert_eq!((told.len(), told.last().unwrap().as_str()), (MAX_CHANGES + 1, "  and 68 more"));
    }
}
