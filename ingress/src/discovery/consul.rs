//! Services of a Consul catalog whose checks pass, kept by blocking queries.
//!
//! ```text
//!  names:  GET /v1/catalog/services?index=N&wait=60s        (held until something changes)
//!  each:   GET /v1/health/service/<name>?passing=1&index=N  (one question per service with the tag)
//! ```
//!
//! After "Blocking Queries" in Consul's HTTP API: an index that goes backwards begins anew, and one of 0 is never waited on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_config::kinds::HostPort;
use outrigger_mcp::names::check_service;
use outrigger_telemetry::metrics::DiscoveryMetrics;
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep};

use super::contact::{Contact, ContactError, Shown};
use super::endpoints::{Replica, is_of_a_pod, shown};
use super::found::Found;
use super::{AGAIN, GATHER, Told, encode, pause};
use crate::config::Consul;
use crate::gateway::Gateway;

/// How long Consul is asked to hold a question.
const WAIT: Duration = Duration::from_secs(60);
/// For an answer beyond that: Consul adds up to a sixteenth by chance.
const PATIENCE: Duration = Duration::from_secs(75);
/// For the body of an answer.
const BODY: Duration = Duration::from_secs(30);
/// Bytes of an answer.
const MAX_ANSWER: usize = 32 << 20;
/// Between questions that are answered at once, so that a catalog that flaps costs little.
const PACE: Duration = Duration::from_millis(100);
/// The number of something's state (Consul, "Blocking Queries").
const INDEX: &str = "x-consul-index";
/// Metadata of an instance: its name in the mesh, if it is not that of the Consul service.
const SERVICE: &str = "outrigger-service";
/// Metadata of an instance: where its sidecar listens, if that is not the service's port.
const PORT: &str = "outrigger-port";

/// A catalog that is asked.
pub(super) struct Catalog {
    contact: Contact,
    tag: String,
    datacenter: Option<String>,
    any_address: bool,
    /// Services that are asked about at most.
    most: usize,
    known: Mutex<Known>,
    changed: Notify,
    metrics: DiscoveryMetrics,
}

/// What the catalog has said.
#[derive(Default)]
struct Known {
    /// The services with the tag, when they have been listed.
    names: Option<BTreeSet<String>>,
    left_out: usize,
    instances: BTreeMap<String, Vec<Instance>>,
}

/// `GET /v1/health/service/<name>`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Instance {
    node: Node,
    service: Service,
    #[serde(default)]
    checks: Vec<Check>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    #[serde(default)]
    address: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    service: String,
    #[serde(default)]
    address: String,
    port: u16,
    tags: Option<Vec<String>>,
    meta: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    status: String,
}

impl Catalog {
    /// Asks nothing yet.
    pub(super) fn new(settings: &Consul, most: usize, metrics: DiscoveryMetrics) -> Self {
        let token = settings.token_file.clone().map(|path| (path, Shown::Consul));
        Self {
            contact: Contact::new(settings.api(), settings.ca.clone(), token),
            tag: settings.tag.clone(),
            datacenter: settings.datacenter.clone(),
            any_address: settings.any_address,
            most,
            known: Mutex::default(),
            changed: Notify::new(),
            metrics,
        }
    }

