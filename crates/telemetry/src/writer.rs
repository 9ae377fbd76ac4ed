//! A bounded queue of records and the one thread that formats and writes them.
//!
//! ```text
//!  request tasks --try_send--> [ bounded queue ] --> writer thread: format a batch, one write, rest, again
//! ```
//!
//! After a batch the thread rests for [`BATCH_REST`] before it looks again, so that under load a record costs its
//! sender no wake-up of another thread; after an empty look it sleeps until the next record.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Serialize;

use crate::metrics::DropCounter;
use crate::sink::{Output, Sink, SinkError};

/// How long lines gather under load. Short enough for `tail -f`, long enough for 50 wake-ups a second at most.
const BATCH_REST: Duration = Duration::from_millis(20);
/// How long a sink that failed is left alone.
const RETRY_REST: Duration = Duration::from_millis(200);
/// Most records of one write: bounds the buffer of lines.
const BATCH_RECORDS: usize = 512;

/// A log cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// The sink cannot be opened.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The thread cannot be started.
    #[error("cannot start the thread that writes the {name} log: {cause}")]
    Thread {
        /// Which log.
        name: &'static str,
        /// What the system says.
        cause: io::Error,
    },
}

/// A record was not taken: the queue is full, or the writer was closed. It has been counted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overflow;

/// The sending half and the owner of the thread. Dropping it closes it.
pub(crate) struct Writer<R> {
    queue: SyncSender<Message<R>>,
    capacity: usize,
    thread: Mutex<Option<JoinHandle<()>>>,
    state: Arc<State>,
}

/// Records are boxed: a queue of plain records would cost an idle process its full size in memory.
enum Message<R> {
    Record(Box<R>),
    Close,
}

/// Written by both sides.
struct State {
    queued: AtomicUsize,
    /// The last write failed; the next that succeeds clears it.
    failing: AtomicBool,
    reopen: AtomicBool,
    /// A failing sink is not tried again.
    closing: AtomicBool,
    dropped: DropCounter,
}

impl<R: Serialize + Send + 'static> Writer<R> {
    /// Opens the sink and starts the thread. `None` when the sink is off.
    pub(crate) fn start(
        name: &'static str,
        sink: &Sink,
        capacity: usize,
        dropped: DropCounter,
    ) -> Result<Option<Self>, WriterError> {
        let Some(output) = sink.open()? else { return Ok(None) };
        let (queue, messages) = sync_channel(capacity);
        let state = Arc::new(State {
            queued: AtomicUsize::new(0),
            failing: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            dropped,
        });
        let shared = Arc::clone(&state);
        let thread = thread::Builder::new()
            .name(format!("{name}-log"))
            .spawn(move || WriterThread { name, output, state: shared, lines: Vec::new() }.run(&messages))
            .map_err(|cause| WriterError::Thread { name, cause })?;
        Ok(Some(Self { queue, capacity, thread: Mutex::new(Some(thread)), state }))
    }
}

impl<R> Writer<R> {
    /// Queues a record; never blocks. A record that is not taken is counted as dropped.
    pub(crate) fn push(&self, record: R) -> Result<(), Overflow> {
        self.state.queued.fetch_add(1, Ordering::Relaxed);
        self.queue.try_send(Message::Record(Box::new(record))).map_err(|_| {
            self.state.queued.fetch_sub(1, Ordering::Relaxed);
            self.state.dropped.add(1);
            Overflow
        })
    }

    /// Whether more than half of the queue is taken.
    pub(crate) fn crowded(&self) -> bool {
        self.state.queued.load(Ordering::Relaxed) > self.capacity / 2
    }

    /// Whether the last write failed.
    pub(crate) fn failing(&self) -> bool {
        self.state.failing.load(Ordering::Relaxed)
    }

    /// Makes the next write open the file again under its name.
    pub(crate) fn reopen(&self) {
        self.state.reopen.store(true, Ordering::Relaxed);
    }

    /// Writes out what is queued and ends the thread. Blocks for the time of the writes; later records are dropped.
    pub(crate) fn close(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            self.state.closing.store(true, Ordering::Relaxed);
            // Both fail only if the thread is gone, which is what is wanted.
            let _ = self.queue.send(Message::Close);
            let _ = thread.join();
        }
    }
}

impl<R> Drop for Writer<R> {
    fn drop(&mut self) {
        self.close();
    }
}

/// What lives on the writer's thread.
struct WriterThread {
    name: &'static str,
    output: Output,
    state: Arc<State>,
    lines: Vec<u8>,
}

impl WriterThread {
    #[expect(clippy::disallowed_methods, reason = "this is the writer's own thread; no request waits on it")]
    fn run<R: Serialize>(mut self, messages: &Receiver<Message<R>>) {
        while let Ok(Message::Record(first)) = messages.recv() {
            let mut next = Some(first);
            while let Some(record) = next {
                if self.write_batch(record, messages) {
                    return;
                }
                thread::sleep(BATCH_REST);
                next = match messages.try_recv() {
                    Ok(Message::Record(record)) => Some(record),
                    Ok(Message::Close) | Err(TryRecvError::Disconnected) => return,
                    Err(TryRecvError::Empty) => None,
                };
            }
        }
    }

    /// Writes `first` and all that is queued, a bounded number of lines at a time. True when closed.
    fn write_batch<R: Serialize>(&mut self, first: Box<R>, messages: &Receiver<Message<R>>) -> bool {
        let mut count = 1;
        self.format(&first);
        drop(first);
        loop {
            let message = messages.try_recv();
            if let Ok(Message::Record(record)) = &message {
                self.format(record);
                count += 1;
                if count < BATCH_RECORDS {
                    continue;
                }
            }
            self.write(count);
            count = 0;
            match message {
                Ok(Message::Record(_)) => {}
                Ok(Message::Close) => return true,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn format<R: Serialize>(&mut self, record: &R) {
        let start = self.lines.len();
        match serde_json::to_writer(&mut self.lines, record) {
            Ok(()) => self.lines.push(b'\n'),
            Err(error) => {
                self.lines.truncate(start);
                self.state.dropped.add(1);
                tracing::error!(log = self.name, %error, "a record cannot be formatted");
            }
        }
    }

    /// Writes the lines out. A failing sink is tried again until it works or the log is closed: meanwhile the
    /// queue fills, and its overflow is what is lost and counted.
    #[expect(clippy::disallowed_methods, reason = "this is the writer's own thread; no request waits on it")]
    fn write(&mut self, records: usize) {
        loop {
            if self.state.reopen.swap(false, Ordering::Relaxed)
                && let Err(error) = self.output.reopen()
            {
                tracing::error!(log = self.name, %error, "going on with the old file");
            }
            let Err(error) = self.output.drain(&mut self.lines) else {
                self.state.failing.store(false, Ordering::Relaxed);
                break;
            };
            if !self.state.failing.swap(true, Ordering::Relaxed) {
                tracing::error!(log = self.name, %error, "cannot write; trying again, records may be lost");
            }
            if self.state.closing.load(Ordering::Relaxed) {
                self.state.dropped.add(records as u64);
                break;
            }
            thread::sleep(RETRY_REST);
        }
        self.lines.clear();
        self.state.queued.fetch_sub(records, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
