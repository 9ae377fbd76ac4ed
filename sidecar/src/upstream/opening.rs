//! How sessions begin: which greeting, over which transport, and what is tried when the server takes neither.
//!
//! What was found out holds until the server contradicts it; then it is asked again from the start.

use std::sync::{Arc, atomic::Ordering};
use std::time::Duration;

use bytes::Bytes;
use outrigger_mcp::bridge::handshake;
use outrigger_mcp::envelope::Message;
use outrigger_mcp::revision::Revision;
use outrigger_proxy::failure::Failure;
use outrigger_telemetry::metrics::SessionKind;

use super::{
    Asker, Lease, Owner, Reach, Upstream,
    channel::Channel,
    channel_session::ChannelSession,
    http::HttpServer,
    http_session::{HttpSession, Met},
    http_sse,
    session::{Declared, Session},
    stdio,
};
use crate::{
    child::ChildSpec,
    config::{Era, SessionScope},
};

impl Upstream {
    /// Greets the server for the catalog. Returns its session, or `None` for a modern HTTP server, which has none.
    ///
    /// # Errors
    /// Why it cannot be used now.
    pub async fn open_main(&self) -> Result<Option<Arc<Session>>, Failure> {
        let declared = Declared::everything();
        self.declined.store(0, Ordering::Relaxed);
        let session = match &self.reach {
            Reach::Http(server) => match self.meet(server, &declared).await? {
                Some(session) => session,
                None => return Ok(None),
            },
            Reach::Stdio(spec) => self.open_child(spec, &declared).await?,
        };
        self.known.store(Some(Arc::new(session.greeted().clone())));
        self.main.store(Some(session.clone()));
        self.opened.notify_waiters();
        Ok(Some(session))
    }

    /// Finds out what an HTTP server speaks.
    async fn meet(&self, server: &HttpServer, declared: &Declared) -> Result<Option<Arc<Session>>, Failure> {
        let era = self.settings.era;
        let met = match era {
            Era::HttpSse => Met::Older(String::new()),
            _ => HttpSession::greet(server, greeting(era), declared, self.patience()).await?,
        };
        let older = matches!(met, Met::Older(_));
        let session = match met {
            Met::Modern(greeted) => {
                self.known.store(Some(Arc::new(greeted)));
                None
            }
            Met::Session(session) => Some(self.on_http(session)),
            Met::Older(_) if era == Era::HttpSse => Some(self.open_stream(server, declared).await?),
            Met::Older(why) if era == Era::Auto => match self.open_stream(server, declared).await {
                Ok(session) => Some(session),
                // What it said to `initialize` tells more than that this did not help either.
                Err(failure) => return Err(self.unavailable(&format!("{why}; nor by HTTP+SSE: {failure}"))),
            },
            Met::Older(why) => return Err(self.unavailable(&why)),
        };
        self.http_sse.store(older, Ordering::Relaxed);
        Ok(session)
    }

    /// The server, when a session of a client that speaks this revision may be relayed to it.
    pub fn relays(&self, revision: Revision) -> Option<&HttpServer> {
        let own_sessions = matches!(self.settings.scope, SessionScope::PerPrincipal | SessionScope::PerClientSession);
        let spoken =
            self.known.load().as_ref().is_some_and(|known| known.revision >= revision && !known.revision.is_modern());
        let declined = self.declined.load(Ordering::Relaxed) & bit(revision) != 0;
        // In 2025-03-26 requests come in batches, and each of a batch has to be looked at.
        let fit = revision != Revision::V2025_03_26 && !revision.is_modern();
        match &self.reach {
            Reach::Http(server) if own_sessions && spoken && fit && !declined => {
                (!self.http_sse.load(Ordering::Relaxed)).then_some(server)
            }
            _ => None,
        }
    }

    /// Opens a session with a client's own `initialize`. `None` when the server speaks another revision with it.
    ///
    /// # Errors
    /// As [`Upstream::lease`].
    pub async fn open_relayed(
        &self,
        server: &HttpServer,
        asker: Asker<'_>,
        initialize: Bytes,
        revision: Revision,
    ) -> Result<Option<(Lease, Message)>, Failure> {
        let claim = self.claim(self.key(asker, &Declared::everything()), &Owner::of(asker)).await?;
        match HttpSession::relay(server, &initialize, revision, self.settings.initialize).await {
            Ok(Some((session, reply))) => {
                let session = claim.0.session.get_or_init(|| async { Arc::new(Session::Http(session)) }).await.clone();
                claim.0.open.get_or_init(|| self.metrics.session_opened(SessionKind::Pinned));
                let lease = Lease { session, entry: Some(claim.keep()), listens: false, started: self.started };
                Ok(Some((lease, reply)))
            }
            Ok(None) => {
                self.declined.fetch_or(bit(revision), Ordering::Relaxed);
                drop(claim);
                self.forget_dead();
                Ok(None)
            }
            Err(failure) => {
                drop(claim);
                self.forget_dead();
                Err(failure)
            }
        }
    }

