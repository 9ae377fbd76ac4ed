//! The one declaration of a setting, from which everything follows: reading, environment, mistakes, documentation.
//!
//! A section is a function over [`Fields`]. Read every field first and give up (`?`) last, so that all mistakes are found:
//!
//! ```
//! use outrigger_config::{Document, Fields, doc, kinds};
//!
//! struct Section { listen: std::net::SocketAddr, name: String }
//!
//! fn read(f: &mut Fields<'_>) -> Option<Section> {
//!     let text = doc("Where to listen.").because("no other program uses it").env("APP_LISTEN");
//!     let listen = f.with_default("listen", text, kinds::listen(), ([127, 0, 0, 1], 8080).into());
//!     let name = f.required("name", doc("Who we are."), kinds::text());
//!     Some(Section { listen, name: name? })
//! }
//!
//! let wrong = outrigger_config::load(Some(("app.yaml", "lisen: 1\n")), &|_| None, read);
//! assert_eq!(wrong.err().map(|all| all.0.len()), Some(2)); // `lisen` is unknown, `name` is missing
//! ```

use std::cell::RefCell;

use crate::describe::{Segment, SettingDoc, path_text};
use crate::diagnostics::{Diagnostic, Diagnostics};
use crate::kinds::{Kind, Mistake};
use crate::node::{Document, Entry, Node, Position};
use crate::suggest;

/// Looks an environment variable up. Empty counts as unset, because compose files pass `NAME=` for what is not given.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What documentation says about one setting.
#[derive(Debug, Clone, Copy, Default)]
pub struct Doc {
    /// What it does.
    pub text: &'static str,
    /// Why the default is what it is.
    pub reason: &'static str,
    /// The environment variable that overrides the file.
    pub env: Option<&'static str>,
    /// An example value.
    pub example: Option<&'static str>,
}

/// Begins the documentation of a setting.
pub const fn doc(text: &'static str) -> Doc {
    Doc {
        text,
        reason: "",
        env: None,
        example: None,
    }
}

impl Doc {
    /// Says why the default is what it is.
    #[must_use]
    pub const fn because(mut self, reason: &'static str) -> Self {
        self.reason = reason;
        self
    }

    /// Names the environment variable that overrides the file.
    #[must_use]
    pub const fn env(mut self, variable: &'static str) -> Self {
        self.env = Some(variable);
        self
    }

    /// Shows an example value.
    #[must_use]
    pub const fn example(mut self, example: &'static str) -> Self {
        self.example = Some(example);
        self
    }
}

/// Settings that were read without a mistake.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The settings.
    pub value: T,
    /// Things to tell the operator that stop nothing.
    pub warnings: Vec<Diagnostic>,
}