    /// Keeps the registry as the catalog is, until the future is dropped.
    pub(super) async fn run(self, gateway: Arc<Gateway>, known: watch::Sender<bool>) {
        let catalog = Arc::new(self);
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&catalog).watch_names());
        let mut watched: BTreeMap<String, AbortHandle> = BTreeMap::new();
        let mut reconfigured = gateway.registry.reconfigured();
        let (mut found, mut told) = (Found::default(), Told::new("discovery.consul"));
        let mut no_room = false;
        loop {
            tokio::select! {
                () = catalog.changed.notified() => sleep(GATHER).await,
                _ = reconfigured.changed() => {}
                () = sleep(AGAIN), if no_room => {}
            }
            while tasks.try_join_next().is_some() {}
            let names = catalog.look().names.clone().unwrap_or_default();
            watched.retain(|name, task| {
                let stays = names.contains(name);
                if !stays {
                    task.abort();
                    catalog.look().instances.remove(name);
                }
                stays
            });
            for name in names {
                watched.entry(name.clone()).or_insert_with(|| tasks.spawn(Arc::clone(&catalog).watch_instances(name)));
            }
            let Some((wanted, mut mistakes)) = catalog.replicas(watched.len()) else { continue };
            let (count, refused) = found.apply(&gateway, wanted);
            no_room = !refused.is_empty();
            mistakes.extend(refused.into_iter().map(|((service, at), full)| format!("{service} at {at}: {full}")));
            catalog.metrics.found(count, mistakes.len());
            told.tell(mistakes);
            known.send_replace(true);
        }
    }

    fn look(&self) -> MutexGuard<'_, Known> {
        // Whole after every statement, so also after a panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn watch_names(self: Arc<Self>) {
        let catalog = &*self;
        self.follow("/v1/catalog/services?", |body| {
            let all: BTreeMap<String, Vec<String>> = serde_json::from_slice(body)?;
            let tagged = all.into_iter().filter(|(_, tags)| tags.contains(&catalog.tag));
            let mut names: BTreeSet<_> = tagged.map(|(name, _)| name).collect();
            let left_out = names.len().saturating_sub(catalog.most);
            while names.len() > catalog.most {
                names.pop_last();
            }
            let mut known = catalog.look();
            (known.names, known.left_out) = (Some(names), left_out);
            Ok(())
        })
        .await;
    }

    async fn watch_instances(self: Arc<Self>, name: String) {
        let path = format!("/v1/health/service/{}?passing=1&", encode(&name));
        self.follow(&path, |body| {
            let instances = serde_json::from_slice(body)?;
            let mut known = self.look();
            // It may have gone meanwhile.
            if known.names.as_ref().is_some_and(|names| names.contains(&name)) {
                known.instances.insert(name.clone(), instances);
            }
            Ok(())
        })
        .await;
    }

    /// Asks again and again, and hands over every answer that is new.
    async fn follow(&self, path: &str, take: impl Fn(&[u8]) -> Result<(), serde_json::Error>) {
        let (mut index, mut failures) = (0_u64, 0_u32);
        loop {
            let began = Instant::now();
            match self.ask(path, index).await {
                Ok((next, body)) => {
                    self.metrics.contact();
                    if next != index || index == 0 {
                        if let Err(error) = take(&body) {
                            tracing::warn!(path, %error, "an answer of Consul is not what it should be");
                            self.metrics.failed();
                        }
                        self.changed.notify_one();
                    }
                    if failures > 0 {
                        tracing::info!(path, "Consul answers again");
                    }
                    failures = 0;
                    // One that goes backwards is of another Consul, or of one that was restored.
                    index = if next < index { 0 } else { next.max(1) };
                    sleep(PACE.saturating_sub(began.elapsed())).await;
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    self.metrics.failed();
                    if failures == 1 {
                        tracing::warn!(path, %error, "Consul cannot be asked; what is known stays");
                    }
                    sleep(pause(failures)).await;
                    // It may be another one that answers next.
                    index = 0;
                }
            }
        }
    }

    async fn ask(&self, path: &str, index: u64) -> Result<(u64, bytes::Bytes), ContactError> {
        let datacenter = self.datacenter.as_deref().map_or_else(String::new, |name| format!("&dc={}", encode(name)));
        let path = format!("{path}wait={}s&index={index}{datacenter}", WAIT.as_secs());
        let answer = self.contact.get(&path, PATIENCE).await?;
        let index = answer.headers.get(INDEX).and_then(|value| value.to_str().ok()?.parse().ok());
        let index = index.ok_or_else(|| ContactError::Content(format!("there is no `{INDEX}`")))?;
        Ok((index, answer.whole(MAX_ANSWER, BODY).await?))
    }

    /// All replicas and all mistakes; nothing until every one of `services` has been asked about.
    fn replicas(&self, services: usize) -> Option<(BTreeSet<Replica>, BTreeSet<String>)> {
        let known = self.look();
        if known.names.is_none() || known.instances.len() < services {
            return None;
        }
        let (mut all, mut mistakes) = (BTreeSet::new(), BTreeSet::new());
        if known.left_out > 0 {
            let left_out = known.left_out;
            mistakes.insert(format!("{left_out} services are left out: `registration.max_services` allows no more"));
        }
        for instance in known.instances.values().flatten().filter(|one| one.passes(&self.tag)) {
            match instance.replica(self.any_address) {
                Ok(replica) => drop(all.insert(replica)),
                Err(mistake) => drop(mistakes.insert(mistake)),
            }
        }
        Some((all, mistakes))
    }
}

