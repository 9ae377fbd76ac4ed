//! `outrigger policy test`: what a policy is meant to answer, kept beside it and compared with what it does answer.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use outrigger_config::{Diagnostics, Document, Fields, Kind, Mistake, Node, Value, doc, kinds};
use outrigger_policy::{Annotations, CapabilityKind, Explanation};
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
    allowed: bool,
    rule: Option<String>,
}

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
        let explanation = set.explain_in(&case.request.principal()?, &what, &case.request.circumstances);
        let problem = problem(case, &explanation);
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

fn problem(case: &Case, found: &Explanation) -> Option<String> {
    let word = |allowed| if allowed { "allow" } else { "deny" };
    if case.allowed != found.allowed {
        return Some(format!("expected {}, the policy says {}", word(case.allowed), word(found.allowed)));
    }
    let rule = found.rule.as_ref().map(ToString::to_string);
    match (&case.rule, rule) {
        (Some(expected), Some(rule)) if *expected != rule => Some(format!("expected rule {expected}, it is {rule}")),
        (Some(expected), None) => Some(format!("expected rule {expected}, there is none")),
        _ => None,
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
    let text = doc("`allow` or `deny`.").example("allow");
    let allowed = f.required("decision", text, kinds::choice(&[("allow", true), ("deny", false)]));
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
    Some(Case { name, line, request, capability: wanted?, kind, allowed: allowed?, rule })
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
