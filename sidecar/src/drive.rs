//! From a call in flight to an HTTP response: JSON when the reply comes first, an event stream as soon as anything
//! else does, `input_required` when the server asks the client something. Where the server makes a task of the call, a
//! client that knows tasks is told so; for any other its result is waited for.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Response, StatusCode};
use outrigger_mcp::{
    bridge::{
        tasks::{EXTENSION, declared, progress, to_server},
        to_server::{Ask, Ended, answers, repeated_answer},
    },
    edit::concat,
    envelope::{EnvelopeError, Field, Message, Meta, Param},
    error::{HEADER_MISMATCH, METHOD_NOT_FOUND, MISSING_CAPABILITY, UNSUPPORTED_VERSION},
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
    tasks::{Names, Running, Tasks, wait_for},
    upstream::{
        Lease,
        exchange::{Event, Exchange},
        owner::Owner,
        parking::{Parked, Parking},
        session::own_request,
    },
};

/// Servers that ask several things at once do so within this time; then the client is asked for all together.
const QUIET: Duration = Duration::from_millis(20);
/// Events that may wait for a slow client before the server's stream is held back.
const STREAM_QUEUE: usize = 32;
/// Between two looks at a task that is waited for: less is no sign of life worth sending, more looks like silence.
const LOOK: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// Between two looks, where the server does not say.
const DEFAULT_LOOK: Duration = Duration::from_secs(1);
/// A sign of life on a stream.
const COMMENT: &[u8] = b":\n\n";

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
    /// Where tasks are kept.
    pub tasks: Arc<Tasks>,
    /// What a modern server's tasks are called, where its answers may name some.
    pub names: Option<Names>,
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
    each_once(request)?;
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

