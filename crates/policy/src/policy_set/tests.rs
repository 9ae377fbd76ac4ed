//! What a set of rules promises, whatever the rules: checked over generated rules and callers.

use super::{Decision, Denial, DenyReason, MtlsMode, PolicySet};
use crate::capability::{Capability, CapabilityKind};
use crate::condition::Listed;
use crate::glob::Glob;
use crate::principal::Principal;
use crate::rule::{Admits, Coverage, Effect, Kinds, Mode, Requirement, Rule, RuleId};
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

fn set(rules: Vec<Rule>) -> PolicySet {
    PolicySet::from_rules(rules, Vec::new(), MtlsMode::Strict)
}

fn globs(patterns: &[&str]) -> Box<[Glob]> {
    patterns.iter().map(|pattern| Glob::new(pattern).unwrap()).collect()
}

fn rule(name: &str, services: &[&str], capabilities: &[&str], requires: Vec<Requirement>) -> Rule {
    let coverage = Coverage { services: globs(services), capabilities: globs(capabilities), kinds: Kinds::ALL };
    let admits = Admits::Authenticated(requires.into());
    Rule {
        id: RuleId::new("p", name),
        effect: Effect::Allow,
        mode: Mode::Enforce,
        coverage,
        admits,
        when: None,
        limit: None,
        approval: None,
        shown: None,
    }
}

fn tool<'a>(service: &'a str, name: &'a str) -> Capability<'a> {
    Capability { kind: CapabilityKind::Tool, service, name }
}

fn user(scopes: &[&str]) -> Principal {
    Principal::user("ada").unwrap().with_grants([""; 0], scopes).unwrap()
}

