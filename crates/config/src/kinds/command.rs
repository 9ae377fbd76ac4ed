//! Commands: a list in a file, shell-like words in the environment. No shell ever sees them.

use serde_json::json;

use super::{Kind, Mistake, wrong_shape};
use crate::node::Node;

/// A program and its arguments, at least the program.
pub fn command() -> Kind<Vec<String>> {
    let schema = json!({"type": "array", "items": {"type": ["string", "number", "boolean"]}, "minItems": 1});
    Kind {
        name: "command".to_owned(),
        schema,
        is_secret: false,
        from_text: std::rc::Rc::new(|text| split_words(text).and_then(with_program)),
        from_node: std::rc::Rc::new(from_node),
        show: std::rc::Rc::new(|words: &Vec<String>| words.join(" ")),
    }
}

fn from_node(node: &Node) -> Result<Vec<String>, Vec<Mistake>> {
    let hint = "a list, the program first: [\"npx\", \"-y\", \"a-server\"]";
    let Some(items) = node.items() else {
        return Err(vec![Mistake { hint: hint.to_owned(), ..wrong_shape(node, "a command as a list") }]);
    };
    let mut words = Vec::with_capacity(items.len());
    let mut mistakes = Vec::new();
    for item in items {
        match item.text() {
            Some(text) if !text.contains('\0') => words.push(text.to_owned()),
            Some(_) => mistakes.push(Mistake::new("a zero byte in an argument", hint).at(item.at)),
            None => mistakes.push(Mistake { hint: hint.to_owned(), ..wrong_shape(item, "a word") }),
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    with_program(words).map_err(|mistake| vec![mistake.at(node.at)])
}

fn with_program(words: Vec<String>) -> Result<Vec<String>, Mistake> {
    match words.first() {
        Some(program) if !program.is_empty() => Ok(words),
        _ => Err(Mistake::new("the command has no program", "name the program first")),
    }
}

/// Splits a line into words: spaces separate, `'...'` is literal, `"..."` may hold `\"` and `\\`, a backslash takes the next
/// character as it is. Variables, globs and pipes mean nothing here.
///
/// # Errors
/// A quote that is not closed, a backslash at the end, a zero byte.
pub fn split_words(line: &str) -> Result<Vec<String>, Mistake> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = line.chars();
    let unfinished =
        |what: &str| Mistake::new(format!("{what} is not finished"), "close every quote: npx -y 'a server'");
    while let Some(character) = characters.next() {
        match character {
            '\0' => return Err(Mistake::new("a zero byte in the command", "remove it")),
            space if space.is_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next().ok_or_else(|| unfinished("a ' quote"))? {
                        '\'' => break,
                        other => word.push(other),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next().ok_or_else(|| unfinished("a \" quote"))? {
                        '"' => break,
                        '\\' => match characters.next().ok_or_else(|| unfinished("a \" quote"))? {
                            escaped @ ('"' | '\\' | '$' | '`') => word.push(escaped),
                            other => word.extend(['\\', other]),
                        },
                        other => word.push(other),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(characters.next().ok_or_else(|| unfinished("a backslash"))?),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}
