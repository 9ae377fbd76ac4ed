//! The Services of a cluster and their endpoints, kept by watching the API server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use outrigger_telemetry::metrics::DiscoveryMetrics;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::contact::{Contact, Shown};
use super::endpoints::{Mistake, Named, Reading, Replica, Slice, annotated, replicas};
use super::found::Found;
use super::mesh_services::{self, COLLECTION, Seen, ServiceObject};
use super::reflect::{Reflector, Shelf};
use super::wire::{Key, Object};
use super::{AGAIN, GATHER, Told, status};
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
    /// Whether there are `MeshService` objects.
    described: bool,
}

/// The copies of the objects in one namespace, or in all.
struct Copies {
    services: Arc<Shelf<Named>>,
    slices: Arc<Shelf<Slice>>,
    objects: Option<Arc<Shelf<ServiceObject>>>,
}

/// What the copies come to.
struct View {
    replicas: BTreeSet<Replica>,
    objects: mesh_services::Read,
    /// For people.
    mistakes: BTreeSet<String>,
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
            described: settings.mesh_services,
        })
    }

    /// Keeps the registry as the cluster is, until the future is dropped.
    pub(super) async fn run(self, gateway: Arc<Gateway>, metrics: DiscoveryMetrics, known: watch::Sender<bool>) {
        let changed = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        let copies: Vec<_> = self.places().iter().map(|at| self.copy(at, &changed, &metrics, &mut tasks)).collect();
        let statuses = watch::Sender::new(BTreeMap::new());
        tasks.spawn(status::write(Arc::clone(&self.contact), COLLECTION, statuses.subscribe()));
        let mut reconfigured = gateway.registry.reconfigured();
        // How services are: it is in the status of objects.
        let mut generation = gateway.generation.subscribe();
        let (mut found, mut told) = (Found::default(), Told::new("discovery.kubernetes"));
        let mut objects = mesh_services::Read::default();
        let mut no_room = BTreeMap::new();
        loop {
            let mut news = true;
            tokio::select! {
                () = changed.notified() => sleep(GATHER).await,
                _ = reconfigured.changed() => {}
                () = sleep(AGAIN), if !no_room.is_empty() => {}
                Ok(()) = generation.changed(), if self.described => news = false,
            }
            // Half of what there is would be a service without replicas.
            if !copies.iter().all(Copies::listed) {
                continue;
            }
            if news {
                let view = self.read(&copies, &objects.holders());
                gateway.registry.describe(&view.objects.services);
                let (count, refused) = found.apply(&gateway, view.replicas);
                no_room = refused.iter().map(|((service, _), full)| (service.clone(), full.to_string())).collect();
                let mut mistakes = view.mistakes;
                mistakes.extend(refused.into_iter().map(|((service, at), full)| format!("{service} at {at}: {full}")));
                metrics.found(count, mistakes.len());
                told.tell(mistakes);
                known.send_replace(true);
                objects = view.objects;
            }
            statuses.send_if_modified(|now| {
                let wanted = objects.statuses(|name| seen(&gateway, name, no_room.get(name)));
                let differ = *now != wanted;
                *now = wanted;
                differ
            });
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
        let objects = self.described.then(|| {
            let shelf = Shelf::new(Arc::clone(changed));
            let path = format!("/apis/mcpx.io/v1{at}/{COLLECTION}");
            tasks.spawn(Reflector { optional: true, ..self.reflector(path, None, &shelf, metrics) }.run());
            shelf
        });
        Copies { services, slices, objects }
    }

    fn reflector<T: Object>(
        &self,
        path: String,
        selector: Option<String>,
        shelf: &Arc<Shelf<T>>,
        metrics: &DiscoveryMetrics,
    ) -> Reflector<T> {
        let (contact, shelf, metrics) = (Arc::clone(&self.contact), Arc::clone(shelf), metrics.clone());
        Reflector { contact, path, selector, most: self.most, optional: false, shelf, metrics }
    }

    fn read(&self, copies: &[Copies], holders: &BTreeMap<String, Key>) -> View {
        let shelves: Vec<_> =
            copies.iter().filter_map(|copy| copy.objects.as_ref()).map(|shelf| shelf.look()).collect();
        let described = shelves.iter().flat_map(|shelf| &shelf.objects);
        let mut objects = mesh_services::read(described, self.reading.any_address, holders);
        let (mut all, mut mistakes) = (objects.replicas.clone(), BTreeSet::new());
        let mut left_out: usize = shelves.iter().map(|shelf| shelf.left_out).sum();
        for Copies { services, slices, .. } in copies {
            let (services, slices) = (services.look(), slices.look());
            let (mut selected, wrong) = annotated(&services.objects);
            objects.select(&mut selected);
            mistakes.extend(wrong);
            all.extend(replicas(&selected, slices.objects.iter(), self.reading, &mut mistakes));
            left_out += services.left_out + slices.left_out;
        }
        let mut told = objects.blame(&mistakes);
        told.extend(mistakes.into_iter().map(|Mistake { at, what }| format!("Service {}/{}: {what}", at.0, at.1)));
        if left_out > 0 {
            told.insert(format!("{left_out} objects are left out: `discovery.kubernetes.max_objects` allows no more"));
        }
        View { replicas: all, objects, mistakes: told }
    }
}

impl Copies {
    fn listed(&self) -> bool {
        self.services.look().listed
            && self.slices.look().listed
            && self.objects.as_ref().is_none_or(|shelf| shelf.look().listed)
    }
}

/// How a service is now.
fn seen(gateway: &Gateway, name: &str, full: Option<&String>) -> Seen {
    let configured = gateway.registry.ask(|members| members.configured(name).is_some());
    let services = gateway.services.load();
    let Some(service) = services.iter().find(|service| *service.name == *name) else {
        return Seen { configured, full: full.cloned(), ..Seen::default() };
    };
    let (replicas, ready, why) = service.standing();
    let asked = service.asked() || why.is_some();
    Seen { replicas, ready, why, asked, full: full.cloned(), configured }
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
