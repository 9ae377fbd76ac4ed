//! `subscriptions/listen` on a server that has no such thing, or shares one channel: fed from the catalog and from the
//! caller's session.
//!
//! With `notifications["outrigger.dev/session"]` the stream also carries what a legacy server says outside any call:
//! log messages as they are, requests wrapped as `notifications/outrigger.dev/request`
//! (docs/decisions/0002-session-extension.md).

mod filter;
mod followed;
mod passed_on;
mod served;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use outrigger_mcp::{
    bridge::meta_keys::{SERVER_INFO, SUBSCRIPTION_ID},
    edit::{Edits, MetaEdit},
    envelope::{Message, Meta, Param, Shape},
    error::{notification, result_reply},
    json::quote,
    method::Method,
    sse,
};
use outrigger_proxy::{body::BodySender, failure::Failure};
use tokio::sync::broadcast::{self, error::RecvError};

pub use filter::{Filter, MAX_TASKS, together};
pub use followed::Followed;
pub use passed_on::{narrow, passed_on};
pub use served::Served;

use crate::{
    tasks::{Names, Watch},
    upstream::{
        Asker, Lease, Upstream,
        exchange::{Event, Exchange},
        session::{Declared, Session, own_request, updated_resource},
    },
};

/// A comment this often keeps middleboxes from cutting the stream.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What finds the session of a caller who listens.
#[derive(Clone)]
pub struct Attach {
    /// The sessions.
    pub upstream: Arc<Upstream>,
    /// The workload that connected.
    pub peer: String,
    /// The value of `outrigger.dev/session`, if any.
    pub session: Option<String>,
    /// What the client declared.
    pub declared: Declared,
}

impl Attach {
    /// Waits until a call has opened it.
    async fn wait(&self) -> Lease {
        let asker = Asker { peer: &self.peer, session: self.session.as_deref() };
        self.upstream.attach(asker, &self.declared).await
    }
}

/// One open listen.
pub struct Listen {
    /// The listen's id, raw.
    pub id: Bytes,
    /// What it asked for.
    pub filter: Filter,
    /// The caller's session, when the filter needs it at once.
    pub lease: Option<Lease>,
    /// Waits for the caller's session, when the filter only wants to hear of it.
    pub attach: Option<Attach>,
    /// What the caller is offered, and changes of that.
    pub lists: Followed,
    /// News of the tasks that it names.
    pub watch: Option<Watch>,
    /// What tasks are called here.
    pub names: Names,
    /// Answers to subscribe requests come within this time.
    pub patience: Duration,
}

impl Listen {
    /// Runs until the client goes away, the server's session ends, or `drain` resolves, which ends it gracefully.
    pub async fn run(mut self, sender: BodySender, drain: impl Future<Output = ()>) {
        // Subscribed to before the acknowledgement: what happens after it must not be missed.
        let mut heard = Heard {
            messages: self.lease.as_ref().map(|lease| lease.session.subscribe()),
            updates: self.updates().await,
        };
        self.subscribe().await;
        self.take_requests(true);
        self.lists.look();
        if sender.send(sse::event(&self.filter.acknowledged(&self.id))).await.is_ok() {
            self.feed(&sender, &mut heard, drain).await;
        }
        self.take_requests(false);
        self.unsubscribe().await;
        let _ = sender.finish().await;
    }

    async fn feed(&mut self, sender: &BodySender, heard: &mut Heard, drain: impl Future<Output = ()>) {
        tokio::pin!(drain);
        let mut keep_alive = tokio::time::interval(KEEP_ALIVE);
        keep_alive.tick().await;
        loop {
            let next = tokio::select! {
                // What a session said comes before its end.
                biased;
                () = sender.gone() => return,
                () = &mut drain => {
                    let _ = sender.send(sse::event(&ended(&self.id, self.lease.as_ref().map(|l| &l.session.greeted().info)))).await;
                    return;
                }
                _ = keep_alive.tick() => vec![Bytes::from_static(b":\n\n")],
                changes = self.lists.next() => match changes {
                    Ok(changes) => told_of(changes, &self.id),
                    Err(_) => return,
                },
                lease = attached(self.attach.as_ref().filter(|_| self.lease.is_none())) => {
                    heard.messages = Some(lease.session.subscribe());
                    self.lease = Some(lease);
                    self.take_requests(true);
                    Vec::new()
                }
                message = received(&mut heard.messages) => match message {
                    Ok(message) => self.of_session(&message).into_iter().collect(),
                    Err(RecvError::Lagged(_)) => self.missed(),
                    Err(RecvError::Closed) => return,
                },
                news = told(&mut self.watch) => {
                    Message::parse(news).map(|message| self.stamped(&message)).into_iter().collect()
                }
                update = updated(&mut heard.updates) => match update {
                    Some(update) => vec![sse::event(&self.names.incoming_bytes(update, Method::Other))],
                    None => return,
                },
                () = over(self.lease.as_ref()) => {
                    // Whoever subscribed to something must do so again; who only waits for news can go on waiting.
                    if self.attach.is_none() {
                        return;
                    }
                    self.take_requests(false);
                    (self.lease, heard.messages) = (None, None);
                    Vec::new()
                }
            };
            for event in next {
                if sender.send(event).await.is_err() {
                    return;
                }
            }
        }
    }

