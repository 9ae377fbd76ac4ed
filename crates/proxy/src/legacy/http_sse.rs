//! Clients over HTTP+SSE, the transport of 2024-11-05: GET opens the event stream that is the session, `endpoint` on it
//! says where to post, and every reply comes on it. Any older revision is spoken over it.
//!
//! ```text
//!  GET  -> connect: a connection and its id -> resume: the event stream, written until either side closes it
//!  POST -> post: finds the connection -> initialize | the same as every POST, but answered on that stream
//! ```

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::body::OutBody;
use crate::failure::Failure;
use crate::peek::{Accepts, Refused, accepts};
use crate::reply;
use bytes::Bytes;
use http::{HeaderMap, Method as HttpMethod, Response};
use outrigger_mcp::envelope::{EnvelopeError, Message, Rejected, Shape};
use outrigger_mcp::error::{INVALID_REQUEST, RpcError};
use outrigger_mcp::method::Method;
use outrigger_policy::Principal;
use outrigger_telemetry::metrics::LimitKind;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::mesh::Mesh;
use super::post::Post;
use super::resume::EventStream;
use super::seam::{Caller, Inbound, Route};
use super::session::Session;
use super::store::{Sessions, Table};
use super::token::random_prefix;
use super::{initialize, limited, subscribe};

/// A connection on which nobody says `initialize` is closed after this time.
const GREETING: Duration = Duration::from_secs(60);
/// A client that takes nothing off its stream for this long is cut off: all that its session asked for waits for it.
const SLOW: Duration = Duration::from_secs(60);

/// What the path of a request asks of HTTP+SSE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// `.../sse`: the event stream.
    Stream,
    /// `.../messages`: where messages are posted.
    Messages,
}

impl At {
    /// The door that a path ends in, and what stands before it.
    pub fn of(path: &str) -> Option<(&str, Self)> {
        let stream = path.strip_suffix("/sse").map(|base| (base, At::Stream));
        stream.or_else(|| path.strip_suffix("/messages").map(|base| (base, At::Messages)))
    }
}

/// The open connections of a proxy.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: Mutex<HashMap<String, Arc<Connection>>>,
    tasks: TaskTracker,
}

/// One open event stream, which is a session as soon as its client has said `initialize`.
struct Connection {
    principal: Principal,
    route: Route,
    stream: Arc<EventStream>,
    /// Cancelled when the connection or its session ends.
    closed: CancellationToken,
    greeted: AtomicBool,
    /// The session, and the mesh as it sees it.
    session: OnceLock<(Arc<Session>, Arc<dyn Mesh>)>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("route", &self.route).finish_non_exhaustive()
    }
}

/// Serves a request at one of the two doors, whose URL is `uri`.
///
/// # Errors
/// What is refused before it is a call; [`super::refusal`] says how that is told.
pub async fn serve(
    sessions: &Sessions,
    caller: Caller,
    route: Route,
    door: At,
    uri: &http::Uri,
    request: Inbound,
) -> Result<Response<OutBody>, Refused> {
    match (door, &request.method) {
        (At::Stream, &HttpMethod::GET) => Ok(connect(sessions, &caller, route, uri.path(), &request.headers)?),
        (At::Messages, &HttpMethod::POST) => post(sessions, caller, &route, uri.query(), request).await,
        (At::Stream, _) => Err(Failure::MethodNotAllowed("GET").into()),
        (At::Messages, _) => Err(Failure::MethodNotAllowed("POST").into()),
    }
}

/// Opens an event stream.
fn connect(
    sessions: &Sessions,
    caller: &Caller,
    route: Route,
    path: &str,
    headers: &HeaderMap,
) -> Result<Response<OutBody>, Failure> {
    if !accepts(headers)?.stream {
        return Err(Failure::NotAcceptable);
    }
    let place = sessions.listens.begin(caller.principal.id())?;
    // 144 bits: nobody guesses it, and it proves nothing all the same.
    let id = format!("{}{}{}", random_prefix()?, random_prefix()?, random_prefix()?);
    let connection = Arc::new(Connection {
        principal: caller.principal.clone(),
        route,
        stream: EventStream::new(0, None, true, sessions.each.resume),
        closed: sessions.closed.child_token(),
        greeted: AtomicBool::new(false),
        session: OnceLock::new(),
    });
    let over = || limited(&sessions.refused, LimitKind::ClientSessions, sessions.names[1]);
    sessions.connections.add(&id, &connection, sessions.max_per_principal).ok_or_else(over)?;
    let reader = connection.stream.attach(&connection.closed);
    let base = path.strip_suffix("/sse").unwrap_or_default();
    connection.stream.push_text(format!("event: endpoint\ndata: {base}/messages?sessionId={id}\n\n").into());
    let (sender, body) = OutBody::channel(4);
    let (connections, table) = (Arc::clone(&sessions.connections), Arc::clone(&sessions.table));
    let keepalive = sessions.each.keepalive;
    sessions.connections.tasks.spawn(async move {
        let pump = reader.pump(sender, keepalive, Some(SLOW));
        tokio::pin!(pump);
        tokio::select! {
            () = &mut pump => {}
            () = connection.ungreeted() => {
                connection.closed.cancel();
                pump.await;
            }
        }
        connections.lock().remove(&id);
        connection.end(&table);
        drop(place);
    });
    Ok(reply::event_stream(body))
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, id: &str, connection: &Arc<Connection>, max_per_principal: usize) -> Option<()> {
        let mut open = self.lock();
        let mine = open.values().filter(|other| other.principal.id() == connection.principal.id()).count();
        if mine >= max_per_principal {
            return None;
        }
        open.insert(id.to_owned(), Arc::clone(connection));
        Some(())
    }

    /// The connection with this id, if it is this caller's and belongs to this route.
    fn find(&self, query: Option<&str>, caller: &Caller, route: &Route) -> Result<Arc<Connection>, Failure> {
        let id = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("sessionId="));
        let found = id.and_then(|id| self.lock().get(id).cloned()).filter(|found| !found.closed.is_cancelled());
        let found = found.ok_or(Failure::UnknownSession)?;
        if found.principal.id() != caller.principal.id() {
            return Err(Failure::ForeignSession);
        }
        if found.route == *route { Ok(found) } else { Err(Failure::UnknownSession) }
    }
}

