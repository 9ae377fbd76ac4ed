//! reply, the part that streams: answers of services on their way to the caller.
//!
//! Bytes are passed on as they come. Messages are looked at only where their URIs may have to be rewritten, or where the
//! caller is the legacy half of the ingress, which translates them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use outrigger_mcp::bridge::tasks::ids;
use outrigger_mcp::catalog::uri::rewrite_uris;
use outrigger_mcp::edit::Edits;
use outrigger_mcp::envelope::{Message, Shape};
use outrigger_mcp::json::{Span, decode_string, member, quote};
use outrigger_mcp::method::Method;
use outrigger_mcp::reply_watch::ReplyWatch;
use outrigger_mcp::sse::{self, Parser};
use outrigger_proxy::body::{BodySender, outcome_of};
use outrigger_proxy::failure::Failure;
use outrigger_proxy::pool::PooledBody;
use outrigger_telemetry::metrics::Outcome;
use tokio::time::{Instant, sleep_until};

use crate::approvals::Watch;
use crate::record::{CallRecord, outcome, reply_outcome};
use crate::retry::Deadline;
use crate::snapshot::Snapshot;

/// A sign of life between events (WHATWG HTML, server-sent events: a comment).
pub(crate) const KEEPALIVE: &[u8] = b": keep-alive\n\n";

/// Rewrites the URIs of one service's answers into those under which they can be read here, and the ids of its tasks.
pub(crate) struct Rewriter {
    snapshot: Arc<Snapshot>,
    /// Index of the service; small, because every answer has room for a rewriter.
    service: u32,
    uris: bool,
    /// The service, and what is answered, where tasks may be named.
    tasks: Option<(Arc<str>, Method)>,
    /// Of a call that somebody approved.
    watch: Option<Box<Watch>>,
}

impl Rewriter {
    pub(crate) fn new(snapshot: &Arc<Snapshot>, service: usize, uris: bool, tasks: Option<(Arc<str>, Method)>) -> Self {
        let service = u32::try_from(service).unwrap_or(u32::MAX);
        Self { snapshot: Arc::clone(snapshot), service, uris, tasks, watch: None }
    }

    /// Lets somebody see every message too.
    pub(crate) fn watched(self, watch: Option<Box<Watch>>) -> Self {
        Self { watch, ..self }
    }

    /// The message with other URIs; the same bytes where nothing changes.
    pub(crate) fn apply(&self, message: &Message) -> Bytes {
        self.watch.iter().for_each(|watch| watch.see(message));
        let Some((service, answers)) = &self.tasks else { return self.with_uris(message) };
        let mut edits = Edits::new();
        ids::rename(message, *answers, |id| Some(ids::expose(service, id)), &mut edits);
        let named = edits.apply_flat(message.body());
        if named == *message.body() {
            return self.with_uris(message);
        }
        match Message::parse(named.clone()) {
            Ok(message) => self.with_uris(&message),
            Err(_) => named,
        }
    }

    fn with_uris(&self, message: &Message) -> Bytes {
        if !self.uris {
            return message.body().clone();
        }
        let answers = self.tasks.as_ref().map(|(_, answers)| *answers);
        let new = result(message, answers).map_or_else(|| self.missing(message), |span| self.result(message, span));
        let Some((span, new)) = new else { return message.body().clone() };
        let mut edits = Edits::new();
        edits.replace(span, new);
        edits.apply_flat(message.body())
    }

    fn result(&self, message: &Message, span: Span) -> Option<(Span, Vec<u8>)> {
        Some((
            span,
            rewrite_uris(message.raw(span), |uri| self.snapshot.merged.expose_uri(self.service as usize, uri))?,
        ))
    }

    /// The URI in an error about a resource that is not there: `error.data.uri`.
    fn missing(&self, message: &Message) -> Option<(Span, Vec<u8>)> {
        let body = message.body();
        let span = member(body, member(body, message.error_span()?, "data")?, "uri")?;
        let uri = self.snapshot.merged.expose_uri(self.service as usize, &decode_string(span.of(body))?)?;
        Some((span, quote(&uri).into_bytes()))
    }
}

/// Where a message says the result of what a client called: that of a task that is over is a member of what is said of
/// the task.
fn result(message: &Message, answers: Option<Method>) -> Option<Span> {
    let inner = |at| member(message.body(), at, "result");
    match (message.method, answers) {
        (Method::TasksChanged, _) => message.params().object().and_then(inner),
        (_, Some(Method::TasksGet)) => message.result_span().and_then(inner),
        _ => message.result_span(),
    }
}

