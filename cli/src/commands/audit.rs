//! `outrigger audit verify` and `outrigger audit query`: whether an audit is whole, and what it says.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, bail};
use outrigger_policy::glob::Glob;
use outrigger_runtime::Exit;
use outrigger_telemetry::rfc3339;
use outrigger_telemetry::trail::{PublicKey, Report, segments, verify};
use serde::Deserialize;
use serde_json::json;

use crate::args::{AuditCommand, AuditQueryArgs, AuditVerifyArgs, duration};
use crate::output;

/// Longest time that is compared: RFC 3339 with microseconds.
const TIME_LEN: usize = "2026-11-21T09:30:00.000000Z".len();

/// Runs one of the commands.
pub(crate) fn main(command: AuditCommand) -> anyhow::Result<Exit> {
    match command {
        AuditCommand::Verify(args) => check(&args),
        AuditCommand::Query(args) => query(&args),
    }
}

fn check(args: &AuditVerifyArgs) -> anyhow::Result<Exit> {
    let keys = args.keys.iter().map(|path| PublicKey::load(path)).collect::<Result<Vec<_>, _>>()?;
    let report = verify(&expand(&args.files)?, &keys)?;
    let cut = args.expect.filter(|expected| report.last.is_none_or(|last| last < *expected));
    let whole = report.faults.is_empty() && cut.is_none() && report.lines > 0;
    if args.json {
        output::json(&json!({"whole": whole, "expected": args.expect, "report": report}))?;
    } else {
        tell(&report, cut, whole);
    }
    Ok(if whole { Exit::Clean } else { Exit::Failed })
}

fn tell(report: &Report, cut: Option<u64>, whole: bool) {
    for fault in &report.faults {
        output::result(&format!("{}:{}: {}", fault.file.display(), fault.line, fault.kind));
    }
    if let Some(expected) = cut {
        output::result(&format!("the audit ends before line number {expected}: its end was cut off"));
    }
    let numbers = match (report.first, report.last) {
        (Some(first), Some(last)) => format!("numbers {first} to {last}"),
        _ => "no line of a signed audit".to_owned(),
    };
    let word = if whole { "whole" } else { "NOT whole" };
    let (lines, files, signatures) = (report.lines, report.files, report.signatures);
    output::result(&format!("{word}: {lines} lines in {files} files, {numbers}, {signatures} signatures"));
    if report.first.is_some_and(|first| first > 0) {
        output::say("Earlier segments were not given.");
    }
    if report.lost > 0 {
        output::say(&format!(
            "The audit itself says that {} records were lost: its disk was full or too slow.",
            report.lost
        ));
    }
    if report.crashes > 0 {
        output::say(&format!(
            "The process crashed {} times; records of its last moments may be missing.",
            report.crashes
        ));
    }
}

/// What is looked at in a line.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Line {
    time: String,
    who: Option<String>,
    service: Option<String>,
    capability: Option<String>,
    action: Option<String>,
    decision: Option<String>,
    rule: Option<String>,
    outcome: Option<String>,
    trace_id: Option<String>,
    arguments: serde_json::Map<String, serde_json::Value>,
    approval: Option<Approval>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Approval {
    id: Option<String>,
    by: Option<String>,
}

fn query(args: &AuditQueryArgs) -> anyhow::Result<Exit> {
    let wanted = Wanted::read(args)?;
    for path in expand(&args.files)? {
        let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        for (number, line) in BufReader::new(file).lines().enumerate() {
            let line = match line {
                Err(error) if error.kind() == ErrorKind::InvalidData => String::new(),
                line => line.with_context(|| format!("cannot read {}", path.display()))?,
            };
            let Ok(read) = serde_json::from_str::<Line>(&line) else {
                output::say(&format!("{}:{}: not a line of an audit", path.display(), number + 1));
                continue;
            };
            if read.action.is_some() && wanted.fits(&read) {
                output::result(&if args.json { line } else { read.for_people() });
            }
        }
    }
    Ok(Exit::Clean)
}

/// Finds a member of a line.
type Member = fn(&Line) -> &Option<String>;

struct Wanted {
    patterns: Vec<(Glob, Member)>,
    since: Option<String>,
    until: Option<String>,
    arguments: Vec<(String, Glob)>,
    approval: Option<Glob>,
}

