//! How a merge is built: who claims which URI, which names need shortening, and what cannot be told apart.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{Merged, Owner, Owners, ServiceState, ServiceView};
use crate::{
    catalog::{Item, uri},
    catalog_kind::Kind,
    names::Naming,
};

/// More would say nothing new.
const MAX_WARNINGS: usize = 100;

impl Merged {
    pub(super) fn build(services: Vec<ServiceView>, naming: Option<Naming>) -> Self {
        let mut by_name = HashMap::with_capacity(services.len());
        for (at, service) in (0..).zip(&services) {
            by_name.entry(Arc::clone(&service.name)).or_insert(at);
        }
        let mut merged = Self {
            services,
            naming,
            by_name,
            shortened: HashMap::new(),
            omitted: HashSet::new(),
            resources: Owners::new(),
            templates: Owners::new(),
            prefixes: Owners::new(),
            prefix_lengths: Vec::new(),
            only_resources: None,
            warnings: Vec::new(),
        };
        if let Some(naming) = naming {
            let services = merged.services.clone();
            let listed = || (0..).zip(&services).filter(|(_, service)| service.state != ServiceState::Missing);
            listed().for_each(|(at, service)| merged.index_names(at, service, naming));
            listed().for_each(|(at, service)| merged.claim_uris(at, service));
            listed().for_each(|(at, service)| merged.omit_unwrappable(at, service));
            let mut offering = listed().filter(|(_, service)| service.catalog.offers(Kind::Resource));
            let first = offering.next();
            merged.only_resources = first.filter(|_| offering.next().is_none()).map(|(at, _)| at);
            merged.prefix_lengths = merged.prefixes.keys().map(|prefix| prefix.len()).collect();
            merged.prefix_lengths.sort_unstable_by(|a, b| b.cmp(a));
            merged.prefix_lengths.dedup();
        }
        merged
    }

    fn index_names(&mut self, at: u32, service: &ServiceView, naming: Naming) {
        for kind in [Kind::Tool, Kind::Prompt] {
            let list = service.catalog.list(kind);
            for (index, item) in (0..).zip(list.items()) {
                let Some(short) = naming.shorten(&service.name, item.key()) else {
                    continue;
                };
                let names = self.shortened.entry((at, kind)).or_default();
                // The service itself would have to arrange either, and harms only itself.
                if list.find(&short).is_some() || names.contains_key(short.as_str()) {
                    self.omit((at, kind, index), service, item, "its shortened name is taken");
                } else {
                    names.insert(short.into(), index);
                }
            }
        }
    }

    fn claim_uris(&mut self, at: u32, service: &ServiceView) {
        for item in service.catalog.list(Kind::Resource).items() {
            claim(&mut self.resources, item.key(), at);
        }
        for item in service.catalog.list(Kind::Template).items() {
            claim(&mut self.templates, item.key(), at);
            let prefix = uri::literal_prefix(item.key());
            // A template without any literal head matches everything, so it says nothing.
            if !prefix.is_empty() {
                claim(&mut self.prefixes, prefix, at);
            }
        }
    }

    fn omit_unwrappable(&mut self, at: u32, service: &ServiceView) {
        for kind in [Kind::Resource, Kind::Template] {
            for (index, item) in (0..).zip(service.catalog.list(kind).items()) {
                if self.must_wrap(kind, item.key()) && uri::wrap(&service.name, item.key()).is_none() {
                    self.omit(
                        (at, kind, index),
                        service,
                        item,
                        "other services list it too and it has no scheme to tell them apart",
                    );
                }
            }
        }
    }

    fn omit(&mut self, id: (u32, Kind, u32), service: &ServiceView, item: &Item, why: &str) {
        self.omitted.insert(id);
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(format!("{} {:?} of {} is not listed: {why}", id.1.as_str(), item.key(), service.name));
        }
    }
}

fn claim(owners: &mut Owners, key: &str, service: u32) {
    match owners.get_mut(key) {
        Some(owner) if *owner == Owner::One(service) => {}
        Some(owner) => *owner = Owner::Several,
        None => drop(owners.insert(key.into(), Owner::One(service))),
    }
}
