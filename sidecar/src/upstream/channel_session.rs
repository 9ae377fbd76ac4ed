//! A server whose calls share one channel, greeted and ready for them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use outrigger_mcp::{
    bridge::{
        handshake::{Era, Greeted, Handshake, Step},
        to_server::Call,
    },
    envelope::{Message, Shape},
    error::notification,
    method::Method,
};
use outrigger_proxy::failure::Failure;
use tokio::sync::Mutex;

use super::{
    channel::{Channel, Inbound},
    exchange::Exchange,
    session::Declared,
};
use crate::{child::RunningChild, outbound::passes::ChildId};

/// A server on a channel that has been greeted.
#[derive(Debug)]
pub struct ChannelSession {
    /// What it said of itself.
    pub greeted: Greeted,
    /// The way to it.
    pub channel: Arc<Channel>,
    service: String,
    /// Whether it is a process of ours.
    pub is_child: bool,
    /// How the outbound half calls this child, where it tells children apart.
    pub of_child: Option<ChildId>,
    child: Mutex<Option<RunningChild>>,
    pub(super) subscriptions: std::sync::Mutex<HashMap<String, usize>>,
}

impl ChannelSession {
    /// Greets a server that was just started, or connected to when there is no `child`.
    ///
    /// # Errors
    /// Why the greeting failed, and the child, so that the caller can stop it.
    pub async fn greet(
        service: &str,
        channel: Arc<Channel>,
        child: Option<RunningChild>,
        era: Era,
        declared: &Declared,
        patience: (Duration, Duration),
    ) -> Result<Arc<Self>, (String, Option<RunningChild>)> {
        let mut handshake = Handshake::new(era, declared.capabilities.clone(), declared.info.clone());
        let mut request = handshake.start();
        let (probe, initialize) = patience;
        loop {
            let waited = if handshake.probing() { probe } else { initialize };
            let step = match ask(&channel, &request, waited).await {
                Ok(reply) => handshake.on_reply(&reply),
                Err(why) => handshake.on_silence(&why),
            };
            match step {
                Step::Send(_) if channel.is_closed() => {
                    return Err(("the server ended when it was probed".into(), child));
                }
                Step::Send(next) => request = next,
                Step::Failed(why) => return Err((why, child)),
                Step::Done(greeted) => {
                    if greeted.revision.is_modern() {
                        channel.stateless();
                    } else {
                        let initialized = notification("notifications/initialized", None);
                        if let Err(failure) = channel.write(vec![initialized], &[]).await {
                            return Err((failure.to_string(), child));
                        }
                    }
                    return Ok(Arc::new(Self {
                        greeted,
                        channel,
                        service: service.to_owned(),
                        is_child: child.is_some(),
                        of_child: child.as_ref().and_then(RunningChild::id),
                        child: Mutex::new(child),
                        subscriptions: std::sync::Mutex::default(),
                    }));
                }
            }
        }
    }

    /// The service's name.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The server's fault, in words for the caller.
    pub fn broken(&self, reason: &str) -> Failure {
        Failure::Broken { service: self.service.clone(), reason: reason.into() }
    }

    pub(super) async fn call(
        self: &Arc<Self>,
        request: &Message,
        trace: &[(&str, Bytes)],
    ) -> Result<Exchange, Failure> {
        let receiver = self.channel.open_call();
        // Nothing is asked on behalf of these, and what is said meanwhile is not about them.
        if request.method == Method::SubscriptionsListen || request.method.lists().is_some() {
            self.channel.listen_call(receiver.id);
        }
        let call = Call::new(request, receiver.id).on(self.greeted.revision);
        let pieces = call.request(request, trace);
        // Made first, so that the call is forgotten again if writing fails or the caller goes away meanwhile.
        let mut exchange = Exchange::channel(call, self.clone(), receiver);
        // Some servers accept a POST only when its work is done; what the work says and asks until then must be heard.
        tokio::select! {
            biased;
            written = self.channel.write(pieces, trace) => written?,
            () = exchange.arrived() => {}
        }
        Ok(exchange)
    }

    pub(super) async fn close(&self) {
        self.channel.close("the session was ended");
        if let Some(child) = self.child.lock().await.take() {
            self.channel.hang_up();
            child.stop().await;
        }
    }
}

/// One request of our own on a channel, before there is a session. Its id is fixed by the handshake.
async fn ask(channel: &Channel, request: &Bytes, patience: Duration) -> Result<Message, String> {
    let mut receiver = channel.open_call();
    let sent = Message::parse(request.clone()).map_err(|rejected| rejected.error.to_string())?;
    let mut edits = outrigger_mcp::edit::Edits::new();
    edits.set_id(&sent, receiver.id.to_string());
    let outcome = tokio::time::timeout(patience, async {
        channel.write(edits.apply(sent.body()), &[]).await.map_err(|failure| failure.to_string())?;
        loop {
            match receiver.next().await {
                Inbound::Message(m) if matches!(m.shape, Shape::Result | Shape::Error) => return Ok(m),
                // A request during the greeting cannot be answered yet by anybody.
                Inbound::Message(_) => {}
                Inbound::TooLarge(_) => return Err("the reply is too large".into()),
                Inbound::Gone(_) => return Err("the server ended".into()),
            }
        }
    })
    .await;
    channel.close_call(receiver.id);
    outcome.unwrap_or_else(|_| Err(format!("no answer within {patience:?}")))
}
