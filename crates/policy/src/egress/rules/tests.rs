//! What rules allow, and what comes nearest when they do not.

use super::*;
use crate::egress::{Destination, Range};
use crate::glob::Glob;

fn rule(name: &str, hosts: &[&str]) -> EgressRule {
    EgressRule::new(name, hosts.iter().map(|host| Destination::parse(host).unwrap()).collect())
}

fn ask<'a>(host: &'a Host, port: u16) -> Ask<'a> {
    let plain = Request::Read { method: "GET", path: "/" };
    let request = if port == 80 { plain } else { Request::Sealed };
    Ask { host, port, tools: Tools::Outside, request, addresses: &[] }
}

fn verdict(rules: &Rules, ask: &Ask<'_>) -> String {
    match rules.decide(ask) {
        Ok(allowed) => format!("ok {}", allowed.rule.id),
        Err(denied) => {
            format!("{} {}", denied.reason.as_str(), denied.nearest.map_or("-", RuleId::as_str))
        }
    }
}

fn on(rules: &Rules, host: &str, port: u16) -> String {
    verdict(rules, &ask(&Host::parse(host).unwrap(), port))
}

#[test]
fn hosts_and_ports() {
    let rules = Rules::new(vec![
        rule("one", &["allowed.test", "allowed.test:80"]),
        EgressRule { ports: vec![80, 8443], ..rule("two", &["*.wild.test"]) },
        rule("three", &["20.20.20.0/24"]),
    ]);
    for (host, port, expected) in [
        ("allowed.test", 443, "ok egress/one"),
        ("ALLOWED.test.", 80, "ok egress/one"),
        ("allowed.test", 22, "port egress/one"),
        ("sub.allowed.test", 443, "host -"),
        ("a.wild.test", 80, "ok egress/two"),
        ("a.b.wild.test", 8443, "ok egress/two"),
        ("a.wild.test", 443, "port egress/two"),
        ("wild.test", 80, "host -"),
        ("evil-wild.test", 80, "host -"),
        ("allowed.test.evil.test", 443, "host -"),
        ("20.20.20.10", 443, "ok egress/three"),
        ("20.20.21.10", 443, "host -"),
        ("0x7f.1", 443, "address -"),
    ] {
        assert_eq!(on(&rules, host, port), expected, "{host}:{port}");
    }
    let apex = Host::parse("wild.test").unwrap();
    assert!(rules.decide(&ask(&apex, 80)).unwrap_err().apex);
}

#[test]
fn a_rule_for_one_tool_does_not_let_another_through() {
    let weather = EgressRule { tools: vec![Glob::new("get_*").unwrap()], ..rule("weather", &["weather.test"]) };
    let rules = Rules::new(vec![weather, rule("start", &["updates.test"])]);
    let on = |host: &str, tools: Tools<'_>| verdict(&rules, &Ask { tools, ..ask(&Host::parse(host).unwrap(), 443) });
    assert_eq!(on("weather.test", Tools::Among(&["get_alerts"])), "ok egress/weather");
    assert_eq!(on("weather.test", Tools::Among(&["send_mail"])), "tool egress/weather");
    assert_eq!(on("weather.test", Tools::Among(&["send_mail", "get_alerts"])), "ok egress/weather");
    assert_eq!(on("weather.test", Tools::EachOf(&["send_mail", "get_alerts"])), "tool egress/weather");
    assert_eq!(on("weather.test", Tools::EachOf(&["get_points", "get_alerts"])), "ok egress/weather");
    assert_eq!(on("weather.test", Tools::Outside), "tool egress/weather");
    assert_eq!(on("updates.test", Tools::Outside), "ok egress/start");
    assert_eq!(on("updates.test", Tools::Among(&["send_mail"])), "tool egress/start", "it has no rule of its own");
    let plain = Rules::new(vec![rule("start", &["updates.test"])]);
    let host = Host::parse("updates.test").unwrap();
    let called = Ask { tools: Tools::Among(&["send_mail"]), ..ask(&host, 443) };
    assert_eq!(verdict(&plain, &called), "ok egress/start", "no rule names tools");
}

