//! `outrigger policy test`: what a policy is meant to answer, kept beside it and compared with what it does answer.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use outrigger_config::{Diagnostics, Document, Fields, Kind, Mistake, Node, Value, doc, kinds};
use outrigger_policy::{Annotations, Approval, CapabilityKind, Explanation, RuleId};
use outrigger_runtime::Exit;
use serde::Serialize;
use serde_json::Value as Json;

use super::compile;
use super::request::{Imagined, Request, capability, time};
use crate::args::PolicyTestArgs;
use crate::{files, output};

/// A file of expectations.
struct Expectations {
    policies: Vec<PathBuf>,
    cases: Vec<Case>,
}

/// One expectation.
struct Case {
    name: Option<String>,
    line: u32,
    request: Request,
    capability: String,
    kind: CapabilityKind,
    answer: Answer,
    rule: Option<String>,
    /// Whose word a call waits for.
    approver: Option<Approver>,
}

/// What a policy says to somebody who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Go on.
    Allow,
    /// Go on once a person has said yes.
    Approval,
    /// No.
    Deny,
}

/// Whose word is meant to let a call go on.
#[derive(Debug, PartialEq, Eq)]
struct Approver {
    caller: bool,
    role: Option<String>,
}

/// Rules that let a call wait, with whose word they want; the rule of which that cannot be told.
type Approvals = Result<Vec<(RuleId, Arc<Approval>)>, RuleId>;

/// What became of one.
#[derive(Debug, Serialize)]
struct Outcome {
    name: String,
    line: u32,
    passed: bool,
    /// What does not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    explanation: Explanation,
}

/// Runs the command.
pub(super) fn main(args: &PolicyTestArgs) -> anyhow::Result<Exit> {
    let name = args.expectations.display().to_string();
    let expectations = read(&name, &files::read(&args.expectations)?)?;
    let beside = args.expectations.parent().unwrap_or(Path::new(""));
    let named: Vec<PathBuf> = expectations.policies.iter().map(|path| beside.join(path)).collect();
    let set = compile(if args.policies.is_empty() { &named } else { &args.policies })?;
    let mut outcomes = Vec::with_capacity(expectations.cases.len());
    for case in &expectations.cases {
        let what = capability(&case.capability, case.kind)?;
        let (who, circumstances) = (case.request.principal()?, &case.request.circumstances);
        let explanation = set.explain_in(&who, &what, circumstances);
        // A list shows what can be called with approval.
        let approvals =
            if circumstances.is_call { set.approvals_in(&who, &what, circumstances) } else { Ok(Vec::new()) };
        let problem = problem(case, &explanation, &approvals);
        let name = case.name.clone().unwrap_or_else(|| format!("{} {}", case.request.who, case.capability));
        outcomes.push(Outcome { name, line: case.line, passed: problem.is_none(), problem, explanation });
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.passed).count();
    if args.json {
        output::json(&serde_json::json!({ "passed": outcomes.len() - failed, "failed": failed, "cases": outcomes }))?;
    } else {
        output::result(&told(&name, &outcomes, failed));
    }
    Ok(if failed == 0 { Exit::Clean } else { Exit::Failed })
}

fn problem(case: &Case, found: &Explanation, approvals: &Approvals) -> Option<String> {
    let expected = case.answer.as_str();
    let answer = match (found.allowed, approvals) {
        (false, _) => Answer::Deny,
        // As at a call: nobody can be asked about what cannot be decided.
        (true, Err(rule)) if case.answer != Answer::Deny => {
            return Some(format!(
                "expected {expected}, but whether rule {rule} wants approval cannot be told, which denies"
            ));
        }
        (true, Err(_)) => Answer::Deny,
        (true, Ok(wanted)) if wanted.is_empty() => Answer::Allow,
        (true, Ok(_)) => Answer::Approval,
    };
    if case.answer != answer {
        return Some(format!("expected {expected}, the policy says {}", answer.as_str()));
    }
    if let (Some(approver), Ok(wanted)) = (&case.approver, approvals)
        && !wanted.iter().any(|(_, approval)| approver.is(approval))
    {
        let whose: Vec<String> = wanted.iter().map(|(rule, approval)| format!("{approval} ({rule})")).collect();
        return Some(format!("expected that it waits for {approver}, it waits for {}", whose.join(" and ")));
    }
    let rule = found.rule.as_ref().map(ToString::to_string);
    match (&case.rule, rule) {
        (Some(expected), Some(rule)) if *expected != rule => Some(format!("expected rule {expected}, it is {rule}")),
        (Some(expected), None) => Some(format!("expected rule {expected}, there is none")),
        _ => None,
    }
}

