//! A bounded queue of records and the one thread that formats and writes them.
//!
//! ```text
//!  request tasks --try_send--> [ bounded queue ] --> writer thread: format a batch, one write, rest, again
//! ```
//!
//! After a batch the thread rests for [`BATCH_REST`] before it looks again, so that under load a record costs its
//! sender no wake-up of another thread; after an empty look it sleeps until the next record.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Serialize;

use crate::metrics::DropCounter;
use crate::sink::{Output, Sink, SinkError};
use crate::trail::{Trail, TrailError, TrailSettings};

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
    /// The trail cannot go on.
    #[error(transparent)]
    Trail(#[from] TrailError),
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
    /// Dropped, and not yet said so in a trail.
    untold: AtomicU64,
}

impl State {
    fn drop_records(&self, records: u64) {
        self.dropped.add(records);
        self.untold.fetch_add(records, Ordering::Relaxed);
    }
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
        Self::spawn(name, output, capacity, dropped, None, Vec::new()).map(Some)
    }

    /// The same, for lines that are a signed trail.
    pub(crate) fn start_trail(
        name: &'static str,
        sink: &Sink,
        capacity: usize,
        dropped: DropCounter,
        trail: TrailSettings,
    ) -> Result<Option<Self>, WriterError> {
        let mut lines = Vec::new();
        // Before the sink is opened for appending: half a line at its end is cut off.
        let trail = match sink {
            Sink::Off => return Ok(None),
            Sink::File(path) => Trail::begin(trail, Some(path), &mut lines)?,
            Sink::Stderr | Sink::Stdout => Trail::begin(trail, None, &mut lines)?,
        };
        let Some(output) = sink.open()? else { return Ok(None) };
        Self::spawn(name, output, capacity, dropped, Some(trail), lines).map(Some)
    }

    fn spawn(
        name: &'static str,
        output: Output,
        capacity: usize,
        dropped: DropCounter,
        trail: Option<Trail>,
        lines: Vec<u8>,
    ) -> Result<Self, WriterError> {
        let (queue, messages) = sync_channel(capacity);
        let state = Arc::new(State {
            queued: AtomicUsize::new(0),
            failing: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            dropped,
            untold: AtomicU64::new(0),
        });
        let shared = Arc::clone(&state);
        let thread = thread::Builder::new()
            .name(format!("{name}-log"))
            .spawn(move || WriterThread { name, output, state: shared, lines, trail }.run(&messages))
            .map_err(|cause| WriterError::Thread { name, cause })?;
        Ok(Self { queue, capacity, thread: Mutex::new(Some(thread)), state })
    }
}

impl<R> Writer<R> {
    /// Queues a record; never blocks. A record that is not taken is counted as dropped.
    pub(crate) fn push(&self, record: R) -> Result<(), Overflow> {
        self.state.queued.fetch_add(1, Ordering::Relaxed);
        self.queue.try_send(Message::Record(Box::new(record))).map_err(|_| {
            self.state.queued.fetch_sub(1, Ordering::Relaxed);
            self.state.drop_records(1);
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
    trail: Option<Trail>,
}

impl WriterThread {
    fn run<R: Serialize>(mut self, messages: &Receiver<Message<R>>) {
        // What a trail begins with.
        self.drain(0);
        self.until_closed(messages);
        self.tell_lost();
        // A sink that fails gets no end: the next start finds what is there, and says that it was no orderly one.
        let failing = self.failing();
        if let Some(trail) = self.trail.as_mut().filter(|_| !failing) {
            trail.end(&mut self.lines, "stopped");
            self.drain(0);
            self.sync(true);
        }
    }

    #[expect(clippy::disallowed_methods, reason = "this is the writer's own thread; no request waits on it")]
    fn until_closed<R: Serialize>(&mut self, messages: &Receiver<Message<R>>) {
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
            Ok(()) => match &mut self.trail {
                Some(trail) => trail.link(&mut self.lines, start),
                None => self.lines.push(b'\n'),
            },
            Err(error) => {
                self.lines.truncate(start);
                self.state.drop_records(1);
                tracing::error!(log = self.name, %error, "a record cannot be formatted");
            }
        }
    }

    /// Writes the lines out, and begins another file where that is due.
    fn write(&mut self, records: usize) {
        self.tell_lost();
        let Some(trail) = &mut self.trail else {
            self.reopen();
            return self.drain(records);
        };
        let moved_away = self.state.reopen.load(Ordering::Relaxed);
        let full = trail.is_full(self.lines.len());
        if !moved_away && !full {
            trail.seal(&mut self.lines);
            self.drain(records);
            return self.sync(false);
        }
        trail.end(&mut self.lines, if full { "full" } else { "reopened" });
        let kept = trail.kept_as();
        self.drain(records);
        self.sync(true);
        if moved_away {
            self.reopen();
        } else if let Some(Err(error)) = kept.map(|kept| self.output.rotate(&kept)) {
            tracing::error!(log = self.name, %error, "the segment cannot be kept under its name; going on in the same file");
        }
        if let Some(trail) = &mut self.trail {
            trail.next_segment(&mut self.lines);
            self.drain(0);
        }
    }

    fn tell_lost(&mut self) {
        if let Some(trail) = &mut self.trail {
            let lost = self.state.untold.swap(0, Ordering::Relaxed);
            if lost > 0 {
                trail.lost(&mut self.lines, lost);
            }
        }
    }

    fn failing(&self) -> bool {
        self.state.failing.load(Ordering::Relaxed)
    }

    fn reopen(&mut self) {
        if self.state.reopen.swap(false, Ordering::Relaxed)
            && let Err(error) = self.output.reopen()
        {
            tracing::error!(log = self.name, %error, "going on with the old file");
        }
    }

    fn sync(&self, end_of_segment: bool) {
        if self.trail.as_ref().is_some_and(|trail| trail.wants_sync(end_of_segment))
            && let Err(error) = self.output.sync()
        {
            self.state.failing.store(true, Ordering::Relaxed);
            tracing::error!(log = self.name, %error, "what was written may not be on the disk");
        }
    }

    /// Writes the lines out. A failing sink is tried again until it works or the log is closed: meanwhile the
    /// queue fills, and its overflow is what is lost and counted.
    #[expect(clippy::disallowed_methods, reason = "this is the writer's own thread; no request waits on it")]
    fn drain(&mut self, records: usize) {
        loop {
            if self.failing() {
                // Perhaps somebody made room by moving the file away.
                self.reopen();
            }
            let Err(error) = self.output.drain(&mut self.lines) else {
                self.state.failing.store(false, Ordering::Relaxed);
                break;
            };
            if !self.state.failing.swap(true, Ordering::Relaxed) {
                tracing::error!(log = self.name, %error, "cannot write; trying again, records may be lost");
            }
            if self.state.closing.load(Ordering::Relaxed) {
                self.state.drop_records(records as u64);
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
