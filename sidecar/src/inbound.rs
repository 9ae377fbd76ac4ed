//! The inbound path of one request, top to bottom:
//!
//! ```text
//!  accept > handshake > identify > peek > route > authorize > forward > reply > record
//! ```
//!
//! accept and handshake are `outrigger_proxy::accept`; what follows is here, one step after the other; authorize, forward and
//! record have files of their own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method as HttpMethod, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use outrigger_identity::Credentials;
use outrigger_mcp::{
    bridge::{
        meta_keys::{CLIENT_SESSION, SESSION},
        tasks::{EXTENSION, declared as declared_tasks},
    },
    catalog::ToolHeaders,
    catalog_kind::Kind,
    envelope::{Message, Meta, Param, Rejected, Shape},
    json::quote,
    method::Method,
    param_headers::ParamHeaders,
};
use outrigger_policy::{Principal, glob::Glob};
use outrigger_proxy::{
    assertion,
    body::{OutBody, take_unwanted},
    failure::Failure,
    handshake::ConnInfo,
    legacy::{
        self as sessions, Sessions, era, http_sse,
        seam::{self, Era},
    },
    listens::Listens,
    peek::{self, Accepts, HeaderChecks, PeekLimits, Refused},
    reply::{self, Dialect},
    trace::{self, TraceRules},
};
use outrigger_runtime::drain::DrainWatcher;
use outrigger_telemetry::{
    Metrics,
    metrics::{AssertionCounter, AssertionOutcome, LimitKind},
};

use crate::{
    authorize::{Gate, Permitted},
    caller_lists::CallerLists,
    forward::declared,
    health::HealthDocument,
    keeper::Keeper,
    legacy,
    listen::{self, Attach, Filter, Followed, Listen, Served},
    outbound::identify::Calls,
    own_answers::{Lists, discover, policy_kind},
    record::{Record, Recorders},
    tasks::{self, Names, Tasks, Watch},
    upstream::{
        Asker, Upstream,
        owner::{MAX_TAG, Owner, principal_of},
        parking::Parking,
    },
};

/// Everything that a request needs; shared by all connections.
pub struct Inbound {
    /// Name of the service.
    pub service: Arc<str>,
    /// Who we are.
    pub credentials: Arc<Credentials>,
    /// Which workloads may connect; empty: every one of the trust domain.
    pub allowed_callers: Vec<Glob>,
    /// Which workloads may say for whom they call.
    pub ingresses: Vec<Glob>,
    /// What becomes of headers that repeat the body.
    pub header_checks: HeaderChecks,
    /// Bounds for reading requests.
    pub peek: PeekLimits,
    /// Policy and limits.
    pub gate: Gate,
    /// The server.
    pub upstream: Arc<Upstream>,
    /// What is known of it.
    pub keeper: Arc<Keeper>,
    /// Calls that wait for their clients.
    pub parking: Arc<Parking>,
    /// The tasks of the server.
    pub tasks: Arc<Tasks>,
    /// Prepared lists.
    pub lists: Lists,
    /// Lists that are one caller's own.
    pub caller_lists: Arc<CallerLists>,
    /// The health endpoint.
    pub health: HealthDocument,
    /// Sessions of clients of older revisions.
    pub sessions: Sessions,
    /// Everybody who listens.
    pub listens: Arc<Listens>,
    /// Resources that one listen may name.
    pub subscriptions: usize,
    /// Bytes of one event.
    pub event_bytes: usize,
    /// Where requests are recorded.
    pub recorders: Arc<Recorders>,
    /// Counts what ingresses say of their users.
    pub assertions: AssertionCounter,
    /// Metrics of the process.
    pub metrics: Arc<Metrics>,
    /// The longest silence of the server within a call.
    pub idle: Duration,
    /// Requests so far, to know when there are none.
    pub served: AtomicU64,
    /// Calls of tools at work, where the outbound half wants to know.
    pub calls: Option<Arc<Calls>>,
    /// What of an incoming trace counts.
    pub trace: TraceRules,
    /// Requests after which a connection is closed.
    pub requests_per_connection: u64,
    /// Tells when to go.
    pub drain: DrainWatcher,
}

/// A request on its way: its head, what is recorded of it, and who sent it.
pub(crate) struct Context<'a> {
    pub(crate) head: &'a http::request::Parts,
    pub(crate) record: &'a mut Record,
    /// The workload at the other end, or in a session its client: whose state is kept.
    pub(crate) who: &'a Principal,
    /// Whom policy and records are about: the user for whom an ingress calls, else the same.
    pub(crate) asks: &'a Principal,
    pub(crate) accepts: Accepts,
}

