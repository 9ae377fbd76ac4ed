//! Questions to the client: the ids that we give them, the answers that come back by POST, and the questions that a
//! server of an older revision asks outside any call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::failure::Failure;
use bytes::Bytes;
use outrigger_mcp::bridge::narrow;
use outrigger_mcp::bridge::to_client::{Questions, Round};
use outrigger_mcp::edit::Edits;
use outrigger_mcp::envelope::{Message, Param};
use outrigger_mcp::error::{self, INVALID_PARAMS, METHOD_NOT_FOUND, RpcError, TIMEOUT};
use outrigger_mcp::json::{decode_string, quote};
use outrigger_mcp::method::Method;
use outrigger_telemetry::metrics::LimitKind;
use tokio::sync::mpsc;

use super::outlet::Turn;
use super::seam::{Caller, Route};
use super::session::Session;

/// What the ids of our questions begin with.
const MARK: &str = "outrigger-";

/// The questions of a session that wait for an answer.
#[derive(Debug)]
pub(super) struct Asks {
    /// What those of the session begin with, whichever replica asks, and those of no other session.
    of_session: String,
    /// What ours begin with, and those of no other replica that serves the session.
    prefix: String,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Where the answer to an id goes.
    open: HashMap<String, mpsc::Sender<Message>>,
    /// Ids are never used twice in a session.
    last: u64,
}

/// Questions that were asked together. Dropping it lets late answers fall.
#[derive(Debug)]
struct Pending {
    session: Arc<Session>,
    ids: Vec<String>,
    answers: mpsc::Receiver<Message>,
}

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answered {
    /// It reached whoever asked.
    Delivered,
    /// Nobody waits for it (any more).
    Late,
    /// Another replica asked. Whoever waits there will not get it.
    Elsewhere,
}

impl Asks {
    /// No questions yet. `session` is the same on every replica, `name` is one that no other replica has.
    pub(super) fn new(session: &str, name: &str) -> Self {
        let of_session = format!("{MARK}{session}-");
        Self { prefix: format!("{of_session}{name}-"), of_session, waiting: Mutex::default() }
    }

