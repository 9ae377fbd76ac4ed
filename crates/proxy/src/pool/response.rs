//! The body of a pooled response: streams from the connection and gives the connection back at its end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
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
}

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
        let mut this = Self { incoming, lease: Lease::H1(lease) };
        if this.incoming.is_end_stream() {
            this.give_back();
        }
        this
    }

    pub(super) fn h2(incoming: Incoming, stream: H2Stream) -> Self {
        Self { incoming, lease: Lease::H2 { _stream: stream } }
    }

    fn give_back(&mut self) {
        if let Lease::H1(lease) = std::mem::replace(&mut self.lease, Lease::Returned) {
            let shared: Arc<Shared> = Arc::clone(lease.slot.shared());
            shared.give_back(lease);
        }
    }
}

impl Body for PooledBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let polled = match &mut this.lease {
            Lease::H1(lease) => lease.connection.poll_frame(&mut this.incoming, cx),
            Lease::H2 { .. } | Lease::Returned => Pin::new(&mut this.incoming).poll_frame(cx),
        };
        match &polled {
            Poll::Ready(Some(Ok(_))) if !this.incoming.is_end_stream() => {}
            Poll::Ready(Some(Ok(_)) | None) => this.give_back(),
            // The connection is in an unknown state: let go of it.
            Poll::Ready(Some(Err(_))) => this.lease = Lease::Returned,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl std::fmt::Debug for PooledBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PooledBody").field("left", &self.size_hint()).finish_non_exhaustive()
    }
}
