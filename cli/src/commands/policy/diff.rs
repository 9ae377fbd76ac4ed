//! `outrigger policy diff`: who gains and who loses what between two versions of a policy, by what was really asked for.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::Context;
use outrigger_policy::outlook::{Outlook, Recorded, compare};
use outrigger_policy::{Capability, CapabilityKind, PolicySet, Principal};
use outrigger_runtime::Exit;
use serde::{Deserialize, Serialize};

use super::compile;
use super::request::Request;
use crate::args::PolicyDiffArgs;
use crate::output;

/// What of an audit record counts here.
#[derive(Debug, Deserialize)]
struct Line {
    who: String,
    action: String,
    service: Option<String>,
    capability: Option<String>,
    decision: String,
    rule: Option<String>,
}

/// A call; several of them are counted together.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Call {
    who: String,
    service: String,
    kind: &'static str,
    capability: String,
    allowed: bool,
    rule: Option<String>,
}

/// What becomes of one call.
#[derive(Debug, Serialize)]
struct Change {
    who: String,
    kind: &'static str,
    capability: String,
    calls: u64,
    before: Outlook,
    after: Outlook,
}

/// What becomes of all of them.
#[derive(Debug, Default, Serialize)]
struct Comparison {
    gains: Vec<Change>,
    losses: Vec<Change>,
    undecidable: Vec<Change>,
    unchanged: u64,
    /// Lines that are no records of calls.
    skipped: u64,
}

/// Runs the command.
pub(super) fn main(args: &PolicyDiffArgs) -> anyhow::Result<Exit> {
    let old = compile(std::slice::from_ref(&args.old))?;
    let new = compile(std::slice::from_ref(&args.new))?;
    let mut calls = BTreeMap::new();
    let mut comparison = Comparison::default();
    for log in &args.logs {
        comparison.skipped += gather(log, &mut calls)?;
    }
    for (call, count) in calls {
        comparison.add(&old, &new, call, count);
    }
    if args.json {
        output::json(&comparison)?;
    } else {
        output::result(&comparison.told());
    }
    let same = comparison.gains.is_empty() && comparison.losses.is_empty();
    Ok(if same { Exit::Clean } else { Exit::Failed })
}

/// Reads a log line by line, however long it is; gives the number of lines that say nothing about a call.
fn gather(log: &Path, calls: &mut BTreeMap<Call, u64>) -> anyhow::Result<u64> {
    let cannot = || format!("cannot read {}", log.display());
    let file = std::fs::File::open(log).with_context(cannot)?;
    let mut skipped = 0;
    for line in BufReader::new(file).lines() {
        match serde_json::from_str(&line.with_context(cannot)?).ok().and_then(call) {
            Some(call) => *calls.entry(call).or_default() += 1,
            None => skipped += 1,
        }
    }
    Ok(skipped)
}

fn call(line: Line) -> Option<Call> {
    let kind = match line.action.as_str() {
        "tools/call" => CapabilityKind::Tool,
        "prompts/get" => CapabilityKind::Prompt,
        "resources/read" | "resources/subscribe" => CapabilityKind::Resource,
        _ => return None,
    };
    let allowed = line.decision == "allow";
    let (service, capability) = (line.service?, line.capability?);
    Some(Call { who: line.who, service, kind: kind.as_str(), capability, allowed, rule: line.rule })
}

impl Comparison {
    fn add(&mut self, old: &PolicySet, new: &PolicySet, call: Call, calls: u64) {
        let kind = CapabilityKind::ALL.into_iter().find(|kind| kind.as_str() == call.kind);
        let (Some(who), Some(kind)) = (principal(&call.who), kind) else {
            self.skipped += calls;
            return;
        };
        let what = Capability { kind, service: &call.service, name: &call.capability };
        let recorded = Recorded { who: &who, what, allowed: call.allowed, rule: call.rule.as_deref() };
        let [before, after] = compare(old, new, &recorded);
        let list = match (&before, &after) {
            (before, after) if before == after => None,
            (Outlook::Undecidable(_), _) | (_, Outlook::Undecidable(_)) => Some(&mut self.undecidable),
            (Outlook::Denied(_), Outlook::Allowed(_)) => Some(&mut self.gains),
            (Outlook::Allowed(_), Outlook::Denied(_)) => Some(&mut self.losses),
            _ => None,
        };
        let Some(list) = list else {
            self.unchanged += calls;
            return;
        };
        let capability = format!("{}.{}", call.service, call.capability);
        list.push(Change { who: call.who, kind: call.kind, capability, calls, before, after });
    }

    fn told(&self) -> String {
        let mut out = String::new();
        let lists = [("gains", &self.gains), ("loses", &self.losses), ("may or may not use", &self.undecidable)];
        for (what, changes) in lists {
            for Change { who, kind, capability, calls, before, after } in changes {
                let times = if *calls == 1 { "once".to_owned() } else { format!("{calls} times") };
                // Writing to a string cannot fail.
                let _ = writeln!(out, "{who} {what} {kind} {capability} (asked for {times})");
                let _ = writeln!(out, "    before: {}\n    after:  {}", shown(before), shown(after));
            }
        }
        let [gains, losses, undecidable] = lists.map(|(_, changes)| changes.len());
        let Comparison { unchanged, skipped, .. } = self;
        let _ = write!(
            out,
            "{gains} gained, {losses} lost, {undecidable} undecidable; {unchanged} calls unchanged, {skipped} lines skipped"
        );
        out
    }
}

fn shown(outlook: &Outlook) -> String {
    match outlook {
        Outlook::Allowed(Some(rule)) => format!("allowed by {rule}"),
        Outlook::Allowed(None) => "allowed, in audit mode".to_owned(),
        Outlook::Denied(Some(rule)) => format!("denied by {rule}"),
        Outlook::Denied(None) => "denied, no rule allows it".to_owned(),
        Outlook::Undecidable(rules) => {
            let rules: Vec<String> = rules.iter().map(ToString::to_string).collect();
            format!("depends on what the audit does not hold, for {}", rules.join(", "))
        }
    }
}

fn principal(who: &str) -> Option<Principal> {
    Request { who: who.to_owned(), ..Request::default() }.principal().ok()
}
