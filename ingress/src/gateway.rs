//! The composition of the ingress: one request from its head to its reply.
//!
//! ```text
//!  accept > handshake > identify > peek > route > authorize > forward > reply > record
//!                                    \-> legacy: translates, then `call` does the rest
//! ```

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header, request};
use http_body::Body;
use hyper::body::Incoming;
use outrigger_config::sections::Trace;
use outrigger_mcp::bridge::tasks;
use outrigger_mcp::catalog::merge::ServiceState;
use outrigger_mcp::catalog_kind::Kind;
use outrigger_mcp::envelope::{EnvelopeError, Message, Param, Shape};
use outrigger_mcp::headers::PARAM_PREFIX;
use outrigger_mcp::method::Method;
use outrigger_mcp::names::Naming;
use outrigger_mcp::revision::Revision;
use outrigger_proxy::body::{OutBody, ReadError, read_bounded, take_unwanted};
use outrigger_proxy::circumstances::hints;
use outrigger_proxy::failure::Failure;
use outrigger_proxy::handshake::ConnInfo;
use outrigger_proxy::legacy::http_sse::At;
use outrigger_proxy::legacy::{Sessions, era, refusal};
use outrigger_proxy::listens::Listens;
use outrigger_proxy::peek::{self, Accepts, HeaderChecks, PeekLimits, Refused};
use outrigger_proxy::pool::PooledBody;
use outrigger_proxy::reply::{self, Dialect};
use outrigger_proxy::trace::Span;
use outrigger_runtime::DrainWatcher;
use outrigger_telemetry::Metrics;
use outrigger_telemetry::metrics::Outcome;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::approvals::{Approvals, Gate, confirm, gate};
use crate::authorize::{authorize, count_shared, found, may_read};
use crate::caller_lists::CallerLists;
use crate::changes::Changes;
use crate::config::{Limits, Repeat, Timeouts};
use crate::core::{Answer, AnswerStream, Caller, Declared, Era, Inbound, Route, TraceHeaders, Wanted, cost_budget};
use crate::entrance::{Endpoint, Entrance, PATHS, endpoint};
use crate::forward::{AnswerKind, Outgoing, Sent, Terms, Upstream, forward};
use crate::identify::{Clients, session_tag};
use crate::in_order::InOrder;
use crate::integrity::Integrity;
use crate::lists::{self, CursorKey};
use crate::oauth::Proven;
use crate::policy::{self, PolicyState};
use crate::quota::Store;
use crate::record::{CallRecord, HttpRecord, Recorder, asks, reply_outcome};
use crate::registry::Registry;
use crate::relay::{MessageStream, Relay, Rewriter};
use crate::retry::{Deadline, may_run_twice};
use crate::route::{depends_on_lists, route};
use crate::services::Service;
use crate::snapshot::Snapshot;
use crate::{legacy, listen, owner, trace};

/// Answers up to this size are read whole, which tells how the call went; larger ones pass through unread.
const SMALL_ANSWER: u64 = 32 * 1024;
/// Pieces of a stream between a service and a slow caller. Then the service waits.
const RELAY_PIECES: usize = 16;

/// Everything that requests share.
pub struct Gateway {
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) trace: Trace,
    pub(crate) naming: Naming,
    pub(crate) entrance: Entrance,
    pub(crate) clients: Clients,
    /// Those of the settings in force. A request takes them from the snapshot, to which everything else refers.
    pub(crate) services: ArcSwap<Vec<Arc<Service>>>,
    /// Who is a member; it makes [`Gateway::services`].
    pub(crate) registry: Registry,
    /// How many ways by which services come are not known to have brought all yet: this process has just started.
    pub(crate) coming: AtomicUsize,
    /// Told when [`Gateway::services`], or replicas of one, are others.
    pub(crate) services_changed: Notify,
    pub(crate) header_checks: HeaderChecks,
    pub(crate) snapshot: InOrder<Snapshot>,
    pub(crate) policy: ArcSwap<PolicyState>,
    /// Where it comes from.
    pub(crate) policies: policy::Sources,
    /// Where ingresses count limits together.
    pub(crate) quotas: Option<Store>,
    /// Counts the changes of what anybody may see.
    pub(crate) generation: watch::Sender<u64>,
    pub(crate) cursors: ArcSwap<CursorKey>,
    pub(crate) sessions: Sessions,
    pub(crate) listens: Arc<Listens>,
    pub(crate) caller_lists: CallerLists,
    pub(crate) integrity: Arc<Integrity>,
    pub(crate) approvals: Arc<Approvals>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) draining: DrainWatcher,
    /// Relays of streams; they end with their streams.
    pub(crate) tasks: TaskTracker,
}

