//! Services of the mesh that are objects of a cluster (`MeshService`): which of them count, and what their status says. Pure.
//!
//! An object adds replicas, as an annotated Service does, and says what holds for its service, as an entry of `services` does.
//! It says nothing of who the sidecars are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use outrigger_mcp::names::check_service;
use serde_json::{Map, Value, json};

use super::endpoints::{Mistake, Replica, Selected, is_of_a_pod};
use super::status::{Condition, Wanted};
use super::wire::{Key, Meta, Object};
use crate::config::MeshService;

/// The collection, in a namespace.
pub(super) const COLLECTION: &str = "meshservices";
/// Bytes of a `spec`, as JSON.
const MAX_SPEC: usize = 64 << 10;
/// Characters of a mistake that are shown.
const SHOWN: usize = 600;

/// One object.
#[derive(Debug, Clone)]
pub(super) struct ServiceObject {
    generation: i64,
    /// Of two with one name, the one counts that had it first; where that is not known, the oldest.
    created: String,
    /// What it says, or what is wrong with that.
    said: Result<MeshService, String>,
    /// What its status says now.
    status: Value,
}

/// What became of an object.
#[derive(Debug, Clone)]
pub(super) struct Settled {
    key: Key,
    generation: i64,
    present: Value,
    /// The service that it is about, if it counts.
    name: Result<String, (&'static str, String)>,
    /// Where its replicas come from.
    service: Option<String>,
    addressed: bool,
    /// What is wrong with its replicas.
    mistakes: Vec<String>,
}

/// How a service is, as the ingress knows it.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Replicas that there are.
    pub(super) replicas: usize,
    /// Those that answer.
    pub(super) ready: usize,
    /// Why another one does not, in words that tell nothing of what listens at addresses of others.
    pub(super) why: Option<&'static str>,
    /// Whether any of them has answered, or failed to.
    pub(super) asked: bool,
    /// Why replicas were turned away.
    pub(super) full: Option<String>,
    /// Whether the settings name the service, and say what holds for it.
    pub(super) configured: bool,
}

/// What all objects come to.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// Those that count, by the name of their service.
    pub(super) services: BTreeMap<String, MeshService>,
    /// Where replicas are that are no pods.
    pub(super) replicas: BTreeSet<Replica>,
    /// What became of each.
    pub(super) settled: Vec<Settled>,
}

impl Object for ServiceObject {
    fn read(meta: Meta, object: &mut Value) -> Self {
        let spec = object.get("spec").filter(|spec| !spec.is_null()).map_or_else(|| "{}".to_owned(), Value::to_string);
        Self {
            generation: meta.generation,
            said: said(&meta, &spec),
            created: meta.creation_timestamp,
            status: object.get_mut("status").map(Value::take).unwrap_or_default(),
        }
    }
}

/// What an object says, or the first thing that is wrong with that.
fn said(meta: &Meta, spec: &str) -> Result<MeshService, String> {
    if spec.len() > MAX_SPEC {
        return Err(format!("spec: it has {} bytes, and {MAX_SPEC} are the most (name less)", spec.len()));
    }
    let said = MeshService::parse(&format!("MeshService {}/{}", meta.namespace, meta.name), spec);
    said.map_err(|mistakes| {
        mistakes.0.first().map_or_else(String::new, |one| {
            let hint = one.hint.as_deref().map_or_else(String::new, |hint| format!(" ({hint})"));
            format!("spec.{}: {}{hint}", one.path, one.message).chars().take(SHOWN).collect()
        })
    })
}

/// Which objects count. `any_address`: sidecars may be on loopback and link-local addresses, and have names. `holders` are
/// those that counted last: an older object that takes another name later takes it from nobody.
pub(super) fn read<'a>(
    objects: impl Iterator<Item = (&'a Key, &'a ServiceObject)>,
    any_address: bool,
    holders: &BTreeMap<String, Key>,
) -> Read {
    let mut all: Vec<_> = objects.collect();
    all.sort_by_cached_key(|(key, object)| {
        let wanted = object.said.as_ref().ok().and_then(|said| name(key, said).ok());
        let holds = wanted.is_some_and(|name| holders.get(&name) == Some(*key));
        (!holds, object.created.clone(), (*key).clone())
    });
    let mut out = Read::default();
    let mut owners: BTreeMap<String, &Key> = BTreeMap::new();
    for (key, object) in all {
        let mut settled = Settled {
            key: key.clone(),
            generation: object.generation,
            present: object.status.clone(),
            name: Err(("Invalid", String::new())),
            service: None,
            addressed: false,
            mistakes: Vec::new(),
        };
        settled.name = match &object.said {
            Err(mistake) => Err(("Invalid", mistake.clone())),
            Ok(said) => name(key, said).and_then(|name| match owners.get(&name) {
                Some((namespace, other)) => {
                    let why = format!("`{name}` is the service of MeshService {namespace}/{other}, which had it first");
                    Err(("NameTaken", why))
                }
                None => Ok(name),
            }),
        };
        if let (Ok(name), Ok(said)) = (&settled.name, &object.said) {
            owners.insert(name.clone(), key);
            settled.service.clone_from(&said.service);
            settled.addressed = !said.addresses.is_empty();
            for address in &said.addresses {
                if any_address || address.host.parse::<IpAddr>().is_ok_and(is_of_a_pod) {
                    out.replicas.insert((name.clone(), address.clone()));
                } else {
                    settled.mistakes.push(format!("no sidecar is at {address}: names, and addresses of this machine, take `discovery.kubernetes.any_address`"));
                }
            }
            out.services.insert(name.clone(), said.clone());
        }
        out.settled.push(settled);
    }
    out
}

