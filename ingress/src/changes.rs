//! What a caller who listens is told: changes of visible lists, and of resources.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_mcp::catalog_kind::Kind;
use outrigger_proxy::failure::Failure;
use outrigger_proxy::legacy::mesh::Unheard;
use outrigger_proxy::piece::{self, QUEUE, QUIET, at, outgrown};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::authorize::{authorize_listen, may_read};
use crate::caller_lists::CallerLists;
use crate::core::{Caller, Change, ListKind, Route, Wanted};
use crate::gateway::Gateway;
use crate::services::Service;
use crate::snapshot::Snapshot;
use crate::subscribe::Subscription;

/// Between two looks at the lists, at least: a service whose lists flap makes no storm.
const PACE: Duration = Duration::from_secs(1);

type Piece = piece::Piece<Subscription>;

/// URIs of resources by the index of their service: the service's own to the caller's.
type ByService = BTreeMap<usize, BTreeMap<String, String>>;

/// The changes that concern one caller. Dropping it ends every listening on its behalf.
#[derive(Debug)]
pub struct Changes {
    gateway: Arc<Gateway>,
    caller: Caller,
    route: Route,
    session: bool,
    /// What our listens for a modern one have in common.
    tag: Option<Arc<str>>,
    /// What the caller wishes to hear of, whether or not it exists now.
    asked: Vec<String>,
    /// What of that is listened to.
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
    /// What services say outside calls, and of lists that depend on the caller.
    talks: Vec<Piece>,
    /// Who tells of resources: several for one service, each of some of them.
    pieces: Vec<Piece>,
    /// When to make one of those of each service.
    quiet: Option<Instant>,
    /// Pieces wait to be merged until the lists of this caller are there; `true`: all of them.
    merging: Option<bool>,
    /// When the caller's token ends.
    ends: Option<Instant>,
    updates: (mpsc::Sender<Change>, mpsc::Receiver<Change>),
}

impl Changes {
    /// `tag` is what the listens have in common that are opened for one of a modern client.
    pub(crate) fn new(
        gateway: &Arc<Gateway>,
        caller: &Caller,
        route: &Route,
        (wanted, tag): (Wanted, Option<Arc<str>>),
    ) -> Self {
        let generation = gateway.generation.subscribe();
        let mut this = Self {
            gateway: Arc::clone(gateway),
            caller: caller.clone(),
            route: route.clone(),
            session: wanted.session,
            tag,
            asked: Vec::new(),
            resources: Vec::new(),
            seen: [None; 3],
            generation,
            services: Arc::clone(&gateway.snapshot.load().services),
            varying: Vec::new(),
            looking: JoinSet::new(),
            due: None,
            told: None,
            ready: VecDeque::new(),
            talks: Vec::new(),
            pieces: Vec::new(),
            quiet: None,
            merging: None,
            ends: caller.until.map(instant),
            updates: mpsc::channel(QUEUE),
        };
        let known = gateway.known_to(caller);
        this.seen = this.look(&known);
        this.talk(&known);
        this.set_resources(wanted.resources);
        this
    }

    /// Listens to these resources from now on, and no others. Those that are listened to stay so without a gap: a listen for
    /// the others is opened beside theirs.
    pub fn set_resources(&mut self, resources: Vec<String>) {
        let known = self.gateway.known_to(&self.caller);
        self.asked = resources;
        let wanted = self.wanted(&known);
        for (at, uris) in &wanted {
            let Some(service) = known.services.get(*at) else { continue };
            let new = |(own, asked): &(&String, &String)| !self.pieces.iter().any(|p| covers(p, service, own, asked));
            let more: Vec<String> = uris.iter().filter(new).map(|(own, _)| own.clone()).collect();
            if !more.is_empty() {
                self.add(*at, service, uris, more);
            }
        }
        self.quiet = (!self.asked.is_empty()).then(|| Instant::now() + QUIET);
        // Narrowed lazily: what is told of the rest of a piece is left out.
        let resources = &self.resources;
        self.pieces.retain(|piece| piece.source.resources.values().any(|uri| resources.contains(uri)));
    }

    /// Listens for more resources of a service, in a piece that takes the place of those that are no larger.
    fn add(&mut self, at: usize, service: &Arc<Service>, wanted: &BTreeMap<String, String>, more: Vec<String>) {
        let of_service = |source: &Subscription| Arc::ptr_eq(&source.service, service);
        let size = |source: &Subscription| of_service(source).then_some(source.resources.len());
        let before = outgrown(&mut self.pieces, more.len(), size);
        let old = before.iter().flat_map(|piece| piece.source.resources.keys().cloned());
        let uris = old.chain(more).filter_map(|own| wanted.get(&own).map(|asked| (own.clone(), asked.clone())));
        let resources = uris.collect();
        self.replace(at, service, resources, (before, Vec::new()));
    }

