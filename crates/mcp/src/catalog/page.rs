//! Lists as bytes, prepared once per audience: what a `*/list` request costs is a lookup and a few reference counts.
//!
//! Neighbouring services are joined in groups, which are what is made anew when one of them changes.

use std::{
    cell::Cell,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{
    ToolHeaders,
    merge::{Freshness, Merged, ServiceView, Uris},
};
use crate::{bridge::narrow, catalog_kind::Kind, json::write_string, revision::Revision};

/// The usual size of a page, bytes. Below it a list is one page, because many clients read only the first.
pub const PAGE_BYTES: usize = 1 << 20;

/// Services whose definitions are joined: few enough that a change of one costs little, enough that a page is a few pieces.
const GROUP: usize = 16;

/// One list as one audience sees it.
#[derive(Debug, Clone)]
pub struct PreparedList {
    kind: Kind,
    groups: Vec<Arc<Group>>,
    pages: Pages,
    items: u32,
    fingerprint: [u8; 16],
    hidden: Vec<String>,
    filtered: bool,
}

/// The index of the first item of each page, and its definitions.
type Pages = Vec<(u32, Vec<Arc<Piece>>)>;

/// One page of a prepared list.
#[derive(Debug, Clone)]
pub struct Page {
    /// Definitions, with the commas between them.
    items: Vec<Bytes>,
    /// Offset of the next page, for the cursor; `None` on the last page.
    pub next: Option<u32>,
}

/// Some services of a list.
#[derive(Debug)]
struct Group {
    /// Identifies what these services list, and under which names.
    made_of: [u8; 16],
    /// Who claims which URI, where that matters here.
    claims: Option<Arc<Uris>>,
    pieces: Vec<Arc<Piece>>,
    /// What identifies the definitions of each service that has any.
    seen: Vec<[u8; 16]>,
    filtered: bool,
}

/// Some definitions of a group.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq))]
struct Piece {
    /// How many they are.
    count: u32,
    /// Joined by commas.
    items: Bytes,
    /// The same as older revisions read them, in each form that there is; made when the first client of it asks.
    older: [OnceLock<Bytes>; narrow::LIST_FORMS],
}

/// What makes lists of one audience.
struct Audience<'a, V> {
    merged: &'a Merged,
    kind: Kind,
    modern_http: bool,
    visible: V,
    page_bytes: usize,
}

impl PreparedList {
    /// Joins what `visible(service, kind, original name)` admits. Lists for modern HTTP clients leave out tools with
    /// invalid `x-mcp-header` annotations, which such clients must not accept (server/tools). Pages are cut where they
    /// would grow beyond `page_bytes`.
    pub fn build(
        merged: &Merged,
        kind: Kind,
        modern_http: bool,
        visible: impl Fn(&str, Kind, &str) -> bool,
        page_bytes: usize,
    ) -> Self {
        Self::join(&Audience { merged, kind, modern_http, visible, page_bytes }, &[])
    }

    /// The same list of another merge, for the same audience: `modern_http`, `visible` and `page_bytes` must be what they
    /// were. Only groups with services that list something else are joined anew.
    #[must_use]
    pub fn renewed(
        &self,
        merged: &Merged,
        modern_http: bool,
        visible: impl Fn(&str, Kind, &str) -> bool,
        page_bytes: usize,
    ) -> Self {
        Self::join(&Audience { merged, kind: self.kind, modern_http, visible, page_bytes }, &self.groups)
    }

    fn join(audience: &Audience<'_, impl Fn(&str, Kind, &str) -> bool>, before: &[Arc<Group>]) -> Self {
        let (mut groups, mut hidden) = (Vec::new(), Vec::new());
        for (at, services) in audience.merged.services().chunks(GROUP).enumerate() {
            let made_of = made_of(services);
            let same = before.get(at).filter(|group| group.is_still(&made_of, audience.merged));
            groups.push(same.cloned().unwrap_or_else(|| Arc::new(Group::of(audience, at, made_of, &mut hidden))));
        }
        let (pages, items) = pages(groups.iter().flat_map(|group| &group.pieces), audience.page_bytes);
        let filtered = groups.iter().any(|group| group.filtered);
        let seen = groups.iter().flat_map(|group| &group.seen);
        Self {
            fingerprint: fingerprint(audience.kind, seen),
            kind: audience.kind,
            groups,
            pages,
            items,
            hidden,
            filtered,
        }
    }

