//! Policies that are objects of a cluster (`SecurityPolicy`), beside those in files.
//!
//! An object that is wrong harms nobody else: what it said last and was good stays in force. One of which nothing good is known is
//! left out if it could only have allowed something. If it could have denied or limited something, an ingress that has just
//! started denies everything until it is repaired, as it does not start with a file that is wrong.

mod settle;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use outrigger_runtime::Readiness;
use outrigger_telemetry::metrics::{DiscoveryMetrics, ReloadKind, ReloadOutcome};
use serde_json::{Map, Value, json};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::settle::{Candidate, Settled, Standing, settle};
use super::contact::Contact;
use super::reflect::{Reflector, Shelf};
use super::status::{self, Condition, Wanted};
use super::wire::{Key, Meta, Object};
use super::{AGAIN, GATHER, Told, kubernetes};
use crate::config::Kubernetes;
use crate::gateway::Gateway;

/// What blocks readiness.
const READY: &str = "policies";
/// The collection, in a namespace.
const COLLECTION: &str = "securitypolicies";

/// Namespaces whose policies count.
pub(super) struct Policies {
    contact: Arc<Contact>,
    namespaces: Vec<String>,
    most: usize,
    readiness: Readiness,
}

/// What counts of the objects: when each was made, and what it says.
type Said = BTreeMap<Key, (String, String)>;

/// One object.
#[derive(Debug, Clone)]
pub(super) struct PolicyObject {
    /// Which of its texts this is.
    generation: i64,
    /// The oldest of two with one name counts.
    created: String,
    /// The document.
    text: String,
    /// Whether it could only allow something.
    grants: bool,
    /// What its status says now.
    status: Value,
}

/// Why nothing changes.
struct Waiting {
    why: String,
    /// What would become of each object, where that is known.
    settled: Option<Vec<Settled>>,
}

impl Object for PolicyObject {
    fn read(meta: Meta, object: &mut Value) -> Self {
        let spec = object.get_mut("spec").map(Value::take).unwrap_or_default();
        let document = json!({"apiVersion": "mcpx.io/v1", "kind": "SecurityPolicy", "metadata": {"name": meta.name}, "spec": spec});
        Self {
            generation: meta.generation,
            created: meta.creation_timestamp,
            grants: only_grants(&document["spec"]),
            text: format!("{document:#}"),
            status: object.get_mut("status").map(Value::take).unwrap_or_default(),
        }
    }
}

/// Whether leaving a policy out could allow nothing: all that it has are rules that allow, without limits and approval.
fn only_grants(spec: &Value) -> bool {
    let only = |object: &Value, keys: &[&str]| {
        object.as_object().is_some_and(|members| members.keys().all(|key| keys.contains(&key.as_str())))
    };
    let grants = |rule: &Value| {
        only(rule, &["name", "effect", "services", "capabilities", "kinds", "requires", "when", "audit"])
            && rule.get("effect").is_none_or(|effect| effect == "allow")
    };
    let authorization = &spec["authorization"];
    only(spec, &["mode", "authorization"])
        && (authorization.is_null()
            || only(authorization, &["rules"])
                && authorization["rules"].as_array().is_some_and(|rules| rules.iter().all(grants)))
}

impl Policies {
    /// Asks nothing yet, and is not ready.
    pub(super) fn new(settings: &Kubernetes, readiness: &Readiness) -> Self {
        readiness.set(READY, Err("policies have not been read yet".to_owned()));
        Self {
            contact: Arc::new(kubernetes::contact(settings)),
            namespaces: settings.policy_namespaces.clone(),
            most: settings.max_objects,
            readiness: readiness.clone(),
        }
    }

