//! Listening to one service on behalf of one caller, for as long as the caller listens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use outrigger_mcp::bridge::handshake::modern_params;
use outrigger_mcp::bridge::meta_keys::LISTEN;
use outrigger_mcp::envelope::{Message, Param};
use outrigger_mcp::error::request;
use outrigger_mcp::json::quote;
use outrigger_mcp::method::Method;
use outrigger_proxy::body::read_bounded;
use outrigger_proxy::failure::Failure;
use outrigger_proxy::legacy::mesh::{Later, Messages};
use outrigger_proxy::peek::Accepts;
use outrigger_proxy::piece::Source;
use outrigger_proxy::trace::Span;
use outrigger_telemetry::TraceContext;
use outrigger_telemetry::metrics::{ListenFailure, OpenGuard};
use serde_json::Value;

use crate::authorize::authorize_listen;
use crate::core::{Caller, Change, Declared, ListKind};
use crate::forward::{AnswerKind, Outgoing, Sent, Terms, forward};
use crate::gateway::Gateway;
use crate::relay::MessageStream;
use crate::services::{Replica, Service};

/// A listen may be silent for ever; that its connection lives is checked below HTTP.
const SILENCE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Members of the filter that ask for changes of lists.
const LISTS: &str = r#","toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true"#;

/// What to listen for, on whose behalf.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) caller: Caller,
    /// What the listens for one of a client have in common at a sidecar; the session has its own.
    pub(crate) tag: Option<Arc<str>>,
    pub(crate) at: usize,
    pub(crate) service: Arc<Service>,
    /// The service's own URI to the caller's.
    pub(crate) resources: BTreeMap<String, String>,
    /// Also what the server says outside any call.
    pub(crate) session: bool,
    /// Also changes of lists, which depend on the caller.
    pub(crate) lists: bool,
}

impl Source for Subscription {
    fn open(&self) -> Later<'_, Result<Box<dyn Messages>, Failure>> {
        let uris: Vec<String> = self.resources.keys().map(|uri| quote(uri)).collect();
        let session = if self.session { ",\"outrigger.dev/session\":true" } else { "" };
        let lists = if self.lists { LISTS } else { "" };
        let tag = listen_member(self.tag.as_deref());
        let filter = format!("{{\"resourceSubscriptions\":[{}]{session}{lists}{tag}}}", uris.join(","));
        Box::pin(async move {
            let listened =
                listen_at(&self.gateway, &self.caller, (self.at, &self.service), None, filter.as_bytes()).await?;
            Ok(Box::new(listened) as Box<dyn Messages>)
        })
    }

    fn change(&self, message: Message) -> Option<Change> {
        match message.method {
            Method::ResourcesUpdated => {
                let uri = self.resources.get(&*message.text(Param::Uri)?)?.clone();
                Some(Change::Resource { uri })
            }
            // Whatever changed until now was not told.
            Method::SubscriptionsAcknowledged => self.lists.then_some(Change::List(ListKind::Tools)),
            Method::ToolsListChanged if self.lists => Some(Change::List(ListKind::Tools)),
            Method::PromptsListChanged if self.lists => Some(Change::List(ListKind::Prompts)),
            Method::ResourcesListChanged if self.lists => Some(Change::List(ListKind::Resources)),
            // Ours to notice: the catalog comes from the health document.
            Method::ToolsListChanged | Method::PromptsListChanged | Method::ResourcesListChanged => None,
            _ if self.session => Some(Change::Session { service: Arc::clone(&self.service.name), message }),
            _ => None,
        }
    }

    /// Every resource counts as changed.
    fn missed(&self) -> Vec<Change> {
        self.resources.values().map(|uri| Change::Resource { uri: uri.clone() }).collect()
    }

    fn failed(&self, failure: &Failure, first: bool) -> Option<OpenGuard> {
        let service = &self.service;
        service.metrics.listen_failed(why(failure));
        match service.no_listen.admit().filter(|_| first) {
            Some(left_out) => {
                tracing::warn!(service = %service.name, %failure, left_out, "cannot listen; trying again until it can");
            }
            None => tracing::debug!(service = %service.name, %failure, "cannot listen"),
        }
        if first { service.metrics.listen_failing() } else { None }
    }

    fn ended_soon(&self) {
        self.service.metrics.listen_failed(ListenFailure::Ended);
    }
}

