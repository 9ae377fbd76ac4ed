//! POST: one message or, in 2025-03-26, a batch. What concerns only the session is answered here.

use std::sync::Arc;
use std::time::Duration;

use crate::body::OutBody;
use crate::failure::Failure;
use crate::peek::{Accepts, Refused, accepts};
use crate::reply;
use bytes::Bytes;
use http::{Response, StatusCode};
use outrigger_mcp::bridge::log_level::LogLevel;
use outrigger_mcp::envelope::{EnvelopeError, Message, Param, Rejected, Shape};
use outrigger_mcp::error::{INVALID_REQUEST, LEGACY_RESOURCE_NOT_FOUND, RpcError, result_reply};
use outrigger_mcp::json::{Scanner, Span, elements};
use outrigger_mcp::method::Method;
use outrigger_mcp::revision::Revision;
use outrigger_telemetry::metrics::LimitKind;
use tokio::sync::{Semaphore, oneshot};

use super::ask::Answered;
use super::call::Call;
use super::outlet::{First, Outlet, response, single};
use super::resume::EventStream;
use super::seam::{Caller, Inbound, Route};
use super::session::{Busy, Session};
use super::store::Sessions;
use super::{find, initialize};

/// Messages of one batch.
const MAX_BATCH: usize = 64;
/// Requests of one batch at work at once.
const BATCH_AT_ONCE: usize = 8;
/// How long an answer is waited for before it is begun as an event stream. Most are there by then; for the others the
/// client gets signs of life, and something to resume.
const PATIENCE: Duration = Duration::from_millis(250);

/// A session's requests of one POST.
pub(super) struct Post {
    pub(super) session: Arc<Session>,
    pub(super) caller: Caller,
    pub(super) accepts: Accepts,
    /// Where everything is answered, instead of in the response (HTTP+SSE).
    pub(super) on_stream: Option<Arc<EventStream>>,
}

/// Serves a POST.
pub(super) async fn serve(
    sessions: &Sessions,
    caller: Caller,
    route: &Route,
    request: Inbound,
) -> Result<Response<OutBody>, Refused> {
    let message = request.message.unwrap_or(Err(Rejected { error: EnvelopeError::NotObject, id: None }));
    let id = match &message {
        Ok(message) => message.id(),
        Err(rejected) => rejected.id.clone(),
    };
    let served = async {
        let accepts = accepts(&request.headers)?;
        if let Ok(message) = &message
            && message.method == Method::Initialize
            && message.shape == Shape::Request
        {
            return initialize::serve(sessions, caller, route, message, accepts).await;
        }
        let session = find(sessions, &caller, route, &request.headers)?;
        let caller = caller.in_session(Arc::clone(&session.tag), session.declared());
        let post = Post { session, caller, accepts, on_stream: None };
        post.serve(message, &request.body).await
    };
    served.await.map_err(|failure| Refused { failure, id })
}

impl Post {
    /// Serves what was posted.
    pub(super) async fn serve(
        self,
        message: Result<Message, Rejected>,
        body: &Bytes,
    ) -> Result<Response<OutBody>, Failure> {
        match message {
            Ok(message) => self.one(message).await,
            Err(rejected) if rejected.error == EnvelopeError::Batch => self.batch(body).await,
            Err(rejected) => Err(rejected.error.into()),
        }
    }

    async fn one(self, message: Message) -> Result<Response<OutBody>, Failure> {
        if message.shape != Shape::Request {
            take(&self.session, &message)?;
            return Ok(reply::accepted());
        }
        if let Some(told) = self.unknown_resource(&message) {
            return Ok(self.told(told).await);
        }
        if let Some(done) = answer_here(&self.session, &message) {
            if message.method == Method::ResourcesSubscribe && done.is_ok() {
                let uri = uri(&message)?;
                if let Some(refused) = self.session.heard(&uri).await {
                    return Ok(self.told(not_subscribed(&message, &uri, &refused)).await);
                }
            }
            let told = result_reply(&message.id().unwrap_or_default(), done?);
            return Ok(self.told(told).await);
        }
        let (outlet, first) = self.outlet();
        match self.call(message, &outlet) {
            Ok(call) => drop(self.session.tasks.spawn(call.run())),
            Err(Refusal::Busy(failure)) => return Err(failure),
            Err(Refusal::Duplicate(told)) => return Ok(reply::json(StatusCode::BAD_REQUEST, told)),
        }
        Ok(self.respond(&outlet, first, false).await)
    }

