//! The stream of an answer, message by message.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use outrigger_mcp::envelope::Message;
use outrigger_mcp::sse::Parser;
use outrigger_proxy::failure::Failure;
use outrigger_proxy::pool::PooledBody;

/// Reads the events of a response as messages.
pub(crate) struct MessageStream {
    service: Arc<str>,
    body: PooledBody,
    parser: Parser,
    ready: VecDeque<Message>,
    idle: Duration,
}

impl MessageStream {
    /// Of a response of `service`. `event_bytes` bounds one event; `idle` the time without any byte.
    pub(crate) fn new(service: Arc<str>, body: PooledBody, event_bytes: usize, idle: Duration) -> Self {
        Self { service, body, parser: Parser::new(event_bytes), ready: VecDeque::new(), idle }
    }

    /// The next message; `None` at the end of the stream. Cancelling the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Option<Message>, Failure> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            let frame = tokio::time::timeout(self.idle, self.body.frame()).await;
            let frame = frame.map_err(|_| Failure::Timeout { service: self.service.to_string(), after: self.idle })?;
            match frame {
                None => return Ok(None),
                Some(Err(_)) => return Err(self.broken("the answer broke off")),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.parser.push(&data);
                        self.read_events()?;
                    }
                }
            }
        }
    }

    fn read_events(&mut self) -> Result<(), Failure> {
        while let Some(event) = self.parser.next_event().map_err(|e| self.broken(&e.to_string()))? {
            // Priming events and other kinds carry no message.
            let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
            let message = Message::parse(data).map_err(|_| self.broken("it sent an event that is no message"))?;
            self.ready.push_back(message);
        }
        Ok(())
    }

    fn broken(&self, reason: &str) -> Failure {
        Failure::Broken { service: self.service.to_string(), reason: reason.to_owned() }
    }
}

impl fmt::Debug for MessageStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageStream").field("service", &self.service).finish_non_exhaustive()
    }
}
