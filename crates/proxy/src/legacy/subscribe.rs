//! What a session is told outside any call: changes of lists and resources, and what servers of older revisions say.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use outrigger_mcp::bridge::log_level::LogLevel;
use outrigger_mcp::bridge::to_client::strip_subscription;
use outrigger_mcp::envelope::{Message, Param};
use outrigger_mcp::error;
use outrigger_mcp::json::quote;
use outrigger_mcp::method::Method;

use tokio::time::{Instant, sleep_until};

use super::ask;
use super::mesh::{Later, Unheard};
use super::seam::{Caller, Change, ListKind, Wanted};
use super::session::{Heard, Session};

/// How often we look whether anybody still reads the session's stream. Gone for two looks, and the listening ends:
/// events could not be asked for any more.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Subscriptions gathered before the services are listened to anew: clients subscribe to many things in a row.
const GATHER: Duration = Duration::from_millis(20);

/// Listens for a session whose client has opened its stream, unless that is done already.
pub(super) fn start(session: &Arc<Session>, caller: &Caller) {
    let Some(again) = session.start_listening() else { return };
    let ear = Ear { session: Arc::clone(session), caller: caller.clone() };
    session.tasks.spawn(ear.listen(again));
}

/// The task that listens for one session.
struct Ear {
    session: Arc<Session>,
    caller: Caller,
}

impl Ear {
    async fn listen(self, again: bool) {
        let closed = self.session.closed.clone();
        tokio::select! {
            () = closed.cancelled() => {}
            () = self.follow(again) => {}
        }
    }

    async fn follow(&self, again: bool) {
        let session = &self.session;
        let mut uris = session.subscriptions();
        let asked = uris.borrow_and_update().clone();
        let wanted = Wanted { resources: asked.iter().cloned().collect(), session: true };
        let mut told = self.caller.mesh.changes(&session.route, wanted);
        let mut begins = Some((asked, told.begun()));
        if again {
            // Something may have changed while nobody listened; to say so once too often is harmless.
            for kind in &session.lists {
                self.list_changed(*kind).await;
            }
        }
        let mut looks = tokio::time::interval(LOOK_EVERY);
        let (mut absent, mut due) = (0, None);
        loop {
            tokio::select! {
                change = told.next() => match change {
                    Some(change) => self.deliver(change).await,
                    // We drain: the client gets the end of its stream.
                    None => return session.outside.end(),
                },
                Ok(()) = uris.changed(), if due.is_none() => due = Some(Instant::now() + GATHER),
                () = at(due) => {
                    due = None;
                    let asked = uris.borrow_and_update().clone();
                    told.set_resources(asked.iter().cloned().collect());
                    begins = Some((asked, told.begun()));
                }
                heard = begun(&mut begins) => session.hears(heard),
                _ = looks.tick() => {
                    absent = if session.outside.has_reader() { 0 } else { absent + 1 };
                    if absent > 2 && session.stop_listening() {
                        return;
                    }
                }
            }
        }
    }

    /// Waits for a client that reads slowly; when it is gone, older events give way.
    async fn deliver(&self, change: Change) {
        match change {
            Change::List(kind) => {
                if self.session.lists.contains(&kind) {
                    self.list_changed(kind).await;
                }
            }
            Change::Resource { uri } => {
                let params = format!("{{\"uri\":{}}}", quote(&uri));
                let told = error::notification(Method::ResourcesUpdated.as_str(), Some(params.as_bytes()));
                self.session.outside.push(&told).await;
            }
            Change::Session { service, message } => self.session_message(service, &message).await,
        }
    }

    async fn list_changed(&self, kind: ListKind) {
        self.session.outside.push(&error::notification(kind.method(), None)).await;
    }

    async fn session_message(&self, service: Arc<str>, message: &Message) {
        match message.method {
            Method::SessionEvent => {
                ask::outside_call(&self.session, &self.caller, service, message).await;
            }
            Method::SubscriptionsAcknowledged => {}
            Method::LogMessage if !self.wants(message) => {}
            _ => self.session.outside.push(&strip_subscription(message)).await,
        }
    }

    /// Whether the client wants a log message. One that never set a level gets all, as older servers do.
    fn wants(&self, message: &Message) -> bool {
        let Some(least) = self.session.log_level() else { return true };
        message.text(Param::Level).and_then(|level| LogLevel::parse(&level)).is_none_or(|level| level >= least)
    }
}

/// What is listened to from now on, once it is.
async fn begun(begins: &mut Option<(BTreeSet<String>, Later<'static, Unheard>)>) -> Heard {
    let refused = match begins {
        Some((_, begun)) => begun.await,
        None => std::future::pending().await,
    };
    Heard { asked: begins.take().map(|(asked, _)| asked).unwrap_or_default(), refused }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
