//! Lists as servers answer them: one page, and the collector that drains all pages within bounds.

use std::collections::HashSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Item, List, item::ToolHeaders};
use crate::{
    catalog_kind::Kind,
    headers::MAX_SAFE_INTEGER,
    json::{JsonError, MAX_DEPTH, Scanner, Span, decode_string, elements},
};

/// More would hide the first ones, which tell the cause.
const MAX_WARNINGS: usize = 20;
/// Longer cursors are refused: each is sent back with the next request.
const MAX_CURSOR: usize = 64 * 1024;

/// Who may be served a cached list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheScope {
    /// Anyone.
    Public,
    /// Only the authorization context that it was fetched for.
    Private,
}

impl CacheScope {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            CacheScope::Public => "public",
            CacheScope::Private => "private",
        }
    }
}

/// Why a list result cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PageError {
    /// Not JSON.
    #[error("the list result is not valid: {0}")]
    Json(#[from] JsonError),
    /// The array is missing, or is no array.
    #[error("the list result has no array `{0}`")]
    Items(&'static str),
    /// The cursor is neither a string nor null.
    #[error("`nextCursor` of the list result is not a string")]
    Cursor,
    /// A member that matters stands twice.
    #[error("the list result has the member {0} twice")]
    Repeated(String),
}

/// One page of a list, as a server answered it.
#[derive(Debug, Clone)]
pub struct ListPage {
    /// The items that can be used, in the server's order.
    pub items: Vec<Item>,
    /// What was wrong with the others.
    pub skipped: Vec<String>,
    /// Where the list goes on. The empty string is a cursor like any other.
    pub next_cursor: Option<String>,
    /// How long the page stays fresh, in milliseconds, if the server said so.
    pub ttl_ms: Option<u64>,
    /// Who may be served it, if the server said so.
    pub cache_scope: Option<CacheScope>,
    /// Size of the text that the items keep in memory.
    pub bytes: usize,
}

impl ListPage {
    /// Reads the `result` of a list request. The items share the memory of `result`.
    ///
    /// # Errors
    /// [`PageError`] when the result as a whole is unusable; single bad items are skipped instead.
    pub fn parse(kind: Kind, result: &Bytes) -> Result<Self, PageError> {
        let mut scanner = Scanner::new(result, MAX_DEPTH)?;
        let (mut list, mut cursor, mut ttl, mut scope) = (None, None, None, None);
        if scanner.peek() != Some(b'{') {
            return Err(PageError::Items(kind.list_member()));
        }
        scanner.object::<PageError, _>(|key, s| {
            let value = s.value()?;
            let slot = match &*key.decode(result) {
                name if name == kind.list_member() => &mut list,
                "nextCursor" => &mut cursor,
                "ttlMs" => &mut ttl,
                "cacheScope" => &mut scope,
                _ => return Ok(()),
            };
            match slot.replace(value) {
                None => Ok(()),
                Some(_) => Err(PageError::Repeated(key.decode(result).into_owned())),
            }
        })?;
        scanner.finish()?;
        let token = |span: Option<Span>| span.map(|span| span.of(result)).filter(|token| *token != b"null");
        let next_cursor = match token(cursor) {
            None => None,
            Some(token) => Some(decode_string(token).ok_or(PageError::Cursor)?.into_owned()),
        };
        let page = list.and_then(|list| Self::read_items(kind, result, list));
        Ok(Self {
            next_cursor,
            ttl_ms: token(ttl).and_then(milliseconds),
            cache_scope: token(scope).map(|token| match token {
                b"\"public\"" => CacheScope::Public,
                // Unknown words get the careful meaning.
                _ => CacheScope::Private,
            }),
            bytes: result.len(),
            ..page.ok_or(PageError::Items(kind.list_member()))?
        })
    }

    /// A page that is just an array of definitions, which lies in `body`. `None` when it is no array.
    /// Skips tools with invalid `x-mcp-header` annotations, as clients of modern servers over HTTP must (server/tools).
    pub fn skip_invalid_headers(&mut self) {
        let (items, skipped) = (&mut self.items, &mut self.skipped);
        items.retain(|item| match item.headers() {
            ToolHeaders::Invalid(reason) => {
                skipped.push(format!("{}: {reason}", item.key()));
                false
            }
            _ => true,
        });
    }

    pub(super) fn read_items(kind: Kind, body: &Bytes, list: Span) -> Option<Self> {
        let elements = elements(body, list)?;
        let mut page = Self {
            items: Vec::with_capacity(elements.len().min(1024)),
            skipped: Vec::new(),
            next_cursor: None,
            ttl_ms: None,
            cache_scope: None,
            bytes: list.range().len(),
        };
        for (index, span) in elements.into_iter().enumerate() {
            match Item::read(kind, body.slice(span.range())) {
                Ok(item) => page.items.push(item),
                Err(reason) => page.skipped.push(format!("{} {index} {reason}", kind.as_str())),
            }
        }
        Some(page)
    }
}

/// A time to live: fractions are cut off, negative or absurd values count as "already stale".
fn milliseconds(token: &[u8]) -> Option<u64> {
    let value: f64 = serde_json::from_slice(token).ok()?;
    // `as` saturates and takes negative values to 0; the largest safe integer keeps sums from overflowing.
    Some((value as u64).min(MAX_SAFE_INTEGER.unsigned_abs()))
}

/// Bounds of one list of one server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Pages that are asked for.
    pub pages: usize,
    /// Items that are kept.
    pub items: usize,
    /// Bytes of all pages together.
    pub bytes: usize,
}

