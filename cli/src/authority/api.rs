//! The HTTP side: which paths there are, how much may come and how often, and what a refusal looks like.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use outrigger_enrol::protocol::{BUNDLE, Bundle, CERTIFICATES, Query, Refusal};
use outrigger_proxy::body::OutBody;
use outrigger_proxy::handshake::ConnInfo;
use outrigger_proxy::reply;
use outrigger_runtime::DrainWatcher;
use serde::Serialize;
use tokio::time::Instant;

use super::issue::{Issuer, Peer};
use super::rate::RateLimit;

/// How long a question for news may be left open.
const MAX_WAIT: Duration = Duration::from_secs(120);

/// What answers requests.
pub(crate) struct Api {
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) rate: RateLimit,
    pub(crate) body_bytes: usize,
    pub(crate) body_timeout: Duration,
    pub(crate) draining: DrainWatcher,
}

impl Api {
    /// Answers a request.
    pub(crate) async fn serve(self: Arc<Self>, conn: Arc<ConnInfo>, request: Request<Incoming>) -> Response<OutBody> {
        match (request.uri().path(), request.method()) {
            (CERTIFICATES, &Method::POST) => self.certificate(&conn, request).await,
            (BUNDLE, &Method::GET) => self.bundle(&request).await,
            (CERTIFICATES | BUNDLE, _) => {
                refuse(StatusCode::METHOD_NOT_ALLOWED, "method", "POST for certificates, GET for the bundle")
            }
            _ => refuse(StatusCode::NOT_FOUND, "path", "an authority has /ca/v1/certificates and /ca/v1/bundle"),
        }
    }

    async fn certificate(&self, conn: &ConnInfo, request: Request<Incoming>) -> Response<OutBody> {
        if !self.rate.admit(canonical(conn.peer_addr.ip()), Instant::now()) {
            let mut response = refuse(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limited",
                "too many requests from this address (`limits.requests` of the authority); try again later",
            );
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
            return response;
        }
        let json = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if json.is_none_or(|kind| kind.split(';').next().map(str::trim) != Some("application/json")) {
            return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", "send application/json");
        }
        let body = match self.body(request).await {
            Ok(body) => body,
            Err(refused) => return refused,
        };
        let query: Query = match serde_json::from_slice(&body) {
            Ok(query) => query,
            // Without what stands there: it may be a token.
            Err(error) => {
                let at =
                    format!("not a request for a certificate, at column {} of line {}", error.column(), error.line());
                return refuse(StatusCode::BAD_REQUEST, "malformed", &at);
            }
        };
        let certificates = conn.peer_certs().map(<[_]>::to_vec);
        let peer = Peer { address: conn.peer_addr, certificates };
        match Arc::clone(&self.issuer).answer(query, peer).await {
            Ok(grant) => json_reply(StatusCode::OK, &grant),
            Err(denied) => json_reply(denied.kind().0, &denied.refusal()),
        }
    }

    async fn body(&self, request: Request<Incoming>) -> Result<Bytes, Response<OutBody>> {
        let read = Limited::new(request.into_body(), self.body_bytes).collect();
        match tokio::time::timeout(self.body_timeout, read).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let most = format!("the request has more than {} bytes", self.body_bytes);
                Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &most))
            }
            Ok(Err(_)) => Err(refuse(StatusCode::BAD_REQUEST, "malformed", "the request broke off")),
            Err(_) => Err(refuse(StatusCode::REQUEST_TIMEOUT, "too_slow", "the request did not arrive in time")),
        }
    }

    /// What is believed and revoked: at once, or when it is something else than the asker has.
    async fn bundle(&self, request: &Request<Incoming>) -> Response<OutBody> {
        let known = request.headers().get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
        let known = known.map(|value| value.trim_matches('"').to_owned());
        let mut news = self.issuer.state.bundle.subscribe();
        let wait = wait_of(request.uri().query().unwrap_or_default());
        let is_new = |bundle: &Arc<Bundle>| known.as_deref() != Some(bundle.version.as_str());
        let found = tokio::select! {
            // What is new goes before the end of the wait: a revocation is not put off because both come at once.
            biased;
            found = news.wait_for(is_new) => found.ok().map(|bundle| Arc::clone(&bundle)),
            () = tokio::time::sleep(wait) => None,
            () = self.draining.signaled() => None,
        };
        let Some(bundle) = found else {
            let mut response = Response::new(OutBody::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        };
        let mut response = json_reply(StatusCode::OK, &*bundle);
        if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", bundle.version)) {
            response.headers_mut().insert(ETAG, tag);
        }
        response
    }
}

/// `wait=30s`; without it there is no waiting.
fn wait_of(query: &str) -> Duration {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("wait=")).unwrap_or_default();
    Duration::from_secs(value.trim_end_matches('s').parse().unwrap_or(0)).min(MAX_WAIT)
}

/// One client has one address, however it is written.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn refuse(status: StatusCode, reason: &str, message: &str) -> Response<OutBody> {
    json_reply(status, &Refusal { reason: reason.to_owned(), message: message.to_owned() })
}

fn json_reply(status: StatusCode, body: &impl Serialize) -> Response<OutBody> {
    // Texts and numbers alone: nothing that could fail.
    let mut response = reply::json(status, serde_json::to_vec(body).unwrap_or_default());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
