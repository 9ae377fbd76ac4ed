//! Server-sent events (WHATWG HTML, "Server-sent events"): an incremental parser with bounds, and an encoder.
//!
//! Events keep their `id`, `retry` and also empty data: 2025-11-25 servers send such "priming" events, and a parser
//! that drops them breaks resumption.

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

use crate::oversized::Clue;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// The `event` field; empty means `message`.
    pub event: Option<Bytes>,
    /// The `id` field, when the event had one.
    pub id: Option<Bytes>,
    /// The `retry` field in milliseconds.
    pub retry: Option<u64>,
    /// The data lines, joined by line feeds; `None` when there was no data line at all.
    pub data: Option<Bytes>,
}

impl Event {
    /// Whether it is of this type.
    pub fn is(&self, name: &[u8]) -> bool {
        self.event.as_deref().unwrap_or(b"message") == name
    }
}

/// An event is larger than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a server-sent event is larger than {0} bytes")]
pub struct EventTooLarge(pub usize);

/// Splits a byte stream into events. Feed it pieces with [`Parser::push`], take events with [`Parser::next_event`].
#[derive(Debug)]
pub struct Parser {
    buffer: BytesMut,
    /// How far `buffer` has been searched for a line end.
    searched: usize,
    event: Event,
    data: Vec<Bytes>,
    data_bytes: usize,
    touched: bool,
    /// A line ended with CR at the very end of the input: a following LF belongs to it.
    skip_lf: bool,
    started: bool,
    limit: usize,
    skips: bool,
    skipping: Option<Skipping>,
    skipped: Option<Clue>,
}

/// An event over the limit whose end has not come yet.
#[derive(Debug, Default)]
struct Skipping {
    clue: Clue,
    /// Part of the current line is gone already.
    within_line: bool,
}

impl Parser {
    /// A parser that refuses events over `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            searched: 0,
            event: Event::default(),
            data: Vec::new(),
            data_bytes: 0,
            touched: false,
            skip_lf: false,
            started: false,
            limit,
            skips: false,
            skipping: None,
            skipped: None,
        }
    }

    /// A parser that skips events over `limit` bytes: the error comes when such an event has ended, and the stream can
    /// be read on.
    pub fn skipping(limit: usize) -> Self {
        Self { skips: true, ..Self::new(limit) }
    }

    /// What is left of the event that was skipped last.
    pub fn take_skipped(&mut self) -> Option<Clue> {
        self.skipped.take()
    }

    /// Adds bytes as they arrive.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete event, if one is there. An event that the stream's end cuts off is never returned.
    ///
    /// # Errors
    /// [`EventTooLarge`]; the stream cannot be used after it, unless the parser skips.
    pub fn next_event(&mut self) -> Result<Option<Event>, EventTooLarge> {
        if self.skipping.is_some() {
            return self.skip();
        }
        loop {
            let Ok(line) = self.next_line() else { return self.too_large() };
            let Some(line) = line else { return Ok(None) };
            if !line.is_empty() {
                self.field(&line);
                if self.data_bytes > self.limit {
                    return self.too_large();
                }
                continue;
            }
            if !self.touched {
                continue;
            }
            self.touched = false;
            self.data_bytes = 0;
            let mut event = std::mem::take(&mut self.event);
            event.data = match self.data.len() {
                0 => None,
                1 => self.data.pop(),
                _ => Some(Bytes::from(self.data.join(&b'\n'))),
            };
            self.data.clear();
            return Ok(Some(event));
        }
    }

    fn too_large(&mut self) -> Result<Option<Event>, EventTooLarge> {
        if !self.skips {
            return Err(EventTooLarge(self.limit));
        }
        let mut skipping = Skipping::default();
        self.data.drain(..).for_each(|line| skipping.clue.push(&line));
        (self.event, self.data_bytes, self.touched) = (Event::default(), 0, false);
        self.skipping = Some(skipping);
        self.skip()
    }

    /// Drops lines up to the end of the event.
    fn skip(&mut self) -> Result<Option<Event>, EventTooLarge> {
        let Some(mut skipping) = self.skipping.take() else { return Ok(None) };
        while let Ok(Some(line)) = self.next_line() {
            if line.is_empty() && !skipping.within_line {
                self.skipped = Some(skipping.clue);
                return Err(EventTooLarge(self.limit));
            }
            skipping.clue.push(&line);
            skipping.within_line = false;
        }
        skipping.clue.push(&self.buffer);
        skipping.within_line |= !self.buffer.is_empty();
        self.buffer.clear();
        self.searched = 0;
        self.skipping = Some(skipping);
        Ok(None)
    }

    fn next_line(&mut self) -> Result<Option<Bytes>, EventTooLarge> {
        if self.skip_lf && !self.buffer.is_empty() {
            if self.buffer.first() == Some(&b'\n') {
                self.buffer.advance(1);
            }
            self.skip_lf = false;
        }
        let Some(end) = self
            .buffer
            .get(self.searched..)
            .and_then(|rest| rest.iter().position(|b| matches!(b, b'\n' | b'\r')))
            .map(|at| at + self.searched)
        else {
            self.searched = self.buffer.len();
            if self.searched > self.limit.saturating_add(64) {
                return Err(EventTooLarge(self.limit));
            }
            return Ok(None);
        };
        let mut line = self.buffer.split_to(end).freeze();
        let cr = self.buffer.first() == Some(&b'\r');
        self.buffer.advance(1);
        self.skip_lf = cr;
        self.searched = 0;
        if !self.started {
            self.started = true;
            if line.starts_with(b"\xef\xbb\xbf") {
                line.advance(3);
            }
        }
        Ok(Some(line))
    }

    fn field(&mut self, line: &Bytes) {
        let colon = line.iter().position(|&b| b == b':');
        let (name, value) = match colon {
            Some(0) => return, // a comment
            Some(at) => {
                let skip = usize::from(line.get(at + 1) == Some(&b' '));
                (&line[..at], line.slice(at + 1 + skip..))
            }
            None => (&line[..], Bytes::new()),
        };
        match name {
            b"data" => {
                self.data_bytes += value.len() + 1;
                self.data.push(value);
            }
            b"event" => self.event.event = Some(value),
            b"id" if !value.contains(&0) => self.event.id = Some(value),
            b"retry" => self.event.retry = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok()),
            _ => return,
        }
        self.touched = true;
    }
}

