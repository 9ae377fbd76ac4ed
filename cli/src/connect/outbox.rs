//! Messages to the client: one line each, from one writer, so that none is ever mixed with another.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use outrigger_mcp::envelope::{Message, Shape};
use tokio::io::{AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Messages on their way: a client that does not read makes the mesh wait, not us grow.
const WAITING: usize = 64;

/// Where messages to the client go. Clones share the writer.
#[derive(Clone)]
pub(crate) struct Outbox {
    lines: mpsc::Sender<Bytes>,
    /// Takes the response, which is one of several in a line.
    aside: Option<Arc<Mutex<Option<oneshot::Sender<Bytes>>>>>,
}

impl Outbox {
    /// To stdout. The writer's task ends when the client has closed it, or when every outbox is gone and all is written.
    pub(super) fn stdout() -> (Self, JoinHandle<()>) {
        Self::to(tokio::io::stdout())
    }

    /// To anything.
    pub(super) fn to(output: impl AsyncWrite + Unpin + Send + 'static) -> (Self, JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self { lines: sender, aside: None }, tokio::spawn(write(receiver, output)))
    }

    /// An outbox for one request of a batch: its response comes by itself, everything else goes to the client at once.
    pub(super) fn aside(&self) -> (Self, oneshot::Receiver<Bytes>) {
        let (sender, response) = oneshot::channel();
        (Self { lines: self.lines.clone(), aside: Some(Arc::new(Mutex::new(Some(sender)))) }, response)
    }

    /// Sends a message. Whatever stands between its tokens, it becomes one line.
    pub(super) async fn send(&self, message: Bytes) {
        if let Some(aside) = &self.aside
            && Message::parse(message.clone()).is_ok_and(|m| matches!(m.shape, Shape::Result | Shape::Error))
        {
            let taker = aside.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(taker) = taker {
                // Nobody waits for it only when the relay ends.
                let _ = taker.send(message);
            }
            return;
        }
        // The writer is gone only when the client is.
        let _ = self.lines.send(message).await;
    }
}

async fn write(mut messages: mpsc::Receiver<Bytes>, output: impl AsyncWrite + Unpin) {
    let mut output = BufWriter::new(output);
    while let Some(message) = messages.recv().await {
        let line = one_line(message);
        let mut written = match output.write_all(&line).await {
            Ok(()) => output.write_all(b"\n").await,
            failed => failed,
        };
        if written.is_ok() && messages.is_empty() {
            written = output.flush().await;
        }
        if let Err(error) = written {
            tracing::debug!(%error, "the client has closed its end");
            return;
        }
    }
    // As above.
    let _ = output.flush().await;
}

/// JSON has line ends only between its tokens, where a space means the same.
fn one_line(message: Bytes) -> Bytes {
    let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
    if !message.iter().any(is_end) {
        return message;
    }
    message.iter().map(|byte| if is_end(byte) { b' ' } else { *byte }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_message_is_one_line() {
        let (output, mut input) = tokio::io::duplex(1024);
        let (outbox, writer) = Outbox::to(output);
        outbox.send(Bytes::from_static(b"{\"a\":\r\n1}")).await;
        outbox.send(Bytes::from_static(b"{}")).await;
        drop(outbox);
        writer.await.unwrap();
        let mut text = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut input, &mut text).await.unwrap();
        assert_eq!(text, "{\"a\":  1}\n{}\n");
    }
}