impl Wanted {
    fn read(args: &AuditQueryArgs) -> anyhow::Result<Self> {
        let given: [(&Option<String>, Member); 8] = [
            (&args.who, |line| &line.who),
            (&args.service, |line| &line.service),
            (&args.capability, |line| &line.capability),
            (&args.action, |line| &line.action),
            (&args.decision, |line| &line.decision),
            (&args.rule, |line| &line.rule),
            (&args.outcome, |line| &line.outcome),
            (&args.trace, |line| &line.trace_id),
        ];
        let mut patterns = Vec::new();
        for (pattern, member) in given {
            if let Some(pattern) = pattern {
                let glob = Glob::new(pattern).with_context(|| format!("`{pattern}` is no pattern"))?;
                patterns.push((glob, member));
            }
        }
        let time = |text: &Option<String>| text.as_deref().map(moment).transpose();
        let glob = |pattern: &str| Glob::new(pattern).with_context(|| format!("`{pattern}` is no pattern"));
        let argument = |text: &String| {
            let (name, pattern) = text.split_once('=').with_context(|| format!("`{text}`: write NAME=VALUE"))?;
            Ok((name.to_owned(), glob(pattern)?))
        };
        let arguments = args.arguments.iter().map(argument).collect::<anyhow::Result<_>>()?;
        let approval = args.approval.as_deref().map(glob).transpose()?;
        Ok(Self { patterns, since: time(&args.since)?, until: time(&args.until)?, arguments, approval })
    }

    fn fits(&self, line: &Line) -> bool {
        let in_time = self.since.as_ref().is_none_or(|since| line.time >= *since)
            && self.until.as_ref().is_none_or(|until| line.time < *until);
        in_time
            && self.arguments.iter().all(|(name, glob)| line.argument(name).is_some_and(|text| glob.matches(&text)))
            && self.approval.as_ref().is_none_or(|glob| line.approval.as_ref().is_some_and(|one| one.fits(glob)))
            && self.patterns.iter().all(|(glob, member)| member(line).as_ref().is_some_and(|text| glob.matches(text)))
    }
}

impl Approval {
    fn fits(&self, glob: &Glob) -> bool {
        [&self.id, &self.by].into_iter().flatten().any(|text| glob.matches(text))
    }
}

impl Line {
    /// A shown argument: a text as it is, anything else as JSON.
    fn argument(&self, name: &str) -> Option<String> {
        let value = self.arguments.get(name)?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }

    fn for_people(&self) -> String {
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let target = [&self.service, &self.capability].into_iter().flatten().cloned().collect::<Vec<_>>().join(".");
        let (who, action) = (text(&self.who), text(&self.action));
        let (decision, rule, outcome) = (text(&self.decision), text(&self.rule), text(&self.outcome));
        let mut line = format!(
            "{}  {who}  {action} {target}  {decision} by {rule}  {outcome}  trace {}",
            self.time,
            text(&self.trace_id)
        );
        if !self.arguments.is_empty() {
            line.push_str(&format!("  with {}", serde_json::Value::from(self.arguments.clone())));
        }
        if let Some(approval) = &self.approval {
            line.push_str(&format!("  approval {} of {}", text(&approval.id), text(&approval.by)));
        }
        line
    }
}

/// The text of a time, as far as it was given; times in the audit compare like their text.
fn moment(text: &str) -> anyhow::Result<String> {
    if let Ok(ago) = duration(text) {
        return Ok(rfc3339(SystemTime::now().checked_sub(ago).context("that is before all times")?));
    }
    let form = |(at, byte): (usize, u8)| match at {
        4 | 7 => byte == b'-',
        10 => byte == b'T',
        13 | 16 => byte == b':',
        19 => byte == b'.' || byte == b'Z',
        26 => byte == b'Z',
        _ => byte.is_ascii_digit(),
    };
    if text.len() < 4 || text.len() > TIME_LEN || !text.bytes().enumerate().all(form) {
        bail!(
            "`{text}` is no time: write a duration before now, such as 1h, or a time in UTC, such as 2026-11-21T09:30"
        );
    }
    // Without the zone, so that 09:30:00Z is before 09:30:00.5Z.
    Ok(text.trim_end_matches('Z').to_owned())
}

fn expand(files: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for file in files {
        let found = segments(file).with_context(|| format!("cannot read the directory of {}", file.display()))?;
        all.extend(found.into_iter().filter(|path| !files.contains(path) || path == file));
    }
    all.dedup();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_or_refused() {
        assert_eq!(moment("2026-11-21T09:30").unwrap(), "2026-11-21T09:30");
        assert_eq!(moment("2026-11-21T09:30:00Z").unwrap(), "2026-11-21T09:30:00");
        assert!(moment("1h").unwrap() < rfc3339(SystemTime::now()));
        for bad in ["", "now", "21.11.2026", "2026-11-21 09:30", "2026-11-21T09:30:00+01:00"] {
            assert!(moment(bad).unwrap_err().to_string().contains("is no time"), "{bad}");
        }
    }
}
