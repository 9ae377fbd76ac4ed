//! The span of one hop: whose child it is, and what is sent on. A trace is never a reason to refuse anything.

use outrigger_mcp::envelope::{Message, Meta};
use outrigger_telemetry::{
    TraceContext,
    trace::{ParentSource, choose_parent},
};

/// What of an incoming trace counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceRules {
    /// A valid `traceparent` of the peer becomes the parent.
    pub incoming: bool,
    /// `X-MCPX-Trace-ID`, `X-MCPX-Span-ID` and `mcpx.trace` count where it is absent.
    pub mcpx: bool,
}

/// This hop's span.
#[derive(Debug, Clone)]
pub struct Span {
    /// Its ids.
    pub context: TraceContext,
    /// The `tracestate` to send on.
    pub state: Option<Vec<u8>>,
}

/// Begins the span of a request. Invalid values count as absent; `header` finds a header of the request by its name.
pub fn begin<'h>(rules: TraceRules, header: impl Fn(&str) -> Option<&'h [u8]>, message: &Message) -> Span {
    let meta = message.meta_text(Meta::Traceparent);
    let parent = rules.incoming.then(|| {
        let (migration, mcpx) = match rules.mcpx {
            true => ((header("x-mcpx-trace-id"), header("x-mcpx-span-id")), message.mcpx_trace()),
            false => ((None, None), None),
        };
        choose_parent(meta.as_deref().map(str::as_bytes), header("traceparent"), migration, mcpx)
    });
    let parent = parent.flatten();
    let context = TraceContext::under(parent.as_ref());
    // A state is valid only with the parent that it came with.
    let state = match parent.map(|parent| parent.source) {
        Some(ParentSource::Meta) => {
            message.meta_text(Meta::Tracestate).and_then(|text| context.tracestate(Some(text.as_bytes())))
        }
        Some(ParentSource::Header) => context.tracestate(header("tracestate")),
        Some(ParentSource::Migration | ParentSource::Mcpx) | None => None,
    };
    Span { context, state }
}
