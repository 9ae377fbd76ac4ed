//! Clients of older revisions that reach the sidecar itself: each of their messages becomes the modern one that an ingress
//! would have sent, and takes the same way from there.
//!
//! ```text
//!  POST, GET, DELETE -> outrigger_proxy::legacy (sessions) -> Door::call -> Inbound::dispatch -> ...
//!                                                        \--> Door::changes -> a listen of our own
//! ```
//!
//! Where the server speaks the client's own revision over HTTP, `relay` passes everything on as it is instead.

mod ears;
mod relay;

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderMap, HeaderName, Request, Response, header};
use http_body_util::BodyExt;
use outrigger_mcp::{
    bridge::meta_keys::SESSION,
    catalog_kind::Kind,
    edit::{Edits, MetaEdit},
    envelope::Message,
    json::quote,
    sse::Parser,
};
use outrigger_policy::Principal;
use outrigger_proxy::{
    body::OutBody,
    failure::Failure,
    legacy::{
        self, http_sse,
        mesh::{Given, Later, Mesh, Messages, Told},
        seam::{self, Caller, Declared, Route, Wanted},
    },
    peek::{Accepts, Refused},
};

use crate::{
    inbound::{Context, Inbound},
    own_answers::policy_kind,
    record::Record,
    upstream::Asker,
};
use ears::Ears;

/// Serves one HTTP request of a legacy client, at a door of HTTP+SSE if it is one.
///
/// # Errors
/// What is refused before it is a call.
pub(crate) async fn serve(
    inbound: &Arc<Inbound>,
    who: &Principal,
    client: SocketAddr,
    request: seam::Inbound,
    at: Option<(http_sse::At, &http::Uri)>,
    record: &mut Record,
) -> Result<Response<OutBody>, Refused> {
    let door = Door {
        inbound: inbound.clone(),
        who: who.clone(),
        client,
        trace: trace_fields(&request.headers),
        tag: None,
        declared: Declared::default(),
    };
    let caller = Caller { principal: who.clone(), mesh: Arc::new(door) };
    let (sessions, route) = (&inbound.sessions, Route::Service(inbound.service.clone()));
    let served = match at {
        Some((door, uri)) => http_sse::serve(sessions, caller, route, door, uri, request).await,
        None => match Box::pin(relay::serve(inbound, &caller, &request, record)).await {
            Ok(None) => {
                record.carries(request.body.len());
                legacy::serve(sessions, caller, route, request).await
            }
            Ok(Some(relayed)) => Ok(relayed),
            Err(refused) => Err(refused),
        },
    };
    if matches!(served, Err(Refused { failure: Failure::ForeignSession, .. })) {
        inbound.recorders.foreign_session(who, client);
    }
    served
}

/// The sidecar as one legacy client sees it.
#[derive(Clone)]
struct Door {
    inbound: Arc<Inbound>,
    who: Principal,
    client: SocketAddr,
    /// The trace headers of the HTTP request that brought the message.
    trace: HeaderMap,
    /// The session that it belongs to.
    tag: Option<Arc<str>>,
    /// What the client said of itself, for requests of our own.
    declared: Declared,
}

impl Door {
    /// What a modern client would have got for the message.
    async fn ask(&self, message: Message) -> Result<Response<OutBody>, Failure> {
        let message = self.tagged(message)?;
        let mut record = Record::of_call(&self.inbound.recorders, self.client, &self.who);
        let head = self.head(&message);
        let accepts = Accepts { json: true, stream: true };
        let context = Context { head: &head, record: &mut record, who: &self.who, asks: &self.who, accepts };
        match Box::pin(self.inbound.dispatch(&message, context)).await {
            Ok(response) => {
                record.status(response.status());
                Ok(response.map(|body| body.on_end(record)))
            }
            Err(failure) => {
                record.outcome = failure.outcome();
                Err(failure)
            }
        }
    }

