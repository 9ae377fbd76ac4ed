//! GET: the session's stream, or a stream that broke, from where the client lost it.

use std::sync::Arc;

use crate::body::OutBody;
use crate::failure::Failure;
use crate::peek::accepts;
use http::{HeaderMap, Response};
use outrigger_mcp::headers::LAST_EVENT_ID;

use super::outlet::stream_response;
use super::resume::{Place, Reader};
use super::seam::Caller;
use super::session::Session;
use super::store::Sessions;
use super::subscribe;

/// Serves a GET of a session.
///
/// # Errors
/// The client takes no event stream, too many are open, or what it wants to resume is not there.
pub(super) fn serve(
    sessions: &Sessions,
    caller: &Caller,
    session: &Arc<Session>,
    headers: &HeaderMap,
) -> Result<Response<OutBody>, Failure> {
    if !accepts(headers)?.stream {
        return Err(Failure::NotAcceptable);
    }
    let place = sessions.listens.begin(caller.principal.id())?;
    let reader = match headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty()) {
        Some(id) if !session.resumes_elsewhere(id.to_str().unwrap_or_default()) => {
            resume(session, id.to_str().unwrap_or_default())?
        }
        _ => session.outside.attach(&session.closed),
    };
    if reader.reads(&session.outside) {
        subscribe::start(session, caller);
    }
    Ok(stream_response(session, reader, Some(place)))
}

/// Never 404, which tells a client that its session is gone.
fn resume(session: &Arc<Session>, event_id: &str) -> Result<Reader, Failure> {
    let found = session.resume(event_id);
    found.and_then(|(stream, after)| stream.resume(after, &session.closed).ok()).ok_or_else(|| {
        let wrong = match Place::of_other(event_id) {
            Some(_) => "names nothing of this session that is still held",
            None => "is no event id of ours",
        };
        Failure::InvalidRequest(format!("Last-Event-ID {wrong}; do not send it"))
    })
}
