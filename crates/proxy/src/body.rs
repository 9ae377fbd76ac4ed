//! The one body type that we send, in both directions, and a bounded reader for the bodies that we must see whole.
//!
//! hyper stores the body of every message inside the connection, so the type is concrete (no boxing per message) and
//! small. A body knows how many bytes it gave away and tells its [`OnEnd`] hook once, whatever way it ends: that is
//! where a request is recorded.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use crate::pool::PooledBody;
use crate::serve::stalled;

mod read;
#[cfg(test)]
mod tests;
mod unwanted;
mod watched;

pub use read::{ReadError, read_bounded};
pub use unwanted::take_unwanted;
pub use watched::{Owed, outcome_of};

use watched::Watched;

/// Bodies of several parts below this size are joined when they are made: one small copy is cheaper than the
/// bookkeeping of several buffers in hyper's write queue and in the TLS record layer.
const JOIN_BELOW: usize = 4096;

/// Most bytes of a large piece that are handed over at once. hyper takes a piece whole, however slowly its peer reads: only
/// what it has not been given yet counts as not sent, and keeps the place of its call.
const PIECE: usize = 64 * 1024;

/// How a body ended, as told to [`OnEnd`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// Every byte was handed to the connection.
    Completed,
    /// The source of the bytes broke off (upstream died, producer gave up).
    Failed,
    /// The connection let go of the body before its end: the peer went away, or we are closing.
    Dropped,
}

/// Called once when a body is over. A plain trait so that a record type can implement it without another closure box.
pub trait OnEnd: Send {
    /// `bytes` is the payload handed to the connection, without framing.
    fn ended(self: Box<Self>, bytes: u64, end: BodyEnd);
}

impl<F: FnOnce(u64, BodyEnd) + Send> OnEnd for F {
    fn ended(self: Box<Self>, bytes: u64, end: BodyEnd) {
        self(bytes, end);
    }
}

/// Why a body stopped before its end. hyper then cuts the connection (HTTP/1.1) or resets the stream (h2), so that the
/// peer never takes a part for the whole.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection that the bytes came from failed.
    #[error("the body's source failed: {0}")]
    Source(#[from] hyper::Error),
    /// The [`BodySender`] was dropped without [`BodySender::finish`].
    #[error("the body's producer stopped before the end")]
    Abandoned,
}

/// A body that we send.
pub struct OutBody {
    source: Source,
    bytes: u64,
    on_end: Option<Box<dyn OnEnd>>,
}

enum Source {
    Empty,
    Full(Bytes),
    Chunks {
        parts: std::vec::IntoIter<Bytes>,
        left: u64,
    },
    Incoming(Incoming),
    Pooled(PooledBody),
    /// Boxed: the state is large, and most bodies are whole.
    Watched(Box<Watched>),
    Stream(mpsc::Receiver<Part>),
}

/// What travels from a [`BodySender`] to its body.
enum Part {
    Data(Bytes),
    End,
}

impl OutBody {
    /// A body of no bytes.
    pub fn empty() -> Self {
        Self::new(Source::Empty)
    }

