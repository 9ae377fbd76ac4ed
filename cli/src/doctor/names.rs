//! Names that LLM APIs refuse, or that the mesh has to shorten.
//!
//! The largest APIs take `^[A-Za-z0-9_-]{1,64}$` for tools and `^[A-Za-z0-9_.-]{1,64}$` for arguments.

use std::collections::HashMap;

use outrigger_mcp::names::Naming;
use serde_json::Value;

use super::report::{Level, Report};

/// The most bytes that APIs take.
const LONGEST: usize = 64;

/// Judges the name of a tool as it will be on the merged endpoint, and those of its arguments.
pub(super) fn tool(name: &str, schema: &Value, service: &str, report: &mut Report) {
    if !usable(name, "_-") {
        let what = "LLM APIs take only letters, digits, `_` and `-`, at most 64 of them; rename the tool";
        report.find(Level::Warning, "tool-name", name, what);
    }
    let naming = Naming::default();
    let exposed = naming.expose(service, name);
    if naming.shorten(service, name).is_some() {
        let what = format!("with the service's name before it it is too long, and will be called `{exposed}`");
        report.find(Level::Note, "name-shortened", name, what);
    }
    let arguments = schema.get("properties").and_then(Value::as_object);
    for argument in arguments.into_iter().flat_map(|map| map.keys()).filter(|argument| !usable(argument, "_-.")) {
        let what = format!("LLM APIs refuse the name of the argument `{argument}`; rename it");
        report.find(Level::Warning, "argument-name", name, what);
    }
}

/// Names that differ in case only, or in `_` and `-`: a model mixes them up.
pub(super) fn look_alikes<'a>(names: impl Iterator<Item = &'a str>, report: &mut Report) {
    let mut seen: HashMap<String, &str> = HashMap::new();
    for name in names {
        let folded = name.to_lowercase().replace('-', "_");
        if let Some(other) = seen.insert(folded, name) {
            report.find(Level::Warning, "look-alike", name, format!("a model will mix it up with `{other}`"));
        }
    }
}

fn usable(name: &str, signs: &str) -> bool {
    (1..=LONGEST).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || signs.contains(c))
}
