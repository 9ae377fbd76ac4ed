//! Writes into the status of policies what became of them.
//!
//! Every ingress writes what it found, once for each state of an object; it does not write again because another ingress
//! found something else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, Request, StatusCode, header};
use outrigger_telemetry::rfc3339;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use super::settle::{Settled, Standing};
use super::{COLLECTION, PolicyObject};
use crate::discovery::contact::{Contact, ContactError};
use crate::discovery::pause;
use crate::discovery::reflect::Key;

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of it: the whole object.
const MAX_ANSWER: usize = 4 << 20;

/// What the status of an object should say.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    generation: i64,
    /// Whether it is good; whether it is in force; why.
    said: [Condition; 2],
    /// What it says already.
    present: Vec<Value>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    name: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Wanted {
    /// For every object. `open`: policies are in force at all.
    pub(super) fn all(objects: &BTreeMap<Key, PolicyObject>, settled: &[Settled], open: bool) -> BTreeMap<Key, Wanted> {
        let one = |one: &Settled| {
            let object = objects.get(&one.key)?;
            let said = [accepted(one), programmed(one, open)];
            let (generation, present) = (object.generation, object.conditions.clone());
            Some((one.key.clone(), Wanted { generation, said, present }))
        };
        settled.iter().filter_map(one).collect()
    }

    /// The conditions; nothing if they are there already.
    fn conditions(&self, now: &str) -> Option<Value> {
        let mut news = self.present.len() != self.said.len();
        let condition = |said: &Condition| {
            let status = if said.holds { "True" } else { "False" };
            let known = self.present.iter().find(|known| known["type"] == said.name);
            let same_status = known.filter(|known| known["status"] == status);
            let since = same_status.and_then(|known| known["lastTransitionTime"].as_str()).unwrap_or(now);
            let wanted = json!({"type": said.name, "status": status, "reason": said.reason, "message": said.message,
                "observedGeneration": self.generation, "lastTransitionTime": since});
            news |= known != Some(&wanted);
            wanted
        };
        let all: Vec<_> = self.said.iter().map(condition).collect();
        news.then(|| json!({"status": {"conditions": all}}))
    }
}

fn accepted(one: &Settled) -> Condition {
    let (holds, reason, message) = match &one.mistake {
        None => (true, "Valid", "It can be used.".to_owned()),
        Some(mistake) => (false, "Invalid", mistake.clone()),
    };
    Condition { name: "Accepted", holds, reason, message }
}

fn programmed(one: &Settled, open: bool) -> Condition {
    let (holds, reason, message) = match one.standing {
        Standing::Current if open => (true, "InForce", "It is in force."),
        Standing::LastGood if open => (false, "LastGood", "What it said before it became wrong stays in force."),
        Standing::Out if open => (false, "NotInForce", "Nothing of it is in force."),
        Standing::Current | Standing::LastGood | Standing::Out => (
            false,
            "Waiting",
            "Everything is denied until policies that are wrong, and may deny something, are repaired.",
        ),
    };
    Condition { name: "Programmed", holds, reason, message: message.to_owned() }
}

/// Writes until the future is dropped.
pub(super) async fn write(contact: Arc<Contact>, mut wanted: watch::Receiver<BTreeMap<Key, Wanted>>) {
    let mut written: BTreeMap<Key, (i64, [Condition; 2])> = BTreeMap::new();
    let mut failures = 0_u32;
    loop {
        if failures == 0 && wanted.changed().await.is_err() {
            return;
        }
        let all = wanted.borrow_and_update().clone();
        written.retain(|key, _| all.contains_key(key));
        let mut failed = None;
        for (key, one) in all {
            let state = (one.generation, one.said.clone());
            if written.get(&key) == Some(&state) {
                continue;
            }
            match patch(&contact, &key, &one).await {
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
            tracing::warn!(namespace, name, %error, "the status of a SecurityPolicy cannot be written");
        }
        sleep(pause(failures)).await;
    }
}

async fn patch(contact: &Contact, (namespace, name): &Key, wanted: &Wanted) -> Result<(), ContactError> {
    let Some(patch) = wanted.conditions(&seconds(&rfc3339(SystemTime::now()))) else { return Ok(()) };
    let path = format!("/apis/mcpx.io/v1/namespaces/{namespace}/{COLLECTION}/{name}/status");
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
        let first = Wanted { generation: 1, said: said(None), present: Vec::new() };
        let patch = first.conditions("t1").unwrap();
        let present = patch["status"]["conditions"].as_array().unwrap().clone();
        assert_eq!(present[0]["lastTransitionTime"], "t1");
        let again = Wanted { present: present.clone(), ..first };
        assert_eq!(again.conditions("t2"), None);
        let wrong = Wanted { generation: 2, said: said(Some("x")), present };
        let patch = wrong.conditions("t2").unwrap();
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
