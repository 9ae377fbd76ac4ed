//! What is left of a request's body when its answer is ready.
//!
//! hyper reads no more of an HTTP/1.1 body once the answer is there, and then ends the connection without having said so: the
//! client, told that it may keep it, sends its next request into a closed connection. Many clients send head and body apart, so
//! every refusal that needs only the head (a token, a path) can overtake the body.

use std::time::Duration;

use http::{HeaderValue, Response, Version, header};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};

use super::OutBody;

/// The most that is read of a body that nobody wants, bytes: nearly every MCP message has less.
const MOST: usize = 64 * 1024;

/// How long the rest of it may take: the way from a client that has sent both at once.
const PATIENCE: Duration = Duration::from_millis(500);

/// Reads what is left of `body` if it is little and comes soon; else the response says that the connection ends with it (RFC 9112,
/// section 9.6). Does nothing for a body that was read, and in HTTP/2, where the other requests do not depend on it.
pub async fn take_unwanted(version: Version, mut body: Incoming, response: &mut Response<OutBody>) {
    if version >= Version::HTTP_2 || body.is_end_stream() || response.headers().contains_key(header::CONNECTION) {
        return;
    }
    let little = body.size_hint().lower() <= MOST as u64;
    if !little || !tokio::time::timeout(PATIENCE, skip(&mut body)).await.unwrap_or(false) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Whether the body has come to its end.
async fn skip(body: &mut Incoming) -> bool {
    let mut left = MOST;
    loop {
        match body.frame().await {
            None => return true,
            Some(Err(_)) => return false,
            Some(Ok(frame)) => match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(rest) => left = rest,
                None => return false,
            },
        }
    }
}
