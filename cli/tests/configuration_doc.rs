//! `docs/CONFIGURATION.md` is written by the code. This test fails when it is stale; `UPDATE_DOCS=1` rewrites it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use outrigger::docs::{configuration, programs};

#[test]
fn the_configuration_page_is_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/CONFIGURATION.md");
    let page = configuration();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    if written != page {
        let line = written.lines().zip(page.lines()).position(|(old, new)| old != new);
        let line = line.unwrap_or_else(|| written.lines().count().min(page.lines().count())) + 1;
        panic!(
            "docs/CONFIGURATION.md is stale from line {line}; run: UPDATE_DOCS=1 cargo test -p outrigger --test configuration_doc"
        );
    }
}

#[test]
fn every_setting_is_explained() {
    for (program, _, settings) in programs() {
        for setting in &settings.0 {
            let name = format!("{program}: {:?}", setting.path);
            assert!(setting.doc.text.ends_with(['.', '`']), "{name}: the text is no sentence");
            if setting.default.is_some() {
                assert!(!setting.doc.reason.is_empty(), "{name}: a default without a reason");
            }
            let paths = settings.0.iter().filter(|other| other.path == setting.path).count();
            assert_eq!(paths, 1, "{name}: declared twice");
            // What may be absent or repeated has no one value that a variable could give.
            let one = |kind: &str| kind == "section" || kind == outrigger_config::OPTIONAL_OR;
            let mut holders = settings.0.iter().filter(|other| other.schema.is_none() && !one(&other.kind));
            let fixed = holders.all(|holder| !setting.path.starts_with(&holder.path));
            assert!(fixed || setting.doc.env.is_none(), "{name}: a variable inside an optional or repeated section");
        }
        let mut variables = settings.variables();
        variables.sort_unstable();
        let all = variables.len();
        variables.dedup();
        assert_eq!(variables.len(), all, "{program}: one variable for two settings");
        // One has the name that its specification gives it.
        let named = |name: &&str| name.starts_with("OUTRIGGER_") || *name == "SPIFFE_ENDPOINT_SOCKET";
        assert!(variables.iter().all(named), "{program}: {variables:?}");
    }
}

#[test]
fn defaults_satisfy_the_schemas() {
    for (program, _, settings) in programs() {
        let schema = settings.to_json_schema(program);
        assert_defaults(&schema, program);
    }
}

/// The parts of JSON Schema that our kinds use.
fn assert_defaults(schema: &serde_json::Value, path: &str) {
    if let Some(default) = schema.get("default") {
        if let Some(words) = schema.get("enum").and_then(|words| words.as_array()) {
            assert!(words.contains(default), "{path}: {default}");
        }
        if let (Some(low), Some(value)) = (schema["minimum"].as_u64(), default.as_u64()) {
            assert!(low <= value && value <= schema["maximum"].as_u64().unwrap(), "{path}: {default}");
        }
        match schema["type"].as_str() {
            Some("integer") => assert!(default.is_u64(), "{path}: {default}"),
            Some("boolean") => assert!(default.is_boolean(), "{path}: {default}"),
            Some("string") => assert!(default.is_string(), "{path}: {default}"),
            _ => {}
        }
    }
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        assert_defaults(member, &format!("{path}.{name}"));
    }
    for inside in ["items", "additionalProperties"] {
        if schema[inside].is_object() {
            assert_defaults(&schema[inside], &format!("{path}.{inside}"));
        }
    }
}

/// The table of annotations in docs/KUBERNETES.md, between its marks.
#[test]
fn the_table_of_annotations_is_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/KUBERNETES.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- annotations -->\n", "<!-- /annotations -->");
    let (before, rest) = page.split_once(begin).unwrap();
    let (table, after) = rest.split_once(end).unwrap();
    let wanted = format!("\n{}\n", outrigger_inject::annotations::table());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{begin}{wanted}{end}{after}")).unwrap();
    } else if table != wanted {
        panic!(
            "the annotations in docs/KUBERNETES.md are stale; run: UPDATE_DOCS=1 cargo test -p outrigger --test configuration_doc"
        );
    }
}
