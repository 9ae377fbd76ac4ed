//! HTTP/1.1 connections that rest: between two requests nothing is left in hyper but empty buffers, of 16 KiB for each
//! connection. Where there are many connections, those that rest give theirs back, and get new ones with their next byte.
//!
//! ```text
//! serving -> the answer is flushed, the next head is awaited, none of it has come -> resting
//!         <-                    the socket is readable, or the listener stops     <-
//! ```
//!
//! A connection with a part of a head does not rest, and the clock for a head goes on through rests.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use hyper::rt::{Sleep, Timer};
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::handshake::ConnInfo;
use crate::stream::Stream;

#[cfg(test)]
mod tests;

/// What hyper has of one connection, as far as its socket and its clock show it. Only the connection's own task writes
/// and reads it.
#[derive(Debug)]
pub(super) struct Held {
    info: Arc<ConnInfo>,
    /// Requests when hyper began to wait for a head, and one more; 0 before the first wait.
    awaits: AtomicU64,
    /// When that wait ends, also where another engine goes on with it: microseconds since `began`.
    until: AtomicU64,
    began: Instant,
    /// Bytes came since then.
    unread: AtomicBool,
    /// Bytes were written, and not flushed since.
    unflushed: AtomicBool,
}

impl Held {
    pub(super) fn new(info: Arc<ConnInfo>) -> Arc<Self> {
        Arc::new(Self {
            info,
            awaits: AtomicU64::new(0),
            until: AtomicU64::new(0),
            began: TokioTimer::new().now(),
            unread: AtomicBool::new(false),
            unflushed: AtomicBool::new(false),
        })
    }

    /// By when the next head must be there.
    pub(super) fn deadline(&self) -> Instant {
        self.began + Duration::from_micros(self.until.load(Relaxed))
    }

    /// Waits for a head, of which a part may have come.
    pub(super) fn awaits_head(&self) -> bool {
        self.awaits.load(Relaxed) == self.info.requests() + 1
    }

    /// Nothing: the last answer is gone, and nothing has come of the next request.
    pub(super) fn nothing(&self) -> bool {
        self.awaits_head() && !self.unread.load(Relaxed) && !self.unflushed.load(Relaxed)
    }
}

/// hyper's clock for request heads. It is set when hyper begins to wait for one, after everything before was read and written.
///
/// hyper would make, register and drop a timer for each request. Here it only notes the time, and [`Deadline`] is the one timer of
/// the connection.
#[derive(Debug)]
pub(super) struct Clock(pub(super) Arc<Held>);

/// What hyper waits for: it never wakes. It has no size, so that boxing it allocates nothing.
#[derive(Debug)]
struct Noted;

impl Future for Noted {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl Sleep for Noted {}

/// The timer of a connection. It is moved only when it goes off too early: once in a while instead of with each request.
#[derive(Debug)]
pub(super) struct Deadline(Pin<Box<tokio::time::Sleep>>);

impl Deadline {
    /// No later than the first head must be there.
    pub(super) fn within(patience: Duration) -> Self {
        Self(Box::pin(tokio::time::sleep(patience)))
    }

    /// Ready when the head that is awaited should have come by now.
    pub(super) fn poll(&mut self, held: &Held, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.0.as_mut().poll(cx));
            let deadline = tokio::time::Instant::from_std(held.deadline());
            if deadline <= tokio::time::Instant::now() {
                return Poll::Ready(());
            }
            self.0.as_mut().reset(deadline);
        }
    }
}

impl Clock {
    /// One wait has one end, however many engines it takes: else a byte now and then would keep a connection for ever.
    fn note(&self, deadline: Instant) {
        let Self(held) = self;
        held.unread.store(false, Relaxed);
        let awaits = held.info.requests() + 1;
        if held.awaits.swap(awaits, Relaxed) != awaits {
            let until = deadline.saturating_duration_since(held.began).as_micros();
            held.until.store(u64::try_from(until).unwrap_or(u64::MAX), Relaxed);
        }
    }
}

impl Timer for Clock {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.note(deadline);
        Box::pin(Noted)
    }

    fn now(&self) -> Instant {
        TokioTimer::new().now()
    }

    fn reset(&self, _: &mut Pin<Box<dyn Sleep>>, new_deadline: Instant) {
        self.note(new_deadline);
    }
}

/// The stream under hyper, which notes what passes.
#[derive(Debug)]
pub(super) struct Io {
    stream: Stream,
    /// Read by an earlier engine, and not used.
    before: Bytes,
    held: Arc<Held>,
}

impl Io {
    pub(super) fn new(stream: Stream, held: Arc<Held>) -> Self {
        Self { stream, before: Bytes::new(), held }
    }

    /// Gives these bytes to its reader before all others. Empty ones may be a whole buffer, which is let go of.
    pub(super) fn reading_first(self, before: Bytes) -> Self {
        #[cfg(test)]
        tests::RESTS.with(|rests| rests.set(rests.get() + 1));
        Self { before: if before.is_empty() { Bytes::new() } else { before }, ..self }
    }

    /// Ready when there is something to read, which may be the end.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.before.is_empty() { self.stream.poll_readable(cx) } else { Poll::Ready(()) }
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let had = buf.filled().len();
        let polled = if this.before.is_empty() {
            Pin::new(&mut this.stream).poll_read(cx, buf)
        } else {
            let count = this.before.len().min(buf.remaining());
            buf.put_slice(&this.before[..count]);
            this.before.advance(count);
            if this.before.is_empty() {
                this.before = Bytes::new();
            }
            Poll::Ready(Ok(()))
        };
        if buf.filled().len() > had {
            this.held.unread.store(true, Relaxed);
        }
        polled
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.held.unflushed.store(true, Relaxed);
        Pin::new(&mut this.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.held.unflushed.store(true, Relaxed);
        Pin::new(&mut this.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.held.unflushed.store(!matches!(flushed, Poll::Ready(Ok(()))), Relaxed);
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // The end is something that is to be written, too.
        this.held.unflushed.store(true, Relaxed);
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}
