//! `outrigger lock` and `outrigger scan`: approving the definitions of servers, and looking for what in them is meant to
//! deceive.

mod source;

use std::path::Path;

use anyhow::{Context, bail};
use outrigger_integrity::scan::{Finding, scan};
use outrigger_integrity::{Deviation, Lock, MAX_BYTES, ServiceLock, Subject, review, visible};
use outrigger_mcp::catalog_kind::Kind;
use outrigger_policy::glob::Glob;
use outrigger_runtime::Exit;
use serde_json::{Value, json};

use crate::args::{KindName, LockArgs, ScanArgs};
use crate::{files, output};
use source::Offered;

/// Held to the lock unless somebody says otherwise. Resources come and go with what servers hold.
const USUAL: [Kind; 3] = [Kind::Tool, Kind::Prompt, Kind::Template];
/// Characters of a name that are shown.
const MAX_NAME: usize = 200;

/// Writes, extends or checks the lock.
pub(crate) fn main(args: &LockArgs) -> anyhow::Result<Exit> {
    let offered = source::offered(&args.source)?;
    let mut lock = match read(&args.file)? {
        Some(lock) => lock,
        None if args.check => bail!("there is no lock at {}: make it with `outrigger lock`", args.file.display()),
        None => Lock::default(),
    };
    let updates =
        args.update.iter().map(|pattern| Glob::new(pattern).with_context(|| format!("`{pattern}` is no pattern")));
    let updates = updates.collect::<anyhow::Result<Vec<_>>>()?;
    for pattern in &updates {
        if !offered.iter().any(|one| pattern.matches(&one.name)) {
            bail!("no service `{}` is offered there", pattern);
        }
    }
    let mut told = Told::default();
    for one in &offered {
        let known = lock.service(&one.name).is_some();
        let Some(catalog) = &one.catalog else {
            told.unknown(&one.name, &one.state, args.check);
            continue;
        };
        let deviations = review(lock.service(&one.name), catalog).deviations;
        let approve = !args.check && (!known || updates.iter().any(|pattern| pattern.matches(&one.name)));
        told.service(&one.name, known, approve, &deviations);
        if approve {
            let kinds = kinds(args, lock.service(&one.name));
            lock.set(&one.name, ServiceLock::of(catalog, &kinds));
            let found = scan(&[(one.name.as_str(), catalog)]);
            found.iter().for_each(|finding| output::say(&format!("look at this before you commit: {}", line(finding))));
        }
    }
    if !args.check {
        let text = lock.text();
        if text.len() > MAX_BYTES {
            bail!("the lock would have {} bytes, more than {MAX_BYTES}", text.len());
        }
        files::write(&args.file, text.as_bytes(), files::PUBLIC)?;
    }
    told.finish(args)
}

fn kinds(args: &LockArgs, known: Option<&ServiceLock>) -> Vec<Kind> {
    if args.kinds.is_empty() {
        return known.map_or_else(|| USUAL.to_vec(), ServiceLock::kinds);
    }
    let kind = |name: &KindName| match name {
        KindName::Tool => Kind::Tool,
        KindName::Prompt => Kind::Prompt,
        KindName::Resource => Kind::Resource,
        KindName::Template => Kind::Template,
    };
    args.kinds.iter().map(kind).collect()
}

/// The lock, if there is one.
fn read(path: &Path) -> anyhow::Result<Option<Lock>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Lock::parse(&text).map(Some).with_context(|| format!("cannot use {}", path.display()))
}

/// What is told about the services.
#[derive(Default)]
struct Told {
    services: serde_json::Map<String, Value>,
    lines: Vec<String>,
    /// Services that are not as the lock has them, and stay so.
    deviating: usize,
}

impl Told {
    fn unknown(&mut self, name: &str, state: &str, check: bool) {
        self.lines.push(format!("{name}: cannot be looked at now ({state})"));
        self.services.insert(name.to_owned(), json!({ "state": state, "deviations": null }));
        self.deviating += usize::from(check);
    }

    fn service(&mut self, name: &str, known: bool, approved: bool, deviations: &[Deviation]) {
        let word = match (approved, known, deviations.is_empty()) {
            (_, true, true) => "as it was approved",
            (true, false, _) => "approved",
            (true, true, false) => "approved again",
            (false, _, _) => "NOT as it was approved",
        };
        self.deviating += usize::from(!approved && !deviations.is_empty());
        self.lines.push(format!("{name}: {word}"));
        if known || !approved {
            for Deviation { subject, verdict, changes } in deviations {
                self.lines.push(format!(
                    "  {} {} {}",
                    verdict.as_str(),
                    subject.kind(),
                    visible(subject.name(), MAX_NAME)
                ));
                self.lines.extend(changes.iter().map(|change| format!("    {change}")));
            }
        }
        let list: Vec<Value> = deviations.iter().map(deviation).collect();
        self.services.insert(name.to_owned(), json!({ "state": word, "approved": approved, "deviations": list }));
    }

    fn finish(self, args: &LockArgs) -> anyhow::Result<Exit> {
        if args.json {
            output::json(&json!({ "services": self.services, "deviating": self.deviating }))?;
        } else {
            self.lines.iter().for_each(|line| output::result(line));
        }
        if self.deviating == 0 {
            return Ok(Exit::Clean);
        }
        output::say("Read what has changed; `outrigger lock --update SERVICE` approves it.");
        Ok(Exit::Failed)
    }
}

fn deviation(deviation: &Deviation) -> Value {
    let Deviation { subject, verdict, changes } = deviation;
    let name = matches!(subject, Subject::Definition(..)).then(|| subject.name());
    json!({ "kind": subject.kind(), "name": name, "verdict": verdict, "changes": changes })
}

/// Looks through what is offered.
pub(crate) fn scan_main(args: &ScanArgs) -> anyhow::Result<Exit> {
    let offered = source::offered(&args.source)?;
    let catalogs: Vec<_> = offered.iter().filter_map(|one| Some((one.name.as_str(), one.catalog.as_ref()?))).collect();
    for Offered { name, state, .. } in offered.iter().filter(|one| one.catalog.is_none()) {
        output::say(&format!("{name}: cannot be looked at now ({state})"));
    }
    let found = scan(&catalogs);
    if args.json {
        output::json(&json!({ "services": catalogs.len(), "findings": found }))?;
    } else {
        found.iter().for_each(|finding| output::result(&line(finding)));
        output::say(&format!("{} findings in {} services", found.len(), catalogs.len()));
    }
    Ok(if found.is_empty() { Exit::Clean } else { Exit::Failed })
}

fn line(finding: &Finding) -> String {
    let Finding { service, kind, name, at, class, what } = finding;
    let (name, at) =
        (if name.is_empty() { String::new() } else { format!(" {name}") }, if at.is_empty() { "" } else { at });
    format!("{service}: {kind}{name}: {}: {what}{}{at}", class.as_str(), if at.is_empty() { "" } else { ", in " })
}
