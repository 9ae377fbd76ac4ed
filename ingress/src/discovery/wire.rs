//! What an API server sends, read: pages of a list, events of a watch, and what every object says of itself. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// An object's namespace and name.
pub(super) type Key = (String, String);

/// What is kept of an object.
pub(super) trait Object: Send + 'static {
    /// Reads it; what is wrong with it is for it to keep.
    fn read(meta: Meta, object: &mut Value) -> Self;
}

/// What every object says of itself (`ObjectMeta`).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Meta {
    /// Its name.
    #[serde(default)]
    pub(super) name: String,
    /// Where it is.
    #[serde(default)]
    pub(super) namespace: String,
    /// Which of its states this is.
    #[serde(default)]
    resource_version: String,
    /// How often what is wanted of it changed.
    #[serde(default)]
    pub(super) generation: i64,
    /// When it was made.
    #[serde(default)]
    pub(super) creation_timestamp: String,
    /// For selectors.
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    /// For people and programs.
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
}

/// One page of a list.
pub(super) struct Page<T> {
    /// All that are in it.
    pub(super) objects: Vec<(Key, T)>,
    /// From where to watch, once there are no more.
    pub(super) version: Option<String>,
    /// Where the next page begins.
    pub(super) more: Option<String>,
}

/// One event of a watch.
#[derive(Debug)]
pub(super) enum Event<T> {
    /// There is a new one, or another state of one.
    Kept(Key, String, T),
    /// One is gone.
    Deleted(Key, String),
    /// Nothing happened until this version.
    Bookmark(String),
    /// It cannot be gone on from here.
    Relist(String),
}

#[derive(Deserialize)]
struct RawPage {
    metadata: PageMeta,
    // Absent and null both mean none.
    items: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMeta {
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    more: Option<String>,
}

#[derive(Deserialize)]
struct RawEvent {
    #[serde(rename = "type")]
    kind: String,
    object: Value,
}

/// Reads a page.
///
/// # Errors
/// It is none, or has an object that cannot be read. Passed over, that would be gone: a replica that nobody calls any more, a
/// policy that denies nothing any more.
pub(super) fn page<T: Object>(body: &[u8]) -> Result<Page<T>, String> {
    let raw: RawPage = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    let mut objects = Vec::new();
    for mut item in raw.items.unwrap_or_default() {
        let read = read::<T>(&mut item).filter(|((_, name), ..)| !name.is_empty());
        let (key, _, object) = read.ok_or_else(|| "a list with an object that has no metadata".to_owned())?;
        objects.push((key, object));
    }
    Ok(Page { objects, version: some(raw.metadata.resource_version), more: some(raw.metadata.more) })
}

/// Reads a line of a watch.
pub(super) fn event<T: Object>(line: &[u8]) -> Event<T> {
    let Ok(mut event) = serde_json::from_slice::<RawEvent>(line) else {
        return Event::Relist("an event that cannot be read".to_owned());
    };
    if event.kind == "ERROR" {
        // A `Status`, mostly with code 410: nothing else is promised to be repairable either.
        return Event::Relist(event.object["message"].as_str().unwrap_or("an error").to_owned());
    }
    let Some((key, version, object)) = read::<T>(&mut event.object) else {
        return Event::Relist("an event without an object".to_owned());
    };
    match event.kind.as_str() {
        "BOOKMARK" => Event::Bookmark(version),
        "DELETED" => Event::Deleted(key, version),
        "ADDED" | "MODIFIED" => Event::Kept(key, version, object),
        other => Event::Relist(format!("an event of type {other:?}")),
    }
}

/// An object with its key and its version; nothing if it has none.
fn read<T: Object>(object: &mut Value) -> Option<(Key, String, T)> {
    let meta: Meta = serde_json::from_value(object.get_mut("metadata")?.take()).ok()?;
    let (key, version) = ((meta.namespace.clone(), meta.name.clone()), meta.resource_version.clone());
    (!version.is_empty()).then(|| (key, version, T::read(meta, object)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Any;

    impl Object for Any {
        fn read(_: Meta, _: &mut Value) -> Self {
            Self
        }
    }

    fn listed(items: &Value) -> Result<usize, String> {
        let body = json!({"metadata": {"resourceVersion": "7"}, "items": items}).to_string();
        page::<Any>(body.as_bytes()).map(|page| page.objects.len())
    }

    #[test]
    fn a_list_is_read_whole_or_not_at_all() {
        let good = json!({"metadata": {"name": "a", "namespace": "tools", "resourceVersion": "1"}, "spec": {}});
        assert_eq!(listed(&json!([good])), Ok(1));
        assert_eq!(listed(&Value::Null), Ok(0));
        for bad in [
            json!({"spec": {}}),
            json!(null),
            json!("text"),
            json!({"metadata": null}),
            json!({"metadata": {"name": "b"}}),
            json!({"metadata": {"resourceVersion": "1"}}),
            json!({"metadata": {"name": 1, "resourceVersion": "1"}}),
        ] {
            assert!(listed(&json!([good, bad])).is_err(), "{bad} was passed over");
        }
    }
}
