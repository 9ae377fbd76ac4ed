//! Many calls on one channel of a server (stdio): which message belongs to which call.
//!
//! Ids and progress tokens are ours, so replies and progress find their call. A request of the server carries no
//! call: it goes to the only call in flight, or to none. It is never guessed between two. A call that waits for its
//! client to answer is not in flight in this sense: the server waits for it and asks nothing new on its behalf. Nor is a
//! listen: it is told of changes, and of nothing that a call would be.
//!
//! Where several callers share the channel, even the only call in flight is a guess: the question may come from a call of
//! somebody else that was cancelled and works on. There, only what names its call reaches one.
//!
//! A request that names a task goes to the call that waits for that task's result, or to none.

use std::collections::{HashMap, HashSet};

use crate::{
    envelope::{Message, Meta, Param, Shape},
    method::Method,
};

/// Where a message of the server goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// To this call; it is its final reply.
    Finish(u64),
    /// To this call: a notification or a question.
    Call(u64),
    /// It belongs to the session, not to a call.
    Session,
    /// A request that we answer ourselves (`ping`).
    Ping,
    /// A reply nobody waits for: late, or twice.
    Nobody,
}

/// The calls in flight on one channel.
#[derive(Debug, Default)]
pub struct Demux<T> {
    calls: HashMap<u64, T>,
    waiting: HashSet<u64>,
    listens: HashSet<u64>,
    /// The calls that wait for the results of tasks, by the server's ids of these.
    tasks: HashMap<String, u64>,
    next: u64,
    /// The calls are of several callers.
    ties_only: bool,
}

impl<T> Demux<T> {
    /// No calls yet.
    pub fn new() -> Self {
        Self {
            calls: HashMap::new(),
            waiting: HashSet::new(),
            listens: HashSet::new(),
            tasks: HashMap::new(),
            next: 0,
            ties_only: false,
        }
    }

    /// From now on the calls may be of several callers.
    pub fn share(&mut self) {
        self.ties_only = true;
    }

    /// Reserves an id for a call; ids are never used twice in a session.
    pub fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Remembers a call.
    pub fn insert(&mut self, id: u64, call: T) {
        self.calls.insert(id, call);
    }

    /// Says that a call is a `subscriptions/listen`, which lasts.
    pub fn listens(&mut self, id: u64) {
        self.listens.insert(id);
    }

    /// Forgets a call.
    pub fn remove(&mut self, id: u64) -> Option<T> {
        self.waiting.remove(&id);
        self.listens.remove(&id);
        self.tasks.retain(|_, call| *call != id);
        self.calls.remove(&id)
    }

    /// Says that a call waits for the result of a task: what the server asks on behalf of the task belongs to it.
    pub fn tie(&mut self, id: u64, task: String) {
        if self.calls.contains_key(&id) {
            self.tasks.insert(task, id);
        }
    }

    /// Says that a call waits for its client, or goes on.
    pub fn wait(&mut self, id: u64, waits: bool) {
        if waits && self.calls.contains_key(&id) {
            self.waiting.insert(id);
        } else {
            self.waiting.remove(&id);
        }
    }

    /// A call in flight.
    pub fn get(&self, id: u64) -> Option<&T> {
        self.calls.get(&id)
    }

    /// How many calls are in flight.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether no call is in flight.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Takes every call, when the channel is gone.
    pub fn drain(&mut self) -> impl Iterator<Item = (u64, T)> + '_ {
        self.waiting.clear();
        self.listens.clear();
        self.tasks.clear();
        self.calls.drain()
    }

    /// Where a message belongs.
    pub fn route(&self, message: &Message) -> Route {
        match message.shape {
            Shape::Result | Shape::Error => match message.id().and_then(|id| number(&id)) {
                Some(id) if self.calls.contains_key(&id) => Route::Finish(id),
                _ => Route::Nobody,
            },
            Shape::Request if message.method == Method::Ping => Route::Ping,
            Shape::Notification if message.method == Method::Progress => {
                let token = message.params().get(Param::ProgressToken).and_then(|span| number(message.raw(span)));
                match token {
                    Some(id) if self.calls.contains_key(&id) => Route::Call(id),
                    _ => Route::Nobody,
                }
            }
            Shape::Request if message.meta().get(Meta::RelatedTask).is_some() => {
                let task = super::tasks::to_server::related(message);
                task.and_then(|task| self.tasks.get(&task)).map_or(Route::Session, |id| Route::Call(*id))
            }
            Shape::Request => {
                let tied = message.meta().get(Meta::ProgressToken).and_then(|span| number(message.raw(span)));
                match tied.filter(|id| self.calls.contains_key(id)).or_else(|| self.only()) {
                    Some(id) => Route::Call(id),
                    None => Route::Session,
                }
            }
            Shape::Notification if message.method == Method::LogMessage => match self.only() {
                Some(id) => Route::Call(id),
                None => Route::Session,
            },
            Shape::Notification => {
                let listen = message.meta().get(Meta::SubscriptionId).and_then(|span| number(message.raw(span)));
                listen.filter(|id| self.calls.contains_key(id)).map_or(Route::Session, Route::Call)
            }
        }
    }

    fn only(&self) -> Option<u64> {
        if self.ties_only {
            return None;
        }
        let mut running = self.calls.keys().filter(|id| !self.waiting.contains(id) && !self.listens.contains(id));
        match (running.next(), running.next()) {
            (Some(id), None) => Some(*id),
            (None, _) if self.waiting.len() == 1 => self.waiting.iter().next().copied(),
            _ => None,
        }
    }
}