impl Connection {
    /// Resolves when the client has taken too long to say who it is.
    async fn ungreeted(&self) {
        tokio::time::sleep(GREETING).await;
        if self.session.get().is_some() {
            std::future::pending::<()>().await;
        }
    }

    fn end(&self, table: &Table) {
        self.closed.cancel();
        if let Some((session, mesh)) = self.session.get() {
            let held = table.write().unwrap_or_else(PoisonError::into_inner).remove(&session.id);
            session.close();
            if held.is_some() {
                mesh.ended(&session.route);
            }
        }
    }
}

/// Takes a message, and answers it on the stream.
async fn post(
    sessions: &Sessions,
    caller: Caller,
    route: &Route,
    query: Option<&str>,
    request: Inbound,
) -> Result<Response<OutBody>, Refused> {
    let message = request.message.unwrap_or(Err(Rejected { error: EnvelopeError::NotObject, id: None }));
    let id = match &message {
        Ok(message) => message.id(),
        Err(rejected) => rejected.id.clone(),
    };
    let refused = |failure| Refused { failure, id: id.clone() };
    let connection = sessions.connections.find(query, &caller, route).map_err(refused)?;
    let asks = message.as_ref().is_ok_and(|message| message.shape == Shape::Request);
    let served = match message {
        Ok(message) if asks && message.method == Method::Initialize => {
            greet(sessions, &connection, caller, route, message).await
        }
        message => match connection.session.get().map(|(session, _)| Arc::clone(session)) {
            Some(session) => {
                session.touch();
                let caller = caller.in_session(Arc::clone(&session.tag), session.declared());
                let accepts = Accepts { json: true, stream: true };
                let post = Post { session, caller, accepts, on_stream: Some(Arc::clone(&connection.stream)) };
                post.serve(message, &request.body).await
            }
            None => Err(Failure::NoSession("send initialize first".into())),
        },
    };
    match served {
        // Many clients look at nothing but the stream: there they learn why a request has no result.
        Err(failure) if asks && connection.session.get().is_some() => {
            connection.stream.push(&failure.rpc().reply(id.as_deref())).await;
            Ok(reply::accepted())
        }
        served => served.map_err(refused),
    }
}

/// Serves `initialize`. What is wrong with it is told on the stream, as a good answer is.
async fn greet(
    sessions: &Sessions,
    connection: &Arc<Connection>,
    caller: Caller,
    route: &Route,
    message: Message,
) -> Result<Response<OutBody>, Failure> {
    let id = message.id().unwrap_or_default();
    if connection.greeted.swap(true, Ordering::AcqRel) {
        let told = RpcError::new(INVALID_REQUEST, "initialize was said on this stream already");
        connection.stream.push(&told.reply(Some(&id))).await;
        return Ok(reply::accepted());
    }
    let line = initialize::Line { outside: Arc::clone(&connection.stream), closed: connection.closed.clone() };
    let told: Bytes = match initialize::begin(sessions, caller, route, &message, Some(line)).await {
        Ok((told, begun)) => {
            match begun {
                Some((session, caller)) => {
                    let _ = connection.session.set((Arc::clone(&session), Arc::clone(&caller.mesh)));
                    if connection.closed.is_cancelled() {
                        connection.end(&sessions.table);
                    }
                    subscribe::start(&session, &caller);
                }
                None => connection.greeted.store(false, Ordering::Release),
            }
            told
        }
        Err(failure) => {
            connection.greeted.store(false, Ordering::Release);
            failure.rpc().reply(Some(&id))
        }
    };
    connection.stream.push(&told).await;
    Ok(reply::accepted())
}