impl Inbound {
    /// One request.
    pub async fn serve(self: Arc<Self>, conn: Arc<ConnInfo>, request: Request<Incoming>) -> Response<OutBody> {
        self.served.fetch_add(1, Ordering::Relaxed);
        let mut record = Record::begin(&self.recorders, &conn, &request);
        let (head, mut body) = request.into_parts();
        let outcome = match self.identify(&conn) {
            Ok(who) => {
                record.who = Some(who.clone());
                self.route(&conn, &head, &mut body, &mut record, &who).await
            }
            Err(failure) => Err(failure.into()),
        };
        let mut response = outcome.unwrap_or_else(|refused| self.refuse(&refused, &mut record));
        if conn.requests() >= self.requests_per_connection && head.version < http::Version::HTTP_2 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        take_unwanted(head.version, body, &mut response).await;
        record.status(response.status());
        response.map(|body| body.on_end(record))
    }

    /// identify: the peer's certificate makes the principal, once per connection.
    fn identify(&self, conn: &ConnInfo) -> Result<Principal, Failure> {
        if let Some(who) = conn.principal.get() {
            if conn.valid_until.get().is_some_and(|until| SystemTime::now() > *until) {
                tracing::warn!(peer = %conn.peer_addr, who = who.id(), "the certificate of this connection has expired");
                return Err(Failure::CallerRefused);
            }
            return Ok(who.clone());
        }
        let (id, until) = self.credentials.peer_until(conn.peer_certs()).map_err(|error| {
            tracing::info!(peer = %conn.peer_addr, %error, "a peer without a usable identity");
            Failure::CallerRefused
        })?;
        let allowed =
            self.allowed_callers.is_empty() || self.allowed_callers.iter().any(|glob| glob.matches(id.as_str()));
        if !allowed {
            return Err(Failure::CallerRefused);
        }
        let who = Principal::workload(id.as_str()).map_err(|error| Failure::Internal(error.to_string()))?;
        conn.valid_until.get_or_init(|| until);
        Ok(conn.principal.get_or_init(|| who).clone())
    }

    async fn route(
        self: &Arc<Self>,
        conn: &ConnInfo,
        head: &http::request::Parts,
        body: &mut Incoming,
        record: &mut Record,
        who: &Principal,
    ) -> Result<Response<OutBody>, Refused> {
        match (head.uri.path(), &head.method) {
            ("/mcp", method) => {
                let posted = method == HttpMethod::POST;
                let body = if posted { peek::bytes(&head.headers, body, &self.peek).await? } else { Bytes::new() };
                let message = posted.then(|| Message::parse(body.clone()));
                let minted = |id: &str| self.sessions.minted(id);
                match era::detect(method, &head.headers, message.as_ref(), minted) {
                    Ok(Era::Modern) => self.modern(head, message.as_ref(), record, who).await,
                    Ok(Era::Legacy) => {
                        let (method, headers) = (method.clone(), head.headers.clone());
                        let request = seam::Inbound { method, headers, body, message };
                        // Rare, and no reason for every request to have room for it.
                        Ok(Box::pin(self.legacy(conn, who, request, None, record)).await)
                    }
                    Err(failure) => Err(Refused { failure, id: message.and_then(Result::ok).and_then(|m| m.id()) }),
                }
            }
            ("/sse" | "/messages", method) if self.sessions.http_sse() => {
                let posted = method == HttpMethod::POST;
                let body = if posted { peek::bytes(&head.headers, body, &self.peek).await? } else { Bytes::new() };
                record.carries(body.len());
                let message = posted.then(|| Message::parse(body.clone()));
                let at = http_sse::At::of(head.uri.path()).map(|(_, door)| (door, &head.uri));
                let request = seam::Inbound { method: method.clone(), headers: head.headers.clone(), body, message };
                Ok(Box::pin(self.legacy(conn, who, request, at, record)).await)
            }
            ("/mesh/v1/health", &HttpMethod::GET) => {
                let in_flight = || self.gate.concurrency.in_flight();
                Ok(self.health.respond(head, self.keeper.offers(), in_flight, self.drain.signaled()).await)
            }
            ("/mesh/v1/health", _) => Err(Failure::MethodNotAllowed("GET").into()),
            _ => Err(Failure::UnknownPath("/mcp").into()),
        }
    }