/// An answer that has not been turned into a response yet.
#[expect(clippy::large_enum_variant, reason = "most answers are the large one, and none is kept")]
enum Reply {
    /// Made here.
    Own(Vec<Bytes>),
    /// Of a service.
    Upstream { upstream: Upstream, service: Arc<Service>, rewriter: Option<Rewriter> },
}

impl Gateway {
    /// Serves one HTTP request.
    pub(crate) async fn serve(self: Arc<Self>, conn: Arc<ConnInfo>, request: Request<Incoming>) -> Response<OutBody> {
        let mut record = HttpRecord::begin(&self.recorder, &conn, &request);
        // Cloning a URI counts a reference; only a challenge needs it.
        let asked = self.clients.oauth.as_ref().map(|_| request.uri().clone());
        if let Some(metadata) = self.metadata(&request, &conn) {
            return record.finish(metadata, None);
        }
        let version = request.version();
        let last = conn.requests() >= self.limits.entrance.requests_per_connection && version < http::Version::HTTP_2;
        let door = At::of(request.uri().path()).map(|(_, door)| (door, request.uri().clone()));
        let (head, mut body) = request.into_parts();
        let (mut response, call) = match self.enter(&conn, head, &mut body, &mut record).await {
            Ok((caller, route, inbound)) if caller.era == Era::Legacy => {
                let method = inbound.method.clone();
                let served = legacy::serve(&self, caller, route, inbound, door).await;
                let refused = |refused: Refused| {
                    record.refused(&refused.failure);
                    refusal(&method, &refused)
                };
                (served.unwrap_or_else(refused), None)
            }
            Ok((caller, route, inbound)) => match self.modern(&caller, &route, inbound).await {
                Ok((response, call)) => (response, call),
                Err(refused) => (refuse(&refused, &mut record), None),
            },
            Err(refused) => (refuse(&refused, &mut record), None),
        };
        if let Some(challenge) = asked.and_then(|uri| self.challenge(&response, uri.path())) {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        if last {
            response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        }
        take_unwanted(version, body, &mut response).await;
        record.finish(response, call)
    }

    /// From the head to a known caller on a known route, with the body read.
    async fn enter(
        &self,
        conn: &ConnInfo,
        parts: request::Parts,
        body: &mut Incoming,
        record: &mut HttpRecord,
    ) -> Result<(Caller, Route, Inbound), Refused> {
        let (endpoint, door) = endpoint(parts.uri.path())?;
        if door.is_some() && !self.sessions.http_sse() {
            return Err(Failure::UnknownPath(PATHS).into());
        }
        self.entrance.check(&parts.uri, &parts.headers, conn.local_addr)?;
        let mut caller = self.caller(&parts.headers, parts.uri.path(), conn).await?;
        record.identified(caller.principal.id());
        let route = self.existing(&endpoint, &caller)?;
        let mut headers = parts.headers;
        // The token has done its work here; nothing behind this line can forward it.
        headers.remove(header::AUTHORIZATION);
        headers.remove(header::COOKIE);
        let (body, message) = if parts.method == http::Method::POST {
            let limits =
                PeekLimits { body_bytes: self.limits.entrance.body_bytes, body_timeout: self.timeouts.common.body };
            let body = peek::bytes(&headers, body, &limits).await?;
            record.body(body.len());
            (body.clone(), Some(Message::parse(body)))
        } else {
            (Bytes::new(), None)
        };
        let inbound = Inbound { method: parts.method, headers, body, message };
        if door.is_some() {
            caller.era = Era::Legacy;
            return Ok((caller, route, inbound));
        }
        let minted = |id: &str| self.sessions.minted(id);
        let found = era::detect(&inbound.method, &inbound.headers, inbound.message.as_ref(), minted);
        caller.era = found.map_err(|failure| refused_with(failure, inbound.message.as_ref()))?;
        Ok((caller, route, inbound))
    }

    /// What clients may know who have no token: who would give them one.
    fn metadata(&self, request: &Request<Incoming>, conn: &ConnInfo) -> Option<Response<OutBody>> {
        let answer = self.clients.oauth.as_ref()?.resource().answer(request.method(), request.uri().path())?;
        let checked = self.entrance.host_is_ours(request.uri(), request.headers(), conn.local_addr);
        Some(checked.map_or_else(|failure| reply::failure(&failure, None, Dialect::Modern), |()| answer))
    }

    /// Where somebody without a good token finds out how to get one, or a better one.
    fn challenge(&self, response: &Response<OutBody>, path: &str) -> Option<header::HeaderValue> {
        let asks = matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        let oauth = self.clients.oauth.as_ref().filter(|_| asks)?;
        let plain = response.headers().get(header::WWW_AUTHENTICATE)?;
        if response.status() == StatusCode::FORBIDDEN {
            return oauth.resource().step_up(path, plain.to_str().ok()?);
        }
        let invalid = plain.as_bytes().ends_with(b"\"invalid_token\"");
        oauth.resource().challenge(path, invalid.then_some("invalid_token"))
    }

    /// identify: who calls, and everything that is fixed for this request.
    async fn caller(&self, headers: &HeaderMap, path: &str, conn: &ConnInfo) -> Result<Caller, Failure> {
        let Proven { principal, until } = self.clients.identify(headers, path, conn).await?;
        let policy = self.policy.load_full();
        // Only tokens of providers end by themselves.
        let resource = until.and(self.clients.oauth.as_ref()).map(|oauth| Arc::clone(oauth.resource()));
        Ok(Caller {
            resource,
            address: conn.peer_addr,
            limits: policy.client_limits(&principal),
            cost_budget: cost_budget(headers)?,
            trace: TraceHeaders::of(headers),
            session_tag: session_tag(&principal),
            declared: Declared::default(),
            era: Era::Modern,
            policy,
            principal,
            until,
        })
    }

    /// What becomes of mirrored headers on a route.
    fn header_checks(&self, route: &Route) -> HeaderChecks {
        let Route::Service(name) = route else { return self.header_checks };
        let snapshot = self.snapshot.load();
        let known = snapshot.merged.service(name).and_then(|at| snapshot.services.get(at));
        known.map_or(self.header_checks, |service| service.header_checks)
    }

    /// The route of a path. A service of which the caller may use nothing does not exist for it.
    fn existing(&self, endpoint: &Endpoint<'_>, caller: &Caller) -> Result<Route, Failure> {
        match endpoint {
            Endpoint::Merged => Ok(Route::Merged),
            Endpoint::Service(name) => {
                let snapshot = self.snapshot.load();
                let known = snapshot.merged.service(name).and_then(|at| snapshot.services.get(at));
                let usable =
                    known.filter(|service| caller.policy.rules.may_use_service(&caller.principal, &service.name));
                let route = usable.map(|service| Route::Service(Arc::clone(&service.name)));
                route.ok_or_else(|| self.or_coming(Failure::UnknownPath(PATHS)))
            }
        }
    }

    /// As long as services may still be coming, nobody can say that something does not exist. Said of all that is not to be had,
    /// so that what is hidden still looks like what is not there.
    fn or_coming(&self, failure: Failure) -> Failure {
        match failure {
            Failure::UnknownCapability { .. } | Failure::UnknownPath(_) if self.coming.load(Ordering::Relaxed) > 0 => {
                Failure::Starting
            }
            other => other,
        }
    }

    /// peek, for clients of the stateless revision; then everything else.
    async fn modern(
        self: &Arc<Self>,
        caller: &Caller,
        route: &Route,
        inbound: Inbound,
    ) -> Result<(Response<OutBody>, Option<CallRecord>), Refused> {
        let message = match inbound.message {
            Some(Ok(message)) => message,
            Some(Err(rejected)) => return Err(Refused { failure: rejected.error.into(), id: rejected.id }),
            None => return Err(Failure::MethodNotAllowed("POST").into()),
        };
        let checks = self.header_checks(route);
        let checked = peek::modern(&inbound.headers, &message, checks).and_then(|()| peek::accepts(&inbound.headers));
        let refused = |failure| Refused { failure, id: message.id() };
        let accepts = checked.map_err(refused)?;
        match message.shape {
            // Whatever a client of this revision notifies of concerns a stream, and closing that says it too.
            Shape::Notification => return Ok((reply::accepted(), None)),
            Shape::Result | Shape::Error => return Err(refused(EnvelopeError::Shape.into())),
            Shape::Request if message.method.removed_in_modern() => {
                return Err(refused(Failure::UnknownMethod(message.method_name().into_owned())));
            }
            Shape::Request => {}
        }
        // What was not checked is not sent on either.
        let headers = (checks == HeaderChecks::Strict).then_some(&inbound.headers);
        let (response, call) = self.respond_recorded(caller, route, &message, headers, accepts).await;
        Ok((response, Some(call)))
    }

    async fn respond_recorded(
        self: &Arc<Self>,
        caller: &Caller,
        route: &Route,
        message: &Message,
        headers: Option<&HeaderMap>,
        accepts: Accepts,
    ) -> (Response<OutBody>, CallRecord) {
        let span = trace::begin(&self.trace, &caller.trace, message);
        let mut record = CallRecord::begin(&self.recorder, caller, message.method, span.context);
        let sent = Sent { headers, accepts };
        let replied = if message.method == Method::SubscriptionsListen {
            // Rare, and no reason for every request to have room for it.
            Box::pin(listen::serve(self, caller, route, message, accepts)).await
        } else {
            match self.dispatch(caller, route, message, &span, sent, &mut record).await {
                Ok(reply) => self.reply(reply, message, &record).await,
                Err(failure) => Err(self.or_coming(failure)),
            }
        };
        let response = replied.unwrap_or_else(|failure| {
            record.failed(&failure);
            reply::failure(&failure, message.id().as_deref(), Dialect::Modern)
        });
        (response, record)
    }

    /// route > authorize > forward, or an answer of our own.
    async fn dispatch(
        self: &Arc<Self>,
        caller: &Caller,
        path: &Route,
        message: &Message,
        span: &Span,
        sent: Sent<'_>,
        record: &mut CallRecord,
    ) -> Result<Reply, Failure> {
        let mut snapshot = self.snapshot.load_full();
        if snapshot.varies(path) {
            // Boxed: every request would carry its size.
            snapshot = Box::pin(self.seen_by(snapshot, caller, path, message)).await;
        }
        let asks_approval = caller.policy.rules.asks_approval();
        let passed = match asks_approval {
            false => None,
            // Boxed: few calls wait for a person.
            true => match Box::pin(gate(self, caller, path, &snapshot, message, record)).await? {
                Gate::Open => None,
                Gate::Approved(passed) => {
                    // Much may have changed while somebody thought about it.
                    snapshot = Box::pin(self.seen_by(self.snapshot.load_full(), caller, path, message)).await;
                    Some(passed)
                }
                Gate::Ask(reply) => {
                    record.allowed(None);
                    return Ok(Reply::Own(vec![reply]));
                }
            },
        };
        let message = passed.as_ref().and_then(|passed| passed.message.as_ref()).unwrap_or(message);
        if let Some(kind) = message.method.lists() {
            let revision = Revision::MODERN;
            return lists::list(&snapshot, &self.cursors.load(), caller, path, kind, message, revision).map(Reply::Own);
        }
        if message.method == Method::ServerDiscover {
            return lists::discover(&snapshot, caller, path, self.limits.instructions_bytes, message).map(Reply::Own);
        }
        let (catalog, at) = snapshot.catalog(path).ok_or(Failure::UnknownPath(PATHS))?;
        let destination = route(catalog, at, &snapshot.services, caller, path, message)?;
        record.routed(&destination.service, destination.wanted.as_ref().map(|wanted| &wanted.original), message);
        let shared = self.quotas.is_some();
        let mut permitted = authorize(caller, destination, catalog, &snapshot, message, record, shared)?;
        if asks_approval {
            confirm(caller, permitted.destination(), catalog, message, passed.as_deref(), record)?;
        }
        if let Some(store) = &self.quotas {
            // Boxed: nobody else must carry its state.
            Box::pin(count_shared(store, caller, &mut permitted)).await?;
        }
        if let Some(headers) = sent.headers {
            check_mirrored_arguments(headers)?;
        }
        let owner = match &permitted.destination().task {
            Some(task) => owner::of_task(&permitted.destination().service, &task.handle)?,
            None => owner::of_retry(&permitted.destination().service, message)?,
        };
        let outgoing = Outgoing::new(&permitted, caller, message, span, sent)?;
        let destination = permitted.destination();
        let (service, wanted) = (&destination.service, destination.wanted.as_ref());
        let own_terms = wanted.filter(|wanted| wanted.kind == Kind::Tool);
        let own_terms = own_terms.and_then(|wanted| service.settings.safety.tool(&wanted.original));
        let repeatable = || {
            let hints =
                || hints(wanted.and_then(|wanted| found(catalog, &service.name, wanted.kind, &wanted.original)));
            may_run_twice(message, own_terms.map_or(Repeat::Hints, |terms| terms.repeat), hints)
        };
        let terms = Terms {
            silence: self.timeouts.common.request,
            deadline: own_terms.and_then(|terms| terms.deadline).map(Deadline::after),
            repeatable: &repeatable,
            // A retry with answers tells how long the rest took.
            measured: service.places.adapts()
                && wanted.is_some()
                && message.params().get(Param::RequestState).is_none(),
        };
        let (upstream, in_flight) = forward(&permitted, caller, &outgoing, owner, terms).await?;
        record.hold(permitted.take_place(), in_flight);
        let destination = permitted.destination();
        // Only clients that declare the extension are told of tasks, and only here ids need a service in front.
        let tasks = *path == Route::Merged
            && (message.method.about_task() || (message.method == Method::ToolsCall && tasks::declared(message)));
        let names = tasks.then(|| (Arc::clone(&destination.service.name), message.method));
        let watch = passed.map(|passed| passed.watch);
        let rewriter = (destination.rewrite || tasks || watch.is_some())
            .then(|| Rewriter::new(&snapshot, destination.at, destination.rewrite, names).watched(watch));
        Ok(Reply::Upstream { upstream, service: Arc::clone(&destination.service), rewriter })
    }

    /// What there is for a caller whose lists may be its own: asked for where they are wanted, or where a message names
    /// something that only they tell apart.
    async fn seen_by(
        self: &Arc<Self>,
        base: Arc<Snapshot>,
        caller: &Caller,
        path: &Route,
        message: &Message,
    ) -> Arc<Snapshot> {
        let caller = Caller { declared: Declared::of(message), ..caller.clone() };
        if message.method.lists().is_some() {
            return CallerLists::ask(self, &base, &caller, path).await;
        }
        let known = self.caller_lists.known(&base, &caller);
        let lists = || self.caller_lists.has(&caller);
        match known.catalog(path) {
            // What the caller's session lists may have changed since it was asked for; a lock must not depend on who lists when.
            Some((catalog, _)) if self.integrity.in_force() || depends_on_lists(catalog, message, lists) => {
                CallerLists::ask(self, &base, &caller, path).await
            }
            _ => known,
        }
    }

    /// reply, for modern clients.
    async fn reply(&self, reply: Reply, message: &Message, record: &CallRecord) -> Result<Response<OutBody>, Failure> {
        let (upstream, service, rewriter) = match reply {
            Reply::Own(pieces) => {
                record.settle(Outcome::Ok);
                return Ok(reply::json_pieces(StatusCode::OK, pieces));
            }
            Reply::Upstream { upstream, service, rewriter } => (upstream, service, rewriter),
        };
        let small = upstream.body.size_hint().exact().is_some_and(|size| size <= SMALL_ANSWER);
        if upstream.kind == AnswerKind::Json && (small || rewriter.is_some()) {
            let (status, retry_after) = (upstream.status, upstream.retry_after.clone());
            let body = self.read_answer(&service, upstream, rewriter.as_ref(), record).await?;
            return Ok(with_retry_after(reply::json(status, body), retry_after));
        }
        let (sender, body) = OutBody::channel(RELAY_PIECES);
        let streamed = upstream.kind == AnswerKind::Stream;
        let relay = Relay {
            service: Arc::clone(&service.name),
            id: message.id(),
            idle: self.timeouts.common.request,
            keepalive: streamed.then_some(self.timeouts.keepalive),
            deadline: upstream.deadline,
            outcome: record.outcome_slot(),
        };
        if !streamed {
            let mut response = reply::json(upstream.status, Bytes::new());
            *response.body_mut() = body;
            self.tasks.spawn(relay.bytes(upstream.body, sender));
            return Ok(with_retry_after(response, upstream.retry_after));
        }
        match rewriter {
            None => drop(self.tasks.spawn(relay.bytes(upstream.body, sender))),
            Some(_) => {
                let stream = self.messages(&service, upstream.body).until(upstream.deadline).rewriting(rewriter);
                self.tasks.spawn(relay.messages(stream, sender));
            }
        }
        Ok(reply::event_stream(body))
    }

    /// Reads an answer of one message whole.
    async fn read_answer(
        &self,
        service: &Service,
        upstream: Upstream,
        rewriter: Option<&Rewriter>,
        record: &CallRecord,
    ) -> Result<Bytes, Failure> {
        let Upstream { body, deadline, began, .. } = upstream;
        let broken = |reason: String| Failure::Broken { service: service.name.to_string(), reason };
        let silence = self.timeouts.common.request;
        let left =
            deadline.map_or(silence, |deadline| deadline.at.saturating_duration_since(Instant::now()).min(silence));
        let body = read_bounded(body, self.limits.entrance.event_bytes, left).await;
        let body = body.map_err(|error| match error {
            ReadError::TooLarge { limit } => Failure::ReplyTooLarge { service: service.name.to_string(), limit },
            ReadError::Timeout { after } => match deadline.filter(|deadline| deadline.at <= Instant::now()) {
                Some(Deadline { after, .. }) => Failure::Deadline { service: service.name.to_string(), after },
                None => Failure::Timeout { service: service.name.to_string(), after },
            },
            ReadError::Broken(_) => broken("its answer broke off".into()),
        })?;
        let message = Message::parse(body).map_err(|_| broken("its answer is no JSON-RPC message".into()))?;
        record.settle(reply_outcome(&message));
        if let Some(began) = began.filter(|_| !asks(&message)) {
            record.measured(service, began, true);
        }
        Ok(rewriter.map_or_else(|| message.body().clone(), |rewriter| rewriter.apply(&message)))
    }

    pub(crate) fn messages(&self, service: &Service, body: PooledBody) -> MessageStream {
        MessageStream::new(
            Arc::clone(&service.name),
            body,
            self.limits.entrance.event_bytes,
            self.timeouts.common.request,
        )
    }

    /// Serves one modern request, which must be valid (built by us, or checked), and gives the answer as messages.
    /// `subscriptions/listen` is not served here: use [`Gateway::changes`]. Metrics and audit are written by us.
    ///
    /// # Errors
    /// Whatever ends a request early.
    pub async fn call(self: &Arc<Self>, caller: &Caller, route: &Route, message: Message) -> Result<Answer, Failure> {
        let span = trace::begin(&self.trace, &caller.trace, &message);
        let mut record = CallRecord::begin(&self.recorder, caller, message.method, span.context);
        let sent = Sent { headers: None, accepts: Accepts { json: true, stream: true } };
        let answered = self.dispatch(caller, route, &message, &span, sent, &mut record).await;
        let answered = answered.map_err(|failure| self.or_coming(failure));
        let (upstream, service, rewriter) = match answered.inspect_err(|failure| record.failed(failure))? {
            Reply::Own(pieces) => {
                record.settle(Outcome::Ok);
                return Ok(Answer::Message { body: outrigger_mcp::edit::concat(&pieces), status: StatusCode::OK });
            }
            Reply::Upstream { upstream, service, rewriter } => (upstream, service, rewriter),
        };
        if upstream.kind == AnswerKind::Stream {
            let messages = self.messages(&service, upstream.body).until(upstream.deadline);
            let messages = messages.rewriting(rewriter).recording(record);
            return Ok(Answer::Stream(AnswerStream { messages: Box::new(messages) }));
        }
        let status = upstream.status;
        let body = self.read_answer(&service, upstream, rewriter.as_ref(), &record).await;
        let body = body.inspect_err(|failure| record.failed(failure))?;
        Ok(Answer::Message { body, status })
    }

    /// The reply to a modern request for a list as a client of an older revision reads it, in pieces that share memory with
    /// the snapshot. Otherwise as [`Gateway::call`].
    pub(crate) async fn list(
        self: &Arc<Self>,
        caller: &Caller,
        path: &Route,
        kind: Kind,
        message: &Message,
        revision: Revision,
    ) -> Result<Vec<Bytes>, Failure> {
        let span = trace::begin(&self.trace, &caller.trace, message);
        let record = CallRecord::begin(&self.recorder, caller, message.method, span.context);
        let mut snapshot = self.snapshot.load_full();
        if snapshot.varies(path) {
            snapshot = self.seen_by(snapshot, caller, path, message).await;
        }
        let listed = lists::list(&snapshot, &self.cursors.load(), caller, path, kind, message, revision);
        let listed = listed.map_err(|failure| self.or_coming(failure)).inspect_err(|failure| record.failed(failure))?;
        record.settle(Outcome::Ok);
        Ok(listed)
    }

    /// Serves one modern message of a modern client, headers and all: the answer's bytes are relayed as they come.
    pub async fn respond(
        self: &Arc<Self>,
        caller: &Caller,
        route: &Route,
        message: Message,
        headers: &HeaderMap,
    ) -> Response<OutBody> {
        let both = Accepts { json: true, stream: true };
        let accepts = peek::accepts(headers).unwrap_or(both);
        let (response, call) = self.respond_recorded(caller, route, &message, Some(headers), accepts).await;
        response.map(|body| body.on_end(Box::new(move |_, _| drop(call))))
    }

    /// What changes for a caller on a route: of the lists that it sees, and of resources that it names. Costs nothing
    /// upstream unless resources or a session are wanted.
    pub fn changes(self: &Arc<Self>, caller: &Caller, route: &Route, wanted: Wanted) -> Changes {
        Changes::new(self, caller, route, (wanted, None))
    }

    /// Limits of the configuration.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Timeouts of the configuration.
    pub fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// The policy in force now; within a request use [`Caller::policy`].
    pub fn policy(&self) -> Arc<PolicyState> {
        self.policy.load_full()
    }

    /// The sessions of legacy clients.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// All metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The service that a message is for.
    pub(crate) fn service(&self, caller: &Caller, path: &Route, message: &Message) -> Option<Arc<str>> {
        let snapshot = self.known_to(caller);
        let (catalog, at) = snapshot.catalog(path)?;
        let destination = route(catalog, at, &snapshot.services, caller, path, message).ok()?;
        Some(Arc::clone(&destination.service.name))
    }

    /// What there is for a caller, by what is known already.
    pub(crate) fn known_to(&self, caller: &Caller) -> Arc<Snapshot> {
        self.caller_lists.known(&self.snapshot.load_full(), caller)
    }

    /// Whether the caller could read this resource.
    pub(crate) fn knows(&self, caller: &Caller, route: &Route, uri: &str) -> bool {
        let snapshot = self.known_to(caller);
        let Some((catalog, _)) = snapshot.catalog(route) else { return false };
        let Ok(target) = catalog.resolve_uri(uri) else { return false };
        let Some(service) = catalog.services().get(target.service) else { return false };
        // One that is away may have it; one that has no resources at all has not.
        let offers = service.state == ServiceState::Missing || service.catalog.offers(Kind::Resource);
        offers && may_read(caller, &service.name, Kind::Resource, target.original)
    }

    /// The services on a route that keep sessions for their clients, if the caller may use them.
    pub(crate) fn stateful(&self, caller: &Caller, route: &Route) -> Vec<Arc<str>> {
        let snapshot = self.snapshot.load();
        let here = |service: &Service| match route {
            Route::Merged => true,
            Route::Service(name) => service.name == *name,
        };
        let may = |service: &Service| caller.policy.rules.may_use_service(&caller.principal, &service.name);
        let stateful = snapshot.stateful.iter().filter_map(|at| snapshot.services.get(*at));
        let found = stateful.filter(|service| here(service) && may(service));
        found.map(|service| Arc::clone(&service.name)).collect()
    }

    /// Tells of the shutdown.
    pub fn draining(&self) -> &DrainWatcher {
        &self.draining
    }

    /// For tasks that feed a response; the shutdown waits for them.
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("services", &self.services).finish_non_exhaustive()
    }
}

