//! Looks for what in definitions is meant for somebody else than who reads them: characters that do not show,
//! instructions to the model, names that pass for others. A finding is a reason to look, no proof; no finding proves
//! nothing either.

mod hidden;
mod names;
mod phrases;

use std::collections::HashMap;
use std::sync::OnceLock;

use outrigger_mcp::catalog::Catalog;
use outrigger_mcp::catalog_kind::Kind;
use serde::Serialize;
use serde_json::Value;

use crate::show::visible;
use names::Names;

/// Findings of one service that are kept: whoever has more needs no list.
const MAX_FINDINGS: usize = 500;
/// Findings in one definition that are kept.
const MAX_EACH: usize = 8;
/// Characters of a name or place that are told.
const MAX_SHOWN: usize = 200;

/// What kind of thing was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Characters that do not show, turn text around, or speak to a terminal.
    HiddenCharacters,
    /// Words that are addressed to the model and not about the capability.
    InstructsModel,
    /// A name of files where secrets are kept.
    NamesSecrets,
    /// A text says what to do with another service's capability.
    OtherService,
    /// A name that looks like another one, or is written in several scripts.
    LookAlike,
}

impl Class {
    /// All of them.
    pub const ALL: [Class; 5] =
        [Class::HiddenCharacters, Class::InstructsModel, Class::NamesSecrets, Class::OtherService, Class::LookAlike];

    /// The word in reports, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::HiddenCharacters => "hidden-characters",
            Class::InstructsModel => "instructs-model",
            Class::NamesSecrets => "names-secrets",
            Class::OtherService => "other-service",
            Class::LookAlike => "look-alike",
        }
    }
}

/// One thing to look at. Its texts hold nothing hidden and have bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The service.
    pub service: String,
    /// `tool`, `prompt`, `resource`, `template`, `instructions` or `service`.
    pub kind: &'static str,
    /// Name, URI or template.
    pub name: String,
    /// The member in which it stands, such as `inputSchema.properties.path.description`.
    pub at: String,
    /// What kind of thing.
    pub class: Class,
    /// What was found, in words.
    pub what: String,
}

/// Services that are looked through, each by itself but for the names of the others. Of one there are so many findings at
/// most, whatever is found in the others.
pub struct Scan<'a> {
    services: &'a [(&'a str, &'a Catalog)],
    names: Names<'a>,
    /// By service; learned when first asked for.
    look_alikes: OnceLock<HashMap<String, Vec<Finding>>>,
}

impl<'a> Scan<'a> {
    /// Of what these services offer, each under its own name.
    pub fn of(services: &'a [(&'a str, &'a Catalog)]) -> Self {
        Self { services, names: Names::of(services), look_alikes: OnceLock::new() }
    }

    /// Looks through what the service at this place offers. Takes as long as that is large; the first time, as all is.
    pub fn service(&self, at: usize) -> Vec<Finding> {
        let Some((service, _)) = self.services.get(at) else { return Vec::new() };
        let look_alikes = self.look_alikes.get_or_init(|| {
            let mut by_service = HashMap::<String, Vec<Finding>>::new();
            for one in self.names.look_alikes() {
                by_service.entry(one.service.clone()).or_default().push(one);
            }
            by_service
        });
        self.texts(at, look_alikes.get(*service).into_iter().flatten().take(MAX_FINDINGS).cloned().collect())
    }

    /// The same where no name has changed since `before` was found in this service: takes as long as that is large.
    pub fn service_again(&self, at: usize, before: &[Finding]) -> Vec<Finding> {
        self.texts(at, before.iter().filter(|one| one.class == Class::LookAlike).cloned().collect())
    }

    /// Adds what the texts of the service at this place say.
    fn texts(&self, at: usize, mut findings: Vec<Finding>) -> Vec<Finding> {
        let Some((service, catalog)) = self.services.get(at) else { return findings };
        if let Some(text) = &catalog.about().instructions {
            let mut place = Place::new(service, "instructions", "", &self.names);
            place.text("", text);
            findings.append(&mut place.found);
        }
        let items =
            Kind::ALL.into_iter().flat_map(|kind| catalog.list(kind).items().iter().map(move |item| (kind, item)));
        for (kind, item) in items {
            if findings.len() >= MAX_FINDINGS {
                break;
            }
            let Ok(definition) = serde_json::from_slice::<Value>(item.raw()) else { continue };
            let mut place = Place::new(service, kind.as_str(), item.key(), &self.names);
            place.value(String::new(), &definition);
            findings.append(&mut place.found);
        }
        findings.truncate(MAX_FINDINGS);
        findings
    }
}

/// Looks through everything that these services offer, each under its name.
pub fn scan(services: &[(&str, &Catalog)]) -> Vec<Finding> {
    let scan = Scan::of(services);
    (0..services.len()).flat_map(|at| scan.service(at)).collect()
}

/// One definition, and what was found in it.
struct Place<'p, 'a> {
    service: &'p str,
    kind: &'static str,
    name: &'p str,
    names: &'p Names<'a>,
    found: Vec<Finding>,
}

impl<'p, 'a> Place<'p, 'a> {
    fn new(service: &'p str, kind: &'static str, name: &'p str, names: &'p Names<'a>) -> Self {
        Self { service, kind, name, names, found: Vec::new() }
    }

    /// Nested no deeper than `serde_json` reads.
    fn value(&mut self, at: String, value: &Value) {
        if self.found.len() >= MAX_EACH {
            return;
        }
        let below = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
        match value {
            Value::String(text) => self.text(&at, text),
            Value::Array(list) => {
                list.iter().enumerate().for_each(|(index, value)| self.value(below(&index.to_string()), value));
            }
            Value::Object(members) => {
                for (name, value) in members {
                    let at = below(name);
                    self.text(&at, name);
                    self.value(at, value);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn text(&mut self, at: &str, text: &str) {
        let hidden = hidden::look(text).map(|what| (Class::HiddenCharacters, what));
        let plain = phrases::plain(text);
        let phrase = phrases::look(&plain);
        let other = self.names.other_service(self.service, text, &plain).map(|what| (Class::OtherService, what));
        for (class, what) in hidden.into_iter().chain(phrase).chain(other) {
            if self.found.len() < MAX_EACH {
                self.found.push(Finding {
                    service: self.service.to_owned(),
                    kind: self.kind,
                    name: visible(self.name, MAX_SHOWN),
                    at: visible(at, MAX_SHOWN),
                    class,
                    what,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
