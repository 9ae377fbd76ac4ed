//! One request of a legacy client, run through the modern mesh: introduced, asked back as often as needed, answered.

use std::sync::Arc;
use std::time::Duration;

use crate::failure::Failure;
use bytes::Bytes;
use outrigger_mcp::bridge::meta_keys::ANSWER_ERRORS;
use outrigger_mcp::bridge::narrow;
use outrigger_mcp::bridge::to_client::{self, MAX_ROUNDS, Questions, Reply, Round};
use outrigger_mcp::edit::Edits;
use outrigger_mcp::envelope::{Field, Message, Shape};
use outrigger_mcp::json::quote;
use outrigger_mcp::method::Method;

use super::mesh::{Given, Messages};
use super::outlet::{Answer, Turn, read};
use super::seam::Caller;
use super::session::{InFlight, Session};
use super::{ask, service_name, tasks};

/// The first pause before a server that only gave a state is asked again; each further one is twice as long.
const BACK_OFF: Duration = Duration::from_millis(100);

/// A request and everything that running it takes. It runs as a task of its session, because the client may lose its
/// connection without giving up the request.
pub(super) struct Call {
    pub(super) session: Arc<Session>,
    pub(super) caller: Caller,
    pub(super) message: Message,
    pub(super) in_flight: InFlight,
    pub(super) turn: Turn,
}

impl Call {
    /// Runs it to its reply, or until it is cancelled: then the call upstream is dropped and no reply is sent.
    pub(super) async fn run(self) {
        let Self { session, caller, message, in_flight, turn } = self;
        let outcome = tokio::select! {
            biased;
            () = in_flight.cancelled.cancelled() => return,
            outcome = converse(&session, &caller, &message, &turn) => outcome,
        };
        // The client may use the id again as soon as it has the reply.
        drop(in_flight);
        let deliver = async {
            match outcome {
                Ok(reply) => turn.reply(reply).await,
                Err(failure) => turn.fail(failure, message.id()).await,
            }
        };
        tokio::select! {
            // A reply that finds room is not lost to an end of the session at the same moment.
            biased;
            () = deliver => {}
            () = session.closed.cancelled() => {}
        }
    }
}

async fn converse(session: &Arc<Session>, caller: &Caller, message: &Message, turn: &Turn) -> Result<Answer, Failure> {
    if let Some(of) = tasks::concerned(session, message) {
        return Box::pin(tasks::serve(session, caller, message, turn, of)).await.map(Answer::Whole);
    }
    if message.method.lists().is_some() {
        let request = introduce(session, message, None, 0, false)?;
        if let Some(kept) = caller.mesh.list(&session.route, &request, session.revision()) {
            return kept.await.map(Answer::Pieces);
        }
    }
    exchange(session, caller, message, turn, None, false).await.map(|(bytes, _)| Answer::Whole(bytes))
}

/// Asks the mesh, and the client as often as the mesh wants it asked; gives the reply for the client, and as it came.
/// `round` holds answers that the request itself brings. With `tasks`, the mesh may answer with a task.
pub(super) async fn exchange(
    session: &Arc<Session>,
    caller: &Caller,
    message: &Message,
    turn: &Turn,
    mut round: Option<Round>,
    tasks: bool,
) -> Result<(Bytes, Message), Failure> {
    let target = message.target().filter(|_| message.method == Method::ResourcesRead);
    for number in 0..=MAX_ROUNDS {
        let request = introduce(session, message, round.as_ref(), number, tasks)?;
        let mut last = match caller.mesh.call(&session.route, request).await? {
            Given::Message(body) => read(&session.route, body)?,
            Given::Stream(stream) => {
                let ended = || broken(session, caller, message, "its answer ended before the result");
                follow(stream, turn).await?.ok_or_else(ended)?
            }
        };
        if number > 0 {
            last = renamed(session, &last, message.id().unwrap_or_default())?;
        }
        if tasks && last.result_text(Field::ResultType).as_deref() == Some("task") {
            return Ok((last.body().clone(), last));
        }
        match to_client::reply(&last, target.as_deref()) {
            Reply::Final(bytes) => {
                let fitted = narrow::result(&last, message.method, session.revision()).unwrap_or(bytes);
                return Ok((fitted, last));
            }
            Reply::Ask(questions) => {
                let failed = |reason: &str| broken(session, caller, message, reason);
                round = Some(next_round(session, turn, questions, number, &failed).await?);
            }
        }
    }
    Err(broken(session, caller, message, "it asked the client again and again"))
}

/// The same message under another id.
fn renamed(session: &Session, message: &Message, id: Bytes) -> Result<Message, Failure> {
    let mut edits = Edits::new();
    edits.set_id(message, id);
    read(&session.route, edits.apply_flat(message.body()))
}

/// The request as a modern client would have sent it. Each retry has an id of its own (basic/patterns/mrtr).
fn introduce(
    session: &Session,
    message: &Message,
    round: Option<&Round>,
    number: u8,
    tasks: bool,
) -> Result<Message, Failure> {
    let retry = round.map(|round| read(&session.route, round.retry(message))).transpose()?;
    let message = retry.as_ref().unwrap_or(message);
    let mut edits = Edits::new();
    if let Some(id) = message.id().filter(|_| number > 0) {
        edits.set_id(message, quote(&format!("{}/{number}", String::from_utf8_lossy(&id))));
    }
    let client = session.client();
    let mut meta = if tasks { client.modern_meta_with_tasks() } else { client.modern_meta() };
    if let Some(errors) = round.and_then(Round::errors) {
        meta = meta.raw(ANSWER_ERRORS, errors);
    }
    meta.params(message, &mut edits);
    read(&session.route, edits.apply_flat(message.body()))
}

/// Passes notifications on until the reply comes; `None` when the stream ends without one.
async fn follow(mut stream: Box<dyn Messages>, turn: &Turn) -> Result<Option<Message>, Failure> {
    while let Some(message) = stream.next().await? {
        match message.shape {
            Shape::Result | Shape::Error => return Ok(Some(message)),
            Shape::Notification if to_client::passes_notification(&message) => {
                turn.event(&to_client::strip_subscription(&message)).await;
            }
            // A modern server has no way to ask on a stream.
            Shape::Notification | Shape::Request => {}
        }
    }
    Ok(None)
}

async fn next_round(
    session: &Arc<Session>,
    turn: &Turn,
    questions: Questions,
    number: u8,
    failed: &(dyn Fn(&str) -> Failure + Send + Sync),
) -> Result<Round, Failure> {
    if !questions.asks.is_empty() {
        return ask::during_call(session, turn, questions, failed).await;
    }
    if questions.state.is_none() {
        return Err(failed("it asked for input without saying which"));
    }
    tokio::time::sleep(BACK_OFF * 2u32.pow(u32::from(number.min(6)))).await;
    Ok(Round::start(questions, String::new).0)
}

/// What went wrong at the service that the request went to.
pub(super) fn broken(session: &Session, caller: &Caller, message: &Message, reason: &str) -> Failure {
    let service = caller.mesh.service(&session.route, message);
    let service = service.map_or_else(|| service_name(&session.route), |name| name.to_string());
    Failure::Broken { service, reason: reason.to_owned() }
}