    /// Keeps the policy as the objects are, until the future is dropped.
    pub(super) async fn run(self, gateway: Arc<Gateway>, metrics: DiscoveryMetrics) {
        let changed = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        let shelves: Vec<_> =
            self.namespaces.iter().map(|name| self.copy(name, &changed, &metrics, &mut tasks)).collect();
        let statuses = watch::Sender::new(BTreeMap::new());
        tasks.spawn(status::write(Arc::clone(&self.contact), COLLECTION, statuses.subscribe()));
        let (mut good, mut open) = (BTreeMap::new(), false);
        // Nothing as long as it has to be settled, even if no object changes.
        let mut last: Option<(Said, Vec<Settled>)> = None;
        let mut pending = false;
        let mut files = gateway.policies.reloaded();
        let mut told = Told::new("discovery.kubernetes.policy_namespaces");
        loop {
            tokio::select! {
                () = changed.notified() => {}
                // What was wrong with them, or with objects beside them, may be repaired.
                Ok(()) = files.changed() => last = None,
                () = sleep(AGAIN), if pending => {}
            }
            sleep(GATHER).await;
            if !self.listed(&shelves) {
                continue;
            }
            if shelves.iter().any(|shelf| shelf.look().left_out > 0) {
                last = None;
                metrics.found(good.len(), 1);
                told.tell(BTreeSet::from([self.too_many(open)]));
                continue;
            }
            let objects: BTreeMap<Key, PolicyObject> =
                shelves.iter().flat_map(|shelf| shelf.look().objects.clone()).collect();
            let said = said(&objects);
            if let Some((_, settled)) = last.as_ref().filter(|(before, _)| *before == said) {
                statuses.send_replace(wanted(&objects, settled, open));
                continue;
            }
            (last, pending) = (None, true);
            let settled = match settle_beside(&gateway, &objects, &good).await {
                Ok(settled) => settled,
                Err(Waiting { why, settled }) => {
                    metrics.found(good.len(), 1);
                    let news = settled.map(|settled| waiting(&objects, &settled, &good, &why));
                    news.into_iter().for_each(|news| drop(statuses.send_replace(news)));
                    told.tell(BTreeSet::from([why]));
                    continue;
                }
            };
            let in_force = settled.iter().filter(|one| one.standing != Standing::Out).count();
            let wrong = mistakes(&settled);
            metrics.found(in_force, wrong.len());
            told.tell(wrong);
            if let Some(why) = shut(&settled, &objects).filter(|_| !open) {
                let why = format!("{why}, and may deny something: everything is denied until it is repaired");
                self.readiness.set(READY, Err(why));
                statuses.send_replace(wanted(&objects, &settled, false));
                (last, pending) = (Some((said, settled)), false);
                continue;
            }
            let texts: Vec<_> = settled.iter().filter_map(Settled::text).collect();
            let applied = {
                let gateway = Arc::clone(&gateway);
                tokio::task::spawn_blocking(move || gateway.policies.set(&gateway, texts)).await
            };
            match applied {
                Ok(Ok(rules)) => {
                    tracing::info!(rules, policies = in_force, "policies of the cluster are in force");
                    gateway.metrics.reload(ReloadKind::Policy, ReloadOutcome::Applied);
                    good = settled.iter().filter_map(|one| Some((one.key.clone(), one.text()?.1))).collect();
                    open = true;
                    self.readiness.set(READY, Ok(()));
                    statuses.send_replace(wanted(&objects, &settled, true));
                    (last, pending) = (Some((said, settled)), false);
                }
                Ok(Err(error)) => {
                    tracing::error!(%error, "policies of the cluster cannot be put in force");
                    gateway.metrics.reload(ReloadKind::Policy, ReloadOutcome::Failed);
                }
                Err(_) => {}
            }
        }
    }

    /// Whether all of them have been read once; readiness says what is in the way.
    fn listed(&self, shelves: &[Arc<Shelf<PolicyObject>>]) -> bool {
        let all = shelves.iter().all(|shelf| shelf.look().listed);
        let trouble = shelves.iter().find_map(|shelf| shelf.look().trouble.clone());
        if let Some(why) = trouble.filter(|_| !all) {
            self.readiness.set(READY, Err(format!("policies have not been read yet: {why}")));
        }
        all
    }

    /// Those that there was no room for may deny something: nothing is put in force without them.
    fn too_many(&self, open: bool) -> String {
        let most = self.most;
        let why = format!(
            "a namespace has more than {most} SecurityPolicy objects, which `discovery.kubernetes.max_objects` does not allow"
        );
        if !open {
            self.readiness.set(READY, Err(format!("{why}: everything is denied until there are fewer")));
        }
        format!("{why}: nothing changes until there are fewer")
    }

    fn copy(
        &self,
        namespace: &str,
        changed: &Arc<Notify>,
        metrics: &DiscoveryMetrics,
        tasks: &mut JoinSet<()>,
    ) -> Arc<Shelf<PolicyObject>> {
        let shelf = Shelf::new(Arc::clone(changed));
        let reflector = Reflector {
            contact: Arc::clone(&self.contact),
            path: format!("/apis/mcpx.io/v1/namespaces/{namespace}/{COLLECTION}"),
            selector: None,
            most: self.most,
            // Without them nothing may be in force.
            optional: false,
            shelf: Arc::clone(&shelf),
            metrics: metrics.clone(),
        };
        tasks.spawn(reflector.run());
        shelf
    }
}

