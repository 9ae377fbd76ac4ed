//! The inbound path of one request, top to bottom:
//!
//! ```text
//!  accept > handshake > identify > peek > route > authorize > forward > reply > record
//! ```
//!
//! accept and handshake are `outrigger_proxy::accept`; what follows is here, one step after the other.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method as HttpMethod, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use outrigger_identity::Credentials;
use outrigger_mcp::{
    bridge::meta_keys::mesh_only,
    catalog::ToolHeaders,
    catalog_kind::Kind,
    edit::{Edits, MetaEdit},
    envelope::{Message, Meta, Shape},
    headers,
    json::quote,
    method::Method,
    sse::Parser,
};
use outrigger_policy::{Principal, glob::Glob};
use outrigger_proxy::{
    body::{OutBody, read_bounded},
    failure::Failure,
    handshake::ConnInfo,
    peek::{self, Accepts, PeekLimits, Refused},
    reply::{self, Dialect},
    trace::{self, TraceRules},
};
use outrigger_runtime::drain::DrainWatcher;
use outrigger_telemetry::{Metrics, metrics::Outcome};

use crate::{
    authorize::{Gate, Permitted},
    config::CatalogMode,
    drive::{Drive, Resumed, resume},
    health::HealthDocument,
    keeper::Keeper,
    listen::{self, Attach, Filter, Listen},
    own_answers::{Lists, discover, policy_kind, visible_only},
    record::{Record, Recorders},
    upstream::{
        Asker, Lease, Upstream,
        http::{HttpServer, modern_fields},
        parking::Parking,
        session::Declared,
    },
};

/// JSON replies up to this size are read whole before they are passed on: nearly all are, and then a server that
/// fails in the middle of one still gets its caller a proper error.
const WHOLE_REPLY: u64 = 64 * 1024;

/// A page of a list that is read whole, to take out what its caller may not see.
const LIST_BYTES: usize = 16 * 1024 * 1024;

/// Everything that a request needs; shared by all connections.
pub struct Inbound {
    /// Name of the service.
    pub service: Arc<str>,
    /// Who we are.
    pub credentials: Arc<Credentials>,
    /// Which workloads may connect; empty: every one of the trust domain.
    pub allowed_callers: Vec<Glob>,
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
    /// Prepared lists.
    pub lists: Lists,
    /// Whose lists are served.
    pub catalog_mode: CatalogMode,
    /// The health endpoint.
    pub health: HealthDocument,
    /// Where requests are recorded.
    pub recorders: Arc<Recorders>,
    /// Metrics of the process.
    pub metrics: Arc<Metrics>,
    /// The longest silence of the server within a call.
    pub idle: Duration,
    /// What of an incoming trace counts.
    pub trace: TraceRules,
    /// Requests after which a connection is closed.
    pub requests_per_connection: u64,
    /// Tells when to go.
    pub drain: DrainWatcher,
}

/// A request on its way: its head, what is recorded of it, and who sent it.
struct Context<'a> {
    head: &'a http::request::Parts,
    record: &'a mut Record,
    who: &'a Principal,
    accepts: Accepts,
}

impl Inbound {
    /// One request.
    pub async fn serve(self: Arc<Self>, conn: Arc<ConnInfo>, request: Request<Incoming>) -> Response<OutBody> {
        let mut record = Record::begin(&self.recorders, &conn, &request);
        let (head, body) = request.into_parts();
        let outcome = match self.identify(&conn) {
            Ok(who) => {
                record.who = Some(who.clone());
                self.route(&head, body, &mut record, &who).await
            }
            Err(failure) => Err(failure.into()),
        };
        let mut response = outcome.unwrap_or_else(|refused| self.refuse(&refused, &mut record));
        if conn.requests() >= self.requests_per_connection && head.version < http::Version::HTTP_2 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        record.status(response.status());
        response.map(|body| body.on_end(record))
    }

