//! Sessions whose client and server speak the same revision over HTTP: everything passes as it is, in both directions,
//! event ids and the server's own requests included. What is done all the same: each request is authorized and recorded,
//! gets our span, and what its sender may not see is taken out of lists. The server's session id stays here; the client
//! has a sealed one of ours (docs/decisions/0012-relayed-sessions.md).

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method as HttpMethod, Response, StatusCode, header};
use outrigger_mcp::{
    bridge::{meta_keys::mesh_only, to_client::Client},
    catalog_kind::Kind,
    edit::{Edits, MetaEdit, concat},
    envelope::{Message, Param, Shape},
    headers::{LAST_EVENT_ID, SESSION_ID},
    json::member,
    method::Method,
    revision::Revision,
    sse,
};
use outrigger_proxy::{
    body::{OutBody, Owed},
    failure::Failure,
    legacy::{
        relayed::{Beginning, Relayed},
        seam::{self, Caller, Route},
    },
    peek::{self, Refused},
    pool::PooledBody,
    reply,
};

use crate::{
    forward::{WHOLE_REPLY, outcome_of},
    inbound::Inbound,
    listen,
    own_answers::{policy_kind, visible_only},
    record::Record,
    upstream::{
        Asker, Lease,
        http::{EventStream, copy_trace, legacy_fields},
        http_session::HttpSession,
        session::{Declared, Session},
    },
};

/// Members of `_meta` that tell of our span.
type Span = Vec<(&'static str, Bytes)>;

/// Serves one HTTP request of a session that is relayed, or that can be; `None` when it is to be translated.
///
/// # Errors
/// What is refused, as at translated sessions.
pub(super) async fn serve(
    inbound: &Arc<Inbound>,
    caller: &Caller,
    request: &seam::Inbound,
    record: &mut Record,
) -> Result<Option<Response<OutBody>>, Refused> {
    let message = request.message.as_ref().and_then(|message| message.as_ref().ok());
    let refused = |failure| Refused { failure, id: message.and_then(Message::id) };
    let mut relay = Relay { inbound, caller, request, record };
    if let Some(message) = message.filter(|m| m.method == Method::Initialize && m.shape == Shape::Request) {
        return relay.begin(message).await.map_err(refused);
    }
    let route = Route::Service(inbound.service.clone());
    match inbound.sessions.find_relayed(caller, &route, &request.headers).map_err(refused)? {
        Some(session) => relay.pass(&session).await.map(Some).map_err(refused),
        None => Ok(None),
    }
}

/// One HTTP request.
struct Relay<'a> {
    inbound: &'a Arc<Inbound>,
    caller: &'a Caller,
    request: &'a seam::Inbound,
    record: &'a mut Record,
}

