//! Clients of 2025-11-25 and older: one session, whose id and version go with every request, and a stream for what the
//! mesh says outside of any request.
//!
//! Source: MCP 2025-11-25, basic/transports, "Session Management" and "Listening for Messages from the Server".

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use outrigger_mcp::envelope::{Field, Message, Shape};
use outrigger_mcp::error::{RpcError, notification};
use outrigger_mcp::headers;
use outrigger_mcp::revision::Revision;
use tokio::time::{sleep, timeout};

use super::answer::{Ended, cut_off, pass_on};
use super::client::{Answer, Client, refusal};
use super::outbox::Outbox;

/// How often a stream that ends before the response is resumed.
const RESUMPTIONS: usize = 64;
/// The wait before a stream is opened again, unless the mesh names another; it doubles while nothing comes.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// For telling the mesh that the session is over.
const GOODBYE: Duration = Duration::from_secs(3);

/// The session of this client. There is at most one, because there is one client.
#[derive(Default)]
pub(super) struct Session {
    state: Mutex<State>,
    /// One restart at a time.
    restarting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    id: Option<HeaderValue>,
    version: Option<HeaderValue>,
    /// The client's `initialize`, to begin again when the mesh has forgotten the session.
    greeting: Option<Bytes>,
}

impl Session {
    /// Sends the client's `initialize` and keeps what the session is.
    pub(super) async fn initialize(&self, client: &Client, outbox: &Outbox, request: &Message) -> Result<(), RpcError> {
        self.close(client).await;
        let id = request.id();
        self.greet(client, request.body().clone(), id.as_ref(), Some(outbox)).await
    }

    /// Whether the client may send batches: 2025-03-26 alone has them.
    pub(super) fn may_batch(&self) -> bool {
        self.lock().version.as_ref().is_some_and(|version| version == Revision::V2025_03_26.as_str())
    }

    async fn greet(
        &self,
        client: &Client,
        greeting: Bytes,
        id: Option<&Bytes>,
        outbox: Option<&Outbox>,
    ) -> Result<(), RpcError> {
        let answer = client.post(greeting.clone(), HeaderMap::new()).await?;
        let session = answer.headers().get(headers::SESSION_ID).cloned();
        let mut version = None;
        let ended = pass_on(answer, id, outbox, |message| {
            if message.shape == Shape::Result {
                version = message.result_text(Field::ProtocolVersion).map(|text| text.into_owned());
            }
        });
        if !ended.await?.answered {
            return Err(cut_off());
        }
        let version = version.and_then(|version| HeaderValue::from_str(&version).ok());
        *self.lock() = State { id: session, version, greeting: Some(greeting) };
        Ok(())
    }

    /// Sends a request and passes the answer on, resuming its stream where the mesh ends it early.
    pub(super) async fn call(&self, client: &Client, outbox: &Outbox, request: &Message) -> Result<(), RpcError> {
        let id = request.id();
        let answer = self.post(client, request).await?;
        let mut ended = pass_on(answer, id.as_ref(), Some(outbox), |_| {}).await?;
        for _ in 0..RESUMPTIONS {
            let Ended { answered: false, last_event: Some(event), retry } = ended else {
                break;
            };
            sleep(retry.unwrap_or(FIRST_PAUSE).min(LONGEST_PAUSE)).await;
            let answer = client.get(self.resuming(Some(&event))).await?;
            if !answer.status().is_success() {
                return Err(cut_off());
            }
            ended = pass_on(answer, id.as_ref(), Some(outbox), |_| {}).await?;
            ended.last_event = ended.last_event.or(Some(event));
            ended.retry = ended.retry.or(retry);
        }
        if ended.answered { Ok(()) } else { Err(cut_off()) }
    }

    /// Sends a notification or a response.
    pub(super) async fn tell(&self, client: &Client, message: &Message) -> Result<(), RpcError> {
        let answer = self.post(client, message).await?;
        if answer.status().is_success() { Ok(()) } else { Err(refusal(answer.status())) }
    }