    /// identify: the peer's certificate makes the principal, once per connection.
    fn identify(&self, conn: &ConnInfo) -> Result<Principal, Failure> {
        if let Some(who) = conn.principal.get() {
            return Ok(who.clone());
        }
        let id = self.credentials.peer(conn.peer_certs()).map_err(|error| {
            tracing::info!(peer = %conn.peer_addr, %error, "a peer without a usable identity");
            Failure::CallerRefused
        })?;
        let allowed =
            self.allowed_callers.is_empty() || self.allowed_callers.iter().any(|glob| glob.matches(id.as_str()));
        if !allowed {
            return Err(Failure::CallerRefused);
        }
        let who = Principal::workload(id.as_str()).map_err(|error| Failure::Internal(error.to_string()))?;
        Ok(conn.principal.get_or_init(|| who).clone())
    }

    async fn route(
        &self,
        head: &http::request::Parts,
        body: Incoming,
        record: &mut Record,
        who: &Principal,
    ) -> Result<Response<OutBody>, Refused> {
        match (head.uri.path(), &head.method) {
            ("/mcp", &HttpMethod::POST) => {
                let accepts = peek::accepts(&head.headers)?;
                let message = peek::message(&head.headers, body, &self.peek).await?;
                let id = message.id();
                let context = Context { head, record, who, accepts };
                self.message(message, context).await.map_err(|failure| Refused { failure, id })
            }
            ("/mcp", _) => Err(Failure::MethodNotAllowed("POST").into()),
            ("/mesh/v1/health", &HttpMethod::GET) => {
                let in_flight = || self.gate.concurrency.in_flight();
                Ok(self.health.respond(head, self.keeper.offers(), in_flight, self.drain.signaled()).await)
            }
            ("/mesh/v1/health", _) => Err(Failure::MethodNotAllowed("GET").into()),
            _ => Err(Failure::UnknownPath("/mcp").into()),
        }
    }

    async fn message(&self, message: Message, context: Context<'_>) -> Result<Response<OutBody>, Failure> {
        peek::modern(&context.head.headers, &message)?;
        context.record.message(&message);
        if message.shape != Shape::Request {
            // Nothing that a modern client may send without an id concerns the server: cancelling is closing.
            return Ok(reply::accepted());
        }
        if message.method.removed_in_modern() {
            return Err(Failure::UnknownMethod(message.method_name().into_owned()));
        }
        let trace = self.trace(context.head, &message, context.record);
        let permitted = self.gate.permit(context.who, &message, context.record)?;
        self.check_param_headers(context.head, &message)?;
        match message.method {
            Method::SubscriptionsListen if self.upstream.relay().is_none() => {
                return self.listen(&permitted, context).await;
            }
            Method::SessionRespond => return self.session_respond(&permitted, context).await,
            Method::ServerDiscover if self.upstream.relay().is_none() => {
                let known = self.upstream.known().ok_or_else(|| self.starting())?;
                return Ok(reply::json(StatusCode::OK, discover(&message, &known)));
            }
            _ => {}
        }
        match (message.method.lists(), self.catalog_mode) {
            (Some(kind), CatalogMode::Learned) => self.list(&message, kind, context.who),
            (Some(kind), CatalogMode::PerCaller) => self.list_of_caller(kind, &permitted, &trace, context).await,
            (None, _) => self.forward(&permitted, &trace, context).await,
        }
    }

