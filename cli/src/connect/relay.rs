//! The loop between the client and the mesh: reads lines, keeps the calls that are under way, cancels them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_mcp::envelope::{EnvelopeError, Message, Param, Rejected, Shape};
use outrigger_mcp::error::{INVALID_REQUEST, LIMITED, RpcError};
use outrigger_mcp::json::{Span, elements};
use outrigger_mcp::method::Method;
use tokio::io::AsyncRead;
use tokio::task::{self, AbortHandle, JoinSet};
use tokio::time::timeout;

use super::answer::{cut_off, pass_on};
use super::client::{Client, refusal};
use super::legacy::Session;
use super::lines::{Line, Lines, MAX_LINE};
use super::modern::{Tools, is_modern};
use super::outbox::Outbox;

/// Calls at once: one client is behind them all.
const MAX_CALLS: usize = 256;
/// A notification that the mesh does not take within this is given up, so that what follows gets through.
const NOTIFICATION: Duration = Duration::from_secs(10);

/// One client and its mesh.
pub(super) struct Relay {
    shared: Arc<Shared>,
    calls: JoinSet<()>,
    /// By raw id: `1` and `"1"` are two.
    running: HashMap<Bytes, Running>,
    ids: HashMap<task::Id, Bytes>,
    /// The stream for what belongs to no request.
    listener: JoinSet<()>,
}

struct Running {
    task: AbortHandle,
    /// Closing the stream is how a modern call is cancelled; for a legacy one the mesh is told.
    modern: bool,
    /// Never ends by itself.
    listens: bool,
}

struct Shared {
    client: Client,
    outbox: Outbox,
    session: Session,
    tools: Tools,
}

impl Relay {
    /// A relay without anything under way.
    pub(super) fn new(client: Client, outbox: Outbox) -> Self {
        let shared = Shared { client, outbox, session: Session::default(), tools: Tools::default() };
        Self {
            shared: Arc::new(shared),
            calls: JoinSet::new(),
            running: HashMap::new(),
            ids: HashMap::new(),
            listener: JoinSet::new(),
        }
    }

    /// Relays until the client ends its output.
    pub(super) async fn run(&mut self, input: impl AsyncRead + Unpin) {
        let mut lines = Lines::new(input, MAX_LINE);
        loop {
            tokio::select! {
                line = lines.next() => match line {
                    Ok(Some(line)) => self.take(line).await,
                    Ok(None) => return,
                    Err(error) => {
                        tracing::error!(%error, "the client's messages cannot be read");
                        return;
                    }
                },
                Some(ended) = self.calls.join_next_with_id() => self.forget(match ended {
                    Ok((id, ())) => id,
                    Err(error) => error.id(),
                }),
            }
        }
    }

    /// Lets calls end that end by themselves, within this time.
    pub(super) async fn finish(&mut self, patience: Duration) {
        self.running.values().filter(|running| running.listens).for_each(|running| running.task.abort());
        let all = async { while self.calls.join_next().await.is_some() {} };
        if timeout(patience, all).await.is_err() {
            tracing::warn!("calls were cut off, because the client has gone");
        }
    }

    /// Cancels what is under way and ends the session.
    pub(super) async fn close(mut self) {
        self.calls.shutdown().await;
        self.listener.shutdown().await;
        self.shared.session.close(&self.shared.client).await;
    }

    async fn take(&mut self, line: Line) {
        let outbox = &self.shared.outbox;
        let text = match line {
            Line::Text(text) => text,
            Line::TooLong => {
                let error = RpcError::new(INVALID_REQUEST, format!("a message has more than {MAX_LINE} bytes"));
                return outbox.send(error.reply(None)).await;
            }
        };
        match Message::parse(text.clone()) {
            Ok(message) => self.dispatch(message).await,
            Err(rejected) if rejected.error == EnvelopeError::Batch && self.shared.session.may_batch() => {
                self.batch(&text).await;
            }
            Err(rejected) => {
                let error = RpcError::new(rejected.error.code(), rejected.error.to_string());
                outbox.send(error.reply(rejected.id.as_deref())).await;
            }
        }
    }

    /// A batch (2025-03-26 basic, "Batching"): its responses are one line.
    async fn batch(&mut self, text: &Bytes) {
        let outbox = self.shared.outbox.clone();
        let messages = match split(text) {
            Ok(messages) => messages,
            Err(error) => return outbox.send(error.reply(None)).await,
        };
        let (mut responses, mut own) = (Vec::new(), outbox.clone());
        for message in messages {
            let response;
            (own, response) = own.aside();
            match message {
                Ok(message) if message.method == Method::Initialize => {
                    let error = RpcError::new(INVALID_REQUEST, "initialize must not be part of a batch");
                    own.send(error.reply(message.id().as_deref())).await;
                }
                Ok(message) if message.shape == Shape::Request => self.call(message, own.clone()).await,
                Ok(message) => self.dispatch(message).await,
                Err(rejected) => {
                    let error = RpcError::new(rejected.error.code(), rejected.error.to_string());
                    own.send(error.reply(rejected.id.as_deref())).await;
                }
            }
            responses.push(response);
        }
        drop(own);
        self.calls.spawn(async move {
            let mut line = Vec::new();
            for response in responses {
                // A notification has none, nor has what was cancelled.
                if let Ok(response) = response.await {
                    line.push(if line.is_empty() { b'[' } else { b',' });
                    line.extend_from_slice(&response);
                }
            }
            if !line.is_empty() {
                line.push(b']');
                outbox.send(line.into()).await;
            }
        });
    }

