//! Sidecar settings: by file, wholly by environment, and with every mistake at once.

use std::time::Duration;

use outrigger_config::Diagnostics;
use outrigger_config::kinds::Scheme;
use outrigger_config::sections::Output;

use super::{CatalogMode, Config, Era, SessionScope, Upstream};

const IDENTITY: [(&str, &str); 4] = [
    ("OUTRIGGER_TRUST_DOMAIN", "demo.outrigger.local"),
    ("OUTRIGGER_CERT", "/id/cert.pem"),
    ("OUTRIGGER_KEY", "/id/key.pem"),
    ("OUTRIGGER_CA", "/id/ca.pem"),
];

fn read(file: Option<&str>, variables: &[(&str, &str)]) -> Result<Config, Diagnostics> {
    let env = |name: &str| {
        let all = IDENTITY.iter().chain(variables);
        all.rev().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    };
    Config::from_sources(file.map(|text| ("sidecar.yaml", text)), &env)
}

#[test]
fn the_environment_alone_is_enough() {
    let config = read(
        None,
        &[("OUTRIGGER_SERVICE", "fs"), ("OUTRIGGER_COMMAND", "npx -y 'a server'"), ("OUTRIGGER_ERA", "legacy")],
    );
    let config = config.unwrap();
    let Upstream::Command(command) = &config.upstream else { panic!("a command was given") };
    assert_eq!(command.words, ["npx", "-y", "a server"]);
    assert_eq!(config.era, Era::Legacy);
    assert_eq!(config.identity.trust_domain, "demo.outrigger.local");
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let config = read(Some("service: fs\nupstream: http://127.0.0.1:9001/mcp\n"), &[]).unwrap();
    assert_eq!(config.listen.to_string(), "0.0.0.0:8443");
    assert_eq!(config.admin.to_string(), "127.0.0.1:15020");
    assert_eq!(config.session, SessionScope::PerPrincipal);
    assert_eq!((config.limits.entrance.connections, config.limits.entrance.in_flight), (1024, 256));
    assert_eq!((config.limits.entrance.body_bytes, config.limits.line_bytes), (4 << 20, 16 << 20));
    assert_eq!(config.timeouts.upstream_idle, Duration::from_secs(4));
    assert_eq!(config.timeouts.common.drain, Duration::from_secs(25));
    assert_eq!(config.catalog.mode, CatalogMode::Shared);
    assert_eq!((config.access_log, config.audit, config.threads), (Output::Off, Output::Stderr, 1));
    assert_eq!(config.warnings.len(), 1, "no policy is worth a warning");
}

#[test]
fn the_environment_wins_over_the_file() {
    let text = "service: fs\nupstream: http://a:1/mcp\nlisten: 0.0.0.0:1\n";
    let config =
        read(Some(text), &[("OUTRIGGER_LISTEN", "127.0.0.1:0"), ("OUTRIGGER_UPSTREAM", "unix:/run/fs.sock:/x")])
            .unwrap();
    assert_eq!(config.listen.port(), 0);
    let Upstream::Url(url) = &config.upstream else { panic!("a URL was given") };
    assert_eq!((&url.scheme, url.path.as_str()), (&Scheme::Unix("/run/fs.sock".into()), "/x"));
}

#[test]
fn every_mistake_is_told_at_once_with_its_place() {
    let text = "service: FS\nupstream: http://a/mcp\ncommand: [x]\nlisten: 8443\nera: modem\ntimeouts:\n  drian: 5s\n  \
                header: 10\nlimits: [1]\nthreads: 0\n";
    let wrong = read(Some(text), &[("OUTRIGGER_LIMIT_BODY", "4 potatoes")]).unwrap_err();
    let shown = wrong.to_string();
    for expected in [
        "sidecar.yaml:1:10: service: `FS` is not a valid service name",
        "sidecar.yaml:3:1: command: both `upstream` and `command` are given",
        "sidecar.yaml:4:9: listen: `8443` is not an address to listen on (add the address: 127.0.0.1:8443",
        "sidecar.yaml:5:6: era: `modem` is not known here (did you mean `modern`?",
        "sidecar.yaml:7:3: timeouts.drian: unknown setting (did you mean `drain`?)",
        "sidecar.yaml:8:11: timeouts.header: `10` is not a duration",
        "sidecar.yaml:9:9: limits: expected a section",
        "sidecar.yaml:10:10: threads: `0` is out of range",
    ] {
        assert!(shown.contains(expected), "missing: {expected}\nin:\n{shown}");
    }
    // The environment is checked where its section can be read.
    assert_eq!(wrong.0.len(), 8, "{shown}");
}

#[test]
fn a_server_is_required_and_its_extras_belong_to_a_command() {
    let wrong = read(Some("service: fs\n"), &[]).unwrap_err().to_string();
    assert!(wrong.contains("neither `upstream` nor `command`"), "{wrong}");
    let wrong = read(Some("service: fs\nupstream: http://a:1/\ncwd: /x\nenv: {A: b}\n"), &[]).unwrap_err();
    assert_eq!(wrong.0.len(), 2, "{wrong}");
    // A wrong value is one mistake, not also a missing one.
    assert_eq!(read(Some("service: fs\nupstream: nonsense\n"), &[]).unwrap_err().0.len(), 1);
}

#[test]
fn values_of_variables_are_never_shown() {
    let config = read(Some("service: fs\ncommand: [x]\nenv: {KEY: hunter2}\n"), &[]).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    let wrong = read(Some("service: fs\ncommand: [x]\nenv: {1KEY: hunter2}\n"), &[]).unwrap_err();
    assert!(!wrong.to_string().contains("hunter2"), "{wrong}");
}

#[test]
fn the_service_name_rule_is_the_one_of_the_protocol_crate() {
    for name in
        ["a", "fs", "a-b", "-a", "a-", "A", "a_b", "a.b", "", "ä", "12345678901234567890", "123456789012345678901"]
    {
        let text = format!("service: {name:?}\nupstream: http://a:1/\n");
        assert_eq!(read(Some(&text), &[]).is_ok(), outrigger_mcp::names::check_service(name).is_ok(), "{name:?}");
    }
}

#[test]
fn the_schema_knows_every_section() {
    let schema = Config::describe().to_json_schema("sidecar.yaml");
    let timeouts = &schema["properties"]["timeouts"];
    assert_eq!(timeouts["properties"]["drain"]["default"], "25s");
    assert_eq!(timeouts["additionalProperties"], false);
    assert_eq!(schema["properties"]["limits"]["properties"]["in_flight"]["default"], 256);
}