fn deny(reason: DenyReason, nearest: Option<&str>) -> Decision {
    Decision::Deny(Denial { reason, rule: nearest.map(|name| RuleId::new("p", name)) })
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
    let allow = |name| Decision::Allow { rule: Some(RuleId::new("p", name)), would_deny: None };
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
fn what_a_rule_denies_is_denied_whatever_others_allow() {
    let deny = |name: &str, mode, requires: Vec<Requirement>| {
        let admits = if requires.is_empty() { Admits::Anyone } else { Admits::Authenticated(requires.into()) };
        Rule { effect: Effect::Deny, mode, admits, ..rule(name, &["fs"], &["delete*"], vec![]) }
    };
    let all = || rule("all", &["*"], &["*"], vec![]);
    let policy = set(vec![all(), deny("no-deletes", Mode::Enforce, vec![scope("guest")])]);
    let delete = tool("fs", "deleteFile");
    assert_eq!(
        policy.decide(&user(&["guest"]), &delete),
        Decision::Deny(Denial { reason: DenyReason::Forbidden, rule: Some(RuleId::new("p", "no-deletes")) })
    );
    assert!(policy.decide(&user(&[]), &delete).is_allowed(), "the rule is about guests");
    assert!(policy.decide(&user(&["guest"]), &tool("fs", "read")).is_allowed());
    let watched = set(vec![all(), deny("trial", Mode::Audit, vec![])]);
    assert_eq!(
        watched.decide(&user(&[]), &delete),
        Decision::Allow {
            rule: Some(RuleId::new("p", "all")),
            would_deny: Some(Denial { reason: DenyReason::Forbidden, rule: Some(RuleId::new("p", "trial")) })
        }
    );
}

#[test]
fn a_uri_that_hides_where_it_leads_falls_under_every_rule_that_denies() {
    let secrets =
        Rule { effect: Effect::Deny, admits: Admits::Anyone, ..rule("x", &["fs"], &["file:///secret/*"], vec![]) };
    let policy = set(vec![rule("all", &["fs"], &["*"], vec![]), secrets]);
    let allowed = |name| {
        let what = Capability { kind: CapabilityKind::Resource, service: "fs", name };
        policy.decide(&user(&[]), &what).is_allowed()
    };
    assert!(allowed("file:///public/a%20b") && !allowed("file:///secret/a"));
    for uri in
        ["file:///public/../secret/a", "file:///%73ecret/a", "FILE:///secret/a", "file:///public%2f..%2fsecret/a"]
    {
        assert!(!allowed(uri), "{uri}");
    }
}

#[test]
fn a_service_under_audit_alone_is_open_to_the_authenticated() {
    let watch = |rule: Rule| Rule { mode: Mode::Audit, ..rule };
    let policy = set(vec![
        watch(rule("readers", &["fs"], &["read*"], vec![scope("read")])),
        rule("vectors", &["vector"], &["add"], vec![]),
        watch(rule("more", &["vector"], &["*"], vec![])),
    ]);
    let would = |decision| match decision {
        Decision::Allow { rule, would_deny } => (rule.is_some(), would_deny.map(|denial| denial.reason)),
        Decision::Deny(denial) => panic!("{denial:?}"),
    };
    assert_eq!(would(policy.decide(&user(&["read"]), &tool("fs", "readFile"))), (true, None));
    let lacking = Some(DenyReason::RequirementNotMet);
    assert_eq!(would(policy.decide(&user(&[]), &tool("fs", "readFile"))), (false, lacking));
    assert_eq!(would(policy.decide(&user(&[]), &tool("fs", "x"))), (false, Some(DenyReason::NoRule)));
    assert!(!policy.decide(&Principal::anonymous(), &tool("fs", "readFile")).is_allowed(), "nobody is a stranger");
    assert!(!policy.may_use_service(&Principal::anonymous(), "fs") && policy.may_use_service(&user(&[]), "fs"));
    assert!(!policy.decide(&user(&[]), &tool("vector", "drop")).is_allowed(), "enforced rules are about this service");
    assert!(!policy.decide(&user(&[]), &tool("other", "x")).is_allowed());
}

#[test]
fn allow_all_is_for_the_authenticated() {
    let policy = PolicySet::allow_all();
    let workload = Principal::workload("spiffe://demo/ingress").unwrap();
    assert!(policy.decide(&workload, &tool("fs", "x")).is_allowed());
    assert!(policy.decide(&user(&[]), &tool("fs", "x")).is_allowed());
    assert_eq!(
        policy.decide(&Principal::anonymous(), &tool("fs", "x")),
        Decision::Deny(Denial {
            reason: DenyReason::NotAuthenticated,
            rule: Some(RuleId::new("built-in", "authenticated"))
        })
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
    let effect = prop_oneof![3 => Just(Effect::Allow), 1 => Just(Effect::Deny)];
    let mode = prop_oneof![3 => Just(Mode::Enforce), 1 => Just(Mode::Audit)];
    let rule = ("[a-z]{4}", patterns("[fg*]{1,2}"), patterns("[rw*./]{1,3}"), kinds, admits, (effect, mode));
    rule.prop_map(|(name, services, capabilities, kinds, admits, (effect, mode))| {
        let globs = |patterns: Vec<String>| patterns.iter().map(|pattern| Glob::new(pattern).unwrap()).collect();
        let coverage = Coverage { services: globs(services), capabilities: globs(capabilities), kinds };
        Rule {
            id: RuleId::new("p", &name),
            effect,
            mode,
            coverage,
            admits,
            when: None,
            limit: None,
            approval: None,
            shown: None,
        }
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

/// What [`PolicySet::decide`] promises, without index, early exit or bounds: asked of the rules in order.
fn defined(rules: &[Rule], who: &Principal, what: &Capability<'_>) -> Decision {
    let about = |rule: &&Rule| match &rule.admits {
        Admits::Anyone => true,
        Admits::Authenticated(requires) => !who.is_anonymous() && requires.iter().all(|need| need.holds(who)),
    };
    let concerns = |rule: &Rule| rule.coverage.covers_service(what.service);
    let covers = |rule: &&Rule| concerns(rule) && rule.covers_name(what);
    let of = |effect: Effect, mode: Mode| rules.iter().filter(move |rule| (rule.effect, rule.mode) == (effect, mode));
    let forbidden = |mode| of(Effect::Deny, mode).find(|rule| covers(rule) && about(rule));
    let denial = |rule: &Rule| Denial { reason: DenyReason::Forbidden, rule: Some(rule.id.clone()) };
    if let Some(rule) = forbidden(Mode::Enforce) {
        return Decision::Deny(denial(rule));
    }
    let open = !of(Effect::Allow, Mode::Enforce).any(concerns) && of(Effect::Allow, Mode::Audit).any(concerns);
    let mode = if open { Mode::Audit } else { Mode::Enforce };
    let would_deny = forbidden(Mode::Audit).map(denial);
    if let Some(rule) = of(Effect::Allow, mode).find(|rule| covers(rule) && about(rule)) {
        return Decision::Allow { rule: Some(rule.id.clone()), would_deny };
    }
    let nearest = of(Effect::Allow, mode).filter(covers).min_by_key(|rule| rule.missing(who));
    let reason = match nearest {
        None => DenyReason::NoRule,
        Some(_) if who.is_anonymous() => DenyReason::NotAuthenticated,
        Some(_) => DenyReason::RequirementNotMet,
    };
    let denial = Denial { reason, rule: nearest.map(|rule| rule.id.clone()) };
    match open && !who.is_anonymous() {
        true => Decision::Allow { rule: None, would_deny: would_deny.or(Some(denial)) },
        false => Decision::Deny(denial),
    }
}

proptest! {
    #[test]
    fn what_is_allowed_is_the_same_with_reasons_and_without(
        rules in some_rules(), who in some_principal(), kind in some_kind(), service in "[fg]{1,2}", name in "[rw./]{1,4}",
    ) {
        let (set, what) = (set(rules), Capability { kind, service: &service, name: &name });
        prop_assert_eq!(set.allows_in(&who, &what, &Listed(None)), set.decide(&who, &what).is_allowed());
    }

    #[test]
    fn an_allowing_rule_takes_nothing_away_and_a_denying_one_gives_nothing(
        rules in some_rules(), mut more in some_rule(), at in any::<proptest::sample::Index>(),
        who in some_principal(), kind in some_kind(), service in "[fg]{1,2}", name in "[rw./]{1,4}",
    ) {
        // A policy in audit mode is about to be enforced, which may take away; that is what it says of itself.
        let rules: Vec<Rule> = rules.into_iter().map(|rule| Rule { mode: Mode::Enforce, ..rule }).collect();
        more.mode = Mode::Enforce;
        let what = Capability { kind, service: &service, name: &name };
        let before = set(rules.clone());
        let effect = more.effect;
        let mut with_more = rules;
        with_more.insert(at.index(with_more.len() + 1), more);
        let after = set(with_more);
        let decided = [&before, &after].map(|policy| policy.decide(&who, &what).is_allowed());
        let usable = [&before, &after].map(|policy| policy.may_use_service(&who, &service));
        for [before, after] in [decided, usable] {
            match effect {
                Effect::Allow => prop_assert!(after || !before),
                Effect::Deny => prop_assert!(before || !after),
            }
        }
    }

    /// A policy in audit mode never takes anything away, and gives only where nothing is enforced.
    #[test]
    fn a_policy_in_audit_mode_changes_no_service_that_others_rule(
        rules in some_rules(), more in some_rule(),
        who in some_principal(), kind in some_kind(), service in "[fg]{1,2}", name in "[rw./]{1,4}",
    ) {
        let what = Capability { kind, service: &service, name: &name };
        let before = set(rules.clone());
        let mut with_more = rules;
        with_more.push(Rule { mode: Mode::Audit, ..more });
        let after = set(with_more.clone());
        let [before, after] = [&before, &after].map(|policy| policy.decide(&who, &what).is_allowed());
        prop_assert!(after || !before);
        let enforced = |rule: &Rule| (rule.effect, rule.mode) == (Effect::Allow, Mode::Enforce);
        if with_more.iter().any(|rule| enforced(rule) && rule.coverage.covers_service(&service)) {
            prop_assert_eq!(before, after);
        }
    }

    /// The index, the early exit and the prepared counts change nothing about the meaning.
    #[test]
    fn decisions_follow_the_definition(
        rules in some_rules(), who in some_principal(), kind in some_kind(), service in "[fg]{1,2}", name in "[rw./]{1,4}",
    ) {
        let what = Capability { kind, service: &service, name: &name };
        let policy = set(rules.clone());
        let decision = policy.decide(&who, &what);
        prop_assert_eq!(&decision, &defined(&rules, &who, &what));
        prop_assert!(!decision.is_allowed() || policy.may_use_service(&who, &service));
    }

    /// The same where there are enough rules to be found by whom they name.
    #[test]
    fn decisions_follow_the_definition_among_many_rules(
        rules in proptest::collection::vec(some_rule(), 18..32), who in some_principal(), kind in some_kind(),
        service in "[fg]{1,2}", name in "[rw./]{1,4}",
    ) {
        let what = Capability { kind, service: &service, name: &name };
        prop_assert_eq!(set(rules.clone()).decide(&who, &what), defined(&rules, &who, &what));
    }

    #[test]
    fn explanations_agree_with_decisions(
        rules in some_rules(), who in some_principal(), kind in some_kind(), service in "[fg]{1,2}", name in "[rw./]{1,4}",
    ) {
        let what = Capability { kind, service: &service, name: &name };
        let policy = set(rules);
        let explained = policy.explain(&who, &what);
        let acts = |effect, mode: Option<Mode>| {
            let mut considered = explained.considered.iter().filter(move |one| one.counts && one.matches());
            considered.find(|one| one.effect == effect && mode.is_none_or(|mode| one.mode == mode))
        };
        let denying = acts(Effect::Deny, Some(Mode::Enforce)).map(|one| one.rule.clone());
        let allowing = acts(Effect::Allow, None).map(|one| one.rule.clone());
        match policy.decide(&who, &what) {
            Decision::Allow { rule, would_deny } => {
                prop_assert!(explained.allowed && denying.is_none());
                prop_assert_eq!(&rule, &allowing);
                prop_assert_eq!((explained.rule, explained.would_deny), (rule, would_deny));
            }
            Decision::Deny(Denial { reason, rule }) => {
                prop_assert!(!explained.allowed);
                prop_assert_eq!(reason == DenyReason::Forbidden, denying.is_some());
                prop_assert_eq!((explained.reason, explained.rule), (Some(reason), rule));
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