    /// Changes when, and only when, the audience would see something else.
    pub fn fingerprint(&self) -> [u8; 16] {
        self.fingerprint
    }

    /// How many items it has.
    pub fn len(&self) -> usize {
        self.items as usize
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// Whether others may see more of it: such a list is nobody else's, whatever its server says.
    pub fn filtered(&self) -> bool {
        self.filtered
    }

    /// Tools that were left out because of invalid annotations, each with the reason, for a log. Those of what was joined
    /// anew, where the list is a renewed one.
    pub fn hidden(&self) -> &[String] {
        &self.hidden
    }

    /// The page that starts at an offset: 0, or one that [`Page::next`] gave. `None` for any other.
    pub fn page(&self, offset: u32) -> Option<Page> {
        self.page_for(offset, Revision::MODERN)
    }

    /// The same page as a client of a revision reads it. Older clients of one list share what is made for the first of them.
    pub fn page_for(&self, offset: u32, revision: Revision) -> Option<Page> {
        let at = self.pages.binary_search_by_key(&offset, |(start, _)| *start).ok()?;
        let (_, pieces) = self.pages.get(at)?;
        let mut items = Vec::with_capacity(pieces.len() * 2);
        for piece in pieces {
            if !items.is_empty() {
                items.push(Bytes::from_static(b","));
            }
            items.push(piece.items_for(self.kind, revision).clone());
        }
        Some(Page { items, next: self.pages.get(at + 1).map(|(start, _)| *start) })
    }

    /// The `result` of a list request as pieces that share memory with the list. `next_cursor` belongs to
    /// [`Page::next`]; `suffix` is further members, as [`suffix`] writes them.
    pub fn result(&self, page: &Page, next_cursor: Option<&str>, suffix: &Bytes) -> Vec<Bytes> {
        let mut end = Vec::with_capacity(2 + next_cursor.map_or(0, |cursor| cursor.len() + 20));
        end.push(b']');
        if let Some(cursor) = next_cursor {
            end.extend_from_slice(b",\"nextCursor\":");
            write_string(&mut end, cursor);
        }
        let mut pieces = Vec::with_capacity(page.items.len() + 4);
        pieces.push(opening(self.kind));
        pieces.extend_from_slice(&page.items);
        pieces.extend([Bytes::from(end), suffix.clone(), Bytes::from_static(b"}")]);
        pieces
    }
}

impl Group {
    /// Joins the definitions of the `at`-th group. What is left out is added to `hidden`.
    fn of(
        audience: &Audience<'_, impl Fn(&str, Kind, &str) -> bool>,
        at: usize,
        made_of: [u8; 16],
        hidden: &mut Vec<String>,
    ) -> Self {
        let Audience { merged, kind, modern_http, visible, page_bytes } = audience;
        let mut joined = Joined { page_bytes: *page_bytes, pieces: Vec::new(), piece: Vec::new(), items: 0 };
        let (mut seen, mut filtered, uris_matter) = (Vec::new(), false, Cell::new(false));
        for service in (at * GROUP..merged.services().len()).take(GROUP) {
            let (mut hash, mut any) = (Sha256::new(), false);
            for exposed in merged.exposed_by(service, *kind) {
                let (name, key) = (&*exposed.service.name, exposed.item.key());
                if !visible(name, *kind, key) {
                    filtered = true;
                    continue;
                }
                if let (true, ToolHeaders::Invalid(reason)) = (*modern_http, exposed.item.headers()) {
                    hidden.push(format!("{name}.{key}: {reason}"));
                    continue;
                }
                let expose = |uri: &str| {
                    uris_matter.set(true);
                    merged.expose_uri(exposed.at, uri)
                };
                let written = joined.add(|out| exposed.item.write_as(&exposed.name, expose, out));
                hash.update((written.len() as u64).to_be_bytes());
                hash.update(written);
                any = true;
            }
            seen.extend(any.then(|| short(hash)));
        }
        let uris_matter = uris_matter.get() || matches!(kind, Kind::Resource | Kind::Template);
        Self { made_of, claims: uris_matter.then(|| merged.uris()), pieces: joined.finish(), seen, filtered }
    }

    fn is_still(&self, made_of: &[u8; 16], merged: &Merged) -> bool {
        self.made_of == *made_of && self.claims.as_ref().is_none_or(|claims| Arc::ptr_eq(claims, &merged.uris()))
    }
}

impl Piece {
    fn new(count: u32, items: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { count, items: Bytes::from(items), older: Default::default() })
    }

