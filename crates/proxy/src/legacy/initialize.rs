//! The handshake of older revisions, answered from what the mesh says of itself to this caller.

use std::sync::Arc;

use crate::body::OutBody;
use crate::failure::Failure;
use crate::peek::Accepts;
use bytes::Bytes;
use http::{HeaderValue, Response};
use outrigger_mcp::bridge::to_client::{self, Client, Reply};
use outrigger_mcp::edit::Edits;
use outrigger_mcp::envelope::{Field, Message, Shape};
use outrigger_mcp::error;
use outrigger_mcp::headers::SESSION_ID;
use outrigger_mcp::json::member;
use outrigger_mcp::method::Method;
use tokio_util::sync::CancellationToken;

use super::mesh::Given;
use super::outlet::{read, single};
use super::resume::EventStream;
use super::seam::{Caller, Declared, ListKind, Route};
use super::service_name;
use super::session::Session;
use super::store::Sessions;
use super::token::SessionKey;

/// Serves `initialize`: a new session, or the reason why there is none.
pub(super) async fn serve(
    sessions: &Sessions,
    caller: Caller,
    route: &Route,
    message: &Message,
    accepts: Accepts,
) -> Result<Response<OutBody>, Failure> {
    let (told, begun) = begin(sessions, caller, route, message, None).await?;
    let mut response = single(accepts, told);
    if let Some((session, _)) = begun {
        let value =
            HeaderValue::from_str(&session.id.0).map_err(|_| Failure::Internal("a session id is no text".into()))?;
        response.headers_mut().insert(SESSION_ID, value);
    }
    Ok(response)
}

/// The connection that a session lives and ends with, where it has one.
pub(super) struct Line {
    /// What carries everything that the client is told.
    pub(super) outside: Arc<EventStream>,
    /// Cancelled when the connection ends.
    pub(super) closed: CancellationToken,
}

/// A session that has begun, and its caller.
type Begun = (Arc<Session>, Caller);

/// Answers `initialize`: the reply, and the session unless the reply is an error.
///
/// # Errors
/// Why there is no reply of the mesh.
pub(super) async fn begin(
    sessions: &Sessions,
    caller: Caller,
    route: &Route,
    message: &Message,
    line: Option<Line>,
) -> Result<(Bytes, Option<Begun>), Failure> {
    let broken = |reason: &str| Failure::Broken { service: service_name(route), reason: reason.to_owned() };
    let id = message.id().unwrap_or_default();
    let key = SessionKey::random()?;
    let client = Client::from_initialize(message);
    let caller = caller.in_session(key.tag(&caller.principal), Declared::of_client(&client));
    let discovered = discover(&caller, route, &client, &id).await?;
    if discovered.shape == Shape::Error {
        let Reply::Final(told) = to_client::reply(&discovered, None) else {
            return Err(broken("it asked the client before the handshake"));
        };
        return Ok((told, None));
    }
    let told = to_client::initialize_reply(&id, client.revision, &discovered);
    let told = told.ok_or_else(|| broken("it did not say what it can do"))?;
    let session = sessions.open(key, &caller, route, client, announced(&discovered), line)?;
    Ok((told, Some((session, caller))))
}

async fn discover(caller: &Caller, route: &Route, client: &Client, id: &Bytes) -> Result<Message, Failure> {
    let plain = read(route, error::request(id, Method::ServerDiscover.as_str(), b"{}"))?;
    let mut edits = Edits::new();
    client.modern_meta().params(&plain, &mut edits);
    let request = read(route, edits.apply_flat(plain.body()))?;
    match caller.mesh.call(route, request).await? {
        Given::Message(body) => read(route, body),
        Given::Stream(mut stream) => {
            while let Some(message) = stream.next().await? {
                if matches!(message.shape, Shape::Result | Shape::Error) {
                    return Ok(message);
                }
            }
            Err(Failure::Broken { service: service_name(route), reason: "its answer ended before the result".into() })
        }
    }
}

/// The lists whose changes the capabilities promise to tell.
fn announced(discovered: &Message) -> Vec<ListKind> {
    let Some(capabilities) = discovered.results().get(Field::Capabilities) else { return Vec::new() };
    let body = discovered.body();
    let promises = |kind: &ListKind| {
        let name = match kind {
            ListKind::Tools => "tools",
            ListKind::Prompts => "prompts",
            ListKind::Resources => "resources",
        };
        let flag = member(body, capabilities, name).and_then(|of| member(body, of, "listChanged"));
        flag.is_some_and(|flag| flag.of(body) == b"true")
    };
    ListKind::ALL.into_iter().filter(promises).collect()
}
