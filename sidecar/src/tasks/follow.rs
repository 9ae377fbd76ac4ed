//! A modern client follows a task of a legacy server: what it asks is asked there, in that server's words.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use outrigger_mcp::{
    bridge::tasks::to_server::{self, Next},
    envelope::{Message, Shape},
    error::{INVALID_PARAMS, request},
    json::quote,
    method::Method,
};
use outrigger_proxy::failure::Failure;
use tokio::time::Instant;

use super::{State, Task, unknown};
use crate::upstream::{
    exchange::{Event, Exchange},
    session::{Session, own_request},
};

/// How long a question of the server is waited for when it says that it has one: the client comes back anyway.
const FIRST: Duration = Duration::from_millis(500);
/// Servers that ask several things at once do so within this time.
const QUIET: Duration = Duration::from_millis(20);

/// A task that runs on behalf of a call whose client knows no tasks.
#[derive(Debug, Clone)]
pub struct Running {
    /// Its id at the server.
    pub id: String,
    /// When it is given up.
    pub until: Instant,
    /// Between two looks at it.
    pub pause: Duration,
}

/// What a client is told of a task.
pub struct Described {
    /// The members of its description, without braces.
    pub members: Vec<u8>,
    /// The server's own words.
    pub status: Message,
}

/// Asks the server how a task is. `capabilities` are the client's: what it can answer.
///
/// # Errors
/// Unknown to the server; its session is over; the server fails.
pub async fn describe(task: &Task, patience: Duration, capabilities: &[u8]) -> Result<Described, Failure> {
    let mut state = task.state.lock().await;
    let state = &mut *state;
    let status = ask(task, Method::TasksGet, patience).await?;
    let mut outcome = None;
    match to_server::next(&status) {
        Next::Fetch => {
            // What waits for the result has it by now, or soon.
            if let Some(results) = state.results.take() {
                outcome = tokio::time::timeout(patience, rest(results)).await.ok().flatten();
            }
            if outcome.is_none() {
                outcome = Some(ask_raw(task, Method::TasksResult, patience).await?);
            }
        }
        Next::Listen => {
            if state.results.is_none() {
                state.results = listen(task).await;
            }
            outcome = collect(state).await;
        }
        Next::Describe => {
            let over = to_server::is_over(&status);
            if over {
                task.ended(state);
            } else if state.results.is_some() {
                outcome = collect(state).await;
            }
        }
    }
    if outcome.is_some() {
        task.ended(state);
    }
    for refusal in state.asked.refuse(capabilities) {
        task.session.send(refusal).await?;
    }
    let members = to_server::detailed(&task.handle, task.ttl_ms(), &status, &state.asked, outcome.as_ref());
    Ok(Described { members, status })
}

/// Takes answers of the client to the server.
///
/// # Errors
/// The session is over, or the server does not take them.
pub async fn update(task: &Task, request: &Message) -> Result<(), Failure> {
    let mut state = task.state.lock().await;
    alive(task)?;
    for answer in state.asked.answer(request) {
        task.session.send(answer).await?;
    }
    Ok(())
}

/// Asks the server to give a task up. That it would not, or cannot, is no error: cancelling is a wish.
///
/// # Errors
/// The session is over; the server fails.
pub async fn cancel(task: &Task, patience: Duration) -> Result<(), Failure> {
    let mut state = task.state.lock().await;
    state.asked.clear();
    state.results = None;
    let reply = ask_raw(task, Method::TasksCancel, patience).await?;
    if let Some(code) = reply.error_code() {
        tracing::debug!(code, "the server does not cancel a task");
    }
    Ok(())
}

fn alive(task: &Task) -> Result<(), Failure> {
    if task.session.alive() {
        return Ok(());
    }
    Err(Failure::Interaction("the task is gone: the server's session that held it is over; call again"))
}

/// A request about the task that must be answered with a result.
async fn ask(task: &Task, method: Method, patience: Duration) -> Result<Message, Failure> {
    let reply = ask_raw(task, method, patience).await?;
    match reply.error_code() {
        None => Ok(reply),
        Some(INVALID_PARAMS) => Err(unknown()),
        Some(code) => Err(Failure::Broken {
            service: String::new(),
            reason: format!("it answers {} with the error {code}", method.as_str()),
        }),
    }
}

async fn ask_raw(task: &Task, method: Method, patience: Duration) -> Result<Message, Failure> {
    alive(task)?;
    own_request(&task.session, method.as_str(), &to_server::params(&task.id), patience).await
}

