//! Policy files as people write them, right and wrong.

use super::settings;
use crate::capability::{Capability, CapabilityKind};
use crate::condition::{Condition, ConditionError, ConditionMistake, Engine, Facts, Part, Reads, Truth};
use crate::limit::{Limits, Nanos, Per};
use crate::policy_set::{Decision, MtlsMode, PolicySet};
use crate::principal::Principal;
use outrigger_config::Diagnostic;
use proptest::prelude::proptest;
use std::sync::Arc;

const DEMO: &str = r#"apiVersion: mcpx.io/v1
kind: SecurityPolicy
metadata: { name: demo }
spec:
  authentication: { mtls: { mode: STRICT } }
  authorization:
    rules:
      - name: readers
        services: ["fs"]
        capabilities: ["read*", "list*"]
        requires: [ { scope: "read" } ]
"#;

/// An engine to which every text is a condition that holds.
struct Anything;

impl Engine for Anything {
    fn compile(&self, source: &str) -> Result<Arc<dyn Condition>, ConditionMistake> {
        Ok(Arc::new(Holds(source.to_owned())))
    }
}

#[derive(Debug)]
struct Holds(String);

impl Condition for Holds {
    fn source(&self) -> &str {
        &self.0
    }

    fn reads(&self) -> Reads {
        Reads::default()
    }

    fn evaluate(&self, _: &Facts<'_>) -> Result<Truth, ConditionError> {
        Ok(Truth::True)
    }

    fn parts(&self, _: &Facts<'_>) -> Vec<Part> {
        Vec::new()
    }
}

/// A policy named `p` with these lines under `rules:`.
fn with_rules(rules: &str) -> String {
    format!(
        "apiVersion: mcpx.io/v1\nkind: SecurityPolicy\nmetadata: {{ name: p }}\nspec:\n  authorization:\n    rules:\n{rules}"
    )
}

fn compile(text: &str) -> PolicySet {
    PolicySet::compile(&[("policy.yaml", text)]).unwrap()
}

fn mistakes(text: &str) -> Vec<Diagnostic> {
    PolicySet::compile(&[("policy.yaml", text)]).unwrap_err().0
}

/// The one mistake, as `line:column message (hint)`.
fn mistake(text: &str) -> String {
    let all = mistakes(text);
    assert_eq!(all.len(), 1, "{all:?}");
    format!("{}:{} {} ({})", all[0].line, all[0].column, all[0].message, all[0].hint.as_deref().unwrap_or_default())
}

fn tool<'a>(service: &'a str, name: &'a str) -> Capability<'a> {
    Capability { kind: CapabilityKind::Tool, service, name }
}

fn user(subject: &str, roles: &[&str], scopes: &[&str]) -> Principal {
    Principal::user(subject).unwrap().with_grants(roles, scopes).unwrap()
}

fn rule_that_allows(policy: &PolicySet, who: &Principal, what: Capability<'_>) -> Option<String> {
    match policy.decide(who, &what) {
        Decision::Allow { rule, .. } => rule.map(|rule| rule.to_string()),
        Decision::Deny(_) => None,
    }
}

#[test]
fn the_form_of_the_issue() {
    let policy = compile(DEMO);
    let reader = user("ada", &[], &["read"]);
    assert_eq!(rule_that_allows(&policy, &reader, tool("fs", "readFileText")).as_deref(), Some("demo/readers"));
    assert_eq!(rule_that_allows(&policy, &reader, tool("fs", "writeFile")), None);
    assert_eq!(rule_that_allows(&policy, &reader, tool("vector", "readAll")), None);
    assert_eq!(rule_that_allows(&policy, &user("ada", &["read"], &[]), tool("fs", "readFileText")), None);
    assert_eq!((policy.mtls_mode(), policy.rule_count()), (MtlsMode::Strict, 1));
}

