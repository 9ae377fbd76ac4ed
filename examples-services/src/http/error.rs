//! Why a fetch failed, in words for the caller.

use std::time::Duration;

use hyper::StatusCode;

/// Why nothing was fetched. The texts go to the caller.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("not a usable URL ({0}); give an absolute http or https URL")]
    BadUrl(String),
    #[error("{0:?} URLs are not fetched, only http and https")]
    Scheme(String),
    #[error("a URL with a user name or password in it is refused")]
    Credentials,
    #[error("cannot connect to {target}: {reason}")]
    Connect { target: String, reason: String },
    #[error("the proxy refused to reach {target}: {status}")]
    ProxyRefused { target: String, status: StatusCode },
    #[error("no TLS session with {host}: {reason}")]
    Tls { host: String, reason: String },
    #[error("{host} broke the HTTP exchange: {reason}")]
    Exchange { host: String, reason: String },
    #[error("more than {0} redirects")]
    TooManyRedirects(usize),
    #[error("a redirect ({0}) has no usable Location")]
    BadRedirect(StatusCode),
    #[error("{0}: only text is fetched")]
    NotText(String),
    #[error("charset {0:?} is not supported; only utf-8 and iso-8859-1 are")]
    Charset(String),
    #[error("the server sent Content-Encoding {0:?} although none was asked for")]
    Encoded(String),
    #[error("no complete answer within {} s", .0.as_secs())]
    Timeout(Duration),
}

/// Wraps whatever a URL parser says.
pub(crate) fn bad_url(error: impl std::fmt::Display) -> FetchError {
    FetchError::BadUrl(error.to_string())
}

/// Wraps whatever hyper says about an exchange with `host`.
pub(crate) fn broken(host: &str, error: &hyper::Error) -> FetchError {
    FetchError::Exchange { host: host.to_owned(), reason: error.to_string() }
}
