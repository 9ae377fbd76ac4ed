//! Notices clients that take nothing of an answer that waits for them.
//!
//! Over HTTP/1.1 such a client lets its TCP window fill up, and the kernel ends the connection (`TCP_USER_TIMEOUT`). Over
//! h2 it may go on answering pings while one stream has no window (RFC 9113 §5.2): then hyper waits for the window before
//! it asks the body for more. So a stream whose task sleeps, and whose body was not asked since it last gave something,
//! waits for its client. Only then is there a timer: a stream that flows has none.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::{Instant, Sleep};
use tokio_util::task::TaskTracker;

/// What a task did with its body while it was polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Did {
    Nothing,
    /// The head of the answer is there, or a piece of its body was given: the next step is the client's.
    Gave,
    /// The body was asked, and has nothing: the next step is ours.
    Asked,
}

thread_local! {
    // Set while a stream's task is polled, read right after; never across an await.
    static DID: Cell<Did> = const { Cell::new(Did::Nothing) };
    static BEGUN: Cell<bool> = const { Cell::new(false) };
}

/// The head of the answer of the stream that is being polled is there.
pub(super) fn begun() {
    BEGUN.set(true);
    DID.set(Did::Gave);
}

/// The body that is being polled gave something, or has nothing to give yet.
pub(crate) fn polled(gave: bool) {
    DID.set(if gave { Did::Gave } else { Did::Asked });
}

/// Runs the streams of an h2 connection, and ends those whose client takes nothing for `patience`.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    pub(super) tasks: TaskTracker,
    pub(super) patience: Duration,
}

impl<F> Executor<F> for Streams
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        self.tasks.spawn(patiently(stream, self.patience));
    }
}

/// Drives a stream to its end, or drops it, which resets it.
async fn patiently<F: Future>(stream: F, patience: Duration) {
    let mut stream = pin!(stream);
    let (mut answering, mut timer) = (false, None::<Pin<Box<Sleep>>>);
    poll_fn(move |cx| {
        BEGUN.set(false);
        DID.set(Did::Nothing);
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        answering |= BEGUN.get();
        match DID.get() {
            // Before the head, bodies that are polled here are requests to others.
            _ if !answering => return Poll::Pending,
            Did::Asked => timer = None,
            Did::Gave => match &mut timer {
                Some(timer) => timer.as_mut().reset(Instant::now() + patience),
                None => timer = Some(Box::pin(tokio::time::sleep(patience))),
            },
            Did::Nothing => {}
        }
        let over = timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready());
        if over {
            tracing::debug!("a client takes nothing of its answer: its stream is reset");
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
}