    /// Opens a session for calls.
    pub(super) async fn open(&self, declared: &Declared) -> Result<Arc<Session>, Failure> {
        match &self.reach {
            Reach::Http(server) if self.http_sse.load(Ordering::Relaxed) => self.open_stream(server, declared).await,
            Reach::Http(server) => {
                match HttpSession::greet(server, handshake::Era::Legacy, declared, self.patience()).await? {
                    Met::Session(session) => Ok(self.on_http(session)),
                    Met::Modern(_) | Met::Older(_) => Err(self.unavailable("it speaks another revision than before")),
                }
            }
            Reach::Stdio(spec) => self.open_child(spec, declared).await,
        }
    }

    /// A session over HTTP+SSE. Only legacy revisions were ever spoken over it.
    async fn open_stream(&self, server: &HttpServer, declared: &Declared) -> Result<Arc<Session>, Failure> {
        let channel = http_sse::open(server, self.settings.probe, self.service_metrics.clone()).await?;
        let era = handshake::Era::Legacy;
        let greeted = ChannelSession::greet(&self.service, channel.clone(), None, era, declared, self.patience()).await;
        match greeted {
            Ok(session) => Ok(self.on_channel(session)),
            Err((why, _)) => {
                channel.close("it was not greeted");
                Err(self.unavailable(&why))
            }
        }
    }

    async fn open_child(&self, spec: &ChildSpec, declared: &Declared) -> Result<Arc<Session>, Failure> {
        let asked = greeting(self.settings.era);
        // A server whose era is known is not probed again.
        let mut era = match self.known.load().as_ref() {
            Some(known) if !known.revision.is_modern() => handshake::Era::Legacy,
            _ => asked,
        };
        let mut tries = 0;
        loop {
            let (child, pipes) = crate::child::start(spec, &self.service).map_err(|why| self.unavailable(&why))?;
            let metrics = self.service_metrics.clone();
            let channel = stdio::open(&self.service, pipes.stdin, pipes.stdout, self.settings.line_bytes, metrics);
            let child = Some(child);
            let greeted =
                ChannelSession::greet(&self.service, channel.clone(), child, era, declared, self.patience()).await;
            let (why, mut child) = match greeted {
                Ok(session) => return Ok(self.on_channel(session)),
                Err(failed) => failed,
            };
            let died = channel.is_closed();
            let never = match &mut child {
                Some(child) if died => child.never_started().await,
                _ => None,
            };
            hang_up(&channel, child).await;
            if let Some(why) = never {
                return Err(self.unavailable(&why));
            }
            tries += 1;
            era = match era {
                // Some servers die of a first message they do not know: start again and greet the old way.
                handshake::Era::Auto if died && tries == 1 => handshake::Era::Legacy,
                // It was legacy, and now refuses to be greeted so: perhaps another version is installed.
                handshake::Era::Legacy if !died && tries == 1 && asked != era => asked,
                _ => return Err(self.unavailable(&why)),
            };
        }
    }

    /// Says whether the calls of a channel are of several callers.
    fn on_channel(&self, session: Arc<ChannelSession>) -> Arc<Session> {
        // A modern server asks nothing by itself, and keeps no state that one caller could see of another.
        if self.settings.scope == SessionScope::Shared && !session.greeted.revision.is_modern() {
            session.channel.share();
        }
        Arc::new(Session::Channel(session))
    }

    /// Says whether the calls of a session are of several callers.
    fn on_http(&self, session: Arc<HttpSession>) -> Arc<Session> {
        session.shared.store(self.settings.scope == SessionScope::Shared, Ordering::Relaxed);
        Arc::new(Session::Http(session))
    }

    /// How long the probe and `initialize` may take.
    fn patience(&self) -> (Duration, Duration) {
        (self.settings.probe, self.settings.initialize)
    }
}

/// The bit of a revision.
fn bit(revision: Revision) -> u8 {
    Revision::ALL.iter().position(|known| *known == revision).map_or(0, |at| 1 << at)
}

async fn hang_up(channel: &Channel, child: Option<crate::child::RunningChild>) {
    channel.hang_up();
    if let Some(child) = child {
        child.stop().await;
    }
}

fn greeting(era: Era) -> handshake::Era {
    match era {
        Era::Auto => handshake::Era::Auto,
        Era::Modern => handshake::Era::Modern,
        Era::Legacy | Era::HttpSse => handshake::Era::Legacy,
    }
}
