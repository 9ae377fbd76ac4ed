//! `docs/CONFIGURATION.md` is written by the code. This test fails when it is stale; `UPDATE_DOCS=1` rewrites it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use outrigger::manifest::Manifest;
use outrigger_config::Settings;

const INTRODUCTION: &str = "\
# Configuration

<!-- Written by `UPDATE_DOCS=1 cargo test -p outrigger --test configuration_doc`. Do not edit by hand. -->

Every setting has one name, one default, and a reason for it. Three programs have settings: `outrigger up` reads
`mesh.yaml` and writes the files of the other two; the ingress and the sidecar are configured directly where something
else starts them.

- A file is YAML. A setting's name is its path: `timeouts.drain` is `drain` inside `timeouts`.
- A setting with an environment variable can be given there instead, and the variable wins over the file. A list is then
  separated by commas, a command is one line with quotes, and an empty variable counts as unset.
- Durations are a number and a unit: `250ms`, `30s`, `5m`, `2h`, `1d`. Sizes: `512B`, `32KiB`, `4MiB`, `1GiB`. Booleans are
  `true` and `false`, nothing else.
- A wrong file gives every mistake at once, each with line, column and a hint, and nothing starts. An unknown setting is a
  mistake.
- A file may have 1 MiB, 100,000 values and 32 levels. Anchors work; merge keys (`<<`) do not.

";

#[test]
fn the_configuration_page_is_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/CONFIGURATION.md");
    let page = page();
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
    for (program, settings) in programs() {
        for setting in &settings.0 {
            let name = format!("{program}: {:?}", setting.path);
            assert!(setting.doc.text.ends_with(['.', '`']), "{name}: the text is no sentence");
            if setting.default.is_some() {
                assert!(!setting.doc.reason.is_empty(), "{name}: a default without a reason");
            }
            let paths = settings.0.iter().filter(|other| other.path == setting.path).count();
            assert_eq!(paths, 1, "{name}: declared twice");
            // What may be absent or repeated has no one value that a variable could give.
            let mut holders = settings.0.iter().filter(|other| other.schema.is_none() && other.kind != "section");
            let fixed = holders.all(|holder| !setting.path.starts_with(&holder.path));
            assert!(fixed || setting.doc.env.is_none(), "{name}: a variable inside an optional or repeated section");
        }
        let mut variables = settings.variables();
        variables.sort_unstable();
        let all = variables.len();
        variables.dedup();
        assert_eq!(variables.len(), all, "{program}: one variable for two settings");
        assert!(variables.iter().all(|name| name.starts_with("OUTRIGGER_")), "{program}: {variables:?}");
    }
}

#[test]
fn defaults_satisfy_the_schemas() {
    for (program, settings) in programs() {
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

fn programs() -> [(&'static str, Settings); 3] {
    [
        ("outrigger up", Manifest::describe()),
        ("outrigger-sidecar", outrigger_sidecar::config::Config::describe()),
        ("outrigger-ingress", outrigger_ingress::config::Config::describe()),
    ]
}

fn page() -> String {
    let about = [
        "`mesh.yaml` (`-f FILE`): a whole mesh on one machine. Without a file the bundled example services run.",
        "`--config sidecar.yaml`, or wholly by environment variables, which is how it is dropped into a compose file.",
        "`--config ingress.yaml`, and environment variables for what differs between places.",
    ];
    let mut page = INTRODUCTION.to_owned();
    for ((program, settings), about) in programs().into_iter().zip(about) {
        page.push_str(&format!("## `{program}`\n\n{about}\n\n{}", settings.to_markdown(3)));
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}
