//! The body of a pooled response: streams from the connection and gives the connection back at its end.
//!
//! An upstream that sends many small pieces faster than they are passed on, as in a flood of events, has them joined: each
//! piece costs its reader a write of its own, or an h2 frame. Nothing is waited for.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::h1::H1;
use super::h2::H2Stream;
use super::{Shared, Slot};

/// A response body. Read to its end, its HTTP/1.1 connection goes back to the pool; dropped before, the connection is
/// closed (h2: the stream is reset), which is how the upstream learns that its caller went away.
pub struct PooledBody {
    incoming: Incoming,
    lease: Lease,
    /// The last poll gave a piece: where another is there already, more may be.
    streak: bool,
    /// What came behind joined pieces and is not one of them.
    behind: Option<Box<Polled>>,
}

type Polled = Option<Result<Frame<Bytes>, hyper::Error>>;

/// Pieces below this size are joined, bytes: a copy of them is cheaper than what follows from each piece.
const SMALL: usize = 1024;

/// Joined pieces are no larger, bytes: half of a TLS record.
const JOINED: usize = 8 * 1024;

/// What the response occupies until its end.
enum Lease {
    H1(H1Lease),
    H2 {
        _stream: H2Stream,
    },
    /// The body has ended and the connection is elsewhere.
    Returned,
}

/// An HTTP/1.1 connection in use.
pub(super) struct H1Lease {
    pub(super) connection: Box<H1>,
    /// The generation it was opened in: after a [`super::Pool::retire`] it is not kept.
    pub(super) generation: u64,
    pub(super) slot: Slot,
}

impl PooledBody {
    pub(super) fn h1(incoming: Incoming, lease: H1Lease) -> Self {
        let mut this = Self { incoming, lease: Lease::H1(lease), streak: false, behind: None };
        if this.incoming.is_end_stream() {
            this.give_back();
        }
        this
    }

    pub(super) fn h2(incoming: Incoming, stream: H2Stream) -> Self {
        Self { incoming, lease: Lease::H2 { _stream: stream }, streak: false, behind: None }
    }

    fn give_back(&mut self) {
        if let Lease::H1(lease) = std::mem::replace(&mut self.lease, Lease::Returned) {
            let shared: Arc<Shared> = Arc::clone(lease.slot.shared());
            shared.give_back(lease);
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Polled> {
        if let Some(behind) = self.behind.take() {
            return Poll::Ready(*behind);
        }
        let polled = match &mut self.lease {
            Lease::H1(lease) => lease.connection.poll_frame(&mut self.incoming, cx),
            Lease::H2 { .. } | Lease::Returned => Pin::new(&mut self.incoming).poll_frame(cx),
        };
        match &polled {
            Poll::Ready(Some(Ok(_))) if !self.incoming.is_end_stream() => {}
            Poll::Ready(Some(Ok(_)) | None) => self.give_back(),
            // The connection is in an unknown state: let go of it.
            Poll::Ready(Some(Err(_))) => self.lease = Lease::Returned,
            Poll::Pending => {}
        }
        polled
    }

    /// `first`, and the small pieces behind it that are there already.
    fn join(&mut self, first: Bytes, cx: &mut Context<'_>) -> Bytes {
        let mut joined: Option<BytesMut> = None;
        let mut size = first.len();
        while !self.is_end_stream() {
            let Poll::Ready(polled) = self.poll_piece(cx) else { break };
            match polled {
                Some(Ok(frame))
                    if frame.data_ref().is_some_and(|more| more.len() < SMALL && size + more.len() <= JOINED) =>
                {
                    let more = frame.into_data().unwrap_or_default();
                    size += more.len();
                    joined.get_or_insert_with(|| begun(&first, size)).extend_from_slice(&more);
                }
                other => {
                    self.behind = Some(Box::new(other));
                    break;
                }
            }
        }
        joined.map_or(first, BytesMut::freeze)
    }
}

/// With little more room than there are bytes: what holds them for a slow reader counts bytes, not room.
fn begun(first: &[u8], size: usize) -> BytesMut {
    let mut joined = BytesMut::with_capacity(2 * size);
    joined.extend_from_slice(first);
    joined
}

impl Body for PooledBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Polled> {
        let this = self.get_mut();
        let streak = std::mem::take(&mut this.streak);
        let polled = ready!(this.poll_piece(cx));
        this.streak = true;
        Poll::Ready(match polled {
            Some(Ok(frame)) if streak && frame.data_ref().is_some_and(|data| data.len() < SMALL) => {
                let first = frame.into_data().unwrap_or_default();
                Some(Ok(Frame::data(this.join(first, cx))))
            }
            other => other,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.behind.is_none() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (left, mut hint) = (self.incoming.size_hint(), SizeHint::new());
        let behind = match self.behind.as_deref() {
            Some(Some(Ok(frame))) => frame.data_ref().map_or(0, Bytes::len) as u64,
            _ => 0,
        };
        hint.set_lower(left.lower() + behind);
        if let Some(upper) = left.upper() {
            hint.set_upper(upper + behind);
        }
        hint
    }
}

impl std::fmt::Debug for PooledBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PooledBody").field("left", &self.size_hint()).finish_non_exhaustive()
    }
}
