//! What the mesh answers over HTTP, one message or a stream of them, as messages for the client.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt;
use outrigger_mcp::envelope::{Message, Shape};
use outrigger_mcp::error::{INTERNAL, RpcError};
use outrigger_mcp::sse::Parser;
use outrigger_proxy::body::read_bounded;
use outrigger_proxy::pool::PooledBody;

use super::client::{Answer, refusal};
use super::outbox::Outbox;

/// The largest message that is taken from the mesh: what its ingress sends by default, with room.
const MAX_MESSAGE: usize = 32 << 20;
/// A whole answer that has begun arrives within this.
const BODY: Duration = Duration::from_secs(300);

/// How a stream ended.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// The response to the request was among its messages.
    pub(crate) answered: bool,
    /// The id of its last event that had one: where it can be resumed.
    pub(crate) last_event: Option<Bytes>,
    /// How long the mesh asks to wait before resuming.
    pub(crate) retry: Option<Duration>,
}

/// Passes the messages of an answer on. `id` is the raw id of the request, if it is about one; without an outbox, the
/// messages are only looked at.
///
/// # Errors
/// An answer that holds no message, although it should.
pub(crate) async fn pass_on(
    answer: Answer,
    id: Option<&Bytes>,
    outbox: Option<&Outbox>,
    mut look: impl FnMut(&Message),
) -> Result<Ended, RpcError> {
    let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let status = answer.status();
    if kind == "text/event-stream" && status.is_success() {
        return stream(answer.into_body(), id, outbox, look).await;
    }
    if id.is_none() && status.is_success() {
        return Ok(Ended::default());
    }
    let body = read_bounded(answer.into_body(), MAX_MESSAGE, BODY).await.map_err(|error| broken(&error.to_string()))?;
    let message = if kind == "application/json" { Message::parse(body).ok() } else { None };
    let response = message.filter(|message| matches!(message.shape, Shape::Result | Shape::Error));
    let Some(response) = response else {
        return Err(refusal(if status.is_success() { StatusCode::BAD_GATEWAY } else { status }));
    };
    look(&response);
    if let Some(outbox) = outbox {
        outbox.send(addressed(&response, id)).await;
    }
    Ok(Ended { answered: true, ..Ended::default() })
}

async fn stream(
    mut body: PooledBody,
    id: Option<&Bytes>,
    outbox: Option<&Outbox>,
    mut look: impl FnMut(&Message),
) -> Result<Ended, RpcError> {
    let mut parser = Parser::new(MAX_MESSAGE);
    let mut ended = Ended::default();
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                tracing::debug!(%error, "a stream of the mesh broke off");
                break;
            }
        };
        let Ok(data) = frame.into_data() else { continue };
        parser.push(&data);
        while let Some(event) = parser.next_event().map_err(|error| broken(&error.to_string()))? {
            ended.last_event = event.id.or(ended.last_event);
            ended.retry = event.retry.map(Duration::from_millis).or(ended.retry);
            // An event without data only says where the stream can be resumed.
            let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
            let Ok(message) = Message::parse(data) else {
                tracing::warn!("the mesh sent an event that is no message");
                continue;
            };
            look(&message);
            let response = matches!(message.shape, Shape::Result | Shape::Error);
            ended.answered |= response && id.is_some_and(|id| message.id().as_ref() == Some(id));
            if let Some(outbox) = outbox {
                outbox.send(message.body().clone()).await;
            }
        }
    }
    Ok(ended)
}

/// The response as the client can match it: an error that came before our id was read has none, or null.
fn addressed(response: &Message, id: Option<&Bytes>) -> Bytes {
    let Some(id) = id.filter(|_| response.id().is_none_or(|given| given == "null")) else {
        return response.body().clone();
    };
    let error = response.error_span().map(|span| response.slice(span)).unwrap_or_default();
    [b"{\"jsonrpc\":\"2.0\",\"id\":", &id[..], b",\"error\":", &error, b"}"].concat().into()
}

/// The answer cannot be read.
pub(crate) fn broken(why: &str) -> RpcError {
    RpcError::new(INTERNAL, format!("the answer of the mesh cannot be read: {why}")).with("reason", "broken_answer")
}

/// The stream ended before the response.
pub(crate) fn cut_off() -> RpcError {
    RpcError::new(INTERNAL, "the connection to the mesh ended before the answer; the call may or may not have run")
        .with("reason", "stream_ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_without_an_id_gets_the_one_of_the_request() {
        let id = Bytes::from_static(b"\"a\"");
        for (given, expected) in [
            (r#"{"jsonrpc":"2.0","error":{"code":1}}"#, r#"{"jsonrpc":"2.0","id":"a","error":{"code":1}}"#),
            (r#"{"jsonrpc":"2.0","id":null,"error":{"code":1}}"#, r#"{"jsonrpc":"2.0","id":"a","error":{"code":1}}"#),
            (r#"{"jsonrpc":"2.0","id":7,"error":{"code":1}}"#, r#"{"jsonrpc":"2.0","id":7,"error":{"code":1}}"#),
        ] {
            let message = Message::parse(Bytes::from_static(given.as_bytes())).unwrap();
            assert_eq!(addressed(&message, Some(&id)), expected);
        }
    }
}