fn name((_, object): &Key, said: &MeshService) -> Result<String, (&'static str, String)> {
    let name = said.name.as_deref().unwrap_or(object);
    match check_service(name) {
        Ok(()) => Ok(name.to_owned()),
        Err(_) => {
            Err(("Invalid", format!("`{name}` is no name of a service: give `spec.name`, 1 to 20 of a-z, 0-9 and `-`")))
        }
    }
}

impl Read {
    /// Which object each service is of.
    pub(super) fn holders(&self) -> BTreeMap<String, Key> {
        self.settled.iter().filter_map(|one| Some((one.name.as_ref().ok()?.clone(), one.key.clone()))).collect()
    }

    /// The Services whose pods are replicas, in place of what their annotations say of the same service.
    pub(super) fn select(&self, selected: &mut BTreeMap<Key, Vec<Selected>>) {
        for one in &self.settled {
            let (Ok(name), Some(service)) = (&one.name, &one.service) else { continue };
            let port = self.services.get(name).and_then(|said| said.port.clone());
            let pods = selected.entry((one.key.0.clone(), service.clone())).or_default();
            pods.retain(|other| other.name != *name);
            pods.push(Selected { name: name.clone(), port });
        }
    }

    /// Takes over what is wrong with the Services that objects name, and says what is wrong with objects.
    pub(super) fn blame(&mut self, mistakes: &BTreeSet<Mistake>) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for one in &mut self.settled {
            let service = one.service.as_deref();
            let own = mistakes.iter().filter(|wrong| wrong.at.0 == one.key.0 && Some(wrong.at.1.as_str()) == service);
            one.mistakes.extend(own.map(|wrong| format!("Service {}: {}", wrong.at.1, wrong.what)));
            let (namespace, name) = &one.key;
            let wrong = one.name.as_ref().err().map(|(_, why)| why).into_iter();
            // What is wrong with Services is told of them.
            let addressed = one.mistakes.iter().filter(|_| one.addressed);
            all.extend(wrong.chain(addressed).map(|why| format!("MeshService {namespace}/{name}: {why}")));
        }
        all
    }

    /// The status of every object, but of those whose replicas have not been asked: what theirs says stays for that moment, or
    /// it would say at every start of an ingress that nobody answers. `seen` knows services by their names.
    pub(super) fn statuses(&self, seen: impl Fn(&str) -> Seen) -> BTreeMap<Key, Wanted> {
        let one = |one: &Settled| {
            let seen = one.name.as_ref().map(|name| seen(name)).unwrap_or_default();
            if seen.replicas > 0 && seen.ready == 0 && !seen.asked {
                return None;
            }
            let said = [one.accepted(&seen), one.ready(&seen)];
            let more = match &one.name {
                Ok(name) => json!({"service": name, "replicas": seen.replicas, "ready": seen.ready}),
                // A merge patch: what was there goes.
                Err(_) => json!({"service": null, "replicas": null, "ready": null}),
            };
            let more = more.as_object().cloned().unwrap_or_default();
            let more = more.into_iter().filter(|(name, value)| !value.is_null() || one.present.get(name).is_some());
            let more: Map<_, _> = more.collect();
            let (generation, present) = (one.generation, one.present.clone());
            Some((one.key.clone(), Wanted { generation, said, more, present }))
        };
        self.settled.iter().filter_map(one).collect()
    }
}

impl Settled {
    fn accepted(&self, seen: &Seen) -> Condition {
        let (holds, reason, message) = match &self.name {
            Err((reason, why)) => (false, *reason, why.clone()),
            Ok(_) if seen.configured => {
                let message =
                    "Replicas count. What holds for the service is in the settings of the ingress, which name it.";
                (true, "InSettings", message.to_owned())
            }
            Ok(_) => (true, "Valid", "It can be used.".to_owned()),
        };
        Condition { name: "Accepted", holds, reason, message }
    }

    fn ready(&self, seen: &Seen) -> Condition {
        let Seen { replicas, ready, .. } = seen;
        let more = if self.mistakes.is_empty() { String::new() } else { format!(" ({})", self.mistakes.join("; ")) };
        let (reason, message) = match (&self.name, replicas, ready) {
            (Err(_), ..) => ("NotAccepted", "Nothing of it counts.".to_owned()),
            (Ok(_), _, 1..) => ("Serving", format!("{ready} of {replicas} replicas answer.{more}")),
            (Ok(_), 1.., 0) => {
                let why = seen.why.unwrap_or("none has answered yet");
                ("Unreachable", format!("None of {replicas} replicas answers: {why}.{more}"))
            }
            (Ok(name), 0, 0) => match &seen.full {
                Some(full) => ("NoRoom", format!("There is no room: {full}.{more}")),
                None => ("NoReplicas", format!("{}{more}", self.nobody(name))),
            },
        };
        let message = message.chars().take(SHOWN).collect();
        Condition { name: "Ready", holds: reason == "Serving", reason, message }
    }

    fn nobody(&self, name: &str) -> String {
        match &self.service {
            Some(service) => format!("No ready endpoint belongs to a Service `{service}` in this namespace."),
            None if self.addressed => "None of `addresses` can be used.".to_owned(),
            None => format!("No sidecar has registered as `{name}`."),
        }
    }
}

#[cfg(test)]
mod tests;
