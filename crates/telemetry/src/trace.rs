//! W3C trace context by hand: no allocation, no lock, and no value that could fail a request.
//!
//! Source: W3C Trace Context, level 1 §3.2 (`traceparent`) and the level 2 `random` flag. A hop reads its
//! parent with [`choose_parent`], calls [`TraceContext::child`], and writes the child both into the message's
//! `_meta` and into the HTTP header.

use crate::tracestate;

/// Bytes of a version 00 `traceparent`: `00-<32 hex>-<16 hex>-<2 hex>`.
pub const TRACEPARENT_LEN: usize = 55;

/// The `sampled` bit: the caller may have recorded this trace.
pub const FLAG_SAMPLED: u8 = 0x01;
/// Flags that a version 00 participant may pass on; others are zeroed (level 1 §3.2.2.5, level 2 `random`).
const KNOWN_FLAGS: u8 = 0x03;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// One span of one trace. Both ids are non-zero when made by this module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Shared by every span of the trace.
    pub trace_id: [u8; 16],
    /// This span; the parent id of what it calls.
    pub span_id: [u8; 8],
    /// Trace flags, only bits that this hop understands.
    pub flags: u8,
}

/// Where a parent was found; its `tracestate` is only valid together with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParentSource {
    /// `params._meta.traceparent` of the message.
    Meta,
    /// The HTTP header `traceparent`.
    Header,
    /// The migration headers `X-MCPX-Trace-ID` and `X-MCPX-Span-ID`.
    Migration,
    /// The message's `mcpx.trace` member.
    Mcpx,
}

/// A valid parent and its carrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// The caller's span.
    pub context: TraceContext,
    /// Which carrier it came from.
    pub source: ParentSource,
}

impl TraceContext {
    /// Parses a `traceparent` value. `None` for anything the specification calls invalid: the hop then goes on
    /// to the next carrier or starts a new trace. Versions above 00 are read by their first 55 bytes.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (head, rest) = value.split_at_checked(TRACEPARENT_LEN)?;
        let version = hex_byte(head[0], head[1])?;
        let separated = head[2] == b'-' && head[35] == b'-' && head[52] == b'-';
        let length_ok = match version {
            0x00 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest[0] == b'-',
        };
        if !separated || !length_ok {
            return None;
        }
        let trace_id = hex_array::<16>(&head[3..35])?;
        let span_id = hex_array::<8>(&head[36..52])?;
        let flags = hex_byte(head[53], head[54])? & KNOWN_FLAGS;
        (trace_id != [0; 16] && span_id != [0; 8]).then_some(Self { trace_id, span_id, flags })
    }

    /// Starts a trace. Sampled, so that whoever records downstream has the whole of it.
    pub fn new_root() -> Self {
        let trace_id = (random_id().to_be_bytes(), random_id().to_be_bytes());
        let mut id = [0; 16];
        id[..8].copy_from_slice(&trace_id.0);
        id[8..].copy_from_slice(&trace_id.1);
        Self { trace_id: id, span_id: random_id().to_be_bytes(), flags: FLAG_SAMPLED }
    }

    /// A new span under this one.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { span_id: random_id().to_be_bytes(), ..*self }
    }

    /// The span of this hop: a child of the parent, or a new root without one.
    pub fn under(parent: Option<&Parent>) -> Self {
        parent.map_or_else(Self::new_root, |found| found.context.child())
    }

    /// The `traceparent` value, always version 00.
    pub fn format(&self) -> [u8; TRACEPARENT_LEN] {
        let mut out = [b'-'; TRACEPARENT_LEN];
        out[..2].copy_from_slice(b"00");
        write_hex(&self.trace_id, &mut out[3..35]);
        write_hex(&self.span_id, &mut out[36..52]);
        write_hex(&[self.flags], &mut out[53..]);
        out
    }

    /// The trace id as lower-case hex, for logs.
    pub fn trace_id_hex(&self) -> [u8; 32] {
        let mut out = [0; 32];
        write_hex(&self.trace_id, &mut out);
        out
    }

    /// The span id as lower-case hex, for logs.
    pub fn span_id_hex(&self) -> [u8; 16] {
        let mut out = [0; 16];
        write_hex(&self.span_id, &mut out);
        out
    }

    /// Whether both belong to one trace.
    pub fn same_trace(&self, other: &Self) -> bool {
        self.trace_id == other.trace_id
    }

    /// Whether both are one span.
    pub fn same_span(&self, other: &Self) -> bool {
        self.same_trace(other) && self.span_id == other.span_id
    }

    /// Whether the caller asked for this trace to be recorded.
    pub fn sampled(&self) -> bool {
        self.flags & FLAG_SAMPLED != 0
    }

    /// The `tracestate` to send with this span: our entry first, the caller's after it. `None` when the caller
    /// sent none that is valid; then there is nothing to preserve and we add nothing.
    pub fn tracestate(&self, incoming: Option<&[u8]>) -> Option<Vec<u8>> {
        let mut span = [0; 16];
        write_hex(&self.span_id, &mut span);
        tracestate::prepend(incoming?, &span)
    }
}

