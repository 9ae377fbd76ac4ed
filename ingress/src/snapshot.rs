//! What all services offer at one moment, and what each class of callers sees of it, as bytes ready to send.
//!
//! A snapshot is immutable; a change of any service or of the policy makes another one. Lists are joined when the first
//! caller of a class asks and kept for the rest of it.

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
use tokio::time::{Instant, sleep_until};

use crate::core::{Caller, Era, Route};
use crate::gateway::Gateway;
use crate::integrity::{self, Checked, Integrity};
use crate::services::{Condition, Service};
use crate::view::View;

/// Classes of callers whose lists are kept. Meshes have a handful of roles; beyond this, lists are joined anew.
const MAX_VIEWS: usize = 64;

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
    pub(crate) conditions: Vec<Condition>,
    /// What each offers, in the same order: of that, [`Snapshot::merged`] has what may be listed.
    pub(crate) offered: Vec<Arc<Catalog>>,
    /// What calls are held to, in the same order; nothing without a lock.
    checked: Vec<Option<Arc<Checked>>>,
    /// The services whose lists depend on who asks, as indices.
    pub(crate) varying: Vec<usize>,
    /// Tells snapshots apart.
    pub(crate) serial: u64,
    naming: Naming,
    /// Pages of lists are cut at this size.
    page_bytes: usize,
    integrity: Arc<Integrity>,
    views: Mutex<HashMap<ViewKey, Arc<View>>>,
}

/// Whom a view is for: a class of callers, on an endpoint (`None` is the merged one), of an era.
type ViewKey = (u64, Option<usize>, Era);

impl Snapshot {
    /// What is known now, and when that changes by itself because a grace period ends.
    pub(crate) fn take(
        services: &Arc<Vec<Arc<Service>>>,
        naming: Naming,
        grace: Duration,
        page_bytes: usize,
        integrity: &Arc<Integrity>,
    ) -> (Self, Option<Instant>) {
        let now = Instant::now();
        let (mut views, mut conditions, mut next) = (Vec::new(), Vec::new(), None::<Instant>);
        let (mut offered, mut checked) = (Vec::new(), Vec::new());
        for service in services.iter() {
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
        let singles = views.iter().cloned().map(Merged::single).map(Arc::new).collect();
        let services = Arc::clone(services);
        let merged = Merged::new(views, naming);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let views = Mutex::default();
        let integrity = Arc::clone(integrity);
        let snapshot = Self {
            services,
            merged,
            singles,
            conditions,
            offered,
            checked,
            varying,
            serial,
            naming,
            page_bytes,
            integrity,
            views,
        };
        (snapshot, next)
    }

    /// The same with other lists of some services: as one caller sees it.
    pub(crate) fn with(&self, others: &[(usize, ServiceView, Condition)]) -> Self {
        let (mut views, mut singles) = (self.merged.services().to_vec(), self.singles.clone());
        let mut conditions = self.conditions.clone();
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
            merged: Merged::new(views, self.naming),
            singles,
            conditions,
            offered,
            checked,
            varying: self.varying.clone(),
            serial: self.serial,
            naming: self.naming,
            page_bytes: self.page_bytes,
            integrity: Arc::clone(&self.integrity),
            views: Mutex::default(),
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

    /// What calls of a service are held to.
    pub(crate) fn checked(&self, at: usize) -> Option<&Arc<Checked>> {
        self.checked.get(at)?.as_ref()
    }

    /// What the caller sees on a route. `None` when the route does not exist.
    pub(crate) fn view(&self, caller: &Caller, route: &Route) -> Option<Arc<View>> {
        let (catalog, at) = self.catalog(route)?;
        let key = (caller.class(), at, caller.era);
        if let Some(view) = self.lock().get(&key) {
            return Some(Arc::clone(view));
        }
        // Built outside the lock: it takes as long as the catalog is large, and others want theirs meanwhile.
        let view = Arc::new(View::build(catalog, &self.conditions, at, caller, self.page_bytes, self.varies(route)));
        let mut views = self.lock();
        if views.len() >= MAX_VIEWS {
            views.clear();
        }
        views.insert(key, Arc::clone(&view));
        Some(view)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ViewKey, Arc<View>>> {
        // Views are inserted whole.
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a new snapshot whenever a watcher has news or a grace period ends, until the future is dropped. News that come
/// while it works are taken together.
pub(crate) async fn keep(gateway: Arc<Gateway>, news: Arc<Notify>) {
    loop {
        let until = refresh(&gateway);
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
    let mut scanned = Vec::new();
    while gateway.integrity.scans() {
        let snapshot = gateway.snapshot.load_full();
        let services: Vec<_> = snapshot.services.iter().cloned().zip(snapshot.offered.iter().cloned()).collect();
        drop(snapshot);
        // With the names: the same definitions mean something else beside those of other services.
        let now: Vec<_> = services
            .iter()
            .map(|(service, catalog)| (service.name.clone(), catalog.fingerprint().to_owned()))
            .collect();
        if now != scanned {
            scanned = now;
            let integrity = Arc::clone(&gateway.integrity);
            // A panic in there must not end the looking.
            let _ = tokio::task::spawn_blocking(move || integrity.scan(&services)).await;
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
        let (snapshot, until) =
            Snapshot::take(&services, gateway.naming, grace, gateway.limits.page_bytes, &gateway.integrity);
        for warning in snapshot.merged.warnings() {
            tracing::debug!(warning, "left out of the merged catalog");
        }
        report(&snapshot);
        (snapshot, until)
    });
    announce(&gateway.generation);
    until
}

/// Tells listeners to look at what they see.
pub(crate) fn announce(generation: &watch::Sender<u64>) {
    generation.send_modify(|generation| *generation = generation.wrapping_add(1));
}

fn report(snapshot: &Snapshot) {
    let services = snapshot.services.iter().zip(snapshot.merged.services());
    for ((service, view), checked) in services.zip(&snapshot.checked) {
        let state = match view.state {
            ServiceState::Fresh => CatalogState::Fresh,
            ServiceState::Stale => CatalogState::Stale,
            ServiceState::Missing if service.asked() => CatalogState::Dropped,
            ServiceState::Missing => CatalogState::Unknown,
        };
        service.metrics.set_catalog_state(state);
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
