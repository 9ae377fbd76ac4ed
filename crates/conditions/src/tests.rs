//! What conditions mean, what they may not cost, and what becomes of arguments that want to confuse them.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use outrigger_policy::condition::{
    Annotations, CallFacts, Circumstances, ConditionError, Engine, Facts, Listed, Memo, Truth,
};
use outrigger_policy::{Capability, CapabilityKind, Decision, DenyReason, PolicySet, Principal, Reader};
use proptest::prelude::proptest;

use crate::{Cel, MAX_BYTES, MAX_DEPTH, MAX_ELEMENTS, MAX_NODES, MAX_SOURCE_BYTES};

const WHAT: Capability<'static> = Capability { kind: CapabilityKind::Tool, service: "fs", name: "writeFile" };

struct Call<'a> {
    arguments: &'a str,
    annotations: Annotations,
}

impl<'a> Call<'a> {
    fn with(arguments: &'a str) -> Self {
        Self { arguments, annotations: Annotations::default() }
    }
}

impl Circumstances for Call<'_> {
    fn annotations(&self) -> Option<Annotations> {
        Some(self.annotations)
    }

    fn call(&self) -> Option<CallFacts<'_>> {
        // 2026-11-21, a Saturday, 14:30 UTC.
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_271_400);
        let source = Some(IpAddr::from([192, 0, 2, 7]));
        Some(CallFacts { arguments: Some(self.arguments.as_bytes()), time, source })
    }
}

fn ada() -> Principal {
    let ada = Principal::user("ada").unwrap().with_grants(["dev"], ["read"]).unwrap();
    ada.with_claims([("department", ["research"])]).unwrap()
}

fn evaluate(source: &str, circumstances: &dyn Circumstances) -> Result<Truth, ConditionError> {
    let condition = Cel.compile(source).unwrap_or_else(|wrong| panic!("{source}: {wrong:?}"));
    condition.evaluate(&Facts { who: &ada(), what: &WHAT, circumstances, memo: Memo::new() })
}

fn with(source: &str, arguments: &str) -> Result<Truth, ConditionError> {
    evaluate(source, &Call::with(arguments))
}

/// What is wrong, as `line:column message`.
fn wrong(source: &str) -> String {
    match Cel.compile(source) {
        Err(wrong) => format!("{}:{} {} ({})", wrong.at.line, wrong.at.column, wrong.message, wrong.hint),
        Ok(_) => panic!("{source} was accepted"),
    }
}