    /// The message with the session that pins what the server keeps for it.
    fn tagged(&self, message: Message) -> Result<Message, Failure> {
        let Some(tag) = &self.tag else { return Ok(message) };
        let mut edits = Edits::new();
        MetaEdit::default().raw(SESSION, quote(tag)).params(&message, &mut edits);
        Message::parse(edits.apply_flat(message.body())).map_err(|rejected| Failure::Envelope(rejected.error))
    }

    /// A head with what is looked for in it later: trace, and the arguments that a modern server wants in headers.
    fn head(&self, message: &Message) -> http::request::Parts {
        let (mut head, ()) = Request::new(()).into_parts();
        head.headers = self.trace.clone();
        self.inbound.param_headers(message, &self.who, &mut head.headers);
        head
    }
}

impl Mesh for Door {
    fn in_session(&self, tag: Arc<str>, declared: Declared) -> Arc<dyn Mesh> {
        Arc::new(Self { tag: Some(tag), declared, ..self.clone() })
    }

    fn call<'a>(&'a self, _: &'a Route, message: Message) -> Later<'a, Result<Given, Failure>> {
        Box::pin(async move {
            let (head, body) = self.ask(message).await?.into_parts();
            let events = head.headers.get(header::CONTENT_TYPE);
            if events.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
                return Ok(Given::Stream(Box::new(self.events(body))));
            }
            let body = body.collect().await.map_err(|error| self.broken(&error.to_string()))?;
            Ok(Given::Message(body.to_bytes()))
        })
    }

    fn service(&self, _: &Route, _: &Message) -> Option<Arc<str>> {
        Some(self.inbound.service.clone())
    }

    fn knows(&self, _: &Route, uri: &str) -> bool {
        let offer = self.inbound.keeper.offer();
        // A server that has not answered yet may have it; one that has no resources at all has not.
        let offers = offer.greeted.is_none() || offer.catalog.offers(Kind::Resource);
        offers && self.inbound.gate.visible(&self.who, policy_kind(Kind::Resource), uri)
    }

    fn changes(&self, _: &Route, wanted: Wanted) -> Box<dyn Told> {
        Box::new(Ears::new(self.clone(), wanted))
    }

    fn ended(&self, _: &Route) {
        let (upstream, peer, tag) = (self.inbound.upstream.clone(), self.who.id().to_owned(), self.tag.clone());
        tokio::spawn(async move { upstream.end(Asker { peer: &peer, session: tag.as_deref() }).await });
    }
}

impl Door {
    fn events(&self, body: OutBody) -> Events {
        Events { body, parser: Parser::new(self.inbound.event_bytes), service: self.inbound.service.clone() }
    }

    fn broken(&self, reason: &str) -> Failure {
        Failure::Broken { service: self.inbound.service.to_string(), reason: reason.to_owned() }
    }
}

/// The messages of an answer that streams.
struct Events {
    body: OutBody,
    parser: Parser,
    service: Arc<str>,
}

impl Events {
    async fn read(&mut self) -> Result<Option<Message>, Failure> {
        let broken = |reason: String| Failure::Broken { service: self.service.to_string(), reason };
        loop {
            while let Some(event) = self.parser.next_event().map_err(|error| broken(error.to_string()))? {
                let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
                return Message::parse(data).map(Some).map_err(|_| broken("an event of it is no message".into()));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.parser.push(&data);
                    }
                }
                Some(Err(error)) => return Err(broken(error.to_string())),
            }
        }
    }
}

impl Messages for Events {
    fn next(&mut self) -> Later<'_, Result<Option<Message>, Failure>> {
        Box::pin(self.read())
    }
}

/// The headers of a trace, and those of clients that migrate.
fn trace_fields(headers: &HeaderMap) -> HeaderMap {
    let names = ["traceparent", "tracestate", "x-mcpx-trace-id", "x-mcpx-span-id"];
    let found = names.into_iter().filter_map(|name| Some((HeaderName::from_static(name), headers.get(name)?.clone())));
    found.collect()
}
