//! forward: a permitted message on its way to the server, as it is (relay) or through a session (call).

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method as HttpMethod, Response, StatusCode, header};
use outrigger_mcp::{
    bridge::{
        meta_keys::mesh_only,
        refused::unanswered,
        tasks::{
            declared as declared_tasks, legacy_support,
            to_client::plain as without_task,
            to_server::{self, Plan},
        },
    },
    catalog::Item,
    catalog_kind::Kind,
    edit::{Edits, MetaEdit},
    envelope::{Message, Meta, Param, Shape},
    error::HEADER_MISMATCH,
    headers,
    method::Method,
};
use outrigger_policy::Principal;
use outrigger_proxy::{
    body::{OutBody, Owed, read_bounded},
    failure::Failure,
    header_names,
    peek::{Accepts, HeaderChecks},
    reply,
};
use outrigger_telemetry::metrics::{LimitKind, Outcome};

use crate::{
    authorize::Permitted,
    caller_lists,
    drive::{Drive, Resumed, declared_capabilities, each_once, resume},
    inbound::{Context, Inbound},
    keeper::{Offer, no_list},
    listen,
    own_answers::{policy_kind, visible_only},
    record::Record,
    tasks::{self, Names},
    upstream::{
        Asker, Lease,
        http::{HttpServer, modern_fields},
        own_lists::Own,
        owner::Owner,
        session::Declared,
    },
};

/// JSON replies up to this size are read whole before they are passed on: nearly all are, and then a server that
/// fails in the middle of one still gets its caller a proper error.
pub(crate) const WHOLE_REPLY: u64 = 64 * 1024;

/// A page of a list that is read whole, to take out what its caller may not see.
pub(crate) const LIST_BYTES: usize = 16 * 1024 * 1024;

