//! The catalogs of several services as one: under which names and URIs things are listed, and where a call goes.
//!
//! A snapshot is immutable and cheap to build: tools and prompts are not even indexed here, because a name says which
//! service it belongs to. That also makes calls independent of what has been listed. Only resources are looked up.

mod build;

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::{Arc, OnceLock},
};

use thiserror::Error;

use super::{CacheScope, Catalog, Item, uri};
use crate::{
    catalog_kind::Kind,
    names::{Naming, split},
};

/// How far the catalog of a service can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceState {
    /// It is what the service offers now.
    Fresh,
    /// The service cannot be asked; the catalog is its last one and still listed.
    Stale,
    /// Not known, or too old to be listed. Calls are still routed.
    Missing,
}

impl ServiceState {
    /// The word in `_meta["outrigger.dev/services"]`, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            ServiceState::Fresh => "fresh",
            ServiceState::Stale => "stale",
            ServiceState::Missing => "missing",
        }
    }
}

/// One service as it enters a merge.
#[derive(Debug, Clone)]
pub struct ServiceView {
    /// Its name, which configuration has checked.
    pub name: Arc<str>,
    /// What it offers.
    pub catalog: Arc<Catalog>,
    /// Whether that is up to date.
    pub state: ServiceState,
}

/// Why a name or URI leads nowhere. Both map to -32602, with the same text for callers: whether several services know a
/// resource is not for everyone to learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ResolveError {
    /// No service has it.
    #[error("unknown")]
    Unknown,
    /// More than one service could be meant, and guessing would let one shadow another.
    #[error("ambiguous: more than one service offers it, use the listed URI")]
    Ambiguous,
}

/// Where a call goes.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Index into [`Merged::services`].
    pub service: usize,
    /// The service's own name or URI for it. Policies are written against this one.
    pub original: &'a str,
    /// Its definition, when the catalog has it.
    pub item: Option<&'a Item>,
    /// Whether the caller used a wrapped URI, so that the result has to repeat it.
    pub wrapped: bool,
}

/// One listed capability.
#[derive(Debug, Clone)]
pub struct Exposed<'a> {
    /// Index of the service in [`Merged::services`].
    pub at: usize,
    /// The service that has it.
    pub service: &'a ServiceView,
    /// Its definition.
    pub item: &'a Item,
    /// The name, URI or template under which it is listed.
    pub name: Cow<'a, str>,
}

/// How long a merged list stays fresh, and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// Remaining time to live in milliseconds.
    pub ttl_ms: u64,
    /// `private` also whenever policy filters the list; that is for the caller of this module to say.
    pub scope: CacheScope,
}

/// The services that claim one URI, template or prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    One(u32),
    Several,
}

type Owners = HashMap<Box<str>, Owner>;

/// Names of one service that do not fit: tools, then prompts. Depends on that service alone.
#[derive(Debug, Default)]
struct Shortened {
    /// Shortened names and the items that they stand for.
    names: [HashMap<Box<str>, u32>; 2],
    /// Items that have no name of their own here.
    omitted: HashSet<(Kind, u32)>,
    warnings: Vec<String>,
}

/// Who claims which URI: the one thing for which a service depends on the others.
#[derive(Debug, Default)]
pub(super) struct Uris {
    resources: Owners,
    templates: Owners,
    /// What expansions of templates start with, and the lengths of that, longest first.
    prefixes: Owners,
    prefix_lengths: Vec<usize>,
    /// The service that offers resources, when there is exactly one.
    only_resources: Option<u32>,
    /// Items that cannot be told from those of other services.
    omitted: HashSet<(u32, Kind, u32)>,
    warnings: Vec<String>,
}

/// All services as one, immutable. What has not changed is shared with the one before ([`Merged::renewed`]).
#[derive(Debug)]
pub struct Merged {
    services: Vec<ServiceView>,
    /// `None`: one service, whose names and URIs stay as they are.
    naming: Option<Naming>,
    by_name: Arc<HashMap<Arc<str>, u32>>,
    /// In the order of the services; none where names stay as they are.
    shortened: Vec<Arc<Shortened>>,
    uris: Arc<Uris>,
    warnings: Vec<String>,
    /// By kind; made when first asked for.
    lasting: [OnceLock<Lasting>; 4],
}

impl Merged {
    /// Merges services in their order. Their names must be valid and distinct.
    pub fn new(services: Vec<ServiceView>, naming: Naming) -> Self {
        Self::build(services, Some(naming), None)
    }

