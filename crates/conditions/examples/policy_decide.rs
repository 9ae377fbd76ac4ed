//! What a decision costs under 10,000 rules for 1,000 principals:
//!
//! ```console
//! cargo run --release -p outrigger-conditions --example policy_decide
//! ```
#![expect(clippy::print_stdout, reason = "it is what it is for")]

use std::fmt::Write;
use std::hint::black_box;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use outrigger_conditions::Cel;
use outrigger_policy::{
    Annotations, CallFacts, Capability, CapabilityKind, Circumstances, PolicySet, Principal, Reader,
};

/// Rules: ten for each principal, over a hundred services, and some that are about everybody.
const RULES: usize = 10_000;
const PRINCIPALS: usize = 1_000;
/// Files that they stand in; one holds at most a megabyte.
const FILES: usize = 4;
/// Decisions that one figure is the mean of.
const ROUNDS: u32 = 50_000;
/// Tools of the list that is filtered.
const TOOLS: usize = 5_000;

struct Call;

impl Circumstances for Call {
    fn annotations(&self) -> Option<Annotations> {
        Some(Annotations::default())
    }

    fn call(&self) -> Option<CallFacts<'_>> {
        let arguments = br#"{"path":"/data/a.txt","tags":["a","b"],"size":7}"#;
        Some(CallFacts {
            arguments: Some(arguments),
            time: SystemTime::now(),
            source: Some(IpAddr::from([10, 0, 0, 1])),
        })
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = (0..FILES).map(policy).collect::<Result<Vec<_>, _>>()?;
    let named: Vec<(&str, &str)> = files.iter().map(|text| ("policy", text.as_str())).collect();
    let (compiled, set) = timed(1, || Reader { engine: Some(&Cel), service: None }.compile(&named));
    let set = set?;
    println!("{RULES} rules compiled in {} ms", compiled.as_millis());
    let ada = Principal::user("user77")?.with_grants(["role7"], ["read", "write"])?;
    let nobody = Principal::user("somebody-else")?;
    for (what, who, service, name) in [
        ("own rule, exact name", &ada, "svc77", "tool3"),
        ("own rule, pattern", &ada, "svc77", "write-x"),
        ("rule for a role", &ada, "svc12", "list-all"),
        ("denied by a rule", &ada, "svc77", "drop-table"),
        ("rules, none for the caller", &nobody, "svc77", "tool3"),
        ("no rule", &ada, "other", "x"),
        ("with one condition", &ada, "cond", "principal"),
        ("with one over arguments", &ada, "cond", "arguments"),
    ] {
        let what_is = Capability { kind: CapabilityKind::Tool, service, name };
        let (each, decision) = timed(ROUNDS, || black_box(&set).decide_in(who, &what_is, &Call));
        let outcome = if decision.is_allowed() { "allowed" } else { "denied" };
        println!("{what:28} {outcome:8} {:6} ns", each.as_nanos());
    }
    let names: Vec<String> = (0..TOOLS).map(|n| format!("tool{n}")).collect();
    for (how, reasons) in [("", false), (" with reasons", true)] {
        let (list, shown) = timed(50, || filter(&set, &ada, &names, reasons));
        println!("a list of {TOOLS} tools{how}, {shown} shown: {} us", list.as_micros());
    }
    let (class, _) = timed(ROUNDS, || set.visibility_class(&ada));
    println!("class of a caller: {} ns", class.as_nanos());
    Ok(())
}

fn filter(set: &PolicySet, who: &Principal, names: &[String], reasons: bool) -> usize {
    let shown = |name: &&String| {
        let what = Capability { kind: CapabilityKind::Tool, service: "svc77", name };
        if reasons { set.decide_in(who, &what, &Call).is_allowed() } else { set.allows_in(who, &what, &Call) }
    };
    names.iter().filter(shown).count()
}

fn timed<T>(rounds: u32, mut run: impl FnMut() -> T) -> (Duration, T) {
    #[expect(clippy::disallowed_methods, reason = "a measurement is of real time")]
    let begun = std::time::Instant::now();
    for _ in 1..rounds {
        black_box(run());
    }
    let last = run();
    (begun.elapsed() / rounds, last)
}

fn policy(file: usize) -> Result<String, std::fmt::Error> {
    let head = "apiVersion: mcpx.io/v1\nkind: SecurityPolicy\nmetadata: { name: big";
    let mut text = format!("{head}{file} }}\nspec:\n  authorization:\n    rules:\n");
    let mut rule = |name: &str, service: &str, tools: &str, rest: &str| {
        writeln!(text, "      - {{ name: {name}, services: [\"{service}\"], capabilities: [{tools}]{rest} }}")
    };
    rule("lists", "*", "\"list*\"", ", requires: [ { role: role7 } ]")?;
    rule("no-drops", "*", "\"drop*\"", ", effect: deny")?;
    rule("who", "cond", "principal", ", when: \"principal.subject == 'user77' && 'read' in principal.scopes\"")?;
    rule("what", "cond", "arguments", ", when: \"arguments.path.startsWith('/data/') && arguments.size < 10\"")?;
    for n in (4 * FILES..RULES).filter(|n| n % FILES == file) {
        let (user, service) = (n % PRINCIPALS, n % 100);
        let tools = if n % 3 == 0 { "\"write*\"".to_owned() } else { format!("tool{}", n % 40) };
        let rest = format!(", requires: [ {{ subject: user{user} }} ]");
        rule(&format!("r{n}"), &format!("svc{service}"), &format!("{tools}, tool3, \"read*\""), &rest)?;
    }
    Ok(text)
}
