//! One stdio server as a channel: NDJSON out, NDJSON in, many calls in flight.
//!
//! ```text
//!  calls --> writer task --> stdin  [server]  stdout --> reader task --> demux --> the call each line belongs to
//! ```
//!
//! The reader never waits for a caller: each call has a byte budget, and what passes it is dropped (progress, logs)
//! rather than blocking the server. The writer is one task so that a caller that goes away cannot cut a line in half.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use outrigger_mcp::{
    bridge::demux::{Demux, Route},
    envelope::{Message, Shape},
    error::{METHOD_NOT_FOUND, RpcError},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{ChildStdin, ChildStdout},
    sync::{Notify, broadcast, mpsc},
};

/// Lines waiting to be written; beyond it callers wait.
const WRITE_QUEUE: usize = 64;
/// Bytes of notifications that may wait for one slow caller.
const CALL_BUDGET: usize = 4 * 1024 * 1024;
/// Session messages (list changes, logs outside calls) that may wait for a slow listener.
const SESSION_QUEUE: usize = 256;
/// How much of an oversized line is kept to find out whose reply it was.
const CLUE: usize = 512;

/// What a call receives.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are messages")]
pub enum Inbound {
    /// A message for this call; the last one is its reply.
    Message(Message),
    /// The reply was larger than the limit of this many bytes.
    TooLarge(usize),
    /// The server is gone, and how.
    Gone(Arc<str>),
}

/// The receiving end of one call.
#[derive(Debug)]
pub struct CallReceiver {
    /// The id of the call on this channel.
    pub id: u64,
    lines: mpsc::UnboundedReceiver<Inbound>,
    waiting: Arc<AtomicUsize>,
}

impl CallReceiver {
    /// The next message; [`Inbound::Gone`] once nothing can come any more.
    pub async fn next(&mut self) -> Inbound {
        match self.lines.recv().await {
            Some(Inbound::Message(message)) => {
                self.waiting.fetch_sub(message.body().len(), Ordering::Relaxed);
                Inbound::Message(message)
            }
            Some(other) => other,
            None => Inbound::Gone("the channel was closed".into()),
        }
    }
}

#[derive(Debug)]
struct Slot {
    lines: mpsc::UnboundedSender<Inbound>,
    waiting: Arc<AtomicUsize>,
}

impl Slot {
    /// Hands a message over. Replies and questions always pass; notifications only within the budget.
    fn deliver(&self, message: Message) {
        let size = message.body().len();
        let waiting = self.waiting.fetch_add(size, Ordering::Relaxed);
        if message.shape == Shape::Notification && waiting + size > CALL_BUDGET {
            self.waiting.fetch_sub(size, Ordering::Relaxed);
            return;
        }
        // A caller that is gone has dropped its receiver; its line is of no use to anybody.
        let _ = self.lines.send(Inbound::Message(message));
    }
}

/// A server's channel.
#[derive(Debug)]
pub struct Channel {
    demux: Mutex<Demux<Slot>>,
    writer: mpsc::Sender<Vec<Bytes>>,
    session: broadcast::Sender<Message>,
    closed: AtomicBool,
    on_close: Notify,
    /// Whether some listener takes requests that belong to no call.
    takes_requests: AtomicUsize,
    service: String,
}

impl Channel {
    /// Starts reading and writing.
    pub fn open(service: &str, stdin: ChildStdin, stdout: ChildStdout, line_limit: usize) -> Arc<Self> {
        let (writer, queue) = mpsc::channel(WRITE_QUEUE);
        let (session, _) = broadcast::channel(SESSION_QUEUE);
        let channel = Arc::new(Self {
            demux: Mutex::new(Demux::new()),
            writer,
            session,
            closed: AtomicBool::new(false),
            on_close: Notify::new(),
            takes_requests: AtomicUsize::new(0),
            service: service.to_owned(),
        });
        tokio::spawn(write_lines(stdin, queue));
        let reader = Arc::downgrade(&channel);
        tokio::spawn(async move {
            let mut lines = LineReader::new(stdout, line_limit);
            while let Some(line) = lines.next().await {
                let Some(channel) = reader.upgrade() else { break };
                channel.on_line(line);
            }
            if let Some(channel) = reader.upgrade() {
                channel.close("the server closed its output");
            }
        });
        channel
    }

    fn demux(&self) -> std::sync::MutexGuard<'_, Demux<Slot>> {
        // A panic while holding it cannot leave the map half-changed: every use is one map operation.
        self.demux.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on several callers share the server: see [`Demux::share`].
    pub fn share(&self) {
        self.demux().share();
    }

