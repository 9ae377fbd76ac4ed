//! What all services offer at one moment, and what each class of callers sees of it, as bytes ready to send.
//!
//! A snapshot is immutable; a change of any service or of the policy makes another one, which shares with the one before what
//! has not changed. Lists are joined when the first caller of a class asks and kept for the rest of it; those of the next
//! snapshot begin with them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outrigger_mcp::catalog::Catalog;
use outrigger_mcp::catalog::merge::{Merged, ServiceState, ServiceView};
use outrigger_mcp::catalog_kind::Kind;
use outrigger_mcp::names::Naming;
use outrigger_telemetry::metrics::CatalogState;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::core::{Caller, Era, Route};
use crate::gateway::Gateway;
use crate::integrity::{self, Checked, Integrity};
use crate::services::{Condition, Service};
use crate::view::View;

/// Classes of callers whose lists are kept. Meshes have a handful of roles; beyond this, lists are joined anew.
const MAX_VIEWS: usize = 64;
/// Changes after which lists that nobody asks for are forgotten.
const MAX_AGE: u32 = 64;
/// Beyond the time that a snapshot takes, the next one is not taken for so many times as long: with thousands of services that
/// all have news, merging must not be all that the ingress does.
const REST: u32 = 4;
/// The same for looking through definitions, for which nobody waits.
const SCAN_REST: u32 = 9;

/// The next [`Snapshot::serial`].
static SERIAL: AtomicU64 = AtomicU64::new(0);

/// All services at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// The services of which the rest speaks; every list of services here has their order.
    pub(crate) services: Arc<Vec<Arc<Service>>>,
    /// All services as one.
    pub(crate) merged: Merged,
    /// Each service by itself, in the same order.
    pub(crate) singles: Vec<Arc<Merged>>,
    /// What callers are told of each, in the same order.
    pub(crate) conditions: Arc<Vec<Condition>>,
    /// What each offers, in the same order: of that, [`Snapshot::merged`] has what may be listed.
    pub(crate) offered: Vec<Arc<Catalog>>,
    /// What calls are held to, in the same order; nothing without a lock.
    checked: Vec<Option<Arc<Checked>>>,
    /// The services whose lists depend on who asks, as indices.
    pub(crate) varying: Vec<usize>,
    /// The services whose servers have sessions, by what is known, as indices.
    pub(crate) stateful: Vec<usize>,
    /// Whether each had answered.
    answered: Vec<bool>,
    /// Tells snapshots apart.
    pub(crate) serial: u64,
    naming: Naming,
    /// Pages of lists are cut at this size.
    page_bytes: usize,
    integrity: Arc<Integrity>,
    views: Mutex<HashMap<ViewKey, Kept>>,
}

/// Lists that were asked for, of this snapshot or one before.
#[derive(Debug, Clone)]
struct Kept {
    view: Arc<View>,
    /// How many snapshots ago.
    age: u32,
}

/// Whom a view is for: a class of callers, on an endpoint (`None` is the merged one), of an era.
type ViewKey = (u64, Option<usize>, Era);

impl Snapshot {
    /// What is known now, and when that changes by itself because a grace period ends.
    pub(crate) fn take(
        before: Option<&Self>,
        services: &Arc<Vec<Arc<Service>>>,
        naming: Naming,
        grace: Duration,
        page_bytes: usize,
        integrity: &Arc<Integrity>,
    ) -> (Self, Option<Instant>) {
        let now = Instant::now();
        let (mut views, mut conditions, mut next) = (Vec::new(), Vec::new(), None::<Instant>);
        let (mut offered, mut checked) = (Vec::new(), Vec::new());
        let mut answered = Vec::with_capacity(services.len());
        for service in services.iter() {
            // Before it is looked at: what it answers meanwhile is for the next one.
            answered.push(service.asked());
            let (mut view, condition, until) = service.view(now, grace);
            next = [next, until].into_iter().flatten().min();
            offered.push(Arc::clone(&view.catalog));
            checked.push(integrity.check(service, &mut view));
            views.push(view);
            conditions.push(condition);
        }
        let fresh = |(at, service): (usize, &Arc<Service>)| {
            let listed = views.get(at).is_some_and(|view: &ServiceView| view.state == ServiceState::Fresh);
            (listed && service.per_caller()).then_some(at)
        };
        let varying = services.iter().enumerate().filter_map(fresh).collect();
        let stateful = services.iter().enumerate().filter(|(_, service)| service.stateful()).map(|(at, _)| at);
        let single = |(at, view): (usize, &ServiceView)| {
            let known = before.and_then(|before| before.single(at, view));
            known.unwrap_or_else(|| Arc::new(Merged::single(view.clone())))
        };
        let snapshot = Self {
            stateful: stateful.collect(),
            singles: views.iter().enumerate().map(single).collect(),
            conditions: before
                .and_then(|before| before.told(services, &conditions))
                .unwrap_or_else(|| Arc::new(conditions)),
            merged: match before {
                Some(before) => before.merged.renewed(views),
                None => Merged::new(views, naming),
            },
            services: Arc::clone(services),
            offered,
            checked,
            varying,
            answered,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            naming,
            page_bytes,
            integrity: Arc::clone(integrity),
            views: Mutex::new(before.map(|before| before.handed_on(services)).unwrap_or_default()),
        };
        (snapshot, next)
    }

