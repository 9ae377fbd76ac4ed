//! Listening to one service on behalf of one caller, for as long as the caller listens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use outrigger_mcp::bridge::handshake::modern_params;
use outrigger_mcp::envelope::{Message, Param};
use outrigger_mcp::error::request;
use outrigger_mcp::json::quote;
use outrigger_mcp::method::Method;
use outrigger_proxy::failure::Failure;
use outrigger_proxy::legacy::mesh::{Later, Messages};
use outrigger_proxy::peek::Accepts;
use outrigger_proxy::piece::Source;
use outrigger_proxy::trace::Span;
use outrigger_telemetry::TraceContext;

use crate::authorize::authorize_listen;
use crate::core::{Caller, Change, Declared, ListKind};
use crate::forward::{AnswerKind, Outgoing, Sent, forward};
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
        let filter = format!("{{\"resourceSubscriptions\":[{}]{session}{lists}}}", uris.join(","));
        Box::pin(async move {
            let stream =
                listen_at(&self.gateway, &self.caller, (self.at, &self.service), None, filter.as_bytes()).await?;
            Ok(Box::new(stream) as Box<dyn Messages>)
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

    fn failed(&self, failure: &Failure, first: bool) {
        let service = &self.service.name;
        if first {
            tracing::warn!(%service, %failure, "cannot listen; trying again until it can");
        } else {
            tracing::debug!(%service, %failure, "cannot listen");
        }
    }
}

impl Messages for MessageStream {
    fn next(&mut self) -> Later<'_, Result<Option<Message>, Failure>> {
        Box::pin(MessageStream::next(self))
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
) -> Result<MessageStream, Failure> {
    let permitted = authorize_listen(caller, at, service)?;
    let params = params_for(&caller.declared, "notifications", filter);
    let message = Message::parse(request(b"1", Method::SubscriptionsListen.as_str(), &params))
        .map_err(|_| Failure::Internal("a listen of ours is no message".into()))?;
    let span = Span { context: TraceContext::new_root(), state: None };
    let sent = Sent { headers: None, accepts: Accepts { json: true, stream: true } };
    let outgoing = Outgoing::new(&permitted, caller, &message, &span, sent);
    let (upstream, _in_flight) = forward(&permitted, caller, &outgoing, owner, gateway.timeouts.common.request).await?;
    if upstream.kind != AnswerKind::Stream {
        return Err(Failure::Broken { service: service.name.to_string(), reason: "it does not stream".into() });
    }
    Ok(MessageStream::new(Arc::clone(&service.name), upstream.body, gateway.limits.entrance.event_bytes, SILENCE))
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
