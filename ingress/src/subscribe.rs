//! Listening to one service on behalf of one caller, for as long as the caller listens.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

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

/// A listen whose place another takes goes on for so long once that one hears: what it has been told is on its way.
const LINGER: Duration = Duration::from_millis(100);

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
}

/// One listen at a service. Dropping it ends it, and those whose place it takes.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) subscription: Arc<Subscription>,
    state: Arc<Mutex<State>>,
    begun: watch::Receiver<bool>,
    _task: JoinSet<()>,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// As the caller names them: what may have changed while nobody listened, to be told when we do.
    owed: Vec<String>,
    /// Whose place this one takes. They go on until it hears.
    before: Vec<Piece>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It has heard nothing yet.
    #[default]
    Opening,
    Live,
    /// It did hear, and its stream ended.
    Lost,
}

impl Piece {
    /// Begins to listen, in the place of those `before`. They end when this one hears, and what they had to make up for is
    /// its to tell, as is what is `owed` besides.
    pub(crate) fn begin(
        gateway: &Arc<Gateway>,
        caller: &Caller,
        subscription: Subscription,
        (before, owed): (Vec<Self>, Vec<String>),
        updates: &mpsc::Sender<Change>,
    ) -> Self {
        let mut state = State { owed, ..State::default() };
        for piece in before {
            let mut old = lock(&piece.state);
            state.owed.append(&mut old.owed);
            match old.phase {
                Phase::Live => {
                    drop(old);
                    state.before.push(piece);
                }
                // It covers nothing now: only those whose place it was to take do.
                Phase::Opening | Phase::Lost => state.before.append(&mut old.before),
            }
        }
        let (begins, begun) = watch::channel(false);
        let (subscription, state) = (Arc::new(subscription), Arc::new(Mutex::new(state)));
        let listener = Listener {
            gateway: Arc::clone(gateway),
            caller: caller.clone(),
            subscription: Arc::clone(&subscription),
            state: Arc::clone(&state),
            begins,
            updates: updates.clone(),
        };
        let mut task = JoinSet::new();
        task.spawn(listener.run());
        Self { subscription, state, begun, _task: task }
    }

    /// Turns true when the service has said that it tells of the resources.
    pub(crate) fn begun(&self) -> watch::Receiver<bool> {
        self.begun.clone()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // No statement under it can fail half way.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The task behind a piece.
struct Listener {
    gateway: Arc<Gateway>,
    caller: Caller,
    subscription: Arc<Subscription>,
    state: Arc<Mutex<State>>,
    begins: watch::Sender<bool>,
    updates: mpsc::Sender<Change>,
}

impl Listener {
    /// Listens until nobody takes the changes any more. What was missed while it did not listen is made up for: then every
    /// resource counts as changed.
    async fn run(self) {
        let mut pause = BACKOFF.0;
        loop {
            match open(&self.gateway, &self.caller, &self.subscription).await {
                Ok(stream) => {
                    pause = BACKOFF.0;
                    if self.relay(stream).await.is_err() {
                        return;
                    }
                    self.lost();
                }
                Err(failure) => {
                    let service = &self.subscription.service.name;
                    if pause == BACKOFF.0 {
                        tracing::warn!(%service, %failure, "cannot listen; trying again until it can");
                    } else {
                        tracing::debug!(%service, %failure, "cannot listen");
                    }
                }
            }
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// Passes on what concerns the caller, until the stream ends.
    async fn relay(&self, mut stream: MessageStream) -> Result<(), Gone> {
        let (mut heard, mut linger) = (false, None);
        loop {
            let message = tokio::select! {
                message = stream.next() => message,
                () = at(linger) => {
                    // While the client is late, those before may hold something that waits for it.
                    let late = self.updates.capacity() == 0;
                    linger = late.then(|| Instant::now() + LINGER);
                    if !late {
                        self.tell(self.relieve()).await?;
                    }
                    continue;
                }
            };
            let Ok(Some(message)) = message else { return Ok(()) };
            if message.shape != Shape::Notification {
                return Ok(());
            }
            if !std::mem::replace(&mut heard, true) {
                self.tell(self.hears()).await?;
                linger = Some(Instant::now() + LINGER);
            }
            if let Some(change) = self.change(message) {
                self.updates.send(change).await.map_err(|_| Gone)?;
            }
        }
    }

    /// What a message says to the caller.
    fn change(&self, message: Message) -> Option<Change> {
        let subscription = &self.subscription;
        match message.method {
            Method::ResourcesUpdated => {
                let uri = subscription.resources.get(&*message.text(Param::Uri)?)?.clone();
                Some(Change::Resource { uri })
            }
            // Whatever changed until now was not told.
            Method::SubscriptionsAcknowledged => subscription.lists.then_some(Change::List(ListKind::Tools)),
            Method::ToolsListChanged if subscription.lists => Some(Change::List(ListKind::Tools)),
            Method::PromptsListChanged if subscription.lists => Some(Change::List(ListKind::Prompts)),
            Method::ResourcesListChanged if subscription.lists => Some(Change::List(ListKind::Resources)),
            // Ours to notice: the catalog comes from the health document.
            Method::ToolsListChanged | Method::PromptsListChanged | Method::ResourcesListChanged => None,
            _ if subscription.session => {
                Some(Change::Session { service: Arc::clone(&subscription.service.name), message })
            }
            _ => None,
        }
    }

    /// The stream has begun to tell; the value is what may have changed while none did.
    fn hears(&self) -> Vec<String> {
        self.begins.send_replace(true);
        let mut state = lock(&self.state);
        state.phase = Phase::Live;
        std::mem::take(&mut state.owed)
    }

    /// The stream has ended, and until the next begins nobody tells of the resources.
    fn lost(&self) {
        let mut state = lock(&self.state);
        if state.phase == Phase::Live {
            state.phase = Phase::Lost;
            state.owed = self.subscription.resources.values().cloned().collect();
        }
    }

    /// Ends those whose place this one takes; the value is what they lost on the way.
    fn relieve(&self) -> Vec<String> {
        let before = std::mem::take(&mut lock(&self.state).before);
        before.iter().flat_map(|piece| std::mem::take(&mut lock(&piece.state).owed)).collect()
    }

    async fn tell(&self, changed: Vec<String>) -> Result<(), Gone> {
        for uri in changed {
            self.updates.send(Change::Resource { uri }).await.map_err(|_| Gone)?;
        }
        Ok(())
    }
}

/// Resolves then; never without a time.
pub(crate) async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
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
