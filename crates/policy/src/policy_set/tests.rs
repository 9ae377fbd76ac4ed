//! What a set of rules promises, whatever the rules: checked over generated rules and callers.

use super::{Decision, DenyReason, MtlsMode, PolicySet};
use crate::capability::{Capability, CapabilityKind};
use crate::glob::Glob;
use crate::principal::Principal;
use crate::rule::{Admits, Coverage, Kinds, Requirement, Rule, RuleId};
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

fn set(rules: Vec<Rule>) -> PolicySet {
    PolicySet::from_rules(rules, Vec::new(), MtlsMode::Strict)
}

fn globs(patterns: &[&str]) -> Box<[Glob]> {
    patterns.iter().map(|pattern| Glob::new(pattern).unwrap()).collect()
}

fn rule(name: &str, services: &[&str], capabilities: &[&str], requires: Vec<Requirement>) -> Rule {
    let coverage = Coverage { services: globs(services), capabilities: globs(capabilities), kinds: Kinds::ALL };
    Rule { id: RuleId::new("p", name), coverage, admits: Admits::Authenticated(requires.into()) }
}

fn tool<'a>(service: &'a str, name: &'a str) -> Capability<'a> {
    Capability { kind: CapabilityKind::Tool, service, name }
}

fn user(scopes: &[&str]) -> Principal {
    Principal::user("ada").unwrap().with_grants([""; 0], scopes).unwrap()
}

fn deny(reason: DenyReason, nearest: Option<&str>) -> Decision {
    Decision::Deny { reason, nearest: nearest.map(|name| RuleId::new("p", name)) }
}

fn scope(name: &str) -> Requirement {
    Requirement::Scope(name.into())
}

#[test]
fn the_first_rule_that_allows_is_named() {
    let policy = set(vec![
        rule("writers", &["fs"], &["*"], vec![scope("write")]),
        rule("readers", &["fs"], &["read*"], vec![scope("read")]),
        rule("everybody", &["*"], &["readme"], vec![]),
    ]);
    let allow = |name| Decision::Allow { rule: RuleId::new("p", name) };
    assert_eq!(policy.decide(&user(&["read"]), &tool("fs", "readFile")), allow("readers"));
    assert_eq!(policy.decide(&user(&["read", "write"]), &tool("fs", "readFile")), allow("writers"));
    assert_eq!(policy.decide(&user(&[]), &tool("fs", "readme")), allow("everybody"), "patterns join named services");
    assert_eq!(policy.decide(&user(&[]), &tool("other", "readme")), allow("everybody"));
}

#[test]
fn denials_say_why_and_name_the_nearest_rule() {
    let policy = set(vec![
        rule("both", &["fs"], &["*"], vec![scope("a"), scope("b")]),
        rule("one", &["fs"], &["read*"], vec![scope("a")]),
    ]);
    let read = tool("fs", "readFile");
    assert_eq!(policy.decide(&user(&[]), &read), deny(DenyReason::RequirementNotMet, Some("one")));
    assert_eq!(
        policy.decide(&user(&["b"]), &read),
        deny(DenyReason::RequirementNotMet, Some("both")),
        "the first of equals"
    );
    assert_eq!(policy.decide(&Principal::anonymous(), &read), deny(DenyReason::NotAuthenticated, Some("one")));
    assert_eq!(policy.decide(&user(&["a", "b"]), &tool("vector", "add")), deny(DenyReason::NoRule, None));
    assert_eq!(PolicySet::deny_all().decide(&user(&["a"]), &read), deny(DenyReason::NoRule, None));
}

#[test]
fn allow_all_is_for_the_authenticated() {
    let policy = PolicySet::allow_all();
    let workload = Principal::workload("spiffe://demo/ingress").unwrap();
    assert!(policy.decide(&workload, &tool("fs", "x")).is_allowed());
    assert!(policy.decide(&user(&[]), &tool("fs", "x")).is_allowed());
    assert_eq!(
        policy.decide(&Principal::anonymous(), &tool("fs", "x")),
        Decision::Deny {
            reason: DenyReason::NotAuthenticated,
            nearest: Some(RuleId::new("built-in", "authenticated"))
        }
    );
    assert!(!policy.may_use_service(&Principal::anonymous(), "fs"));
}

