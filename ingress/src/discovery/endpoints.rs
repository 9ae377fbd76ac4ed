//! Which replicas the Services and EndpointSlices of a cluster stand for. Pure.
//!
//! A Service counts when it says so (`outrigger.dev/service`); its replicas are the pods behind it that are ready, at the
//! port where their sidecars listen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use outrigger_config::kinds::HostPort;
use outrigger_mcp::names::check_service;
use outrigger_policy::egress::address::{Special, embedded, special};
use serde::Deserialize;
use serde_json::Value;

use super::wire::{Key, Meta, Object};

/// The name in the mesh: an annotation or a label of a Service.
pub(super) const SERVICE: &str = "outrigger.dev/service";
/// Where its sidecars listen: the name or number of a port.
pub(super) const PORT: &str = "outrigger.dev/port";
/// The port of a Service that is taken if it says nothing.
const PORT_NAME: &str = "outrigger";
/// To which Service a slice belongs (well-known label of Kubernetes).
const OWNER: &str = "kubernetes.io/service-name";

/// What counts of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Named {
    /// Its name in the mesh; nothing if it is none of ours.
    pub(super) service: Option<String>,
    /// Where its sidecars listen.
    pub(super) port: Option<String>,
}

/// What counts of an EndpointSlice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Slice {
    /// The Service, in the same namespace.
    owner: String,
    /// Names and numbers.
    ports: Vec<(String, u16)>,
    endpoints: Vec<Place>,
}

/// One endpoint that is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    address: IpAddr,
    /// A pod with two addresses is in two slices.
    pod: Option<String>,
}

/// That the pods of a Service are replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selected {
    /// The service of the mesh.
    pub(super) name: String,
    /// Where its sidecars listen.
    pub(super) port: Option<String>,
}

/// One replica: the service and where it is.
pub(super) type Replica = (String, HostPort);

/// Something that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mistake {
    /// The Service.
    pub(super) at: Key,
    /// What is wrong, and what to do.
    pub(super) what: String,
}

/// How Services are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    /// Where sidecars listen if nothing says so.
    pub(super) port: u16,
    /// Whether any address will do.
    pub(super) any_address: bool,
}

impl Object for Named {
    fn read(mut meta: Meta, _object: &mut Value) -> Self {
        let mut said = |what: &str| meta.annotations.remove(what).or_else(|| meta.labels.remove(what));
        Self { service: said(SERVICE), port: said(PORT) }
    }
}

/// `EndpointSlice` of discovery.k8s.io/v1, as far as it counts.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    // Absent and null both mean none.
    endpoints: Option<Vec<RawEndpoint>>,
    ports: Option<Vec<RawPort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEndpoint {
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Conditions,
    target_ref: Option<Target>,
}

#[derive(Default, Deserialize)]
struct Conditions {
    ready: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize)]
struct Target {
    #[serde(default)]
    uid: String,
}

#[derive(Deserialize)]
struct RawPort {
    name: Option<String>,
    port: Option<u16>,
}

impl Object for Slice {
    fn read(mut meta: Meta, object: &mut Value) -> Self {
        let owner = meta.labels.remove(OWNER).unwrap_or_default();
        // A slice that is nonsense, or whose addresses are names (`addressType: FQDN`), has no endpoints.
        let Ok(raw) = serde_json::from_value::<Raw>(object.take()) else {
            return Self { owner, ..Self::default() };
        };
        let endpoints = raw.endpoints.unwrap_or_default().into_iter().filter_map(|endpoint| {
            // Unknown counts as ready; and one that goes is not ready whatever its Service publishes.
            let up = endpoint.conditions.ready != Some(false) && endpoint.conditions.terminating != Some(true);
            // Addresses are alternatives, and the first is the one to use (EndpointSlice v1).
            let address = endpoint.addresses.first().and_then(|text| text.parse().ok()).filter(|_| up)?;
            let pod = endpoint.target_ref.map(|target| target.uid).filter(|uid| !uid.is_empty());
            Some(Place { address, pod })
        });
        let ports = raw.ports.unwrap_or_default();
        let ports = ports.into_iter().filter_map(|port| Some((port.name.unwrap_or_default(), port.port?)));
        Self { owner, ports: ports.collect(), endpoints: endpoints.collect() }
    }
}

