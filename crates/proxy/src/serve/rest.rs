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
use std::task::{Context, Poll};
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

    /// Nothing: the last answer is gone, and nothing has come of the next request.
    pub(super) fn nothing(&self) -> bool {
        let awaits_head = self.awaits.load(Relaxed) == self.info.requests() + 1;
        awaits_head && !self.unread.load(Relaxed) && !self.unflushed.load(Relaxed)
    }
}

/// hyper's clock for request heads. It is set when hyper begins to wait for one, after everything before was read and written.
#[derive(Debug)]
pub(super) struct Clock(pub(super) Arc<Held>);

impl Clock {
    /// One wait has one end, however many engines it takes: else a byte now and then would keep a connection for ever.
    fn set(&self, deadline: Instant) -> Instant {
        let Self(held) = self;
        held.unread.store(false, Relaxed);
        let awaits = held.info.requests() + 1;
        if held.awaits.swap(awaits, Relaxed) != awaits {
            let until = deadline.saturating_duration_since(held.began).as_micros();
            held.until.store(u64::try_from(until).unwrap_or(u64::MAX), Relaxed);
        }
        held.deadline()
    }
}

impl Timer for Clock {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        TokioTimer::new().sleep_until(self.set(deadline))
    }

    fn now(&self) -> Instant {
        TokioTimer::new().now()
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, new_deadline: Instant) {
        TokioTimer::new().reset(sleep, self.set(new_deadline));
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
