//! Lines from a stream, each bounded: a line that is too long costs only itself.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// The longest message that a client may send: more than any HTTP entrance of a mesh takes by default.
pub(super) const MAX_LINE: usize = 16 << 20;

/// A line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Its content, without the line end.
    Text(Bytes),
    /// It was longer than the limit, and is gone.
    TooLong,
}

/// Splits a stream into lines.
pub(super) struct Lines<R> {
    input: BufReader<R>,
    limit: usize,
    /// The beginning of the next line.
    line: BytesMut,
    too_long: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Lines of at most `limit` bytes.
    pub(super) fn new(input: R, limit: usize) -> Self {
        Self { input: BufReader::new(input), limit, line: BytesMut::new(), too_long: false }
    }

    /// The next line that is not blank; `None` at the end. What follows the last line end counts as a line. Safe to
    /// cancel.
    pub(super) async fn next(&mut self) -> std::io::Result<Option<Line>> {
        loop {
            let piece = self.input.fill_buf().await?;
            let end = piece.iter().position(|byte| *byte == b'\n');
            let at_end = piece.is_empty();
            let content = piece.get(..end.unwrap_or(piece.len())).unwrap_or_default();
            self.too_long |= self.line.len() + content.len() > self.limit;
            if !self.too_long {
                self.line.extend_from_slice(content);
            }
            let used = content.len() + usize::from(end.is_some());
            self.input.consume(used);
            if end.is_none() && !at_end {
                continue;
            }
            let line = self.line.split().freeze();
            if std::mem::take(&mut self.too_long) {
                return Ok(Some(Line::TooLong));
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(Line::Text(line)));
            }
            if at_end {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(pieces: &[&[u8]]) -> Vec<Line> {
        let (mut feed, input) = tokio::io::duplex(1024);
        for piece in pieces {
            tokio::io::AsyncWriteExt::write_all(&mut feed, piece).await.unwrap();
        }
        drop(feed);
        let mut input = Lines::new(input, 8);
        let mut lines = Vec::new();
        while let Some(line) = input.next().await.unwrap() {
            lines.push(line);
        }
        lines
    }

    #[tokio::test]
    async fn lines_are_cut_bounded_and_never_blank() {
        let text = |text: &'static str| Line::Text(Bytes::from_static(text.as_bytes()));
        let lines = all(&[b"one\n\n \r\n12345678\n1234567", b"89\ntwo\r\nla", b"st"]).await;
        assert_eq!(lines, [text("one"), text("12345678"), Line::TooLong, text("two\r"), text("last")]);
        assert!(all(&[]).await.is_empty());
        assert_eq!(all(&[b"123456789"]).await, [Line::TooLong]);
    }

    #[tokio::test]
    async fn a_line_survives_a_reader_that_looks_away() {
        let (mut feed, input) = tokio::io::duplex(1024);
        let mut lines = Lines::new(input, 100);
        tokio::io::AsyncWriteExt::write_all(&mut feed, b"half ").await.unwrap();
        tokio::select! {
            biased;
            _ = lines.next() => panic!("there is no line yet"),
            () = std::future::ready(()) => {}
        }
        tokio::io::AsyncWriteExt::write_all(&mut feed, b"and half\n").await.unwrap();
        assert_eq!(lines.next().await.unwrap(), Some(Line::Text(Bytes::from_static(b"half and half"))));
    }
}