    /// Listens to what belongs to no request, until the mesh offers no such stream or the session is over.
    pub(super) async fn listen(&self, client: &Client, outbox: &Outbox) {
        let (mut last_event, mut pause) = (None, FIRST_PAUSE);
        loop {
            let session = self.id();
            let opened = client.get(self.resuming(last_event.as_ref())).await;
            let ended = match opened {
                Ok(answer) if answer.status() == StatusCode::METHOD_NOT_ALLOWED => return,
                Ok(answer) if answer.status() == StatusCode::NOT_FOUND && session.is_some() => {
                    last_event = None;
                    if let Err(error) = self.restart(client, session).await {
                        tracing::warn!("the session cannot be begun again: {}", error.message);
                    }
                    Ended::default()
                }
                Ok(answer) => pass_on(answer, None, Some(outbox), |_| {}).await.unwrap_or_default(),
                Err(error) => {
                    tracing::debug!("no stream from the mesh: {}", error.message);
                    Ended::default()
                }
            };
            pause = match (&ended.last_event, ended.retry) {
                (None, None) => (pause * 2).min(LONGEST_PAUSE),
                (_, retry) => retry.unwrap_or(FIRST_PAUSE).min(LONGEST_PAUSE),
            };
            last_event = ended.last_event.or(last_event);
            sleep(pause).await;
        }
    }

    /// Ends the session, if there is one.
    pub(super) async fn close(&self, client: &Client) {
        let headers = self.headers();
        let had = std::mem::take(&mut *self.lock());
        if had.id.is_some() {
            // The mesh forgets the session by itself in time.
            let _ = timeout(GOODBYE, client.delete(headers)).await;
        }
    }

    /// Sends a message. When the mesh has forgotten the session (it was started again), begins a new one and sends once more:
    /// it says so before it does anything with the message.
    async fn post(&self, client: &Client, message: &Message) -> Result<Answer, RpcError> {
        let session = self.id();
        let answer = client.post(message.body().clone(), self.headers()).await?;
        if answer.status() != StatusCode::NOT_FOUND || session.is_none() {
            return Ok(answer);
        }
        drop(answer);
        self.restart(client, session).await?;
        client.post(message.body().clone(), self.headers()).await
    }

    /// Begins the session again in place of `dead`, unless somebody did so meanwhile.
    async fn restart(&self, client: &Client, dead: Option<HeaderValue>) -> Result<(), RpcError> {
        let _one = self.restarting.lock().await;
        let Some(greeting) = self.lock().greeting.clone() else {
            return Err(refusal(StatusCode::NOT_FOUND));
        };
        if self.id() != dead {
            return Ok(());
        }
        tracing::warn!("the mesh has forgotten the session; a new one is begun");
        let id = Message::parse(greeting.clone()).ok().and_then(|message| message.id());
        self.greet(client, greeting, id.as_ref(), None).await?;
        let initialized = notification("notifications/initialized", None);
        let answer = client.post(initialized, self.headers()).await?;
        if answer.status().is_success() { Ok(()) } else { Err(refusal(answer.status())) }
    }

    fn headers(&self) -> HeaderMap {
        let state = self.lock();
        let given = [(headers::SESSION_ID, &state.id), (headers::PROTOCOL_VERSION, &state.version)];
        let set =
            |(name, value): (&'static str, &Option<HeaderValue>)| Some((HeaderName::from_static(name), value.clone()?));
        given.into_iter().filter_map(set).collect()
    }

    fn resuming(&self, last_event: Option<&Bytes>) -> HeaderMap {
        let mut map = self.headers();
        if let Some(event) = last_event.and_then(|event| HeaderValue::from_bytes(event).ok()) {
            map.insert(HeaderName::from_static(headers::LAST_EVENT_ID), event);
        }
        map
    }

    fn id(&self) -> Option<HeaderValue> {
        self.lock().id.clone()
    }

    /// Each change is one assignment, so a panic in between leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
