//! Lists that depend on the caller: asked for at the sidecars of such services on behalf of one caller, and merged with what
//! all others are offered (docs/decisions/0016-lists-of-callers.md).
//!
//! ```text
//!  snapshot (all) --+--> the caller's snapshot --> lists, routing, changes: as ever
//!  sidecar: own lists of this caller, or "as all" --+
//! ```
//!
//! Each list is asked for anew, but comes only when it is another one than was kept. What is kept serves calls between
//! lists, which need it for URIs and shortened names alone.

mod ask;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use outrigger_mcp::bridge::meta_keys::CLIENT_SESSION;
use outrigger_mcp::catalog::Catalog;
use outrigger_mcp::catalog::merge::{ServiceState, ServiceView};
use outrigger_mcp::catalog_kind::Kind;
use outrigger_telemetry::ServiceMetrics;
use outrigger_telemetry::metrics::LimitKind;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::core::{Caller, Era, Route};
use crate::gateway::Gateway;
use crate::services::{Condition, Service};
use crate::snapshot::Snapshot;

/// What an entry takes besides its lists.
const ENTRY_BYTES: usize = 2048;

/// What is kept of all callers.
pub(crate) struct CallerLists {
    kept: Mutex<HashMap<Key, Arc<Kept>>>,
    /// Bytes of all of it.
    bytes: usize,
    metrics: Arc<ServiceMetrics>,
}

/// Whose lists: as the sidecars tell sessions apart (docs/decisions/0002-session-extension.md).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    tag: Arc<str>,
    /// Empty for a client session, which declares itself once.
    capabilities: Bytes,
}

/// Held by whoever asks; tells when somebody began to last.
type Turn = Arc<tokio::sync::Mutex<Option<Instant>>>;

/// What is kept of one caller.
struct Kept {
    state: Mutex<State>,
    /// One question at a time for each service.
    turns: Mutex<BTreeMap<Arc<str>, Turn>>,
}

struct State {
    lists: BTreeMap<Arc<str>, Lists>,
    /// The last snapshot that was made with them, and of which one.
    seen: Option<(u64, Arc<Snapshot>)>,
    bytes: usize,
    used: Instant,
}

/// What a service lists for one caller.
#[derive(Debug, Clone)]
enum Lists {
    /// What it lists for all.
    Shared,
    /// Its own.
    Own(Arc<Catalog>),
    /// Its own as they were; they could not be asked for again.
    Stale(Arc<Catalog>),
    /// They could not be asked for.
    Missing(String),
}

impl CallerLists {
    /// Nobody's lists yet; at most so many bytes of them.
    pub(crate) fn new(bytes: usize, metrics: Arc<ServiceMetrics>) -> Self {
        Self { kept: Mutex::default(), bytes, metrics }
    }

    /// What the caller sees on a route now: its own lists are asked for. Who asks at once is answered at once.
    pub(crate) async fn ask(
        gateway: &Arc<Gateway>,
        base: &Arc<Snapshot>,
        caller: &Caller,
        route: &Route,
    ) -> Arc<Snapshot> {
        let this = &gateway.caller_lists;
        let rules = &caller.policy.rules;
        let services = base.varying(route).filter_map(|at| Some((at, Arc::clone(base.services.get(at)?))));
        let mut usable =
            services.filter(|(_, service)| rules.may_use_service(&caller.principal, &service.name)).peekable();
        if usable.peek().is_none() {
            return Arc::clone(base);
        }
        let kept = this.entry(caller);
        let mut asking = JoinSet::new();
        for (at, service) in usable {
            let (gateway, caller, kept) = (Arc::clone(gateway), caller.clone(), Arc::clone(&kept));
            asking.spawn(async move { kept.refresh(&gateway, &caller, at, &service).await });
        }
        while asking.join_next().await.is_some() {}
        let (seen, grown) = kept.snapshot(base, caller.era);
        if grown {
            this.make_room(&key(caller));
        }
        seen
    }

    /// What the caller sees by what is known of it already.
    pub(crate) fn known(&self, base: &Arc<Snapshot>, caller: &Caller) -> Arc<Snapshot> {
        if base.varying.is_empty() {
            return Arc::clone(base);
        }
        let kept = self.lock().get(&key(caller)).cloned();
        kept.map_or_else(|| Arc::clone(base), |kept| kept.snapshot(base, caller.era).0)
    }

    /// Whether anything was asked for on behalf of this caller.
    pub(crate) fn has(&self, caller: &Caller) -> bool {
        self.lock().contains_key(&key(caller))
    }

    fn entry(&self, caller: &Caller) -> Arc<Kept> {
        let new = || {
            let state = State { lists: BTreeMap::new(), seen: None, bytes: ENTRY_BYTES, used: Instant::now() };
            Arc::new(Kept { state: Mutex::new(state), turns: Mutex::default() })
        };
        Arc::clone(self.lock().entry(key(caller)).or_insert_with(new))
    }