/// Finds the parent span: `_meta.traceparent`, else the header, else the migration headers
/// (`X-MCPX-Trace-ID`, `X-MCPX-Span-ID`), else the message's raw `mcpx.trace` value. Each invalid value counts as
/// absent.
pub fn choose_parent(
    meta: Option<&[u8]>,
    header: Option<&[u8]>,
    migration: (Option<&[u8]>, Option<&[u8]>),
    mcpx_trace: Option<&[u8]>,
) -> Option<Parent> {
    let found = |context, source| Parent { context, source };
    let standard =
        |value: Option<&[u8]>, source| value.and_then(TraceContext::parse).map(|context| found(context, source));
    standard(meta, ParentSource::Meta)
        .or_else(|| standard(header, ParentSource::Header))
        .or_else(|| loose_context(migration.0?, migration.1).map(|c| found(c, ParentSource::Migration)))
        .or_else(|| mcpx_context(mcpx_trace?).map(|c| found(c, ParentSource::Mcpx)))
}

/// `mcpx.trace` as raw JSON: a string (a `traceparent` or a bare trace id) or `{traceId, spanId}`.
fn mcpx_context(raw: &[u8]) -> Option<TraceContext> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Mcpx {
        Text(String),
        Ids {
            #[serde(rename = "traceId", alias = "trace_id")]
            trace: String,
            #[serde(rename = "spanId", alias = "span_id")]
            span: Option<String>,
        },
    }
    // A trace reference is short; anything longer is not one, and must not cost a parse.
    if raw.len() > 512 {
        return None;
    }
    match serde_json::from_slice(raw).ok()? {
        Mcpx::Text(text) => TraceContext::parse(text.as_bytes()).or_else(|| loose_context(text.as_bytes(), None)),
        Mcpx::Ids { trace, span } => loose_context(trace.as_bytes(), span.as_deref().map(str::as_bytes)),
    }
}

/// A trace id as older systems write it: 32 hex digits in either case, or a UUID with dashes. A missing or
/// invalid span id is replaced, because the trace id alone still joins the two halves.
fn loose_context(trace: &[u8], span: Option<&[u8]>) -> Option<TraceContext> {
    let trace_id = loose_hex::<16>(trace).filter(|id| *id != [0; 16])?;
    let span_id = span.and_then(loose_hex::<8>).filter(|id| *id != [0; 8]).unwrap_or_else(|| random_id().to_be_bytes());
    Some(TraceContext { trace_id, span_id, flags: FLAG_SAMPLED })
}

fn loose_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut out = [0; N];
    let mut digits = text.iter().filter(|byte| **byte != b'-').map(u8::to_ascii_lowercase);
    for byte in &mut out {
        *byte = hex_byte(digits.next()?, digits.next()?)?;
    }
    digits.next().is_none().then_some(out)
}

fn hex_array<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = hex_byte(pair[0], pair[1])?;
    }
    Some(out)
}

fn hex_byte(high: u8, low: u8) -> Option<u8> {
    Some(hex_digit(high)? << 4 | hex_digit(low)?)
}

/// Lower case only: upper case is invalid in `traceparent` (level 1 §3.2.2).
fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

/// Writes lower-case hex; `out` holds two bytes per input byte.
pub(crate) fn write_hex(bytes: &[u8], out: &mut [u8]) {
    for (byte, pair) in bytes.iter().zip(out.chunks_exact_mut(2)) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 0x0f)];
    }
}

/// A non-zero random id. `fastrand` keeps one seeded generator per thread: ids need to be unique, not secret.
fn random_id() -> u64 {
    fastrand::u64(1..)
}

#[cfg(test)]
mod tests;
