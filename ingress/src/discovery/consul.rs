//! Services of a Consul catalog whose checks pass, kept by blocking queries.
//!
//! ```text
//!  names:  GET /v1/catalog/services?index=N&wait=60s        (held until something changes)
//!  each:   GET /v1/health/service/<name>?passing=1&index=N  (one question per service with the tag)
//! ```
//!
//! After "Blocking Queries" in Consul's HTTP API: an index that goes backwards begins anew, and one of 0 is never waited on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_config::kinds::HostPort;
use outrigger_mcp::names::check_service;
use outrigger_telemetry::metrics::DiscoveryMetrics;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

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
/// For every service to be read once, after which those that were not hold up nobody else.
const FIRST: Duration = Duration::from_secs(15);
/// Bytes of an answer.
const MAX_ANSWER: usize = 32 << 20;
/// Between questions that are answered at once, so that a catalog that flaps costs little.
const PACE: Duration = Duration::from_millis(100);
/// The number of something's state (Consul, "Blocking Queries").
const INDEX: &str = "x-consul-index";
/// Says that an answer is without what the token may not read (Consul, "Filtered Results").
const FILTERED: &str = "x-consul-results-filtered-by-acls";
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
    /// Whether the list of services is empty because they are hidden from the token.
    hidden: bool,
    /// The services that have been read.
    services: BTreeMap<String, Read>,
}

/// What was read of one service.
#[derive(Default)]
struct Read {
    instances: Vec<Instance>,
    /// What is wrong with the others.
    mistakes: Vec<String>,
}

/// An answer, as it arrived.
struct Answered {
    index: u64,
    /// Whether something is missing in it that the token may not read.
    filtered: bool,
    body: bytes::Bytes,
}

