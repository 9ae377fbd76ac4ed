//! Parser events into trees, inside the budgets of one file.

use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Marker, ScalarStyle};

use super::{Entry, Node, Position, Scalar, Value};
use crate::describe::{Segment, path_text};
use crate::diagnostics::Diagnostic;

/// The most values in one file, aliases written out: stops an alias bomb.
const MAX_NODES: usize = 100_000;
/// The deepest nesting: settings need six levels; recursion over the tree stays far from the stack's end.
const MAX_DEPTH: usize = 32;

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

/// Builds the trees of one file.
pub(super) struct Builder<'a> {
    file: &'a str,
    text: &'a str,
    nodes: usize,
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    pub(super) mistakes: Vec<Diagnostic>,
}

/// Boxed, because results are passed per event and mistakes are rare and large.
pub(super) type Wrong = Box<Diagnostic>;

impl<'a> Builder<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, nodes: 0, open: Vec::new(), anchors: HashMap::new(), mistakes: Vec::new() }
    }

    /// Takes one event; gives the root when a document is complete.
    pub(super) fn event(&mut self, event: Event<'_>, at: Position) -> Result<Option<Node>, Wrong> {
        match event {
            Event::Scalar(text, style, anchor, _tag) => {
                let plain = style == ScalarStyle::Plain;
                let value = match (plain, text.as_ref()) {
                    (true, "" | "~" | "null") => Value::Null,
                    _ => Value::Scalar(Scalar { text: text.into_owned(), plain }),
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
        self.open.push(Open { node: Node { value, at }, anchor, key: None, seen: HashSet::new(), height: 0 });
        Ok(None)
    }

    fn alias(&mut self, anchor: usize, at: Position) -> Result<Option<Node>, Wrong> {
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err(self.wrong(at, "an alias inside the value that it names", "write the value out"));
        };
        let (mut node, nodes, height) = (anchored.node.clone(), anchored.nodes, anchored.height);
        self.count(nodes, height, at)?;
        node.at = at;
        self.close(node, 0, height)
    }

    /// Puts a complete value where it belongs: the root, a list, a key, or the value of a key.
    fn close(&mut self, node: Node, anchor: usize, height: usize) -> Result<Option<Node>, Wrong> {
        if anchor > 0 {
            let kept = Anchored { node: node.clone(), nodes: size(&node), height };
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
                    let mistake = Diagnostic::at(self.file, self.text, at, &path, "this key stands here twice");
                    self.mistakes.push(mistake.hint(hint));
                } else {
                    entries.push(Entry { key, at, value: node });
                }
            }
            (Value::Map(_), None) => match node.value {
                Value::Scalar(scalar) => parent.key = Some((scalar.text, node.at)),
                Value::Null => parent.key = Some(("null".to_owned(), node.at)),
                Value::Seq(_) | Value::Map(_) => {
                    return Err(self.wrong(node.at, "a list or section as a key", "keys are single words"));
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
            return Err(self.wrong(at, &format!("more than {MAX_NODES} values in one file"), "split the file"));
        }
        if self.open.len() + height > MAX_DEPTH {
            return Err(self.wrong(at, &format!("nested deeper than {MAX_DEPTH} levels"), "flatten it"));
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

/// The parser counts columns from 0.
pub(super) fn position(marker: &Marker) -> Position {
    let narrow = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Position { line: narrow(marker.line()), column: narrow(marker.col().saturating_add(1)) }
}
