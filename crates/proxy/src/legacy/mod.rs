//! Clients of older revisions over Streamable HTTP and HTTP+SSE: handshake, sessions, and translation to the modern revision.
//!
//! ```text
//!  POST -> post -> call -> mesh (the proxy) --> reply ----+--> outlet: JSON, or ...
//!                   |  ask: questions to the client -------+--> resume: an event stream <-- GET with Last-Event-ID
//!  GET  -> get  -> subscribe: changes, out-of-call messages --> resume: the session's event stream
//! ```
//!
//! `http_sse` is the same for clients of the transport of 2024-11-05, whose every answer comes on one event stream.
//! A session whose server speaks the client's own revision may be `relayed`: then only its owner and its life are looked
//! after here. `store` holds the sessions, `session` is one of them. Everything that a session starts is a task of it and ends
//! with it. A session's id is a `token`, sealed with `keys`, from which another replica can take the session up.

mod ask;
mod call;
mod ended;
pub mod era;
mod get;
pub mod http_sse;
mod initialize;
pub mod keys;
pub mod mesh;
mod outlet;
mod post;
pub mod relayed;
mod resume;
pub mod seam;
mod session;
mod store;
mod subscribe;
mod tasks;
#[cfg(test)]
mod tests;
mod token;

use std::sync::Arc;
use std::time::Duration;

use crate::body::OutBody;
use crate::failure::Failure;
use crate::peek::Refused;
use crate::reply::{self, Dialect};
use http::{HeaderMap, Method, Response, StatusCode};
use outrigger_mcp::headers::{PROTOCOL_VERSION, SESSION_ID};
use outrigger_mcp::revision::Revision;
use outrigger_telemetry::ServiceMetrics;
use outrigger_telemetry::metrics::LimitKind;

pub use resume::Kept;
use seam::{Caller, Inbound, Route};
use session::Session;
pub use store::{Bounds, Sessions, Settings};

/// Serves one HTTP request of a legacy client. The response's body has no `on_end` hook: the proxy sets one.
///
/// # Errors
/// What is refused before it is a call; [`refusal`] says how that is told.
pub async fn serve(
    sessions: &Sessions,
    caller: Caller,
    route: Route,
    request: Inbound,
) -> Result<Response<OutBody>, Refused> {
    if request.method == Method::POST {
        return post::serve(sessions, caller, &route, request).await;
    }
    let session = find(sessions, &caller, &route, &request.headers)?;
    if request.method == Method::DELETE {
        sessions.end(&session);
        caller.in_session(Arc::clone(&session.tag), session.declared()).mesh.ended(&route);
        let mut response = Response::new(OutBody::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    }
    let caller = caller.in_session(Arc::clone(&session.tag), session.declared());
    Ok(get::serve(sessions, &caller, &session, &request.headers)?)
}

/// The answer to a refused request of a legacy client.
pub fn refusal(method: &Method, refused: &Refused) -> Response<OutBody> {
    // Without a POST there is no JSON-RPC request that a status of 200 could be about.
    let dialect = if *method == Method::POST { Dialect::Legacy } else { Dialect::Modern };
    reply::failure(&refused.failure, refused.id.as_deref(), dialect)
}

/// The session that a request names, if it is the caller's.
fn find(sessions: &Sessions, caller: &Caller, route: &Route, headers: &HeaderMap) -> Result<Arc<Session>, Failure> {
    let Some(id) = headers.get(SESSION_ID) else {
        let text = "Mcp-Session-Id is missing: revisions before 2026-07-28 need a session; send initialize first";
        return Err(Failure::NoSession(text.into()));
    };
    let session = sessions.find(id.to_str().unwrap_or_default(), caller, route)?;
    // Absent means 2025-03-26 (basic/transports, "Protocol Version Header"), or a client that forgets it: no harm.
    if let Some(version) = headers.get(PROTOCOL_VERSION) {
        let version = version.to_str().unwrap_or("(not text)").trim();
        let spoken = Revision::parse(version).ok_or_else(|| Failure::UnsupportedVersion(version.to_owned()))?;
        if spoken.is_modern() {
            return Err(Failure::InvalidRequest(format!(
                "MCP-Protocol-Version is {version}, which has no sessions, but Mcp-Session-Id names one of {}: send its \
                 revision, or leave the session id out",
                session.revision().as_str()
            )));
        }
    }
    Ok(session)
}

/// A limit of sessions was reached; `setting` raises it. Room comes soon: what fills it are calls.
fn limited(metrics: &ServiceMetrics, kind: LimitKind, setting: &str) -> Failure {
    Failure::over(metrics, kind, setting, Duration::from_secs(1))
}

/// What a failure calls the service of a route.
fn service_name(route: &Route) -> String {
    match route {
        Route::Merged => "behind this endpoint".to_owned(),
        Route::Service(name) => name.to_string(),
    }
}