    /// The service by itself, if it is known as it is now.
    fn single(&self, at: usize, view: &ServiceView) -> Option<Arc<Merged>> {
        let at = self.merged.services().get(at).filter(|old| old.name == view.name).map(|_| at);
        let single = self.singles.get(at.or_else(|| self.merged.service(&view.name))?)?;
        let same = |old: &ServiceView| Arc::ptr_eq(&old.catalog, &view.catalog) && old.state == view.state;
        single.services().first().is_some_and(same).then(|| Arc::clone(single))
    }

    /// What callers are told, if that is the same of the same services: views go by that.
    fn told(&self, services: &Arc<Vec<Arc<Service>>>, conditions: &[Condition]) -> Option<Arc<Vec<Condition>>> {
        let same = Arc::ptr_eq(&self.services, services) && *self.conditions == conditions;
        same.then(|| Arc::clone(&self.conditions))
    }

    /// Lists with which the next snapshot begins. Those of single services are known by place.
    fn handed_on(&self, services: &Arc<Vec<Arc<Service>>>) -> HashMap<ViewKey, Kept> {
        let placed = Arc::ptr_eq(&self.services, services);
        let views = self.lock();
        let young = views.iter().filter(|((_, at, _), kept)| kept.age < MAX_AGE && (placed || at.is_none()));
        young.map(|(key, kept)| (*key, Kept { view: Arc::clone(&kept.view), age: kept.age + 1 })).collect()
    }

    /// The same with other lists of some services: as one caller sees it.
    pub(crate) fn with(&self, others: &[(usize, ServiceView, Condition)]) -> Self {
        let (mut views, mut singles) = (self.merged.services().to_vec(), self.singles.clone());
        let mut conditions = (*self.conditions).clone();
        let (mut offered, mut checked) = (self.offered.clone(), self.checked.clone());
        for (at, view, condition) in others {
            let slots = (views.get_mut(*at), singles.get_mut(*at), conditions.get_mut(*at));
            let held = (offered.get_mut(*at), checked.get_mut(*at), self.services.get(*at));
            if let (Some(listed), Some(single), Some(told)) = slots
                && let (Some(offered), Some(checked), Some(service)) = held
            {
                let mut view = view.clone();
                *offered = Arc::clone(&view.catalog);
                *checked = self.integrity.check(service, &mut view);
                *single = Arc::new(Merged::single(view.clone()));
                *listed = view;
                *told = condition.clone();
            }
        }
        Self {
            services: Arc::clone(&self.services),
            merged: self.merged.renewed(views),
            singles,
            conditions: Arc::new(conditions),
            stateful: self.stateful.clone(),
            offered,
            checked,
            varying: self.varying.clone(),
            serial: self.serial,
            naming: self.naming,
            page_bytes: self.page_bytes,
            integrity: Arc::clone(&self.integrity),
            answered: self.answered.clone(),
            views: Mutex::new(self.handed_on(&self.services)),
        }
    }

    /// The services on a route whose lists depend on who asks, as indices.
    pub(crate) fn varying(&self, route: &Route) -> impl Iterator<Item = usize> {
        let here = |at: &usize| match route {
            Route::Merged => true,
            Route::Service(name) => self.services.get(*at).is_some_and(|service| service.name == *name),
        };
        self.varying.iter().copied().filter(here)
    }

    /// Whether what is on a route depends on who asks, beyond what policy hides.
    pub(crate) fn varies(&self, route: &Route) -> bool {
        !self.varying.is_empty() && self.varying(route).next().is_some()
    }

    /// The services under the names of a route, and the index of the route's one service. `None` when that does not exist.
    pub(crate) fn catalog(&self, route: &Route) -> Option<(&Merged, Option<usize>)> {
        match route {
            Route::Merged => Some((&self.merged, None)),
            Route::Service(name) => {
                let at = self.merged.service(name)?;
                Some((&**self.singles.get(at)?, Some(at)))
            }
        }
    }

    /// Whether a service, if it is one, had answered when this was taken.
    pub(crate) fn has_answer_of(&self, service: &str) -> bool {
        self.merged.service(service).is_none_or(|at| self.answered.get(at).copied().unwrap_or_default())
    }

    /// What calls of a service are held to.
    pub(crate) fn checked(&self, at: usize) -> Option<&Arc<Checked>> {
        self.checked.get(at)?.as_ref()
    }

