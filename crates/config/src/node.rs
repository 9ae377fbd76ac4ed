//! YAML text into a small tree in which every value and key knows its line and column.
//!
//! The event parser is used directly, not a serde deserialiser: serde loses positions below maps with free keys, stops at the
//! first mistake, and turns `on` or `1.10` into something else before the setting can say what it wants.

mod parse;

use std::sync::Arc;

use granit_parser::Parser;

use crate::diagnostics::{Diagnostic, Diagnostics};
use parse::{Builder, position};

/// The largest file read, in bytes: a thousand times a large manifest, and still parsed in milliseconds.
pub const MAX_BYTES: usize = 1 << 20;
/// A place in a file. Both count from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// One YAML value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it begins.
    pub at: Position,
}

/// What a node holds. Scalars stay text: the setting that reads one decides what it means.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Value {
    /// Nothing, `~` or `null`.
    #[default]
    Null,
    /// Any other single value.
    Scalar(Scalar),
    /// A list.
    Seq(Vec<Node>),
    /// A mapping in file order; keys are unique (a repeated one is reported and left out).
    Map(Vec<Entry>),
}

/// The text of a single value, escapes resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    /// The text.
    pub text: String,
    /// Written without quotes, so `true` may mean a boolean and `12` a number.
    pub plain: bool,
}

/// One `key: value` of a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key's text.
    pub key: String,
    /// Where the key stands.
    pub at: Position,
    /// Its value.
    pub value: Node,
}

/// One YAML document together with its text, from which mistakes take their source lines.
#[derive(Debug, Clone)]
pub struct Document {
    pub(crate) file: Arc<str>,
    pub(crate) text: Arc<str>,
    /// The root value.
    pub node: Node,
    /// Mistakes that do not stop the reading (repeated keys); reported with all others.
    pub(crate) mistakes: Vec<Diagnostic>,
}

impl Node {
    /// The entries of a mapping; nothing (an empty file, `key:` alone) is an empty mapping.
    pub fn entries(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            Value::Null => Some(&[]),
            Value::Scalar(_) | Value::Seq(_) => None,
        }
    }

    /// The value under `key` of a mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries()?.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The text of a single value.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) => Some(&scalar.text),
            Value::Null | Value::Seq(_) | Value::Map(_) => None,
        }
    }

    /// The items of a list.
    pub fn items(&self) -> Option<&[Node]> {
        match &self.value {
            Value::Seq(items) => Some(items),
            Value::Null | Value::Scalar(_) | Value::Map(_) => None,
        }
    }

    /// The same as JSON, for settings that are handed on: plain `true`, `false` and whole numbers are what they look like,
    /// every other single value is a text.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Scalar(Scalar { text, plain: true }) => match text.parse::<bool>() {
                Ok(yes) => yes.into(),
                Err(_) => text.parse::<i64>().map_or_else(|_| text.as_str().into(), Json::from),
            },
            Value::Scalar(scalar) => scalar.text.as_str().into(),
            Value::Seq(items) => items.iter().map(Node::to_json).collect(),
            Value::Map(entries) => entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect(),
        }
    }

    /// What this is, for the text "expected ..., found ...".
    pub fn found(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Scalar(_) => "a single value",
            Value::Seq(_) => "a list",
            Value::Map(_) => "a section of `key: value` lines",
        }
    }
}

impl Document {
    /// A document without content, for settings that come from the environment alone.
    pub fn empty() -> Self {
        Self { file: "".into(), text: "".into(), node: Node::default(), mistakes: Vec::new() }
    }

    /// Reads a file that holds one document (or none: an empty mapping).
    ///
    /// # Errors
    /// A syntax error, a limit passed, or a second document, with its place.
    pub fn parse(file: &str, text: &str) -> Result<Self, Diagnostics> {
        let mut documents = Self::parse_all(file, text)?.into_iter();
        let first = documents.next().unwrap_or_else(|| Self { file: file.into(), text: text.into(), ..Self::empty() });
        match documents.next() {
            None => Ok(first),
            Some(second) => Err(Diagnostic::at(file, text, second.node.at, "", "a second document in one file")
                .hint("keep one document; remove `---` and what follows")
                .into()),
        }
    }

    /// Reads every document of a file; documents without content are left out.
    ///
    /// # Errors
    /// A syntax error or a limit passed, with its place.
    pub fn parse_all(file: &str, text: &str) -> Result<Vec<Self>, Diagnostics> {
        if text.len() > MAX_BYTES {
            let message = format!("the file has {} bytes, more than {MAX_BYTES}", text.len());
            return Err(Diagnostic::at(file, "", Position::default(), "", message).into());
        }
        let mut builder = Builder::new(file, text);
        let (shared_file, shared_text): (Arc<str>, Arc<str>) = (file.into(), text.into());
        let mut documents = Vec::new();
        for next in Parser::new_from_str(text) {
            let (event, span) = next.map_err(|error| {
                Diagnostic::at(file, text, position(error.marker()), "", error.info()).hint("this is not valid YAML")
            })?;
            if let Some(node) = builder.event(event, position(&span.start)).map_err(|wrong| *wrong)? {
                let mistakes = std::mem::take(&mut builder.mistakes);
                documents.push(Self { file: shared_file.clone(), text: shared_text.clone(), node, mistakes });
            }
        }
        documents.retain(|document| document.node.value != Value::Null);
        Ok(documents)
    }

    /// Mistakes that did not stop the reading, such as repeated keys.
    pub fn mistakes(&self) -> &[Diagnostic] {
        &self.mistakes
    }

    /// A mistake at a place of this document.
    pub fn diagnostic(&self, at: Position, path: &str, message: impl Into<String>) -> Diagnostic {
        Diagnostic::at(&self.file, &self.text, at, path, message)
    }
}

#[cfg(test)]
mod tests;
