//! Tasks as 2025-11-25 has them: asked for by the client, looked at with `tasks/get`, their results waited for with
//! `tasks/result`. The mesh has the tasks extension instead (`outrigger_mcp::bridge::tasks`).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use outrigger_mcp::bridge::tasks::to_client::{self, Found, Ledger, Waited, Wanted};
use outrigger_mcp::bridge::to_client::Questions;
use outrigger_mcp::envelope::{Field, Message, Param, Shape};
use outrigger_mcp::error::{self, INVALID_PARAMS, RpcError, error_reply, result_reply};
use outrigger_mcp::json::quote;
use outrigger_mcp::method::Method;
use outrigger_mcp::revision::Revision;
use tokio::time::Instant;

use super::ask;
use super::call::{broken, exchange};
use super::outlet::{Turn, read};
use super::seam::Caller;
use super::session::Session;
use crate::failure::Failure;

/// The tasks of one session. They are known where the session is; those of servers also elsewhere.
#[derive(Debug)]
pub(super) struct SharedLedger {
    entries: Mutex<Ledger>,
    started: Instant,
}

impl Default for SharedLedger {
    fn default() -> Self {
        Self { entries: Mutex::default(), started: Instant::now() }
    }
}

impl SharedLedger {
    fn with<T>(&self, work: impl FnOnce(&mut Ledger, u64) -> T) -> T {
        // Every use leaves the ledger whole.
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut entries, self.started.elapsed().as_millis() as u64)
    }
}

/// What a request has to do with tasks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Concern {
    /// A call that is to become one.
    Call(Wanted),
    /// It is about one, or about all.
    About,
}

/// Whether a request has to do with tasks. Before 2025-11-25 there are none.
pub(super) fn concerned(session: &Session, message: &Message) -> Option<Concern> {
    if session.revision() < Revision::V2025_11_25 {
        return None;
    }
    match message.method {
        Method::ToolsCall => to_client::wanted(message).map(Concern::Call),
        Method::TasksGet | Method::TasksResult | Method::TasksCancel | Method::TasksList => Some(Concern::About),
        _ => None,
    }
}

/// Serves such a request; gives the whole reply.
pub(super) async fn serve(
    session: &Arc<Session>,
    caller: &Caller,
    message: &Message,
    turn: &Turn,
    of: Concern,
) -> Result<Bytes, Failure> {
    let work = Work { session, caller, turn, id: message.id().unwrap_or_default() };
    if let Concern::Call(wanted) = of {
        return work.call(message, wanted).await;
    }
    if message.method == Method::TasksList {
        return Ok(result_reply(&work.id, &session.ledger.with(|ledger, now| ledger.list(now))));
    }
    let task = message
        .text(Param::TaskId)
        .ok_or_else(|| Failure::InvalidParams("`params.taskId` is required and must be a string".into()))?
        .into_owned();
    let found = session.ledger.with(|ledger, now| ledger.find(now, &task));
    match (message.method, found) {
        (Method::TasksGet, Found::Mirror(described, _)) => Ok(result_reply(&work.id, &described)),
        (Method::TasksResult, Found::Mirror(_, answer)) => Ok(result_reply(&work.id, &answer)),
        (_, Found::Mirror(..)) => Ok(work.over()),
        (Method::TasksGet, Found::Elsewhere) => work.get(&task).await,
        (Method::TasksResult, Found::Elsewhere) => work.result(&task).await,
        (_, Found::Elsewhere) => work.cancel(&task).await,
    }
}

/// One request about tasks.
struct Work<'a> {
    session: &'a Arc<Session>,
    caller: &'a Caller,
    turn: &'a Turn,
    id: Bytes,
}