/// Reads the events of a response as messages.
pub(crate) struct MessageStream {
    service: Arc<str>,
    body: PooledBody,
    parser: Parser,
    ready: VecDeque<Message>,
    idle: Duration,
    /// When all of it must have come.
    deadline: Option<Deadline>,
    /// When the last byte came: waits that are cancelled and begun again count as one.
    heard: Instant,
    rewriter: Option<Rewriter>,
    record: Option<CallRecord>,
}

impl MessageStream {
    /// Of a response of `service`. `event_bytes` bounds one event; `idle` the time without any byte.
    pub(crate) fn new(service: Arc<str>, body: PooledBody, event_bytes: usize, idle: Duration) -> Self {
        let (parser, ready) = (Parser::new(event_bytes), VecDeque::new());
        Self { service, body, parser, ready, idle, deadline: None, heard: Instant::now(), rewriter: None, record: None }
    }

    /// Not longer than until then.
    pub(crate) fn until(mut self, deadline: Option<Deadline>) -> Self {
        self.deadline = deadline;
        self
    }

    /// With URIs as the caller can use them.
    pub(crate) fn rewriting(mut self, rewriter: Option<Rewriter>) -> Self {
        self.rewriter = rewriter;
        self
    }

    /// Ends the record of the call with the stream.
    pub(crate) fn recording(mut self, record: CallRecord) -> Self {
        self.record = Some(record);
        self
    }

    /// The next message; `None` at the end of the stream. Cancelling the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Option<Message>, Failure> {
        let next = self.read().await;
        if let Some(record) = &self.record {
            match &next {
                Ok(Some(message)) if matches!(message.shape, Shape::Result | Shape::Error) => {
                    record.settle(reply_outcome(message));
                }
                Ok(Some(_)) => {}
                Ok(None) => drop(record.settle(Outcome::Unavailable)),
                Err(failure) => drop(record.settle(outcome(failure))),
            }
        }
        next
    }

    async fn read(&mut self) -> Result<Option<Message>, Failure> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            let silent_at = self.heard + self.idle;
            let until = self.deadline.map_or(silent_at, |deadline| deadline.at.min(silent_at));
            let frame = tokio::time::timeout_at(until, self.body.frame()).await;
            let frame = frame.map_err(|_| late(&self.service, self.deadline, silent_at, self.idle))?;
            match frame {
                None => return Ok(None),
                Some(Err(_)) => return Err(broken(&self.service, BROKE_OFF)),
                Some(Ok(frame)) => {
                    self.heard = Instant::now();
                    if let Ok(data) = frame.into_data() {
                        self.parser.push(&data);
                        self.read_events()?;
                    }
                }
            }
        }
    }

    fn read_events(&mut self) -> Result<(), Failure> {
        while let Some(event) = self.parser.next_event().map_err(|e| broken(&self.service, &e.to_string()))? {
            // Priming events and other kinds carry no message.
            let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
            let parse =
                |data| Message::parse(data).map_err(|_| broken(&self.service, "it sent an event that is no message"));
            let mut message = parse(data)?;
            if let Some(rewriter) = &self.rewriter {
                let rewritten = rewriter.apply(&message);
                if rewritten != *message.body() {
                    message = parse(rewritten)?;
                }
            }
            self.ready.push_back(message);
        }
        Ok(())
    }
}

/// What a stream ran into: its deadline, or silence.
fn late(service: &str, deadline: Option<Deadline>, silent_at: Instant, idle: Duration) -> Failure {
    let service = service.to_owned();
    match deadline.filter(|deadline| deadline.at <= silent_at) {
        Some(Deadline { after, .. }) => Failure::Deadline { service, after },
        None => Failure::Timeout { service, after: idle },
    }
}

const BROKE_OFF: &str = "its answer broke off";
const NO_RESULT: &str = "it ended its answer before the result";

fn broken(service: &str, reason: &str) -> Failure {
    Failure::Broken { service: service.to_owned(), reason: reason.to_owned() }
}

