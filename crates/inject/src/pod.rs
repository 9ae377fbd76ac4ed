//! Reading pods, which are JSON of any shape until the API server has looked at them.

use serde_json::Value;

/// The items of a list; none of anything else.
pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A list of the pod's `spec`.
pub(crate) fn list<'a>(pod: &'a Value, name: &str) -> &'a [Value] {
    items(&pod["spec"][name])
}

/// The name of a container, a volume, a port.
pub(crate) fn name_of(value: &Value) -> &str {
    value["name"].as_str().unwrap_or_default()
}

/// All containers: those that run first, those that stay, and those of people who debug.
pub(crate) fn all_containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|name| list(pod, name))
}

/// A member that is an object; it is made if it is not there.
pub(crate) fn object<'a>(value: &'a mut Value, name: &str) -> Option<&'a mut serde_json::Map<String, Value>> {
    let member = value.as_object_mut()?.entry(name).or_insert_with(|| Value::Object(serde_json::Map::new()));
    if member.is_null() {
        *member = Value::Object(serde_json::Map::new());
    }
    member.as_object_mut()
}

/// A member that is a list; it is made if it is not there.
pub(crate) fn array<'a>(value: &'a mut Value, name: &str) -> Option<&'a mut Vec<Value>> {
    let member = value.as_object_mut()?.entry(name).or_insert_with(|| Value::Array(Vec::new()));
    if member.is_null() {
        *member = Value::Array(Vec::new());
    }
    member.as_array_mut()
}