    /// Opens a call.
    pub fn open_call(&self) -> CallReceiver {
        #[expect(
            clippy::disallowed_methods,
            reason = "bounded by the byte budget of the slot; the reader must not wait"
        )]
        let (sender, lines) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut demux = self.demux();
        let id = demux.next_id();
        demux.insert(id, Slot { lines: sender, waiting: waiting.clone() });
        CallReceiver { id, lines, waiting }
    }

    /// Forgets a call. Returns whether it was still in flight.
    pub fn close_call(&self, id: u64) -> bool {
        self.demux().remove(id).is_some()
    }

    /// Says that a call waits for its client to answer, or goes on.
    pub fn wait_call(&self, id: u64, waits: bool) {
        self.demux().wait(id, waits);
    }

    /// Says that a call is a listen.
    pub fn listen_call(&self, id: u64) {
        self.demux().listens(id);
    }

    /// Says that a call waits for the result of a task.
    pub fn tie_call(&self, id: u64, task: &str) {
        self.demux().tie(id, task.to_owned());
    }

    /// Calls in flight.
    pub fn in_flight(&self) -> usize {
        self.demux().len()
    }

    /// Messages that belong to the session.
    pub fn subscribe(&self) -> broadcast::Receiver<Message> {
        self.session.subscribe()
    }

    /// Says that a listener takes requests outside calls, or (with `false`) no longer.
    pub fn take_requests(&self, takes: bool) {
        if takes {
            self.takes_requests.fetch_add(1, Ordering::Relaxed);
        } else {
            self.takes_requests.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether the server is gone.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Resolves when the server is gone.
    pub async fn closed(&self) {
        let notified = self.on_close.notified();
        if !self.is_closed() {
            notified.await;
        }
    }

    /// Writes one message; waits for room, at most `patience`. The server may have stopped reading.
    pub async fn write(&self, mut pieces: Vec<Bytes>, patience: Duration) -> Result<(), &'static str> {
        pieces.push(Bytes::from_static(b"\n"));
        match tokio::time::timeout(patience, self.writer.send(one_line(pieces))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("the server is gone"),
            Err(_) => Err("the server does not read its input"),
        }
    }

    /// Writes one message if there is room, else drops it: for cancellations and refusals.
    pub fn write_now(&self, message: Bytes) {
        let _ = self.writer.try_send(one_line(vec![message, Bytes::from_static(b"\n")]));
    }

    /// Closes the server's stdin once everything before is written.
    pub fn hang_up(&self) {
        let _ = self.writer.try_send(Vec::new());
    }

    /// Ends every call: the server is gone.
    pub fn close(&self, why: &str) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let why: Arc<str> = why.into();
        self.on_close.notify_waiters();
        for (_, slot) in self.demux().drain() {
            let _ = slot.lines.send(Inbound::Gone(why.clone()));
        }
    }

    fn on_line(&self, line: Line) {
        let bytes = match line {
            Line::Whole(bytes) => bytes,
            Line::TooLong { head, tail, limit } => return self.on_oversized(&head, &tail, limit),
        };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let message = match Message::parse(bytes.clone()) {
            Ok(message) => message,
            Err(rejected) => {
                let shown = String::from_utf8_lossy(bytes.get(..bytes.len().min(200)).unwrap_or_default()).into_owned();
                tracing::warn!(service = self.service, error = %rejected.error, line = shown, "the server wrote something that is not MCP to stdout; skipped");
                return;
            }
        };
        let demux = self.demux();
        match demux.route(&message) {
            Route::Finish(id) => {
                drop(demux);
                if let Some(slot) = self.demux().remove(id) {
                    slot.deliver(message);
                }
            }
            Route::Call(id) => {
                if let Some(slot) = demux.get(id) {
                    slot.deliver(message);
                }
            }
            Route::Ping => {
                drop(demux);
                let id = message.id().unwrap_or_default();
                self.write_now(outrigger_mcp::error::result_reply(&id, b"{}"));
            }
            Route::Session => {
                drop(demux);
                self.on_session(message);
            }
            Route::Nobody => tracing::debug!(service = self.service, "a reply or progress that nobody waits for"),
        }
    }

    fn on_session(&self, message: Message) {
        let refuse = message.shape == Shape::Request && self.takes_requests.load(Ordering::Relaxed) == 0;
        if refuse {
            let method = message.method_name();
            tracing::debug!(service = self.service, %method, "a request of the server that belongs to no call; refused");
            let error = RpcError::new(METHOD_NOT_FOUND, format!("{method} cannot be tied to one call of one client"));
            self.write_now(error.reply(message.id().as_deref()));
            return;
        }
        let _ = self.session.send(message);
    }

    fn on_oversized(&self, head: &[u8], tail: &[u8], limit: usize) {
        tracing::warn!(service = self.service, limit, "the server wrote a line over the limit; skipped");
        if let Some(slot) = find_id(head).or_else(|| find_id(tail)).and_then(|id| self.demux().remove(id)) {
            let _ = slot.lines.send(Inbound::TooLarge(limit));
        }
    }
}

/// JSON may contain line ends between tokens; on this transport they would cut the message.
fn one_line(pieces: Vec<Bytes>) -> Vec<Bytes> {
    let last = pieces.len().saturating_sub(1);
    pieces
        .into_iter()
        .enumerate()
        .map(|(i, piece)| {
            if i == last || !piece.iter().any(|b| matches!(b, b'\n' | b'\r')) {
                return piece;
            }
            piece.iter().map(|&b| if matches!(b, b'\n' | b'\r') { b' ' } else { b }).collect::<Vec<u8>>().into()
        })
        .collect()
}