    /// A body that is one piece.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::new(if bytes.is_empty() { Source::Empty } else { Source::Full(bytes) })
    }

    /// A body of several pieces, sent one after the other without a copy (small ones are joined, see the module).
    pub fn chunks(parts: Vec<Bytes>) -> Self {
        let total: usize = parts.iter().map(Bytes::len).sum();
        if total >= JOIN_BELOW {
            return Self::new(Source::Chunks { parts: parts.into_iter(), left: total as u64 });
        }
        let mut joined = BytesMut::with_capacity(total);
        for part in &parts {
            joined.extend_from_slice(part);
        }
        Self::full(joined.freeze())
    }

    /// A streamed body and the hand that feeds it. At most `capacity` pieces wait between them; a full channel makes the
    /// producer wait, which is how back-pressure reaches it.
    pub fn channel(capacity: usize) -> (BodySender, Self) {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        (BodySender { parts: sender }, Self::new(Source::Stream(receiver)))
    }

    /// A reply that is passed on unread: `events` says that it is an event stream. Where it breaks off between two events,
    /// an error is its last one.
    pub fn reply(body: PooledBody, events: bool, owed: Owed) -> Self {
        Self::new(Source::Watched(Box::new(Watched::new(body, events, owed))))
    }

    /// Adds the hook. It replaces an earlier one.
    #[must_use]
    pub fn on_end(mut self, hook: Box<dyn OnEnd>) -> Self {
        self.on_end = Some(hook);
        self
    }

    fn new(source: Source) -> Self {
        Self { source, bytes: 0, on_end: None }
    }

    fn finish(&mut self, end: BodyEnd) {
        if let Some(hook) = self.on_end.take() {
            hook.ended(self.bytes, end);
        }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.source {
            Source::Empty => Poll::Ready(None),
            Source::Full(bytes) => {
                let piece = bytes.split_to(bytes.len().min(PIECE));
                if bytes.is_empty() {
                    self.source = Source::Empty;
                }
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Source::Chunks { parts, left } => {
                // hyper takes an empty frame for noise, but h2 would send it: skip.
                let next = parts.find(|part| !part.is_empty());
                *left -= next.as_ref().map_or(0, |part| part.len() as u64);
                Poll::Ready(next.map(|part| Ok(Frame::data(part))))
            }
            Source::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::Source),
            Source::Pooled(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::Source),
            Source::Watched(body) => body.poll(cx),
            Source::Stream(parts) => parts.poll_recv(cx).map(|part| match part {
                Some(Part::Data(bytes)) => Some(Ok(Frame::data(bytes))),
                Some(Part::End) => {
                    self.source = Source::Empty;
                    None
                }
                None => Some(Err(BodyError::Abandoned)),
            }),
        }
    }
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = this.poll_source(cx);
        stalled::polled(polled.is_ready());
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                this.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                // hyper does not poll again once the end is known, so the end is announced with the last piece.
                if this.is_end_stream() {
                    this.finish(BodyEnd::Completed);
                }
            }
            Poll::Ready(Some(Err(_))) => {
                this.source = Source::Empty;
                this.finish(BodyEnd::Failed);
            }
            Poll::Ready(None) => this.finish(BodyEnd::Completed),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Full(_) | Source::Stream(_) => false,
            Source::Chunks { left, .. } => *left == 0,
            Source::Incoming(body) => body.is_end_stream(),
            Source::Pooled(body) => body.is_end_stream(),
            Source::Watched(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Chunks { left, .. } => SizeHint::with_exact(*left),
            Source::Incoming(body) => body.size_hint(),
            Source::Pooled(body) => body.size_hint(),
            Source::Watched(body) => body.inner().size_hint(),
            Source::Stream(_) => SizeHint::default(),
        }
    }
}

impl Drop for OutBody {
    fn drop(&mut self) {
        // A body without bytes is never polled by hyper: being dropped is how it completes.
        let end = if self.is_end_stream() { BodyEnd::Completed } else { BodyEnd::Dropped };
        self.finish(end);
    }
}

impl std::fmt::Debug for OutBody {
    /// Sizes only: a payload must not reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutBody").field("sent", &self.bytes).field("left", &self.size_hint()).finish_non_exhaustive()
    }
}

impl From<Bytes> for OutBody {
    fn from(bytes: Bytes) -> Self {
        Self::full(bytes)
    }
}

impl From<Incoming> for OutBody {
    fn from(body: Incoming) -> Self {
        Self::new(Source::Incoming(body))
    }
}

impl From<PooledBody> for OutBody {
    fn from(body: PooledBody) -> Self {
        Self::new(Source::Pooled(body))
    }
}

/// Feeds a streamed [`OutBody`]. Dropped without [`BodySender::finish`], it breaks the body off, so that a producer
/// that fails or panics never leaves a message that looks whole.
#[derive(Debug)]
pub struct BodySender {
    parts: mpsc::Sender<Part>,
}

/// The body is gone: the peer went away or the connection was cut. Nothing that is sent will arrive.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads this body any more")]
pub struct BodyGone;

impl BodySender {
    /// Queues one piece, waiting while the channel is full. Cancelling the future loses the piece, nothing else.
    pub async fn send(&self, bytes: Bytes) -> Result<(), BodyGone> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.parts.send(Part::Data(bytes)).await.map_err(|_| BodyGone)
    }

    /// Ends the body cleanly. Waits for room in the channel, like [`BodySender::send`].
    pub async fn finish(self) -> Result<(), BodyGone> {
        self.parts.send(Part::End).await.map_err(|_| BodyGone)
    }

    /// Resolves when nobody reads the body any more: the way a producer with nothing to say learns that its caller
    /// went away.
    pub async fn gone(&self) {
        self.parts.closed().await;
    }
}