impl Slice {
    /// Where the sidecars of its pods listen.
    fn port(&self, wanted: Option<&str>, usual: u16) -> Result<u16, String> {
        let named = |name: &str| self.ports.iter().find(|(known, _)| known == name).map(|(_, port)| *port);
        match wanted {
            None => Ok(named(PORT_NAME).unwrap_or(usual)),
            Some(text) => match text.parse::<u16>() {
                Ok(0) => Err("0 is no port".to_owned()),
                Ok(port) => Ok(port),
                Err(_) => named(text).ok_or_else(|| {
                    let named = format!("`{PORT}`, or `port` of a MeshService");
                    format!("the Service has no port named {text:?}: {named} is the name of one, or the number of the pods' port")
                }),
            },
        }
    }
}

/// What the Services say of themselves, and what is wrong with that.
pub(super) fn annotated(services: &BTreeMap<Key, Named>) -> (BTreeMap<Key, Vec<Selected>>, BTreeSet<Mistake>) {
    let (mut selected, mut mistakes) = (BTreeMap::new(), BTreeSet::new());
    for (at, named) in services {
        let Some(name) = named.service.as_deref() else { continue };
        if check_service(name).is_ok() {
            let one = Selected { name: name.to_owned(), port: named.port.clone() };
            selected.insert(at.clone(), vec![one]);
        } else {
            let what = format!("`{SERVICE}: {}` is no name of a service: 1 to 20 of a-z, 0-9 and `-`", shown(name));
            mistakes.insert(Mistake { at: at.clone(), what });
        }
    }
    (selected, mistakes)
}

/// All replicas among the pods of the Services that were selected. What is wrong with them is added to `mistakes`.
pub(super) fn replicas<'a>(
    selected: &BTreeMap<Key, Vec<Selected>>,
    slices: impl Iterator<Item = (&'a Key, &'a Slice)>,
    reading: Reading,
    mistakes: &mut BTreeSet<Mistake>,
) -> BTreeSet<Replica> {
    // A pod with two addresses counts once, by the lower one: 10.0.0.7 before fd00::7.
    let mut places: BTreeMap<(&str, String), HostPort> = BTreeMap::new();
    for ((namespace, _), slice) in slices {
        let at = (namespace.clone(), slice.owner.clone());
        for Selected { name, port } in selected.get(&at).into_iter().flatten() {
            let port = match slice.port(port.as_deref(), reading.port) {
                Ok(port) => port,
                Err(what) => {
                    mistakes.insert(Mistake { at: at.clone(), what });
                    continue;
                }
            };
            for place in &slice.endpoints {
                if !reading.any_address && !is_of_a_pod(place.address) {
                    let what = format!("no pod has the address {}: that takes `any_address`", place.address);
                    mistakes.insert(Mistake { at: at.clone(), what });
                    continue;
                }
                let address = HostPort { host: place.address.to_string(), port };
                let one = place.pod.clone().unwrap_or_else(|| address.to_string());
                let known = places.entry((name, one)).or_insert_with(|| address.clone());
                let is_six = |at: &HostPort| at.host.contains(':');
                if is_six(known) && !is_six(&address) {
                    *known = address;
                }
            }
        }
    }
    places.into_iter().map(|((service, _), address)| (service.to_owned(), address)).collect()
}

/// Not where every machine talks to itself, and not where clouds keep credentials.
pub(super) fn is_of_a_pod(address: IpAddr) -> bool {
    let of_nobody =
        |why| matches!(why, Special::Loopback | Special::LinkLocal | Special::Metadata | Special::Multicast);
    !address.is_unspecified()
        && !special(address).is_some_and(|(_, why)| of_nobody(why))
        && embedded(address).is_none_or(|inside| is_of_a_pod(inside.into()))
}

/// What somebody wrote, short enough for a message and safe for a terminal.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(60).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests;