    /// Begins a piece in the place of those before. `owed`: what may have changed while nobody listened.
    fn replace(
        &mut self,
        at: usize,
        service: &Arc<Service>,
        resources: BTreeMap<String, String>,
        (before, owed): (Vec<Piece>, Vec<String>),
    ) {
        let source = Subscription { resources, ..self.nothing_of(at, service) };
        let owed = owed.into_iter().map(|uri| Change::Resource { uri }).collect();
        self.pieces.push(Piece::begin(source, (before, owed), &self.updates.0));
    }

    /// A subscription to nothing yet.
    fn nothing_of(&self, at: usize, service: &Arc<Service>) -> Subscription {
        Subscription {
            gateway: Arc::clone(&self.gateway),
            caller: self.caller.clone(),
            tag: self.tag.clone(),
            at,
            service: Arc::clone(service),
            resources: BTreeMap::new(),
            session: false,
            lists: false,
        }
    }

    /// One listen at each service for all its resources. `all` also where there is but one: what is asked, of whom, or with
    /// which rules has changed. A resource that was away counts as changed when it is back.
    fn merge(&mut self, known: &Snapshot, all: bool) {
        let listened = std::mem::take(&mut self.resources);
        let wanted = self.wanted(known);
        let mut old = std::mem::take(&mut self.pieces);
        for (at, uris) in wanted {
            let Some(service) = known.services.get(at) else { continue };
            let of_service = |piece: &mut Piece| piece.source.service.name == service.name;
            let mut before: Vec<Piece> = old.extract_if(.., of_service).collect();
            if authorize_listen(&self.caller, at, service).is_err() {
                // Those of now are for rules that no longer hold.
                before.clear();
            }
            let back: Vec<String> = uris.values().filter(|uri| !listened.contains(uri)).cloned().collect();
            let much = before.iter().any(|piece| piece.source.resources.len() > 2 * uris.len());
            if all || much || before.len() != 1 || !back.is_empty() {
                self.replace(at, service, uris, (before, back));
            } else {
                self.pieces.extend(before);
            }
        }
    }

    /// Resolves when every service that is to tell has begun to, or refuses, or does neither in time; with what is refused.
    pub fn begun(&mut self) -> impl Future<Output = Unheard> + Send + use<> {
        let (pieces, talks) = (piece::begun(&self.pieces), piece::begun(self.needed()));
        async move {
            let (pieces, _) = tokio::join!(pieces, talks);
            let named = pieces.iter().flat_map(|(source, begun)| source.resources.iter().map(move |uri| (uri, begun)));
            named.filter_map(|((own, asked), begun)| Some((asked.clone(), begun.refuses(own)?))).collect()
        }
    }

    /// The other listens that a caller waits for. What a session hears besides does not hold up its subscriptions.
    fn needed(&self) -> &[Piece] {
        if self.session { &[] } else { &self.talks }
    }

    /// What of [`Wanted::resources`] is listened to, but for what is refused: those that exist, that the caller may read, and
    /// whose service tells of changes.
    pub fn honoured(&self, refused: &Unheard) -> Vec<String> {
        self.resources.iter().filter(|uri| !refused.contains_key(*uri)).cloned().collect()
    }

    /// The limit for which nothing is listened to that was asked for; of one service, for which any of it is not.
    pub fn limited(&self) -> Option<Failure> {
        let all = || self.pieces.iter().chain(self.needed());
        let limited = |piece: &Piece| piece.refused().and_then(|failure| failure.limited());
        let some_will_do = self.route == Route::Merged;
        if some_will_do && !all().all(|piece| limited(piece).is_some()) {
            return None;
        }
        all().find_map(limited)
    }