impl Answer {
    const WORDS: &[(&str, Self)] = &[("allow", Self::Allow), ("approval", Self::Approval), ("deny", Self::Deny)];

    fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Approval => "approval",
            Self::Deny => "deny",
        }
    }
}

impl Approver {
    fn is(&self, approval: &Approval) -> bool {
        self.caller == approval.caller() && self.role.as_deref() == approval.role()
    }
}

impl std::fmt::Display for Approver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.caller, &self.role) {
            (true, None) => f.write_str("the caller's own user"),
            (true, Some(role)) => write!(f, "the caller's own user, or somebody with the role \"{role}\""),
            (false, Some(role)) => write!(f, "somebody with the role \"{role}\""),
            (false, None) => f.write_str("nobody"),
        }
    }
}

fn told(file: &str, outcomes: &[Outcome], failed: usize) -> String {
    let mut out = String::new();
    for outcome in outcomes.iter().filter(|outcome| !outcome.passed) {
        let Outcome { name, line, problem, explanation, .. } = outcome;
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{file}:{line}: {name}: {}", problem.as_deref().unwrap_or_default());
        explanation.to_string().lines().for_each(|line| out.push_str(&format!("    {line}\n")));
    }
    let _ = write!(out, "{} expectations hold, {failed} do not", outcomes.len() - failed);
    out
}

fn read(name: &str, text: &str) -> Result<Expectations, Diagnostics> {
    let document = Document::parse(name, text)?;
    let loaded = document.read(&|_| None, |f| {
        let text = doc("Policy files, beside this file.").example("[policy.yaml]");
        let policies = f.optional("policy", text, kinds::list_of(kinds::path())).unwrap_or_default();
        let cases = f.list("expect", "What the policy is meant to answer.", case);
        if cases.is_empty() {
            f.mistake("expect", "nothing is expected", "write at least one expectation");
        }
        Some(Expectations { policies, cases })
    })?;
    Ok(loaded.value)
}

fn case(f: &mut Fields<'_>) -> Option<Case> {
    const KINDS: &[(&str, CapabilityKind)] = &[
        ("tool", CapabilityKind::Tool),
        ("prompt", CapabilityKind::Prompt),
        ("resource", CapabilityKind::Resource),
        ("template", CapabilityKind::Template),
    ];
    let line = f.at().line;
    let texts = || kinds::list_of(kinds::text());
    let name = f.optional("name", doc("What is meant, for people."), kinds::text());
    let who = f.required("as", doc("Who asks.").example("user:ada"), who());
    let roles = f.optional("roles", doc("Roles granted."), texts()).unwrap_or_default();
    let scopes = f.optional("scopes", doc("Scopes granted."), texts()).unwrap_or_default();
    let claims = f.raw("claims").map(json);
    let wanted = f.required("capability", doc("What for.").example("fs.readFileText"), asked());
    let kind = f.with_default("kind", doc("Its kind."), kinds::choice(KINDS), CapabilityKind::Tool);
    let arguments = f.raw("arguments").map(|node| json(node).to_string());
    let annotations = f.raw("annotations").map(|node| Annotations::of(Some(json(node).to_string().as_bytes())));
    let time = f.optional("time", doc("When.").example("2026-11-21T09:30:00Z"), moment());
    let source = f.optional("source", doc("Where from.").example("192.0.2.7"), address());
    let listed = f.with_default("listed", doc("Ask what a list shows instead of a call."), kinds::boolean(), false);
    let text = doc("`allow`, `deny`, or `approval`: it waits until a person has said yes.").example("allow");
    let answer = f.required("decision", text, kinds::choice(Answer::WORDS));
    let approver = f.optional_section("approval", "Whose word it waits for, as the rule says it.", approver);
    if approver.is_some() && answer.is_some_and(|answer| answer != Answer::Approval) {
        f.mistake("approval", "nothing waits for anybody here", "write `decision: approval`, or remove this");
    }
    let rule = f.optional("rule", doc("By which rule.").example("demo/readers"), kinds::text());
    let claims = match claims {
        None => Vec::new(),
        Some(Json::Object(members)) => members.into_iter().map(|(name, value)| (name, values(value))).collect(),
        Some(_) => {
            f.mistake("claims", "expected names with values", "claims: { department: [research] }");
            return None;
        }
    };
    let circumstances = Imagined { arguments, time, source, annotations, is_call: !listed };
    let request = Request { who: who?, roles, scopes, claims, circumstances };
    Some(Case { name, line, request, capability: wanted?, kind, answer: answer?, rule, approver })
}

