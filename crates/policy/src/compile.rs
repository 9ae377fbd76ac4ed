//! Policy files into one [`PolicySet`]: every document of every file, in any order, with every mistake at once.

use crate::condition::Engine;
use crate::document::{self, PolicyDocument, WhenReader};
use crate::policy_set::{MtlsMode, PolicySet};
use outrigger_config::{Diagnostic, Diagnostics, Document, Position, Settings, describe};
use std::collections::HashMap;

/// Most rules over all files. Every list request asks each rule about the caller; this many take microseconds.
pub const MAX_RULES: usize = 10_000;
/// Most rate limits over all files. Every call goes through those that cover it.
pub const MAX_LIMITS: usize = 100;
/// Most costs over all files. Every call with a budget asks each of them.
pub const MAX_COSTS: usize = 1000;

/// Reads policies for one process.
#[derive(Clone, Copy, Default)]
pub struct Reader<'a> {
    /// What understands conditions; without it, rules that have one are mistakes.
    pub engine: Option<&'a dyn Engine>,
    /// The one service that matters: rules about others are read for their mistakes and left out, and need no engine.
    pub service: Option<&'a str>,
}

impl Reader<'_> {
    /// Compiles policy files, each given as `(name, text)`; the name is what mistakes say. The order of files, and of
    /// documents in a file, has no effect.
    ///
    /// # Errors
    /// Every mistake in every file, with line, column and what to do. A file with a mistake yields no set at all:
    /// half a policy is a different policy.
    pub fn compile(&self, files: &[(&str, &str)]) -> Result<PolicySet, Diagnostics> {
        let mut reading = Reading::default();
        let when = WhenReader { engine: self.engine, service: self.service };
        for (file, text) in files {
            reading.read_file(file, text, &when);
        }
        reading.check_bounds(files);
        if !reading.mistakes.is_empty() {
            return Err(Diagnostics(reading.mistakes));
        }
        let mut documents = reading.documents;
        if let Some(service) = self.service {
            documents.iter_mut().for_each(|one| one.rules.retain(|rule| rule.coverage.covers_service(service)));
        }
        Ok(merge(documents))
    }
}

impl PolicySet {
    /// Compiles policy files without conditions, as [`Reader::compile`] does.
    ///
    /// # Errors
    /// Every mistake in every file.
    pub fn compile(files: &[(&str, &str)]) -> Result<PolicySet, Diagnostics> {
        Reader::default().compile(files)
    }
}

/// Describes the form of a policy document: for the JSON Schema and the reference page.
pub fn settings() -> Settings {
    describe(|f| document::read(f, &WhenReader::default(), |_, _| Ok(())))
}

#[derive(Default)]
struct Reading {
    documents: Vec<PolicyDocument>,
    /// Policy name to the place where it was first given.
    names: HashMap<String, String>,
    mistakes: Vec<Diagnostic>,
}

impl Reading {
    fn read_file(&mut self, file: &str, text: &str, when: &WhenReader<'_>) {
        let documents = match Document::parse_all(file, text) {
            Ok(documents) => documents,
            Err(wrong) => return self.mistakes.extend(wrong.0),
        };
        if documents.is_empty() {
            let start = Position { line: 1, column: 1 };
            let mistake = Diagnostic::at(file, text, start, "", "there is no policy in this file");
            self.mistakes.push(mistake.hint("to deny everything, write a SecurityPolicy with `rules: []`"));
        }
        for document in documents {
            let names = &mut self.names;
            let read = document.read(&|_| None, |f| {
                document::read(f, when, |name, f| match names.get(name) {
                    Some(first) => Err(format!("the policy `{name}` is defined at {first} already")),
                    None => {
                        names.insert(name.to_owned(), format!("{file}:{}", f.at().line));
                        Ok(())
                    }
                })
            });
            match read {
                Ok(loaded) => self.documents.push(loaded.value),
                Err(wrong) => self.mistakes.extend(wrong.0),
            }
        }
    }

    fn check_bounds(&mut self, files: &[(&str, &str)]) {
        let rules: usize = self.documents.iter().map(|document| document.rules.len()).sum();
        let limits: usize = self.documents.iter().map(|document| document.limits.len()).sum();
        let costs: usize = self.documents.iter().map(|document| document.costs.len()).sum();
        for (what, count, most) in
            [("rules", rules, MAX_RULES), ("limits", limits, MAX_LIMITS), ("costs", costs, MAX_COSTS)]
        {
            if count > most {
                let file = files.last().map_or("", |(file, _)| file);
                let message = format!("{count} {what} over all policy files, more than {most}");
                let hint = format!("join {what} that differ only in their patterns");
                self.mistakes.push(Diagnostic::at(file, "", Position::default(), "", message).hint(hint));
            }
        }
    }
}

/// Puts documents into an order that does not depend on how they were given. Rules of one document stay as written,
/// which only matters for which of several allowing rules is named.
fn merge(mut documents: Vec<PolicyDocument>) -> PolicySet {
    documents.sort_by(|a, b| a.name.cmp(&b.name));
    let modes: Vec<MtlsMode> = documents.iter().filter_map(|document| document.mtls).collect();
    // Where documents disagree, the strict one wins: adding a document never opens the mesh.
    let permissive = !modes.is_empty() && modes.iter().all(|mode| *mode == MtlsMode::Permissive);
    let mtls = if permissive { MtlsMode::Permissive } else { MtlsMode::Strict };
    let (mut rules, mut limits, mut costs) = (Vec::new(), Vec::new(), Vec::new());
    for document in documents {
        rules.extend(document.rules);
        limits.extend(document.limits);
        costs.extend(document.costs);
    }
    PolicySet::from_rules(rules, limits, mtls).with_costs(costs)
}

#[cfg(test)]
mod tests;
