//! YAML text into a small tree in which every value and key knows its line and column.
//!
//! The event parser is used directly, not a serde deserialiser: serde loses positions below maps with free keys, stops at the
//! first mistake, and turns `on` or `1.10` into something else before the setting can say what it wants.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use granit_parser::{Event, Marker, Parser, ScalarStyle};

use crate::describe::{Segment, path_text};
use crate::diagnostics::{Diagnostic, Diagnostics};

/// The largest file read, in bytes: a thousand times a large manifest, and still parsed in milliseconds.
pub const MAX_BYTES: usize = 1 << 20;
/// The most values in one file, aliases written out: stops an alias bomb.
const MAX_NODES: usize = 100_000;
/// The deepest nesting: settings need six levels; recursion over the tree stays far from the stack's end.
const MAX_DEPTH: usize = 32;

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
    pub(crate) file: Rc<str>,
    pub(crate) text: Rc<str>,
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
        self.entries()?
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.value)
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
        Self {
            file: "".into(),
            text: "".into(),
            node: Node::default(),
            mistakes: Vec::new(),
        }
    }

    /// Reads a file that holds one document (or none: an empty mapping).
    ///
    /// # Errors
    /// A syntax error, a limit passed, or a second document, with its place.
    pub fn parse(file: &str, text: &str) -> Result<Self, Diagnostics> {
        let mut documents = Self::parse_all(file, text)?.into_iter();
        let first = documents.next().unwrap_or_else(|| Self {
            file: file.into(),
            text: text.into(),
            ..Self::empty()
        });
        match documents.next() {
            None => Ok(first),
            Some(second) => Err(Diagnostic::at(
                file,
                text,
                second.node.at,
                "",
                "a second document in one file",
            )
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
        let mut builder = Builder {
            text,
            file,
            nodes: 0,
            open: Vec::new(),
            anchors: HashMap::new(),
            mistakes: Vec::new(),
        };
        let (shared_file, shared_text): (Rc<str>, Rc<str>) = (file.into(), text.into());
        let mut documents = Vec::new();
        for next in Parser::new_from_str(text) {
            let (event, span) = next.map_err(|error| {
                Diagnostic::at(file, text, position(error.marker()), "", error.info())
                    .hint("this is not valid YAML")
            })?;
            if let Some(node) = builder
                .event(event, position(&span.start))
                .map_err(|wrong| *wrong)?
            {
                let mistakes = std::mem::take(&mut builder.mistakes);
                documents.push(Self {
                    file: shared_file.clone(),
                    text: shared_text.clone(),
                    node,
                    mistakes,
                });
            }
        }
        documents.retain(|document| document.node.value != Value::Null);
        Ok(documents)
    }

    /// A mistake at a place of this document.
    pub fn diagnostic(&self, at: Position, path: &str, message: impl Into<String>) -> Diagnostic {
        Diagnostic::at(&self.file, &self.text, at, path, message)
    }
}

/// A list or mapping whose end has not been seen.
struct Open {
    node: Node,
    anchor: usize,
    /// The key that waits for its value, in a mapping.
    key: Option<(String, Position)>,
    /// Keys seen so far; a search through the entries would be quadratic.
    seen: HashSet<String>,
    /// The deepest child, to keep aliases inside the depth limit.
    height: usize,
}

/// Anchored value: a copy per alias, with its cost known.
struct Anchored {
    node: Node,
    nodes: usize,
    height: usize,
}

struct Builder<'a> {
    file: &'a str,
    text: &'a str,
    nodes: usize,
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    mistakes: Vec<Diagnostic>,
}

type Wrong = Box<Diagnostic>;

