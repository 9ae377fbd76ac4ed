//! Manifests: the one of the design, the bundled one, and every mistake at once.

use std::path::Path;

use outrigger_config::Diagnostics;
use outrigger_sidecar::config::Mode;

use super::{Example, Manifest, Source};

const DESIGN: &str = r#"
mesh: demo
ingress:
  listen: 127.0.0.1:8080
services:
  fs:
    example: fs
    args: ["--root", "./data"]
  everything:
    command: ["npx", "-y", "@modelcontextprotocol/server-everything", "stdio"]
  notes:
    url: http://127.0.0.1:9001/mcp
    egress: { allow: ["example.com", "*.wikipedia.org"] }
"#;

fn read(text: &str) -> Result<Manifest, Diagnostics> {
    Manifest::from_sources(Some(("mesh.yaml", text)), &|_| None)
}

#[test]
fn the_manifest_of_the_design_is_read() {
    let manifest = read(DESIGN).unwrap();
    assert_eq!(manifest.trust_domain(), "demo.outrigger.local");
    let names: Vec<&str> = manifest.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["fs", "everything", "notes"]);
    assert_eq!(manifest.services[0].source, Source::Example(Example::Fs, vec!["--root".into(), "./data".into()]));
    assert!(matches!(&manifest.services[1].source, Source::Command(words) if words.len() == 4));
    assert!(matches!(&manifest.services[2].source, Source::Url(url) if url.to_string() == "http://127.0.0.1:9001/mcp"));
    let egress = manifest.services[2].egress.as_ref().unwrap();
    let hosts: Vec<_> = egress.settings.rules.rules().iter().map(|rule| rule.hosts[0].to_string()).collect();
    assert_eq!(
        (hosts, egress.settings.mode),
        (vec!["example.com".to_owned(), "*.wikipedia.org".to_owned()], Mode::Enforce)
    );
    assert_eq!(manifest.services[0].egress, None);
}

#[test]
fn an_allowlist_that_nothing_enforces_is_said_so() {
    let warnings = |service: &str| {
        let text = format!("mesh: demo\nservices:\n  a:\n{service}");
        read(&text).unwrap().warnings.into_iter().map(|warning| warning.message).collect::<Vec<_>>()
    };
    let running = "    url: http://127.0.0.1:9001/mcp\n";
    let started = "    command: [a-server]\n";
    let egress = "    egress: { allow: [example.com] }\n";
    assert!(warnings(&format!("{running}{egress}"))[0].contains("does not know of its proxy"));
    assert!(warnings(&format!("{started}{egress}"))[0].contains("nothing makes it use it"));
    assert_eq!(warnings(&format!("{started}    sandbox: strict\n{egress}")), Vec::<String>::new());
    let known = "    egress: { allow: [example.com], listen: \"127.0.0.1:15001\" }\n";
    assert_eq!(warnings(&format!("{running}{known}")), Vec::<String>::new());
}

#[test]
fn without_a_file_the_examples_run() {
    let manifest = Manifest::bundled(Path::new("/state"));
    assert_eq!(manifest.services.len(), 3);
    assert_eq!(manifest.services[0].source, Source::Example(Example::Fs, vec!["--root".into(), "/state/data".into()]));
    let same = Manifest::from_sources(None, &|_| None).unwrap();
    assert_eq!(same.services[1].source, Source::Example(Example::Http, Vec::new()));
}

#[test]
fn every_mistake_is_told_at_once_with_its_place() {
    let text = "mesh: my mesh\ningress:\n  listen: 0.0.0.0:8080\n  anonymous: true\nservices:\n  a:\n    example: fs\n    \
                url: http://x:1/\n  b:\n    example: fss\n  c: {}\n  d:\n    command: npx server\n  e:\n    url: http://x:1/\n    \
                args: [x]\n    cwd: /\n  a: {}\npolices: x\n";
    let shown = read(text).expect_err("must be refused").to_string();
    for expected in [
        "mesh.yaml:1:7: mesh: `my mesh` is not a valid service name",
        "mesh.yaml:4:3: ingress.anonymous: anonymous access on 0.0.0.0:8080",
        "mesh.yaml:8:5: services.a.url: both `example` and `url` are given",
        "mesh.yaml:10:14: services.b.example: `fss` is not known here (did you mean `fs`?",
        "mesh.yaml:11:6: services.c: nothing serves this service",
        "mesh.yaml:13:14: services.d.command: expected a command as a list, found a single value",
        "mesh.yaml:16:5: services.e.args: this belongs to `example`",
        "mesh.yaml:17:5: services.e.cwd: `up` does not start this server",
        "mesh.yaml:18:3: services.a: this key stands here twice",
        "mesh.yaml:19:1: polices: unknown setting (did you mean `policy`?)",
    ] {
        assert!(shown.contains(expected), "missing: {expected}\nin:\n{shown}");
    }
}

#[test]
fn a_manifest_without_services_is_refused() {
    for text in ["", "mesh: demo\n", "services: {}\n", "services:\n"] {
        assert!(read(text).is_err_and(|wrong| wrong.to_string().contains("no services")), "{text:?}");
    }
}
