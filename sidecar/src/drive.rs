//! From a call in flight to an HTTP response: JSON when the reply comes first, an event stream as soon as anything
//! else does, `input_required` when the server asks the client something.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Response, StatusCode};
use outrigger_mcp::{
    bridge::to_server::{Ask, Ended, answers},
    edit::concat,
    envelope::{Message, Meta, Param},
    error::{HEADER_MISMATCH, METHOD_NOT_FOUND, MISSING_CAPABILITY, UNSUPPORTED_VERSION},
    json::member,
    sse,
};
use outrigger_proxy::{
    body::{BodySender, OutBody},
    failure::Failure,
    peek::Accepts,
    reply,
};
use outrigger_telemetry::metrics::Outcome;

use crate::{
    authorize::Permitted,
    upstream::{
        Lease,
        exchange::{Event, Exchange},
        owner::Owner,
        parking::{Parked, Parking},
    },
};

/// Servers that ask several things at once do so within this time; then the client is asked for all together.
const QUIET: Duration = Duration::from_millis(20);
/// Events that may wait for a slow client before the server's stream is held back.
const STREAM_QUEUE: usize = 32;

/// A call on its way to becoming a response.
pub struct Drive {
    /// The call at the server.
    pub exchange: Exchange,
    /// Its session.
    pub lease: Lease,
    /// The request as it came.
    pub request: Message,
    /// Whose it is.
    pub owner: Owner,
    /// Where calls wait.
    pub parking: Arc<Parking>,
    /// What the client takes.
    pub accepts: Accepts,
    /// The longest silence of the server.
    pub idle: Duration,
}

/// How a call ended.
struct End {
    status: StatusCode,
    pieces: Vec<Bytes>,
    outcome: Outcome,
}

/// What a retry leads to.
pub enum Resumed {
    /// It is no retry: make the call.
    No,
    /// The call goes on.
    Call(Box<(Exchange, Lease)>),
    /// Answers are missing: the client is asked again.
    Again(Bytes),
}

/// Takes up the call that a retry belongs to.
///
/// # Errors
/// When the state is not valid, or the server does not take the answers.
pub async fn resume(
    permitted: &Permitted<'_>,
    modern: bool,
    owner: &Owner,
    parking: &Parking,
) -> Result<Resumed, Failure> {
    let request = permitted.message();
    // A modern server's state is its own business: only legacy servers' calls are parked here.
    if modern || !request.method.may_ask() || request.params().get(Param::RequestState).is_none() {
        return Ok(Resumed::No);
    }
    let mut parked = parking.resume(request, owner)?;
    parked.exchange.reattach(request);
    for (slot, answer) in parked.answers.iter_mut().zip(answers(request, &parked.asks)) {
        if answer.is_some() {
            *slot = answer;
        }
    }
    if parked.answers.iter().any(Option::is_none) {
        return park(parked, request, owner, parking).map(Resumed::Again);
    }
    for (ask, answer) in parked.asks.iter().zip(&parked.answers) {
        if let Some(answer) = answer {
            parked.exchange.send(ask.answer(answer)).await?;
        }
    }
    Ok(Resumed::Call(Box::new((parked.exchange, parked.lease))))
}

/// Parks a call and makes the reply that asks its client.
fn park(parked: Parked, request: &Message, owner: &Owner, parking: &Parking) -> Result<Bytes, Failure> {
    let call = parked.exchange.call().clone();
    let info = parked.lease.session.greeted().info.clone();
    let (asks, answers) = (parked.asks.clone(), parked.answers.clone());
    let state = parking.park(parked, request, owner)?;
    Ok(call.input_required(&asks, &answers, Some(&state), &info))
}