impl Work<'_> {
    /// A call that is to become a task. Where the server answers at once, the answer becomes one here.
    async fn call(&self, message: &Message, wanted: Wanted) -> Result<Bytes, Failure> {
        let plain = read(&self.session.route, to_client::plain(message))?;
        let (told, last) = exchange(self.session, self.caller, &plain, self.turn, None, true).await?;
        if last.result_text(Field::ResultType).as_deref() == Some("task") {
            let made = self.session.ledger.with(|ledger, now| ledger.created(now, &last));
            return Ok(made.map_or(told, |made| result_reply(&self.id, &made)));
        }
        let answer = read(&self.session.route, told.clone())?;
        if answer.shape == Shape::Error {
            return Ok(told);
        }
        let name = mirror_name()?;
        let stamp = to_client::stamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
        let made = self.session.ledger.with(|ledger, now| ledger.mirror(now, &stamp, &name, wanted, &answer));
        Ok(made.map_or(told, |made| result_reply(&self.id, &made)))
    }

    /// Asks the mesh about a task.
    async fn ask(&self, method: Method, task: &str) -> Result<Message, Failure> {
        let params = format!("{{\"taskId\":{}}}", quote(task));
        let request = read(&self.session.route, error::request(&self.id, method.as_str(), params.as_bytes()))?;
        exchange(self.session, self.caller, &request, self.turn, None, true).await.map(|(_, last)| last)
    }

    async fn get(&self, task: &str) -> Result<Bytes, Failure> {
        let reply = self.ask(Method::TasksGet, task).await?;
        let described = self.session.ledger.with(|ledger, now| ledger.described(now, &reply));
        Ok(match described {
            Some(described) => result_reply(&self.id, &described),
            None => reply.body().clone(),
        })
    }

    /// Waits for the result; asks the client what the server asks meanwhile, and tells it how the task goes on.
    async fn result(&self, task: &str) -> Result<Bytes, Failure> {
        let mut seen: Vec<String> = Vec::new();
        let mut told = Vec::new();
        loop {
            let reply = self.ask(Method::TasksGet, task).await?;
            if let Some(now) = self.session.ledger.with(|ledger, now| ledger.described(now, &reply))
                && now != told
            {
                self.turn.event(&to_client::told(&now)).await;
                told = now;
            }
            match to_client::waited(task, &reply, |key| seen.iter().any(|known| known == key)) {
                Waited::Wait(pause) => tokio::time::sleep(Duration::from_millis(pause)).await,
                Waited::Result(result) => return Ok(self.fitted(&result)),
                Waited::Error(object) => return Ok(error_reply(&self.id, &object)),
                Waited::Ask(asks) => {
                    seen.extend(asks.iter().map(|(key, ..)| key.clone()));
                    self.answer(task, Questions { asks, state: None }).await?;
                }
            }
        }
    }

    /// Asks the client, and takes its answers to the task.
    async fn answer(&self, task: &str, questions: Questions) -> Result<(), Failure> {
        let params = format!("{{\"taskId\":{}}}", quote(task));
        let update = error::request(&self.id, Method::TasksUpdate.as_str(), params.as_bytes());
        let update = read(&self.session.route, update)?;
        let failed = |reason: &str| broken(self.session, self.caller, &update, reason);
        let round = ask::during_call(self.session, self.turn, questions, &failed).await?;
        exchange(self.session, self.caller, &update, self.turn, Some(round), true).await.map(drop)
    }

    async fn cancel(&self, task: &str) -> Result<Bytes, Failure> {
        let before = self.ask(Method::TasksGet, task).await?;
        match to_client::status(&before) {
            None => return Ok(before.body().clone()),
            Some(status) if status.is_terminal() => return Ok(self.over()),
            Some(_) => {}
        }
        let seen = self.ask(Method::TasksCancel, task).await?;
        if seen.shape == Shape::Error {
            return Ok(seen.body().clone());
        }
        let described = self.session.ledger.with(|ledger, now| {
            // Known from now on, so that it stays cancelled.
            ledger.described(now, &before);
            ledger.cancel(task);
            ledger.described(now, &before)
        });
        Ok(described.map_or_else(|| seen.body().clone(), |described| result_reply(&self.id, &described)))
    }

    /// A result without what the client's revision has no form for.
    fn fitted(&self, result: &[u8]) -> Bytes {
        let reply = result_reply(&self.id, result);
        let Ok(message) = Message::parse(reply.clone()) else { return reply };
        outrigger_mcp::bridge::narrow::result(&message, Method::ToolsCall, self.session.revision()).unwrap_or(reply)
    }

    /// The refusal to cancel what has ended.
    fn over(&self) -> Bytes {
        RpcError::new(INVALID_PARAMS, "Cannot cancel task: it is over").reply(Some(&self.id))
    }
}

/// A name that nobody can guess, and no task of a service has.
fn mirror_name() -> Result<String, Failure> {
    let mut bytes = [0u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Failure::Internal("no randomness".into()))?;
    Ok(format!("m{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()))
}