fn approver(f: &mut Fields<'_>) -> Option<Approver> {
    let text = doc("The user of the client that calls may say it.").example("true");
    let caller = f.with_default("caller", text, kinds::boolean(), false);
    let role = f.optional("role", doc("Somebody with this role may say it.").example("admin"), kinds::text());
    if !caller && role.is_none() && !f.is_describing() {
        f.mistake("", "this names nobody", "write `role: NAME`, `caller: true`, or both");
    }
    Some(Approver { caller, role })
}

/// One value or several, as text.
fn values(value: Json) -> Vec<String> {
    match value {
        Json::Array(items) => items.into_iter().flat_map(values).collect(),
        Json::String(text) => vec![text],
        other => vec![other.to_string()],
    }
}

/// Somebody, in a form that a principal can be made of.
fn who() -> Kind<String> {
    let parse = |text: &str| {
        let request = Request { who: text.to_owned(), ..Request::default() };
        let made =
            request.principal().map_err(|wrong| Mistake::new(wrong.to_string(), "user:ada, spiffe://..., anonymous"));
        made.map(|_| text.to_owned())
    };
    Kind::scalar("principal", serde_json::json!({ "type": "string" }), parse, Clone::clone)
}

fn asked() -> Kind<String> {
    let parse = |text: &str| {
        let read = capability(text, CapabilityKind::Tool).map(|_| text.to_owned());
        read.map_err(|wrong| Mistake::new(format!("{wrong:#}"), "SERVICE.NAME"))
    };
    Kind::scalar("capability", serde_json::json!({ "type": "string" }), parse, Clone::clone)
}

fn moment() -> Kind<std::time::SystemTime> {
    let parse = |text: &str| time(text).map_err(|wrong| Mistake::new(wrong, "with a zone, or Z"));
    Kind::scalar("time", serde_json::json!({ "type": "string" }), parse, |_| String::new())
}

fn address() -> Kind<std::net::IpAddr> {
    let parse = |text: &str| text.parse().map_err(|_| Mistake::new("this is no address", "such as 192.0.2.7"));
    Kind::scalar("address", serde_json::json!({ "type": "string" }), parse, ToString::to_string)
}

/// A YAML value as JSON, as YAML's own rules for JSON have it.
fn json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Scalar(scalar) if scalar.plain => serde_json::from_str(&scalar.text)
            .ok()
            .filter(|value: &Json| !value.is_string())
            .unwrap_or_else(|| Json::String(scalar.text.clone())),
        Value::Scalar(scalar) => Json::String(scalar.text.clone()),
        Value::Seq(items) => items.iter().map(json).collect(),
        Value::Map(entries) => entries.iter().map(|entry| (entry.key.clone(), json(&entry.value))).collect(),
    }
}