    /// A listen of its own at a modern server on a shared channel, which knows nothing of `resources/subscribe`.
    async fn updates(&self) -> Option<Exchange> {
        let lease = self.lease.as_ref().filter(|lease| lease.session.greeted().revision.is_modern())?;
        let request = self.filter.server_request(&self.id, |handle| self.names.own_id(handle))?;
        match lease.session.call(&request, &[]).await {
            Ok(exchange) => Some(exchange),
            Err(failure) => {
                tracing::debug!(%failure, "resources could not be subscribed to");
                None
            }
        }
    }

    /// Whether nobody can tell whom the server means by what it says outside calls.
    fn shares(&self) -> bool {
        self.lease.as_ref().is_none_or(Lease::is_shared)
    }

    /// Says at the session whether requests outside calls find somebody here.
    fn take_requests(&self, takes: bool) {
        // Nobody can tell whom a server means that several callers share.
        if let Some(lease) = self.lease.as_ref().filter(|lease| self.filter.session && !lease.is_shared()) {
            lease.session.take_requests(takes);
        }
    }

    /// Every resource may have changed.
    fn missed(&self) -> Vec<Bytes> {
        self.filter.resources.iter().filter_map(|uri| Some(self.stamped(&updated_resource(uri)?))).collect()
    }

    fn stamped(&self, message: &Message) -> Bytes {
        stamped(&self.id, message)
    }

    fn of_session(&self, message: &Message) -> Option<Bytes> {
        let named = match message.meta().get(Meta::RelatedTask).is_some() || message.method == Method::TasksStatus {
            true => Some(Message::parse(self.names.incoming(message, Method::Other)).ok()?),
            false => None,
        };
        let message = named.as_ref().unwrap_or(message);
        match (message.shape, message.method) {
            (Shape::Notification, Method::ResourcesUpdated) => {
                let uri = message.text(Param::Uri)?;
                (self.filter.session || self.filter.resources.iter().any(|u| *u == uri)).then(|| self.stamped(message))
            }
            // Changes of lists are told once they have been read again: for all, or for this caller.
            (
                Shape::Notification,
                Method::ToolsListChanged | Method::PromptsListChanged | Method::ResourcesListChanged,
            ) => None,
            // Of a call that cannot be told: several callers share the session.
            (Shape::Notification, Method::LogMessage) if self.shares() => None,
            (Shape::Notification, _) if self.filter.session => Some(self.stamped(message)),
            (Shape::Request, _) if self.filter.session && !self.shares() => {
                let mut params = b"{\"id\":".to_vec();
                params.extend_from_slice(&message.id()?);
                params.extend_from_slice(b",\"method\":");
                params.extend_from_slice(message.raw(message.method_span()?));
                if let Some(span) = message.params().object() {
                    params.extend_from_slice(b",\"params\":");
                    params.extend_from_slice(message.raw(span));
                }
                params.push(b'}');
                Message::parse(notification(Method::SessionEvent.as_str(), Some(&params)))
                    .ok()
                    .map(|m| self.stamped(&m))
            }
            _ => None,
        }
    }

    /// Subscribes at a legacy server. What that refuses is not acknowledged.
    async fn subscribe(&mut self) {
        let Some(lease) = self.subscriber() else { return };
        let mut refused = Vec::new();
        for uri in &self.filter.resources {
            if !lease.session.count_subscription(uri, true) {
                continue;
            }
            match self.ask(lease, "resources/subscribe", uri).await {
                Ok(reply) if reply.shape == Shape::Error => {
                    lease.session.count_subscription(uri, false);
                    refused.push(uri.clone());
                }
                Ok(_) => {}
                Err(failure) => tracing::debug!(%failure, "a resource could not be subscribed to"),
            }
        }
        self.filter.resources.retain(|uri| !refused.contains(uri));
    }