/// `GET /v1/health/service/<name>`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Instance {
    node: Node,
    service: Service,
    // Absent and null both mean none.
    checks: Option<Vec<Check>>,
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
    // Whatever was registered: that of a service without a port is 0, and nobody checks others.
    port: i64,
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
        let (mut no_room, mut complete) = (false, false);
        // By when every service has been read for the first time, or is not waited for.
        let mut first: Option<Instant> = None;
        loop {
            tokio::select! {
                () = catalog.changed.notified() => sleep(GATHER).await,
                _ = reconfigured.changed() => {}
                () = sleep(AGAIN), if no_room => {}
                () = sleep_until(first.unwrap_or_else(Instant::now)), if first.is_some() && !complete => {}
            }
            while tasks.try_join_next().is_some() {}
            let Some(names) = catalog.look().names.clone() else { continue };
            watched.retain(|name, task| {
                let stays = names.contains(name);
                if !stays {
                    task.abort();
                    catalog.look().services.remove(name);
                }
                stays
            });
            for name in names {
                watched.entry(name.clone()).or_insert_with(|| tasks.spawn(Arc::clone(&catalog).watch_instances(name)));
            }
            let unread: Vec<_> =
                watched.keys().filter(|name| !catalog.look().services.contains_key(*name)).cloned().collect();
            let late = *first.get_or_insert_with(|| Instant::now() + FIRST) <= Instant::now();
            complete |= unread.is_empty() || late;
            if !complete {
                continue;
            }
            let (wanted, mut mistakes) = catalog.replicas();
            mistakes.extend(unread.iter().map(|name| format!("service {} has not been read yet", shown(name))));
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
        self.follow("/v1/catalog/services?", |answer| self.take_names(answer)).await;
    }

    fn take_names(&self, answer: &Answered) -> Result<(), String> {
        // Tags that are absent may be null.
        let all: BTreeMap<String, Option<Vec<String>>> =
            serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
        let hidden = all.is_empty() && answer.filtered;
        let tagged = all.into_iter().filter(|(_, tags)| tags.iter().flatten().any(|tag| *tag == self.tag));
        let mut names: BTreeSet<_> = tagged.map(|(name, _)| name).collect();
        let left_out = names.len().saturating_sub(self.most);
        while names.len() > self.most {
            names.pop_last();
        }
        let mut known = self.look();
        if hidden && known.names.as_ref().is_some_and(|names| !names.is_empty()) {
            return Err(lost("every service"));
        }
        (known.names, known.left_out, known.hidden) = (Some(names), left_out, hidden);
        Ok(())
    }

    async fn watch_instances(self: Arc<Self>, name: String) {
        let path = format!("/v1/health/service/{}?passing=1&", encode(&name));
        self.follow(&path, |answer| self.take_instances(&name, answer)).await;
    }

    fn take_instances(&self, name: &str, answer: &Answered) -> Result<(), String> {
        let read = Read::from(name, answer)?;
        let mut known = self.look();
        // It may have gone meanwhile.
        if known.names.as_ref().is_some_and(|names| names.contains(name)) {
            known.services.insert(name.to_owned(), read);
        }
        Ok(())
    }

    /// Asks again and again, and hands over every answer that is new; one that cannot be taken is asked for again.
    async fn follow(&self, path: &str, take: impl Fn(&Answered) -> Result<(), String>) {
        let (mut index, mut failures) = (0_u64, 0_u32);
        loop {
            let began = Instant::now();
            let answer = self.ask(path, index).await.map_err(|error| {
                // It may be another one that answers next.
                index = 0;
                error.to_string()
            });
            let taken = answer.and_then(|answer| {
                self.metrics.contact();
                if answer.index != index || index == 0 {
                    take(&answer)?;
                    self.changed.notify_one();
                }
                // One that goes backwards is of another Consul, or of one that was restored.
                index = if answer.index < index { 0 } else { answer.index.max(1) };
                Ok(())
            });
            match taken {
                Ok(()) => {
                    if failures > 0 {
                        tracing::info!(path, "Consul answers again");
                    }
                    failures = 0;
                    sleep(PACE.saturating_sub(began.elapsed())).await;
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    self.metrics.failed();
                    if failures == 1 {
                        tracing::warn!(path, error, "Consul gives no answer that can be used; what is known stays");
                    }
                    sleep(pause(failures)).await;
                }
            }
        }
    }

    async fn ask(&self, path: &str, index: u64) -> Result<Answered, ContactError> {
        let datacenter = self.datacenter.as_deref().map_or_else(String::new, |name| format!("&dc={}", encode(name)));
        let path = format!("{path}wait={}s&index={index}{datacenter}", WAIT.as_secs());
        let answer = self.contact.get(&path, PATIENCE).await?;
        let index = answer.headers.get(INDEX).and_then(|value| value.to_str().ok()?.parse().ok());
        let index = index.ok_or_else(|| ContactError::Content(format!("there is no `{INDEX}`")))?;
        let filtered = answer.headers.get(FILTERED).is_some_and(|value| value == "true");
        Ok(Answered { index, filtered, body: answer.whole(MAX_ANSWER, BODY).await? })
    }

    /// All replicas and all mistakes, of what has been read.
    fn replicas(&self) -> (BTreeSet<Replica>, BTreeSet<String>) {
        let known = self.look();
        let (mut all, mut mistakes) = (BTreeSet::new(), BTreeSet::new());
        if known.left_out > 0 {
            let left_out = known.left_out;
            mistakes.insert(format!("{left_out} services are left out: `registration.max_services` allows no more"));
        }
        if known.hidden {
            mistakes.insert(lost("every service"));
        }
        for read in known.services.values() {
            mistakes.extend(read.mistakes.iter().cloned());
            for instance in read.instances.iter().filter(|one| one.passes(&self.tag)) {
                match instance.replica(self.any_address) {
                    Ok(replica) => drop(all.insert(replica)),
                    Err(mistake) => drop(mistakes.insert(mistake)),
                }
            }
        }
        (all, mistakes)
    }
}

/// An answer that is empty only for those who may not see what is there.
fn lost(what: &str) -> String {
    format!("Consul hides {what} from this token: it takes `service:read` and `node:read`")
}

