//! The Services of a cluster and their endpoints, kept by watching the API server.

use std::collections::BTreeSet;
use std::sync::Arc;

use outrigger_telemetry::metrics::DiscoveryMetrics;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::contact::{Contact, Shown};
use super::endpoints::{Named, Reading, Slice, replicas};
use super::found::Found;
use super::reflect::{Object, Reflector, Shelf};
use super::{AGAIN, GATHER, Told};
use crate::config::{Kubernetes, is_label};
use crate::gateway::Gateway;

/// A cluster that is watched.
pub(super) struct Cluster {
    contact: Arc<Contact>,
    /// Namespaces; empty is all of them.
    namespaces: Vec<String>,
    selector: Option<String>,
    most: usize,
    reading: Reading,
}

/// The copies of the objects in one namespace, or in all.
struct Copies {
    services: Arc<Shelf<Named>>,
    slices: Arc<Shelf<Slice>>,
}

impl Cluster {
    /// Reads the name of this pod's namespace if that is the one to watch.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn new(settings: &Kubernetes) -> Result<Self, String> {
        let namespaces = match settings.namespaces.as_slice() {
            [] => vec![own_namespace(settings)?],
            [all] if all == "*" => Vec::new(),
            named => named.to_vec(),
        };
        Ok(Self {
            contact: Arc::new(contact(settings)),
            namespaces,
            selector: settings.selector.clone(),
            most: settings.max_objects,
            reading: Reading { port: settings.port, any_address: settings.any_address },
        })
    }

    /// Keeps the registry as the cluster is, until the future is dropped.
    pub(super) async fn run(self, gateway: Arc<Gateway>, metrics: DiscoveryMetrics, known: watch::Sender<bool>) {
        let changed = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        let copies: Vec<_> = self.places().iter().map(|at| self.copy(at, &changed, &metrics, &mut tasks)).collect();
        let mut reconfigured = gateway.registry.reconfigured();
        let (mut found, mut told) = (Found::default(), Told::new("discovery.kubernetes"));
        let mut no_room = false;
        loop {
            tokio::select! {
                () = changed.notified() => sleep(GATHER).await,
                _ = reconfigured.changed() => {}
                () = sleep(AGAIN), if no_room => {}
            }
            // Half of what there is would be a service without replicas.
            if !copies.iter().all(Copies::listed) {
                continue;
            }
            let (wanted, mut mistakes) = self.read(&copies);
            let (count, refused) = found.apply(&gateway, wanted);
            no_room = !refused.is_empty();
            mistakes.extend(refused.into_iter().map(|((service, at), full)| format!("{service} at {at}: {full}")));
            metrics.found(count, mistakes.len());
            told.tell(mistakes);
            known.send_replace(true);
        }
    }

    /// The part of a path that says where: in each namespace, or everywhere.
    fn places(&self) -> Vec<String> {
        match self.namespaces.as_slice() {
            [] => vec![String::new()],
            named => named.iter().map(|name| format!("/namespaces/{name}")).collect(),
        }
    }

    fn copy(&self, at: &str, changed: &Arc<Notify>, metrics: &DiscoveryMetrics, tasks: &mut JoinSet<()>) -> Copies {
        let services = Shelf::new(Arc::clone(changed));
        let path = format!("/api/v1{at}/services");
        tasks.spawn(self.reflector(path, self.selector.clone(), &services, metrics).run());
        let slices = Shelf::new(Arc::clone(changed));
        let path = format!("/apis/discovery.k8s.io/v1{at}/endpointslices");
        tasks.spawn(self.reflector(path, None, &slices, metrics).run());
        Copies { services, slices }
    }

    fn reflector<T: Object>(
        &self,
        path: String,
        selector: Option<String>,
        shelf: &Arc<Shelf<T>>,
        metrics: &DiscoveryMetrics,
    ) -> Reflector<T> {
        let (contact, shelf, metrics) = (Arc::clone(&self.contact), Arc::clone(shelf), metrics.clone());
        Reflector { contact, path, selector, most: self.most, shelf, metrics }
    }

    /// All replicas, and all mistakes as text.
    fn read(&self, copies: &[Copies]) -> (BTreeSet<super::endpoints::Replica>, BTreeSet<String>) {
        let (mut all, mut mistakes) = (BTreeSet::new(), BTreeSet::new());
        for Copies { services, slices } in copies {
            let (services, slices) = (services.look(), slices.look());
            let (some, wrong) = replicas(&services.objects, slices.objects.iter(), self.reading);
            all.extend(some);
            mistakes.extend(
                wrong.into_iter().map(|wrong| format!("Service {}/{}: {}", wrong.at.0, wrong.at.1, wrong.what)),
            );
            let left_out = services.left_out + slices.left_out;
            if left_out > 0 {
                mistakes.insert(format!(
                    "{left_out} objects are left out: `discovery.kubernetes.max_objects` allows no more"
                ));
            }
        }
        (all, mistakes)
    }
}

impl Copies {
    fn listed(&self) -> bool {
        self.services.look().listed && self.slices.look().listed
    }
}

/// The API server, and what we show it.
pub(super) fn contact(settings: &Kubernetes) -> Contact {
    let token = (settings.token_file.clone(), Shown::Bearer);
    Contact::new(settings.url.clone(), Some(settings.ca.clone()), Some(token))
}

fn own_namespace(settings: &Kubernetes) -> Result<String, String> {
    let path = settings.namespace_file.display();
    let hint = "outside of a pod, name `discovery.kubernetes.namespaces`";
    let text = std::fs::read_to_string(&settings.namespace_file)
        .map_err(|error| format!("cannot read the name of this pod's namespace from {path}: {error}; {hint}"))?;
    let name = text.trim();
    if is_label(name) {
        Ok(name.to_owned())
    } else {
        Err(format!("{path} does not hold the name of a namespace; {hint}"))
    }
}
