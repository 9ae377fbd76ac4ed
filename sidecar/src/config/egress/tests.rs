//! The egress section: by file, by environment, and with its mistakes.

use outrigger_config::load;
use outrigger_policy::egress::{Ask, Host, Request, Tools};

use super::*;

fn read_text(text: &str, variables: &[(&str, &str)]) -> Result<Option<Egress>, String> {
    let env = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    let declared = |f: &mut Fields<'_>| f.section("egress", "", read);
    load(Some(("sidecar.yaml", text)), &env, declared).map(|loaded| loaded.value).map_err(|wrong| wrong.to_string())
}

fn allows(egress: &Egress, host: &str, port: u16) -> bool {
    let host = Host::parse(host).unwrap();
    let request = if port == 80 { Request::Read { method: "GET", path: "/" } } else { Request::Sealed };
    let ask = Ask { host: &host, port, tools: Tools::Outside, request, addresses: &[] };
    egress.rules.decide(&ask).is_ok()
}

#[test]
fn nothing_listens_unless_something_is_said() {
    assert_eq!(read_text("{}", &[]), Ok(None));
    let egress = read_text("egress: { allow: [] }", &[]).unwrap().unwrap();
    assert_eq!((egress.listen, egress.mode), (DEFAULT_LISTEN, Mode::Enforce));
    assert!(egress.rules.rules().is_empty());
}

#[test]
fn the_environment_alone_is_enough() {
    let egress = read_text(
        "{}",
        &[
            ("OUTRIGGER_EGRESS_LISTEN", "127.0.0.1:0"),
            ("OUTRIGGER_EGRESS_ALLOW", "Allowed.test, allowed.test:80, *.wild.test:8443"),
            ("OUTRIGGER_EGRESS_MODE", "observe"),
        ],
    );
    let egress = egress.unwrap().unwrap();
    assert_eq!((egress.listen.port(), egress.mode), (0, Mode::Observe));
    assert!(allows(&egress, "allowed.test", 443) && allows(&egress, "allowed.test", 80));
    assert!(allows(&egress, "a.wild.test", 8443) && !allows(&egress, "a.wild.test", 443));
}

#[test]
fn rules_are_read_in_full() {
    let text = "egress:\n  rules:\n    - { name: weather, hosts: [api.test], ports: [80], tools: [\"get_*\"], methods: [GET], \
                paths: [/v1], addresses: [10.0.0.0/8], raw: true, ech: true }\n";
    let egress = read_text(text, &[]).unwrap().unwrap();
    let rule = &egress.rules.rules()[0];
    assert_eq!(rule.id.as_str(), "egress/weather");
    assert_eq!((rule.ports.as_slice(), rule.methods.as_slice()), (&[80][..], &["GET".to_owned()][..]));
    assert!(rule.raw && rule.ech && rule.addresses.len() == 1 && rule.tools.len() == 1 && rule.paths == ["/v1"]);
}

#[test]
fn every_mistake_is_told() {
    let text = "egress:\n  allow: [\"https://a.test\", \"*\"]\n  mode: monitor\n  rules:\n    - { name: a, hosts: [] }\n    \
                - { name: a, hosts: [b.test], methods: [get], paths: [v1], addresses: [10.0.0.1/8] }\n    - { hosts: [c.test] }\n";
    let wrong = read_text(text, &[]).unwrap_err();
    for part in [
        "egress.allow: `https://a.test` is no destination: a host is wanted, not a URL",
        "egress.allow: `*` is no destination",
        "egress.mode: `monitor`",
        "egress.rules[0].hosts: an empty list allows nothing",
        "egress.rules[1].methods: `get` is not a valid HTTP method",
        "egress.rules[1].paths: `v1` is not a valid beginning of a path",
        "egress.rules[1].addresses: it has bits set behind its prefix",
        "egress.rules[1].name: the name `egress/a` stands in this list twice",
        "egress.rules[2].name: this setting is missing",
    ] {
        assert!(wrong.contains(part), "missing: {part}\nin:\n{wrong}");
    }
}

#[test]
fn a_credential_needs_requests_that_can_be_read() {
    let with = |rule: &str| {
        let credential = "credentials: [ { header: Authorization, file: /k } ]";
        let text = format!("egress: {{ rules: [ {{ name: api, {rule}, {credential} }} ] }}");
        read_text(&text, &[]).map(|egress| egress.unwrap().credentials.len())
    };
    for rule in
        ["hosts: [a.test], inspect: true", "hosts: [\"a.test:80\"]", "hosts: [a.test], ports: [80]", "hosts: [b.mesh]"]
    {
        assert_eq!(with(rule).unwrap_or_else(|e| panic!("{rule}: {e}")), 1, "{rule}");
    }
    for rule in ["hosts: [a.test]", "hosts: [a.test], raw: true", "hosts: [\"a.test:443\"], ports: [80]"] {
        let wrong = with(rule).expect_err(rule).to_string();
        assert!(wrong.contains("inside TLS"), "{rule}: {wrong}");
    }
}
