//! Who may do what, and what may be dialled, under a thousand rules.

use std::fmt::Write;
use std::hint::black_box;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrigger_conditions::Cel;
use outrigger_policy::egress::{Ask, Destination, EgressRule, Host, Request, Rules, Tools};
use outrigger_policy::{
    Annotations, CallFacts, Capability, CapabilityKind, Circumstances, PolicySet, Principal, Reader,
};

use crate::{Broken, Run};

const RULES: usize = 1_000;
const PRINCIPALS: usize = 100;

struct Call;

impl Circumstances for Call {
    fn annotations(&self) -> Option<Annotations> {
        Some(Annotations::default())
    }

    fn call(&self) -> Option<CallFacts<'_>> {
        Some(CallFacts {
            arguments: Some(br#"{"path":"/data/a.txt","tags":["a","b"],"size":7}"#),
            time: now(),
            source: Some(IpAddr::from([10, 0, 0, 1])),
        })
    }
}

/// Always the same, as everything here.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_230_245)
}

fn policies() -> Result<PolicySet, Broken> {
    Ok(Reader { engine: Some(&Cel), service: None }.compile(&[("policy", &policy()?)])?)
}

fn policy() -> Result<String, std::fmt::Error> {
    let mut text = "apiVersion: mcpx.io/v1\nkind: SecurityPolicy\nmetadata: { name: big }\nspec:\n".to_owned();
    text.push_str("  authorization:\n    rules:\n");
    let mut rule = |name: &str, service: &str, tools: &str, rest: &str| {
        writeln!(text, "      - {{ name: {name}, services: [\"{service}\"], capabilities: [{tools}]{rest} }}")
    };
    rule("no-drops", "*", "\"drop*\"", ", effect: deny")?;
    rule("what", "cond", "arguments", ", when: \"arguments.path.startsWith('/data/') && arguments.size < 10\"")?;
    for n in 2..RULES {
        let (user, service) = (n % PRINCIPALS, n % 100);
        let rest = format!(", requires: [ {{ subject: user{user} }} ]");
        rule(&format!("r{n}"), &format!("svc{service}"), &format!("tool{}, tool3, \"read*\"", n % 40), &rest)?;
    }
    Ok(text)
}

pub(super) fn call(who: &str, service: &'static str, name: &'static str) -> Result<Run, Broken> {
    let (set, who) = (policies()?, Principal::user(who)?);
    Ok(Box::new(move || {
        let what = Capability { kind: CapabilityKind::Tool, service, name };
        black_box(set.decide_in(black_box(&who), &what, &Call));
    }))
}

pub(super) fn list() -> Result<Run, Broken> {
    let (set, who) = (policies()?, Principal::user("user77")?);
    let names: Vec<String> = (0..500).map(|n| format!("tool{n}")).collect();
    Ok(Box::new(move || {
        let shown = |name: &&String| {
            set.allows_in(&who, &Capability { kind: CapabilityKind::Tool, service: "svc77", name }, &Call)
        };
        black_box(names.iter().filter(shown).count());
    }))
}

pub(super) fn egress(host: &str) -> Result<Run, Broken> {
    let rule = |n: usize| {
        let destination = match n {
            n if n % 10 == 0 => format!("20.{}.{}.0/24", n / 250, n % 250),
            n if n % 3 == 0 => format!("*.wild{n}.example.test"),
            n => format!("api{n}.example.test"),
        };
        Destination::parse(&destination).map(EgressRule::short)
    };
    let rules = Rules::new((0..RULES).map(rule).collect::<Result<_, _>>()?);
    let (host, addresses) = (Host::parse(host)?, ["1.2.3.4".parse()?, "2600::1".parse()?]);
    Ok(Box::new(move || {
        let ask =
            Ask { host: &host, port: 443, tools: Tools::Outside, request: Request::Sealed, addresses: &addresses };
        let _decided = black_box(rules.decide(black_box(&ask)));
    }))
}