/// Refuses answers to one question twice: which of them counts is not for us to guess.
///
/// # Errors
/// [`Failure::Envelope`] with the key.
pub fn each_once(retry: &Message) -> Result<(), Failure> {
    match repeated_answer(retry) {
        Some(key) => Err(EnvelopeError::Duplicate(key).into()),
        None => Ok(()),
    }
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
                Ok(Event::Question(ask)) => break Box::pin(self.ask(ask, None)).await,
                Ok(Event::Task(reply)) if declared(&self.request) => break self.keep(&reply),
                Ok(Event::Task(reply)) => {
                    if let Err(failure) = Box::pin(self.wait(&reply)).await {
                        break Err(failure);
                    }
                }
                Ok(event @ (Event::Notification(_) | Event::Alive)) if self.accepts.stream => {
                    let (sender, body) = OutBody::channel(STREAM_QUEUE);
                    let first = match event {
                        Event::Notification(bytes) => sse::event(&bytes),
                        _ => Bytes::from_static(COMMENT),
                    };
                    tokio::spawn(self.stream(sender, first));
                    return (reply::event_stream(body), Outcome::Ok);
                }
                // The client takes JSON only: it gets the reply, without what happens meanwhile.
                Ok(Event::Notification(_) | Event::Alive) => {}
                Err(failure) => break Err(failure),
            }
        };
        match ended {
            Ok(end) => (reply::json_pieces(end.status, end.pieces), end.outcome),
            Err(failure) => (reply::failure(&failure, id.as_deref(), reply::Dialect::Modern), failure.outcome()),
        }
    }

    async fn next(&mut self) -> Result<Event, Failure> {
        let event = match self.exchange.running().cloned() {
            Some(running) => Box::pin(self.next_of_task(&running)).await?,
            None => match tokio::time::timeout(self.idle, self.exchange.next()).await {
                Ok(event) => event?,
                Err(_) => {
                    return Err(Failure::Timeout { service: self.exchange.service().to_owned(), after: self.idle });
                }
            },
        };
        Ok(match (event, &self.names) {
            (Event::Notification(bytes), Some(names)) => {
                Event::Notification(names.incoming_bytes(bytes, self.request.method))
            }
            (Event::Done(pieces, ended), Some(names)) => {
                Event::Done(vec![names.incoming_bytes(concat(&pieces), self.request.method)], ended)
            }
            (event, _) => event,
        })
    }

    /// What comes of a task that is waited for. The server is silent until it is over, so it is asked now and then.
    async fn next_of_task(&mut self, running: &Running) -> Result<Event, Failure> {
        if let Ok(event) = tokio::time::timeout(running.pause, self.exchange.next()).await {
            return event;
        }
        if tokio::time::Instant::now() >= running.until {
            // A client that knew tasks would not have had to wait.
            return Err(Failure::MissingExtension(EXTENSION));
        }
        let params = to_server::params(&running.id);
        own_request(&self.lease.session, "tasks/get", &params, self.idle).await?;
        Ok(Event::Alive)
    }

    /// Waits for the result of the task that the server made of the call.
    async fn wait(&mut self, reply: &Message) -> Result<(), Failure> {
        let Some(id) = to_server::announced(reply) else { return Ok(()) };
        let pause = reply.results().get(Field::Task).and_then(|task| progress(reply.body(), task).1);
        let pause = pause.map_or(DEFAULT_LOOK, Duration::from_millis).clamp(LOOK.0, LOOK.1);
        let running = Running { id, until: tokio::time::Instant::now() + self.tasks.life(), pause };
        self.exchange = wait_for(&self.lease.session, &self.request, running).await?;
        Ok(())
    }

    /// Tells the client of its task, which lives on here.
    fn keep(self, reply: &Message) -> Result<End, Failure> {
        let ttl = to_server::ttl_ms(reply).map(Duration::from_millis);
        let broken = || Failure::Broken {
            service: self.exchange.service().to_owned(),
            reason: "it made a task without a usable id".into(),
        };
        let id = to_server::announced(reply).ok_or_else(broken)?;
        let service = self.exchange.service().to_owned();
        let unusable = || Failure::Broken { service, reason: "it made a task with an id that is too long".into() };
        let task = self.tasks.keep(&self.owner.principal, id, ttl, self.lease).ok_or_else(unusable)?;
        let client_id = self.request.id().unwrap_or_default();
        let told = to_server::created(reply, &client_id, &task.handle, task.ttl_ms(), task.server_info());
        Ok(End { status: StatusCode::OK, pieces: vec![told], outcome: Outcome::Ok })
    }

    /// Sends everything that comes until the end. `first` is an event as it is.
    async fn stream(mut self, sender: BodySender, first: Bytes) {
        let id = self.request.id();
        let mut next = first;
        loop {
            if sender.send(next).await.is_err() {
                return;
            }
            let event = tokio::select! {
                event = self.next() => event,
                () = sender.gone() => return,
            };
            let last = match event {
                Ok(Event::Notification(bytes)) => {
                    next = sse::event(&bytes);
                    continue;
                }
                Ok(Event::Alive) => {
                    next = Bytes::from_static(COMMENT);
                    continue;
                }
                Ok(Event::Task(reply)) if declared(&self.request) => self.keep(&reply).map(|end| concat(&end.pieces)),
                Ok(Event::Task(reply)) => match Box::pin(self.wait(&reply)).await {
                    Ok(()) => {
                        next = Bytes::from_static(COMMENT);
                        continue;
                    }
                    Err(failure) => Err(failure),
                },
                Ok(Event::Done(pieces, _)) => Ok(concat(&pieces)),
                Ok(Event::Question(ask)) => Box::pin(self.ask(ask, Some(&sender))).await.map(|end| concat(&end.pieces)),
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
            match event {
                Ok(Event::Question(ask)) => asks.push(ask),
                Ok(Event::Alive) => {}
                Ok(Event::Notification(bytes)) => {
                    if let Some(sender) = stream {
                        let _ = sender.send(sse::event(&bytes)).await;
                    }
                }
                Ok(Event::Task(reply)) if !declared(&self.request) => Box::pin(self.wait(&reply)).await?,
                Ok(Event::Task(reply)) => {
                    self.refuse(&asks).await;
                    return self.keep(&reply);
                }
                Ok(Event::Done(pieces, ended)) => {
                    self.refuse(&asks).await;
                    return Ok(done(pieces, ended));
                }
                Err(failure) => {
                    self.refuse(&asks).await;
                    return Err(failure);
                }
            }
        }
        let declared = declared_capabilities(&self.request);
        if let Some(missing) = asks.iter().find_map(|ask| ask.can_be_answered(declared).err()) {
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

    /// The call ended without waiting for its answers: they were asked on behalf of something else.
    fn refuse(&self, asks: &[Ask]) -> impl Future<Output = ()> + Send + use<> {
        let refusals: Vec<_> = asks.iter().map(|ask| self.exchange.send(ask.stray())).collect();
        async move {
            for refusal in refusals {
                if let Err(error) = refusal.await {
                    tracing::debug!(%error, "could not refuse a question");
                }
            }
        }
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

/// What a request's client declared, as JSON.
pub(crate) fn declared_capabilities(request: &Message) -> &[u8] {
    request.meta().get(Meta::ClientCapabilities).map_or(b"{}", |span| request.raw(span))
}
