//! The difference of two values as a JSON Patch (RFC 6902). Lists are compared from both ends, so that what was put in front
//! does not rewrite everything behind it: people read these patches in the audit of their API server.

use serde_json::{Value, json};

/// The operations that make `before` into `after`.
pub fn diff(before: &Value, after: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    values(&mut operations, "", before, after);
    operations
}

fn values(out: &mut Vec<Value>, path: &str, before: &Value, after: &Value) {
    if before == after {
        return;
    }
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            for name in old.keys().filter(|name| !new.contains_key(*name)) {
                out.push(json!({"op": "remove", "path": below(path, name)}));
            }
            for (name, value) in new {
                let path = below(path, name);
                match old.get(name) {
                    Some(old) => values(out, &path, old, value),
                    None => out.push(json!({"op": "add", "path": path, "value": value})),
                }
            }
        }
        (Value::Array(old), Value::Array(new)) => lists(out, path, old, new),
        _ => out.push(json!({"op": "replace", "path": path, "value": after})),
    }
}

fn lists(out: &mut Vec<Value>, path: &str, old: &[Value], new: &[Value]) {
    let same_name =
        |(old, new): &(&Value, &Value)| old == new || named(old).is_some_and(|name| named(new) == Some(name));
    let front = old.iter().zip(new).take_while(same_name).count();
    let most = old.len().min(new.len()) - front;
    let back = old.iter().rev().zip(new.iter().rev()).take(most).take_while(same_name).count();
    for (index, (old, new)) in old.iter().zip(new).enumerate().take(front) {
        values(out, &format!("{path}/{index}"), old, new);
    }
    let (old_middle, new_middle) = (front..old.len() - back, front..new.len() - back);
    let both = old_middle.len().min(new_middle.len());
    for index in front..front + both {
        if let (Some(old), Some(new)) = (old.get(index), new.get(index)) {
            values(out, &format!("{path}/{index}"), old, new);
        }
    }
    for index in (front + both..old_middle.end).rev() {
        out.push(json!({"op": "remove", "path": format!("{path}/{index}")}));
    }
    for index in front + both..new_middle.end {
        out.push(json!({"op": "add", "path": format!("{path}/{index}"), "value": new.get(index)}));
    }
    let tail = old.iter().rev().zip(new.iter().rev()).take(back);
    for (distance, (old, new)) in tail.enumerate() {
        values(out, &format!("{path}/{}", new_middle.end + back - 1 - distance), old, new);
    }
}

/// The name of a container, a volume, a variable: the same one, whatever else has changed in it.
fn named(value: &Value) -> Option<&str> {
    value.get("name")?.as_str()
}

/// RFC 6901.
fn below(path: &str, name: &str) -> String {
    format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"))
}
