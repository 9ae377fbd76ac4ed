//! The objects that hold pods: where in each the pod is.

use serde_json::Value;

use crate::annotations::Namespace;
use crate::refusal::Refusal;
use crate::settings::Settings;
use crate::{Verdict, inject, undo};

/// Lists in lists are not followed further.
const MAX_DEPTH: usize = 4;

/// What became of one pod of an object.
#[derive(Debug)]
pub struct Outcome<T = Verdict> {
    /// What people call the object: `deployment/fs`.
    pub name: String,
    /// What came of it.
    pub verdict: Result<T, Refusal>,
}

/// Gives the pods of an object their sidecars, in place. `namespace` says what is known of a namespace by its name, which is
/// empty where an object names none. Nothing comes of objects that hold no pods.
pub fn inject_object<'n>(
    object: &mut Value,
    namespace: &impl Fn(&str) -> &'n Namespace,
    all: bool,
    settings: &Settings,
) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    descend(object, MAX_DEPTH, &mut outcomes, &|pod, of| {
        let verdict = inject(pod, namespace(of), all, settings);
        if let Ok(Verdict::Injected(injection)) = &verdict {
            let before = std::mem::replace(pod, injection.pod.clone());
            undo::note(pod, &before);
        }
        verdict
    });
    outcomes
}

/// Takes the sidecars out of the pods of an object again, in place; says of each pod whether it had one. What [`inject_object`] made
/// is what it was before, and what has no sidecar stays as it is.
pub fn uninject_object(object: &mut Value) -> Vec<Outcome<bool>> {
    let mut outcomes = Vec::new();
    descend(object, MAX_DEPTH, &mut outcomes, &|pod, _| undo::uninject(pod));
    outcomes
}

/// Goes through the pods of an object; `change` is told each pod's namespace.
fn descend<T>(
    object: &mut Value,
    depth: usize,
    outcomes: &mut Vec<Outcome<T>>,
    change: &impl Fn(&mut Value, &str) -> Result<T, Refusal>,
) {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    if kind == "List" && depth > 0 {
        for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
            descend(item, depth - 1, outcomes, change);
        }
        return;
    }
    let Some(path) = template(&kind) else { return };
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().or_else(|| metadata["generateName"].as_str()).unwrap_or_default();
    let name = format!("{}/{name}", kind.to_lowercase());
    let namespace = metadata["namespace"].as_str().unwrap_or_default().to_owned();
    let Some(pod) = object.pointer_mut(path) else {
        let verdict = Err(Refusal::NotAPod("it has no `template`"));
        return outcomes.push(Outcome { name, verdict });
    };
    outcomes.push(Outcome { name, verdict: change(pod, &namespace) });
}

/// The kinds of objects that hold pods.
pub const HOLDERS: [&str; 8] =
    ["Pod", "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job", "CronJob"];

/// Where the pod of an object is (RFC 6901); none for objects without.
fn template(kind: &str) -> Option<&'static str> {
    match kind {
        "Pod" => Some(""),
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        other => HOLDERS.contains(&other).then_some("/spec/template"),
    }
}
