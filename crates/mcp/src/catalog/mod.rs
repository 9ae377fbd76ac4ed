//! What services offer: learned from one server, carried to the ingress, merged, and listed.
//!
//! ```text
//!  list results -> collect -> Catalog (one service) -> health document -> Catalog (at the ingress)
//!                                                                            |
//!       PreparedList (bytes per audience) <- page <- Merged (all services) <- merge
//! ```

mod collect;
mod health;
mod item;
pub mod merge;
pub mod page;
pub mod uri;

use bytes::Bytes;
use sha2::{Digest, Sha256};

pub use self::{
    collect::{CacheScope, Collector, Limits, ListPage, PageError},
    health::HealthError,
    item::{Item, ToolHeaders},
};
use crate::{
    catalog_kind::Kind,
    json::{MAX_DEPTH, Scanner, Span, member},
    names::hex,
};

/// One list of one server, as far as it could be collected.
#[derive(Debug, Clone)]
pub struct List {
    items: Vec<Item>,
    /// Indices of `items` in the order of their keys.
    by_key: Vec<u32>,
    complete: bool,
    warnings: Vec<String>,
    ttl_ms: Option<u64>,
    cache_scope: Option<CacheScope>,
}

impl Default for List {
    /// An empty, complete list.
    fn default() -> Self {
        Self {
            items: Vec::new(),
            by_key: Vec::new(),
            complete: true,
            warnings: Vec::new(),
            ttl_ms: None,
            cache_scope: None,
        }
    }
}

impl List {
    /// The items in the server's order.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The item of a name, URI or template.
    pub fn find(&self, key: &str) -> Option<&Item> {
        self.position(key).and_then(|at| self.items.get(at))
    }

    /// Whether all pages were read.
    pub fn complete(&self) -> bool {
        self.complete
    }

    /// What was left out, and why.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// How long the list was fresh when it was fetched, in milliseconds. Legacy servers do not say.
    pub fn ttl_ms(&self) -> Option<u64> {
        self.ttl_ms
    }

    /// Who may be served the list. Legacy servers do not say.
    pub fn cache_scope(&self) -> Option<CacheScope> {
        self.cache_scope
    }

    fn position(&self, key: &str) -> Option<usize> {
        let key_at = |at: &u32| self.items.get(*at as usize).map_or("", Item::key);
        let found = self.by_key.binary_search_by(|at| key_at(at).cmp(key)).ok()?;
        self.by_key.get(found).map(|at| *at as usize)
    }

    /// Makes `find` work after the items have changed.
    fn index(&mut self) {
        // The collector's bound keeps the number of items far below u32.
        let mut order: Vec<u32> = (0..self.items.len() as u32).collect();
        order.sort_unstable_by_key(|at| self.items[*at as usize].key());
        self.by_key = order;
    }
}

/// What a server says about itself, besides its lists. Members are the server's own bytes.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// `capabilities` of its `initialize` or `server/discover` result.
    pub capabilities: Option<Bytes>,
    /// `serverInfo`.
    pub server_info: Option<Bytes>,
    /// `instructions`.
    pub instructions: Option<String>,
}

/// Everything that one service offers, at one moment.
#[derive(Debug, Clone)]
pub struct Catalog {
    lists: [List; 4],
    about: About,
    fingerprint: String,
    fetched_at_ms: u64,
}

impl Catalog {
    /// A catalog of what was collected. `fetched_at_ms` is a Unix time in milliseconds. Members of `about` that are not
    /// JSON objects count as absent.
    pub fn new(tools: List, prompts: List, resources: List, templates: List, about: About, fetched_at_ms: u64) -> Self {
        let about = About {
            capabilities: about.capabilities.and_then(object),
            server_info: about.server_info.and_then(object),
            ..about
        };
        let lists = [tools, prompts, resources, templates];
        Self { fingerprint: fingerprint(&lists, &about), lists, about, fetched_at_ms }
    }

    /// The catalog of a service that nothing is known of yet.
    pub fn empty() -> Self {
        Self::new(List::default(), List::default(), List::default(), List::default(), About::default(), 0)
    }

    /// The same without some items, and without instructions if so said.
    #[must_use]
    pub fn without(&self, hidden: impl Fn(Kind, &str) -> bool, silent: bool) -> Self {
        let lists = Kind::ALL.map(|kind| {
            let mut list = self.list(kind).clone();
            list.items.retain(|item| !hidden(kind, item.key()));
            list.index();
            list
        });
        let about = About { instructions: self.about.instructions.clone().filter(|_| !silent), ..self.about.clone() };
        Self { fingerprint: fingerprint(&lists, &about), lists, about, fetched_at_ms: self.fetched_at_ms }
    }

    /// One of its lists.
    pub fn list(&self, kind: Kind) -> &List {
        match kind {
            Kind::Tool => &self.lists[0],
            Kind::Prompt => &self.lists[1],
            Kind::Resource => &self.lists[2],
            Kind::Template => &self.lists[3],
        }
    }

    /// The item of a name, URI or template.
    pub fn find(&self, kind: Kind, key: &str) -> Option<&Item> {
        self.list(kind).find(key)
    }

    /// What the server says about itself.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// 16 bytes in hex that change when, and only when, something changes that a client could notice.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// When it was learned, as a Unix time in milliseconds.
    pub fn fetched_at_ms(&self) -> u64 {
        self.fetched_at_ms
    }

    /// Whether the server offers this kind at all: it declares the capability, or lists some.
    pub fn offers(&self, kind: Kind) -> bool {
        let name = match kind {
            Kind::Tool => "tools",
            Kind::Prompt => "prompts",
            Kind::Resource | Kind::Template => "resources",
        };
        let declared = |raw: &Bytes| member(raw, whole(raw), name).is_some_and(|value| value.of(raw) != b"null");
        !self.list(kind).items.is_empty() || self.about.capabilities.as_ref().is_some_and(declared)
    }
}

fn whole(raw: &[u8]) -> Span {
    // Everything here was scanned before, and the scanner refuses what a u32 cannot address.
    Span { start: 0, end: raw.len() as u32 }
}

/// The bytes of a JSON object without space around it.
fn object(raw: Bytes) -> Option<Bytes> {
    let mut scanner = Scanner::new(&raw, MAX_DEPTH).ok()?;
    let span = scanner.peek().filter(|first| *first == b'{').and_then(|_| scanner.value().ok())?;
    scanner.finish().ok()?;
    Some(raw.slice(span.range()))
}

/// Times to live, warnings and the time of fetching are left out: they change without the content changing.
fn fingerprint(lists: &[List; 4], about: &About) -> String {
    let mut hash = Sha256::new();
    // Every part is preceded by its length, so that no two contents give the same input.
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    for list in lists {
        part(&(list.items.len() as u64).to_be_bytes());
        part(&[u8::from(list.complete), list.cache_scope.map_or(0, |scope| scope as u8 + 1)]);
        for item in &list.items {
            part(item.raw());
        }
    }
    part(about.capabilities.as_deref().unwrap_or_default());
    part(about.server_info.as_deref().unwrap_or_default());
    part(about.instructions.as_deref().unwrap_or_default().as_bytes());
    hex(&hash.finalize()[..16])
}