    /// A message of a client of the stateless revision.
    async fn modern(
        &self,
        head: &http::request::Parts,
        message: Option<&Result<Message, Rejected>>,
        record: &mut Record,
        who: &Principal,
    ) -> Result<Response<OutBody>, Refused> {
        let message = message.ok_or(Failure::MethodNotAllowed("POST"))?;
        let message = message
            .as_ref()
            .map_err(|rejected| Refused { failure: rejected.error.clone().into(), id: rejected.id.clone() })?;
        let id = message.id();
        let user = self.user(&head.headers, who).map_err(|failure| Refused { failure, id: id.clone() })?;
        if let Some(user) = &user {
            record.who = Some(user.clone());
        }
        let asks = user.as_ref().unwrap_or(who);
        let checked = peek::accepts(&head.headers)
            .and_then(|accepts| peek::modern(&head.headers, message, self.header_checks).map(|()| accepts))
            .and_then(|accepts| self.check_session_tag(message, who).map(|()| accepts));
        match checked {
            Ok(accepts) => {
                let served = self.dispatch(message, Context { head, record, who, asks, accepts }).await;
                served.map_err(|failure| Refused { failure, id })
            }
            Err(failure) => Err(Refused { failure, id }),
        }
    }

    /// identify, the second half: for whom an ingress calls. What others say of that is nothing to us.
    fn user(&self, headers: &HeaderMap, who: &Principal) -> Result<Option<Principal>, Failure> {
        if !headers.contains_key(assertion::HEADER) {
            return Ok(None);
        }
        if !self.ingresses.iter().any(|glob| glob.matches(who.id())) {
            self.assertions.record(AssertionOutcome::Ignored);
            tracing::debug!(who = who.id(), "says for whom it calls, and is not among `ingresses` of this sidecar");
            return Ok(None);
        }
        assertion::user(&self.credentials, headers, who)
            .inspect(|_| self.assertions.record(AssertionOutcome::Believed))
            .map_err(|error| {
                self.assertions.record(AssertionOutcome::Refused);
                tracing::warn!(who = who.id(), %error, "what an ingress says of its user is not believed");
                Failure::CallerRefused
            })
    }

    /// Limits count by who stands behind a call, so only ingresses may say who that is.
    fn check_session_tag(&self, message: &Message, who: &Principal) -> Result<(), Failure> {
        let Some(tag) = message.meta_text(Meta::Session) else { return Ok(()) };
        if tag.len() > MAX_TAG {
            return Err(Failure::InvalidParams(format!("`{SESSION}` is longer than {MAX_TAG} bytes")));
        }
        if principal_of(&tag).is_some() && !self.ingresses.iter().any(|glob| glob.matches(who.id())) {
            return Err(Failure::InvalidParams(format!(
                "`{SESSION}` names a principal, and {} is not among `ingresses` of this sidecar",
                who.id()
            )));
        }
        Ok(())
    }

    /// A request of a client of an older revision.
    async fn legacy(
        self: &Arc<Self>,
        conn: &ConnInfo,
        who: &Principal,
        request: seam::Inbound,
        at: Option<(http_sse::At, &http::Uri)>,
        record: &mut Record,
    ) -> Response<OutBody> {
        let method = request.method.clone();
        let served = legacy::serve(self, who, conn.peer_addr, request, at, record).await;
        served.unwrap_or_else(|refused| {
            self.note(&refused, record);
            sessions::refusal(&method, &refused)
        })
    }

