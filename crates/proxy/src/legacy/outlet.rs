//! The answer to one POST: JSON as long as there is nothing but replies, an event stream from the first other message.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::body::OutBody;
use crate::failure::Failure;
use crate::listens::Listening;
use crate::peek::Accepts;
use crate::reply::{self, Dialect};
use bytes::Bytes;
use http::Response;
use outrigger_mcp::envelope::Message;
use tokio::sync::oneshot;

use super::resume::{EventStream, Reader};
use super::seam::Route;
use super::session::Session;

/// Where the requests of one POST put what they have for the client.
#[derive(Debug)]
pub(super) struct Outlet {
    session: Arc<Session>,
    accepts: Accepts,
    /// Whether the stream is there for more than these requests.
    lasts: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Requests at work.
    open: usize,
    /// Replies so far, while there is no stream.
    replies: Vec<Answer>,
    /// What the only request failed with.
    failed: Option<(Failure, Option<Bytes>)>,
    /// Whether any request got a reply; a cancelled one gets none.
    replied: bool,
    stream: Option<Arc<EventStream>>,
    first: Option<oneshot::Sender<First>>,
}

/// What the response to the POST begins with.
#[derive(Debug)]
pub(super) enum First {
    /// These replies are all there is.
    Replies(Vec<Answer>),
    /// A failure is all there is, with the id of its request.
    Failed(Failure, Option<Bytes>),
    /// An event stream.
    Stream(Reader),
}

/// The reply to one request, as it is sent.
#[derive(Debug)]
pub(super) enum Answer {
    /// Made for this request.
    Whole(Bytes),
    /// In pieces, of which others get the same.
    Pieces(Vec<Bytes>),
}

impl Answer {
    fn flat(self) -> Bytes {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Pieces(pieces) => outrigger_mcp::edit::concat(&pieces),
        }
    }
}

impl From<Bytes> for Answer {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(bytes)
    }
}

/// The part of one request in the answer. Dropping it without a reply means that there is none.
#[derive(Debug)]
pub(super) struct Turn(Arc<Outlet>);

impl Outlet {
    /// An outlet, and who learns what the response begins with. Take as many turns as there are requests before any of
    /// them ends.
    pub(super) fn new(session: &Arc<Session>, accepts: Accepts) -> (Arc<Self>, oneshot::Receiver<First>) {
        let (sender, first) = oneshot::channel();
        let state =
            State { open: 0, replies: Vec::new(), failed: None, replied: false, stream: None, first: Some(sender) };
        let outlet = Arc::new(Self { session: Arc::clone(session), accepts, lasts: false, state: Mutex::new(state) });
        if !accepts.json {
            outlet.stream();
        }
        (outlet, first)
    }

    /// An outlet onto a stream that is there already and lasts.
    pub(super) fn onto(session: &Arc<Session>, stream: Arc<EventStream>) -> Arc<Self> {
        let (open, replies, failed, replied) = (0, Vec::new(), None, false);
        let state = State { open, replies, failed, replied, stream: Some(stream), first: None };
        let accepts = Accepts { json: true, stream: true };
        Arc::new(Self { session: Arc::clone(session), accepts, lasts: true, state: Mutex::new(state) })
    }

    /// Begins a request.
    pub(super) fn turn(self: &Arc<Self>) -> Turn {
        self.lock().open += 1;
        Turn(Arc::clone(self))
    }