    /// What the caller sees on a route. `None` when the route does not exist.
    pub(crate) fn view(&self, caller: &Caller, route: &Route) -> Option<Arc<View>> {
        let (catalog, at) = self.catalog(route)?;
        let key = (caller.class(), at, caller.era);
        let kept = self.lock().get(&key).cloned();
        let before = match kept {
            Some(Kept { view, age: 0 }) => return Some(view),
            older => older.map(|kept| kept.view),
        };
        // Built outside the lock: it takes as long as what has changed is large, and others want theirs meanwhile.
        let varies = self.varies(route);
        let view = View::build(catalog, &self.conditions, at, caller, self.page_bytes, varies, before.as_deref());
        let view = Arc::new(view);
        let mut views = self.lock();
        if views.len() >= MAX_VIEWS && !views.contains_key(&key) {
            views.clear();
        }
        views.insert(key, Kept { view: Arc::clone(&view), age: 0 });
        Some(view)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ViewKey, Kept>> {
        // Views are inserted whole.
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a new snapshot whenever a watcher has news or a grace period ends, until the future is dropped. News that come
/// while it works are taken together.
pub(crate) async fn keep(gateway: Arc<Gateway>, news: Arc<Notify>) {
    loop {
        let began = Instant::now();
        let until = refresh(&gateway);
        sleep(began.elapsed() * REST).await;
        let expiry = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = news.notified() => {}
            () = expiry => {}
        }
    }
}

/// Looks through definitions for what is meant to deceive, whenever they are others than the last time, until the future is
/// dropped. Beside [`keep`], because it takes a while: nobody waits for it.
pub(crate) async fn look_through(gateway: Arc<Gateway>) {
    let mut generation = gateway.generation.subscribe();
    while gateway.integrity.scans() {
        let snapshot = gateway.snapshot.load_full();
        let services: Vec<_> = snapshot.services.iter().cloned().zip(snapshot.offered.iter().cloned()).collect();
        drop(snapshot);
        if let Some(due) = gateway.integrity.due(&services) {
            let (integrity, began) = (Arc::clone(&gateway.integrity), Instant::now());
            // A panic in there must not end the looking. What was not reached is due again with the next change of anything.
            if tokio::task::spawn_blocking(move || integrity.scan(&services, &due)).await.is_err() {
                tracing::error!(
                    "definitions were not looked through to the end; what is left follows with the next change"
                );
            }
            sleep(began.elapsed() * SCAN_REST).await;
        }
        if generation.changed().await.is_err() {
            return;
        }
    }
}

/// Takes a new snapshot now.
pub(crate) fn refresh(gateway: &Gateway) -> Option<Instant> {
    let until = gateway.snapshot.replace(|| {
        let (services, grace) = (gateway.services.load_full(), gateway.timeouts.stale_grace);
        let before = gateway.snapshot.load_full();
        let (naming, page_bytes) = (gateway.naming, gateway.limits.page_bytes);
        let (snapshot, until) = Snapshot::take(Some(&before), &services, naming, grace, page_bytes, &gateway.integrity);
        for warning in snapshot.merged.warnings() {
            tracing::debug!(warning, "left out of the merged catalog");
        }
        report(&snapshot, &before);
        (snapshot, until)
    });
    announce(&gateway.generation);
    until
}

/// Tells listeners to look at what they see.
pub(crate) fn announce(generation: &watch::Sender<u64>) {
    generation.send_modify(|generation| *generation = generation.wrapping_add(1));
}

/// Sets the series of services of which something else is known than before. The first snapshot of all says nothing, and
/// neither did anybody of a service that was not there.
fn report(snapshot: &Snapshot, before: &Snapshot) {
    let aligned = Arc::ptr_eq(&snapshot.services, &before.services);
    let services = snapshot.services.iter().zip(snapshot.merged.services()).zip(&snapshot.checked);
    for (at, ((service, view), checked)) in services.enumerate() {
        let state = match view.state {
            ServiceState::Fresh => CatalogState::Fresh,
            ServiceState::Stale => CatalogState::Stale,
            ServiceState::Missing if service.asked() => CatalogState::Dropped,
            ServiceState::Missing => CatalogState::Unknown,
        };
        service.metrics.set_catalog_state(state);
        let old = before.merged.services().get(at).zip(before.checked.get(at)).filter(|_| aligned);
        let same = |(old, was): (&ServiceView, &Option<Arc<Checked>>)| {
            Arc::ptr_eq(&old.catalog, &view.catalog)
                && was.as_ref().map(Arc::as_ptr) == checked.as_ref().map(Arc::as_ptr)
        };
        if old.is_some_and(same) {
            continue;
        }
        integrity::report(&service.metrics, checked.as_ref());
        for kind in Kind::ALL {
            service.metrics.set_catalog_items(kind, view.catalog.list(kind).items().len());
        }
        let kinds = [Kind::Tool, Kind::Prompt, Kind::Resource];
        service
            .metrics
            .set_capabilities(kinds.iter().flat_map(|kind| view.catalog.list(*kind).items()).map(|item| item.key()));
    }
}