impl Relay<'_> {
    /// `initialize`: a session that is relayed, if the server answers with the revision that the client asks for.
    async fn begin(&mut self, message: &Message) -> Result<Option<Response<OutBody>>, Failure> {
        let inbound = self.inbound;
        let asked = message.text(Param::ProtocolVersion).and_then(|version| Revision::parse(&version));
        let Some((revision, server)) = asked.and_then(|asked| Some((asked, inbound.upstream.relays(asked)?))) else {
            return Ok(None);
        };
        let accepts = peek::accepts(&self.request.headers)?;
        let body = concat(&self.permitted(message).await?.1);
        let beginning = Beginning::new(&self.caller.principal)?;
        let (peer, tag) = (self.caller.principal.id(), beginning.tag().to_owned());
        let asker = Asker { peer, session: Some(&tag) };
        let opened = inbound.upstream.open_relayed(server, asker, body, revision).await;
        let Some((lease, told)) = opened.map_err(|failure| inbound.upstream_failed(failure))? else { return Ok(None) };
        let route = Route::Service(inbound.service.clone());
        let session = inbound.sessions.open_relayed(beginning, self.caller, &route, Client::from_initialize(message));
        let (peer, upstream) = (peer.to_owned(), inbound.upstream.clone());
        let closed = session.as_ref().map(Relayed::closed).ok();
        // The server's session lasts as long as the client's.
        tokio::spawn(async move {
            if let Some(closed) = closed {
                closed.cancelled().await;
            }
            upstream.end(Asker { peer: &peer, session: Some(&tag) }).await;
        });
        let session = session?;
        drop(lease);
        let mut response = match accepts.json {
            true => reply::json(StatusCode::OK, told.body().clone()),
            false => reply::event_stream(OutBody::full(sse::event(told.body()))),
        };
        let id =
            HeaderValue::from_str(session.id()).map_err(|_| Failure::Internal("a session id is no text".into()))?;
        response.headers_mut().insert(SESSION_ID, id);
        Ok(Some(response))
    }

    async fn pass(&mut self, session: &Relayed) -> Result<Response<OutBody>, Failure> {
        if self.request.method == HttpMethod::DELETE {
            self.record.carries(0);
            self.inbound.sessions.end_relayed(session);
            let mut response = Response::new(OutBody::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Ok(response);
        }
        let asker = Asker { peer: self.caller.principal.id(), session: Some(session.tag()) };
        let Ok(lease) = self.inbound.upstream.opened(asker, &Declared::everything()) else {
            // It gave way to another one: so does the client's.
            self.inbound.sessions.end_relayed(session);
            return Err(Failure::UnknownSession);
        };
        if self.request.method == HttpMethod::GET {
            return self.listen(session, lease.to_listen()).await;
        }
        self.post(session, lease).await
    }

    async fn post(&mut self, session: &Relayed, lease: Lease) -> Result<Response<OutBody>, Failure> {
        peek::accepts(&self.request.headers)?;
        let message = match &self.request.message {
            Some(Ok(message)) => message,
            Some(Err(rejected)) => return Err(rejected.error.clone().into()),
            None => return Err(Failure::MethodNotAllowed("POST")),
        };
        let http = http_session(&lease)?;
        let mut fields = legacy_fields(http.id.as_ref(), Some(session.revision()));
        if let Some(accept) = self.request.headers.get(header::ACCEPT) {
            fields.insert(header::ACCEPT, accept.clone());
        }
        let body = match message.shape {
            Shape::Request => {
                let (trace, body) = self.permitted(message).await?;
                copy_trace(&trace, &mut fields);
                body
            }
            _ => {
                self.record.carries(message.body().len());
                self.inbound.gate.admit(&self.caller.principal)?;
                vec![message.body().clone()]
            }
        };
        let in_use = session.occupy();
        let sent = http.server.send(HttpMethod::POST, fields, body).await;
        let response = sent.map_err(|failure| self.inbound.upstream_failed(failure))?;
        let lists = message.shape == Shape::Request && message.method.lists().is_some();
        let answer = self.answer(session, http, response, message.id(), lists).await;
        self.record.hold((in_use, lease));
        answer
    }

    /// authorize, and the message with our span in it.
    async fn permitted(&mut self, message: &Message) -> Result<(Span, Vec<Bytes>), Failure> {
        self.record.message(message);
        // A server does not know who asks: it would tell of everybody's tasks.
        if message.method == Method::TasksList {
            return Err(Failure::UnknownMethod(message.method_name().into_owned()));
        }
        let trace = self.inbound.trace(&self.request.headers, message, self.record);
        self.inbound.gate.permit(&self.caller.principal, message, self.record)?;
        self.inbound.note_call(message, self.record).await?;
        let mut edits = Edits::new();
        MetaEdit { drop: Some(mesh_only), set: trace.clone() }.params(message, &mut edits);
        Ok((trace, edits.apply(message.body())))
    }

    /// The session's stream, or one that broke off, from where the client lost it.
    async fn listen(&mut self, session: &Relayed, lease: Lease) -> Result<Response<OutBody>, Failure> {
        self.record.carries(0);
        if !peek::accepts(&self.request.headers)?.stream {
            return Err(Failure::NotAcceptable);
        }
        self.inbound.gate.admit(&self.caller.principal)?;
        let place = self.inbound.listens.begin(self.caller.principal.id())?;
        let http = http_session(&lease)?;
        let mut fields = http.listen_fields();
        let again = self.request.headers.get(LAST_EVENT_ID);
        if let Some(id) = again {
            fields.insert(LAST_EVENT_ID, id.clone());
        }
        let in_use = session.occupy();
        let sent = http.server.send(HttpMethod::GET, fields, Vec::new()).await;
        let response = sent.map_err(|failure| self.inbound.upstream_failed(failure))?;
        let answer = match is_events(&response) {
            // A list that was filtered when it was asked for must not come whole when it is asked for again.
            true if again.is_some() => Ok(self.seen(http.server.events(response.into_body()), true)),
            true => Ok(listen::passed_on(response.into_body(), self.inbound.drain.clone())),
            false => return self.answer(session, http, response, None, false).await,
        };
        self.record.hold((in_use, lease, place));
        answer.map(reply::event_stream)
    }

    /// The answer as it comes.
    async fn answer(
        &mut self,
        session: &Relayed,
        http: &HttpSession,
        response: Response<PooledBody>,
        id: Option<Bytes>,
        lists: bool,
    ) -> Result<Response<OutBody>, Failure> {
        let server = &http.server;
        match response.status() {
            StatusCode::NOT_FOUND if http.id.is_some() => {
                http.expire();
                self.inbound.sessions.end_relayed(session);
                return Err(Failure::UnknownSession);
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(server.broken("it demands credentials that this sidecar does not have"));
            }
            _ => {}
        }
        let owed = Owed { service: self.inbound.service.clone(), id, told: self.record.told(), resumable: true };
        if is_events(&response) {
            return Ok(reply::event_stream(match lists {
                true => self.seen(server.events(response.into_body()), false),
                false => OutBody::reply(response.into_body(), true, owed),
            }));
        }
        let (head, body) = response.into_parts();
        let kind = head.headers.get(header::CONTENT_TYPE).cloned();
        let json = kind.as_ref().is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        let length = head.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        let body = match json {
            true if lists || length.is_some_and(|length| length <= WHOLE_REPLY) => {
                let bytes = server.read(body).await?;
                self.record.outcome = outcome_of(&bytes);
                OutBody::chunks(if lists { Sight::of(self).only(bytes) } else { vec![bytes] })
            }
            true => OutBody::reply(body, false, owed),
            false => OutBody::from(body),
        };
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        if let Some(kind) = kind {
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
        }
        Ok(response)
    }

    /// A stream without what its reader may not see of lists. One that has no end of its own (`listens`) is ended by us when we
    /// drain; an answer is waited for.
    fn seen(&self, mut events: EventStream, listens: bool) -> OutBody {
        let (sight, drain) = (Sight::of(self), self.inbound.drain.clone());
        let (sender, body) = OutBody::channel(16);
        tokio::spawn(async move {
            let drained = drain.signaled();
            tokio::pin!(drained);
            loop {
                let event = tokio::select! {
                    () = sender.gone() => return,
                    () = &mut drained, if listens => break,
                    event = events.next_event() => match event {
                        Ok(Some(event)) => event,
                        Ok(None) => break,
                        Err(_) => return,
                    },
                };
                let data = concat(&sight.only(event.data.unwrap_or_default()));
                let id = event.id.as_deref().map(String::from_utf8_lossy);
                let mut text = Vec::with_capacity(data.len() + 64);
                sse::encode(&mut text, id.as_deref(), &data);
                if sender.send(text.into()).await.is_err() {
                    return;
                }
            }
            // Nobody is left to tell otherwise.
            let _ = sender.finish().await;
        });
        body
    }
}