    async fn unsubscribe(&self) {
        let Some(lease) = self.subscriber() else { return };
        for uri in &self.filter.resources {
            if lease.session.count_subscription(uri, false)
                && let Err(failure) = self.ask(lease, "resources/unsubscribe", uri).await
            {
                tracing::debug!(%failure, "a resource could not be unsubscribed from");
            }
        }
    }

    /// The session of a server that has to be told of subscriptions. One that is over has none left.
    fn subscriber(&self) -> Option<&Lease> {
        let lease = self.lease.as_ref().filter(|lease| lease.session.alive())?;
        (!lease.session.greeted().revision.is_modern()).then_some(lease)
    }

    async fn ask(&self, lease: &Lease, method: &str, uri: &str) -> Result<Message, Failure> {
        let params = format!("{{\"uri\":{}}}", quote(uri));
        own_request(&lease.session, method, params.as_bytes(), self.patience).await
    }
}

async fn told(watch: &mut Option<Watch>) -> Bytes {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

async fn attached(attach: Option<&Attach>) -> Lease {
    match attach {
        Some(attach) => attach.wait().await,
        None => std::future::pending().await,
    }
}

/// Resolves when the session is over.
async fn over(lease: Option<&Lease>) {
    match lease {
        Some(lease) => lease.session.ended().await,
        None => std::future::pending().await,
    }
}

/// Where news for one listen come from, besides the catalog.
struct Heard {
    /// What belongs to no call of the caller's session.
    messages: Option<broadcast::Receiver<Message>>,
    /// A listen of its own at the server.
    updates: Option<Exchange>,
}

/// A message of the listen of this id, as an event.
fn stamped(id: &Bytes, message: &Message) -> Bytes {
    let mut edits = Edits::new();
    MetaEdit::default().raw(SUBSCRIPTION_ID, id.clone()).params(message, &mut edits);
    sse::event(&edits.apply_flat(message.body()))
}

/// The events that tell of changed lists.
fn told_of(changes: [Option<Method>; 3], id: &Bytes) -> Vec<Bytes> {
    let messages =
        changes.iter().flatten().filter_map(|change| Message::parse(notification(change.as_str(), None)).ok());
    messages.map(|message| stamped(id, &message)).collect()
}

/// The result that ends a listen.
fn ended(id: &Bytes, server_info: Option<&Bytes>) -> Bytes {
    let mut result = format!("{{\"resultType\":\"complete\",\"_meta\":{{{}:", quote(SUBSCRIPTION_ID)).into_bytes();
    result.extend_from_slice(id);
    if let Some(info) = server_info {
        result.extend_from_slice(format!(",{}:", quote(SERVER_INFO)).as_bytes());
        result.extend_from_slice(info);
    }
    result.extend_from_slice(b"}}");
    result_reply(id, &result)
}

async fn updated(updates: &mut Option<Exchange>) -> Option<Bytes> {
    let Some(exchange) = updates else { return std::future::pending().await };
    loop {
        match exchange.next().await {
            Ok(Event::Notification(bytes))
                if Message::parse(bytes.clone())
                    .is_ok_and(|m| matches!(m.method, Method::ResourcesUpdated | Method::TasksChanged)) =>
            {
                return Some(bytes);
            }
            Ok(Event::Notification(_) | Event::Question(_) | Event::Task(_) | Event::Alive) => {}
            Ok(Event::Done(..)) | Err(_) => return None,
        }
    }
}

/// What belongs to no call. A slow listener loses some of it rather than holding up the server.
async fn received(messages: &mut Option<broadcast::Receiver<Message>>) -> Result<Message, RecvError> {
    match messages {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

/// Hands the client's answer to a wrapped request back to the server: `params` of `outrigger.dev/respond` is the
/// JSON-RPC response without its version.
///
/// # Errors
/// When there is no such answer in it, or the server does not take it.
pub async fn respond(request: &Message, session: &Session) -> Result<(), Failure> {
    let part = |field| request.params().get(field);
    let id = part(Param::Id).ok_or_else(|| Failure::InvalidParams("`params.id` is required".into()))?;
    let (name, value) = match (part(Param::Result), part(Param::Error)) {
        (Some(result), None) => ("result", result),
        (None, Some(error)) => ("error", error),
        _ => return Err(Failure::InvalidParams("either `params.result` or `params.error` is required".into())),
    };
    let mut reply = b"{\"jsonrpc\":\"2.0\",\"id\":".to_vec();
    reply.extend_from_slice(request.raw(id));
    reply.extend_from_slice(format!(",\"{name}\":").as_bytes());
    reply.extend_from_slice(request.raw(value));
    reply.push(b'}');
    session.send(reply.into()).await
}
