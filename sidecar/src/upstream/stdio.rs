//! One stdio server: a channel of lines (NDJSON), out by its stdin and in by its stdout.
//!
//! The writer is one task so that a caller that goes away cannot cut a line in half.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use outrigger_mcp::oversized::Clue;
use outrigger_telemetry::ServiceMetrics;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{ChildStdin, ChildStdout},
    sync::mpsc,
};

use super::channel::{Channel, Outlet};

/// Lines waiting to be written; beyond it callers wait.
const WRITE_QUEUE: usize = 64;

/// Starts reading and writing the pipes of a server.
pub fn open(
    service: &str,
    stdin: ChildStdin,
    stdout: ChildStdout,
    line_limit: usize,
    metrics: Arc<ServiceMetrics>,
) -> Arc<Channel> {
    let (writer, queue) = mpsc::channel(WRITE_QUEUE);
    let channel = Channel::new(service, Outlet::Lines(writer), metrics);
    tokio::spawn(write_lines(stdin, queue));
    let reader = Arc::downgrade(&channel);
    tokio::spawn(async move {
        let mut lines = LineReader::new(stdout, line_limit);
        while let Some(line) = lines.next().await {
            let Some(channel) = reader.upgrade() else { break };
            match line {
                Line::Whole(bytes) => channel.on_bytes(bytes),
                Line::TooLong(clue) => channel.on_oversized(clue.id(), line_limit),
            }
        }
        if let Some(channel) = reader.upgrade() {
            channel.close("the server closed its output");
        }
    });
    channel
}

/// JSON may contain line ends between tokens; on this transport they would cut the message.
pub(super) fn one_line(pieces: Vec<Bytes>) -> Vec<Bytes> {
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
    TooLong(Clue),
}

/// Cuts a byte stream into lines, skipping over lines that are too long while keeping a clue of them.
struct LineReader<R> {
    source: R,
    buffer: BytesMut,
    searched: usize,
    limit: usize,
    skipping: Option<Clue>,
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
        if let Some(mut clue) = self.skipping.take() {
            clue.push(&line);
            return Some(Line::TooLong(clue));
        }
        if line.len() > self.limit {
            let mut clue = Clue::default();
            clue.push(&line);
            return Some(Line::TooLong(clue));
        }
        Some(Line::Whole(line))
    }

    fn skip_some(&mut self) {
        self.skipping.get_or_insert_default().push(&self.buffer);
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
                Line::TooLong(clue) => format!("too long, id {:?}", clue.id()),
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