    /// The event stream, begun now if it was not; `None` when the client takes none.
    pub(super) fn stream(&self) -> Option<Arc<EventStream>> {
        if !self.accepts.stream {
            return None;
        }
        let mut state = self.lock();
        if let Some(stream) = &state.stream {
            return Some(Arc::clone(stream));
        }
        let first = state.first.take()?;
        let stream = self.session.open_stream();
        stream.prime();
        let reader = stream.attach(&self.session.closed);
        for reply in state.replies.drain(..) {
            stream.push_first(&reply.flat());
        }
        state.stream = Some(Arc::clone(&stream));
        drop(state);
        // When the client is gone already, the reader is dropped: the stream waits for nobody.
        drop(first.send(First::Stream(reader)));
        Some(stream)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Whether messages other than the reply can reach the client.
    pub(super) fn can_stream(&self) -> bool {
        self.0.accepts.stream
    }

    /// Sends a message that is not the reply. Waits for a client that reads slowly.
    pub(super) async fn event(&self, message: &[u8]) {
        if let Some(stream) = self.0.stream() {
            stream.push(message).await;
        }
    }

    /// Sends the reply.
    pub(super) async fn reply(self, reply: impl Into<Answer>) {
        let reply = reply.into();
        let stream = {
            let mut state = self.0.lock();
            state.replied = true;
            let Some(stream) = state.stream.clone() else {
                state.replies.push(reply);
                return;
            };
            stream
        };
        stream.push(&reply.flat()).await;
    }

    /// Sends a failure as the reply.
    pub(super) async fn fail(self, failure: Failure, id: Option<Bytes>) {
        let told = failure.rpc().reply(id.as_deref());
        {
            let mut state = self.0.lock();
            if state.stream.is_none() {
                state.failed = Some((failure, id));
            }
        }
        self.reply(told).await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.open -= 1;
        if state.open > 0 || self.0.lasts {
            return;
        }
        if let Some(stream) = &state.stream {
            if !state.replied {
                // All was cancelled: nothing is left to come back for.
                self.0.session.forget_stream(stream);
            }
            stream.end();
        } else if let Some(first) = state.first.take() {
            let replies = std::mem::take(&mut state.replies);
            let only = state.failed.take().filter(|_| replies.len() == 1);
            drop(first.send(match only {
                Some((failure, id)) => First::Failed(failure, id),
                None => First::Replies(replies),
            }));
        }
    }
}

/// The response that carries one reply.
pub(super) fn single(accepts: Accepts, reply: Bytes) -> Response<OutBody> {
    if accepts.json {
        return reply::json(http::StatusCode::OK, reply);
    }
    reply::event_stream(OutBody::full(outrigger_mcp::sse::event(&reply)))
}

/// The response for what the answer begins with. `array` asks for an array of replies, as a batch does.
pub(super) fn response(session: &Arc<Session>, first: First, array: bool) -> Response<OutBody> {
    match first {
        First::Stream(reader) => stream_response(session, reader, None),
        First::Failed(failure, id) if !array => reply::failure(&failure, id.as_deref(), Dialect::Legacy),
        First::Failed(failure, id) => replies_response(vec![failure.rpc().reply(id.as_deref()).into()], array),
        First::Replies(replies) => replies_response(replies, array),
    }
}

/// The response that writes what a reader reads. `place` is given back when it is over.
pub(super) fn stream_response(session: &Arc<Session>, reader: Reader, place: Option<Listening>) -> Response<OutBody> {
    // Few: the ring behind it is what holds events for a client that reads slowly.
    let (sender, body) = OutBody::channel(4);
    let keepalive = session.bounds.keepalive;
    session.tasks.spawn(async move {
        reader.pump(sender, keepalive, None).await;
        drop(place);
    });
    reply::event_stream(body)
}

fn replies_response(mut replies: Vec<Answer>, array: bool) -> Response<OutBody> {
    match replies.pop() {
        // Every request was cancelled, and a cancelled request gets no reply.
        None => reply::event_stream(OutBody::empty()),
        Some(Answer::Whole(only)) if !array => reply::json(http::StatusCode::OK, only),
        Some(Answer::Pieces(pieces)) if !array => reply::json_pieces(http::StatusCode::OK, pieces),
        Some(last) => {
            replies.push(last);
            let mut pieces = Vec::with_capacity(replies.len() * 2 + 1);
            for (i, one) in replies.into_iter().enumerate() {
                pieces.push(Bytes::from_static(if i == 0 { b"[" } else { b"," }));
                match one {
                    Answer::Whole(bytes) => pieces.push(bytes),
                    Answer::Pieces(of_one) => pieces.extend(of_one),
                }
            }
            pieces.push(Bytes::from_static(b"]"));
            reply::json_pieces(http::StatusCode::OK, pieces)
        }
    }
}

/// A message that the mesh gave us, read.
///
/// # Errors
/// [`Failure::Broken`] when it is none.
pub(super) fn read(route: &Route, body: Bytes) -> Result<Message, Failure> {
    Message::parse(body).map_err(|_| Failure::Broken {
        service: super::service_name(route),
        reason: "it answered with something that is no message".into(),
    })
}
