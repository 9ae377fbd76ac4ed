//! Lists as bytes, prepared once per audience: what a `*/list` request costs is a lookup and a few reference counts.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{
    ToolHeaders,
    merge::{Freshness, Merged},
};
use crate::{catalog_kind::Kind, json::write_string};

/// The usual size of a page, bytes. Below it a list is one page, because many clients read only the first.
pub const PAGE_BYTES: usize = 1 << 20;

/// One list as one audience sees it.
#[derive(Debug, Clone)]
pub struct PreparedList {
    kind: Kind,
    /// The definitions of each page, joined by commas, and the index of its first item.
    pages: Vec<(u32, Bytes)>,
    items: u32,
    fingerprint: [u8; 16],
    hidden: Vec<String>,
    filtered: bool,
}

/// One page of a prepared list.
#[derive(Debug, Clone)]
pub struct Page {
    items: Bytes,
    /// Offset of the next page, for the cursor; `None` on the last page.
    pub next: Option<u32>,
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
        let (mut pages, mut page, mut page_start, mut items, mut hidden) =
            (Vec::new(), Vec::new(), 0, 0_u32, Vec::new());
        let mut filtered = false;
        for exposed in merged.exposed(kind) {
            let service = &*exposed.service.name;
            if !visible(service, kind, exposed.item.key()) {
                filtered = true;
                continue;
            }
            if let (true, ToolHeaders::Invalid(reason)) = (modern_http, exposed.item.headers()) {
                hidden.push(format!("{service}.{}: {reason}", exposed.item.key()));
                continue;
            }
            let before = page.len();
            if before > 0 {
                page.push(b',');
            }
            exposed.item.write_as(&exposed.name, |uri| merged.expose_uri(exposed.at, uri), &mut page);
            if before > 0 && page.len() > page_bytes {
                let next = page.split_off(before + 1);
                page.truncate(before);
                pages.push((page_start, Bytes::from(std::mem::replace(&mut page, next))));
                page_start = items;
            }
            items += 1;
        }
        page.shrink_to_fit();
        pages.push((page_start, Bytes::from(page)));
        Self { fingerprint: fingerprint(kind, &pages), kind, pages, items, hidden, filtered }
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

    /// Tools that were left out because of invalid annotations, each with the reason, for a log.
    pub fn hidden(&self) -> &[String] {
        &self.hidden
    }

    /// The page that starts at an offset: 0, or one that [`Page::next`] gave. `None` for any other.
    pub fn page(&self, offset: u32) -> Option<Page> {
        let at = self.pages.binary_search_by_key(&offset, |(start, _)| *start).ok()?;
        let (_, items) = self.pages.get(at)?;
        Some(Page { items: items.clone(), next: self.pages.get(at + 1).map(|(start, _)| *start) })
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
        vec![opening(self.kind), page.items.clone(), Bytes::from(end), suffix.clone(), Bytes::from_static(b"}")]
    }
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

fn fingerprint(kind: Kind, pages: &[(u32, Bytes)]) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update(kind.as_str());
    for (start, items) in pages {
        hash.update(start.to_be_bytes());
        hash.update((items.len() as u64).to_be_bytes());
        hash.update(items);
    }
    let mut out = [0; 16];
    out.copy_from_slice(&hash.finalize()[..16]);
    out
}

#[cfg(test)]
mod tests;
