//! One conversation with a server, whatever it goes over.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::http::Http;
use super::sse::Sse;
use super::stdio::Stdio;

/// How messages travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum Transport {
    /// Lines over stdin and stdout.
    #[serde(rename = "stdio")]
    Stdio,
    /// Streamable HTTP.
    #[serde(rename = "streamable-http")]
    Http,
    /// HTTP+SSE of 2024-11-05.
    #[serde(rename = "http+sse")]
    Sse,
}

impl Transport {
    /// The word in reports.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Stdio => "stdio",
            Self::Http => "Streamable HTTP",
            Self::Sse => "HTTP+SSE",
        }
    }
}

/// Why a question got no answer.
#[derive(Debug)]
pub(super) struct Trouble {
    /// In words.
    pub(super) what: String,
    /// The server has gone; more questions are useless.
    pub(super) gone: bool,
    /// It said nothing at all in the time that it had.
    pub(super) silent: bool,
}

impl Trouble {
    /// No answer to this question; others may be answered.
    pub(super) fn unanswered(what: impl Into<String>) -> Self {
        Self { what: what.into(), gone: false, silent: false }
    }

    /// The conversation is over.
    pub(super) fn gone(what: impl Into<String>) -> Self {
        Self { what: what.into(), gone: true, silent: false }
    }
}

/// A conversation.
pub(super) enum Wire {
    /// With a process.
    Stdio(Stdio),
    /// With an endpoint.
    Http(Http),
    /// Over a stream and an endpoint that it named.
    Sse(Sse),
}

/// What a conversation showed besides its answers.
#[derive(Debug, Default)]
pub(super) struct Manners {
    /// Lines on stdout that are no messages.
    pub(super) noise: usize,
    /// The first of them, cut.
    pub(super) first_noise: Option<String>,
    /// The process did not end when its stdin was closed.
    pub(super) stays: bool,
}

impl Wire {
    /// Asks, and waits for the answer: the whole JSON-RPC response.
    ///
    /// # Errors
    /// When none comes.
    pub(super) async fn ask(&mut self, method: &str, params: Value) -> Result<Value, Trouble> {
        match self {
            Self::Stdio(wire) => wire.ask(method, params).await,
            Self::Http(wire) => wire.ask(method, params).await,
            Self::Sse(wire) => wire.ask(method, params).await,
        }
    }

    /// Sends a notification. Whether it arrived shows in what follows.
    pub(super) async fn tell(&mut self, method: &str) {
        match self {
            Self::Stdio(wire) => wire.tell(method).await,
            Self::Http(wire) => wire.tell(method).await,
            Self::Sse(wire) => wire.tell(method).await,
        }
    }

    /// From now on the revision is known.
    pub(super) fn agreed(&mut self, version: &str) {
        if let Self::Http(wire) = self {
            wire.agreed(version);
        }
    }

    /// Ends the conversation. With `watch`, a program is given the time to end by itself.
    pub(super) async fn close(self, watch: bool) -> Manners {
        match self {
            Self::Stdio(wire) => wire.close(watch).await,
            Self::Http(wire) => {
                wire.close().await;
                Manners::default()
            }
            Self::Sse(_) => Manners::default(),
        }
    }
}

/// A request.
pub(super) fn request(id: u64, method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

/// A notification without parameters.
pub(super) fn notification(method: &str) -> Value {
    json!({"jsonrpc": "2.0", "method": method})
}

/// What we say when the server asks us: we have no roots, and nobody to ask.
pub(super) fn answer_to(question: &Value) -> Option<Value> {
    let method = question.get("method")?.as_str()?;
    let id = question.get("id")?;
    Some(match method {
        "ping" => json!({"jsonrpc": "2.0", "id": id, "result": {}}),
        "roots/list" => json!({"jsonrpc": "2.0", "id": id, "result": {"roots": []}}),
        _ => json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "nobody is here to answer"}}),
    })
}

/// No answer in time.
pub(super) fn silent(method: &str, patience: Duration) -> Trouble {
    Trouble { silent: true, ..Trouble::unanswered(format!("no answer to {method} within {patience:?}")) }
}
