//! Takes a sidecar out of a manifest again, by what was noted when it was put in.
//!
//! What there was before cannot be told from a pod with its sidecar: a probe's port had a name, a command stood in the image. So a
//! manifest carries the way back, as a JSON Patch. Pods of a webhook do not: nobody keeps them.
//!
//! The patch goes by positions in lists, where somebody else's may be by the time that it is used. So it tests what it is about
//! to change, and is refused as a whole where it finds something else.

use serde_json::{Value, json};

use crate::annotations::BEFORE;
use crate::names::{ALL_CONTAINERS, ALL_VOLUMES};
use crate::patch::diff;
use crate::pod::{all_containers, list, name_of, object};
use crate::refusal::Refusal;

/// Notes in an injected pod what it was before.
pub(crate) fn note(pod: &mut Value, before: &Value) {
    // As it will be found when this note is taken away.
    if let Some(annotations) = object(&mut pod["metadata"], "annotations") {
        annotations.remove(BEFORE);
    }
    let Some(back) = careful(pod.clone(), diff(pod, before)) else { return };
    let back = Value::Array(back).to_string();
    if let Some(annotations) = object(&mut pod["metadata"], "annotations") {
        annotations.insert(BEFORE.to_owned(), back.into());
    }
}

/// Takes away what was added. Says whether there was anything.
///
/// # Errors
/// Nothing was noted, or it is not so any more; the pod stays as it is.
pub(crate) fn uninject(pod: &mut Value) -> Result<bool, Refusal> {
    if !crate::is_injected(pod) {
        return Ok(false);
    }
    let noted = pod["metadata"]["annotations"][BEFORE].as_str();
    let patch: json_patch::Patch = noted.and_then(|text| serde_json::from_str(text).ok()).ok_or(Refusal::NotNoted)?;
    let mut before = pod.clone();
    if let Some(annotations) = object(&mut before["metadata"], "annotations") {
        annotations.remove(BEFORE);
    }
    json_patch::patch(&mut before, &patch).map_err(|error| Refusal::Changed(error.path.to_string()))?;
    // Nobody else's may be gone.
    let others = |name: &&str| !ALL_CONTAINERS.contains(name) && !ALL_VOLUMES.contains(name);
    if !names(pod).filter(others).eq(names(&before)) {
        return Err(Refusal::Changed("/spec".to_owned()));
    }
    *pod = before;
    Ok(true)
}

/// The operations with tests before them, which hold for `pod` and for nothing that was moved about since.
fn careful(mut pod: Value, operations: Vec<Value>) -> Option<Vec<Value>> {
    let mut out = Vec::new();
    for operation in operations {
        for operation in one_by_one(&pod, operation) {
            out.extend(tests(&pod, &operation));
            let patch: json_patch::Patch = serde_json::from_value(json!([operation])).ok()?;
            json_patch::patch(&mut pod, &patch).ok()?;
            out.push(operation);
        }
    }
    Some(out)
}

/// A list that is removed is emptied first: what somebody added to it since must not go with it.
fn one_by_one(pod: &Value, operation: Value) -> Vec<Value> {
    let path = operation["path"].as_str().unwrap_or_default();
    let list = pod.pointer(path).and_then(Value::as_array).filter(|_| operation["op"] == "remove");
    let count = list.map_or(0, Vec::len);
    let mut out: Vec<_> =
        (0..count).rev().map(|index| json!({"op": "remove", "path": format!("{path}/{index}")})).collect();
    out.push(operation);
    out
}

/// That everything in a list on the way of an operation is still the same, and so is what it takes away.
fn tests(pod: &Value, operation: &Value) -> Vec<Value> {
    let path = operation["path"].as_str().unwrap_or_default();
    let ends = path.match_indices('/').skip(1).map(|(at, _)| at).chain([path.len()]);
    let (mut out, mut parent) = (Vec::new(), Some(pod));
    for at in ends.filter_map(|end| path.get(..end)) {
        let value = pod.pointer(at);
        let last = at.len() == path.len() && operation["op"] != "add";
        match (parent, value) {
            (Some(Value::Array(_)), Some(value)) => out.extend(same(at, value)),
            (_, Some(value)) if last => out.push(test(at, value)),
            _ => {}
        }
        parent = value;
    }
    out
}

/// That something in a list is the same one, even if the API server has filled in what it did not say.
fn same(path: &str, value: &Value) -> Vec<Value> {
    let keys = ["name", "mountPath", "containerPort"].into_iter();
    let known: Vec<_> = keys.filter_map(|key| Some(test(&format!("{path}/{key}"), value.get(key)?))).collect();
    if known.is_empty() { vec![test(path, value)] } else { known }
}

fn test(path: &str, value: &Value) -> Value {
    json!({"op": "test", "path": path, "value": value})
}

fn names(pod: &Value) -> impl Iterator<Item = &str> {
    all_containers(pod).chain(list(pod, "volumes")).map(name_of)
}