/// Finds `"id":<number>` in a piece of a message.
fn find_id(text: &[u8]) -> Option<u64> {
    let at = text.windows(5).rposition(|w| w == b"\"id\":")?;
    let digits: Vec<u8> =
        text.get(at + 5..)?.iter().copied().skip_while(|b| *b == b' ').take_while(u8::is_ascii_digit).collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

async fn write_lines(mut stdin: ChildStdin, mut queue: mpsc::Receiver<Vec<Bytes>>) {
    let mut batch = Vec::new();
    let mut open = true;
    while open {
        let Some(mut next) = queue.recv().await else { return };
        // Whatever is waiting goes with it: one system call instead of many. An empty message is the end.
        loop {
            open = !next.is_empty();
            next.iter().for_each(|piece| batch.extend_from_slice(piece));
            match queue.try_recv() {
                Ok(more) if open && batch.len() < 64 * 1024 => next = more,
                Ok(more) => {
                    more.iter().for_each(|piece| batch.extend_from_slice(piece));
                    break;
                }
                Err(_) => break,
            }
        }
        if stdin.write_all(&batch).await.is_err() || stdin.flush().await.is_err() {
            return;
        }
        batch.clear();
        batch.shrink_to(64 * 1024);
    }
}

enum Line {
    Whole(Bytes),
    TooLong { head: Vec<u8>, tail: Vec<u8>, limit: usize },
}

/// Cuts a byte stream into lines, skipping over lines that are too long while keeping a clue of them.
struct LineReader<R> {
    source: R,
    buffer: BytesMut,
    searched: usize,
    limit: usize,
    skipping: Option<(Vec<u8>, Vec<u8>)>,
}

impl<R: tokio::io::AsyncRead + Unpin> LineReader<R> {
    fn new(source: R, limit: usize) -> Self {
        Self { source, buffer: BytesMut::new(), searched: 0, limit, skipping: None }
    }

    async fn next(&mut self) -> Option<Line> {
        loop {
            if let Some(line) = self.take_line() {
                return Some(line);
            }
            self.buffer.reserve(8 * 1024);
            if self.source.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }

    fn take_line(&mut self) -> Option<Line> {
        let end = self.buffer.get(self.searched..)?.iter().position(|&b| b == b'\n').map(|at| at + self.searched);
        let Some(end) = end else {
            self.searched = self.buffer.len();
            if self.skipping.is_some() || self.buffer.len() > self.limit {
                self.skip_some();
            }
            return None;
        };
        let mut line = self.buffer.split_to(end + 1).freeze();
        self.searched = 0;
        line.truncate(end);
        if line.last() == Some(&b'\r') {
            line.truncate(end - 1);
        }
        if let Some((head, mut tail)) = self.skipping.take() {
            tail.extend_from_slice(&line);
            let from = tail.len().saturating_sub(CLUE);
            return Some(Line::TooLong { head, tail: tail.split_off(from), limit: self.limit });
        }
        if line.len() > self.limit {
            let head = line.get(..CLUE).unwrap_or_default().to_vec();
            let tail = line.get(line.len() - CLUE.min(line.len())..).unwrap_or_default().to_vec();
            return Some(Line::TooLong { head, tail, limit: self.limit });
        }
        Some(Line::Whole(line))
    }

    fn skip_some(&mut self) {
        let (_, tail) = self.skipping.get_or_insert_with(|| {
            (self.buffer.get(..CLUE.min(self.buffer.len())).unwrap_or_default().to_vec(), Vec::new())
        });
        let from = self.buffer.len().saturating_sub(CLUE);
        tail.extend_from_slice(self.buffer.get(from..).unwrap_or_default());
        let from = tail.len().saturating_sub(CLUE);
        tail.drain(..from);
        self.buffer.clear();
        self.searched = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(input: &'static [u8], limit: usize) -> Vec<String> {
        let mut reader = LineReader::new(input, limit);
        let mut out = Vec::new();
        while let Some(line) = reader.next().await {
            out.push(match line {
                Line::Whole(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
                Line::TooLong { head, tail, .. } => {
                    format!("too long, id {:?}", find_id(&head).or_else(|| find_id(&tail)))
                }
            });
        }
        out
    }

    #[tokio::test]
    async fn lines_are_cut_trimmed_and_bounded() {
        assert_eq!(lines(b"a\r\nb\n\npartial", 100).await, ["a", "b", ""]);
        let long: &'static [u8] = Box::leak(
            format!("{{\"result\":\"{}\",\"id\":7}}\nnext\n", "x".repeat(50_000)).into_bytes().into_boxed_slice(),
        );
        assert_eq!(lines(long, 1000).await, ["too long, id Some(7)", "next"]);
    }

    #[test]
    fn messages_stay_on_one_line() {
        let out = one_line(vec![Bytes::from_static(b"{\n\"a\":1}"), Bytes::from_static(b"\n")]);
        assert_eq!(outrigger_mcp::edit::concat(&out), b"{ \"a\":1}\n"[..]);
    }
}
