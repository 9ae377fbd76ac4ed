//! One event stream towards a client: a bounded ring of events that one reader at a time drains, and that a client
//! of 2025-11-25 may come back to with `Last-Event-ID` (basic/transports, "Resumability and Redelivery").
//!
//! Whoever makes events and whoever writes them to a connection meet only here, so a lost connection, a second
//! connection and a slow connection are all the same: a reader that is not there, another one, or a late one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::body::BodySender;
use bytes::Bytes;
use outrigger_mcp::sse;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Most events that a stream holds for a reader that is late or gone: what small ones cost besides their bytes.
pub(super) const MAX_EVENTS: usize = 256;
/// When a client whose stream broke comes back, in milliseconds: soon, since its call may be over already.
const RETRY_MS: u32 = 1000;

/// What a stream holds for a reader that is late or gone.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// Most bytes; one larger event is still held, alone.
    pub bytes: usize,
    /// How long an event can be asked for again.
    pub life: Duration,
}

/// A stream of events of one session.
#[derive(Debug)]
pub(super) struct EventStream {
    number: u64,
    /// What event ids of the session start with; `None` when the client's revision has no numbered events here.
    prefix: Option<Arc<str>>,
    /// Whether events wait for a reader to come, also where they have no numbers.
    waits: bool,
    kept: Kept,
    ring: Mutex<Ring>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Event>,
    bytes: usize,
    /// The number of the next event.
    next: u64,
    /// The first event that no reader has taken.
    cursor: u64,
    reader: Option<CancellationToken>,
    ended: Option<Instant>,
}

#[derive(Debug)]
struct Event {
    number: u64,
    text: Bytes,
    made: Instant,
}

/// A place on a stream, as the client names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Which stream.
    pub(super) stream: u64,
    /// The last event that the client has.
    pub(super) event: u64,
}

impl Place {
    /// Reads an event id of the session whose ids start with `prefix`; those of others are not ours to read.
    pub(super) fn parse(prefix: &str, id: &str) -> Option<Self> {
        Self::of_parts(id.strip_prefix(prefix)?.strip_prefix('-')?)
    }

    /// Reads an event id of whatever session.
    pub(super) fn of_other(id: &str) -> Option<Self> {
        Self::of_parts(id.split_once('-')?.1)
    }

    fn of_parts(parts: &str) -> Option<Self> {
        let (stream, event) = parts.split_once('-')?;
        Some(Self { stream: stream.parse().ok()?, event: event.parse().ok()? })
    }
}

/// The events after that place are gone, or the place never was.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// What a reader does next.
enum Step {
    Send(Bytes),
    Wait,
    End,
}

/// The right to read a stream, until somebody else takes it.
#[derive(Debug)]
pub(super) struct Reader {
    stream: Arc<EventStream>,
    replaced: CancellationToken,
}

impl EventStream {
    /// A stream without events. See the fields for the arguments.
    pub(super) fn new(number: u64, prefix: Option<Arc<str>>, waits: bool, kept: Kept) -> Arc<Self> {
        Arc::new(Self { number, prefix, waits, kept, ring: Mutex::default(), changed: Notify::new() })
    }

    /// Its number within the session.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Adds the event that gives the client an id to come back with before there is anything to say.
    pub(super) fn prime(&self) {
        if let Some(prefix) = &self.prefix {
            let mut ring = self.lock();
            let text = format!("id: {prefix}-{}-{}\nretry: {RETRY_MS}\ndata: \n\n", self.number, ring.next);
            ring.push(text.into(), true, self.kept.bytes);
        }
    }

    /// Adds a message. While a reader is there but late, waits for it: back-pressure reaches whoever makes events.
    /// Without a reader the oldest events give way. Cancelling the future loses only this message.
    pub(super) async fn push(&self, message: &[u8]) {
        loop {
            let changed = self.changed.notified();
            {
                let mut ring = self.lock();
                if ring.reader.is_none() || !ring.full_of_unread(self.kept.bytes) {
                    let keep_unread = ring.reader.is_some();
                    self.add(&mut ring, message, keep_unread);
                    return;
                }
            }
            changed.await;
        }
    }

    /// Adds an event as it is to be written, without waiting.
    pub(super) fn push_text(&self, text: Bytes) {
        self.lock().push(text, true, self.kept.bytes);
        self.changed.notify_waiters();
    }

    /// Adds a message without waiting and without letting earlier ones give way; for a few that are there already.
    pub(super) fn push_first(&self, message: &[u8]) {
        self.add(&mut self.lock(), message, true);
    }

    fn add(&self, ring: &mut Ring, message: &[u8], keep_unread: bool) {
        let nobody = ring.reader.is_none() && self.prefix.is_none() && !self.waits;
        if ring.ended.is_some() || nobody {
            return;
        }
        let id = self.prefix.as_ref().map(|prefix| format!("{prefix}-{}-{}", self.number, ring.next));
        let mut text = Vec::with_capacity(message.len() + 64);
        sse::encode(&mut text, id.as_deref(), message);
        ring.push(text.into(), keep_unread, self.kept.bytes);
        self.changed.notify_waiters();
    }

    /// Ends the stream: readers get what is left, and then its end.
    pub(super) fn end(&self) {
        self.lock().ended.get_or_insert_with(Instant::now);
        self.changed.notify_waiters();
    }

