//! Names of headers that calls have and that `http` does not know: made from text, each would be copied for each request.

use http::HeaderName;
use outrigger_mcp::headers;

/// [`headers::NAME`].
pub static NAME: HeaderName = HeaderName::from_static(headers::NAME);
/// [`headers::METHOD`].
pub static METHOD: HeaderName = HeaderName::from_static(headers::METHOD);
/// [`headers::PROTOCOL_VERSION`].
pub static PROTOCOL_VERSION: HeaderName = HeaderName::from_static(headers::PROTOCOL_VERSION);
/// [`headers::SESSION_ID`].
pub static SESSION_ID: HeaderName = HeaderName::from_static(headers::SESSION_ID);
/// [`headers::DEADLINE`].
pub static DEADLINE: HeaderName = HeaderName::from_static(headers::DEADLINE);
/// Where a trace is handed on (W3C Trace Context, section 3.2).
pub static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What tracers say of it to each other (W3C Trace Context, section 3.3).
pub static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