impl Default for Limits {
    /// Far above what a client could use, and far below what would hurt.
    fn default() -> Self {
        Self { pages: 100, items: 10_000, bytes: 32 << 20 }
    }
}

/// Drains the pages of one list. Feed it pages until it stops asking; whatever happens, [`Collector::finish`] gives a
/// list that can be served.
#[derive(Debug)]
pub struct Collector {
    kind: Kind,
    limits: Limits,
    list: List,
    names: HashSet<Box<str>>,
    cursors: HashSet<String>,
    pages: usize,
    bytes: usize,
    suppressed: usize,
}

impl Collector {
    /// A collector before its first page.
    pub fn new(kind: Kind, limits: Limits) -> Self {
        Self {
            kind,
            limits,
            list: List::default(),
            names: HashSet::new(),
            cursors: HashSet::new(),
            pages: 0,
            bytes: 0,
            suppressed: 0,
        }
    }

    /// Takes a page and says which cursor to ask for next; `None` when the list ends here, by itself or at a bound.
    pub fn add(&mut self, page: ListPage) -> Option<String> {
        self.pages += 1;
        self.bytes += page.bytes;
        if self.bytes > self.limits.bytes {
            return self.cut(format!("the list is larger than {} bytes", self.limits.bytes));
        }
        self.note_freshness(&page);
        for skipped in page.skipped {
            self.warn(format!("{skipped}; it is left out"));
        }
        for item in page.items {
            if !self.names.insert(item.key().into()) {
                self.warn(format!(
                    "{} {:?} is listed more than once; the first is kept",
                    self.kind.as_str(),
                    item.key()
                ));
            } else if self.list.items.len() == self.limits.items {
                return self.cut(format!("the list has more than {} items", self.limits.items));
            } else {
                self.list.items.push(item);
            }
        }
        let cursor = page.next_cursor?;
        if cursor.len() > MAX_CURSOR {
            return self.cut(format!("a cursor is longer than {MAX_CURSOR} bytes"));
        }
        if self.pages == self.limits.pages {
            return self.cut(format!("the list has more than {} pages", self.limits.pages));
        }
        if !self.cursors.insert(cursor.clone()) {
            return self.cut("the server repeats a cursor".to_owned());
        }
        Some(cursor)
    }

    /// Ends a list whose next page could not be had. Of what came before it and what was `known` of the list, the longer
    /// is kept, as a partial list: a page that fails once must not make tools vanish.
    #[must_use]
    pub fn abandon(mut self, reason: &str, known: &List) -> List {
        if known.items.len() > self.list.items.len() {
            self.list = List { warnings: Vec::new(), ..known.clone() };
        }
        self.cut(format!("page {} could not be read: {reason}", self.pages + 1));
        self.finish()
    }

    /// The list as far as it was collected.
    #[must_use]
    pub fn finish(mut self) -> List {
        if self.suppressed > 0 {
            self.list.warnings.push(format!("and {} more warnings", self.suppressed));
        }
        self.list.index();
        self.list
    }

    fn note_freshness(&mut self, page: &ListPage) {
        self.list.ttl_ms = self.list.ttl_ms.into_iter().chain(page.ttl_ms).min();
        if page.cache_scope.is_some() && self.list.cache_scope != Some(CacheScope::Private) {
            self.list.cache_scope = page.cache_scope;
        }
    }

    fn cut(&mut self, reason: String) -> Option<String> {
        self.list.complete = false;
        // The reason of a partial list must not be lost behind many small warnings.
        self.list.warnings.push(format!("{reason}; the {} list is partial", self.kind.as_str()));
        None
    }

    fn warn(&mut self, text: String) {
        if self.list.warnings.len() < MAX_WARNINGS {
            self.list.warnings.push(text);
        } else {
            self.suppressed += 1;
        }
    }
}

#[cfg(test)]
mod tests;