/// For metrics.
fn why(failure: &Failure) -> ListenFailure {
    match failure {
        Failure::Limited { .. } => ListenFailure::Limited,
        Failure::CallerRefused => ListenFailure::Denied,
        Failure::Unavailable { .. } | Failure::Timeout { .. } | Failure::Deadline { .. } | Failure::Draining => {
            ListenFailure::Unavailable
        }
        _ => ListenFailure::Refused,
    }
}

/// The member of a filter that says which listens have one place at a sidecar.
pub(crate) fn listen_member(tag: Option<&str>) -> String {
    tag.map(|tag| format!(",\"{LISTEN}\":{}", quote(tag))).unwrap_or_default()
}

/// An open listen of ours, counted while it is.
pub(crate) struct Listened {
    stream: MessageStream,
    _open: OpenGuard,
}

impl Listened {
    /// The next message; `None` at the end. Cancelling the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Option<Message>, Failure> {
        self.stream.next().await
    }
}

impl Messages for Listened {
    fn next(&mut self) -> Later<'_, Result<Option<Message>, Failure>> {
        Box::pin(Listened::next(self))
    }
}

/// Opens a listen of our own at a service, the one of this index, on behalf of a caller. `owner` is the only replica that
/// will do; `filter` is `params.notifications`, raw.
pub(crate) async fn listen_at(
    gateway: &Gateway,
    caller: &Caller,
    (at, service): (usize, &Arc<Service>),
    owner: Option<Arc<Replica>>,
    filter: &[u8],
) -> Result<Listened, Failure> {
    let permitted = authorize_listen(caller, at, service)?;
    let params = params_for(&caller.declared, "notifications", filter);
    let message = Message::parse(request(b"1", Method::SubscriptionsListen.as_str(), &params))
        .map_err(|_| Failure::Internal("a listen of ours is no message".into()))?;
    let span = Span { context: TraceContext::new_root(), state: None };
    let sent = Sent { headers: None, accepts: Accepts { json: true, stream: true } };
    let outgoing = Outgoing::new(&permitted, caller, &message, &span, sent)?;
    let terms = Terms::once(gateway.timeouts.common.request);
    let (upstream, _in_flight) = forward(&permitted, caller, &outgoing, owner, terms).await?;
    if upstream.kind != AnswerKind::Stream {
        let answer = read_bounded(upstream.body, gateway.limits.entrance.event_bytes, gateway.timeouts.common.request);
        return Err(refusal(service, &answer.await.unwrap_or_default()));
    }
    let event_bytes = gateway.limits.entrance.event_bytes;
    let stream = MessageStream::new(Arc::clone(&service.name), upstream.body, event_bytes, SILENCE);
    Ok(Listened { stream, _open: service.metrics.listen_opened() })
}

/// What the answer says that a service gave in place of a stream.
fn refusal(service: &Service, answer: &[u8]) -> Failure {
    let name = service.name.to_string();
    let error = serde_json::from_slice::<Value>(answer).map(|mut answer| answer["error"].take()).unwrap_or_default();
    let Some(text) = error["message"].as_str() else {
        return Failure::Broken { service: name, reason: "it does not stream".into() };
    };
    let data = &error["data"];
    match data["reason"].as_str() {
        Some("limited") => Failure::Limited {
            limit: data["limit"].as_str().unwrap_or_default().to_owned(),
            retry_after: Duration::from_millis(data["retryAfterMs"].as_u64().unwrap_or(1000)),
            service: Some(name),
        },
        Some("unavailable" | "timeout" | "draining") => Failure::Unavailable { service: name, reason: text.to_owned() },
        _ => Failure::InvalidRequest(format!("the service {name} refuses to be listened to: {text}")),
    }
}

/// `params` of a request of our own on behalf of a client, with one member besides its `_meta`.
pub(crate) fn params_for(declared: &Declared, name: &str, value: &[u8]) -> Vec<u8> {
    let mut params = modern_params(&declared.capabilities, &declared.info);
    // The brace at the end.
    params.pop();
    params.extend_from_slice(format!(",{}:", quote(name)).as_bytes());
    params.extend_from_slice(value);
    params.push(b'}');
    params
}
