//! What can go wrong between handing a request to a pool and having its response head.

use crate::body::OutBody;
use crate::dial::DialError;

/// Which step failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendErrorKind {
    /// The name did not resolve or nobody listens there.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// No connection within the connect timeout.
    Timeout,
    /// Every permitted connection is busy and none became free in time.
    Exhausted,
    /// The peer closed or reset the connection (or stream) before a response head.
    Closed,
    /// The peer's answer is not HTTP as we speak it, or breaks our limits.
    Protocol,
    /// The body of the request that we were sending broke off.
    Body,
}

/// A request that got no response head.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", self.what())]
pub struct SendError {
    /// Which step failed.
    pub kind: SendErrorKind,
    /// `false` only when it is proven that no byte of the request reached the peer, so that running it elsewhere cannot
    /// run it twice.
    pub sent: bool,
    /// The cause, for the log.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl SendError {
    fn what(&self) -> &'static str {
        match (self.sent, self.kind) {
            (false, SendErrorKind::Connect | SendErrorKind::Tls | SendErrorKind::Timeout) => {
                "no connection to the upstream"
            }
            (false, _) => "request not sent",
            (true, _) => "request sent but not answered",
        }
    }

    pub(super) fn exhausted(max_open: usize) -> Self {
        let source = format!("all {max_open} connections are busy").into();
        Self { kind: SendErrorKind::Exhausted, sent: false, source }
    }

    /// A failure of the HTTP handshake, before any request.
    pub(super) fn unsent(error: hyper::Error) -> Self {
        Self { kind: kind_of(&error), sent: false, source: error.into() }
    }

    /// A failure after hyper took the request.
    pub(super) fn sent(error: hyper::Error) -> Self {
        Self { kind: kind_of(&error), sent: true, source: error.into() }
    }
}

impl From<DialError> for SendError {
    fn from(error: DialError) -> Self {
        let kind = match &error {
            DialError::Resolve { .. } | DialError::Connect { .. } => SendErrorKind::Connect,
            DialError::Tls { .. } => SendErrorKind::Tls,
            DialError::Timeout { .. } => SendErrorKind::Timeout,
        };
        Self { kind, sent: false, source: error.into() }
    }
}

fn kind_of(error: &hyper::Error) -> SendErrorKind {
    if error.is_parse() {
        SendErrorKind::Protocol
    } else if error.is_user() {
        SendErrorKind::Body
    } else {
        SendErrorKind::Closed
    }
}

/// A request that came back whole from a connection that turned out to be closed.
pub(super) struct Unsent {
    pub(super) request: http::Request<OutBody>,
    pub(super) error: hyper::Error,
}

/// How one attempt on one connection failed.
pub(super) enum Attempt {
    /// Provably unsent: the request may go elsewhere.
    Unsent(Box<Unsent>),
    /// Some of it may have reached the peer.
    Sent(hyper::Error),
}

impl From<hyper::client::conn::TrySendError<http::Request<OutBody>>> for Attempt {
    fn from(mut error: hyper::client::conn::TrySendError<http::Request<OutBody>>) -> Self {
        match error.take_message() {
            Some(request) => Self::Unsent(Box::new(Unsent { request, error: error.into_error() })),
            None => Self::Sent(error.into_error()),
        }
    }
}
