//! What sessions ask of the gateway, behind one small trait so that tests can put a script in its place.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use outrigger_mcp::envelope::Message;
use outrigger_proxy::failure::Failure;

use crate::changes::Changes;
use crate::core::{Answer, AnswerStream, Caller, Change, Route, Wanted};
use crate::gateway::Gateway;

/// A boxed future: one allocation per message of a legacy client, and no generics from here to the tests.
pub(super) type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The modern mesh as sessions see it.
pub(super) trait Mesh: Send + Sync {
    /// See [`Gateway::call`]. Dropping the future or the stream cancels the call.
    fn call<'a>(&'a self, caller: &'a Caller, route: &'a Route, message: Message) -> Later<'a, Result<Given, Failure>>;

    /// See [`Gateway::changes`].
    fn changes(self: Arc<Self>, caller: &Caller, route: &Route, wanted: Wanted) -> Box<dyn Told>;
}

/// What a call gave.
pub(super) enum Given {
    /// Its result or error.
    Message(Bytes),
    /// Notifications, then its result.
    Stream(Box<dyn Messages>),
}

/// The messages of a streamed answer.
pub(super) trait Messages: Send {
    /// See [`AnswerStream::next`].
    fn next(&mut self) -> Later<'_, Result<Option<Message>, Failure>>;
}

/// What a listening session is told.
pub(super) trait Told: Send {
    /// See [`Changes::set_resources`].
    fn set_resources(&mut self, uris: Vec<String>);

    /// See [`Changes::begun`].
    fn begun(&mut self) -> Later<'static, ()>;

    /// See [`Changes::next`].
    fn next(&mut self) -> Later<'_, Option<Change>>;
}

impl Mesh for Gateway {
    fn call<'a>(&'a self, caller: &'a Caller, route: &'a Route, message: Message) -> Later<'a, Result<Given, Failure>> {
        Box::pin(async move {
            Ok(match Gateway::call(self, caller, route, message).await? {
                Answer::Message { body, .. } => Given::Message(body),
                Answer::Stream(stream) => Given::Stream(Box::new(stream)),
            })
        })
    }

    fn changes(self: Arc<Self>, caller: &Caller, route: &Route, wanted: Wanted) -> Box<dyn Told> {
        Box::new(Gateway::changes(&self, caller, route, wanted))
    }
}

impl Messages for AnswerStream {
    fn next(&mut self) -> Later<'_, Result<Option<Message>, Failure>> {
        Box::pin(AnswerStream::next(self))
    }
}

impl Told for Changes {
    fn set_resources(&mut self, uris: Vec<String>) {
        Changes::set_resources(self, uris);
    }

    fn begun(&mut self) -> Later<'static, ()> {
        Box::pin(Changes::begun(self))
    }

    fn next(&mut self) -> Later<'_, Option<Change>> {
        Box::pin(Changes::next(self))
    }
}
