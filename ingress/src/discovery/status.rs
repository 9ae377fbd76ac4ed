//! Writes into the status of our objects in a cluster what became of them.
//!
//! Every ingress writes what it found, once for each state of an object; it does not write again because another ingress
//! found something else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, Request, StatusCode, header};
use outrigger_telemetry::rfc3339;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use super::contact::{Contact, ContactError};
use super::pause;
use super::wire::Key;

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of it: the whole object.
const MAX_ANSWER: usize = 4 << 20;

/// What the status of an object should say.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    /// Of which of its texts this is said.
    pub(super) generation: i64,
    /// Whether it is good; whether it has come to something; why.
    pub(super) said: [Condition; 2],
    /// Further fields, for people who list objects.
    pub(super) more: Map<String, Value>,
    /// What the status says already.
    pub(super) present: Value,
}

/// A condition (`metav1.Condition`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    /// Its type.
    pub(super) name: &'static str,
    /// Its status.
    pub(super) holds: bool,
    /// For programs.
    pub(super) reason: &'static str,
    /// For people.
    pub(super) message: String,
}

/// What was written of an object last.
type Written = (i64, [Condition; 2], Map<String, Value>);

impl Wanted {
    /// The patch; nothing if all of it is there already. `stale`: something else was written since, which our copy of the object
    /// may not have seen yet.
    fn patch(&self, now: &str, stale: bool) -> Option<Value> {
        let conditions = self.present["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut news = stale || conditions.len() != self.said.len();
        let condition = |said: &Condition| {
            let status = if said.holds { "True" } else { "False" };
            let known = conditions.iter().find(|known| known["type"] == said.name);
            let same_status = known.filter(|known| known["status"] == status);
            let since = same_status.and_then(|known| known["lastTransitionTime"].as_str()).unwrap_or(now);
            let wanted = json!({"type": said.name, "status": status, "reason": said.reason, "message": said.message,
                "observedGeneration": self.generation, "lastTransitionTime": since});
            news |= known != Some(&wanted);
            wanted
        };
        let all: Vec<_> = self.said.iter().map(condition).collect();
        news |= self.more.iter().any(|(name, value)| self.present.get(name) != Some(value));
        let mut status = self.more.clone();
        status.insert("conditions".to_owned(), all.into());
        news.then(|| json!({ "status": status }))
    }
}

/// Writes the status of objects of a collection until the future is dropped.
pub(super) async fn write(
    contact: Arc<Contact>,
    collection: &'static str,
    mut wanted: watch::Receiver<BTreeMap<Key, Wanted>>,
) {
    let mut written: BTreeMap<Key, Written> = BTreeMap::new();
    let mut failures = 0_u32;
    loop {
        if failures == 0 && wanted.changed().await.is_err() {
            return;
        }
        let all = wanted.borrow_and_update().clone();
        written.retain(|key, _| all.contains_key(key));
        let mut failed = None;
        for (key, one) in all {
            let state = (one.generation, one.said.clone(), one.more.clone());
            let before = written.get(&key);
            if before == Some(&state) {
                continue;
            }
            match send(&contact, collection, &key, &one, before.is_some()).await {
                // Gone, or changed meanwhile: the watch tells.
                Ok(()) | Err(ContactError::Status { status: StatusCode::NOT_FOUND | StatusCode::CONFLICT, .. }) => {
                    written.insert(key, state);
                }
                Err(error) => failed = Some((key, error)),
            }
        }
        let Some(((namespace, name), error)) = failed else {
            failures = 0;
            continue;
        };
        failures = failures.saturating_add(1);
        if failures == 1 {
            tracing::warn!(collection, namespace, name, %error, "the status of an object cannot be written");
        }
        sleep(pause(failures)).await;
    }
}

async fn send(
    contact: &Contact,
    collection: &str,
    (namespace, name): &Key,
    wanted: &Wanted,
    stale: bool,
) -> Result<(), ContactError> {
    let Some(patch) = wanted.patch(&seconds(&rfc3339(SystemTime::now())), stale) else { return Ok(()) };
    let path = format!("/apis/mcpx.io/v1/namespaces/{namespace}/{collection}/{name}/status");
    let request = Request::builder().method(Method::PATCH).uri(path);
    let request = request.header(header::CONTENT_TYPE, "application/merge-patch+json");
    let answer = contact.ask(request, patch.to_string().into(), PATIENCE).await?;
    answer.whole(MAX_ANSWER, PATIENCE).await.map(drop)
}

/// Times in conditions have whole seconds (`metav1.Time`).
fn seconds(time: &str) -> String {
    time.split_once('.').map_or_else(|| time.to_owned(), |(whole, _)| format!("{whole}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_written_once_and_remembers_since_when() {
        let said = |mistake: Option<&str>| {
            [
                Condition {
                    name: "Accepted",
                    holds: mistake.is_none(),
                    reason: "R",
                    message: mistake.unwrap_or("").to_owned(),
                },
                Condition { name: "Programmed", holds: true, reason: "R", message: String::new() },
            ]
        };
        let more = |replicas: u64| Map::from_iter([("replicas".to_owned(), json!(replicas))]);
        let first = Wanted { generation: 1, said: said(None), more: more(1), present: Value::Null };
        let present = first.patch("t1", false).unwrap()["status"].clone();
        assert_eq!((&present["conditions"][0]["lastTransitionTime"], &present["replicas"]), (&json!("t1"), &json!(1)));
        let again = Wanted { present: present.clone(), ..first };
        assert_eq!(again.patch("t2", false), None);
        // It came back to that before the copy of the object knew of what was between.
        assert_eq!(again.patch("t2", true).unwrap()["status"], present);
        let grown = Wanted { more: more(2), ..again };
        assert_eq!(grown.patch("t2", false).unwrap()["status"]["replicas"], 2);
        let wrong = Wanted { generation: 2, said: said(Some("x")), more: more(1), present };
        let patch = wrong.patch("t2", false).unwrap();
        let now = &patch["status"]["conditions"];
        assert_eq!((&now[0]["status"], &now[0]["lastTransitionTime"]), (&json!("False"), &json!("t2")));
        assert_eq!((&now[1]["observedGeneration"], &now[1]["lastTransitionTime"]), (&json!(2), &json!("t1")));
    }

    #[test]
    fn times_have_whole_seconds() {
        assert_eq!(seconds("2026-11-21T10:00:00.123Z"), "2026-11-21T10:00:00Z");
        assert_eq!(seconds("2026-11-21T10:00:00Z"), "2026-11-21T10:00:00Z");
    }
}