    async fn batch(self, body: &Bytes) -> Result<Response<OutBody>, Failure> {
        if self.session.revision() != Revision::V2025_03_26 {
            return Err(EnvelopeError::Batch.into());
        }
        let messages = split(body)?;
        let (outlet, first) = self.outlet();
        let at_once = Arc::new(Semaphore::new(BATCH_AT_ONCE));
        // Ours, so that the answer is not complete before every message was looked at.
        let all = outlet.turn();
        let (mut silent, mut lost) = (true, None);
        for message in messages {
            let request = message.as_ref().map_or(true, |message| message.shape == Shape::Request);
            silent &= !request;
            match self.entry(message, &outlet) {
                Entry::Taken => {}
                Entry::Lost(failure) => lost = Some(failure),
                Entry::Told(told) => outlet.turn().reply(told).await,
                Entry::Call(call) => {
                    let at_once = Arc::clone(&at_once);
                    self.session.tasks.spawn(async move {
                        let cancelled = call.in_flight.cancelled.clone();
                        let permit = tokio::select! {
                            permit = at_once.acquire_owned() => permit,
                            () = cancelled.cancelled() => return,
                        };
                        call.run().await;
                        drop(permit);
                    });
                }
            }
        }
        match lost {
            Some(failure) if silent => return Err(failure),
            Some(failure) => outlet.turn().reply(failure.rpc().reply(None)).await,
            None if silent => return Ok(reply::accepted()),
            None => {}
        }
        drop(all);
        Ok(self.respond(&outlet, first, true).await)
    }

    /// One message of a batch.
    fn entry(&self, message: Result<Message, Rejected>, outlet: &Arc<Outlet>) -> Entry {
        let message = match message {
            Ok(message) => message,
            Err(Rejected { error, id }) => return Entry::Told(Failure::Envelope(error).rpc().reply(id.as_deref())),
        };
        if message.shape != Shape::Request {
            return match take(&self.session, &message) {
                Ok(()) => Entry::Taken,
                Err(failure) => Entry::Lost(failure),
            };
        }
        let id = message.id().unwrap_or_default();
        if message.method == Method::Initialize {
            let told = RpcError::new(INVALID_REQUEST, "initialize must not be part of a batch");
            return Entry::Told(told.reply(Some(&id)));
        }
        if let Some(told) = self.unknown_resource(&message) {
            return Entry::Told(told);
        }
        match answer_here(&self.session, &message) {
            Some(Ok(result)) => return Entry::Told(result_reply(&id, result)),
            Some(Err(failure)) => return Entry::Told(failure.rpc().reply(Some(&id))),
            None => {}
        }
        match self.call(message, outlet) {
            Ok(call) => Entry::Call(Box::new(call)),
            Err(Refusal::Busy(failure)) => Entry::Told(failure.rpc().reply(Some(&id))),
            Err(Refusal::Duplicate(told)) => Entry::Told(told),
        }
    }

    /// The answer to a subscription to a resource that does not exist, or that the caller may not know of: the same, and
    /// the same as for reading it.
    fn unknown_resource(&self, message: &Message) -> Option<Bytes> {
        let asked = message.text(Param::Uri).filter(|_| message.method == Method::ResourcesSubscribe)?;
        if self.caller.mesh.knows(&self.session.route, &asked) {
            return None;
        }
        let failure = Failure::UnknownCapability { kind: "resource", name: asked.to_string() };
        Some(not_subscribed(message, &asked, &failure))
    }

    /// A call for a request, under its id.
    fn call(&self, message: Message, outlet: &Arc<Outlet>) -> Result<Call, Refusal> {
        let id = message.id().unwrap_or_default();
        let in_flight = self.session.begin(&id).map_err(|busy| match busy {
            Busy::TooMany => Refusal::Busy(self.session.limited(LimitKind::SessionRequests, "limits.session_requests")),
            Busy::Duplicate => {
                let told = RpcError::new(INVALID_REQUEST, "a request with this id is still at work in this session");
                Refusal::Duplicate(told.with("reason", "duplicate_id").reply(Some(&id)))
            }
        })?;
        Ok(Call {
            session: Arc::clone(&self.session),
            caller: self.caller.clone(),
            message,
            in_flight,
            turn: outlet.turn(),
        })
    }

    fn outlet(&self) -> (Arc<Outlet>, Option<oneshot::Receiver<First>>) {
        match &self.on_stream {
            Some(stream) => (Outlet::onto(&self.session, Arc::clone(stream)), None),
            None => {
                let (outlet, first) = Outlet::new(&self.session, self.accepts);
                (outlet, Some(first))
            }
        }
    }

    /// The response that brings a reply of our own.
    async fn told(&self, told: Bytes) -> Response<OutBody> {
        match &self.on_stream {
            Some(stream) => {
                stream.push(&told).await;
                reply::accepted()
            }
            None => single(self.accepts, told),
        }
    }

