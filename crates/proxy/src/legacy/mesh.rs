//! What sessions ask of the proxy that they are a part of, behind one small trait: the ingress and the sidecar stand behind
//! it, and a script in tests.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use crate::failure::Failure;
use bytes::Bytes;
use outrigger_mcp::envelope::Message;
use outrigger_mcp::revision::Revision;

use super::seam::{Change, Declared, Route, Wanted};

/// A boxed future: one allocation per message of a legacy client, and no generics from here to the tests.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The modern mesh as one caller sees it.
pub trait Mesh: Send + Sync {
    /// The same for a session of the caller: what it asks is tied together by `tag`, and it said of itself what
    /// `declared` holds.
    fn in_session(&self, tag: Arc<str>, declared: Declared) -> Arc<dyn Mesh>;

    /// Sends a message that a modern client would have sent. Dropping the future or the stream cancels the call.
    fn call<'a>(&'a self, route: &'a Route, message: Message) -> Later<'a, Result<Given, Failure>>;

    /// The reply to such a message that asks for a list, in pieces and as clients of a revision read it. `None` where none is
    /// kept: then it has to be sent.
    fn list<'a>(&'a self, _: &'a Route, _: &'a Message, _: Revision) -> Option<Later<'a, Result<Vec<Bytes>, Failure>>> {
        None
    }

    /// The service that such a message goes to, for what is said of it; `None` when that cannot be told.
    fn service(&self, route: &Route, message: &Message) -> Option<Arc<str>>;

    /// Whether the caller could read this resource: it exists, and may be known.
    fn knows(&self, route: &Route, uri: &str) -> bool;

    /// Listens to what the caller may hear of.
    fn changes(&self, route: &Route, wanted: Wanted) -> Box<dyn Told>;

    /// The client has ended its session: what servers keep for it is of no use any more. Nobody waits for that.
    fn ended(&self, route: &Route);
}

/// Resources that their services do not tell of, as the caller names them, and why.
pub type Unheard = BTreeMap<String, Arc<Failure>>;

/// What a call gave.
pub enum Given {
    /// Its result or error.
    Message(Bytes),
    /// Notifications, then its result.
    Stream(Box<dyn Messages>),
}

/// The messages of a streamed answer.
pub trait Messages: Send {
    /// The next message; `None` after the last one. Cancelling the future loses nothing.
    fn next(&mut self) -> Later<'_, Result<Option<Message>, Failure>>;
}

/// What a listening session is told.
pub trait Told: Send {
    /// Listens to these resources from now on, instead of those before.
    fn set_resources(&mut self, uris: Vec<String>);

    /// Resolves once what was asked for last is listened to, with what is not.
    fn begun(&mut self) -> Later<'static, Unheard>;

    /// What there is to tell next; `None` when nothing will come any more. Cancelling the future loses nothing.
    fn next(&mut self) -> Later<'_, Option<Change>>;
}
