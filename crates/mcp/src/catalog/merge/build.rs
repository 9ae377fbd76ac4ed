//! How a merge is built: who claims which URI, which names need shortening, and what cannot be told apart. What the merge
//! before knew and still holds is taken from it.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use super::{Merged, Owner, Owners, ServiceState, ServiceView, Shortened, Uris};
use crate::{
    catalog::{Catalog, Item, uri},
    catalog_kind::Kind,
    names::Naming,
};

/// More would say nothing new.
const MAX_WARNINGS: usize = 100;

type ByName = HashMap<Arc<str>, u32>;

impl Merged {
    pub(super) fn build(services: Vec<ServiceView>, naming: Option<Naming>, before: Option<&Self>) -> Self {
        let before = before.map(|merged| Before { merged, aligned: merged.has_names_of(&services) });
        let by_name = match &before {
            Some(before) if before.aligned => Arc::clone(&before.merged.by_name),
            _ => Arc::new(by_name(&services)),
        };
        let lasting = [const { OnceLock::new() }; 4];
        let Some(naming) = naming else {
            let (shortened, uris, warnings) = (Vec::new(), Arc::default(), Vec::new());
            return Self { services, naming, by_name, shortened, uris, warnings, lasting };
        };
        let known = |at, service| before.as_ref().and_then(|before| before.shortened(at, service));
        // Nearly all names fit.
        let nothing = Arc::new(Shortened::default());
        let shortened = services.iter().enumerate();
        let shortened = shortened
            .map(|(at, service)| known(at, service).unwrap_or_else(|| shorten(service, naming, &nothing)))
            .collect::<Vec<_>>();
        let known = before.as_ref().and_then(|before| before.uris(&services));
        let uris = known.unwrap_or_else(|| Arc::new(Uris::of(&services, &by_name)));
        let warnings = shortened.iter().flat_map(|own| &own.warnings).chain(&uris.warnings);
        let warnings = warnings.take(MAX_WARNINGS).cloned().collect();
        Self { services, naming: Some(naming), by_name, shortened, uris, warnings, lasting }
    }

    /// Whether these are services of the same names in the same order.
    fn has_names_of(&self, services: &[ServiceView]) -> bool {
        let same = |(a, b): (&ServiceView, &ServiceView)| Arc::ptr_eq(&a.name, &b.name) || a.name == b.name;
        self.services.len() == services.len() && self.services.iter().zip(services).all(same)
    }
}

/// The merge before.
struct Before<'a> {
    merged: &'a Merged,
    /// Its services have the same names and places.
    aligned: bool,
}

impl Before<'_> {
    fn shortened(&self, at: usize, service: &ServiceView) -> Option<Arc<Shortened>> {
        let at = if self.aligned { at } else { self.merged.service(&service.name)? };
        let (old, known) = (self.merged.services.get(at)?, self.merged.shortened.get(at)?);
        old.lists_as(service).then(|| Arc::clone(known))
    }

    /// Who claims what, if no service claims anything else. Claims name places, so these must be the same.
    fn uris(&self, services: &[ServiceView]) -> Option<Arc<Uris>> {
        let mut pairs = self.merged.services.iter().zip(services);
        let same = self.aligned && pairs.all(|(old, new)| old.lists_as(new) || claims_as(old, new));
        same.then(|| Arc::clone(&self.merged.uris))
    }
}

impl ServiceView {
    /// Whether anything of it is listed.
    pub(crate) fn is_listed(&self) -> bool {
        self.state != ServiceState::Missing
    }

    /// Whether the same is listed of it.
    pub(crate) fn lists_as(&self, other: &Self) -> bool {
        let same = |a: &Arc<Catalog>, b: &Arc<Catalog>| Arc::ptr_eq(a, b) || a.fingerprint() == b.fingerprint();
        self.is_listed() == other.is_listed() && same(&self.catalog, &other.catalog)
    }
}

/// Whether both claim the same URIs, in the same places of their lists.
fn claims_as(old: &ServiceView, new: &ServiceView) -> bool {
    let offers = |view: &ServiceView| view.is_listed() && view.catalog.offers(Kind::Resource);
    let same = |kind| claims(old, kind).eq(claims(new, kind));
    offers(old) == offers(new) && same(Kind::Resource) && same(Kind::Template)
}

fn claims(view: &ServiceView, kind: Kind) -> impl Iterator<Item = &str> {
    let items = if view.is_listed() { view.catalog.list(kind).items() } else { &[] };
    items.iter().map(Item::key)
}

