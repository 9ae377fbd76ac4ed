//! What a caller who listens is told: changes of visible lists, and of resources.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use outrigger_mcp::catalog_kind::Kind;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::authorize::may_read;
use crate::caller_lists::CallerLists;
use crate::core::{Caller, Change, ListKind, Route, Wanted};
use crate::gateway::Gateway;
use crate::services::Service;
use crate::snapshot::Snapshot;
use crate::subscribe::{Subscription, subscribe};

/// Changes of resources that wait for a slow listener; then the services wait.
const QUEUE: usize = 64;
/// A service that takes longer to say that it listens does not hold up its client.
const BEGIN: Duration = Duration::from_secs(2);

/// Between two looks at the lists, at least: a service whose lists flap makes no storm.
const PACE: Duration = Duration::from_secs(1);

/// The changes that concern one caller. Dropping it ends every listening on its behalf.
#[derive(Debug)]
pub struct Changes {
    gateway: Arc<Gateway>,
    caller: Caller,
    route: Route,
    session: bool,
    resources: Vec<String>,
    seen: [Option<[[u8; 16]; 2]>; 3],
    generation: watch::Receiver<u64>,
    /// Those that are listened to, some of them.
    services: Arc<Vec<Arc<Service>>>,
    /// Those of them whose lists depend on the caller.
    varying: Vec<usize>,
    /// Lists of this caller on their way.
    looking: JoinSet<Arc<Snapshot>>,
    /// When to look at the lists, while a change waits for others to come.
    due: Option<Instant>,
    /// When a change of a list was told last.
    told: Option<Instant>,
    ready: VecDeque<Change>,
    listening: JoinSet<()>,
    updates: mpsc::Receiver<Change>,
    /// Closed once the services have begun to tell of resources.
    begun: Option<mpsc::Receiver<Infallible>>,
}

impl Changes {
    pub(crate) fn new(gateway: &Arc<Gateway>, caller: &Caller, route: &Route, wanted: Wanted) -> Self {
        let generation = gateway.generation.subscribe();
        let mut this = Self {
            gateway: Arc::clone(gateway),
            caller: caller.clone(),
            route: route.clone(),
            session: wanted.session,
            resources: Vec::new(),
            seen: [None; 3],
            generation,
            services: Arc::clone(&gateway.snapshot.load().services),
            varying: Vec::new(),
            looking: JoinSet::new(),
            due: None,
            told: None,
            ready: VecDeque::new(),
            listening: JoinSet::new(),
            updates: mpsc::channel(1).1,
            begun: None,
        };
        this.seen = this.look(&gateway.known_to(caller));
        this.set_resources(wanted.resources);
        this
    }

    /// The URIs that are listened to: those of [`Wanted::resources`] that exist, that the caller may read, and whose
    /// service tells of changes.
    pub fn resources(&self) -> &[String] {
        &self.resources
    }

    /// Listens to these resources from now on, and no others. Changes between the old listening and the new are made up
    /// for: every resource that stays counts as changed once.
    pub fn set_resources(&mut self, resources: Vec<String>) {
        let (updates, receiver) = mpsc::channel(QUEUE);
        let again = !self.listening.is_empty();
        let mut listening = JoinSet::new();
        let old = std::mem::take(&mut self.resources);
        let (beginning, begun) = mpsc::channel(1);
        for subscription in self.subscriptions(resources, &beginning) {
            self.resources.extend(subscription.resources.values().cloned());
            listening.spawn(subscribe(Arc::clone(&self.gateway), self.caller.clone(), subscription, updates.clone()));
        }
        if again {
            let stay = self.resources.iter().filter(|uri| old.contains(uri)).cloned();
            self.ready.extend(stay.map(|uri| Change::Resource { uri }));
        }
        (self.listening, self.updates, self.begun) = (listening, receiver, Some(begun));
    }

    /// Resolves when every service that is to tell of resources has begun to, or does not in time. To confirm a
    /// subscription earlier would lose what changes right after.
    pub fn begun(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let begun = self.begun.take();
        async move {
            if let Some(mut begun) = begun {
                let _ = timeout(BEGIN, begun.recv()).await;
            }
        }
    }