/// How a stream is passed on.
pub(crate) struct Relay {
    /// Whose answer it is.
    pub(crate) service: Arc<str>,
    /// The request that is answered, for an error in place of a result that never comes.
    pub(crate) id: Option<Bytes>,
    /// Longest time without a byte.
    pub(crate) idle: Duration,
    /// Time after which an event stream gets a sign of life; `None` for answers that are no event streams.
    pub(crate) keepalive: Option<Duration>,
    /// When all of it must have come.
    pub(crate) deadline: Option<Deadline>,
    /// Where to say how it ended.
    pub(crate) outcome: Arc<OnceLock<Outcome>>,
}

impl Relay {
    /// Passes bytes on as they come. Ends when the stream does, and at once when the caller goes away, which cancels the
    /// call.
    pub(crate) async fn bytes(self, mut body: PooledBody, sender: BodySender) {
        let (mut heard, mut spoken) = (Instant::now(), Instant::now());
        let mut watch = if self.keepalive.is_some() { ReplyWatch::events() } else { ReplyWatch::json() };
        loop {
            let silent_at = heard + self.idle;
            let until = self.deadline.map_or(silent_at, |deadline| deadline.at.min(silent_at));
            let tick = self.keepalive.map_or(until, |every| (spoken + every).min(until));
            let frame = tokio::select! {
                biased;
                () = sender.gone() => return,
                frame = body.frame() => frame,
                () = sleep_until(tick) => {
                    if tick >= until {
                        let failure = late(&self.service, self.deadline, silent_at, self.idle);
                        return self.fail(failure, watch.between_events(), sender).await;
                    }
                    spoken = tick;
                    if watch.between_events() && sender.send(Bytes::from_static(KEEPALIVE)).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            match frame.map(|frame| frame.map(http_body::Frame::into_data)) {
                None => return self.ended(watch, sender).await,
                // Nothing of its result is missing.
                Some(Err(_)) if self.keepalive.is_some() && watch.said().is_some() => {
                    return self.ended(watch, sender).await;
                }
                Some(Err(_)) => {
                    return self.fail(broken(&self.service, BROKE_OFF), watch.between_events(), sender).await;
                }
                Some(Ok(Err(_trailers))) => {}
                Some(Ok(Ok(data))) => {
                    heard = Instant::now();
                    spoken = heard;
                    watch.saw(&data);
                    if sender.send(data).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// The service has nothing more to say: that was all, or its result is missing.
    async fn ended(self, mut watch: ReplyWatch, sender: BodySender) {
        match watch.end() {
            Ok(said) => {
                self.outcome.get_or_init(|| said.map_or(Outcome::Ok, outcome_of));
                drop(sender.finish().await);
            }
            Err(_) => self.fail(broken(&self.service, NO_RESULT), watch.between_events(), sender).await,
        }
    }

    /// Passes messages on, with other URIs.
    pub(crate) async fn messages(self, mut stream: MessageStream, sender: BodySender) {
        let every = self.keepalive.unwrap_or(self.idle);
        let mut replied = false;
        loop {
            let next = tokio::select! {
                biased;
                () = sender.gone() => return,
                next = tokio::time::timeout(every, stream.next()) => next,
            };
            let sent = match next {
                Err(_silent) => sender.send(Bytes::from_static(KEEPALIVE)).await,
                Ok(Ok(Some(message))) => {
                    if matches!(message.shape, Shape::Result | Shape::Error) {
                        self.outcome.get_or_init(|| reply_outcome(&message));
                        replied = true;
                    }
                    sender.send(sse::event(message.body())).await
                }
                Ok(Ok(None)) if replied => return drop(sender.finish().await),
                Ok(Ok(None)) => return self.fail(broken(&self.service, NO_RESULT), true, sender).await,
                Ok(Err(failure)) => return self.fail(failure, true, sender).await,
            };
            if sent.is_err() {
                return;
            }
        }
    }

    /// Ends a stream that lacks its result: with an error in its place where one can be told from what came before, else by
    /// breaking off.
    async fn fail(&self, failure: Failure, between_events: bool, sender: BodySender) {
        tracing::warn!(service = %self.service, %failure, "a stream ended before its result");
        // The first to say it: how the body ends tells less.
        self.outcome.get_or_init(|| outcome(&failure));
        if self.keepalive.is_some() && between_events {
            let error = sse::event(&failure.rpc().reply(self.id.as_deref()));
            if sender.send(error).await.is_ok() {
                drop(sender.finish().await);
            }
        }
    }
}

impl fmt::Debug for MessageStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageStream").field("service", &self.service).finish_non_exhaustive()
    }
}
