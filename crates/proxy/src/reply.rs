//! reply: the one place where a failure becomes an HTTP response, and where our own answers are made.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::{body::OutBody, failure::Failure};

/// How a client wants failures told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Statuses as the stateless revision fixes them.
    Modern,
    /// 200 for everything after the request was understood.
    Legacy,
}

/// The response for a failure.
pub fn failure(failure: &Failure, id: Option<&[u8]>, dialect: Dialect) -> Response<OutBody> {
    let status = match dialect {
        Dialect::Modern => failure.status(),
        Dialect::Legacy => failure.legacy_status(),
    };
    let mut response = json(status, failure.rpc().reply(id));
    let headers = response.headers_mut();
    if let Some(seconds) = failure.retry_after() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Failure::MethodNotAllowed(allowed) = failure {
        headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
    }
    if let Failure::BodyTooLarge(_) | Failure::BodyTimeout | Failure::BodyBroken | Failure::Draining = failure {
        // The rest of the body is not read, so the connection cannot be used again.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let challenge = match failure {
        Failure::Unauthenticated(_) => Some(HeaderValue::from_static("Bearer")),
        Failure::InvalidToken => Some(HeaderValue::from_static("Bearer error=\"invalid_token\"")),
        Failure::InsufficientScope(scopes) => {
            HeaderValue::try_from(format!("Bearer error=\"insufficient_scope\", scope=\"{scopes}\"")).ok()
        }
        _ => None,
    };
    if let Some(challenge) = challenge {
        headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// A JSON response.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<OutBody> {
    respond(status, "application/json", OutBody::full(body.into()))
}

/// A response for people.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<OutBody> {
    respond(status, "text/plain; charset=utf-8", OutBody::full(body.into()))
}

/// A JSON response in pieces.
pub fn json_pieces(status: StatusCode, pieces: Vec<Bytes>) -> Response<OutBody> {
    respond(status, "application/json", OutBody::chunks(pieces))
}

/// An event stream. `X-Accel-Buffering` tells proxies in front of us not to hold it back.
pub fn event_stream(body: OutBody) -> Response<OutBody> {
    let mut response = respond(StatusCode::OK, "text/event-stream", body);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// 202 without a body: a notification or a response was taken.
pub fn accepted() -> Response<OutBody> {
    let mut response = Response::new(OutBody::empty());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

fn respond(status: StatusCode, kind: &'static str, body: OutBody) -> Response<OutBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