#[test]
fn every_requirement_has_its_word() {
    let policy = compile(&with_rules(
        r#"      - { name: role, services: [a], capabilities: ["*"], requires: [ { role: admin }, { scope: x } ] }
      - { name: service, services: [b], capabilities: ["*"], requires: [ { workload: "agent-*" } ] }
      - { name: id, services: [c], capabilities: ["*"], requires: [ { workload: "spiffe://demo/agent-*" } ] }
      - { name: subject, services: [d], capabilities: ["*"], requires: [ { subject: "ci-*" } ] }
      - { name: open, services: [e], capabilities: ["*"], requires: [ { anonymous: true } ] }
      - { name: known, services: [f], capabilities: ["*"] }
"#,
    ));
    let who = [
        user("ada", &["admin"], &["x"]),
        user("ada", &["admin"], &[]),
        user("ci-1", &[], &[]),
        Principal::workload("spiffe://demo/agent-1").unwrap(),
        Principal::workload("spiffe://other/agent-1").unwrap(),
        Principal::anonymous(),
    ];
    let allowed =
        |service| who.iter().map(|who| policy.decide(who, &tool(service, "t")).is_allowed()).collect::<Vec<_>>();
    assert_eq!(allowed("a"), [true, false, false, false, false, false]);
    assert_eq!(allowed("b"), [false, false, false, true, true, false]);
    assert_eq!(allowed("c"), [false, false, false, true, false, false]);
    assert_eq!(allowed("d"), [false, false, true, false, false, false]);
    assert_eq!(allowed("e"), [true; 6]);
    assert_eq!(allowed("f"), [true, true, true, true, true, false]);
}

#[test]
fn rules_deny_and_policies_watch() {
    let text = with_rules(
        "      - { name: all, services: [fs], capabilities: ['*'] }\n      \
         - { name: none, effect: deny, services: [fs], capabilities: ['delete*'], requires: [ { scope: guest } ] }\n",
    );
    let (ada, guest) = (user("ada", &[], &[]), user("guest", &[], &["guest"]));
    let delete = tool("fs", "delete");
    let policy = compile(&text);
    assert!(policy.decide(&ada, &delete).is_allowed() && !policy.decide(&guest, &delete).is_allowed());
    let watching = compile(&text.replace("spec:\n", "spec:\n  mode: audit\n"));
    assert!(watching.decide(&guest, &delete).is_allowed());
    let everybody = compile(&text.replace(", requires: [ { scope: guest } ]", ""));
    assert!(!everybody.decide(&ada, &delete).is_allowed(), "without requirements a rule denies everybody");

    let one = |from: &str, to: &str| mistake(&text.replace(from, to));
    assert!(one("effect: deny", "effect: forbid").contains("(one of allow, deny)"));
    assert!(one("{ scope: guest }", "{ anonymous: true }").contains("and this one denies (leave `requires` out"));
    let limits = "spec:\n  mode: audit\n  limits:\n    - { name: l, per: client, rate: 1/s }\n";
    assert!(one("spec:\n", limits).contains("limits are always in force"));
}

#[test]
fn kinds_narrow_a_rule() {
    let policy =
        compile(&with_rules("      - { name: r, services: [fs], capabilities: ['*'], kinds: [prompt, resource] }\n"));
    let ada = user("ada", &[], &[]);
    let allowed = CapabilityKind::ALL
        .map(|kind| policy.decide(&ada, &Capability { kind, service: "fs", name: "x" }).is_allowed());
    assert_eq!(allowed, [false, true, true, false]);
}

#[test]
fn the_order_of_files_and_documents_means_nothing() {
    let other = DEMO.replace("name: demo", "name: another").replace("STRICT", "PERMISSIVE");
    let joined = format!("{DEMO}---\n{other}");
    let sets = [
        PolicySet::compile(&[("a", DEMO), ("b", &other)]).unwrap(),
        PolicySet::compile(&[("b", &other), ("a", DEMO)]).unwrap(),
        PolicySet::compile(&[("c", &joined)]).unwrap(),
    ];
    let reader = user("ada", &[], &["read"]);
    for set in &sets {
        assert_eq!(rule_that_allows(set, &reader, tool("fs", "read")).as_deref(), Some("another/readers"));
        assert_eq!(set.visibility_class(&reader), sets[0].visibility_class(&reader));
        assert_eq!(set.mtls_mode(), MtlsMode::Strict, "the strict document wins");
    }
    assert_eq!(compile(&other).mtls_mode(), MtlsMode::Permissive);
}

