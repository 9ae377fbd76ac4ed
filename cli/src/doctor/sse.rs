//! A conversation over HTTP+SSE: a stream that first names where to POST, and then carries every answer.
//!
//! Source: MCP 2024-11-05, basic/transports, "HTTP with SSE".

use std::time::Duration;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http::uri::{PathAndQuery, Uri};
use http_body_util::BodyExt;
use outrigger_mcp::sse::{Event, Parser};
use outrigger_proxy::pool::PooledBody;
use serde_json::Value;
use tokio::time::timeout;

use crate::connect::client::Client;

use super::wire::{Trouble, answer_to, notification, request, silent};

/// The largest event that is read.
const LARGEST_EVENT: usize = 64 << 20;

/// An open stream.
pub(super) struct Sse {
    events: Events,
    post: Client,
    patience: Duration,
    last_id: u64,
}

impl Sse {
    /// Opens the stream and waits for the endpoint.
    ///
    /// # Errors
    /// When there is no such stream, or its endpoint is elsewhere.
    pub(super) async fn open(client: &Client, patience: Duration) -> Result<Self, Trouble> {
        let opening = async {
            let answer = client.get(HeaderMap::new()).await.map_err(|error| Trouble::gone(error.message))?;
            let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            if !answer.status().is_success() || !kind.starts_with("text/event-stream") {
                return Err(Trouble::gone(format!("GET gives no stream but HTTP status {}", answer.status().as_u16())));
            }
            let mut events = Events { body: answer.into_body(), parser: Parser::new(LARGEST_EVENT) };
            let first = events.next().await?;
            if first.event.as_deref() != Some(b"endpoint") {
                return Err(Trouble::gone("the stream does not begin with an endpoint"));
            }
            let endpoint = String::from_utf8_lossy(first.data.as_deref().unwrap_or_default()).into_owned();
            Ok(Self { events, post: client.at(path_of(&endpoint)?), patience, last_id: 0 })
        };
        timeout(patience, opening).await.unwrap_or_else(|_| Err(silent("GET", patience)))
    }

    /// See [`super::wire::Wire::ask`].
    pub(super) async fn ask(&mut self, method: &str, params: Value) -> Result<Value, Trouble> {
        self.last_id += 1;
        let id = self.last_id;
        let patience = self.patience;
        let asking = async {
            self.post(&request(id, method, &params)).await?;
            loop {
                let event = self.events.next().await?;
                let Some(message) = event.data.and_then(|data| serde_json::from_slice::<Value>(&data).ok()) else {
                    continue;
                };
                if message.get("method").is_some() {
                    if let Some(answer) = answer_to(&message) {
                        self.post(&answer).await?;
                    }
                } else if message.get("id").and_then(Value::as_u64) == Some(id) {
                    return Ok(message);
                }
            }
        };
        timeout(patience, asking).await.unwrap_or_else(|_| Err(silent(method, patience)))
    }

    /// See [`super::wire::Wire::tell`].
    pub(super) async fn tell(&mut self, method: &str) {
        // The next question shows whether it was understood.
        let _ = timeout(self.patience, self.post(&notification(method))).await;
    }

    async fn post(&self, message: &Value) -> Result<(), Trouble> {
        let sent = self.post.post(message.to_string().into(), HeaderMap::new()).await;
        let status = sent.map_err(|error| Trouble::gone(error.message))?.status();
        if status.is_success() {
            return Ok(());
        }
        Err(Trouble::unanswered(format!("HTTP status {}", status.as_u16())))
    }
}

/// The path of an endpoint. That it is on the same host is not asked: we talk to that host whatever it says.
fn path_of(endpoint: &str) -> Result<PathAndQuery, Trouble> {
    let uri = endpoint.parse::<Uri>().ok();
    let path = uri.as_ref().and_then(Uri::path_and_query).filter(|path| path.as_str().starts_with('/'));
    path.cloned().ok_or_else(|| Trouble::gone("the endpoint that the stream names is no URL"))
}

struct Events {
    body: PooledBody,
    parser: Parser,
}

impl Events {
    async fn next(&mut self) -> Result<Event, Trouble> {
        loop {
            match self.parser.next_event() {
                Ok(Some(event)) => return Ok(event),
                Ok(None) => {}
                Err(error) => return Err(Trouble::gone(error.to_string())),
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.parser.push(&data);
                    }
                }
                Some(Err(error)) => return Err(Trouble::gone(format!("the stream broke: {error}"))),
                None => return Err(Trouble::gone("the stream ended")),
            }
        }
    }
}
