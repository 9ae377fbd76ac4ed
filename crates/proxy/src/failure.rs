//! Everything that can end a request early, and for each the one answer: HTTP status, JSON-RPC error, metric labels.
//!
//! `public` text goes to the caller; what only the operator may know travels in `detail` to the log.

use std::time::Duration;

use http::StatusCode;
use outrigger_mcp::{
    envelope::EnvelopeError,
    error::{self, RpcError},
    json::JsonError,
    revision::Revision,
};
use outrigger_telemetry::{
    ServiceMetrics,
    metrics::{BadRequestReason, LimitKind, Outcome},
};
use thiserror::Error;

/// Whose trouble it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The caller's: it sent something that cannot be served.
    Downstream,
    /// The service's, or the way to it.
    Upstream,
    /// Our own.
    Us,
}

/// Why a request ends early.
#[derive(Debug, Error)]
pub enum Failure {
    /// No route at this path.
    #[error("there is nothing at this path; MCP is served at {0}")]
    UnknownPath(&'static str),
    /// The HTTP method is not served here.
    #[error("this HTTP method is not served here; allowed: {0}")]
    MethodNotAllowed(&'static str),
    /// The request's `Host` is not one of ours (DNS rebinding protection).
    #[error("the Host header is not allowed here; add it to `allowed_hosts` if it is yours")]
    HostNotAllowed,
    /// The request's `Origin` is not allowed (DNS rebinding protection).
    #[error("the Origin header is not allowed here; add it to `allowed_origins` if it is yours")]
    OriginNotAllowed,
    /// The body is not declared as JSON.
    #[error("Content-Type must be application/json")]
    MediaType,
    /// The body is compressed.
    #[error("Content-Encoding is not accepted: send the body as it is")]
    ContentEncoding,
    /// The client takes neither JSON nor an event stream.
    #[error("Accept must allow application/json and text/event-stream")]
    NotAcceptable,
    /// The body is over the limit of this many bytes.
    #[error("the request body is larger than {0} bytes")]
    BodyTooLarge(usize),
    /// The body did not arrive in time.
    #[error("the request body did not arrive in time")]
    BodyTimeout,
    /// The body broke off.
    #[error("the request body broke off")]
    BodyBroken,
    /// Not a JSON-RPC message.
    #[error("{0}")]
    Envelope(#[from] EnvelopeError),
    /// A mirrored header is missing, malformed or differs from the body (2026-07-28).
    #[error("{0}")]
    HeaderMismatch(String),
    /// A required `_meta` member is missing or malformed (2026-07-28).
    #[error("{0}")]
    MissingMeta(String),
    /// The version is not one of ours.
    #[error("protocol version {0} is not supported")]
    UnsupportedVersion(String),
    /// The request neither belongs to a session nor is a modern one.
    #[error("{0}")]
    NoSession(String),
    /// Something else about the request that its text says.
    #[error("{0}")]
    InvalidRequest(String),
    /// The session does not exist (any more), or belongs to somebody else.
    #[error("no such session: start over with initialize")]
    UnknownSession,
    /// The session belongs to somebody else. Told as [`Failure::UnknownSession`]; the operator learns better.
    #[error("no such session: start over with initialize")]
    ForeignSession,
    /// An answer to a question that another replica asked, or this one before it was restarted.
    #[error("not delivered: another replica asked this question, and answers must reach the replica that asked")]
    AnswerElsewhere,
    /// No credentials, or bad ones.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// The client's bearer token is unknown, over, or for somebody else (RFC 6750 section 3.1).
    #[error("the bearer token is not valid")]
    InvalidToken,
    /// The keys that would tell whether a token is good cannot be had.
    #[error("the token cannot be checked: its identity provider cannot be reached")]
    NoTokenKeys,
    /// The token is good, but not for this call; further scopes would do (RFC 6750 section 3.1).
    #[error("this call needs a token with the scopes: {0}")]
    InsufficientScope(String),
    /// The caller's workload may not use this proxy at all.
    #[error("this workload may not call this service")]
    CallerRefused,
    /// The method does not exist here.
    #[error("method not found: {0}")]
    UnknownMethod(String),
    /// The server asks for something that the client did not declare.
    #[error("the client did not declare the capability `{0}`, which the server needs for this request")]
    MissingCapability(&'static str),
    /// The request cannot be served without an extension that the client did not declare.
    #[error("the client did not declare the extension `{0}`, which this request needs")]
    MissingExtension(&'static str),
    /// Parameters are missing or wrong.
    #[error("{0}")]
    InvalidParams(String),
    /// No such tool, prompt or resource, or none that the caller may know of: the answer is the same.
    #[error("Unknown {kind}: {name}")]
    UnknownCapability {
        /// tool, prompt or resource.
        kind: &'static str,
        /// As the caller wrote it.
        name: String,
    },
    /// Refused to a caller who may know that the thing exists, with what would be needed.
    #[error("{text}")]
    Denied {
        /// The closed word for programs.
        reason: &'static str,
        /// For people.
        text: String,
    },
    /// A rate or concurrency limit was reached.
    #[error("limit reached: {limit}")]
    Limited {
        /// The limit's name.
        limit: String,
        /// When to try again.
        retry_after: Duration,
        /// The service concerned, if it is one's.
        service: Option<String>,
    },
    /// The service cannot be reached or is not ready.
    #[error("the service {service} is not available: {reason}")]
    Unavailable {
        /// Its name.
        service: String,
        /// Why, for the caller.
        reason: String,
    },
    /// The service did not answer in time.
    #[error("the service {service} did not answer within {after:?}")]
    Timeout {
        /// Its name.
        service: String,
        /// The deadline that passed.
        after: Duration,
    },
    /// The call took longer than it may; whether it did the work is unknown.
    #[error("the service {service} was stopped: the call may take {after:?} at most")]
    Deadline {
        /// Its name.
        service: String,
        /// What the call may take.
        after: Duration,
    },
    /// The service failed while it worked on the request; whether it did the work is unknown.
    #[error("the service {service} failed: {reason}")]
    Broken {
        /// Its name.
        service: String,
        /// Why, for the caller.
        reason: String,
    },
    /// The service's reply, or one event of it, is larger than we take.
    #[error("the service {service} failed: its reply is larger than {limit} bytes")]
    ReplyTooLarge {
        /// Its name.
        service: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// A parked interaction is gone, foreign or used up; the call is not run again.
    #[error("{0}")]
    Interaction(&'static str),
    /// The audit must have a line of every call, and cannot take one now.
    #[error("refused, because no call is made that cannot be recorded; the log of this proxy says why")]
    Unaudited,
    /// What is asked for may be of a service that has yet to make itself known: this process has just started.
    #[error("this ingress has just started, and services are still making themselves known; try again in a second")]
    Starting,
    /// We are shutting down.
    #[error("shutting down: connect again")]
    Draining,
    /// A fault of ours; the text is for the log.
    #[error("internal error")]
    Internal(String),
}

impl Failure {
    /// Whose trouble it is.
    pub fn side(&self) -> Side {
        match self {
            Failure::Unavailable { .. }
            | Failure::Timeout { .. }
            | Failure::Deadline { .. }
            | Failure::Broken { .. }
            | Failure::ReplyTooLarge { .. }
            | Failure::Interaction(_) => Side::Upstream,
            Failure::NoTokenKeys
            | Failure::Unaudited
            | Failure::Starting
            | Failure::Draining
            | Failure::Internal(_) => Side::Us,
            _ => Side::Downstream,
        }
    }

    /// The closed word for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Failure::UnknownPath(_) => "unknown_path",
            Failure::MethodNotAllowed(_) => "http_method",
            Failure::HostNotAllowed => "host",
            Failure::OriginNotAllowed => "origin",
            Failure::MediaType => "content_type",
            Failure::ContentEncoding => "content_encoding",
            Failure::NotAcceptable => "accept",
            Failure::BodyTooLarge(_) => "body_too_large",
            Failure::BodyTimeout => "body_timeout",
            Failure::BodyBroken => "body_broken",
            Failure::Envelope(_) => "envelope",
            Failure::HeaderMismatch(_) => "header_mismatch",
            Failure::MissingMeta(_) => "missing_meta",
            Failure::UnsupportedVersion(_) => "unsupported_version",
            Failure::NoSession(_) => "no_session",
            Failure::InvalidRequest(_) => "invalid_request",
            Failure::UnknownSession | Failure::ForeignSession => "unknown_session",
            Failure::AnswerElsewhere => "answer_elsewhere",
            Failure::Unauthenticated(_) | Failure::InvalidToken => "unauthenticated",
            Failure::NoTokenKeys => "identity_provider",
            Failure::InsufficientScope(_) => "insufficient_scope",
            Failure::CallerRefused => "caller_refused",
            Failure::UnknownMethod(_) => "unknown_method",
            Failure::MissingCapability(_) | Failure::MissingExtension(_) => "missing_capability",
            Failure::InvalidParams(_) => "invalid_params",
            Failure::UnknownCapability { .. } => "unknown_capability",
            Failure::Denied { reason, .. } => reason,
            Failure::Limited { .. } => "limited",
            Failure::Unavailable { .. } => "unavailable",
            Failure::Timeout { .. } => "timeout",
            Failure::Deadline { .. } => "deadline",
            Failure::Broken { .. } => "broken",
            Failure::ReplyTooLarge { .. } => "reply_too_large",
            Failure::Interaction(_) => "interaction",
            Failure::Unaudited => "audit_unavailable",
            Failure::Starting => "starting",
            Failure::Draining => "draining",
            Failure::Internal(_) => "internal",
        }
    }

    /// The outcome under which the request is counted.
    pub fn outcome(&self) -> Outcome {
        match self {
            Failure::Unauthenticated(_) | Failure::InvalidToken => Outcome::Unauthenticated,
            Failure::CallerRefused
            | Failure::InsufficientScope(_)
            | Failure::UnknownCapability { .. }
            | Failure::Denied { .. } => Outcome::Denied,
            Failure::Limited { .. } => Outcome::Limited,
            Failure::Unavailable { .. }
            | Failure::NoTokenKeys
            | Failure::Unaudited
            | Failure::Starting
            | Failure::Draining => Outcome::Unavailable,
            Failure::Timeout { .. } | Failure::Deadline { .. } => Outcome::Timeout,
            Failure::Broken { .. } | Failure::ReplyTooLarge { .. } | Failure::Interaction(_) => Outcome::RpcError,
            Failure::Internal(_) => Outcome::Internal,
            _ => Outcome::BadRequest,
        }
    }

    /// What was wrong with the request, where it was the request's fault.
    pub fn bad_request(&self) -> Option<BadRequestReason> {
        Some(match self {
            Failure::Envelope(EnvelopeError::Duplicate(_)) => BadRequestReason::DuplicateKey,
            Failure::Envelope(EnvelopeError::Batch) => BadRequestReason::Batch,
            Failure::Envelope(EnvelopeError::Json(JsonError::Depth(_))) => BadRequestReason::TooDeep,
            Failure::Envelope(_) | Failure::InvalidRequest(_) => BadRequestReason::Malformed,
            Failure::BodyTooLarge(_) => BadRequestReason::TooLarge,
            Failure::BodyTimeout => BadRequestReason::TooSlow,
            Failure::BodyBroken => BadRequestReason::Http,
            Failure::MediaType | Failure::ContentEncoding => BadRequestReason::ContentType,
            Failure::NotAcceptable => BadRequestReason::Accept,
            Failure::HeaderMismatch(_) => BadRequestReason::HeaderMismatch,
            Failure::UnsupportedVersion(_) => BadRequestReason::Revision,
            Failure::NoSession(_) | Failure::UnknownSession | Failure::ForeignSession | Failure::AnswerElsewhere => {
                BadRequestReason::Session
            }
            Failure::Unauthenticated(_) | Failure::InvalidToken => BadRequestReason::Credential,
            Failure::HostNotAllowed | Failure::OriginNotAllowed => BadRequestReason::Origin,
            Failure::UnknownPath(_) => BadRequestReason::Path,
            Failure::MethodNotAllowed(_) => BadRequestReason::HttpMethod,
            Failure::MissingMeta(_)
            | Failure::MissingCapability(_)
            | Failure::MissingExtension(_)
            | Failure::InvalidParams(_)
            | Failure::UnknownMethod(_) => BadRequestReason::Params,
            _ => return None,
        })
    }

    /// The HTTP status for clients of the stateless revision, and for everything that is not JSON-RPC.
    pub fn status(&self) -> StatusCode {
        match self {
            Failure::UnknownPath(_) | Failure::UnknownSession | Failure::ForeignSession | Failure::UnknownMethod(_) => {
                StatusCode::NOT_FOUND
            }
            Failure::AnswerElsewhere => StatusCode::CONFLICT,
            Failure::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Failure::HostNotAllowed
            | Failure::OriginNotAllowed
            | Failure::CallerRefused
            | Failure::InsufficientScope(_) => StatusCode::FORBIDDEN,
            Failure::MediaType | Failure::ContentEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Failure::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Failure::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Failure::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Failure::BodyBroken
            | Failure::Envelope(_)
            | Failure::HeaderMismatch(_)
            | Failure::MissingMeta(_)
            | Failure::UnsupportedVersion(_)
            | Failure::MissingCapability(_)
            | Failure::MissingExtension(_)
            | Failure::NoSession(_)
            | Failure::InvalidRequest(_) => StatusCode::BAD_REQUEST,
            Failure::Unauthenticated(_) | Failure::InvalidToken => StatusCode::UNAUTHORIZED,
            Failure::InvalidParams(_)
            | Failure::UnknownCapability { .. }
            | Failure::Denied { .. }
            | Failure::Interaction(_) => StatusCode::OK,
            Failure::Limited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Failure::Unavailable { .. }
            | Failure::NoTokenKeys
            | Failure::Unaudited
            | Failure::Starting
            | Failure::Draining => StatusCode::SERVICE_UNAVAILABLE,
            Failure::Timeout { .. } | Failure::Deadline { .. } => StatusCode::GATEWAY_TIMEOUT,
            Failure::Broken { .. } | Failure::ReplyTooLarge { .. } => StatusCode::BAD_GATEWAY,
            Failure::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The HTTP status for a client with a session: once a request was understood, everything is 200, because a 404
    /// makes such clients drop the session and many break on other codes.
    pub fn legacy_status(&self) -> StatusCode {
        match self {
            Failure::UnknownMethod(_)
            | Failure::Limited { .. }
            | Failure::Unavailable { .. }
            | Failure::Timeout { .. }
            | Failure::Deadline { .. }
            | Failure::Broken { .. }
            | Failure::ReplyTooLarge { .. }
            | Failure::Unaudited
            | Failure::Starting
            | Failure::Internal(_) => StatusCode::OK,
            other => other.status(),
        }
    }

    fn code(&self) -> i64 {
        match self {
            Failure::Envelope(e) => e.code(),
            Failure::HeaderMismatch(_) => error::HEADER_MISMATCH,
            Failure::MissingMeta(_) | Failure::InvalidParams(_) | Failure::UnknownCapability { .. } => {
                error::INVALID_PARAMS
            }
            Failure::UnsupportedVersion(_) => error::UNSUPPORTED_VERSION,
            Failure::UnknownMethod(_) => error::METHOD_NOT_FOUND,
            Failure::MissingCapability(_) | Failure::MissingExtension(_) => error::MISSING_CAPABILITY,
            Failure::CallerRefused
            | Failure::InsufficientScope(_)
            | Failure::Denied { .. }
            | Failure::Unauthenticated(_)
            | Failure::InvalidToken => error::DENIED,
            Failure::Limited { .. } => error::LIMITED,
            Failure::Unavailable { .. }
            | Failure::NoTokenKeys
            | Failure::Unaudited
            | Failure::Starting
            | Failure::Draining => error::UNAVAILABLE,
            Failure::Timeout { .. } | Failure::Deadline { .. } => error::TIMEOUT,
            Failure::Broken { .. } | Failure::ReplyTooLarge { .. } | Failure::Interaction(_) | Failure::Internal(_) => {
                error::INTERNAL
            }
            Failure::UnknownPath(_)
            | Failure::MethodNotAllowed(_)
            | Failure::HostNotAllowed
            | Failure::OriginNotAllowed
            | Failure::MediaType
            | Failure::ContentEncoding
            | Failure::NotAcceptable
            | Failure::BodyTooLarge(_)
            | Failure::BodyTimeout
            | Failure::BodyBroken
            | Failure::NoSession(_)
            | Failure::InvalidRequest(_)
            | Failure::UnknownSession
            | Failure::ForeignSession
            | Failure::AnswerElsewhere => error::INVALID_REQUEST,
        }
    }

    /// The JSON-RPC error. An unknown capability carries nothing beyond its text, so that a hidden one cannot be told
    /// from one that does not exist.
    pub fn rpc(&self) -> RpcError {
        let plain = RpcError::new(self.code(), self.to_string());
        match self {
            Failure::UnknownCapability { .. } | Failure::InvalidParams(_) => plain,
            Failure::UnsupportedVersion(requested) => {
                let supported: Vec<String> =
                    Revision::ALL.iter().rev().map(|r| format!("\"{}\"", r.as_str())).collect();
                plain.with_raw("supported", format!("[{}]", supported.join(","))).with("requested", requested)
            }
            Failure::MissingCapability(path) => {
                let nested = path.rsplit('.').fold("{}".to_owned(), |inner, name| format!("{{\"{name}\":{inner}}}"));
                plain.with_raw("requiredCapabilities", nested)
            }
            Failure::MissingExtension(name) => {
                plain.with_raw("requiredCapabilities", format!("{{\"extensions\":{{\"{name}\":{{}}}}}}"))
            }
            Failure::Limited { limit, retry_after, service } => {
                let millis = retry_after.as_millis().max(1).to_string();
                let error = plain.with("reason", self.reason()).with("limit", limit).with_raw("retryAfterMs", millis);
                match service {
                    Some(service) => error.with("service", service),
                    None => error,
                }
            }
            Failure::ReplyTooLarge { service, limit } => {
                plain.with("reason", self.reason()).with("service", service).with_raw("limit", limit.to_string())
            }
            Failure::Unavailable { service, .. }
            | Failure::Timeout { service, .. }
            | Failure::Deadline { service, .. }
            | Failure::Broken { service, .. } => plain.with("reason", self.reason()).with("service", service),
            _ => plain.with("reason", self.reason()),
        }
    }

    /// A limit of ours was reached: counts that, and names the setting that raises it.
    pub fn over(metrics: &ServiceMetrics, kind: LimitKind, setting: &str, retry_after: Duration) -> Self {
        metrics.limited(kind);
        // The ingress counts under `*` what concerns no service.
        let service = Some(metrics.name()).filter(|name| &***name != "*").map(|name| name.to_string());
        Failure::Limited { limit: setting.to_owned(), retry_after, service }
    }

    /// The same once more, if it is a limit.
    pub fn limited(&self) -> Option<Self> {
        let Failure::Limited { limit, retry_after, service } = self else { return None };
        Some(Failure::Limited { limit: limit.clone(), retry_after: *retry_after, service: service.clone() })
    }

    /// What happened, for a place that names the service by itself.
    pub fn bare(&self) -> String {
        match self {
            Failure::Unavailable { reason, .. } => reason.clone(),
            other => other.to_string(),
        }
    }

    /// Seconds for `Retry-After`, rounded up.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Failure::Limited { retry_after, .. } => Some(retry_after.as_millis().div_ceil(1000).max(1) as u64),
            Failure::NoTokenKeys | Failure::Unaudited | Failure::Starting | Failure::Draining => Some(1),
            _ => None,
        }
    }
}