fn by_name(services: &[ServiceView]) -> ByName {
    let mut by_name = HashMap::with_capacity(services.len());
    for (at, service) in (0..).zip(services) {
        by_name.entry(Arc::clone(&service.name)).or_insert(at);
    }
    by_name
}

fn shorten(service: &ServiceView, naming: Naming, nothing: &Arc<Shortened>) -> Arc<Shortened> {
    let mut own = Shortened::default();
    for (slot, kind) in [Kind::Tool, Kind::Prompt].into_iter().enumerate() {
        let list = service.catalog.list(kind);
        let items = if service.is_listed() { list.items() } else { &[] };
        for (index, item) in (0..).zip(items) {
            let Some(short) = naming.shorten(&service.name, item.key()) else {
                continue;
            };
            let names = &mut own.names[slot];
            // The service itself would have to arrange either, and harms only itself.
            if list.find(&short).is_some() || names.contains_key(short.as_str()) {
                own.omitted.insert((kind, index));
                warn(&mut own.warnings, service, kind, item, "its shortened name is taken");
            } else {
                names.insert(short.into(), index);
            }
        }
    }
    if own.names.iter().all(HashMap::is_empty) && own.omitted.is_empty() { Arc::clone(nothing) } else { Arc::new(own) }
}

fn warn(warnings: &mut Vec<String>, service: &ServiceView, kind: Kind, item: &Item, why: &str) {
    if warnings.len() < MAX_WARNINGS {
        warnings.push(format!("{} {:?} of {} is not listed: {why}", kind.as_str(), item.key(), service.name));
    }
}

impl Shortened {
    /// Names of a kind that has any.
    pub(super) fn of(&self, kind: Kind) -> Option<&HashMap<Box<str>, u32>> {
        match kind {
            Kind::Tool => self.names.first(),
            Kind::Prompt => self.names.last(),
            Kind::Resource | Kind::Template => None,
        }
    }
}

impl Uris {
    fn of(services: &[ServiceView], by_name: &ByName) -> Self {
        let mut uris = Self::default();
        let listed = || (0..).zip(services).filter(|(_, service)| service.is_listed());
        listed().for_each(|(at, service)| uris.claim(at, service));
        listed().for_each(|(at, service)| uris.omit_unwrappable(at, service, by_name));
        let mut offering = listed().filter(|(_, service)| service.catalog.offers(Kind::Resource));
        let first = offering.next();
        uris.only_resources = first.filter(|_| offering.next().is_none()).map(|(at, _)| at);
        uris.prefix_lengths = uris.prefixes.keys().map(|prefix| prefix.len()).collect();
        uris.prefix_lengths.sort_unstable_by(|a, b| b.cmp(a));
        uris.prefix_lengths.dedup();
        uris
    }

    fn claim(&mut self, at: u32, service: &ServiceView) {
        for key in claims(service, Kind::Resource) {
            claim(&mut self.resources, key, at);
        }
        for key in claims(service, Kind::Template) {
            claim(&mut self.templates, key, at);
            let prefix = uri::literal_prefix(key);
            // A template without any literal head matches everything, so it says nothing.
            if !prefix.is_empty() {
                claim(&mut self.prefixes, prefix, at);
            }
        }
    }

    fn omit_unwrappable(&mut self, at: u32, service: &ServiceView, by_name: &ByName) {
        for kind in [Kind::Resource, Kind::Template] {
            for (index, item) in (0..).zip(service.catalog.list(kind).items()) {
                if self.must_wrap(kind, item.key(), by_name) && uri::wrap(&service.name, item.key()).is_none() {
                    self.omitted.insert((at, kind, index));
                    let why = "other services list it too and it has no scheme to tell them apart";
                    warn(&mut self.warnings, service, kind, item, why);
                }
            }
        }
    }

    /// Whether a listed URI cannot stand for itself: another service lists it too, or it looks as if it were wrapped,
    /// which would send reads to the service that it names.
    pub(super) fn must_wrap(&self, kind: Kind, key: &str, by_name: &ByName) -> bool {
        let owners = if kind == Kind::Template { &self.templates } else { &self.resources };
        owners.get(key) == Some(&Owner::Several)
            || uri::unwrap(key).is_some_and(|(service, _)| by_name.contains_key(service))
    }
}

fn claim(owners: &mut Owners, key: &str, service: u32) {
    match owners.get_mut(key) {
        Some(owner) if *owner == Owner::One(service) => {}
        Some(owner) => *owner = Owner::Several,
        None => drop(owners.insert(key.into(), Owner::One(service))),
    }
}