    /// Takes a response of the client.
    pub(super) fn answer(&self, response: &Message) -> Answered {
        let id = response.id();
        let Some(id) = id.as_deref().and_then(decode_string) else { return Answered::Late };
        let asker = self.lock().open.remove(id.as_ref());
        match asker {
            // There is room for one answer to each question.
            Some(asker) if asker.try_send(response.clone()).is_ok() => Answered::Delivered,
            None if id.starts_with(&self.of_session) && !id.starts_with(&self.prefix) => Answered::Elsewhere,
            _ => Answered::Late,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    /// Gives ids to some questions.
    fn open(session: &Arc<Session>, count: usize) -> Result<Self, Failure> {
        let mut waiting = session.asks.lock();
        if waiting.open.len() + count > session.bounds.requests {
            return Err(session.limited(LimitKind::SessionQuestions, "limits.session_requests"));
        }
        let (sender, answers) = mpsc::channel(count.max(1));
        let mut ids = Vec::with_capacity(count);
        for _ in 0..count {
            waiting.last += 1;
            let id = format!("{}{}", session.asks.prefix, waiting.last);
            waiting.open.insert(id.clone(), sender.clone());
            ids.push(id);
        }
        drop(waiting);
        Ok(Self { session: Arc::clone(session), ids, answers })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut waiting = self.session.asks.lock();
        for id in &self.ids {
            waiting.open.remove(id);
        }
    }
}

/// Asks the client what a call's server wants to know, on the stream that answers the call. `failed` says what went wrong
/// at that server.
///
/// # Errors
/// The client cannot be asked, or does not answer in time. That it refuses is an answer.
pub(super) async fn during_call(
    session: &Arc<Session>,
    turn: &Turn,
    mut questions: Questions,
    failed: &(dyn Fn(&str) -> Failure + Send + Sync),
) -> Result<Round, Failure> {
    let client = session.client();
    for (_, method, params) in &mut questions.asks {
        client.can_answer(*method, params).map_err(|name| {
            failed(&format!("it needs the client's capability `{name}`, which was not declared in initialize"))
        })?;
        *params = narrow::question(*method, std::mem::take(params), client.revision).map_err(|why| failed(&why))?;
    }
    if !turn.can_stream() {
        return Err(Failure::NotAcceptable);
    }
    let mut pending = Pending::open(session, questions.asks.len())?;
    let mut ids = pending.ids.clone().into_iter();
    let (mut round, requests) = Round::start(questions, || ids.next().unwrap_or_default());
    for request in requests {
        turn.event(&request).await;
    }
    let answered = async {
        while !round.complete() {
            let Some(response) = pending.answers.recv().await else { break };
            round.answer(&response);
        }
    };
    let patience = session.bounds.request;
    tokio::time::timeout(patience, answered)
        .await
        .map_err(|_| failed(&format!("the client did not answer its question within {patience:?}")))?;
    Ok(round)
}

/// Passes on a request that a server of an older revision made outside any call, and later the client's answer.
pub(super) async fn outside_call(session: &Arc<Session>, caller: &Caller, service: Arc<str>, event: &Message) {
    let params = event.params();
    let (Some(id), Some(method)) = (params.get(Param::Id).map(|span| copy(event, span)), event.text(Param::Method))
    else {
        return;
    };
    let asked = params.get(Param::Params).map_or_else(|| Bytes::from_static(b"{}"), |span| copy(event, span));
    let known = Method::parse(method.as_bytes());
    let able = session.client().can_answer(known, &asked);
    let fitted = able.map_err(|name| RpcError::new(METHOD_NOT_FOUND, format!("the client has no capability {name}")));
    let fitted = fitted.and_then(|()| {
        narrow::question(known, asked, session.revision()).map_err(|why| RpcError::new(INVALID_PARAMS, why))
    });
    let (asked, pending) = match fitted {
        Ok(asked) => (asked, Pending::open(session, 1).map_err(|failure| failure.rpc())),
        Err(refused) => (Bytes::new(), Err(refused)),
    };
    if let Ok(Pending { ids, .. }) = &pending
        && let Some(ours) = ids.first()
    {
        session.outside.push(&error::request(quote(ours).as_bytes(), &method, &asked)).await;
    }
    let answer = Answering { session: Arc::clone(session), caller: caller.clone(), service, id };
    session.tasks.spawn(answer.run(pending));
}

/// The way back of the answer to a question outside any call.
struct Answering {
    session: Arc<Session>,
    caller: Caller,
    service: Arc<str>,
    /// As the server numbered its request.
    id: Bytes,
}

impl Answering {
    async fn run(self, pending: Result<Pending, RpcError>) {
        let closed = self.session.closed.clone();
        tokio::select! {
            () = closed.cancelled() => {}
            () = self.answer(pending) => {}
        }
    }

    async fn answer(&self, pending: Result<Pending, RpcError>) {
        let outcome = match pending {
            Ok(mut pending) => {
                let answer = tokio::time::timeout(self.session.bounds.request, pending.answers.recv()).await;
                answer.ok().flatten().and_then(|response| outcome(&response))
            }
            Err(refused) => Some(("error", refused.object().into())),
        };
        let (member, value) = outcome
            .unwrap_or_else(|| ("error", RpcError::new(TIMEOUT, "the client did not answer in time").object().into()));
        let mut params = b"{\"id\":".to_vec();
        params.extend_from_slice(&self.id);
        params.extend_from_slice(format!(",\"{member}\":").as_bytes());
        params.extend_from_slice(&value);
        params.push(b'}');
        let request = error::request(b"\"answer\"", Method::SessionRespond.as_str(), &params);
        let Ok(message) = Message::parse(request) else { return };
        let mut edits = Edits::new();
        self.session.client().modern_meta().params(&message, &mut edits);
        let Ok(message) = Message::parse(edits.apply_flat(message.body())) else { return };
        // The server that asked is gone, or has given up: nobody is left to tell.
        if let Err(failure) = self.caller.mesh.call(&Route::Service(Arc::clone(&self.service)), message).await {
            tracing::debug!(service = %self.service, reason = failure.reason(), "an answer of a client did not arrive");
        }
    }
}

fn outcome(response: &Message) -> Option<(&'static str, Bytes)> {
    let (member, span) = match response.result_span() {
        Some(span) => ("result", span),
        None => ("error", response.error_span()?),
    };
    Some((member, response.slice(span)))
}

/// A copy, so that a small part does not keep a big message.
fn copy(message: &Message, span: outrigger_mcp::json::Span) -> Bytes {
    Bytes::copy_from_slice(message.raw(span))
}