    async fn forward(
        &self,
        permitted: &Permitted<'_>,
        trace: &[(&'static str, Bytes)],
        context: Context<'_>,
    ) -> Result<Response<OutBody>, Failure> {
        match self.upstream.relay() {
            Some(server) => self.relay(server, permitted, trace, context).await,
            None => self.call(permitted, trace, context).await,
        }
    }

    /// A list that the server makes for this caller, without what policy hides from the caller.
    async fn list_of_caller(
        &self,
        kind: Kind,
        permitted: &Permitted<'_>,
        trace: &[(&'static str, Bytes)],
        context: Context<'_>,
    ) -> Result<Response<OutBody>, Failure> {
        let who = context.who;
        let whole = Context { accepts: Accepts { json: true, stream: false }, ..context };
        let (head, body) = self.forward(permitted, trace, whole).await?.into_parts();
        let broken = |reason: String| Failure::Broken { service: self.service.to_string(), reason };
        let mut bytes = read_bounded(body, LIST_BYTES, self.idle).await.map_err(|error| broken(error.to_string()))?;
        if head.headers.get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"text/event-stream")) {
            bytes = last_event(&bytes).ok_or_else(|| broken("it ended the stream without a reply".into()))?;
        }
        let reply = Message::parse(bytes).map_err(|_| broken("its reply is not a JSON-RPC message".into()))?;
        let pieces = visible_only(&reply, kind, |name| self.gate.visible(who, policy_kind(kind), name));
        Ok(reply::json_pieces(head.status, pieces))
    }

    fn starting(&self) -> Failure {
        Failure::Unavailable { service: self.service.to_string(), reason: "it has not answered yet".into() }
    }

    /// Begins our span, and says what the server is told of it.
    fn trace(&self, head: &http::request::Parts, message: &Message, record: &mut Record) -> Vec<(&'static str, Bytes)> {
        let span = trace::begin(self.trace, |name| head.headers.get(name).map(HeaderValue::as_bytes), message);
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
    fn check_param_headers(&self, head: &http::request::Parts, message: &Message) -> Result<(), Failure> {
        if message.method != Method::ToolsCall {
            return Ok(());
        }
        let offer = self.keeper.offer();
        let name = message.target().unwrap_or_default();
        let Some(ToolHeaders::Mirrored(mirrored)) = offer.catalog.find(Kind::Tool, &name).map(|item| item.headers())
        else {
            return Ok(());
        };
        let arguments = message.params().get(outrigger_mcp::envelope::Param::Arguments).map(|span| message.raw(span));
        mirrored
            .check(arguments, |name| head.headers.get(name).map(HeaderValue::as_bytes))
            .map_err(|why| Failure::HeaderMismatch(format!("Header mismatch: {why}")))
    }

    fn list(&self, message: &Message, kind: Kind, who: &Principal) -> Result<Response<OutBody>, Failure> {
        let offer = self.keeper.offer();
        if offer.greeted.is_none() {
            return Err(self.starting());
        }
        if !offer.catalog.offers(kind) {
            return Err(Failure::UnknownMethod(message.method_name().into_owned()));
        }
        let class = self.gate.rules.load().policy.visibility_class(who);
        let pieces = self
            .lists
            .reply(&self.service, &offer, message, kind, class, |kind, name| self.gate.visible(who, kind, name))?;
        Ok(reply::json_pieces(StatusCode::OK, pieces))
    }

    /// forward, to a server that is called through a session.
    async fn call(
        &self,
        permitted: &Permitted<'_>,
        trace: &[(&'static str, Bytes)],
        context: Context<'_>,
    ) -> Result<Response<OutBody>, Failure> {
        let request = permitted.message();
        let caller = context.who.id();
        let modern = self.upstream.known().is_some_and(|known| known.revision.is_modern());
        // Behind one ingress there are many clients: a parked call belongs to the one that made it.
        let owner = format!("{caller} {}", request.meta_text(Meta::Session).unwrap_or_default());
        let (exchange, lease) = match resume(permitted, modern, &owner, &self.parking).await? {
            Resumed::Call(resumed) => *resumed,
            Resumed::Again(reply) => return Ok(reply::json(StatusCode::OK, reply)),
            Resumed::No => {
                let lease = self.lease(request, caller).await?;
                match lease.session.call(request, trace).await {
                    Ok(exchange) => (exchange, lease),
                    // 404 says that the session ended and the call was not run: once more on a new one.
                    Err(Failure::UnknownSession) => {
                        drop(lease);
                        let lease = self.lease(request, caller).await?;
                        let again = lease.session.call(request, trace).await;
                        (again.map_err(|failure| self.upstream_failed(failure))?, lease)
                    }
                    Err(failure) => return Err(self.upstream_failed(failure)),
                }
            }
        };
        let drive = Drive {
            exchange,
            lease,
            request: request.clone(),
            caller: owner,
            parking: self.parking.clone(),
            accepts: context.accepts,
            idle: self.idle,
        };
        let (response, outcome) = drive.respond().await;
        context.record.outcome = outcome;
        Ok(response)
    }

    fn upstream_failed(&self, failure: Failure) -> Failure {
        self.keeper.suspect();
        match failure {
            Failure::UnknownSession => {
                Failure::Broken { service: self.service.to_string(), reason: "it forgets its sessions".into() }
            }
            other => other,
        }
    }

    async fn lease(&self, request: &Message, caller: &str) -> Result<Lease, Failure> {
        let session = request.meta_text(Meta::Session);
        self.upstream.lease(Asker { peer: caller, session: session.as_deref() }, &declared(request)).await
    }

    /// forward, to a modern HTTP server: the message as it is but for the trace, the reply as it comes.
    async fn relay(
        &self,
        server: &HttpServer,
        permitted: &Permitted<'_>,
        trace: &[(&'static str, Bytes)],
        context: Context<'_>,
    ) -> Result<Response<OutBody>, Failure> {
        let message = permitted.message();
        let mut edits = Edits::new();
        MetaEdit { drop: Some(mesh_only), set: trace.to_vec() }.params(message, &mut edits);
        let listens = message.method == Method::SubscriptionsListen;
        if listens {
            listen::narrow(message, |uri| self.gate.visible(context.who, policy_kind(Kind::Resource), uri), &mut edits);
            // As below: a listen lasts.
            context.record.permit = None;
        }
        let mut fields = modern_fields(message);
        copy_params(&context.head.headers, &mut fields);
        if let Ok(value) = HeaderValue::from_bytes(&context.record.trace.format()) {
            fields.insert("traceparent", value);
        }
        let response = server
            .send(HttpMethod::POST, fields, edits.apply(message.body()))
            .await
            .map_err(|failure| self.upstream_failed(failure))?;
        let events = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|v| v.as_bytes().starts_with(b"text/event-stream"));
        if listens && events {
            let id = message.id().unwrap_or_default();
            return Ok(reply::event_stream(listen::passed_on(id, response.into_body(), self.drain.clone())));
        }
        self.relay_reply(server, response, context.record).await
    }

    async fn relay_reply(
        &self,
        server: &HttpServer,
        response: Response<outrigger_proxy::pool::PooledBody>,
        record: &mut Record,
    ) -> Result<Response<OutBody>, Failure> {
        let (head, body) = response.into_parts();
        let kind = head.headers.get(header::CONTENT_TYPE).cloned();
        let kind_text = kind.as_ref().and_then(|v| v.to_str().ok()).unwrap_or_default();
        if kind_text.starts_with("text/event-stream") {
            return Ok(reply::event_stream(OutBody::from(body)));
        }
        if !kind_text.starts_with("application/json") {
            return Err(server.broken(&format!("it answered with status {}", head.status.as_u16())));
        }
        if matches!(head.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            // The challenge is for us, not for the caller.
            return Err(server.broken("it demands credentials that this sidecar does not have"));
        }
        let length = head.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        let body = match length {
            Some(length) if length <= WHOLE_REPLY => {
                let bytes = server.read(body).await?;
                record.outcome = outcome_of(&bytes);
                OutBody::full(bytes)
            }
            _ => OutBody::from(body),
        };
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        if let Some(kind) = kind {
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
        }
        Ok(response)
    }

    async fn listen(&self, permitted: &Permitted<'_>, context: Context<'_>) -> Result<Response<OutBody>, Failure> {
        if !context.accepts.stream {
            return Err(Failure::NotAcceptable);
        }
        let request = permitted.message();
        let mut filter = Filter::of(request);
        filter.resources.retain(|uri| self.gate.visible(context.who, policy_kind(Kind::Resource), uri));
        let peer = context.who.id();
        let lease = match filter.resources.is_empty() {
            true => None,
            false => Some(self.lease(request, peer).await?.to_listen()),
        };
        let attach = (filter.wants_session() && lease.is_none()).then(|| Attach {
            upstream: self.upstream.clone(),
            peer: peer.to_owned(),
            session: request.meta_text(Meta::Session).map(Into::into),
            declared: declared(request),
        });
        let listen = Listen {
            id: request.id().unwrap_or_default(),
            filter,
            lease,
            attach,
            offers: self.keeper.offers(),
            patience: self.idle,
        };
        // A listen lasts: it must not occupy a place among the calls.
        context.record.permit = None;
        let (sender, body) = OutBody::channel(64);
        let drain = self.drain.clone();
        tokio::spawn(async move { listen.run(sender, drain.signaled()).await });
        Ok(reply::event_stream(body))
    }

    async fn session_respond(
        &self,
        permitted: &Permitted<'_>,
        context: Context<'_>,
    ) -> Result<Response<OutBody>, Failure> {
        let request = permitted.message();
        let lease = self.lease(request, context.who.id()).await?;
        listen::respond(request, &lease.session).await?;
        let id = request.id().unwrap_or_default();
        Ok(reply::json(StatusCode::OK, outrigger_mcp::error::result_reply(&id, b"{\"resultType\":\"complete\"}")))
    }

    /// reply and record, for what was refused.
    fn refuse(&self, refused: &Refused, record: &mut Record) -> Response<OutBody> {
        record.outcome = refused.failure.outcome();
        if let Some(reason) = refused.failure.bad_request() {
            self.metrics.bad_request(reason);
        }
        if let Failure::Internal(detail) = &refused.failure {
            tracing::error!(detail, "internal error");
        }
        reply::failure(&refused.failure, refused.id.as_deref(), Dialect::Modern)
    }
}

fn last_event(stream: &[u8]) -> Option<Bytes> {
    let mut parser = Parser::new(LIST_BYTES);
    parser.push(stream);
    let mut last = None;
    while let Ok(Some(event)) = parser.next_event() {
        last = event.data.or(last);
    }
    last
}

/// What the client of a request declared.
fn declared(request: &Message) -> Declared {
    let object = |field| request.meta().get(field).map(|s| request.slice(s)).filter(|raw| raw.starts_with(b"{"));
    Declared {
        capabilities: object(Meta::ClientCapabilities).unwrap_or_else(|| Bytes::from_static(b"{}")),
        info: object(Meta::ClientInfo).unwrap_or_else(|| Declared::everything().info),
    }
}

/// How a JSON reply ended, by its envelope.
fn outcome_of(bytes: &Bytes) -> Outcome {
    match Message::parse(bytes.clone()) {
        Ok(message) if message.shape == Shape::Error => Outcome::RpcError,
        Ok(message) => match message.results().get(outrigger_mcp::envelope::Field::IsError) {
            Some(span) if message.raw(span) == b"true" => Outcome::ToolError,
            _ => Outcome::Ok,
        },
        Err(_) => Outcome::RpcError,
    }
}

/// `Mcp-Param-*` headers go on untouched, known or not (2026-07-28 basic/transports).
fn copy_params(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from {
        if is_param(name) {
            to.append(name.clone(), value.clone());
        }
    }
}

fn is_param(name: &HeaderName) -> bool {
    name.as_str().starts_with(headers::PARAM_PREFIX)
}