#[test]
fn limits_are_read() {
    let policy = compile(
        "apiVersion: mcpx.io/v1\nkind: SecurityPolicy\nmetadata: { name: p }\nspec:\n  limits:\n    \
         - { name: a, per: client, rate: 100/s, burst: 20 }\n    \
         - { name: b, per: tool, services: [fs], capabilities: ['write*'], rate: 600/m }\n    \
         - { name: c, per: service, rate: 10/h }\n",
    );
    let seen: Vec<_> = policy
        .limits()
        .iter()
        .map(|limit| (&*limit.name, limit.per, limit.quota.interval().as_millis(), limit.quota.burst()))
        .collect();
    assert_eq!(
        seen,
        [("p/a", Per::Client, 10, 20), ("p/b", Per::Tool, 100, 10), ("p/c", Per::Service, 360_000, 1)],
        "without a burst: one second's worth, at least one"
    );
    assert!(policy.limits()[0].coverage.covers_service("anything"));
    assert!(!policy.limits()[1].coverage.covers_service("vector"));
}

#[test]
fn rules_have_limits_and_budgets_of_their_own() {
    let text = with_rules(
        "      - { name: slow, services: [a], capabilities: [slow], limits: { rate: 1/m, burst: 2 } }\n      \
         - { name: dear, services: [a], capabilities: ['*'], budget: { cost: 10, per: 1h } }\n  \
         costs:\n    - { services: [a], capabilities: ['embed*'], cost: 4 }\n    \
         - { services: ['*'], capabilities: [embedAll], cost: 11 }\n    - { services: [a], capabilities: [free], cost: 0 }\n",
    );
    let (policy, who) = (compile(&text), [user("ada", &[], &[]), user("bob", &[], &[])]);
    let limits = Limits::of_policy(&policy, 64);
    let call = |limits: &Limits, who: &Principal, name: &str, second: u64| {
        let what = tool("a", name);
        let Decision::Allow { rule, .. } = policy.decide(who, &what) else { panic!("denied") };
        let now = Nanos(second * 1_000_000_000);
        limits
            .check_rule(rule.as_ref(), who, || policy.cost_of(&what), now)
            .map_err(|wrong| (wrong.rule.to_string(), wrong.of_budget, wrong.retry_after.as_secs()))
    };
    let [ada, bob] = &who;
    assert_eq!((call(&limits, ada, "slow", 0), call(&limits, ada, "slow", 0)), (Ok(()), Ok(())));
    assert_eq!(call(&limits, ada, "slow", 0), Err(("p/slow".to_owned(), false, 60)));
    assert_eq!(call(&limits, bob, "slow", 0), Ok(()), "each caller for itself");
    for name in ["embed", "embedX", "other", "other", "free"] {
        assert_eq!(call(&limits, ada, name, 10), Ok(()), "{name}");
    }
    let spent = Err(("p/dear".to_owned(), true, 3600 - 10));
    assert_eq!(call(&limits, ada, "other", 20), spent);
    let kept = limits.reload_policy(&policy);
    assert_eq!(call(&kept, ada, "other", 20), spent, "a reload gives nobody a fresh budget");
    assert_eq!(call(&kept, ada, "free", 20), Ok(()));
    assert_eq!(call(&kept, bob, "embedAll", 20), Err(("p/dear".to_owned(), true, 3600)), "costs more than there is");
    assert_eq!(call(&kept, ada, "other", 4000), Ok(()), "the next window");

    let one = |rule: &str| {
        mistake(&with_rules(&format!("      - {{ name: r, services: [a], capabilities: [b], {rule} }}\n")))
    };
    assert!(one("effect: deny, budget: { cost: 1, per: 1h }").contains("nothing here that could be limited"));
    assert!(one("budget: { cost: 0, per: 1h }").contains("out of range"), "{}", one("budget: { cost: 0, per: 1h }"));
    assert!(one("limits: { burst: 3 }").contains("this setting is missing"));
}