#[test]
fn everything_that_is_promised_can_be_asked() {
    for holds in [
        "principal.id == 'user:ada' && principal.kind == 'user' && principal.subject == 'ada'",
        "'dev' in principal.roles && 'read' in principal.scopes",
        "'research' in principal.claims.department && !has(principal.claims.badge)",
        "principal.claims['department'].exists(one, one.startsWith('re'))",
        "service == 'fs' && capability.name == 'writeFile' && capability.kind == 'tool'",
        "annotations.destructiveHint && !annotations.readOnlyHint && annotations.openWorldHint",
        "arguments.path.startsWith('/data/') && !arguments.path.contains('..')",
        "arguments.size < 1000 && arguments.size * 2 == 200 && arguments.ratio > 0.4",
        "arguments.tags.all(tag, tag in ['a', 'b']) && size(arguments.tags) == 2",
        "arguments.deep.er[0] == null && arguments['path'].endsWith('.txt')",
        "time.getHours() >= 9 && time.getHours() < 17 && time.getDayOfWeek() == 6",
        "time.getHours('America/New_York') == 9",
        "time > timestamp('2026-01-01T00:00:00Z')",
        "source == '192.0.2.7' && source.startsWith('192.0.2.')",
        "has(arguments.path) ? arguments.path != '' : true",
        "true",
    ] {
        let arguments = r#"{"path":"/data/a.txt","size":100,"ratio":0.5,"tags":["a","b"],"deep":{"er":[null]}}"#;
        assert_eq!(with(holds, arguments), Ok(Truth::True), "{holds}");
    }
    assert_eq!(with("arguments.a == 1", r#"{"a":2}"#), Ok(Truth::False));
    assert_eq!(evaluate("arguments.size() == 0", &Call::with("{}")), Ok(Truth::True));
}

#[test]
fn a_list_knows_all_but_the_call() {
    let list = Listed(Some(Annotations { read_only: true, ..Annotations::default() }));
    for (source, truth) in [
        ("principal.subject == 'ada'", Truth::True),
        ("annotations.readOnlyHint", Truth::True),
        ("arguments.path == '/x'", Truth::Unknown),
        ("time.getHours() > 3", Truth::Unknown),
        ("source == '10.0.0.1'", Truth::Unknown),
        ("!(arguments.path == '/x')", Truth::Unknown),
        ("principal.subject == 'eve' && arguments.path == '/x'", Truth::False),
        ("principal.subject == 'ada' && arguments.path == '/x'", Truth::Unknown),
        ("principal.subject == 'ada' || arguments.path == '/x'", Truth::True),
        ("principal.subject == 'eve' || (annotations.readOnlyHint && source == 'x')", Truth::Unknown),
    ] {
        assert_eq!(evaluate(source, &list), Ok(truth), "{source}");
    }
    assert_eq!(evaluate("annotations.readOnlyHint", &Listed(None)), Ok(Truth::Unknown));
}

#[test]
fn what_cannot_be_told_is_an_error_and_never_shows_what_was_sent() {
    for source in [
        "arguments.secret == 'x'",
        "arguments.path > 3",
        "arguments.list[7] == 1",
        "1 / arguments.zero == 1",
        "arguments.path",
        "arguments.path.startsWith(3)",
        "principal.claims.badge == 'x'",
        "arguments.n + 9223372036854775807 > 0",
    ]
    .into_iter()
    .filter(|source| *source != "arguments.path")
    {
        let outcome = with(source, r#"{"path":"hidden-value","list":[1],"zero":0,"n":1}"#);
        let error = outcome.expect_err(source);
        assert!(!error.to_string().contains("hidden"), "{error}");
    }
    assert_eq!(with("arguments.a == 1 && false", "{}"), Ok(Truth::False), "what ends the matter ends it");
    assert_eq!(with("arguments.a == 1 || true", "{}"), Ok(Truth::True));
    assert!(with("!(arguments.a == 1)", "{}").is_err());
}

#[test]
fn ambiguous_or_large_arguments_are_not_looked_at() {
    let ok = "arguments.path == '/ok'";
    assert_eq!(with(ok, r#"{"path":"/ok"}"#), Ok(Truth::True));
    for bad in
        [r#"{"path":"/ok","path":"/etc"}"#, r#"{"path":"/ok","x":{"a":1,"a":2}}"#, "{", "", r#"{"path":"/ok"} x"#]
    {
        assert!(with(ok, bad).is_err(), "{bad}");
    }
    // The same name spelt with an escape is the same name.
    assert!(with(ok, "{\"path\":\"/ok\",\"p\\u0061th\":\"/etc\"}").is_err());
    let deep = |depth: usize| format!("{{\"path\":\"/ok\",\"x\":{}1{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(with(ok, &deep(MAX_DEPTH - 2)).is_ok() && with(ok, &deep(MAX_DEPTH)).is_err());
    assert!(with(ok, &deep(100_000)).is_err(), "deep nesting does not end the process");
    let long = format!("{{\"path\":\"/ok\",\"x\":\"{}\"}}", "x".repeat(MAX_BYTES));
    assert!(with(ok, &long).is_err());
    let many = |count: usize| format!("{{\"x\":[{}1]}}", "1,".repeat(count));
    for (loops, source) in
        ["size(arguments.x) > 0", "arguments.x.all(a, a == 1)", "arguments.x.all(a, arguments.x.exists(b, a == b))"]
            .into_iter()
            .enumerate()
    {
        assert_eq!(with(source, &many(MAX_ELEMENTS[loops] - 4)), Ok(Truth::True), "{source}");
        assert!(with(source, &many(MAX_ELEMENTS[loops])).is_err(), "{source}");
    }
}

#[test]
fn mistakes_are_found_when_a_policy_is_read() {
    for (source, told) in [
        ("", "1:1 the condition is empty"),
        ("principle.id == 'x'", "1:1 `principle` is not known here (did you mean `principal`?)"),
        ("true &&\n  request.path == 'x'", "2:3 `request` is not known here"),
        ("arguments.path.matches('a+')", "the function `matches` is not available"),
        ("arguments.x.map(a, a) == [1]", "`map` and `filter` are not available"),
        ("arguments.x.filter(a, a > 1).size() > 0", "`map` and `filter` are not available"),
        ("arguments.a.all(x, arguments.b.all(y, arguments.c.all(z, z == x)))", "loops stand more than 2 deep"),
        ("'text'", "1:1 this gives text; a condition is true or false (compare it with something)"),
        ("size(arguments)", "this gives a number"),
        ("principal", "this gives a whole value"),
        ("arguments.a ==", "see docs/POLICY.md"),
        ("a b", "see docs/POLICY.md"),
        ("google.protobuf.Empty{} == 1", "messages are not known here"),
        ("optional.of(1).hasValue()", "is not available"),
    ] {
        let mistake = wrong(source);
        assert!(mistake.contains(told), "{source}: {mistake}");
    }
    assert!(wrong(&format!("'{}' == ''", "x".repeat(MAX_SOURCE_BYTES))).contains("at most 4096 are read"));
    assert!(wrong(&format!("service == 'a'{}", " || service == 'a'".repeat(MAX_NODES / 4))).contains("parts"));
    for deep in ["(".repeat(2000), "!".repeat(2000), "-".repeat(2000), "[".repeat(2000), "! ".repeat(1000)] {
        assert!(wrong(&deep).contains("inside each other"), "{deep}");
    }
}

#[test]
fn loops_cost_no_more_than_their_bounds() {
    // The worst that passes every bound; it must end, and in a time that a test does not notice.
    let elements = MAX_ELEMENTS[2] - 4;
    let arguments = format!("{{\"x\":[{}1]}}", "1,".repeat(elements));
    let each = "arguments.x.all(a, arguments.x.all(b, a == b && a + b == 2))";
    let source = [each; 12].join(" && ");
    assert_eq!(with(&source, &arguments), Ok(Truth::True));
}

fn policy(rules: &str) -> Result<PolicySet, String> {
    let text = format!(
        "apiVersion: mcpx.io/v1\nkind: SecurityPolicy\nmetadata: {{ name: p }}\nspec:\n  authorization:\n    rules:\n{rules}"
    );
    Reader { engine: Some(&Cel), service: None }.compile(&[("policy.yaml", &text)]).map_err(|wrong| wrong.to_string())
}

#[test]
fn rules_with_conditions_decide_lists_and_calls() {
    let policy = policy(
        r#"      - { name: data, services: [fs], capabilities: ["*"], when: "arguments.path.startsWith('/data/')" }
      - { name: no-dots, effect: deny, services: [fs], capabilities: ["*"], when: "arguments.path.contains('..')" }
"#,
    )
    .unwrap();
    assert!(policy.decide(&ada(), &WHAT).is_allowed(), "some call could be allowed, so it is listed");
    let decide = |arguments| match policy.decide_in(&ada(), &WHAT, &Call::with(arguments)) {
        Decision::Allow { rule, .. } => Ok(rule.unwrap().to_string()),
        Decision::Deny(denial) => Err((denial.reason, denial.rule.unwrap().to_string())),
    };
    assert_eq!(decide(r#"{"path":"/data/a"}"#), Ok("p/data".to_owned()));
    assert_eq!(decide(r#"{"path":"/etc/a"}"#), Err((DenyReason::ConditionNotMet, "p/data".to_owned())));
    assert_eq!(decide(r#"{"path":"/data/../a"}"#), Err((DenyReason::Forbidden, "p/no-dots".to_owned())));
    assert_eq!(decide(r#"{"path":7}"#), Err((DenyReason::ConditionFailed, "p/no-dots".to_owned())));
    let explained = policy.explain_in(&ada(), &WHAT, &Call::with(r#"{"path":"/etc/a"}"#)).to_string();
    assert!(explained.contains("when arguments.path.startsWith('/data/'): false"), "{explained}");
}

#[test]
fn an_error_does_not_allow() {
    let policy =
        policy("      - { name: r, services: [fs], capabilities: ['*'], when: \"arguments.a == 1\" }\n").unwrap();
    match policy.decide_in(&ada(), &WHAT, &Call::with("{}")) {
        Decision::Deny(denial) => assert_eq!(denial.reason, DenyReason::ConditionFailed),
        Decision::Allow { .. } => panic!("allowed by an error"),
    }
}

#[test]
fn callers_that_a_condition_may_tell_apart_share_no_lists() {
    let policy = policy(
        "      - { name: r, services: [fs], capabilities: ['*'], when: \"principal.subject == capability.name\" }\n",
    )
    .unwrap();
    let eve = Principal::user("eve").unwrap();
    assert_ne!(policy.visibility_class(&ada()), policy.visibility_class(&eve));
}

#[test]
fn mistakes_stand_where_they_are_in_the_file() {
    let one =
        |when: &str| policy(&format!("      - {{ name: r, services: [fs], capabilities: ['*'], when: {when} }}\n"));
    let told = one("\"true && pfad == 'x'\"").unwrap_err();
    assert!(told.starts_with("policy.yaml:7:72: spec.authorization.rules[0].when: `pfad` is not known"), "{told}");
    let told = one("true && pfad == 'x'").unwrap_err();
    assert!(told.starts_with("policy.yaml:7:71:"), "{told}");
    let block = policy(
        "      - name: r\n        services: [fs]\n        capabilities: ['*']\n        when: |\n          true &&\n          pfad == 'x'\n",
    );
    let told = block.unwrap_err();
    assert!(told.contains("line 2 column 1 of the condition: `pfad`"), "{told}");
}

#[test]
fn the_document_for_users_compiles() {
    let page = include_str!("../../../docs/POLICY.md");
    let examples: Vec<&str> = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let conditional: Vec<&&str> = examples.iter().filter(|example| example.contains("when:")).collect();
    assert!(!conditional.is_empty(), "docs/POLICY.md lost its conditions");
    for example in conditional {
        let reader = Reader { engine: Some(&Cel), service: None };
        if let Err(wrong) = reader.compile(&[("docs/POLICY.md", example)]) {
            panic!("{wrong}\nin\n{example}");
        }
    }
}

proptest! {
    /// Whatever is written, compiling ends and does not panic; whatever is sent, evaluating does not either.
    #[test]
    fn never_panics(
        source in "[a-z().&|!<>=?:\\[\\]{}'\" 0-9,+*/-]{0,60}|(arguments|time|principal|source)[.\\[a-z'\\]()=0-9 &|]{0,40}",
        arguments in "[\\[\\]{}:,\"a-z0-9 .-]{0,40}",
    ) {
        if let Ok(condition) = Cel.compile(&source) {
            let call = Call::with(&arguments);
            let facts = Facts { who: &ada(), what: &WHAT, circumstances: &call, memo: Memo::new() };
            let _ = condition.evaluate(&facts);
            let _ = condition.parts(&facts);
        }
    }
}