/// Opens the request on whose stream the server asks.
async fn listen(task: &Task) -> Option<Exchange> {
    let request = request(b"0", Method::TasksResult.as_str(), &to_server::params(&task.id));
    let request = Message::parse(request).ok()?;
    // A server that answers with JSON only begins to answer when the task is over: it cannot ask this way.
    let opened = tokio::time::timeout(FIRST, task.session.call(&request, &[])).await;
    match opened {
        Ok(Ok(exchange)) => {
            exchange.follow(&task.id);
            Some(exchange)
        }
        Ok(Err(failure)) => {
            tracing::debug!(%failure, "the questions of a task cannot be heard");
            None
        }
        Err(_) => None,
    }
}

/// Takes what has come on the stream of results, without waiting for more than a question.
async fn collect(state: &mut State) -> Option<Message> {
    loop {
        let results = state.results.as_mut()?;
        let wait = if state.asked.any() { QUIET } else { FIRST };
        match tokio::time::timeout(wait, results.next()).await {
            Err(_) => return None,
            Ok(Ok(Event::Question(ask))) => {
                if let Some(refusal) = state.asked.ask(ask)
                    && results.send(refusal).await.is_err()
                {
                    state.results = None;
                }
            }
            Ok(Ok(Event::Done(pieces, _))) => {
                state.results = None;
                return Message::parse(outrigger_mcp::edit::concat(&pieces)).ok();
            }
            Ok(Ok(Event::Notification(_) | Event::Task(_) | Event::Alive)) => {}
            Ok(Err(failure)) => {
                tracing::debug!(%failure, "the stream of a task's questions broke off");
                state.results = None;
            }
        }
    }
}

async fn rest(mut results: Exchange) -> Option<Message> {
    loop {
        match results.next().await {
            Ok(Event::Done(pieces, _)) => return Message::parse(outrigger_mcp::edit::concat(&pieces)).ok(),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

/// The request that asks for a task in place of `request`.
///
/// # Errors
/// Never for a request that was read before.
pub fn begin(request: &Message, life: Duration) -> Result<Message, Failure> {
    let mut edits = outrigger_mcp::edit::Edits::new();
    to_server::as_task(request, life.as_millis() as u64, &mut edits);
    reparsed(edits.apply_flat(request.body()))
}

/// Waits for the result of a task on behalf of a client that called and knows no tasks.
///
/// # Errors
/// When the server does not take the request.
pub async fn wait_for(session: &Arc<Session>, request: &Message, running: Running) -> Result<Exchange, Failure> {
    let mut params = to_server::params(&running.id);
    if let Some(meta) = request.meta().object() {
        params.pop();
        params.extend_from_slice(b",\"_meta\":");
        params.extend_from_slice(request.raw(meta));
        params.push(b'}');
    }
    let id = request.id().unwrap_or_default();
    let wait = reparsed(outrigger_mcp::error::request(&id, Method::TasksResult.as_str(), &params))?;
    let mut guard = Unfinished(Some((session.clone(), running.id.clone())));
    let mut exchange = session.call(&wait, &[]).await?;
    guard.0 = None;
    exchange.follow(&running.id);
    exchange.run(running);
    Ok(exchange)
}

fn reparsed(bytes: Bytes) -> Result<Message, Failure> {
    Message::parse(bytes).map_err(|rejected| Failure::Internal(rejected.error.to_string()))
}

/// Cancels a task that nobody waits for any more, when it is dropped.
struct Unfinished(Option<(Arc<Session>, String)>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some((session, id)) = self.0.take() {
            cancel_detached(session, id);
        }
    }
}

/// Gives up a task at the server when nobody is left to hear how that went.
pub(crate) fn cancel_detached(session: Arc<Session>, id: String) {
    const PATIENCE: Duration = Duration::from_secs(10);
    if !session.alive() {
        return;
    }
    tokio::spawn(async move {
        let params = format!("{{\"taskId\":{}}}", quote(&id));
        match own_request(&session, Method::TasksCancel.as_str(), params.as_bytes(), PATIENCE).await {
            Ok(reply) if reply.shape == Shape::Error => tracing::debug!("a task was over before it was cancelled"),
            Ok(_) => {}
            Err(failure) => tracing::debug!(%failure, "a task could not be cancelled"),
        }
    });
}