    /// The same for what services offer now. What has not changed is not made again: a change of one service costs what that
    /// service is large, and a glance at each of the others.
    #[must_use]
    pub fn renewed(&self, services: Vec<ServiceView>) -> Self {
        Self::build(services, self.naming, Some(self))
    }

    /// One service under its own names and URIs, as `/s/<service>/mcp` offers it.
    pub fn single(service: ServiceView) -> Self {
        Self::build(vec![service], None, None)
    }

    /// The services, in the order of configuration.
    pub fn services(&self) -> &[ServiceView] {
        &self.services
    }

    /// Index of a service in [`Merged::services`].
    pub fn service(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).map(|at| *at as usize)
    }

    /// What could not be listed, and why. Warnings of the single catalogs are not repeated.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Everything of one kind in its stable order: services as configured, inside a service as it lists them.
    pub fn exposed(&self, kind: Kind) -> impl Iterator<Item = Exposed<'_>> {
        (0..self.services.len()).flat_map(move |at| self.exposed_by(at, kind))
    }

    /// What one service, by its index, has of that.
    pub fn exposed_by(&self, at: usize, kind: Kind) -> impl Iterator<Item = Exposed<'_>> {
        let listed = self.services.get(at).filter(|service| service.is_listed());
        listed.into_iter().flat_map(move |service| {
            let items = service.catalog.list(kind).items().iter().enumerate();
            items.filter(move |(i, _)| !self.omits(at as u32, kind, *i as u32)).map(move |(_, item)| Exposed {
                at,
                service,
                item,
                name: self.exposed_name(service, kind, item.key()),
            })
        })
    }

    /// Who claims which URI; another one whenever that changes.
    pub(super) fn uris(&self) -> Arc<Uris> {
        Arc::clone(&self.uris)
    }

    /// Where a call of a tool or prompt goes. Works for names that no list has shown, as long as the service exists.
    ///
    /// # Errors
    /// [`ResolveError::Unknown`].
    pub fn resolve_name<'a>(&'a self, kind: Kind, exposed: &'a str) -> Result<Target<'a>, ResolveError> {
        if self.naming.is_none() {
            return Ok(self.target(0, kind, exposed, false));
        }
        let (service, local) = split(exposed).ok_or(ResolveError::Unknown)?;
        let service = *self.by_name.get(service).ok_or(ResolveError::Unknown)?;
        let target = self.target(service, kind, local, false);
        if target.item.is_some() {
            return Ok(target);
        }
        let shortened = self.shortened.get(service as usize).and_then(|shortened| shortened.of(kind));
        let item = shortened.and_then(|names| names.get(local));
        let item = item.and_then(|at| self.services[service as usize].catalog.list(kind).items().get(*at as usize));
        Ok(item.map_or(target, |item| Target { original: item.key(), item: Some(item), ..target }))
    }

    /// Where the read of a resource goes: a wrapped URI to its service; a listed one to the only service that lists it;
    /// any other to the service with the longest matching template, or to the only one that offers resources at all.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub fn resolve_uri<'a>(&'a self, uri: &'a str) -> Result<Target<'a>, ResolveError> {
        if let Some(target) = self.resolve_certain(Kind::Resource, uri) {
            return target;
        }
        let service = self.by_prefix(uri).or(self.uris.only_resources.map(Owner::One));
        self.owned(service, Kind::Resource, uri).unwrap_or(Err(ResolveError::Unknown))
    }

    /// Where a completion for a resource reference goes: `ref.uri` is a template, or a plain URI.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub fn resolve_template<'a>(&'a self, template: &'a str) -> Result<Target<'a>, ResolveError> {
        self.resolve_certain(Kind::Template, template).unwrap_or_else(|| self.resolve_uri(template))
    }

    /// The URI under which a client can read what `service` calls `uri`, when it is another one. To be used on results
    /// with [`uri::rewrite_uris`].
    pub fn expose_uri(&self, service: usize, uri: &str) -> Option<String> {
        self.naming?;
        let name = &self.services.get(service)?.name;
        // Clients may fetch these from the web themselves, so they change only where two services list the same one.
        let web = uri::scheme(uri).is_some_and(|s| s.eq_ignore_ascii_case("https") || s.eq_ignore_ascii_case("http"));
        let readable = match self.resolve_uri(uri) {
            Ok(target) => target.service == service && !target.wrapped,
            Err(_) => false,
        };
        let keep = readable || (web && self.uris.resources.get(uri) != Some(&Owner::Several));
        if keep { None } else { uri::wrap(name, uri) }
    }

    /// The least fresh and most private of what a list is made of. `default_ttl_ms` stands in for servers that do not
    /// say, and bounds lists from which a service is missing.
    pub fn freshness(&self, kind: Kind, now_ms: u64, default_ttl_ms: u64) -> Freshness {
        let lasting = self.lasting[kind as usize].get_or_init(|| self.lasting(kind));
        let ttls = [
            lasting.default.then_some(default_ttl_ms),
            lasting.stale.then_some(0),
            lasting.until.map(|until| until.saturating_sub(now_ms)),
        ];
        match ttls.into_iter().flatten().min() {
            Some(ttl_ms) => {
                let scope = if lasting.private { CacheScope::Private } else { CacheScope::Public };
                Freshness { ttl_ms, scope }
            }
            None => Freshness { ttl_ms: default_ttl_ms, scope: CacheScope::Private },
        }
    }

    fn lasting(&self, kind: Kind) -> Lasting {
        let mut all = Lasting::default();
        for service in &self.services {
            let list = service.catalog.list(kind);
            match service.state {
                ServiceState::Missing => (all.default, all.private) = (true, true),
                _ if !service.catalog.offers(kind) => continue,
                ServiceState::Stale => all.stale = true,
                ServiceState::Fresh => match list.ttl_ms() {
                    None => all.default = true,
                    Some(ttl) => {
                        let until = service.catalog.fetched_at_ms().saturating_add(ttl);
                        all.until = Some(all.until.map_or(until, |first| first.min(until)));
                    }
                },
            }
            all.private |= list.cache_scope() != Some(CacheScope::Public);
        }
        all
    }

    fn omits(&self, at: u32, kind: Kind, index: u32) -> bool {
        self.uris.omitted.contains(&(at, kind, index))
            || self.shortened.get(at as usize).is_some_and(|own| own.omitted.contains(&(kind, index)))
    }

    fn target<'a>(&'a self, service: u32, kind: Kind, original: &'a str, wrapped: bool) -> Target<'a> {
        let service = service as usize;
        Target { service, original, item: self.services[service].catalog.find(kind, original), wrapped }
    }

    /// The answer that needs no guess from templates: one service, a wrapped URI, or a listed one.
    fn resolve_certain<'a>(&'a self, kind: Kind, uri: &'a str) -> Option<Result<Target<'a>, ResolveError>> {
        if self.naming.is_none() {
            return Some(Ok(self.target(0, kind, uri, false)));
        }
        if let Some((service, original)) = self.unwrap(uri) {
            return Some(Ok(self.target(service, kind, original, true)));
        }
        let owners = if kind == Kind::Template { &self.uris.templates } else { &self.uris.resources };
        self.owned(owners.get(uri).copied(), kind, uri)
    }

    fn owned<'a>(&'a self, owner: Option<Owner>, kind: Kind, uri: &'a str) -> Option<Result<Target<'a>, ResolveError>> {
        owner.map(|owner| match owner {
            Owner::One(service) => Ok(self.target(service, kind, uri, false)),
            Owner::Several => Err(ResolveError::Ambiguous),
        })
    }

    fn by_prefix(&self, uri: &str) -> Option<Owner> {
        let heads = self.uris.prefix_lengths.iter().filter_map(|length| uri.get(..*length));
        heads.filter_map(|head| self.uris.prefixes.get(head)).next().copied()
    }

    /// Takes the service off a URI, if it is one of ours.
    fn unwrap<'a>(&self, uri: &'a str) -> Option<(u32, &'a str)> {
        let (service, original) = uri::unwrap(uri)?;
        Some((*self.by_name.get(service)?, original))
    }

    fn exposed_name<'a>(&self, service: &ServiceView, kind: Kind, key: &'a str) -> Cow<'a, str> {
        let Some(naming) = &self.naming else {
            return Cow::Borrowed(key);
        };
        match kind {
            Kind::Tool | Kind::Prompt => Cow::Owned(naming.expose(&service.name, key)),
            Kind::Resource | Kind::Template if !self.must_wrap(kind, key) => Cow::Borrowed(key),
            Kind::Resource | Kind::Template => uri::wrap(&service.name, key).map_or(Cow::Borrowed(key), Cow::Owned),
        }
    }

    fn must_wrap(&self, kind: Kind, key: &str) -> bool {
        self.uris.must_wrap(kind, key, &self.by_name)
    }
}

/// Of what a list's freshness is made, whatever the time.
#[derive(Debug, Default)]
struct Lasting {
    /// A service does not say, or is missing.
    default: bool,
    /// A service's list is stale.
    stale: bool,
    /// The first end of those that say, as a Unix time in milliseconds.
    until: Option<u64>,
    private: bool,
}

#[cfg(test)]
mod tests;