#[test]
fn every_mistake_is_told_at_once() {
    let first = r#"apiVersion: mcpx.io/v2
kind: SecurityPolicy
metadata: { name: demo }
spec:
  authentication: { mtls: { mode: STRIKT } }
  authorisation:
    rules: []
  authorization:
    rules:
      - name: readers
        services: ["FS", "fs"]
        capabilities: ["", "read*"]
        require: [ { scope: "read" } ]
      - name: readers
        services: []
        capabilities: ["*"]
        kinds: [tol]
  limits:
    - { name: l, per: clients, rate: fast, burst: 0 }
"#;
    let second = "apiVersion: mcpx.io/v1\nkind: SecurityPolicy\nmetadata: { name: demo }\nspec: {}\n";
    let all = PolicySet::compile(&[("a.yaml", first), ("b.yaml", second)]).unwrap_err();
    let mut places: Vec<_> =
        all.0.iter().map(|one| format!("{}:{}:{} {}", one.file, one.line, one.column, one.path)).collect();
    places.sort();
    assert_eq!(
        places,
        [
            "a.yaml:11:20 spec.authorization.rules[0].services",
            "a.yaml:12:24 spec.authorization.rules[0].capabilities",
            "a.yaml:13:9 spec.authorization.rules[0].require",
            "a.yaml:14:9 spec.authorization.rules[1].name",
            "a.yaml:15:9 spec.authorization.rules[1].services",
            "a.yaml:17:17 spec.authorization.rules[1].kinds",
            "a.yaml:19:23 spec.limits[0].per",
            "a.yaml:19:38 spec.limits[0].rate",
            "a.yaml:19:51 spec.limits[0].burst",
            "a.yaml:1:13 apiVersion",
            "a.yaml:5:35 spec.authentication.mtls.mode",
            "a.yaml:6:3 spec.authorisation",
            "b.yaml:3:13 metadata.name",
        ],
        "{all}"
    );
    let text = all.to_string();
    for hint in
        ["did you mean `requires`?", "did you mean `tool`?", "did you mean `STRICT`?", "is defined at a.yaml:3 already"]
    {
        assert!(text.contains(hint), "{hint} in {text}");
    }
}

#[test]
fn claims_are_required_by_value() {
    let text = with_rules(
        "      - { name: r, services: [a], capabilities: ['*'], requires: [ { claim: { name: team, any: [x, y] } } ] }\n",
    );
    let (policy, ada) = (compile(&text), user("ada", &[], &[]));
    let allowed = |claims: &[(&str, Vec<&str>)]| {
        policy.decide(&ada.with_claims(claims.to_vec()).unwrap(), &tool("a", "t")).is_allowed()
    };
    assert!(
        allowed(&[("team", vec!["z", "y"])]) && !allowed(&[("team", vec!["z"])]) && !allowed(&[("Team", vec!["x"])])
    );
    let needs = policy.explain(&ada, &tool("a", "t")).to_string();
    assert!(needs.contains("needs claim team \"x\" or \"y\""), "{needs}");
    assert!(mistake(&text.replace("any: [x, y]", "any: []")).contains("an empty list covers nothing"));
    assert!(mistake(&text.replace("name: team, ", "")).contains("this setting is missing"));
}

#[test]
fn without_an_engine_conditions_are_mistakes_where_they_matter() {
    let text = with_rules("      - { name: r, services: [a], capabilities: ['*'], when: 'true' }\n");
    assert!(mistake(&text).contains("was built without conditions"), "{}", mistake(&text));
    let reader = |service| crate::Reader { engine: None, service: Some(service) };
    assert!(reader("a").compile(&[("p", &text)]).is_err());
    assert_eq!(reader("b").compile(&[("p", &text)]).unwrap().rule_count(), 0, "the rule is about another service");
}