    /// The next change; `None` when we drain, or the caller's token is no longer valid. Cancelling the future loses nothing.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Some(change);
            }
            let (due, quiet, ends) = (self.due, self.quiet, self.ends);
            tokio::select! {
                biased;
                () = self.gateway.draining.signaled() => return None,
                () = at(ends), if ends.is_some() => return None,
                Some(Ok(snapshot)) = self.looking.join_next() => {
                    self.tell(&snapshot);
                    let merging = self.merging.take();
                    // Some of what was asked for may be there now, or no longer.
                    if merging.is_some() || !self.listened(&snapshot) {
                        self.merge(&snapshot, merging == Some(true));
                    }
                }
                () = at(due), if due.is_some() && self.looking.is_empty() => {
                    self.due = None;
                    if !self.gateway.clients.still(&self.caller.principal, self.caller.until) {
                        return None;
                    }
                    self.compare();
                }
                Ok(()) = self.generation.changed(), if due.is_none() => self.look_soon(),
                () = at(quiet) => {
                    self.quiet = None;
                    self.merge_soon(false);
                }
                Some(change) = self.updates.1.recv() => match change {
                    // The service says that something changed; what of it the caller sees is ours to find out.
                    Change::List(_) => self.look_soon(),
                    // Of a listen for more than is wanted by now.
                    Change::Resource { uri } if !self.resources.contains(&uri) => {}
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
            self.caller.policy = policy;
        }
        let varying: Vec<usize> = base.varying(&self.route).collect();
        if rules || !Arc::ptr_eq(&services, &self.services) || varying != self.varying {
            self.services = services;
            // What may be read, or whom to ask, has changed too.
            if !self.asked.is_empty() || self.session || varying != self.varying {
                let known = self.gateway.known_to(&self.caller);
                self.talk(&known);
                self.merge_soon(true);
            }
        }
        if base.varies(&self.route) { self.ask(base) } else { self.tell(&base) }
    }

    /// Asks for the lists of this caller.
    fn ask(&mut self, base: Arc<Snapshot>) {
        let (gateway, caller, route) = (Arc::clone(&self.gateway), self.caller.clone(), self.route.clone());
        self.looking.spawn(async move { CallerLists::ask(&gateway, &base, &caller, &route).await });
    }

    /// Merges, once the lists of this caller are there: what is kept of them may be gone, and with it every resource of them.
    fn merge_soon(&mut self, all: bool) {
        let base = self.gateway.snapshot.load_full();
        if base.varies(&self.route) {
            self.merging = Some(all || self.merging == Some(true));
            self.ask(base);
        } else {
            self.merge(&base, all);
        }
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

    /// The resources that exist, that the caller may read, and whose service tells of changes: now [`Self::resources`].
    fn wanted(&mut self, snapshot: &Snapshot) -> ByService {
        let by_service = self.resolved(snapshot);
        self.resources = by_service.values().flat_map(BTreeMap::values).cloned().collect();
        by_service
    }

    /// Whether just that is listened to which should be.
    fn listened(&self, snapshot: &Snapshot) -> bool {
        self.resolved(snapshot).values().flat_map(BTreeMap::values).eq(&self.resources)
    }

    fn resolved(&self, snapshot: &Snapshot) -> ByService {
        let mut by_service = ByService::new();
        let Some((catalog, at)) = snapshot.catalog(&self.route) else { return by_service };
        for asked in &self.asked {
            let Ok(target) = catalog.resolve_uri(asked) else { continue };
            let Some(service) = catalog.services().get(target.service) else { continue };
            if may_read(&self.caller, &service.name, Kind::Resource, target.original) && tells(&service.catalog) {
                let original = target.original.to_owned();
                by_service.entry(at.unwrap_or(target.service)).or_default().insert(original, asked.clone());
            }
        }
        by_service
    }

    /// Listens, from now on, to what services say outside calls and of lists that depend on the caller. Where it did before
    /// that ends first: what is said to a session must not be told twice.
    fn talk(&mut self, snapshot: &Snapshot) {
        self.talks.clear();
        self.varying = snapshot.varying(&self.route).collect();
        let Some((_, only)) = snapshot.catalog(&self.route) else { return };
        let rules = &self.caller.policy.rules;
        for (at, service) in snapshot.services.iter().enumerate() {
            // Servers without sessions say nothing outside calls.
            let (session, lists) = (self.session && service.stateful(), self.varying.contains(&at));
            let here = only.is_none_or(|only| only == at);
            if here && (session || lists) && rules.may_use_service(&self.caller.principal, &service.name) {
                let source = Subscription { session, lists, ..self.nothing_of(at, service) };
                let piece = Piece::begin(source, (Vec::new(), Vec::new()), &self.updates.0);
                self.talks.push(piece);
            }
        }
    }
}

/// Whether a piece tells of a resource, under the name that the caller has for it.
fn covers(piece: &Piece, service: &Arc<Service>, own: &str, asked: &str) -> bool {
    let subscription = &piece.source;
    Arc::ptr_eq(&subscription.service, service) && subscription.resources.get(own).is_some_and(|name| name == asked)
}

/// Whether a server says that it tells of changes of resources.
fn tells(catalog: &outrigger_mcp::catalog::Catalog) -> bool {
    let capabilities = catalog.about().capabilities.as_ref();
    let value = capabilities.and_then(|raw| serde_json::from_slice::<serde_json::Value>(raw).ok());
    value.is_some_and(|value| value["resources"]["subscribe"] == true)
}

/// A time of the day on the clock that timers have.
fn instant(time: SystemTime) -> Instant {
    Instant::now() + time.duration_since(SystemTime::now()).unwrap_or_default()
}