/// Writes a message as one event. JSON may have line ends between its tokens (never inside strings): each line
/// becomes a `data:` line, which parses back to equivalent JSON.
pub fn encode(out: &mut Vec<u8>, id: Option<&str>, message: &[u8]) {
    out.reserve(message.len() + 32);
    if let Some(id) = id {
        out.extend_from_slice(b"id: ");
        out.extend_from_slice(id.as_bytes());
        out.push(b'\n');
    }
    out.extend_from_slice(b"event: message\n");
    for line in message.split(|&b| matches!(b, b'\n' | b'\r')) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
}

/// [`encode`] into fresh bytes.
pub fn event(message: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(message.len() + 32);
    encode(&mut out, None, message);
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(pieces: &[&[u8]]) -> Vec<Event> {
        let mut parser = Parser::new(1 << 20);
        let mut out = Vec::new();
        for piece in pieces {
            parser.push(piece);
            while let Some(event) = parser.next_event().unwrap() {
                out.push(event);
            }
        }
        out
    }

    #[test]
    fn fields_comments_and_priming_events() {
        let events = all(&[b": hello\n\nid: 1\nretry: 300\ndata: \n\nevent: endpoint\ndata: /x\ndata:y\n\n"]);
        assert_eq!(events.len(), 2);
        assert_eq!(events[0].id.as_deref(), Some(&b"1"[..]));
        assert_eq!(events[0].retry, Some(300));
        assert_eq!(events[0].data.as_deref(), Some(&b""[..]));
        assert_eq!(events[1].event.as_deref(), Some(&b"endpoint"[..]));
        assert_eq!(events[1].data.as_deref(), Some(&b"/x\ny"[..]));
    }

    #[test]
    fn a_cut_event_is_not_delivered_and_size_is_bounded() {
        assert!(all(&[b"data: half"]).is_empty());
        let mut parser = Parser::new(10);
        parser.push(&[b'x'; 100]);
        assert_eq!(parser.next_event(), Err(EventTooLarge(10)));
    }

    #[test]
    fn a_large_event_can_be_skipped_wherever_it_is_cut() {
        let large = format!("data: {{\"id\":5,\"result\":\"{}\"}}", "x".repeat(3000));
        let stream = format!("data: 1\r\n\r\nid: 9\r\n{large}\r\ndata: y\r\n\r\ndata: 2\r\n\r\n");
        for size in [1, 7, 999, 10_000] {
            let mut parser = Parser::skipping(1000);
            let mut seen = Vec::new();
            for piece in stream.as_bytes().chunks(size) {
                parser.push(piece);
                loop {
                    match parser.next_event() {
                        Ok(Some(event)) => seen.push(String::from_utf8(event.data.unwrap().to_vec()).unwrap()),
                        Ok(None) => break,
                        Err(_) => seen.push(format!("id {:?}", parser.take_skipped().unwrap().id())),
                    }
                }
            }
            assert_eq!(seen, ["1", "id Some(5)", "2"], "pieces of {size}");
        }
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_events(cut in 0usize..60) {
            let stream = b"id: 7\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\rdata:x\r\n\r\ndata: z\n\n";
            let cut = cut.min(stream.len());
            prop_assert_eq!(all(&[&stream[..cut], &stream[cut..]]), all(&[stream]));
        }

        #[test]
        fn encoded_messages_come_back(lines in proptest::collection::vec("[ -~]{0,20}", 1..4)) {
            let text = lines.join("\n");
            let events = all(&[&event(text.as_bytes())]);
            prop_assert_eq!(events.len(), 1);
            prop_assert_eq!(events[0].data.as_deref().unwrap(), text.as_bytes());
        }
    }
}