/// Beside the files as they are now; says why nothing changes until they are repaired, of which their own reload tells, too.
async fn settle_beside(
    gateway: &Gateway,
    objects: &BTreeMap<Key, PolicyObject>,
    good: &BTreeMap<Key, String>,
) -> Result<Vec<Settled>, Waiting> {
    let (paths, candidates) = (gateway.policies.paths.clone(), candidates(objects, good));
    // Compiling conditions takes its time.
    let settled = tokio::task::spawn_blocking(move || settle(&paths, candidates)).await;
    let because = |why: String| Waiting { why, settled: None };
    let settled = settled.map_err(|error| because(format!("policies of the cluster cannot be read: {error}")))?;
    let settled = settled
        .map_err(|error| because(format!("the policy files are wrong, so policies of the cluster wait: {error}")))?;
    match displaced(&settled, good) {
        Some(why) => Err(Waiting { why, settled: Some(settled) }),
        None => Ok(settled),
    }
}

/// What is wrong with which.
fn mistakes(settled: &[Settled]) -> BTreeSet<String> {
    let told = |one: &Settled| Some(format!("SecurityPolicy {}/{}: {}", one.key.0, one.key.1, one.mistake.as_ref()?));
    settled.iter().filter_map(told).collect()
}

/// Why nothing may be put in force at start: one of which nothing good is known may deny something.
fn shut(settled: &[Settled], objects: &BTreeMap<Key, PolicyObject>) -> Option<String> {
    let unknown =
        |one: &&Settled| one.standing == Standing::Out && objects.get(&one.key).is_some_and(|object| !object.grants);
    settled.iter().find(unknown).map(|one| format!("SecurityPolicy {}/{} is wrong", one.key.0, one.key.1))
}

/// Why nothing changes until it is repaired: one that is in force, and may be what denies something, could not stay beside
/// what is new, such as a file that takes its name.
fn displaced(settled: &[Settled], good: &BTreeMap<Key, String>) -> Option<String> {
    let one = settled.iter().find(|one| one.standing == Standing::Out && good.contains_key(&one.key))?;
    let (namespace, name) = &one.key;
    let why = one.mistake.as_deref().unwrap_or_default();
    Some(format!(
        "SecurityPolicy {namespace}/{name} is in force and cannot stay, so no policy of the cluster changes: {why}"
    ))
}

fn said(objects: &BTreeMap<Key, PolicyObject>) -> Said {
    objects.iter().map(|(key, one)| (key.clone(), (one.created.clone(), one.text.clone()))).collect()
}

/// The status of every object. `open`: policies are in force at all.
fn wanted(objects: &BTreeMap<Key, PolicyObject>, settled: &[Settled], open: bool) -> BTreeMap<Key, Wanted> {
    let one = |one: &Settled| {
        let object = objects.get(&one.key)?;
        let said = [accepted(one), programmed(one, open)];
        let (generation, present) = (object.generation, object.status.clone());
        Some((one.key.clone(), Wanted { generation, said, more: Map::new(), present }))
    };
    settled.iter().filter_map(one).collect()
}

/// The status of every object while nothing changes: what an object says is in force only if that was so before.
fn waiting(
    objects: &BTreeMap<Key, PolicyObject>,
    settled: &[Settled],
    good: &BTreeMap<Key, String>,
    why: &str,
) -> BTreeMap<Key, Wanted> {
    let mut all = wanted(objects, settled, true);
    for one in settled {
        let stays = one.mistake.is_none() && one.text().is_some_and(|(_, text)| good.get(&one.key) == Some(&text));
        if let (Some(wanted), false) = (all.get_mut(&one.key), stays) {
            wanted.said[1] = Condition { name: "Programmed", holds: false, reason: "Waiting", message: why.to_owned() };
        }
    }
    all
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

/// The oldest first.
fn candidates(objects: &BTreeMap<Key, PolicyObject>, good: &BTreeMap<Key, String>) -> Vec<Candidate> {
    let mut all: Vec<_> = objects.iter().collect();
    all.sort_by(|a, b| (&a.1.created, a.0).cmp(&(&b.1.created, b.0)));
    let candidate = |(key, object): (&Key, &PolicyObject)| Candidate {
        key: key.clone(),
        text: object.text.clone(),
        good: good.get(key).cloned(),
    };
    all.into_iter().map(candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_deny_something_is_known() {
        let spec = |rule: Value| json!({"authorization": {"rules": [rule]}});
        let allow = json!({"name": "a", "services": ["*"], "capabilities": ["*"], "when": "nonsense("});
        assert!(only_grants(&spec(allow.clone())));
        assert!(only_grants(&json!({"mode": "audit"})));
        for (key, value) in [
            ("effect", json!("deny")),
            ("effect", json!("dney")),
            ("approval", json!({})),
            ("limits", json!({})),
            ("budget", json!({})),
            ("unknown", json!(1)),
        ] {
            let mut rule = allow.clone();
            rule[key] = value;
            assert!(!only_grants(&spec(rule)), "{key}");
        }
        for other in
            [json!(null), json!([]), json!({"limits": []}), json!({"authentication": {}}), json!({"authorization": 1})]
        {
            assert!(!only_grants(&other), "{other}");
        }
    }
}