    /// A message that was looked at: authorize, and everything after it.
    pub(crate) async fn dispatch(
        &self,
        message: &Message,
        mut context: Context<'_>,
    ) -> Result<Response<OutBody>, Failure> {
        context.record.message(message);
        if message.shape != Shape::Request {
            // Nothing that a modern client may send without an id concerns the server: cancelling is closing.
            return Ok(reply::accepted());
        }
        if message.method.removed_in_modern() {
            return Err(Failure::UnknownMethod(message.method_name().into_owned()));
        }
        let trace = self.trace(&context.head.headers, message, context.record);
        let permitted = self.gate.permit(context.asks, message, context.record)?;
        self.note_call(message, context.record).await?;
        if let Err(mismatch) = self.check_param_headers(context.head, message, context.who) {
            // The client may know a newer list than we do.
            if !Box::pin(self.keeper.look_again()).await {
                return Err(mismatch);
            }
            self.check_param_headers(context.head, message, context.who)?;
        }
        if message.method == Method::SubscriptionsListen {
            self.place_listen(message, &mut context)?;
        }
        match message.method {
            Method::SubscriptionsListen if self.upstream.relay().is_none() => {
                return Box::pin(self.listen(&permitted, context)).await;
            }
            method if method.about_task() && self.older_server() => {
                return Box::pin(self.task(&permitted, context.who.id())).await;
            }
            Method::SessionRespond => return Box::pin(self.session_respond(&permitted, context)).await,
            Method::SessionCatalog => return Box::pin(self.catalog_of_caller(&permitted, context.who)).await,
            Method::SessionEnd => return Ok(Box::pin(self.session_end(&permitted, context.who.id())).await),
            Method::ServerDiscover if self.upstream.relay().is_none() => {
                let known = self.upstream.known().ok_or_else(|| self.starting())?;
                return Ok(reply::json(StatusCode::OK, discover(message, &known)));
            }
            _ => {}
        }
        match message.method.lists() {
            // Boxed like what follows it in rarity: every request would carry its size.
            Some(kind) if self.caller_lists.always() => {
                Box::pin(self.list_of_caller(kind, &permitted, &trace, context)).await
            }
            Some(kind) => Box::pin(self.list(message, kind, context.who.id(), context.asks)).await,
            None => match deadline(&context.head.headers) {
                None => self.forward(&permitted, &trace, context).await,
                // Boxed like the others. What is under way at the server is cancelled with it.
                Some(after) => {
                    let answered =
                        tokio::time::timeout(after, Box::pin(self.forward(&permitted, &trace, context))).await;
                    let late = |_| Failure::Deadline { service: self.service.to_string(), after };
                    answered.map_err(late).flatten()
                }
            },
        }
    }

    /// A listen lasts: it has a place among the listens until it ends, and none among the calls.
    fn place_listen(&self, request: &Message, context: &mut Context<'_>) -> Result<(), Failure> {
        context.record.permit = None;
        // A session of ours listens once, whatever its stream is fed from, and has its place already.
        if !context.record.of_session() {
            let session = request.meta_text(Meta::Session);
            let asker = Asker { peer: context.who.id(), session: session.as_deref() };
            // An ingress has several listens for a session while it subscribes to one thing after another, and for one listen
            // of a client of ours. Other workloads could make either up.
            let listen = listen::together(request);
            let vouched = asker.session.filter(|tag| principal_of(tag).is_some());
            let together = vouched.and_then(|tag| match tag.starts_with(CLIENT_SESSION) {
                true => Some(tag),
                false => listen.as_deref(),
            });
            context.record.hold(self.listens.begin_in(&Owner::of(asker).principal, together)?);
        }
        Ok(())
    }

    /// Notes a permitted call of a tool for the outbound half, until its record is written; waits for its turn where calls
    /// are one after the other.
    ///
    /// # Errors
    /// [`Failure::Limited`] when its turn does not come in time.
    pub(crate) async fn note_call(&self, message: &Message, record: &mut Record) -> Result<(), Failure> {
        let (Some(calls), Method::ToolsCall, Some(tool)) = (&self.calls, message.method, &record.capability) else {
            return Ok(());
        };
        let mut turn = None;
        if calls.takes_turns() {
            // Rare, and no reason for every request to have room for it.
            let waited = Box::pin(tokio::time::timeout(self.idle, calls.turn())).await;
            turn = waited.map_err(|_elapsed| {
                let retry = Duration::from_secs(1);
                Failure::over(&self.recorders.metrics, LimitKind::Queue, "egress.attribution", retry)
            })?;
        }
        record.at_work = Some(calls.begin(tool.clone(), record.trace, turn));
        Ok(())
    }

    /// Whether the server is one that has sessions.
    pub(crate) fn older_server(&self) -> bool {
        self.upstream.known().is_some_and(|known| !known.revision.is_modern())
    }

    fn starting(&self) -> Failure {
        Failure::Unavailable { service: self.service.to_string(), reason: "it has not answered yet".into() }
    }

    /// Begins our span, and says what the server is told of it.
    pub(crate) fn trace(
        &self,
        headers: &HeaderMap,
        message: &Message,
        record: &mut Record,
    ) -> Vec<(&'static str, Bytes)> {
        let span = trace::begin(self.trace, |name| headers.get(name).map(HeaderValue::as_bytes), message);
        record.trace = span.context;
        let mut quoted = Vec::with_capacity(57);
        quoted.push(b'"');
        quoted.extend_from_slice(&span.context.format());
        quoted.push(b'"');
        let mut members = vec![("traceparent", Bytes::from(quoted))];
        if let Some(state) = span.state.and_then(|state| String::from_utf8(state).ok()) {
            members.push(("tracestate", quote(&state).into()));
        }
        members
    }