/// A number token; servers also echo numbers as strings or with a fraction of zero.
fn number(token: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(token).ok()?;
    text.trim_matches('"').trim_end_matches(".0").parse().ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(text: &str) -> Message {
        Message::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    #[test]
    fn questions_go_to_the_only_call_or_to_none() {
        let mut demux = Demux::new();
        let ask = message(r#"{"jsonrpc":"2.0","id":0,"method":"elicitation/create","params":{}}"#);
        assert_eq!(demux.route(&ask), Route::Session);
        let one = demux.next_id();
        demux.insert(one, ());
        assert_eq!(demux.route(&ask), Route::Call(one));
        let two = demux.next_id();
        demux.insert(two, ());
        assert_eq!(demux.route(&ask), Route::Session);
        let tied =
            message(r#"{"jsonrpc":"2.0","id":0,"method":"elicitation/create","params":{"_meta":{"progressToken":2}}}"#);
        assert_eq!(demux.route(&tied), Route::Call(two));
    }

    #[test]
    fn between_callers_only_what_names_its_call_reaches_one() {
        let mut demux = Demux::new();
        demux.share();
        let one = demux.next_id();
        demux.insert(one, ());
        for untied in [
            r#"{"jsonrpc":"2.0","id":0,"method":"elicitation/create","params":{}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#,
        ] {
            assert_eq!(demux.route(&message(untied)), Route::Session);
        }
        let tied =
            message(r#"{"jsonrpc":"2.0","id":0,"method":"elicitation/create","params":{"_meta":{"progressToken":1}}}"#);
        assert_eq!(demux.route(&tied), Route::Call(one));
    }

    #[test]
    fn a_call_that_waits_for_its_client_does_not_stand_in_the_way() {
        let mut demux = Demux::new();
        let ask = message(r#"{"jsonrpc":"2.0","id":0,"method":"elicitation/create","params":{}}"#);
        let (one, two) = (demux.next_id(), demux.next_id());
        demux.insert(one, ());
        demux.wait(one, true);
        assert_eq!(demux.route(&ask), Route::Call(one));
        demux.insert(two, ());
        assert_eq!(demux.route(&ask), Route::Call(two));
        demux.wait(one, false);
        assert_eq!(demux.route(&ask), Route::Session);
    }

    #[test]
    fn log_messages_of_the_only_call_reach_it_while_something_listens() {
        let mut demux = Demux::new();
        let log = message(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#);
        let (listen, call) = (demux.next_id(), demux.next_id());
        demux.insert(listen, ());
        demux.listens(listen);
        assert_eq!(demux.route(&log), Route::Session);
        demux.insert(call, ());
        assert_eq!(demux.route(&log), Route::Call(call));
        demux.remove(call);
        assert_eq!(demux.route(&log), Route::Session, "a listen is told of changes only");
    }

    #[test]
    fn what_is_asked_for_a_task_goes_to_whoever_waits_for_it() {
        let mut demux = Demux::new();
        let (one, two) = (demux.next_id(), demux.next_id());
        demux.insert(one, ());
        demux.insert(two, ());
        demux.tie(two, "t".into());
        let ask = |task: &str| {
            message(&format!(
                r#"{{"jsonrpc":"2.0","id":0,"method":"elicitation/create","params":{{"_meta":{{"io.modelcontextprotocol/related-task":{{"taskId":"{task}"}}}}}}}}"#
            ))
        };
        assert_eq!(demux.route(&ask("t")), Route::Call(two));
        demux.remove(one);
        assert_eq!(demux.route(&ask("other")), Route::Session, "not guessed, even where only one call is in flight");
        demux.remove(two);
        assert_eq!(demux.route(&ask("t")), Route::Session);
    }

    #[test]
    fn late_and_foreign_replies_reach_nobody() {
        let mut demux = Demux::new();
        let id = demux.next_id();
        demux.insert(id, ());
        let reply = message(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
        assert_eq!(demux.route(&reply), Route::Finish(1));
        demux.remove(id);
        assert_eq!(demux.route(&reply), Route::Nobody);
        assert_eq!(demux.route(&message(r#"{"jsonrpc":"2.0","id":"x","result":{}}"#)), Route::Nobody);
    }
}
