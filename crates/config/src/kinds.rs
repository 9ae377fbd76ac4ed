//! Kinds of values: each knows its name, its JSON Schema, how it is read from a file and from the environment,
//! and how its default is written.

mod basic;
mod command;
mod lists;
mod network;
mod quantity;

use std::rc::Rc;

use serde_json::Value as Json;

use crate::node::{Node, Position};

pub use basic::{Checked, boolean, checked, choice, count, integer, path, secret, sha256, text};
pub use command::{command, split_words};
pub use lists::{list_of, map_of};
pub use network::{HostPort, Scheme, Url, host_port, listen, url};
pub use quantity::{Flow, Rate, bytes, duration, flow, percent, rate, show_bytes, show_duration};

/// What is wrong with one value. The reader adds the file and the setting's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The place inside the value; the value's own place when absent.
    pub at: Option<Position>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

impl Mistake {
    /// A mistake at the value itself.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { at: None, message: message.into(), hint: hint.into() }
    }

    fn at(mut self, at: Position) -> Self {
        self.at = self.at.or(Some(at));
        self
    }
}

type FromText<T> = Rc<dyn Fn(&str) -> Result<T, Mistake>>;
type FromNode<T> = Rc<dyn Fn(&Node) -> Result<T, Vec<Mistake>>>;

/// One kind of value.
pub struct Kind<T> {
    pub(crate) name: String,
    pub(crate) schema: Json,
    pub(crate) is_secret: bool,
    pub(crate) from_text: FromText<T>,
    pub(crate) from_node: FromNode<T>,
    pub(crate) show: Rc<dyn Fn(&T) -> String>,
}

impl<T: 'static> Kind<T> {
    /// A kind that is one YAML scalar, read the same way from a file and from the environment.
    pub fn scalar(
        name: impl Into<String>,
        schema: Json,
        parse: impl Fn(&str) -> Result<T, Mistake> + 'static,
        show: impl Fn(&T) -> String + 'static,
    ) -> Self {
        let name = name.into();
        let from_text: FromText<T> = Rc::new(parse);
        let (parse, expected) = (from_text.clone(), name.clone());
        let from_node: FromNode<T> = Rc::new(move |node| match node.text() {
            Some(text) => parse(text).map_err(|mistake| vec![mistake.at(node.at)]),
            None => Err(vec![wrong_shape(node, &expected)]),
        });
        Self { name, schema, is_secret: false, from_text, from_node, show: Rc::new(show) }
    }
}

/// The mistake for a list where a section belongs, and so on.
fn wrong_shape(node: &Node, expected: &str) -> Mistake {
    let hint = match &node.value {
        crate::node::Value::Null => "remove the line to use the default, or write a value",
        _ => "see docs/CONFIGURATION.md",
    };
    Mistake::new(format!("expected {expected}, found {}", node.found()), hint).at(node.at)
}

/// Shows a value that somebody wrote, short enough for a message and safe for a terminal.
fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push_str("...");
    }
    format!("`{shown}`")
}

#[cfg(test)]
mod tests;