/// Reads settings from an optional `(file name, text)` and the environment.
///
/// # Errors
/// Every mistake in both.
pub fn load<T>(
    file: Option<(&str, &str)>,
    env: Env<'_>,
    read: impl FnOnce(&mut Fields<'_>) -> Option<T>,
) -> Result<Loaded<T>, Diagnostics> {
    let document = match file {
        Some((name, text)) => Document::parse(name, text)?,
        None => Document::empty(),
    };
    document.read(env, read)
}

impl Document {
    /// Reads this document with the declaration `read`.
    ///
    /// # Errors
    /// Every mistake in the document and in the environment.
    pub fn read<T>(
        &self,
        env: Env<'_>,
        read: impl FnOnce(&mut Fields<'_>) -> Option<T>,
    ) -> Result<Loaded<T>, Diagnostics> {
        let recorder = Recorder {
            document: self,
            env,
            described: None,
            found: RefCell::default(),
        };
        recorder
            .found
            .borrow_mut()
            .mistakes
            .clone_from(&self.mistakes);
        let root = Some(&self.node);
        let value = Fields::within(&recorder, Vec::new(), root, |fields| read(fields)).flatten();
        let mut found = recorder.found.into_inner();
        // In file order, as one repairs them; what has no line (the environment) comes last.
        found
            .mistakes
            .sort_by_key(|mistake| (mistake.line == 0, mistake.line, mistake.column));
        match value {
            Some(value) if found.mistakes.is_empty() => Ok(Loaded {
                value,
                warnings: found.warnings,
            }),
            _ if found.mistakes.is_empty() => Err(self
                .diagnostic(self.node.at, "", "the settings are not complete")
                .into()),
            _ => Err(Diagnostics(found.mistakes)),
        }
    }
}

/// What all sections of one reading share.
pub(crate) struct Recorder<'a> {
    pub(crate) document: &'a Document,
    pub(crate) env: Env<'a>,
    /// Present when settings are described instead of read.
    pub(crate) described: Option<RefCell<Vec<SettingDoc>>>,
    pub(crate) found: RefCell<Found>,
}

#[derive(Default)]
pub(crate) struct Found {
    mistakes: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

/// One section of the settings while it is read or described.
pub struct Fields<'a> {
    recorder: &'a Recorder<'a>,
    path: Vec<Segment>,
    entries: &'a [Entry],
    at: Position,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// Runs `read` over the section `node` (nothing: an empty one), then reports the keys that nobody asked for.
    /// Gives nothing when `node` is not a section.
    pub(crate) fn within<T>(
        recorder: &'a Recorder<'a>,
        path: Vec<Segment>,
        node: Option<&'a Node>,
        read: impl FnOnce(&mut Fields<'a>) -> T,
    ) -> Option<T> {
        let at = node.map_or(Position { line: 1, column: 1 }, |node| node.at);
        let entries = match node.map(|node| (node, node.entries())) {
            None => &[],
            Some((_, Some(entries))) => entries,
            Some((node, None)) => {
                let message = format!(
                    "expected a section of `key: value` lines, found {}",
                    node.found()
                );
                let mistake = recorder.document.diagnostic(at, &path_text(&path), message);
                recorder.found.borrow_mut().mistakes.push(mistake);
                return None;
            }
        };
        let mut fields = Fields {
            recorder,
            path,
            entries,
            at,
            known: Vec::new(),
        };
        let value = read(&mut fields);
        fields.report_unknown();
        Some(value)
    }

    /// A setting that may be absent.
    pub fn optional<T: 'static>(
        &mut self,
        name: &'static str,
        doc: Doc,
        kind: Kind<T>,
    ) -> Option<T> {
        self.describe(name, doc, &kind, None, false);
        self.value(name, doc, &kind)
    }

    /// A setting that must be given. Nothing when it is absent or wrong, which is then a recorded mistake.
    pub fn required<T: 'static>(
        &mut self,
        name: &'static str,
        doc: Doc,
        kind: Kind<T>,
    ) -> Option<T> {
        self.describe(name, doc, &kind, None, true);
        let given = self.given(name, doc);
        let value = self.value(name, doc, &kind);
        if !given {
            let hint = match (doc.example, doc.env) {
                (Some(example), _) => format!("for example `{name}: {example}`"),
                (None, Some(variable)) => format!("add `{name}: ...`, or set {variable}"),
                (None, None) => format!("add `{name}: ...`"),
            };
            self.mistake(name, "this setting is missing", hint);
        }
        value
    }

    /// A setting with a default, which also stands in for a wrong value (the reading fails anyway).
    pub fn with_default<T: 'static>(
        &mut self,
        name: &'static str,
        doc: Doc,
        kind: Kind<T>,
        default: T,
    ) -> T {
        self.describe(name, doc, &kind, Some(&default), false);
        self.value(name, doc, &kind).unwrap_or(default)
    }

    /// A section that always exists; absent from the file it has its defaults and its environment variables.
    /// Nothing only when the file has something else than a section here.
    pub fn section<T>(
        &mut self,
        name: &'static str,
        text: &'static str,
        read: impl FnOnce(&mut Fields<'a>) -> Option<T>,
    ) -> Option<T> {
        self.describe_section(name, text, "section");
        let node = self.take(name);
        Fields::within(self.recorder, self.child(name), node, read).flatten()
    }

    /// A section that exists only when the file has it.
    pub fn optional_section<T>(
        &mut self,
        name: &'static str,
        text: &'static str,
        read: impl FnOnce(&mut Fields<'a>) -> Option<T>,
    ) -> Option<T> {
        self.describe_section(name, text, "optional section");
        let node = self.take(name);
        if node.is_none() && !self.is_describing() {
            return None;
        }
        Fields::within(self.recorder, self.child(name), node, read).flatten()
    }

    /// Sections under names of the operator's choice. `key` says which names are good. In file order.
    pub fn map<T>(
        &mut self,
        name: &'static str,
        text: &'static str,
        key: &Kind<String>,
        mut read: impl FnMut(&str, &mut Fields<'a>) -> Option<T>,
    ) -> Vec<(String, T)> {
        self.describe_section(name, text, "map");
        let parent = self.child(name);
        if self.is_describing() {
            let path = [parent, vec![Segment::AnyKey]].concat();
            Fields::within(self.recorder, path, None, |fields| read("name", fields));
            return Vec::new();
        }
        let Some(node) = self.take(name) else {
            return Vec::new();
        };
        let Some(entries) = node.entries() else {
            let message = format!("expected names with a section each, found {}", node.found());
            self.report(
                &Mistake::new(
                    message,
                    format!("write `{name}:`, then `  a-name:` and its settings"),
                ),
                node.at,
                &parent,
            );
            return Vec::new();
        };
        let mut values = Vec::new();
        for entry in entries {
            let path = [parent.clone(), vec![Segment::Key(entry.key.clone())]].concat();
            if let Err(mistake) = (key.from_text)(&entry.key) {
                self.report(&mistake, entry.at, &path);
            }
            let value = Fields::within(self.recorder, path, Some(&entry.value), |fields| {
                read(&entry.key, fields)
            });
            values.extend(value.flatten().map(|value| (entry.key.clone(), value)));
        }
        values
    }

    /// A list of sections.
    pub fn list<T>(
        &mut self,
        name: &'static str,
        text: &'static str,
        mut read: impl FnMut(&mut Fields<'a>) -> Option<T>,
    ) -> Vec<T> {
        self.describe_section(name, text, "list");
        let parent = self.child(name);
        if self.is_describing() {
            let path = [parent, vec![Segment::AnyItem]].concat();
            Fields::within(self.recorder, path, None, |fields| read(fields));
            return Vec::new();
        }
        let Some(node) = self.take(name) else {
            return Vec::new();
        };
        let Some(items) = node.items() else {
            let message = format!("expected a list, found {}", node.found());
            self.report(
                &Mistake::new(message, "begin each item with `- `"),
                node.at,
                &parent,
            );
            return Vec::new();
        };
        let mut values = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = [parent.clone(), vec![Segment::Item(index)]].concat();
            values.extend(
                Fields::within(self.recorder, path, Some(item), |fields| read(fields)).flatten(),
            );
        }
        values
    }

    /// The raw value of a key, for a form that no [`Kind`] covers. It then counts as known, and is not described.
    pub fn raw(&mut self, name: &'static str) -> Option<&'a Node> {
        self.take(name)
    }

    /// Whether the file has this key here.
    pub fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == name)
    }

    /// Where this section begins.
    pub fn at(&self) -> Position {
        self.at
    }

    /// The dotted path of a setting of this section (of the section itself for an empty name).
    pub fn path_of(&self, name: &str) -> String {
        if name.is_empty() {
            path_text(&self.path)
        } else {
            path_text(&self.child(name))
        }
    }

    /// Whether settings are only described: values are then defaults, and rules between them mean nothing.
    pub fn is_describing(&self) -> bool {
        self.recorder.described.is_some()
    }

    /// Records a mistake of the setting `name` (of the section itself for an empty name), such as a rule between settings.
    pub fn mistake(&mut self, name: &str, message: impl Into<String>, hint: impl Into<String>) {
        let at = self.place(name);
        self.mistake_at(at, name, message, hint);
    }

    /// Records a mistake at a place of its own, for values that were taken with [`Fields::raw`].
    pub fn mistake_at(
        &mut self,
        at: Position,
        name: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let path = self.path_of(name);
        let mistake = self
            .recorder
            .document
            .diagnostic(at, &path, message)
            .hint(hint);
        if !self.is_describing() {
            self.recorder.found.borrow_mut().mistakes.push(mistake);
        }
    }

    /// Records something to tell the operator that stops nothing.
    pub fn warn(&mut self, name: &str, message: impl Into<String>, hint: impl Into<String>) {
        let warning = self
            .recorder
            .document
            .diagnostic(self.place(name), &self.path_of(name), message)
            .hint(hint);
        if !self.is_describing() {
            self.recorder.found.borrow_mut().warnings.push(warning);
        }
    }

    // ---- helpers ----

    /// The key's place, else the section's.
    fn place(&self, name: &str) -> Position {
        self.entries
            .iter()
            .find(|entry| entry.key == name)
            .map_or(self.at, |entry| entry.at)
    }

    fn child(&self, name: &str) -> Vec<Segment> {
        [self.path.clone(), vec![Segment::Key(name.to_owned())]].concat()
    }

    fn take(&mut self, name: &'static str) -> Option<&'a Node> {
        self.known.push(name);
        self.entries
            .iter()
            .find(|entry| entry.key == name)
            .map(|entry| &entry.value)
    }

    fn variable(&self, doc: Doc) -> Option<(&'static str, String)> {
        let name = doc.env.filter(|_| !self.is_describing())?;
        (self.recorder.env)(name)
            .filter(|text| !text.is_empty())
            .map(|text| (name, text))
    }

    /// Whether the file or the environment has the setting, right or wrong.
    fn given(&self, name: &str, doc: Doc) -> bool {
        self.has(name) || self.variable(doc).is_some()
    }

    /// The value: the environment's, else the file's. Both are checked, so that both are right before anything starts.
    fn value<T: 'static>(&mut self, name: &'static str, doc: Doc, kind: &Kind<T>) -> Option<T> {
        let from_file = self
            .take(name)
            .and_then(|node| match (kind.from_node)(node) {
                Ok(value) => Some(value),
                Err(mistakes) => {
                    let path = self.path_of(name);
                    let mut found = self.recorder.found.borrow_mut();
                    found.mistakes.extend(mistakes.into_iter().map(|mistake| {
                        let at = mistake.at.unwrap_or(node.at);
                        let seen = self
                            .recorder
                            .document
                            .diagnostic(at, &path, mistake.message)
                            .hint(mistake.hint);
                        if kind.is_secret {
                            seen.without_excerpt()
                        } else {
                            seen
                        }
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

    fn report(&self, mistake: &Mistake, at: Position, path: &[Segment]) {
        let at = mistake.at.unwrap_or(at);
        let seen = self
            .recorder
            .document
            .diagnostic(at, &path_text(path), &mistake.message)
            .hint(&mistake.hint);
        self.recorder.found.borrow_mut().mistakes.push(seen);
    }

    fn report_unknown(&self) {
        let unknown = self
            .entries
            .iter()
            .filter(|entry| !self.known.contains(&entry.key.as_str()));
        for entry in unknown {
            let free = self.known.iter().copied().filter(|name| !self.has(name));
            let hint = match suggest::nearest(&entry.key, free) {
                Some(name) => format!("did you mean `{name}`?"),
                None if entry.key == "<<" => {
                    "merge keys are not supported; repeat the settings".to_owned()
                }
                None => format!("known here: {}", self.known.join(", ")),
            };
            let path = [self.path.clone(), vec![Segment::Key(entry.key.clone())]].concat();
            self.report(&Mistake::new("unknown setting", hint), entry.at, &path);
        }
    }

    fn describe<T>(
        &self,
        name: &str,
        doc: Doc,
        kind: &Kind<T>,
        default: Option<&T>,
        required: bool,
    ) {
        let Some(described) = &self.recorder.described else {
            return;
        };
        described.borrow_mut().push(SettingDoc {
            path: self.child(name),
            kind: kind.name.clone(),
            schema: Some(kind.schema.clone()),
            default: default.map(|value| (kind.show)(value)),
            required,
            doc,
        });
    }

    fn describe_section(&self, name: &str, text: &'static str, kind: &str) {
        let Some(described) = &self.recorder.described else {
            return;
        };
        let (path, kind) = (self.child(name), kind.to_owned());
        described.borrow_mut().push(SettingDoc {
            path,
            kind,
            schema: None,
            default: None,
            required: false,
            doc: doc(text),
        });
    }
}

#[cfg(test)]
mod tests;