#[test]
fn callers_with_the_same_rules_share_a_class() {
    let policy = set(vec![
        rule("read", &["fs"], &["read*"], vec![scope("read")]),
        rule("write", &["fs"], &["write*"], vec![scope("write")]),
    ]);
    let class = |scopes: &[&str]| policy.visibility_class(&user(scopes));
    let bob = Principal::user("bob").unwrap().with_grants(["x"], ["read", "unrelated"]).unwrap();
    assert_eq!(class(&["read"]), policy.visibility_class(&bob));
    let all = [class(&[]), class(&["read"]), class(&["write"]), class(&["read", "write"])];
    for (index, one) in all.iter().enumerate() {
        assert!(!all[..index].contains(one));
    }
    let changed = set(vec![rule("read", &["fs"], &["*"], vec![scope("read")])]);
    assert_ne!(class(&["read"]), changed.visibility_class(&user(&["read"])), "a reload must not serve an old list");
}

#[test]
fn explanations_name_what_is_missing() {
    let policy = set(vec![
        rule("one", &["fs"], &["read*"], vec![scope("a"), Requirement::Role("dev".into())]),
        rule("other", &["fs"], &["write*"], vec![]),
    ]);
    let denied = policy.explain(&user(&[]), &tool("fs", "readFile"));
    let text = "denied: user:ada may not use tool fs.readFile\n  \
                because the caller does not meet what the rules require; nearest rule: p/one\n  \
                - p/one: needs scope \"a\" and role \"dev\"";
    assert_eq!(denied.to_string(), text);
    let allowed = policy.explain(&user(&[]), &tool("fs", "writeFile"));
    assert_eq!(
        allowed.to_string(),
        "allowed: user:ada may use tool fs.writeFile\n  by rule p/other\n  - p/other: allows"
    );
    let nobody = policy.explain(&Principal::anonymous(), &tool("fs", "writeFile"));
    assert!(nobody.to_string().ends_with("- p/other: needs an authenticated caller"), "{nobody}");
    let uncovered = policy.explain(&user(&[]), &tool("fs", "delete")).to_string();
    assert!(
        uncovered.ends_with("because no rule covers it\n  2 rules are about service fs, but not about this tool"),
        "{uncovered}"
    );
    let json = serde_json::to_value(&denied).unwrap();
    assert_eq!(json["reason"], "requirement_not_met");
    assert_eq!(json["kind"], "tool");
    assert_eq!(json["considered"][0]["missing"][1], "role \"dev\"");
}

fn some_requirement() -> impl Strategy<Value = Requirement> {
    prop_oneof![
        "[ab]".prop_map(|name| Requirement::Scope(name.into())),
        "[ab]".prop_map(|name| Requirement::Role(name.into())),
        Just(Requirement::Subject(Glob::new("a*").unwrap())),
        Just(Requirement::WorkloadService(Glob::new("f*").unwrap())),
        Just(Requirement::WorkloadId(Glob::new("spiffe://demo/*").unwrap())),
    ]
}

fn some_rule() -> impl Strategy<Value = Rule> {
    let patterns = |alphabet| proptest::collection::vec(alphabet, 1..3);
    let admits = prop_oneof![
        1 => Just(Admits::Anyone),
        6 => proptest::collection::vec(some_requirement(), 0..3).prop_map(|list| Admits::Authenticated(list.into())),
    ];
    let kinds = proptest::sample::subsequence(CapabilityKind::ALL.to_vec(), 1..=4)
        .prop_map(|kinds| kinds.into_iter().fold(Kinds::NONE, Kinds::with));
    let rule = ("[a-z]{4}", patterns("[fg*]{1,2}"), patterns("[rw*./]{1,3}"), kinds, admits);
    rule.prop_map(|(name, services, capabilities, kinds, admits)| {
        let globs = |patterns: Vec<String>| patterns.iter().map(|pattern| Glob::new(pattern).unwrap()).collect();
        let coverage = Coverage { services: globs(services), capabilities: globs(capabilities), kinds };
        Rule { id: RuleId::new("p", &name), coverage, admits }
    })
}

fn some_rules() -> impl Strategy<Value = Vec<Rule>> {
    proptest::collection::vec(some_rule(), 0..6)
}

