//! Takes a sidecar out of a manifest again, by what was noted when it was put in.
//!
//! What there was before cannot be told from a pod with its sidecar: a probe's port had a name, a command stood in the image. So a
//! manifest carries the way back, as a JSON Patch. Pods of a webhook do not: nobody keeps them.

use serde_json::Value;

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
    let back = Value::Array(diff(pod, before)).to_string();
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
    json_patch::patch(&mut before, &patch).map_err(|_| Refusal::Changed)?;
    // The way back goes by positions, where somebody else's may be by now.
    let others = |name: &&str| !ALL_CONTAINERS.contains(name) && !ALL_VOLUMES.contains(name);
    if !names(pod).filter(others).eq(names(&before)) {
        return Err(Refusal::Changed);
    }
    *pod = before;
    Ok(true)
}

fn names(pod: &Value) -> impl Iterator<Item = &str> {
    all_containers(pod).chain(list(pod, "volumes")).map(name_of)
}
