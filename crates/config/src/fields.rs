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

mod nested;
mod reading;

pub use nested::OPTIONAL_OR;

use std::cell::RefCell;

use crate::describe::{Segment, SettingDoc, path_text};
use crate::diagnostics::{Diagnostic, Diagnostics};
use crate::kinds::Kind;
use crate::node::{Document, Entry, Node, Position};

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
    Doc { text, reason: "", env: None, example: None }
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
        let recorder = Recorder { document: self, env, described: None, found: RefCell::default() };
        recorder.found.borrow_mut().mistakes.clone_from(&self.mistakes);
        let root = Some(&self.node);
        let value = Fields::within(&recorder, Vec::new(), root, false, |fields| read(fields)).flatten();
        let mut found = recorder.found.into_inner();
        // In file order, as one repairs them; what has no line (the environment) comes last.
        found.mistakes.sort_by_key(|mistake| (mistake.line == 0, mistake.line, mistake.column));
        match value {
            Some(value) if found.mistakes.is_empty() => Ok(Loaded { value, warnings: found.warnings }),
            _ if found.mistakes.is_empty() => {
                Err(self.diagnostic(self.node.at, "", "the settings are not complete").into())
            }
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
    /// Sections that need not exist, or of which there may be many: one environment variable could not mean one of them.
    file_alone: bool,
}

impl<'a> Fields<'a> {
    /// A setting that may be absent.
    pub fn optional<T: 'static>(&mut self, name: &'static str, doc: Doc, kind: Kind<T>) -> Option<T> {
        self.describe(name, doc, &kind, None, false);
        self.value(name, doc, &kind)
    }

    /// A setting that must be given. Nothing when it is absent or wrong, which is then a recorded mistake.
    pub fn required<T: 'static>(&mut self, name: &'static str, doc: Doc, kind: Kind<T>) -> Option<T> {
        self.describe(name, doc, &kind, None, true);
        let doc = self.heard(doc);
        let given = self.given(name, doc);
        let value = self.value(name, doc, &kind);
        if !given {
            let hint = match (doc.example, doc.env) {
                (Some(example), Some(variable)) => format!("for example `{name}: {example}`, or set {variable}"),
                (Some(example), None) => format!("for example `{name}: {example}`"),
                (None, Some(variable)) => format!("add `{name}: ...`, or set {variable}"),
                (None, None) => format!("add `{name}: ...`"),
            };
            self.mistake(name, "this setting is missing", hint);
        }
        value
    }

    /// A setting with a default, which also stands in for a wrong value (the reading fails anyway).
    pub fn with_default<T: 'static>(&mut self, name: &'static str, doc: Doc, kind: Kind<T>, default: T) -> T {
        self.describe(name, doc, &kind, Some(&default), false);
        self.value(name, doc, &kind).unwrap_or(default)
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
        if name.is_empty() { path_text(&self.path) } else { path_text(&self.child(name)) }
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
    pub fn mistake_at(&mut self, at: Position, name: &str, message: impl Into<String>, hint: impl Into<String>) {
        let path = self.path_of(name);
        let mistake = self.recorder.document.diagnostic(at, &path, message).hint(hint);
        if !self.is_describing() {
            self.recorder.found.borrow_mut().mistakes.push(mistake);
        }
    }

    /// Records something to tell the operator that stops nothing.
    pub fn warn(&mut self, name: &str, message: impl Into<String>, hint: impl Into<String>) {
        let warning = self.recorder.document.diagnostic(self.place(name), &self.path_of(name), message).hint(hint);
        if !self.is_describing() {
            self.recorder.found.borrow_mut().warnings.push(warning);
        }
    }
}

#[cfg(test)]
mod tests;