impl Read {
    /// Whoever may register an instance must not keep the others from being read, so each is read by itself.
    fn from(name: &str, answer: &Answered) -> Result<Self, String> {
        let all: Vec<Value> = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
        if all.is_empty() && answer.filtered {
            return Err(lost(&format!("the instances of service {}", shown(name))));
        }
        let mut read = Self::default();
        for (at, one) in all.into_iter().enumerate() {
            match serde_json::from_value(one) {
                Ok(instance) => read.instances.push(instance),
                Err(error) => {
                    let why: String = error.to_string().chars().take(200).flat_map(char::escape_debug).collect();
                    read.mistakes.push(format!("service {}: instance {at} cannot be read: {why}", shown(name)));
                }
            }
        }
        Ok(read)
    }
}

impl Instance {
    /// `passing=1` has asked for that; it does no harm to look.
    fn passes(&self, tag: &str) -> bool {
        let tagged = self.service.tags.iter().flatten().any(|one| one == tag);
        tagged && self.checks.iter().flatten().all(|check| check.status == "passing")
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
        let (what, port) = match said(PORT) {
            Some(text) => (PORT, text.parse().ok()),
            None => ("Port", u16::try_from(*port).ok()),
        };
        let port = port.filter(|port| *port != 0);
        let port = port.ok_or_else(|| format!("service {}: `{what}` is no port", shown(consul)))?;
        let host = if address.is_empty() { &self.node.address } else { address };
        let at = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let at =
            HostPort::parse(&at).ok_or_else(|| format!("service {}: {} is no address", shown(consul), shown(host)))?;
        // A name may lead anywhere, and elsewhere tomorrow.
        if !any_address && !at.host.parse().is_ok_and(is_of_a_pod) {
            return Err(format!(
                "service {}: {at} is a name, or reached from everywhere and nowhere: that takes `any_address`",
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
        for (address, meta, why) in [
            ("127.0.0.1", json!({}), "any_address"),
            ("localhost", json!({}), "any_address"),
            ("files.internal", json!({}), "any_address"),
            ("fd00:ec2::254", json!({}), "any_address"),
            ("169.254.169.254", json!({}), "any_address"),
            ("a b", json!({}), "no address"),
            ("10.0.0.7", json!({SERVICE: "NO"}), "no name of a service"),
            ("10.0.0.7", json!({PORT: "0"}), "no port"),
            ("10.0.0.7", json!({PORT: "http"}), "`outrigger-port` is no port"),
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

    fn answered(body: &Value, filtered: bool) -> Answered {
        Answered { index: 1, filtered, body: body.to_string().into() }
    }

    #[test]
    fn one_instance_that_is_wrong_is_told_and_harms_no_other() {
        let with = |port: Value, checks: Value| {
            let service = json!({"Service": "files", "Address": "10.0.0.7", "Port": port, "Tags": ["outrigger"]});
            json!({"Node": {"Address": "10.0.0.1"}, "Service": service, "Checks": checks})
        };
        let all = json!([
            with(json!(1), json!(null)),
            with(json!(-1), json!([])),
            with(json!(70000), json!([])),
            with(json!("x"), json!([])),
            5
        ]);
        let read = Read::from("files", &answered(&all, false)).unwrap();
        assert_eq!((read.instances.len(), read.mistakes.len()), (3, 2), "{:?}", read.mistakes);
        assert!(read.mistakes[0].contains("service files: instance 3"), "{:?}", read.mistakes);
        let replicas: Vec<_> = read.instances.iter().map(|one| one.replica(false)).collect();
        assert!(replicas[0].is_ok() && read.instances[0].passes("outrigger"));
        assert!(replicas[1..].iter().all(|one| one.as_ref().is_err_and(|why| why.contains("`Port` is no port"))));
        assert!(Read::from("files", &answered(&json!({}), false)).is_err());
    }

    #[test]
    fn an_answer_that_is_empty_for_want_of_rights_takes_nothing_away() {
        assert!(Read::from("files", &answered(&json!([]), false)).is_ok());
        assert!(Read::from("files", &answered(&json!([]), true)).is_err_and(|why| why.contains("service:read")));
    }
}
