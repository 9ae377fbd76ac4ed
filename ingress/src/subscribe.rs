//! Listening to one service on behalf of one caller, for as long as the caller listens.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use outrigger_mcp::bridge::handshake::modern_params;
use outrigger_mcp::envelope::{Message, Param, Shape};
use outrigger_mcp::error::request;
use outrigger_mcp::json::quote;
use outrigger_mcp::method::Method;
use outrigger_proxy::failure::Failure;
use outrigger_proxy::peek::Accepts;
use outrigger_proxy::trace::Span;
use outrigger_telemetry::TraceContext;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::authorize::authorize_listen;
use crate::core::{Caller, Change, Declared, ListKind};
use crate::forward::{AnswerKind, Outgoing, Sent, forward};
use crate::gateway::Gateway;
use crate::relay::MessageStream;
use crate::services::{Replica, Service};

/// First and longest pause before a listen that ended is begun again.
pub(crate) const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// A listen may be silent for ever; that its connection lives is checked below HTTP.
const SILENCE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Members of the filter that ask for changes of lists.
const LISTS: &str = r#","toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true"#;

/// What to listen for.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) at: usize,
    pub(crate) service: Arc<Service>,
    /// The service's own URI to the caller's.
    pub(crate) resources: BTreeMap<String, String>,
    /// Also what the server says outside any call.
    pub(crate) session: bool,
    /// Also changes of lists, which depend on the caller.
    pub(crate) lists: bool,
    /// Dropped when the service has said that it tells of the resources.
    pub(crate) begun: Option<mpsc::Sender<Infallible>>,
}

/// Listens until nobody takes the changes any more. What was missed while it did not listen is made up for: then every
/// resource counts as changed.
pub(crate) async fn subscribe(
    gateway: Arc<Gateway>,
    caller: Caller,
    mut subscription: Subscription,
    updates: mpsc::Sender<Change>,
) {
    let mut pause = BACKOFF.0;
    let mut first = true;
    loop {
        match open(&gateway, &caller, &subscription).await {
            Ok(stream) => {
                pause = BACKOFF.0;
                if !first && missed(&subscription, &updates).await.is_err() {
                    return;
                }
                first = false;
                if relay(stream, &mut subscription, &updates).await.is_err() {
                    return;
                }
            }
            Err(failure) => tracing::debug!(service = %subscription.service.name, %failure, "cannot listen"),
        }
        sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

async fn open(gateway: &Gateway, caller: &Caller, subscription: &Subscription) -> Result<MessageStream, Failure> {
    let uris: Vec<String> = subscription.resources.keys().map(|uri| quote(uri)).collect();
    let session = if subscription.session { ",\"outrigger.dev/session\":true" } else { "" };
    let lists = if subscription.lists { LISTS } else { "" };
    let filter = format!("{{\"resourceSubscriptions\":[{}]{session}{lists}}}", uris.join(","));
    listen_at(gateway, caller, (subscription.at, &subscription.service), None, filter.as_bytes()).await
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

/// Nobody takes the changes any more.
struct Gone;

async fn missed(subscription: &Subscription, updates: &mpsc::Sender<Change>) -> Result<(), Gone> {
    for uri in subscription.resources.values() {
        updates.send(Change::Resource { uri: uri.clone() }).await.map_err(|_| Gone)?;
    }
    Ok(())
}

/// Passes on what concerns the caller, until the stream ends.
async fn relay(
    mut stream: MessageStream,
    subscription: &mut Subscription,
    updates: &mpsc::Sender<Change>,
) -> Result<(), Gone> {
    while let Ok(Some(message)) = stream.next().await {
        if message.shape != Shape::Notification {
            return Ok(());
        }
        let change = match message.method {
            Method::ResourcesUpdated => {
                let uri = message.text(Param::Uri).and_then(|uri| subscription.resources.get(&*uri).cloned());
                uri.map(|uri| Change::Resource { uri })
            }
            Method::SubscriptionsAcknowledged => {
                subscription.begun = None;
                // Whatever changed until now was not told.
                subscription.lists.then_some(Change::List(ListKind::Tools))
            }
            Method::ToolsListChanged if subscription.lists => Some(Change::List(ListKind::Tools)),
            Method::PromptsListChanged if subscription.lists => Some(Change::List(ListKind::Prompts)),
            Method::ResourcesListChanged if subscription.lists => Some(Change::List(ListKind::Resources)),
            // Ours to notice: the catalog comes from the health document.
            Method::ToolsListChanged | Method::PromptsListChanged | Method::ResourcesListChanged => None,
            _ if subscription.session => {
                Some(Change::Session { service: Arc::clone(&subscription.service.name), message })
            }
            _ => None,
        };
        if let Some(change) = change {
            updates.send(change).await.map_err(|_| Gone)?;
        }
    }
    Ok(())
}
