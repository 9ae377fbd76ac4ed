//! `outrigger validate`: every mistake in the files that people write, and their JSON Schemas.

use std::path::Path;

use clap::ValueEnum;
use outrigger_conditions::Cel;
use outrigger_config::{Diagnostic, Diagnostics, Document, Env, Node, Position};
use outrigger_policy::Reader;
use outrigger_runtime::Exit;
use serde_json::json;

use crate::args::{FileKind, ValidateArgs};
use crate::manifest::Manifest;
use crate::{files, output};

impl FileKind {
    fn file_name(self) -> &'static str {
        match self {
            Self::Mesh => "mesh.yaml",
            Self::Sidecar => "sidecar.yaml",
            Self::Ingress => "ingress.yaml",
            Self::Policy => "policy.yaml",
            Self::Ca => "ca.yaml",
            Self::Inject => "inject.yaml",
        }
    }
}

/// What was found in all files.
#[derive(Default)]
struct Findings {
    mistakes: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

/// Checks the files, or prints a schema.
pub(crate) fn main(args: ValidateArgs) -> anyhow::Result<Exit> {
    if let Some(kind) = args.schema {
        output::json(&schema(kind))?;
        return Ok(Exit::Clean);
    }
    let environment = |name: &str| args.environment.then(|| std::env::var(name).ok()).flatten();
    let found = check(&args, &environment);
    if args.json {
        let valid = found.mistakes.is_empty();
        output::json(&json!({"valid": valid, "mistakes": found.mistakes, "warnings": found.warnings}))?;
    } else {
        print(&args, &found);
    }
    Ok(if found.mistakes.is_empty() { Exit::Clean } else { Exit::Failed })
}

fn check(args: &ValidateArgs, env: Env<'_>) -> Findings {
    let mut found = Findings::default();
    let mut policies = Vec::new();
    for path in &args.files {
        let name = path.display().to_string();
        if args.kind.is_none() && path.extension().is_some_and(|extension| extension == "lock") {
            let wrong = outrigger_ingress::integrity::read_lock(path).err();
            found.mistakes.extend(wrong.map(|wrong| Diagnostic::file(&name, wrong)));
            continue;
        }
        let text = match files::read(path) {
            Ok(text) => text,
            // One of many: the rest is looked at all the same.
            Err(error) => {
                found.mistakes.push(Diagnostic::file(&name, format!("cannot be read: {}", error.root_cause())));
                continue;
            }
        };
        let kind = match args.kind {
            Some(kind) => kind,
            None => match recognise(&name, &text) {
                Ok(kind) => kind,
                Err(wrong) => {
                    found.mistakes.extend(wrong.0);
                    continue;
                }
            },
        };
        let file = Some((name.as_str(), text.as_str()));
        let warnings = match kind {
            FileKind::Mesh => Manifest::from_sources(file, env).map(|manifest| manifest.warnings),
            FileKind::Sidecar => {
                outrigger_sidecar::config::Config::from_sources(file, env).map(|config| config.warnings)
            }
            FileKind::Ingress => {
                outrigger_ingress::config::Config::from_sources(file, env).map(|config| config.warnings)
            }
            FileKind::Ca => crate::authority::config::Config::from_sources(file, env).map(|config| config.warnings),
            FileKind::Inject => crate::inject::config::Config::from_sources(file, env).map(|config| config.warnings),
            FileKind::Policy => {
                policies.push((name, text));
                continue;
            }
        };
        match warnings {
            Ok(warnings) => found.warnings.extend(warnings),
            Err(wrong) => found.mistakes.extend(wrong.0),
        }
    }
    let policies: Vec<(&str, &str)> = policies.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let reader = Reader { engine: Some(&Cel), service: None };
    if let (false, Err(wrong)) = (policies.is_empty(), reader.compile(&policies)) {
        found.mistakes.extend(wrong.0);
    }
    found
}

/// Tells the kind of a file by what stands in it, then by its name.
fn recognise(name: &str, text: &str) -> Result<FileKind, Diagnostics> {
    let documents = Document::parse_all(name, text)?;
    let root = documents.first().map(|document| &document.node);
    let has = |key: &str| root.is_some_and(|root| root.get(key).is_some());
    if has("apiVersion") || has("kind") || documents.len() > 1 {
        return Ok(FileKind::Policy);
    }
    if has("service") || has("upstream") || has("command") {
        return Ok(FileKind::Sidecar);
    }
    let services = root.and_then(|root| root.get("services")).and_then(Node::entries).unwrap_or_default();
    let some_has = |keys: &[&str]| services.iter().any(|entry| keys.iter().any(|key| entry.value.get(key).is_some()));
    if has("images")
        || has("webhook")
        || root.and_then(|root| root.get("mesh")).is_some_and(|mesh| mesh.get("ca_url").is_some())
    {
        return Ok(FileKind::Inject);
    }
    if has("identity") || has("tokens") || has("tokens_file") || some_has(&["addresses", "spiffe_id"]) {
        return Ok(FileKind::Ingress);
    }
    if has("max_life") || has("kubernetes") || has("life") {
        return Ok(FileKind::Ca);
    }
    if has("mesh") || has("ingress") || some_has(&["example", "command", "url"]) {
        return Ok(FileKind::Mesh);
    }
    let file = Path::new(name).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let mut kinds = FileKind::value_variants().iter().copied();
    kinds.find(|kind| kind.file_name() == file).ok_or_else(|| {
        let start = Position { line: 1, column: 1 };
        let hint = "say it with --kind mesh, sidecar, ingress, policy, ca or inject";
        Diagnostic::at(name, text, start, "", "nothing in this file tells what kind of file it is").hint(hint).into()
    })
}

fn print(args: &ValidateArgs, found: &Findings) {
    for mistake in &found.mistakes {
        output::result(&mistake.to_string());
    }
    for warning in &found.warnings {
        output::say(&format!("warning: {warning}"));
    }
    let files = args.files.len();
    match found.mistakes.len() {
        0 => output::say(&format!("{files} file{} without mistakes", if files == 1 { "" } else { "s" })),
        1 => output::say("1 mistake"),
        many => output::say(&format!("{many} mistakes")),
    }
}

fn schema(kind: FileKind) -> serde_json::Value {
    let settings = match kind {
        FileKind::Mesh => Manifest::describe(),
        FileKind::Sidecar => outrigger_sidecar::config::Config::describe(),
        FileKind::Ingress => outrigger_ingress::config::Config::describe(),
        FileKind::Policy => outrigger_policy::settings(),
        FileKind::Ca => crate::authority::config::Config::describe(),
        FileKind::Inject => crate::inject::config::Config::describe(),
    };
    settings.to_json_schema(kind.file_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_content() {
        for (text, kind) in [
            ("mesh: x\nservices: { fs: { example: fs } }\n", FileKind::Mesh),
            ("services: { fs: { url: 'http://a:1/' } }\n", FileKind::Mesh),
            ("service: fs\nupstream: http://a:1/\n", FileKind::Sidecar),
            ("services: { fs: { addresses: [a:1] } }\n", FileKind::Ingress),
            ("identity: {}\nservices: {}\n", FileKind::Ingress),
            ("dir: ca\nlife: 1h\n", FileKind::Ca),
            ("kubernetes: { rules: [] }\n", FileKind::Ca),
            ("mesh: { trust_domain: a.b, ca_url: 'https://a' }\n", FileKind::Inject),
            ("apiVersion: mcpx.io/v1\n", FileKind::Policy),
            ("kind: x\n---\nkind: y\n", FileKind::Policy),
        ] {
            assert_eq!(recognise("x.yaml", text).unwrap(), kind, "{text}");
        }
        assert_eq!(recognise("some/ingress.yaml", "").unwrap(), FileKind::Ingress);
        assert!(recognise("x.yaml", "a: b\n").unwrap_err().to_string().contains("--kind"));
        assert!(recognise("x.yaml", "a: [\n").is_err());
    }

    #[test]
    fn there_is_a_schema_of_every_kind() {
        for kind in FileKind::value_variants().iter().copied() {
            let schema = schema(kind);
            assert_eq!(schema["title"], kind.file_name());
            assert!(schema["properties"].as_object().is_some_and(|members| !members.is_empty()));
        }
    }
}