    /// Forgets those that were not used for longest until the rest fits, and never the one just made.
    fn make_room(&self, except: &Key) {
        let mut kept = self.lock();
        let mut sizes: Vec<(Instant, usize, Key)> = Vec::with_capacity(kept.len());
        for (key, one) in kept.iter() {
            let state = one.lock();
            sizes.push((state.used, state.bytes, key.clone()));
        }
        let mut total: usize = sizes.iter().map(|(_, bytes, _)| bytes).sum();
        if total <= self.bytes {
            return;
        }
        sizes.sort_unstable_by_key(|(used, ..)| *used);
        for (_, bytes, key) in sizes {
            if total <= self.bytes {
                break;
            }
            if key != *except && kept.remove(&key).is_some() {
                total -= bytes;
                self.metrics.limited(LimitKind::CallerLists);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Kept>>> {
        // Every use is a map operation.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(caller: &Caller) -> Key {
    let once = caller.session_tag.starts_with(CLIENT_SESSION);
    let capabilities = if once { Bytes::new() } else { caller.declared.capabilities.clone() };
    Key { tag: Arc::clone(&caller.session_tag), capabilities }
}

impl Kept {
    /// Asks one service, unless somebody did since we wanted to.
    async fn refresh(&self, gateway: &Gateway, caller: &Caller, at: usize, service: &Arc<Service>) {
        let arrived = Instant::now();
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(Arc::clone(&service.name)).or_default())
        };
        let mut asked = turn.lock().await;
        if asked.is_some_and(|asked| asked >= arrived) {
            return;
        }
        let begun = Instant::now();
        let known = self.lock().lists.get(&service.name).cloned();
        let answer = ask::ask(gateway, caller, at, service, known.as_ref().and_then(Lists::catalog)).await;
        let lists = match (answer, known) {
            (Ok(ask::Answer::Shared), _) => Lists::Shared,
            (Ok(ask::Answer::Own(catalog)), _) => Lists::Own(catalog),
            (Ok(ask::Answer::Unchanged), Some(Lists::Own(catalog) | Lists::Stale(catalog))) => Lists::Own(catalog),
            (Ok(ask::Answer::Unchanged), _) => Lists::Missing("its lists cannot be read".to_owned()),
            (Err(failure), known) => {
                tracing::debug!(service = %service.name, %failure, "the lists of a caller cannot be asked for");
                match known {
                    Some(Lists::Own(catalog) | Lists::Stale(catalog)) => Lists::Stale(catalog),
                    Some(Lists::Shared) => Lists::Shared,
                    Some(Lists::Missing(_)) | None => Lists::Missing(failure.bare()),
                }
            }
        };
        self.lock().lists.insert(Arc::clone(&service.name), lists);
        *asked = Some(begun);
    }

    /// All services with the lists of this caller, and whether that had to be made.
    fn snapshot(&self, base: &Arc<Snapshot>, era: Era) -> (Arc<Snapshot>, bool) {
        let mut state = self.lock();
        state.used = Instant::now();
        let mut others = Vec::new();
        for at in &base.varying {
            let Some(view) = base.merged.services().get(*at) else { continue };
            if let Some((view, condition)) = state.lists.get(&view.name).and_then(|lists| lists.view(view)) {
                others.push((*at, view, condition));
            }
        }
        if others.is_empty() {
            (state.seen, state.bytes) = (None, ENTRY_BYTES);
            return (Arc::clone(base), true);
        }
        if let Some((serial, seen)) = &state.seen
            && *serial == base.serial
            && others.iter().all(|other| is_in(seen, other))
        {
            return (Arc::clone(seen), false);
        }
        let seen = Arc::new(base.with(&others));
        let own: usize = others.iter().map(|(_, view, _)| size(&view.catalog)).sum();
        // What is joined for this caller alone: at most each definition once, and once as its older revision reads it.
        let joined: usize = seen.merged.services().iter().map(|view| size(&view.catalog)).sum();
        let times = if era == Era::Legacy { 2 } else { 1 };
        state.bytes = ENTRY_BYTES + own + joined * times;
        state.seen = Some((base.serial, Arc::clone(&seen)));
        (seen, true)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is changed under it is changed whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lists {
    fn catalog(&self) -> Option<&Arc<Catalog>> {
        match self {
            Lists::Own(catalog) | Lists::Stale(catalog) => Some(catalog),
            Lists::Shared | Lists::Missing(_) => None,
        }
    }

    /// The service as the caller sees it; `None` when that is how all do.
    fn view(&self, all: &ServiceView) -> Option<(ServiceView, Condition)> {
        let (catalog, state, condition) = match self {
            Lists::Shared => return None,
            Lists::Own(catalog) => (Arc::clone(catalog), ServiceState::Fresh, Condition::Ok),
            Lists::Stale(catalog) => (Arc::clone(catalog), ServiceState::Stale, Condition::Stale),
            Lists::Missing(why) => (Arc::new(Catalog::empty()), ServiceState::Missing, Condition::Down(why.clone())),
        };
        Some((ServiceView { name: Arc::clone(&all.name), catalog, state }, condition))
    }
}

/// Whether a snapshot was made with this.
fn is_in(seen: &Snapshot, (at, view, condition): &(usize, ServiceView, Condition)) -> bool {
    let listed = seen.merged.services().get(*at);
    let same = |listed: &ServiceView| {
        let offered = seen.offered.get(*at).is_some_and(|offered| Arc::ptr_eq(offered, &view.catalog));
        (offered || view.state == ServiceState::Missing) && listed.state == view.state
    };
    listed.is_some_and(same) && seen.conditions.get(*at) == Some(condition)
}

fn size(catalog: &Catalog) -> usize {
    Kind::ALL.iter().flat_map(|kind| catalog.list(*kind).items()).map(|item| item.raw().len()).sum()
}