fn some_principal() -> impl Strategy<Value = Principal> {
    let grants = || proptest::collection::vec("[ab]", 0..3);
    let base = prop_oneof![
        Just(Principal::anonymous()),
        "[ab]{1,2}".prop_map(|subject| Principal::user(&subject).unwrap()),
        "[fg]{1,2}".prop_map(|service| Principal::workload(&format!("spiffe://demo/{service}")).unwrap()),
    ];
    (base, grants(), grants()).prop_map(|(who, roles, scopes)| who.with_grants(roles, scopes).unwrap())
}

fn some_kind() -> impl Strategy<Value = CapabilityKind> {
    proptest::sample::select(CapabilityKind::ALL.to_vec())
}

proptest! {
    #[test]
    fn adding_a_rule_takes_nothing_away(
        rules in some_rules(), more in some_rule(), at in any::<proptest::sample::Index>(),
        who in some_principal(), kind in some_kind(), service in "[fg]{1,2}", name in "[rw./]{1,4}",
    ) {
        let what = Capability { kind, service: &service, name: &name };
        let before = set(rules.clone());
        let mut with_more = rules;
        with_more.insert(at.index(with_more.len() + 1), more);
        let after = set(with_more);
        prop_assert!(!before.decide(&who, &what).is_allowed() || after.decide(&who, &what).is_allowed());
        prop_assert!(!before.may_use_service(&who, &service) || after.may_use_service(&who, &service));
    }

    /// The index, the early exit and the prepared counts change nothing about the meaning.
    #[test]
    fn decisions_follow_the_definition(
        rules in some_rules(), who in some_principal(), kind in some_kind(), service in "[fg]{1,2}", name in "[rw./]{1,4}",
    ) {
        let what = Capability { kind, service: &service, name: &name };
        let holds = |rule: &Rule| match &rule.admits {
            Admits::Anyone => true,
            Admits::Authenticated(requires) => !who.is_anonymous() && requires.iter().all(|need| need.holds(&who)),
        };
        let covers = |rule: &Rule| rule.coverage.covers_service(&service) && rule.coverage.covers_name(&what);
        let policy = set(rules.clone());
        let first = rules.iter().find(|rule| covers(rule) && holds(rule)).map(|rule| rule.id.clone());
        match policy.decide(&who, &what) {
            Decision::Allow { rule } => prop_assert_eq!(Some(rule), first),
            Decision::Deny { reason, nearest } => {
                prop_assert!(first.is_none());
                prop_assert_eq!(nearest.is_none(), !rules.iter().any(covers));
                prop_assert_eq!(reason == DenyReason::NoRule, nearest.is_none());
            }
        }
        prop_assert_eq!(
            policy.may_use_service(&who, &service),
            rules.iter().any(|rule| rule.coverage.covers_service(&service) && holds(rule))
        );
    }

    #[test]
    fn explanations_agree_with_decisions(
        rules in some_rules(), who in some_principal(), kind in some_kind(), service in "[fg]{1,2}", name in "[rw./]{1,4}",
    ) {
        let what = Capability { kind, service: &service, name: &name };
        let policy = set(rules);
        let explained = policy.explain(&who, &what);
        let allowing = explained.considered.iter().find(|considered| considered.missing.is_empty());
        prop_assert_eq!(explained.allowed, allowing.is_some());
        match policy.decide(&who, &what) {
            Decision::Allow { rule } => {
                prop_assert!(explained.allowed);
                prop_assert_eq!(allowing.map(|considered| &considered.rule), Some(&rule));
                prop_assert_eq!(explained.rule, Some(rule));
            }
            Decision::Deny { reason, nearest } => {
                prop_assert!(!explained.allowed);
                prop_assert_eq!((explained.reason, explained.rule), (Some(reason), nearest));
            }
        }
    }

    /// One class, one view: two callers in it are told the same about everything.
    #[test]
    fn a_class_sees_one_thing(
        rules in some_rules(), one in some_principal(), other in some_principal(),
        kind in some_kind(), service in "[fg]{1,2}", name in "[rw./]{1,4}",
    ) {
        let what = Capability { kind, service: &service, name: &name };
        let policy = set(rules);
        if policy.visibility_class(&one) == policy.visibility_class(&other) {
            prop_assert_eq!(policy.decide(&one, &what).is_allowed(), policy.decide(&other, &what).is_allowed());
            prop_assert_eq!(policy.may_use_service(&one, &service), policy.may_use_service(&other, &service));
        }
    }
}
