//! A session with the server: a child process, or an HTTP session, greeted and ready for calls.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use outrigger_mcp::{
    bridge::handshake::Greeted, edit::concat, envelope::Message, error::notification, json::quote, method::Method,
};
use outrigger_proxy::failure::Failure;
use tokio::sync::broadcast;

use crate::outbound::passes::ChildId;

use super::{channel_session::ChannelSession, exchange::Exchange, http_session::HttpSession};

/// What the client behind a session declared; raw JSON objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Client capabilities.
    pub capabilities: Bytes,
    /// `clientInfo`.
    pub info: Bytes,
}

impl Declared {
    /// Everything that a client can declare: for the session that learns the catalog, because servers offer some tools
    /// only to clients that can answer them.
    pub fn everything() -> Self {
        Self {
            capabilities: Bytes::from_static(br#"{"elicitation":{"form":{},"url":{}},"sampling":{"tools":{},"context":{}},"roots":{"listChanged":true}}"#),
            info: Bytes::from_static(concat!(r#"{"name":"outrigger","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#).as_bytes()),
        }
    }
}

/// A greeted session.
#[derive(Debug)]
pub enum Session {
    /// A child process, or an HTTP+SSE server: all calls share one channel.
    Channel(Arc<ChannelSession>),
    /// A session of a legacy HTTP server.
    Http(Arc<HttpSession>),
}

impl Session {
    /// What the server said of itself.
    pub fn greeted(&self) -> &Greeted {
        match self {
            Session::Channel(s) => &s.greeted,
            Session::Http(s) => &s.greeted,
        }
    }

    /// Whether it can take calls.
    pub fn alive(&self) -> bool {
        match self {
            Session::Channel(s) => !s.channel.is_closed(),
            Session::Http(s) => !s.expired.load(Ordering::Acquire),
        }
    }

    /// Whether its end is noticed at once, so that nobody needs to ask whether it is still there.
    pub fn tells_its_end(&self) -> bool {
        matches!(self, Session::Channel(s) if s.is_child)
    }

    /// The child that serves it, where the outbound half tells children apart.
    pub fn child(&self) -> Option<ChildId> {
        match self {
            Session::Channel(s) => s.of_child,
            Session::Http(_) => None,
        }
    }

    /// Whether a client speaks with the server in it by itself.
    pub fn relayed(&self) -> bool {
        matches!(self, Session::Http(session) if session.relayed)
    }

    /// Calls in flight.
    pub fn in_flight(&self) -> usize {
        match self {
            Session::Channel(s) => s.channel.in_flight(),
            Session::Http(s) => s.open.load(Ordering::Relaxed),
        }
    }

    /// Messages of the server that belong to no call.
    pub fn subscribe(&self) -> broadcast::Receiver<Message> {
        match self {
            Session::Channel(s) => s.channel.subscribe(),
            Session::Http(s) => s.messages.subscribe(),
        }
    }

    /// How often the server said that a list has changed.
    pub fn announced(&self) -> u64 {
        match self {
            Session::Channel(s) => s.channel.announced(),
            Session::Http(s) => s.announced.load(Ordering::Acquire),
        }
    }

    /// Says that a listener takes requests outside calls, or no longer does.
    pub fn take_requests(&self, takes: bool) {
        match self {
            Session::Channel(s) => s.channel.take_requests(takes),
            Session::Http(s) if takes => drop(s.takes_requests.fetch_add(1, Ordering::Relaxed)),
            Session::Http(s) => drop(s.takes_requests.fetch_sub(1, Ordering::Relaxed)),
        }
    }

    /// Makes a call. `trace` holds members for its `_meta`.
    ///
    /// # Errors
    /// When the server does not take it.
    pub async fn call(&self, request: &Message, trace: &[(&str, Bytes)]) -> Result<Exchange, Failure> {
        match self {
            Session::Channel(s) => s.call(request, trace).await,
            Session::Http(s) => s.call(request, trace, false).await,
        }
    }

    /// Makes a call once more, in a session that was opened for it: what the server refuses now, it does not refuse for a session that it
    /// forgot.
    ///
    /// # Errors
    /// When the server does not take it.
    pub async fn call_again(&self, request: &Message, trace: &[(&str, Bytes)]) -> Result<Exchange, Failure> {
        match self {
            Session::Channel(s) => s.call(request, trace).await,
            Session::Http(s) => s.call(request, trace, true).await,
        }
    }

    /// Resolves when the session is over: the child ended, or the server forgot us.
    pub async fn ended(&self) {
        match self {
            Session::Channel(s) => s.channel.closed().await,
            Session::Http(s) => s.ended.cancelled().await,
        }
    }

    /// Opens a listen on a modern stdio server that lasts as long as the session; what it brings is broadcast like
    /// everything that belongs to no call.
    ///
    /// # Errors
    /// When the server does not take it.
    pub async fn listen_forever(&self, request: Bytes) -> Result<(), Failure> {
        self.send(request).await
    }

    /// Counts listeners of a resource; `true` when this one is the first, or was the last, so that the server must know.
    pub fn count_subscription(&self, uri: &str, more: bool) -> bool {
        let counts = match self {
            Session::Channel(s) => &s.subscriptions,
            Session::Http(s) => &s.subscriptions,
        };
        let mut counts = counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let count = counts.entry(uri.to_owned()).or_default();
        if more {
            *count += 1;
            return *count == 1;
        }
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(uri);
            return true;
        }
        false
    }

    /// Sends a message that is not a call: a notification, or a response to the server.
    ///
    /// # Errors
    /// When the server does not take it.
    pub async fn send(&self, message: Bytes) -> Result<(), Failure> {
        match self {
            Session::Channel(s) => s.channel.write(vec![message], &[]).await,
            Session::Http(s) => s.post(message).await,
        }
    }

    /// Ends the session: the child is stopped, the HTTP session deleted.
    pub async fn close(&self) {
        match self {
            Session::Channel(s) => s.close().await,
            Session::Http(s) => s.close().await,
        }
    }
}

/// What a server says when a resource has changed.
pub fn updated_resource(uri: &str) -> Option<Message> {
    let params = format!("{{\"uri\":{}}}", quote(uri));
    Message::parse(notification(Method::ResourcesUpdated.as_str(), Some(params.as_bytes()))).ok()
}

/// A request of our own on a session, such as a page of a list, and its reply.
///
/// # Errors
/// When the server fails, answers with an error or asks something back.
pub async fn own_request(
    session: &Session,
    method: &str,
    params: &[u8],
    patience: Duration,
) -> Result<Message, Failure> {
    let request = Message::parse(outrigger_mcp::error::request(b"0", method, params))
        .map_err(|r| Failure::Internal(r.error.to_string()))?;
    let work = async {
        let mut exchange = session.call(&request, &[]).await?;
        loop {
            if let super::exchange::Event::Done(pieces, _) = exchange.next().await? {
                return Message::parse(concat(&pieces)).map_err(|r| Failure::Internal(r.error.to_string()));
            }
        }
    };
    match tokio::time::timeout(patience, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::Timeout { service: String::new(), after: patience }),
    }
}