    fn items_for(&self, kind: Kind, revision: Revision) -> &Bytes {
        let Some(older) = narrow::list_form(revision).and_then(|form| self.older.get(form)) else { return &self.items };
        // Where nothing has to go, it is the same memory.
        older.get_or_init(|| narrow::definitions(kind, &self.items, revision).unwrap_or_else(|| self.items.clone()))
    }
}

/// Definitions that are being joined.
struct Joined {
    page_bytes: usize,
    pieces: Vec<Arc<Piece>>,
    piece: Vec<u8>,
    items: u32,
}

impl Joined {
    /// Adds what is written, and shows it. Begins another piece where this one would become larger than a page.
    fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> &[u8] {
        let before = self.piece.len();
        if before > 0 {
            self.piece.push(b',');
        }
        let mut start = self.piece.len();
        write(&mut self.piece);
        if before > 0 && self.piece.len() > self.page_bytes {
            let next = self.piece.split_off(start);
            self.piece.truncate(before);
            let piece = std::mem::replace(&mut self.piece, next);
            self.pieces.push(Piece::new(self.items, piece));
            (self.items, start) = (0, 0);
        }
        self.items += 1;
        self.piece.get(start..).unwrap_or_default()
    }

    fn finish(mut self) -> Vec<Arc<Piece>> {
        if self.items > 0 {
            self.piece.shrink_to_fit();
            self.pieces.push(Piece::new(self.items, self.piece));
        }
        self.pieces
    }
}

/// Pages of so many bytes at most, where a piece is not larger by itself; and how many items there are.
fn pages<'a>(pieces: impl Iterator<Item = &'a Arc<Piece>>, page_bytes: usize) -> (Pages, u32) {
    let (mut pages, mut page, mut start, mut size, mut items) = (Vec::new(), Vec::new(), 0, 0, 0);
    for piece in pieces {
        if !page.is_empty() && size + 1 + piece.items.len() > page_bytes {
            pages.push((start, std::mem::take(&mut page)));
            (start, size) = (items, 0);
        }
        // With the comma before it.
        size += usize::from(!page.is_empty()) + piece.items.len();
        page.push(Arc::clone(piece));
        items += piece.count;
    }
    pages.push((start, page));
    (pages, items)
}

/// Members of a list result that follow the items: `ttlMs`, `cacheScope` and `resultType` for modern clients (legacy
/// ones get none of them), and `_meta` (raw JSON). They start with a comma.
pub fn suffix(freshness: Option<Freshness>, meta: Option<&[u8]>) -> Bytes {
    let mut out = Vec::with_capacity(96 + meta.map_or(0, <[u8]>::len));
    if let Some(Freshness { ttl_ms, scope }) = freshness {
        let scope = scope.as_str();
        let members = format!(",\"ttlMs\":{ttl_ms},\"cacheScope\":\"{scope}\",\"resultType\":\"complete\"");
        out.extend_from_slice(members.as_bytes());
    }
    if let Some(meta) = meta {
        out.extend_from_slice(b",\"_meta\":");
        out.extend_from_slice(meta);
    }
    Bytes::from(out)
}

fn opening(kind: Kind) -> Bytes {
    Bytes::from_static(match kind {
        Kind::Tool => b"{\"tools\":[",
        Kind::Prompt => b"{\"prompts\":[",
        Kind::Resource => b"{\"resources\":[",
        Kind::Template => b"{\"resourceTemplates\":[",
    })
}

/// Identifies what services list, and under which names: not whether that is stale.
fn made_of(services: &[ServiceView]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for service in services {
        hash.update((service.name.len() as u64).to_be_bytes());
        hash.update(&*service.name);
        // Of a fixed length, where there is one.
        hash.update(if service.is_listed() { service.catalog.fingerprint() } else { "-" });
    }
    hash.update((services.len() as u64).to_be_bytes());
    short(hash)
}

fn fingerprint<'a>(kind: Kind, seen: impl Iterator<Item = &'a [u8; 16]>) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update(kind.as_str());
    seen.for_each(|service| hash.update(service));
    short(hash)
}

fn short(hash: Sha256) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&hash.finalize()[..16]);
    out
}

#[cfg(test)]
mod tests;
