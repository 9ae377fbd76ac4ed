//! Answers that come from the snapshot alone: the four lists and `server/discover`.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use bytes::Bytes;
use outrigger_mcp::catalog::CacheScope;
use outrigger_mcp::catalog::merge::{Freshness, Merged};
use outrigger_mcp::catalog::page::suffix;
use outrigger_mcp::catalog_kind::Kind;
use outrigger_mcp::cursor::Cursor;
use outrigger_mcp::envelope::{Message, Param};
use outrigger_mcp::revision::Revision;
use outrigger_proxy::failure::Failure;

use crate::core::{Caller, Era, Route};
use crate::describe::describe;
use crate::snapshot::Snapshot;
use crate::view::View;

/// Time to live of lists whose servers do not say. Changes are announced, so clients lose nothing by asking again.
const DEFAULT_TTL_MS: u64 = 0;

/// The key that cursors are sealed with: the same on all replicas that share their session keys.
pub(crate) struct CursorKey(hmac::Key);

impl CursorKey {
    /// The key from a secret. When that changes, holders of cursors start the list again.
    pub(crate) fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    fn mac(&self, bytes: &[u8]) -> [u8; 16] {
        let mut out = [0; 16];
        let tag = hmac::sign(&self.0, bytes);
        out.copy_from_slice(tag.as_ref().get(..16).unwrap_or(&[0; 16]));
        out
    }
}

/// A whole reply in pieces: the `result` between what every reply has.
fn reply(id: &[u8], result: Vec<Bytes>) -> Vec<Bytes> {
    let mut head = Vec::with_capacity(40 + id.len());
    head.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    head.extend_from_slice(id);
    head.extend_from_slice(b",\"result\":");
    let mut pieces = Vec::with_capacity(result.len() + 2);
    pieces.push(Bytes::from(head));
    pieces.extend(result);
    pieces.push(Bytes::from_static(b"}"));
    pieces
}

/// The reply to a `*/list` request, as clients of a revision read it.
///
/// # Errors
/// A cursor that is not ours or outdated; nothing to list because every service is away.
pub(crate) fn list(
    snapshot: &Snapshot,
    key: &CursorKey,
    caller: &Caller,
    route: &Route,
    kind: Kind,
    message: &Message,
    revision: Revision,
) -> Result<Vec<Bytes>, Failure> {
    let (catalog, view) = seen(snapshot, caller, route)?;
    if let Some((service, reason)) = &view.unavailable {
        return Err(Failure::Unavailable { service: service.clone(), reason: reason.clone() });
    }
    let list = view.list(kind);
    let cursor = Cursor { kind, generation: list.fingerprint(), class: audience(caller, route), offset: 0 };
    let mac = |bytes: &[u8]| key.mac(bytes);
    let offset = match asked_cursor(message)? {
        None => 0,
        Some(text) => cursor.open(&text, &mac).map_err(|error| Failure::InvalidParams(error.to_string()))?,
    };
    // An offset that we sealed for this very list is the start of a page.
    let page =
        list.page_for(offset, revision).ok_or_else(|| Failure::InvalidParams("the cursor leads nowhere".into()))?;
    let next = page.next.map(|offset| Cursor { offset, ..cursor }.seal(&mac));
    let freshness = (caller.era == Era::Modern).then(|| freshness(catalog, &view, kind));
    let suffix = suffix(freshness, Some(&view.meta));
    Ok(reply(&message.id().unwrap_or_default(), list.result(&page, next.as_deref(), &suffix)))
}

/// The reply to `server/discover`.
///
/// # Errors
/// The route's one service has never been reached.
pub(crate) fn discover(
    snapshot: &Snapshot,
    caller: &Caller,
    route: &Route,
    instructions_bytes: usize,
    message: &Message,
) -> Result<Vec<Bytes>, Failure> {
    let (catalog, view) = seen(snapshot, caller, route)?;
    if let (Route::Service(_), Some((service, reason))) = (route, &view.unavailable) {
        return Err(Failure::Unavailable { service: service.clone(), reason: reason.clone() });
    }
    let body = view.description.get_or_init(|| describe(catalog, &view, route, instructions_bytes));
    Ok(reply(&message.id().unwrap_or_default(), vec![body.clone()]))
}

fn seen<'s>(
    snapshot: &'s Snapshot,
    caller: &Caller,
    route: &Route,
) -> Result<(&'s Merged, std::sync::Arc<View>), Failure> {
    let catalog = snapshot.catalog(route).map(|(catalog, _)| catalog);
    catalog.zip(snapshot.view(caller, route)).ok_or(Failure::UnknownPath(crate::entrance::PATHS))
}

fn asked_cursor(message: &Message) -> Result<Option<std::borrow::Cow<'_, str>>, Failure> {
    if message.params().get(Param::Cursor).is_none_or(|span| message.raw(span) == b"null") {
        return Ok(None);
    }
    message.text(Param::Cursor).map(Some).ok_or_else(|| Failure::InvalidParams("`cursor` must be a string".into()))
}

/// How long and for whom: policy hides things from others, so what a class sees is its own unless everybody is of it.
fn freshness(catalog: &Merged, view: &View, kind: Kind) -> Freshness {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let merged = catalog.freshness(kind, now_ms, DEFAULT_TTL_MS);
    let private = view.private || view.list(kind).filtered();
    if private { Freshness { scope: CacheScope::Private, ..merged } } else { merged }
}

/// Identifies what a holder of a cursor may see, and where.
fn audience(caller: &Caller, route: &Route) -> [u8; 16] {
    let mut bytes = caller.class().to_be_bytes().to_vec();
    bytes.push(caller.era as u8);
    if let Route::Service(name) = route {
        bytes.extend_from_slice(name.as_bytes());
    }
    let mut out = [0; 16];
    out.copy_from_slice(digest(&SHA256, &bytes).as_ref().get(..16).unwrap_or(&[0; 16]));
    out
}