    /// Makes the caller the reader of what nobody has read yet; an earlier reader is sent away.
    pub(super) fn attach(self: &Arc<Self>, over: &CancellationToken) -> Reader {
        let mut ring = self.lock();
        self.replace_reader(&mut ring, over)
    }

    /// The same from after a place that the client names.
    ///
    /// # Errors
    /// [`Gone`] when events after it have been dropped, or it is in the future.
    pub(super) fn resume(self: &Arc<Self>, after: u64, over: &CancellationToken) -> Result<Reader, Gone> {
        let mut ring = self.lock();
        ring.expire(Instant::now(), self.kept.life);
        let oldest = ring.events.front().map_or(ring.next, |event| event.number);
        if after >= ring.next || after + 1 < oldest {
            return Err(Gone);
        }
        ring.cursor = after + 1;
        Ok(self.replace_reader(&mut ring, over))
    }

    fn replace_reader(self: &Arc<Self>, ring: &mut Ring, over: &CancellationToken) -> Reader {
        let replaced = over.child_token();
        if let Some(earlier) = ring.reader.replace(replaced.clone()) {
            earlier.cancel();
        }
        self.changed.notify_waiters();
        Reader { stream: Arc::clone(self), replaced }
    }

    /// Whether somebody reads it now.
    pub(super) fn has_reader(&self) -> bool {
        self.lock().reader.is_some()
    }

    /// Forgets events that are too old, and says whether the whole stream is.
    pub(super) fn expired(&self, now: Instant) -> bool {
        let mut ring = self.lock();
        ring.expire(now, self.kept.life);
        ring.reader.is_none() && ring.ended.is_some_and(|at| now.saturating_duration_since(at) >= self.kept.life)
    }

    /// Bytes that it holds, and when it ended.
    pub(super) fn held(&self) -> (usize, Option<Instant>) {
        let ring = self.lock();
        (ring.bytes, ring.ended)
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self) -> Step {
        let mut ring = self.lock();
        let at = ring.events.partition_point(|event| event.number < ring.cursor);
        let Some(event) = ring.events.get(at) else {
            return if ring.ended.is_some() { Step::End } else { Step::Wait };
        };
        let (number, text) = (event.number, event.text.clone());
        ring.cursor = number + 1;
        if self.prefix.is_none() {
            // It cannot be asked for again.
            ring.drop_oldest();
        }
        self.changed.notify_waiters();
        Step::Send(text)
    }
}

impl Ring {
    fn push(&mut self, text: Bytes, keep_unread: bool, most: usize) {
        self.bytes += text.len();
        self.events.push_back(Event { number: self.next, text, made: Instant::now() });
        self.next += 1;
        while self.events.len() > 1 && (self.events.len() > MAX_EVENTS || self.bytes > most) {
            if keep_unread && self.events.front().is_some_and(|event| event.number >= self.cursor) {
                break;
            }
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(event) = self.events.pop_front() {
            self.bytes -= event.text.len();
        }
    }

    /// Forgets events that are too old to be asked for; a reader that is late still gets all.
    fn expire(&mut self, now: Instant, life: Duration) {
        let late = self.reader.is_some().then_some(self.cursor);
        let over = |event: &Event| {
            now.saturating_duration_since(event.made) >= life && late.is_none_or(|cursor| event.number < cursor)
        };
        while self.events.front().is_some_and(over) {
            self.drop_oldest();
        }
    }

    fn full_of_unread(&self, most: usize) -> bool {
        let unread = self.events.iter().rev().take_while(|event| event.number >= self.cursor);
        let (count, bytes) = unread.fold((0, 0), |(count, bytes), event| (count + 1, bytes + event.text.len()));
        count >= MAX_EVENTS || bytes >= most
    }
}

impl Reader {
    /// Whether it reads this stream.
    pub(super) fn reads(&self, stream: &Arc<EventStream>) -> bool {
        Arc::ptr_eq(&self.stream, stream)
    }

    /// Writes events until the stream ends, the connection goes away or another reader comes. A silent stream gets a
    /// comment every `keepalive`, so that whatever lies between us and the client keeps it open.
    /// With `slow`, a client that takes nothing for so long is cut off.
    pub(super) async fn pump(self, sender: BodySender, keepalive: Duration, slow: Option<Duration>) {
        loop {
            let changed = self.stream.changed.notified();
            let text = match self.stream.step() {
                Step::Send(text) => text,
                Step::End => break,
                Step::Wait => tokio::select! {
                    () = changed => continue,
                    () = self.replaced.cancelled() => break,
                    () = sender.gone() => return,
                    () = tokio::time::sleep(keepalive) => Bytes::from_static(b": keep-alive\n\n"),
                },
            };
            tokio::select! {
                // What there is room for is sent before anything else is looked at: an end that comes at the same moment
                // must neither lose it nor make the stream look broken.
                biased;
                sent = sender.send(text) => if sent.is_err() { return },
                // It did not read for long enough that another one came: its connection is cut.
                () = self.replaced.cancelled() => return,
                () = after(slow) => return,
            }
        }
        // The client that reads slowly must not hold us after the end.
        let _ = tokio::time::timeout(keepalive, sender.finish()).await;
    }
}

async fn after(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Another reader that took over has a token of its own, which stays; it cancelled ours under the lock.
        let mut ring = self.stream.lock();
        if !self.replaced.is_cancelled() {
            ring.reader = None;
            self.stream.changed.notify_waiters();
        }
    }
}