impl Builder<'_> {
    /// Takes one event; gives the root when a document is complete.
    fn event(&mut self, event: Event<'_>, at: Position) -> Result<Option<Node>, Wrong> {
        match event {
            Event::Scalar(text, style, anchor, _tag) => {
                let plain = style == ScalarStyle::Plain;
                let value = match (plain, text.as_ref()) {
                    (true, "" | "~" | "null") => Value::Null,
                    _ => Value::Scalar(Scalar {
                        text: text.into_owned(),
                        plain,
                    }),
                };
                self.count(1, 0, at)?;
                self.close(Node { value, at }, anchor, 0)
            }
            Event::SequenceStart(_, anchor, _) => self.begin(Value::Seq(Vec::new()), anchor, at),
            Event::MappingStart(_, anchor, _) => self.begin(Value::Map(Vec::new()), anchor, at),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => self.close(open.node, open.anchor, open.height),
                None => Ok(None),
            },
            Event::Alias(anchor) => self.alias(anchor, at),
            Event::DocumentEnd => {
                self.anchors.clear();
                Ok(None)
            }
            // Starts, ends and presentation (comments, anchor names) carry no value.
            _ => Ok(None),
        }
    }

    fn begin(&mut self, value: Value, anchor: usize, at: Position) -> Result<Option<Node>, Wrong> {
        self.count(1, 1, at)?;
        self.open.push(Open {
            node: Node { value, at },
            anchor,
            key: None,
            seen: HashSet::new(),
            height: 0,
        });
        Ok(None)
    }

    fn alias(&mut self, anchor: usize, at: Position) -> Result<Option<Node>, Wrong> {
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err(self.wrong(
                at,
                "an alias inside the value that it names",
                "write the value out",
            ));
        };
        let (mut node, nodes, height) = (anchored.node.clone(), anchored.nodes, anchored.height);
        self.count(nodes, height, at)?;
        node.at = at;
        self.close(node, 0, height)
    }

    /// Puts a complete value where it belongs: the root, a list, a key, or the value of a key.
    fn close(&mut self, node: Node, anchor: usize, height: usize) -> Result<Option<Node>, Wrong> {
        if anchor > 0 {
            let kept = Anchored {
                node: node.clone(),
                nodes: size(&node),
                height,
            };
            self.count(kept.nodes, 0, node.at)?;
            self.anchors.insert(anchor, kept);
        }
        let Some(parent) = self.open.last_mut() else {
            return Ok(Some(node));
        };
        parent.height = parent.height.max(height + 1);
        match (&mut parent.node.value, parent.key.take()) {
            (Value::Seq(items), _) => items.push(node),
            (Value::Map(entries), Some((key, at))) => {
                if !parent.seen.insert(key.clone()) {
                    let hint = format!("keep one `{}`", key.escape_debug());
                    let path = self.path_of(&key);
                    let mistake = Diagnostic::at(
                        self.file,
                        self.text,
                        at,
                        &path,
                        "this key stands here twice",
                    );
                    self.mistakes.push(mistake.hint(hint));
                } else {
                    entries.push(Entry {
                        key,
                        at,
                        value: node,
                    });
                }
            }
            (Value::Map(_), None) => match node.value {
                Value::Scalar(scalar) => parent.key = Some((scalar.text, node.at)),
                Value::Null => parent.key = Some(("null".to_owned(), node.at)),
                Value::Seq(_) | Value::Map(_) => {
                    return Err(self.wrong(
                        node.at,
                        "a list or section as a key",
                        "keys are single words",
                    ));
                }
            },
            (Value::Null | Value::Scalar(_), _) => {}
        }
        Ok(None)
    }

    /// The path of a key of the innermost mapping.
    fn path_of(&self, key: &str) -> String {
        let outer = self.open.split_last().map_or(&[][..], |(_, outer)| outer);
        let mut path: Vec<Segment> = Vec::with_capacity(outer.len() + 1);
        for open in outer {
            match (&open.node.value, &open.key) {
                (Value::Seq(items), _) => path.push(Segment::Item(items.len())),
                (_, Some((key, _))) => path.push(Segment::Key(key.clone())),
                (_, None) => {}
            }
        }
        path.push(Segment::Key(key.to_owned()));
        path_text(&path)
    }

    /// Spends the budgets of one file.
    fn count(&mut self, nodes: usize, height: usize, at: Position) -> Result<(), Wrong> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err(self.wrong(
                at,
                &format!("more than {MAX_NODES} values in one file"),
                "split the file",
            ));
        }
        if self.open.len() + height > MAX_DEPTH {
            return Err(self.wrong(
                at,
                &format!("nested deeper than {MAX_DEPTH} levels"),
                "flatten it",
            ));
        }
        Ok(())
    }

    fn wrong(&self, at: Position, message: &str, hint: &str) -> Wrong {
        Box::new(Diagnostic::at(self.file, self.text, at, "", message).hint(hint))
    }
}

/// Values in a tree. Depth is bounded by [`MAX_DEPTH`].
fn size(node: &Node) -> usize {
    1 + match &node.value {
        Value::Null | Value::Scalar(_) => 0,
        Value::Seq(items) => items.iter().map(size).sum(),
        Value::Map(entries) => entries.iter().map(|entry| 1 + size(&entry.value)).sum(),
    }
}

fn position(marker: &Marker) -> Position {
    let narrow = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Position {
        line: narrow(marker.line()),
        column: narrow(marker.col().saturating_add(1)),
    }
}

#[cfg(test)]
mod tests;