impl Drive {
    /// The response. The outcome is known when it is JSON; a stream's is told by how its body ends.
    pub async fn respond(mut self) -> (Response<OutBody>, Outcome) {
        let id = self.request.id();
        let ended = loop {
            match self.next().await {
                Ok(Event::Done(pieces, ended)) => break Ok(done(pieces, ended)),
                Ok(Event::Question(ask)) => break self.ask(ask, None).await,
                Ok(Event::Notification(first)) if self.accepts.stream => {
                    let (sender, body) = OutBody::channel(STREAM_QUEUE);
                    tokio::spawn(self.stream(sender, first));
                    return (reply::event_stream(body), Outcome::Ok);
                }
                // The client takes JSON only: it gets the reply, without what happens meanwhile.
                Ok(Event::Notification(_)) => {}
                Err(failure) => break Err(failure),
            }
        };
        match ended {
            Ok(end) => (reply::json_pieces(end.status, end.pieces), end.outcome),
            Err(failure) => (reply::failure(&failure, id.as_deref(), reply::Dialect::Modern), failure.outcome()),
        }
    }

    async fn next(&mut self) -> Result<Event, Failure> {
        match tokio::time::timeout(self.idle, self.exchange.next()).await {
            Ok(event) => event,
            Err(_) => Err(Failure::Timeout { service: self.exchange.service().to_owned(), after: self.idle }),
        }
    }

    /// Sends everything that comes until the end.
    async fn stream(mut self, sender: BodySender, first: Bytes) {
        let id = self.request.id();
        let mut next = first;
        loop {
            if sender.send(sse::event(&next)).await.is_err() {
                return;
            }
            let event = tokio::select! {
                event = self.next() => event,
                () = sender.gone() => return,
            };
            let last = match event {
                Ok(Event::Notification(bytes)) => {
                    next = bytes;
                    continue;
                }
                Ok(Event::Done(pieces, _)) => Ok(concat(&pieces)),
                Ok(Event::Question(ask)) => self.ask(ask, Some(&sender)).await.map(|end| concat(&end.pieces)),
                Err(failure) => Err(failure),
            };
            let last = last.unwrap_or_else(|failure| failure.rpc().reply(id.as_deref()));
            if sender.send(sse::event(&last)).await.is_ok() {
                let _ = sender.finish().await;
            }
            return;
        }
    }

    /// Collects what the server asks, parks the call and makes the reply that asks the client.
    async fn ask(mut self, first: Ask, stream: Option<&BodySender>) -> Result<End, Failure> {
        let mut asks = vec![first];
        while let Ok(event) = tokio::time::timeout(QUIET, self.exchange.next()).await {
            match event? {
                Event::Question(ask) => asks.push(ask),
                Event::Done(pieces, ended) => return Ok(done(pieces, ended)),
                Event::Notification(bytes) => {
                    if let Some(sender) = stream {
                        let _ = sender.send(sse::event(&bytes)).await;
                    }
                }
            }
        }
        if let Some(missing) = asks.iter().map(Ask::capability).find(|name| !declares(&self.request, name)) {
            for ask in &asks {
                self.exchange.send(ask.abandon()).await?;
            }
            return Err(Failure::MissingCapability(missing));
        }
        let answers = vec![None; asks.len()];
        let parked = Parked { exchange: self.exchange, lease: self.lease, asks, answers };
        let reply = park(parked, &self.request, &self.owner, &self.parking)?;
        Ok(End { status: StatusCode::OK, pieces: vec![reply], outcome: Outcome::Ok })
    }
}

fn done(pieces: Vec<Bytes>, ended: Ended) -> End {
    let (status, outcome) = match ended {
        Ended::Ok => (StatusCode::OK, Outcome::Ok),
        Ended::ToolError => (StatusCode::OK, Outcome::ToolError),
        // The stateless revision tells a missing method by the status too.
        Ended::RpcError(METHOD_NOT_FOUND) => (StatusCode::NOT_FOUND, Outcome::RpcError),
        // So do the three errors that only it has, should an older server send them.
        Ended::RpcError(HEADER_MISMATCH | MISSING_CAPABILITY | UNSUPPORTED_VERSION) => {
            (StatusCode::BAD_REQUEST, Outcome::RpcError)
        }
        Ended::RpcError(_) => (StatusCode::OK, Outcome::RpcError),
    };
    End { status, pieces, outcome }
}

/// Whether a request's client declared a capability.
fn declares(request: &Message, name: &str) -> bool {
    let Some(span) = request.meta().get(Meta::ClientCapabilities) else { return false };
    member(request.body(), span, name).is_some()
}