fn refuse(refused: &Refused, record: &mut HttpRecord) -> Response<OutBody> {
    record.refused(&refused.failure);
    reply::failure(&refused.failure, refused.id.as_deref(), Dialect::Modern)
}

fn refused_with(failure: Failure, message: Option<&Result<Message, outrigger_mcp::envelope::Rejected>>) -> Refused {
    match message {
        // What is no message cannot say what it speaks; that it is none is the better answer.
        Some(Err(rejected)) => Refused { failure: rejected.error.clone().into(), id: rejected.id.clone() },
        Some(Ok(message)) => Refused { failure, id: message.id() },
        None => failure.into(),
    }
}

fn with_retry_after(mut response: Response<OutBody>, after: Option<header::HeaderValue>) -> Response<OutBody> {
    if let Some(after) = after {
        response.headers_mut().insert(header::RETRY_AFTER, after);
    }
    response
}

/// Checks that headers which mirror arguments say one thing each. Whether it is what the body says is for the sidecar to
/// check (streamable HTTP, "Custom Headers from Tool Parameters"): the list that decides is fresher there, and can be
/// fetched again before a call is refused.
fn check_mirrored_arguments(headers: &HeaderMap) -> Result<(), Failure> {
    for name in headers.keys().filter(|name| name.as_str().starts_with(PARAM_PREFIX)) {
        let copies = headers.get_all(name).iter().map(header::HeaderValue::as_bytes);
        outrigger_mcp::headers::single(copies)
            .map_err(|error| Failure::HeaderMismatch(format!("Header mismatch: {name} {error}")))?;
    }
    Ok(())
}
