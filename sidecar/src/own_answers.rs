//! What the sidecar answers by itself, from what it learned of the server: `server/discover` and the lists.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use outrigger_mcp::{
    bridge::{handshake::Greeted, meta_keys::SERVER_INFO, tasks::modern_capabilities},
    catalog::{
        CacheScope, ListPage, PageError,
        merge::{Merged, ServiceState, ServiceView},
        page::{PAGE_BYTES, PreparedList, suffix},
    },
    catalog_kind::Kind,
    edit::Edits,
    envelope::{Field, Message, Param},
    error::result_reply,
    json::{elements, member, quote},
    revision::Revision,
};
use outrigger_policy::CapabilityKind;
use outrigger_proxy::failure::Failure;

use crate::keeper::Offer;

/// Lists for this many kinds of callers are kept.
const MAX_CLASSES: usize = 64;

/// Prepared lists: by catalog, kind and what the caller may see.
#[derive(Default)]
pub struct Lists {
    prepared: Mutex<Option<Prepared>>,
}

struct Prepared {
    version: u64,
    merged: Arc<Merged>,
    lists: HashMap<(Kind, u64), Arc<PreparedList>>,
}

impl Lists {
    /// The reply to a list request. `class` stands for what the caller may see, `visible` decides it; `private` says that
    /// not everybody is of that class. The lists of a service are short, so everything goes on one page and no cursor of ours is ever valid.
    ///
    /// # Errors
    /// [`Failure::InvalidParams`] when a cursor is given.
    pub fn reply(
        &self,
        service: &Arc<str>,
        offer: &Offer,
        request: &Message,
        kind: Kind,
        (class, private): (u64, bool),
        visible: impl Fn(CapabilityKind, &str) -> bool,
    ) -> Result<Vec<Bytes>, Failure> {
        let (merged, list) = self.list(service, offer, kind, class, visible);
        let offset = match request.text(Param::Cursor) {
            None => 0,
            Some(cursor) => cursor
                .parse()
                .map_err(|_| Failure::InvalidParams("the cursor is not valid; list again without one".into()))?,
        };
        let page = list
            .page(offset)
            .ok_or_else(|| Failure::InvalidParams("the cursor is not valid; list again without one".into()))?;
        let next = page.next.map(|offset| offset.to_string());
        let mut freshness = merged.freshness(kind, now_ms(), 0);
        if private || list.filtered() {
            freshness.scope = CacheScope::Private;
        }
        let info = offer.greeted.as_ref().map(|greeted| server_info(greeted));
        let mut pieces = vec![head(request)];
        pieces.extend(list.result(&page, next.as_deref(), &suffix(Some(freshness), info.as_deref())));
        pieces.push(Bytes::from_static(b"}"));
        Ok(pieces)
    }

    fn list(
        &self,
        service: &Arc<str>,
        offer: &Offer,
        kind: Kind,
        class: u64,
        visible: impl Fn(CapabilityKind, &str) -> bool,
    ) -> (Arc<Merged>, Arc<PreparedList>) {
        let mut slot = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if slot
            .as_ref()
            .is_some_and(|prepared| prepared.version != offer.version || prepared.lists.len() >= MAX_CLASSES)
        {
            *slot = None;
        }
        let prepared = slot.get_or_insert_with(|| {
            let view =
                ServiceView { name: service.clone(), catalog: offer.catalog.clone(), state: ServiceState::Fresh };
            Prepared { version: offer.version, merged: Arc::new(Merged::single(view)), lists: HashMap::new() }
        });
        let merged = prepared.merged.clone();
        let seen = |_: &str, kind, name: &str| visible(policy_kind(kind), name);
        let build = || Arc::new(PreparedList::build(&merged, kind, true, seen, PAGE_BYTES));
        let list = prepared.lists.entry((kind, class)).or_insert_with(build).clone();
        (merged, list)
    }
}

/// The reply to `server/discover` (2026-07-28 server/discover), from what a legacy server said in `initialize`.
pub fn discover(request: &Message, greeted: &Greeted) -> Bytes {
    let versions: Vec<String> = Revision::ALL.iter().rev().map(|r| format!("\"{}\"", r.as_str())).collect();
    let mut result =
        format!("{{\"resultType\":\"complete\",\"supportedVersions\":[{}],\"capabilities\":", versions.join(","))
            .into_bytes();
    result.extend_from_slice(&modern_capabilities(&greeted.capabilities));
    if let Some(instructions) = &greeted.instructions {
        result.extend_from_slice(b",\"instructions\":");
        result.extend_from_slice(instructions);
    }
    result.extend_from_slice(b",\"ttlMs\":0,\"cacheScope\":\"private\",\"_meta\":");
    result.extend_from_slice(&server_info(greeted));
    result.push(b'}');
    result_reply(&request.id().unwrap_or_default(), &result)
}

/// The reply to a list request as the server made it, without what the caller may not use and what is no definition; and
/// no longer fit for a cache that callers share. Clients of the stateless revision get no tools with invalid annotations
/// (`modern`). Errors pass.
///
/// # Errors
/// What is wrong with the result.
pub fn visible_only(
    reply: &Message,
    kind: Kind,
    modern: bool,
    visible: impl Fn(&str) -> bool,
) -> Result<Vec<Bytes>, PageError> {
    let body = reply.body();
    let Some(result) = reply.result_span() else { return Ok(vec![body.clone()]) };
    let mut page = ListPage::parse(kind, &reply.slice(result))?;
    let missing = PageError::Items(kind.list_member());
    let list = member(body, result, kind.list_member()).ok_or(missing)?;
    if modern {
        page.skip_invalid_headers();
    }
    let listed = elements(body, list).map_or(0, |items| items.len());
    for skipped in &page.skipped {
        tracing::debug!(skipped, "left out of a list of one caller");
    }
    let kept = page.items.iter().filter(|item| visible(item.key()));
    let kept: Vec<&[u8]> = kept.map(|item| item.raw().as_ref()).collect();
    if kept.len() == listed && reply.results().get(Field::CacheScope).is_none() {
        return Ok(vec![body.clone()]);
    }
    let mut edits = Edits::new();
    edits.replace(list, [b"[", kept.join(&b","[..]).as_slice(), b"]"].concat());
    if let Some(scope) = reply.results().get(Field::CacheScope) {
        edits.replace(scope, &b"\"private\""[..]);
    }
    Ok(edits.apply(body))
}

/// A `_meta` object that says who the server is.
fn server_info(greeted: &Greeted) -> Vec<u8> {
    let mut meta = format!("{{{}:", quote(SERVER_INFO)).into_bytes();
    meta.extend_from_slice(&greeted.info);
    meta.push(b'}');
    meta
}

fn head(request: &Message) -> Bytes {
    let mut head = b"{\"jsonrpc\":\"2.0\",\"id\":".to_vec();
    head.extend_from_slice(&request.id().unwrap_or_default());
    head.extend_from_slice(b",\"result\":");
    head.into()
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// The kind as policy names it.
pub fn policy_kind(kind: Kind) -> CapabilityKind {
    match kind {
        Kind::Tool => CapabilityKind::Tool,
        Kind::Prompt => CapabilityKind::Prompt,
        Kind::Resource => CapabilityKind::Resource,
        Kind::Template => CapabilityKind::Template,
    }
}
