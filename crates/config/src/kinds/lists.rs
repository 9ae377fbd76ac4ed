//! Lists and maps of simple values. In the environment both are separated by commas.

use std::rc::Rc;

use serde_json::json;

use super::{Kind, Mistake, wrong_shape};
use crate::node::Node;

/// A list of values of one kind; in the environment `a, b, c`.
pub fn list_of<T: 'static>(kind: Kind<T>) -> Kind<Vec<T>> {
    let (text_item, node_item, show) = (kind.from_text, kind.from_node, kind.show);
    let name = format!("list of {}", kind.name);
    let expected = name.clone();
    let from_node = move |node: &Node| {
        let Some(items) = node.items() else {
            let hint = "write [a, b], or one `- item` per line";
            return Err(vec![Mistake { hint: hint.to_owned(), ..wrong_shape(node, &expected) }]);
        };
        all(items.iter().map(|item| node_item(item)))
    };
    Kind {
        name,
        schema: json!({"type": "array", "items": kind.schema}),
        is_secret: kind.is_secret,
        from_text: Rc::new(move |text| parts(text).map(|part| text_item(part)).collect()),
        from_node: Rc::new(from_node),
        show: Rc::new(move |items: &Vec<T>| items.iter().map(|item| show(item)).collect::<Vec<_>>().join(", ")),
    }
}

/// A map from names that satisfy `key` to values of one kind; in the environment `NAME=value, OTHER=value`.
pub fn map_of<T: 'static>(key: Kind<String>, kind: Kind<T>) -> Kind<Vec<(String, T)>> {
    let (text_value, node_value, show) = (kind.from_text, kind.from_node, kind.show);
    let name = format!("map of {} to {}", key.name, kind.name);
    let expected = name.clone();
    let (text_key, node_key, key_schema) = (key.from_text.clone(), key.from_text, key.schema);
    let from_node = move |node: &Node| {
        let Some(entries) = node.entries() else {
            return Err(vec![wrong_shape(node, &expected)]);
        };
        all(entries.iter().map(|entry| {
            let name = node_key(&entry.key).map_err(|mistake| vec![mistake.at(entry.at)])?;
            Ok((name, node_value(&entry.value)?))
        }))
    };
    let from_text = move |text: &str| {
        let pair = |part: &str| {
            let no_equals = || Mistake::new("a part without `=`", "write NAME=value, OTHER=value");
            let (name, value) = part.split_once('=').ok_or_else(no_equals)?;
            Ok((text_key(name.trim())?, text_value(value.trim())?))
        };
        parts(text).map(pair).collect()
    };
    Kind {
        name,
        schema: json!({"type": "object", "propertyNames": key_schema, "additionalProperties": kind.schema}),
        is_secret: kind.is_secret,
        from_text: Rc::new(from_text),
        from_node: Rc::new(from_node),
        show: Rc::new(move |entries: &Vec<(String, T)>| {
            entries.iter().map(|(name, value)| format!("{name}={}", show(value))).collect::<Vec<_>>().join(", ")
        }),
    }
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// Every value, or every mistake.
fn all<T>(results: impl Iterator<Item = Result<T, Vec<Mistake>>>) -> Result<Vec<T>, Vec<Mistake>> {
    let (mut values, mut mistakes) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(value) => values.push(value),
            Err(more) => mistakes.extend(more),
        }
    }
    if mistakes.is_empty() { Ok(values) } else { Err(mistakes) }
}