    /// The next change; `None` when we drain, or the caller's token is no longer valid. Cancelling the future loses nothing.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Some(change);
            }
            let due = self.due;
            let look = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.gateway.draining.signaled() => return None,
                Some(Ok(snapshot)) = self.looking.join_next() => self.tell(&snapshot),
                () = look, if self.looking.is_empty() => {
                    self.due = None;
                    if !self.gateway.clients.still(&self.caller.principal) {
                        return None;
                    }
                    self.compare();
                }
                Ok(()) = self.generation.changed(), if due.is_none() => self.look_soon(),
                Some(change) = self.updates.recv() => match change {
                    // The service says that something changed; what of it the caller sees is ours to find out.
                    Change::List(_) => self.look_soon(),
                    change => return Some(change),
                },
            }
        }
    }

    /// Looks at the lists once other changes had time to come.
    fn look_soon(&mut self) {
        let soon = Instant::now() + self.gateway.timeouts.list_changed_coalesce;
        self.due.get_or_insert(self.told.map_or(soon, |told| soon.max(told + PACE)));
    }

    /// Looks at the lists again, with the rules in force now.
    fn compare(&mut self) {
        let base = self.gateway.snapshot.load_full();
        let (policy, services) = (self.gateway.policy(), Arc::clone(&base.services));
        let rules = !Arc::ptr_eq(&policy, &self.caller.policy);
        if rules {
            self.caller.class = policy.rules.visibility_class(&self.caller.principal);
            self.caller.policy = policy;
        }
        let varying: Vec<usize> = base.varying(&self.route).collect();
        if rules || !Arc::ptr_eq(&services, &self.services) || varying != self.varying {
            self.services = services;
            // What may be read, or whom to ask, has changed too.
            if !self.resources.is_empty() || self.session || varying != self.varying {
                let resources = self.resources.clone();
                self.set_resources(resources);
            }
        }
        if !base.varies(&self.route) {
            return self.tell(&base);
        }
        let (gateway, caller, route) = (Arc::clone(&self.gateway), self.caller.clone(), self.route.clone());
        self.looking.spawn(async move { CallerLists::ask(&gateway, &base, &caller, &route).await });
    }

    /// Tells what is not as it was.
    fn tell(&mut self, snapshot: &Snapshot) {
        let now = self.look(snapshot);
        for ((list, before), after) in ListKind::ALL.into_iter().zip(self.seen).zip(now) {
            if before != after {
                self.ready.push_back(Change::List(list));
                self.told = Some(Instant::now());
            }
        }
        self.seen = now;
    }

    fn look(&self, snapshot: &Snapshot) -> [Option<[[u8; 16]; 2]>; 3] {
        let view = snapshot.view(&self.caller, &self.route);
        ListKind::ALL.map(|list| view.as_ref().map(|view| view.fingerprint(list)))
    }

    /// Which services have to be listened to, and for what. Each that has begun to tell of its resources drops `begun`.
    fn subscriptions(&mut self, resources: Vec<String>, begun: &mpsc::Sender<Infallible>) -> Vec<Subscription> {
        let snapshot = self.gateway.known_to(&self.caller);
        self.varying = snapshot.varying(&self.route).collect();
        let Some((catalog, at)) = snapshot.catalog(&self.route) else { return Vec::new() };
        let mut by_service: BTreeMap<usize, BTreeMap<String, String>> = BTreeMap::new();
        for asked in resources {
            let Ok(target) = catalog.resolve_uri(&asked) else { continue };
            let Some(service) = catalog.services().get(target.service) else { continue };
            if may_read(&self.caller, &service.name, Kind::Resource, target.original) && tells(&service.catalog) {
                let original = target.original.to_owned();
                by_service.entry(at.unwrap_or(target.service)).or_default().insert(original, asked);
            }
        }
        let rules = &self.caller.policy.rules;
        for (index, service) in snapshot.services.iter().enumerate() {
            let here = at.is_none_or(|at| at == index);
            let talks = (self.session && service.stateful()) || self.varying.contains(&index);
            if here && talks && rules.may_use_service(&self.caller.principal, &service.name) {
                by_service.entry(index).or_default();
            }
        }
        let subscription = |(at, resources): (usize, BTreeMap<String, String>)| {
            let service = Arc::clone(snapshot.services.get(at)?);
            Some(Subscription {
                at,
                // Servers without sessions say nothing outside calls.
                session: self.session && service.stateful(),
                lists: self.varying.contains(&at),
                begun: (!resources.is_empty()).then(|| begun.clone()),
                service,
                resources,
            })
        };
        by_service.into_iter().filter_map(subscription).collect()
    }
}

/// Whether a server says that it tells of changes of resources.
fn tells(catalog: &outrigger_mcp::catalog::Catalog) -> bool {
    let capabilities = catalog.about().capabilities.as_ref();
    let value = capabilities.and_then(|raw| serde_json::from_slice::<serde_json::Value>(raw).ok());
    value.is_some_and(|value| value["resources"]["subscribe"] == true)
}