impl Instance {
    /// `passing=1` has asked for that; it does no harm to look.
    fn passes(&self, tag: &str) -> bool {
        let tagged = self.service.tags.iter().flatten().any(|one| one == tag);
        tagged && self.checks.iter().all(|check| check.status == "passing")
    }

    fn replica(&self, any_address: bool) -> Result<Replica, String> {
        let Service { service: consul, address, port, meta, .. } = &self.service;
        let said = |name: &str| meta.as_ref().and_then(|meta| meta.get(name));
        let name = said(SERVICE).unwrap_or(consul);
        if check_service(name).is_err() {
            let (consul, name) = (shown(consul), shown(name));
            return Err(format!(
                "service {consul}: `{name}` is no name of a service in the mesh (1 to 20 of a-z, 0-9 and `-`): say another one in its metadata, as `{SERVICE}`"
            ));
        }
        let port = said(PORT).map_or(Ok(*port), |text| text.parse());
        let port = port.ok().filter(|port| *port != 0);
        let port = port.ok_or_else(|| format!("service {}: `{PORT}` is no port", shown(consul)))?;
        let host = if address.is_empty() { &self.node.address } else { address };
        let at = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let at =
            HostPort::parse(&at).ok_or_else(|| format!("service {}: {} is no address", shown(consul), shown(host)))?;
        if at.host.parse::<IpAddr>().is_ok_and(|address| !any_address && !is_of_a_pod(address)) {
            return Err(format!(
                "service {}: {at} is reached from everywhere and nowhere: that takes `any_address`",
                shown(consul)
            ));
        }
        Ok((name.clone(), at))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn instance(service: Value, checks: Value) -> Instance {
        let object = json!({"Node": {"Node": "n1", "Address": "10.0.0.1"}, "Service": service, "Checks": checks});
        serde_json::from_value(object).unwrap()
    }

    fn replica(service: Value) -> Result<String, String> {
        instance(service, json!([])).replica(false).map(|(name, at)| format!("{name} {at}"))
    }

    #[test]
    fn an_instance_is_where_it_says() {
        let tags = json!(["outrigger"]);
        let all = |address: &str, meta: Value| {
            replica(json!({"Service": "files", "Address": address, "Port": 8443, "Tags": tags, "Meta": meta}))
        };
        assert_eq!(all("10.0.0.7", json!(null)).unwrap(), "files 10.0.0.7:8443");
        assert_eq!(all("", json!({})).unwrap(), "files 10.0.0.1:8443");
        assert_eq!(all("fd00::7", json!({SERVICE: "fs", PORT: "9443"})).unwrap(), "fs [fd00::7]:9443");
        assert_eq!(all("files.internal", json!({})).unwrap(), "files files.internal:8443");
        for (address, meta, why) in [
            ("127.0.0.1", json!({}), "any_address"),
            ("169.254.169.254", json!({}), "any_address"),
            ("a b", json!({}), "no address"),
            ("10.0.0.7", json!({SERVICE: "NO"}), "no name of a service"),
            ("10.0.0.7", json!({PORT: "0"}), "no port"),
            ("10.0.0.7", json!({PORT: "http"}), "no port"),
        ] {
            let wrong = all(address, meta).unwrap_err();
            assert!(wrong.contains(why), "{wrong}");
        }
    }

    #[test]
    fn only_what_passes_and_has_the_tag_counts() {
        let with = |tags: Value, status: &str| {
            let service = json!({"Service": "files", "Address": "", "Port": 1, "Tags": tags});
            instance(service, json!([{"CheckID": "serfHealth", "Status": "passing"}, {"Status": status}]))
                .passes("outrigger")
        };
        assert!(with(json!(["a", "outrigger"]), "passing"));
        assert!(!with(json!(["outrigger"]), "warning"));
        assert!(!with(json!(["outrigger"]), "critical"));
        assert!(!with(json!(null), "passing"));
    }
}