impl Inbound {
    pub(crate) async fn forward(
        &self,
        permitted: &Permitted<'_>,
        trace: &[(&'static str, Bytes)],
        context: Context<'_>,
    ) -> Result<Response<OutBody>, Failure> {
        let Context { head, record, who, asks, accepts } = context;
        let context = Context { head, record: &mut *record, who, asks, accepts };
        self.refused(permitted.message())?;
        let answered = match self.upstream.relay() {
            Some(server) => self.relay(server, permitted, trace, context).await,
            // Boxed: a call through a session has three times the state, and every relayed request would have room for it.
            None => Box::pin(self.call(permitted, trace, context)).await,
        };
        if record.outcome == Outcome::RpcError && permitted.message().target().is_some() {
            self.keeper.doubt();
        }
        answered
    }

    /// A client that answered a question with an error ends its call at a server of the stateless revision, which has no form
    /// for that.
    fn refused(&self, retry: &Message) -> Result<(), Failure> {
        if retry.meta().get(Meta::AnswerErrors).is_none() || self.older_server() {
            return Ok(());
        }
        match unanswered(retry) {
            Some(reason) => Err(Failure::Broken { service: self.service.to_string(), reason }),
            None => Ok(()),
        }
    }

    /// A list that the server makes for this caller, without what policy hides from the caller.
    pub(crate) async fn list_of_caller(
        &self,
        kind: Kind,
        permitted: &Permitted<'_>,
        trace: &[(&'static str, Bytes)],
        context: Context<'_>,
    ) -> Result<Response<OutBody>, Failure> {
        let who = context.asks;
        let modern = !context.record.of_session();
        let whole = Context { accepts: Accepts { json: true, stream: false }, ..context };
        let (head, body) = self.forward(permitted, trace, whole).await?.into_parts();
        let broken = |reason: String| Failure::Broken { service: self.service.to_string(), reason };
        let bytes = read_bounded(body, LIST_BYTES, self.idle).await.map_err(|error| broken(error.to_string()))?;
        let reply = Message::parse(bytes).map_err(|_| broken("its reply is not a JSON-RPC message".into()))?;
        if let Some(why) = no_list(&reply) {
            return Err(broken(why.into()));
        }
        let pieces = visible_only(&reply, kind, modern, |name| self.gate.visible(who, policy_kind(kind), name))
            .map_err(|error| broken(error.to_string()))?;
        Ok(reply::json_pieces(head.status, pieces))
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
        let session = request.meta_text(Meta::Session);
        let owner = Owner::of(Asker { peer: caller, session: session.as_deref() });
        let names =
            (modern && tasks::concerns(request)).then(|| Names::new(&self.tasks, tasks::owner(caller, request)));
        let (exchange, lease) = match resume(permitted, modern, &owner, &self.parking).await? {
            Resumed::Call(resumed) => {
                context.record.served_by(&resumed.1.session);
                *resumed
            }
            Resumed::Again(reply) => return Ok(reply::json(StatusCode::OK, reply)),
            Resumed::No => {
                let sent = match &names {
                    Some(names) => names.own_ids(request)?,
                    None => self.as_task(request, caller, &owner.principal)?,
                };
                let sent = sent.as_deref().unwrap_or(request);
                let lease = self.lease(request, caller).await?;
                // Before the server hears of it.
                context.record.served_by(&lease.session);
                match lease.session.call(sent, trace).await {
                    Ok(exchange) => (exchange, lease),
                    // 404 says that the session ended and the call was not run: once more on a new one.
                    Err(Failure::UnknownSession) => {
                        drop(lease);
                        let lease = self.lease(request, caller).await?;
                        let again = Box::pin(lease.session.call_again(sent, trace)).await;
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
            owner,
            parking: self.parking.clone(),
            accepts: context.accepts,
            idle: self.idle,
            tasks: self.tasks.clone(),
            names,
        };
        let (response, outcome) = drive.respond().await;
        context.record.outcome = outcome;
        Ok(response)
    }

    /// The call as it is sent to a legacy server, where that is another one: one that asks for a task, or one without
    /// the member that would ask for one.
    fn as_task(&self, request: &Message, caller: &str, owner: &str) -> Result<Option<Box<Message>>, Failure> {
        if request.method != Method::ToolsCall {
            return Ok(None);
        }
        let server = self.upstream.known().is_some_and(|known| legacy_support(&known.capabilities));
        let tool = match server {
            true => {
                let offer = self.offer_for(request, caller);
                offer.catalog.find(Kind::Tool, &request.target().unwrap_or_default()).map(Item::tasks)
            }
            false => None,
        };
        match Plan::of(server, tool.unwrap_or_default(), declared_tasks(request)) {
            Plan::Plain if request.params().get(Param::Task).is_none() => Ok(None),
            Plan::Plain => Message::parse(without_task(request))
                .map(|message| Some(Box::new(message)))
                .map_err(|rejected| Failure::Internal(rejected.error.to_string())),
            Plan::AsTask => {
                self.tasks.room(owner)?;
                tasks::begin(request, self.tasks.life()).map(|call| Some(Box::new(call)))
            }
            Plan::Waiting => tasks::begin(request, self.tasks.life()).map(|call| Some(Box::new(call))),
        }
    }

    /// `tasks/get`, `tasks/update` and `tasks/cancel` for a server of 2025-11-25.
    pub(crate) async fn task(&self, permitted: &Permitted<'_>, who: &str) -> Result<Response<OutBody>, Failure> {
        let request = permitted.message();
        let supported = self.upstream.known().is_some_and(|known| legacy_support(&known.capabilities));
        if !supported {
            return Err(Failure::UnknownMethod(request.method_name().into_owned()));
        }
        let handle = request.text(Param::TaskId);
        let handle =
            handle.ok_or_else(|| Failure::InvalidParams("`params.taskId` is required and must be a string".into()))?;
        let task = self.tasks.find(&tasks::owner(who, request), &handle)?;
        let id = request.id().unwrap_or_default();
        let reply = match request.method {
            Method::TasksGet => {
                let described = tasks::describe(&task, self.idle, declared_capabilities(request)).await?;
                to_server::got(&id, &described.members, &described.status, task.server_info())
            }
            Method::TasksUpdate => {
                each_once(request)?;
                tasks::update(&task, request).await?;
                to_server::acknowledged(&id, task.server_info())
            }
            _ => {
                tasks::cancel(&task, self.idle).await?;
                to_server::acknowledged(&id, task.server_info())
            }
        };
        Ok(reply::json(StatusCode::OK, reply))
    }

    pub(crate) fn upstream_failed(&self, failure: Failure) -> Failure {
        self.keeper.suspect();
        match failure {
            Failure::UnknownSession => {
                Failure::Broken { service: self.service.to_string(), reason: "it forgets its sessions".into() }
            }
            other => other,
        }
    }

    pub(crate) async fn lease(&self, request: &Message, caller: &str) -> Result<Lease, Failure> {
        let session = request.meta_text(Meta::Session);
        let leased = self.upstream.lease(Asker { peer: caller, session: session.as_deref() }, &declared(request)).await;
        match &leased {
            Ok(lease) => self.caller_lists.follow(lease),
            // It may be another server by now than the one that was greeted.
            Err(Failure::Unavailable { .. }) => self.keeper.suspect(),
            Err(_) => {}
        }
        leased
    }

    /// The lists of this caller alone, where they are known not to be those of all.
    pub(crate) async fn own_lists(&self, request: &Message, caller: &str) -> Option<Arc<Own>> {
        let session = request.meta_text(Meta::Session);
        self.caller_lists.current(Asker { peer: caller, session: session.as_deref() }, &declared(request)).await
    }

    /// What this caller is offered, as far as it is known.
    pub(crate) fn offer_for(&self, request: &Message, caller: &str) -> Arc<Offer> {
        let offer = self.keeper.offer();
        if !offer.varies {
            return offer;
        }
        let session = request.meta_text(Meta::Session);
        let asker = Asker { peer: caller, session: session.as_deref() };
        let own = self.upstream.opened_place(asker, &declared(request)).and_then(|place| place.own());
        own.map_or(offer, |own| own.offer.clone())
    }

    /// `outrigger.dev/catalog`: what this caller is offered, for an ingress that lists it.
    pub(crate) async fn catalog_of_caller(
        &self,
        permitted: &Permitted<'_>,
        who: &Principal,
    ) -> Result<Response<OutBody>, Failure> {
        let request = permitted.message();
        let own = match self.caller_lists.always() {
            false => self.own_lists(request, who.id()).await,
            true => Some(self.lists_asked_for(request, who.id()).await?),
        };
        let mut head = b"{\"jsonrpc\":\"2.0\",\"id\":".to_vec();
        head.extend_from_slice(&request.id().unwrap_or_default());
        head.extend_from_slice(b",\"result\":{\"resultType\":\"complete\",\"lists\":");
        let known = caller_lists::known(request);
        let pieces = match own {
            None => vec![Bytes::from_static(b"\"shared\"}}")],
            Some(own) if known.as_deref() == Some(own.offer.catalog.fingerprint()) => {
                vec![Bytes::from_static(b"\"unchanged\"}}")]
            }
            Some(own) => {
                let own = own.offer.catalog_json.clone();
                vec![Bytes::from_static(b"\"own\",\"catalog\":"), own, Bytes::from_static(b"}}")]
            }
        };
        Ok(reply::json_pieces(StatusCode::OK, [vec![head.into()], pieces].concat()))
    }

    async fn lists_asked_for(&self, request: &Message, caller: &str) -> Result<Arc<Own>, Failure> {
        let declared = declared(request);
        if self.upstream.relay().is_some() {
            return self.caller_lists.ask(None, &declared).await;
        }
        let lease = self.lease(request, caller).await?;
        match self.caller_lists.ask(Some(&lease), &declared).await {
            // The server forgot the session: once more in a new one.
            Err(Failure::UnknownSession) => {
                drop(lease);
                let lease = self.lease(request, caller).await?;
                self.caller_lists.ask(Some(&lease), &declared).await.map_err(|failure| self.upstream_failed(failure))
            }
            asked => asked,
        }
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
            let visible = |uri: &str| self.gate.visible(context.asks, policy_kind(Kind::Resource), uri);
            if listen::narrow(message, self.subscriptions, visible, &mut edits) {
                // The acknowledgement says what is honoured.
                self.recorders.metrics.limited(LimitKind::Subscriptions);
            }
            // As below: a listen lasts.
            context.record.permit = None;
        }
        let mut fields = modern_fields(message);
        let names = tasks::concerns(message).then(|| Names::new(&self.tasks, tasks::owner(context.who.id(), message)));
        if let Some(names) = &names {
            names.outgoing(message, &mut edits, Some(&mut fields))?;
        }
        match self.header_checks {
            HeaderChecks::Strict => copy_params(&context.head.headers, &mut fields),
            HeaderChecks::Tolerant => self.param_headers(message, context.who, &mut fields),
        }
        if let Ok(value) = HeaderValue::from_bytes(&context.record.trace.format()) {
            fields.insert(&header_names::TRACEPARENT, value);
        }
        let mut response = server
            .send(HttpMethod::POST, fields, edits.apply(message.body()))
            .await
            .map_err(|failure| self.upstream_failed(failure))?;
        if message.method == Method::ToolsCall && response.status() == StatusCode::BAD_REQUEST {
            match Box::pin(self.refused_headers(server, message, context.who, trace, response, context.record)).await? {
                Refused::Again(answer) => response = answer,
                Refused::Told(reply) => return Ok(reply),
            }
        }
        let events = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|v| v.as_bytes().starts_with(b"text/event-stream"));
        if events && !listens && !context.accepts.stream {
            let bytes = self.reply_alone(server, response.into_body()).await?;
            context.record.outcome = outcome_of(&bytes);
            let bytes = names.map(|names| names.incoming_bytes(bytes.clone(), message.method)).unwrap_or(bytes);
            return Ok(reply::json(StatusCode::OK, bytes));
        }
        if listens && events {
            return Ok(self.served_listen(message, names, context.who).respond(server.events(response.into_body())));
        }
        if let Some(names) = names {
            return Box::pin(self.relay_named(server, response, names, message, context.record)).await;
        }
        self.relay_reply(server, response, message.id(), context.record).await
    }

    /// A call that a modern server refused. When the reason is a header (-32020), the schema that says which arguments are
    /// mirrored may be another one than we know: it is asked for, and the call is sent once more. It was not run.
    async fn refused_headers(
        &self,
        server: &HttpServer,
        message: &Message,
        who: &Principal,
        trace: &[(&'static str, Bytes)],
        response: Response<outrigger_proxy::pool::PooledBody>,
        record: &mut Record,
    ) -> Result<Refused, Failure> {
        let kind = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        if !kind.starts_with(b"application/json") {
            return Ok(Refused::Again(response));
        }
        let status = response.status();
        let bytes = server.read(response.into_body()).await?;
        let code = Message::parse(bytes.clone()).ok().and_then(|reply| reply.error_code());
        if code != Some(HEADER_MISMATCH) {
            self.keeper.suspect();
            record.outcome = outcome_of(&bytes);
            return Ok(Refused::Told(reply::json(status, bytes)));
        }
        self.keeper.relist().await;
        let mut fields = modern_fields(message);
        self.param_headers(message, who, &mut fields);
        if let Ok(value) = HeaderValue::from_bytes(&record.trace.format()) {
            fields.insert(&header_names::TRACEPARENT, value);
        }
        // As the first time. Made anew, because nearly no call comes here.
        let mut edits = Edits::new();
        MetaEdit { drop: Some(mesh_only), set: trace.to_vec() }.params(message, &mut edits);
        let response = server.send(HttpMethod::POST, fields, edits.apply(message.body())).await;
        response.map(Refused::Again).map_err(|failure| self.upstream_failed(failure))
    }

    /// The reply out of an event stream, for a caller that takes none.
    async fn reply_alone(
        &self,
        server: &HttpServer,
        body: outrigger_proxy::pool::PooledBody,
    ) -> Result<Bytes, Failure> {
        let mut events = server.events(body);
        loop {
            let event = tokio::time::timeout(self.idle, events.next()).await;
            let event = event.map_err(|_| Failure::Timeout { service: self.service.to_string(), after: self.idle })?;
            let data = event.map_err(|why| server.broken(&why))?;
            let data = data.ok_or_else(|| server.broken("it ended the stream without a reply"))?;
            let message = Message::parse(data).map_err(|_| server.broken("it sent an event that is no message"))?;
            if matches!(message.shape, Shape::Result | Shape::Error) {
                return Ok(message.body().clone());
            }
        }
    }

    /// The reply of a modern server in which tasks may be named.
    async fn relay_named(
        &self,
        server: &HttpServer,
        response: Response<outrigger_proxy::pool::PooledBody>,
        names: Names,
        request: &Message,
        record: &mut Record,
    ) -> Result<Response<OutBody>, Failure> {
        let kind = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        if kind.starts_with(b"text/event-stream") {
            return Ok(reply::event_stream(names.stream(server.events(response.into_body()), request.method)));
        }
        let response = self.relay_reply(server, response, request.id(), record).await?;
        let (head, body) = response.into_parts();
        let broken = |reason: String| Failure::Broken { service: self.service.to_string(), reason };
        let body =
            read_bounded(body, server.event_bytes, self.idle).await.map_err(|error| broken(error.to_string()))?;
        record.outcome = outcome_of(&body);
        Ok(reply::json(head.status, names.incoming_bytes(body, request.method)))
    }

    async fn relay_reply(
        &self,
        server: &HttpServer,
        response: Response<outrigger_proxy::pool::PooledBody>,
        id: Option<Bytes>,
        record: &mut Record,
    ) -> Result<Response<OutBody>, Failure> {
        let owed = || Owed { service: self.service.clone(), id, told: record.told(), resumable: false };
        let (head, body) = response.into_parts();
        let kind = head.headers.get(header::CONTENT_TYPE).cloned();
        let kind_text = kind.as_ref().and_then(|v| v.to_str().ok()).unwrap_or_default();
        if kind_text.starts_with("text/event-stream") {
            return Ok(reply::event_stream(OutBody::reply(body, true, owed())));
        }
        // So answer servers that know nothing of modern MCP; it is looked at, whatever the reason was.
        if matches!(head.status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
            self.keeper.suspect();
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
            _ => OutBody::reply(body, false, owed()),
        };
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        if let Some(kind) = kind {
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
        }
        Ok(response)
    }
}

/// What becomes of a call that a server refused.
enum Refused {
    /// The answer to look at.
    Again(Response<outrigger_proxy::pool::PooledBody>),
    /// The refusal, for the caller.
    Told(Response<OutBody>),
}

/// What the client of a request declared.
pub(crate) fn declared(request: &Message) -> Declared {
    let object = |field| request.meta().get(field).map(|s| request.slice(s)).filter(|raw| raw.starts_with(b"{"));
    Declared {
        capabilities: object(Meta::ClientCapabilities).unwrap_or_else(|| Bytes::from_static(b"{}")),
        info: object(Meta::ClientInfo).unwrap_or_else(|| Declared::everything().info),
    }
}

/// How a JSON reply ended, by its envelope.
pub(crate) fn outcome_of(bytes: &Bytes) -> Outcome {
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