    /// Arguments that a tool's schema mirrors in headers must be equal there (2026-07-28 basic/transports).
    fn check_param_headers(
        &self,
        head: &http::request::Parts,
        message: &Message,
        who: &Principal,
    ) -> Result<(), Failure> {
        if self.header_checks == HeaderChecks::Tolerant {
            return Ok(());
        }
        self.mirrored(message, who, |mirrored, arguments| {
            let header = |name: &str| head.headers.get(name).map(HeaderValue::as_bytes);
            mirrored.check(arguments, header).map_err(|why| Failure::HeaderMismatch(format!("Header mismatch: {why}")))
        })
        .unwrap_or(Ok(()))
    }

    /// The headers that a modern server wants with a call of a tool, made from its arguments.
    pub(crate) fn param_headers(&self, message: &Message, who: &Principal, into: &mut HeaderMap) {
        self.mirrored(message, who, |mirrored, arguments| {
            for (name, value) in mirrored.generate(arguments) {
                if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
                    into.insert(name, value);
                }
            }
        });
    }

    /// Does something with what a called tool's schema mirrors in headers, if it does.
    fn mirrored<T>(
        &self,
        message: &Message,
        who: &Principal,
        with: impl FnOnce(&ParamHeaders, Option<&[u8]>) -> T,
    ) -> Option<T> {
        if message.method != Method::ToolsCall {
            return None;
        }
        let offer = self.offer_for(message, who.id());
        let name = message.target().unwrap_or_default();
        let Some(ToolHeaders::Mirrored(mirrored)) = offer.catalog.find(Kind::Tool, &name).map(|item| item.headers())
        else {
            return None;
        };
        Some(with(mirrored, message.params().get(Param::Arguments).map(|span| message.raw(span))))
    }

    async fn list(
        &self,
        message: &Message,
        kind: Kind,
        peer: &str,
        who: &Principal,
    ) -> Result<Response<OutBody>, Failure> {
        let own = self.own_lists(message, peer).await;
        let (offer, lists) = match &own {
            Some(own) => (own.offer.clone(), &own.lists),
            None => (self.keeper.offer(), &self.lists),
        };
        if offer.greeted.is_none() {
            return Err(self.starting());
        }
        if !offer.catalog.offers(kind) {
            return Err(Failure::UnknownMethod(message.method_name().into_owned()));
        }
        let rules = self.gate.rules.load();
        let class = rules.policy.visibility_class(who);
        let private = own.is_some() || class != rules.policy.visibility_class(&Principal::anonymous());
        let pieces = lists.reply(&self.service, &offer, message, kind, (class, private), |kind, name| {
            self.gate.visible(who, kind, name)
        })?;
        Ok(reply::json_pieces(StatusCode::OK, pieces))
    }

    async fn listen(&self, permitted: &Permitted<'_>, context: Context<'_>) -> Result<Response<OutBody>, Failure> {
        if !context.accepts.stream {
            return Err(Failure::NotAcceptable);
        }
        let request = permitted.message();
        let mut filter = Filter::of(request);
        if filter.resources.len() > self.subscriptions {
            // The acknowledgement says what is honoured.
            self.recorders.metrics.limited(LimitKind::Subscriptions);
            filter.resources.truncate(self.subscriptions);
        }
        filter.resources.retain(|uri| self.gate.visible(context.asks, policy_kind(Kind::Resource), uri));
        if self.upstream.is_shared() {
            filter.forgo_session();
        }
        let peer = context.who.id();
        let owner = tasks::owner(peer, request);
        let names = Names::new(&self.tasks, owner.clone());
        let watch = self.watch(request, &mut filter, &owner, &names)?;
        // A server of the stateless revision is asked for tasks on a stream of its own; any other about each of them.
        let needs = !filter.resources.is_empty() || (!filter.tasks.is_empty() && !self.older_server());
        let lease = match needs {
            false => None,
            true => Some(self.lease(request, peer).await?.to_listen()),
        };
        let attach = self.attach(request, peer);
        let lists = Followed::new(attach.clone(), self.keeper.offers(), self.caller_lists.always(), &filter);
        let attach = (filter.wants_session() && lease.is_none()).then_some(attach);
        let listen = Listen {
            id: request.id().unwrap_or_default(),
            filter,
            lease,
            attach,
            lists,
            watch,
            names,
            patience: self.idle,
        };
        let (sender, body) = OutBody::channel(64);
        let drain = self.drain.clone();
        tokio::spawn(async move { listen.run(sender, drain.signaled()).await });
        Ok(reply::event_stream(body))
    }

    /// What finds the session of a caller who listens.
    fn attach(&self, request: &Message, peer: &str) -> Attach {
        let session = request.meta_text(Meta::Session).map(Into::into);
        Attach { upstream: self.upstream.clone(), peer: peer.to_owned(), session, declared: declared(request) }
    }

    /// A listen that the server serves itself.
    pub(crate) fn served_listen(&self, request: &Message, names: Option<Names>, who: &Principal) -> Served {
        let follow =
            || Followed::new(self.attach(request, who.id()), self.keeper.offers(), false, &Filter::of(request));
        Served {
            id: request.id().unwrap_or_default(),
            names,
            lists: (!self.caller_lists.always()).then(follow),
            drain: self.drain.clone(),
        }
    }

    /// Begins to look at the tasks that a listen names; those that are not the caller's are left out.
    fn watch(
        &self,
        request: &Message,
        filter: &mut Filter,
        owner: &str,
        names: &Names,
    ) -> Result<Option<Watch>, Failure> {
        if filter.tasks.is_empty() {
            return Ok(None);
        }
        if !declared_tasks(request) {
            return Err(Failure::MissingExtension(EXTENSION));
        }
        if !self.older_server() {
            filter.tasks.retain(|handle| names.own_id(handle).is_some());
            return Ok(None);
        }
        let found: Vec<_> = filter.tasks.iter().filter_map(|handle| self.tasks.find(owner, handle).ok()).collect();
        filter.tasks = found.iter().map(|task| task.handle.clone()).collect();
        Ok((!found.is_empty()).then(|| Watch::begin(found, self.idle, &declared(request).capabilities)))
    }

    /// A client has ended its session: so ends the server's. What calls of no such session share stays.
    async fn session_end(&self, permitted: &Permitted<'_>, peer: &str) -> Response<OutBody> {
        let request = permitted.message();
        let session = request.meta_text(Meta::Session);
        if session.as_deref().is_some_and(|tag| tag.starts_with(CLIENT_SESSION)) {
            self.upstream.end(Asker { peer, session: session.as_deref() }).await;
        }
        let id = request.id().unwrap_or_default();
        reply::json(StatusCode::OK, outrigger_mcp::error::result_reply(&id, b"{\"resultType\":\"complete\"}"))
    }

    async fn session_respond(
        &self,
        permitted: &Permitted<'_>,
        context: Context<'_>,
    ) -> Result<Response<OutBody>, Failure> {
        let request = permitted.message();
        let session = request.meta_text(Meta::Session);
        let asker = Asker { peer: context.who.id(), session: session.as_deref() };
        // Never a new session: its requests have the same numbers, and would get answers to other questions.
        let lease = self.upstream.opened(asker, &declared(request))?;
        listen::respond(request, &lease.session).await?;
        let id = request.id().unwrap_or_default();
        Ok(reply::json(StatusCode::OK, outrigger_mcp::error::result_reply(&id, b"{\"resultType\":\"complete\"}")))
    }

    /// reply and record, for what was refused.
    fn refuse(&self, refused: &Refused, record: &mut Record) -> Response<OutBody> {
        self.note(refused, record);
        let mut response = reply::failure(&refused.failure, refused.id.as_deref(), Dialect::Modern);
        if matches!(refused.failure, Failure::Unavailable { .. } | Failure::Draining) {
            response.headers_mut().insert(outrigger_mcp::headers::UNSENT, HeaderValue::from_static("1"));
        }
        response
    }

    fn note(&self, refused: &Refused, record: &mut Record) {
        record.outcome = refused.failure.outcome();
        if let Some(reason) = refused.failure.bad_request() {
            self.metrics.bad_request(reason);
        }
        if let Failure::Internal(detail) = &refused.failure {
            tracing::error!(detail, "internal error");
        }
    }
}

/// How long a call may take still, as its caller says. Whoever says nonsense has no deadline.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let millis = headers.get(outrigger_mcp::headers::DEADLINE)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(millis))
}