    async fn dispatch(&mut self, message: Message) {
        match (message.shape, message.method) {
            (Shape::Request, Method::Initialize) if !is_modern(&message) => {
                // Nothing may overtake it: what follows needs the session.
                self.listener.abort_all();
                let Shared { client, outbox, session, .. } = &*self.shared;
                if let Err(error) = session.initialize(client, outbox, &message).await {
                    outbox.send(error.reply(message.id().as_deref())).await;
                }
            }
            (Shape::Request, _) => self.call(message, self.shared.outbox.clone()).await,
            (Shape::Notification, Method::Cancelled) if self.cancel(&message) => {}
            (_, method) => {
                self.tell(&message).await;
                if method == Method::Cancelled {
                    self.give_up(&message);
                }
                if method == Method::Initialized && message.shape == Shape::Notification {
                    let shared = Arc::clone(&self.shared);
                    self.listener.spawn(async move { shared.session.listen(&shared.client, &shared.outbox).await });
                }
            }
        }
    }

    async fn call(&mut self, request: Message, outbox: Outbox) {
        let Some(id) = request.id() else {
            return;
        };
        let refused = if self.running.contains_key(&id) {
            Some(RpcError::new(INVALID_REQUEST, "a request with this id is under way"))
        } else if self.running.len() >= MAX_CALLS {
            Some(RpcError::new(LIMITED, format!("{MAX_CALLS} requests are under way")).with("reason", "in_flight"))
        } else {
            None
        };
        if let Some(error) = refused {
            return outbox.send(error.reply(Some(&id))).await;
        }
        let (modern, listens) = (is_modern(&request), request.method == Method::SubscriptionsListen);
        let shared = Arc::clone(&self.shared);
        let task = self.calls.spawn(async move { shared.answer(&request, &outbox).await });
        self.ids.insert(task.id(), id.clone());
        self.running.insert(id, Running { task, modern, listens });
    }

    /// Cancels a modern call by closing its stream, which is what HTTP has for it. False when that is not the way.
    fn cancel(&mut self, notification: &Message) -> bool {
        let id = notification.params().get(Param::RequestId).map(|span| notification.slice(span));
        let Some(running) = id.and_then(|id| self.running.get(&id)).filter(|running| running.modern) else {
            // A modern client may be late; the mesh would not know what to do with it.
            return is_modern(notification);
        };
        running.task.abort();
        true
    }

    /// Waits no longer for a call that the mesh was told to cancel: it gets no answer.
    fn give_up(&mut self, notification: &Message) {
        let id = notification.params().get(Param::RequestId).map(|span| notification.slice(span));
        if let Some(running) = id.and_then(|id| self.running.get(&id)) {
            running.task.abort();
        }
    }

    async fn tell(&self, message: &Message) {
        match timeout(NOTIFICATION, self.shared.tell(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("a message of the client was not taken: {}", error.message),
            Err(_) => tracing::warn!("a message of the client was not taken in time"),
        }
    }

    fn forget(&mut self, task: task::Id) {
        if let Some(id) = self.ids.remove(&task) {
            self.running.remove(&id);
        }
    }
}

impl Shared {
    /// Sends a request, passes its messages on, and sees to it that there is a response.
    async fn answer(&self, request: &Message, outbox: &Outbox) {
        let answered = if is_modern(request) {
            self.call_modern(request, outbox).await
        } else {
            self.session.call(&self.client, outbox, request).await
        };
        if let Err(error) = answered {
            outbox.send(error.reply(request.id().as_deref())).await;
        }
    }

    async fn call_modern(&self, request: &Message, outbox: &Outbox) -> Result<(), RpcError> {
        let answer = self.client.post(request.body().clone(), self.tools.headers(request)).await?;
        let (id, lists_tools) = (request.id(), request.method == Method::ToolsList);
        let look = |message: &Message| {
            if lists_tools {
                self.tools.learn(message);
            }
        };
        let ended = pass_on(answer, id.as_ref(), Some(outbox), look).await?;
        if ended.answered { Ok(()) } else { Err(cut_off()) }
    }

    async fn tell(&self, message: &Message) -> Result<(), RpcError> {
        if !is_modern(message) {
            return self.session.tell(&self.client, message).await;
        }
        let answer = self.client.post(message.body().clone(), self.tools.headers(message)).await?;
        if answer.status().is_success() { Ok(()) } else { Err(refusal(answer.status())) }
    }
}

/// The messages of a batch.
fn split(text: &Bytes) -> Result<Vec<Result<Message, Rejected>>, RpcError> {
    let whole = Span { start: 0, end: u32::try_from(text.len()).unwrap_or_default() };
    let spans = elements(text, whole).unwrap_or_default();
    match spans.len() {
        0 => Err(RpcError::new(INVALID_REQUEST, "a batch must not be empty")),
        1..=MAX_CALLS => Ok(spans.iter().map(|span| Message::parse(text.slice(span.range()))).collect()),
        more => Err(RpcError::new(INVALID_REQUEST, format!("a batch of {more} messages; the limit is {MAX_CALLS}"))),
    }
}

#[cfg(test)]
mod tests;