#[test]
fn requests_count_where_they_can_be_read() {
    let api = EgressRule {
        methods: vec!["GET".into()],
        paths: vec!["/v1".into()],
        ..rule("api", &["api.test:80", "api.test"])
    };
    let rules = Rules::new(vec![api]);
    let host = Host::parse("api.test").unwrap();
    let on =
        |method: &str, path: &str| verdict(&rules, &Ask { request: Request::Read { method, path }, ..ask(&host, 80) });
    assert_eq!(on("GET", "/v1/points"), "ok egress/api");
    assert_eq!(on("POST", "/v1/points"), "request egress/api");
    assert_eq!(on("GET", "/v2"), "request egress/api");
    assert_eq!(on("GET", "/v1/../admin"), "request egress/api");
    assert_eq!(on("GET", "/v1/%2e%2e/admin"), "request egress/api");
    assert_eq!(verdict(&rules, &ask(&host, 443)), "sealed egress/api");
}

#[test]
fn a_tunnel_to_the_port_of_plain_http_is_none() {
    let host = Host::parse("a.test").unwrap();
    let sealed = Ask { request: Request::Sealed, ..ask(&host, 80) };
    assert_eq!(verdict(&Rules::new(vec![rule("a", &["a.test:80"])]), &sealed), "sealed egress/a");
    let raw = EgressRule { raw: true, ..rule("a", &["a.test:80"]) };
    assert_eq!(verdict(&Rules::new(vec![raw]), &sealed), "ok egress/a");
}

#[test]
fn every_address_of_a_name_is_guarded() {
    let inside = EgressRule { addresses: vec![Range::parse("10.0.0.0/8").unwrap()], ..rule("inside", &["db.test"]) };
    let rules = Rules::new(vec![inside, rule("web", &["web.test"])]);
    let on = |host: &str, addresses: &[&str]| {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        verdict(&rules, &Ask { addresses: &addresses, ..ask(&Host::parse(host).unwrap(), 443) })
    };
    assert_eq!(on("web.test", &["20.20.20.10"]), "ok egress/web");
    assert_eq!(on("web.test", &["20.20.20.10", "127.0.0.1"]), "address egress/web");
    assert_eq!(on("web.test", &["10.0.0.5"]), "address egress/web");
    assert_eq!(on("db.test", &["10.0.0.5"]), "ok egress/inside");
    assert_eq!(on("db.test", &["169.254.169.254"]), "address egress/inside");
}

#[test]
fn another_rule_may_allow_what_the_first_does_not() {
    let narrow = EgressRule { ports: vec![8443], ..rule("narrow", &["a.wild.test"]) };
    let rules = Rules::new(vec![narrow, rule("wide", &["*.wild.test"])]);
    assert_eq!(on(&rules, "a.wild.test", 443), "ok egress/wide");
    assert_eq!(on(&rules, "a.wild.test", 8443), "ok egress/narrow");
    assert_eq!(on(&rules, "a.wild.test", 1), "port egress/narrow");
}

#[test]
fn only_named_names_are_resolved() {
    let rules = Rules::new(vec![rule("one", &["allowed.test:8443", "*.wild.test"])]);
    let names = |text: &str| match Host::parse(text) {
        Ok(Host::Name(name)) => rules.names(&name, Tools::Outside).is_ok(),
        other => panic!("{other:?}"),
    };
    assert!(names("allowed.test") && names("x.y.wild.test"));
    assert!(!names("wild.test") && !names("data.evil.test"));
    let weather = EgressRule { tools: vec![Glob::new("get_*").unwrap()], ..rule("weather", &["weather.test"]) };
    let rules = Rules::new(vec![weather]);
    let Ok(Host::Name(name)) = Host::parse("weather.test") else { panic!() };
    assert!(rules.names(&name, Tools::Among(&["get_alerts"])).is_ok());
    for tools in [Tools::Outside, Tools::Among(&["send_mail"]), Tools::EachOf(&["send_mail", "get_alerts"])] {
        assert_eq!(rules.names(&name, tools), Err(Reason::Tool));
    }
}