    /// Waits for what the answer begins with.
    async fn respond(
        &self,
        outlet: &Outlet,
        first: Option<oneshot::Receiver<First>>,
        array: bool,
    ) -> Response<OutBody> {
        let Some(mut first) = first else { return reply::accepted() };
        let first = match tokio::time::timeout(PATIENCE, &mut first).await {
            Ok(first) => first,
            Err(_) => {
                outlet.stream();
                first.await
            }
        };
        // The outlet always says something, at the latest when the session ends.
        response(&self.session, first.unwrap_or_else(|_| First::Replies(Vec::new())), array)
    }
}

/// What becomes of one message of a batch.
enum Entry {
    /// It is no request.
    Taken,
    /// It is an answer that did not arrive.
    Lost(Failure),
    /// Its reply is there.
    Told(Bytes),
    /// It has to be run.
    Call(Box<Call>),
}

/// Why a request is not run.
enum Refusal {
    Busy(Failure),
    /// The reply. Its status must be an error: with 200, the client would take it for the reply to its first request.
    Duplicate(Bytes),
}

/// Takes a notification or a response of the client.
///
/// # Errors
/// [`Failure::AnswerElsewhere`]: a client must not believe that its answer arrived.
fn take(session: &Session, message: &Message) -> Result<(), Failure> {
    match (message.shape, message.method) {
        (Shape::Notification, Method::Cancelled) => {
            if let Some(id) = message.params().get(Param::RequestId) {
                session.cancel(message.raw(id));
            }
        }
        (Shape::Result | Shape::Error, _) => match session.asks.answer(message) {
            Answered::Delivered => {}
            Answered::Late => tracing::debug!("a client answered a question that nobody asks (any more)"),
            Answered::Elsewhere => return Err(Failure::AnswerElsewhere),
        },
        // `initialized` says nothing new; what else there is means nothing to a stateless server.
        _ => {}
    }
    Ok(())
}

/// The result of a request that concerns only the session; `None` when it is one for the mesh.
fn answer_here(session: &Session, message: &Message) -> Option<Result<&'static [u8], Failure>> {
    let done = match message.method {
        Method::Ping => Ok(()),
        Method::LoggingSetLevel => set_level(session, message),
        Method::ResourcesSubscribe => uri(message).and_then(|uri| session.subscribe(&uri)),
        Method::ResourcesUnsubscribe => uri(message).map(|uri| session.unsubscribe(&uri)),
        // Methods of the modern revision and of the mesh itself, which older revisions do not have.
        Method::ServerDiscover
        | Method::SubscriptionsListen
        | Method::SessionRespond
        | Method::SessionEnd
        | Method::SessionCatalog
        | Method::TasksUpdate => Err(Failure::UnknownMethod(message.method_name().into_owned())),
        _ => return None,
    };
    Some(done.map(|()| &b"{}"[..]))
}

/// The answer to a subscription that is refused; one to a resource that is not there is told by the code of older revisions.
fn not_subscribed(message: &Message, uri: &str, failure: &Failure) -> Bytes {
    let error = match failure {
        Failure::UnknownCapability { kind, .. } => {
            let unknown = Failure::UnknownCapability { kind, name: uri.to_owned() };
            RpcError::new(LEGACY_RESOURCE_NOT_FOUND, unknown.to_string()).with("uri", uri)
        }
        other => other.rpc(),
    };
    error.reply(message.id().as_deref())
}

fn set_level(session: &Session, message: &Message) -> Result<(), Failure> {
    let level = message.text(Param::Level).and_then(|level| LogLevel::parse(&level));
    let known = "debug, info, notice, warning, error, critical, alert, emergency";
    let level = level.ok_or_else(|| Failure::InvalidParams(format!("`level` must be one of {known}")))?;
    session.set_log_level(level);
    Ok(())
}

fn uri(message: &Message) -> Result<std::borrow::Cow<'_, str>, Failure> {
    message.text(Param::Uri).ok_or_else(|| Failure::InvalidParams("`uri` must be a string".into()))
}

/// The messages of a batch.
fn split(body: &Bytes) -> Result<Vec<Result<Message, Rejected>>, Failure> {
    let invalid = |text: String| Failure::InvalidRequest(text);
    let at = body.iter().position(|b| *b == b'[').unwrap_or_default();
    // `Message::parse` found a valid array here.
    let whole =
        Span { start: u32::try_from(at).unwrap_or_default(), end: u32::try_from(body.len()).unwrap_or_default() };
    let spans = elements(body, whole).unwrap_or_default();
    // Something after the array was not looked at yet.
    let mut rest = Scanner::within(body, whole);
    rest.value().and_then(|_| rest.finish()).map_err(|error| Failure::Envelope(error.into()))?;
    match spans.len() {
        0 => Err(invalid("a batch must not be empty".into())),
        1..=MAX_BATCH => Ok(spans.iter().map(|span| Message::parse(body.slice(span.range()))).collect()),
        more => Err(invalid(format!("a batch of {more} messages; the limit is {MAX_BATCH}"))),
    }
}