/// What somebody may see of the lists in a reply.
struct Sight {
    inbound: Arc<Inbound>,
    who: outrigger_policy::Principal,
}

impl Sight {
    fn of(relay: &Relay<'_>) -> Self {
        Self { inbound: relay.inbound.clone(), who: relay.caller.principal.clone() }
    }

    /// A reply without the rest.
    fn only(&self, bytes: Bytes) -> Vec<Bytes> {
        let Ok(reply) = Message::parse(bytes.clone()) else { return vec![bytes] };
        let result = reply.result_span();
        let listed = |kind: &Kind| result.is_some_and(|at| member(reply.body(), at, kind.list_member()).is_some());
        match Kind::ALL.into_iter().find(listed) {
            Some(kind) => {
                let visible = |name: &str| self.inbound.gate.visible(&self.who, policy_kind(kind), name);
                visible_only(&reply, kind, false, visible).unwrap_or_else(|error| {
                    let service = self.inbound.service.to_string();
                    let failure = Failure::Broken { service, reason: error.to_string() };
                    vec![failure.rpc().reply(reply.id().as_deref())]
                })
            }
            None => vec![bytes],
        }
    }
}

fn http_session(lease: &Lease) -> Result<&HttpSession, Failure> {
    match &*lease.session {
        Session::Http(session) => Ok(session),
        Session::Channel(_) => Err(Failure::Internal("a session that is relayed is not over HTTP".into())),
    }
}

fn is_events(response: &Response<PooledBody>) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}
