//! How fields of records become JSON. Runs on the writer's thread only.

use std::time::{Duration, SystemTime};

use serde::Serializer;
use time::OffsetDateTime;

use crate::trace::TraceContext;

/// Longest text of one field; a longer one is cut, because a log line must not grow with what a caller sends.
const MAX_TEXT: usize = 256;

/// RFC 3339 in UTC with microseconds, always the same width: in the order of their text, times are in order.
pub fn rfc3339(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    let (date, clock) = (at.date(), at.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second(),
        clock.microsecond(),
    )
}

/// As [`rfc3339`].
pub(crate) fn time<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*at))
}

/// Whole microseconds.
pub(crate) fn micros<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

/// The trace id as hex.
pub(crate) fn trace_id<S: Serializer>(trace: &TraceContext, serializer: S) -> Result<S::Ok, S::Error> {
    let hex = trace.trace_id_hex();
    serializer.serialize_str(str::from_utf8(&hex).unwrap_or_default())
}

/// The span id as hex.
pub(crate) fn span_id<S: Serializer>(trace: &TraceContext, serializer: S) -> Result<S::Ok, S::Error> {
    let hex = trace.span_id_hex();
    serializer.serialize_str(str::from_utf8(&hex).unwrap_or_default())
}

/// The span id as hex, or null.
pub(crate) fn optional_span_id<S: Serializer>(trace: &Option<TraceContext>, serializer: S) -> Result<S::Ok, S::Error> {
    match trace {
        Some(trace) => span_id(trace, serializer),
        None => serializer.serialize_none(),
    }
}

/// A path without its query: a query may hold a token.
pub(crate) fn path<S: Serializer>(path: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(cut(path.split('?').next().unwrap_or_default()))
}

/// Text of bounded length.
pub(crate) fn text<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(cut(text))
}

/// Text of bounded length, or null.
pub(crate) fn optional_text<S: Serializer, T: AsRef<str>>(text: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match text {
        Some(text) => serializer.serialize_str(cut(text.as_ref())),
        None => serializer.serialize_none(),
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}
