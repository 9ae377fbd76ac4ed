//! Sessions whose messages a proxy passes on unread, because its server speaks the client's own revision. What is kept
//! of them is what every session has: an owner, a sealed id, a place under the caps, and an end.

use std::sync::Arc;

use http::HeaderMap;
use outrigger_mcp::bridge::to_client::Client;
use outrigger_mcp::headers::SESSION_ID;
use outrigger_mcp::revision::Revision;
use outrigger_policy::Principal;
use tokio_util::sync::CancellationToken;

use super::find;
use super::seam::{Caller, Route};
use super::session::Session;
use super::store::Sessions;
use super::token::SessionKey;
use crate::failure::Failure;

/// A session that is about to be opened, when its server takes the client.
#[derive(Debug)]
pub struct Beginning {
    key: SessionKey,
    tag: String,
}

impl Beginning {
    /// One of this principal.
    ///
    /// # Errors
    /// [`Failure::Internal`] when the system has no randomness.
    pub fn new(principal: &Principal) -> Result<Self, Failure> {
        let key = SessionKey::random()?;
        Ok(Self { key, tag: key.tag(principal) })
    }

    /// What the server's own session is found by.
    pub fn tag(&self) -> &str {
        &self.tag
    }
}

/// A session whose messages are passed on unread.
#[derive(Debug, Clone)]
pub struct Relayed(Arc<Session>);

/// A request or stream of a session. While there is one, the session is not idle.
#[derive(Debug)]
pub struct InUse(Arc<Session>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.pass(false);
    }
}

impl Relayed {
    /// What its client calls it.
    pub fn id(&self) -> &str {
        &self.0.id.0
    }

    /// What the server's own session is found by.
    pub fn tag(&self) -> &str {
        &self.0.tag
    }

    /// What both ends speak.
    pub fn revision(&self) -> Revision {
        self.0.revision()
    }

    /// Notes that something of it is on its way.
    pub fn occupy(&self) -> InUse {
        self.0.pass(true);
        InUse(Arc::clone(&self.0))
    }

    /// Cancelled when it ends.
    pub fn closed(&self) -> CancellationToken {
        self.0.closed.clone()
    }
}

impl Sessions {
    /// Opens a session that its server has opened.
    ///
    /// # Errors
    /// [`Failure::Limited`] when the caller, or everybody together, has as many as allowed and all are in use.
    pub fn open_relayed(
        &self,
        beginning: Beginning,
        caller: &Caller,
        route: &Route,
        client: Client,
    ) -> Result<Relayed, Failure> {
        let session = self.open(beginning.key, caller, route, client, Vec::new(), None)?;
        session.relay();
        Ok(Relayed(session))
    }

    /// The session that a request names, if it is relayed and the caller's.
    ///
    /// # Errors
    /// It names one that does not exist, or somebody else's.
    pub fn find_relayed(
        &self,
        caller: &Caller,
        route: &Route,
        headers: &HeaderMap,
    ) -> Result<Option<Relayed>, Failure> {
        if !headers.contains_key(SESSION_ID) {
            return Ok(None);
        }
        let session = find(self, caller, route, headers)?;
        Ok(session.is_relayed().then_some(Relayed(session)))
    }

    /// Ends a session.
    pub fn end_relayed(&self, session: &Relayed) {
        self.end(&session.0);
    }
}