#[test]
fn requirements_are_one_to_an_entry() {
    let rule = |requires: &str| {
        with_rules(&format!("      - {{ name: r, services: [a], capabilities: [b], requires: {requires} }}\n"))
    };
    let one = |requires: &str| mistake(&rule(requires));
    assert!(one("[{ scope: a, role: b }]").starts_with("7:"), "the place of the entry");
    assert!(one("[{ scope: a, role: b }]").contains("2 requirements in one entry (write exactly one of scope, role,"));
    assert!(one("[{}]").contains("0 requirements in one entry"));
    assert!(one("[]").contains("an empty list requires nothing"));
    assert!(one("[{ anonymous: false }]").contains("`false` is the default"));
    assert!(one("[{ anonymous: true }, { scope: a }]").contains("nothing can stand beside it"));
    assert!(one("[{ workload: 'http://x' }]").contains("fits no workload (write a service name"));
    assert!(one("[{ scope: 'read write' }]").contains("several are several entries"));
    assert!(one("scope").contains("expected a list"));
    assert!(one("[scope]").contains("expected a section"));
}

#[test]
fn services_that_cannot_exist_are_mistakes() {
    let one = |service: &str| {
        mistake(&with_rules(&format!("      - {{ name: r, services: [\"{service}\"], capabilities: [b] }}\n")))
    };
    for service in ["Fs", "fs.readFile", "fs-", "a-name-that-is-much-too-long", "fs__read"] {
        assert!(one(service).contains("fits no service name (service names are"), "{service}");
    }
    compile(&with_rules(
        "      - { name: r, services: ['*', 'fs-*', '*-db', twenty-letters-exact], capabilities: [b] }\n",
    ));
}

#[test]
fn files_without_a_policy_are_mistakes() {
    assert!(mistake("").starts_with("1:1 there is no policy in this file"));
    assert!(mistake("# nothing\n---\n").contains("there is no policy"));
    assert!(
        mistake("apiVersion: mcpx.io/v1\nkind: SecurityPolicy\nmetadata: { name: p }\n").contains("there is no `spec`")
    );
    assert!(mistakes("a: [").len() == 1, "not YAML");
    assert!(
        mistake(&DEMO.replace("kind: SecurityPolicy", "kind: SecurityPolice"))
            .contains("did you mean `SecurityPolicy`?")
    );
}

#[test]
fn one_mistake_spoils_the_set_and_no_files_deny_everything() {
    let broken = with_rules("      - { name: r, services: [fs], capabilities: [''] }\n");
    assert!(PolicySet::compile(&[("good", DEMO), ("broken", &broken)]).is_err());
    let none = PolicySet::compile(&[]).unwrap();
    assert!(!none.decide(&user("ada", &["admin"], &["read"]), &tool("fs", "read")).is_allowed());
}

#[test]
fn too_much_is_told() {
    let many: String =
        (0..=super::MAX_LIMITS).map(|n| format!("    - {{ name: l{n}, per: tool, rate: 1/s }}\n")).collect();
    let text =
        format!("apiVersion: mcpx.io/v1\nkind: SecurityPolicy\nmetadata: {{ name: p }}\nspec:\n  limits:\n{many}");
    assert!(mistake(&text).contains("101 limits over all policy files, more than 100"));
}

#[test]
fn the_form_describes_itself() {
    let page = settings().to_markdown(2);
    for setting in ["capabilities", "requires", "anonymous", "burst", "STRICT"] {
        assert!(page.contains(setting), "{setting} in {page}");
    }
}

#[test]
fn the_document_for_users_compiles() {
    let page = include_str!("../../../../docs/POLICY.md");
    let examples: Vec<&str> = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let whole: Vec<&&str> = examples.iter().filter(|example| example.starts_with("apiVersion")).collect();
    assert!(whole.len() >= 3, "docs/POLICY.md lost its examples");
    let reader = crate::Reader { engine: Some(&Anything), service: None };
    for example in whole {
        // Conditions are compiled where their engine is tested.
        if let Err(wrong) = reader.compile(&[("docs/POLICY.md", example)]) {
            panic!("{wrong}\nin\n{example}");
        }
    }
}

proptest! {
    /// No text makes the compiler panic; changing pieces of a good file reaches further into it than noise does.
    #[test]
    fn never_panics(cut in 0_usize..DEMO.len(), noise in "\\PC{0,6}|[\\[\\]{}:,*&!|>'\"\n -]{0,6}", keep in proptest::bool::ANY) {
        let text = format!("{}{noise}{}", &DEMO[..cut], if keep { &DEMO[cut..] } else { "" });
        let _ = PolicySet::compile(&[("f", &text)]);
    }
}
