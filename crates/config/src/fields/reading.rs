//! How a section is read: its values from file and environment, the keys that nobody asked for, its description.

use serde_json::Value as Json;

use super::{Doc, Fields, Recorder, doc};
use crate::describe::{Segment, SettingDoc, path_text};
use crate::diagnostics::Diagnostic;
use crate::kinds::{Kind, Mistake};
use crate::node::{Node, Position};
use crate::suggest;

impl<'a> Fields<'a> {
    /// Runs `read` over the section `node` (nothing: an empty one), then reports the keys that nobody asked for.
    /// Gives nothing when `node` is not a section.
    pub(crate) fn within<T>(
        recorder: &'a Recorder<'a>,
        path: Vec<Segment>,
        node: Option<&'a Node>,
        file_alone: bool,
        read: impl FnOnce(&mut Fields<'a>) -> T,
    ) -> Option<T> {
        let at = node.map_or(Position { line: 1, column: 1 }, |node| node.at);
        let entries = match node.map(|node| (node, node.entries())) {
            None => &[],
            Some((_, Some(entries))) => entries,
            Some((node, None)) => {
                let message = format!("expected a section of `key: value` lines, found {}", node.found());
                let mistake = recorder.document.diagnostic(at, &path_text(&path), message);
                recorder.found.borrow_mut().mistakes.push(mistake);
                return None;
            }
        };
        let mut fields = Fields { recorder, path, entries, at, known: Vec::new(), file_alone };
        let value = read(&mut fields);
        fields.report_unknown();
        Some(value)
    }

    /// The key's place, else the section's.
    pub(super) fn place(&self, name: &str) -> Position {
        self.entries.iter().find(|entry| entry.key == name).map_or(self.at, |entry| entry.at)
    }

    pub(super) fn child(&self, name: &str) -> Vec<Segment> {
        [self.path.clone(), vec![Segment::Key(name.to_owned())]].concat()
    }

    pub(super) fn take(&mut self, name: &'static str) -> Option<&'a Node> {
        self.known.push(name);
        self.entries.iter().find(|entry| entry.key == name).map(|entry| &entry.value)
    }

    /// The setting without its environment variable, where those mean nothing.
    pub(super) fn heard(&self, doc: Doc) -> Doc {
        if self.file_alone { Doc { env: None, ..doc } } else { doc }
    }

    pub(super) fn variable(&self, doc: Doc) -> Option<(&'static str, String)> {
        let name = self.heard(doc).env.filter(|_| !self.is_describing())?;
        (self.recorder.env)(name).filter(|text| !text.is_empty()).map(|text| (name, text))
    }

    /// Whether the file or the environment has the setting, right or wrong.
    pub(super) fn given(&self, name: &str, doc: Doc) -> bool {
        self.has(name) || self.variable(doc).is_some()
    }

    /// The value: the environment's, else the file's. Both are checked, so that both are right before anything starts.
    pub(super) fn value<T: 'static>(&mut self, name: &'static str, doc: Doc, kind: &Kind<T>) -> Option<T> {
        let from_file = self.take(name).and_then(|node| match (kind.from_node)(node) {
            Ok(value) => Some(value),
            Err(mistakes) => {
                let path = self.path_of(name);
                let mut found = self.recorder.found.borrow_mut();
                found.mistakes.extend(mistakes.into_iter().map(|mistake| {
                    let at = mistake.at.unwrap_or(node.at);
                    let seen = self.recorder.document.diagnostic(at, &path, mistake.message).hint(mistake.hint);
                    if kind.is_secret { seen.without_excerpt() } else { seen }
                }));
                None
            }
        });
        let Some((variable, text)) = self.variable(doc) else {
            return from_file;
        };
        match (kind.from_text)(&text) {
            Ok(value) => Some(value),
            Err(mistake) => {
                let mistake = Diagnostic::environment(variable, mistake.message).hint(mistake.hint);
                self.recorder.found.borrow_mut().mistakes.push(mistake);
                from_file
            }
        }
    }

    pub(super) fn report(&self, mistake: &Mistake, at: Position, path: &[Segment]) {
        let at = mistake.at.unwrap_or(at);
        let seen = self.recorder.document.diagnostic(at, &path_text(path), &mistake.message).hint(&mistake.hint);
        self.recorder.found.borrow_mut().mistakes.push(seen);
    }

    pub(super) fn report_unknown(&self) {
        let unknown = self.entries.iter().filter(|entry| !self.known.contains(&entry.key.as_str()));
        for entry in unknown {
            let free = self.known.iter().copied().filter(|name| !self.has(name));
            let hint = match suggest::nearest(&entry.key, free) {
                Some(name) => format!("did you mean `{name}`?"),
                None if entry.key == "<<" => "merge keys are not supported; repeat the settings".to_owned(),
                None => format!("known here: {}", self.known.join(", ")),
            };
            let path = [self.path.clone(), vec![Segment::Key(entry.key.clone())]].concat();
            self.report(&Mistake::new("unknown setting", hint), entry.at, &path);
        }
    }

    pub(super) fn describe<T>(&self, name: &str, doc: Doc, kind: &Kind<T>, default: Option<&T>, required: bool) {
        let Some(described) = &self.recorder.described else {
            return;
        };
        described.borrow_mut().push(SettingDoc {
            path: self.child(name),
            kind: kind.name.clone(),
            schema: Some(kind.schema.clone()),
            names: None,
            default: default.map(|value| (kind.show)(value)),
            required,
            doc: self.heard(doc),
        });
    }

    pub(super) fn describe_section(&self, name: &str, text: &'static str, kind: &str, names: Option<Json>) {
        let Some(described) = &self.recorder.described else {
            return;
        };
        let (path, kind) = (self.child(name), kind.to_owned());
        described.borrow_mut().push(SettingDoc {
            path,
            kind,
            schema: None,
            names,
            default: None,
            required: false,
            doc: doc(text),
        });
    }
}
