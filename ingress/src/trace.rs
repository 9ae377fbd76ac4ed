//! Which span a message belongs under.

use outrigger_config::sections::Trace;
use outrigger_mcp::envelope::{Message, Meta};
use outrigger_telemetry::TraceContext;
use outrigger_telemetry::trace::{Parent, ParentSource, choose_parent};

use crate::core::TraceHeaders;
use crate::forward::Span;

/// Begins this hop's span. Invalid values count as absent: a trace is never a reason to refuse anything.
pub(crate) fn begin(settings: &Trace, headers: &TraceHeaders, message: &Message) -> Span {
    let meta = message.meta_text(Meta::Traceparent);
    let parent = settings.accept_incoming.then(|| parent(settings, headers, meta.as_deref(), message)).flatten();
    let context = TraceContext::under(parent.as_ref());
    // A state is valid only with the parent that it came with.
    let state = match parent.map(|parent| parent.source) {
        Some(ParentSource::Meta) => message.meta_text(Meta::Tracestate).map(|text| text.into_owned().into_bytes()),
        Some(ParentSource::Header) => headers.tracestate.as_ref().map(|value| value.as_bytes().to_vec()),
        Some(ParentSource::Migration | ParentSource::Mcpx) | None => None,
    };
    Span { state: context.tracestate(state.as_deref()), context }
}

fn parent(settings: &Trace, headers: &TraceHeaders, meta: Option<&str>, message: &Message) -> Option<Parent> {
    let bytes = |value: &Option<http::HeaderValue>| value.as_ref().map(|value| value.as_bytes().to_vec());
    let (header, trace, span) = (bytes(&headers.traceparent), bytes(&headers.mcpx_trace), bytes(&headers.mcpx_span));
    let (migration, mcpx) = if settings.accept_mcpx {
        ((trace.as_deref(), span.as_deref()), message.mcpx_trace())
    } else {
        ((None, None), None)
    };
    choose_parent(meta.map(str::as_bytes), header.as_deref(), migration, mcpx)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn traced(meta: &str, header: Option<&str>, settings: &Trace) -> Span {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{"_meta":{{{meta}}}}}}}"#);
        let headers = TraceHeaders {
            traceparent: header.map(|value| value.parse().unwrap()),
            tracestate: Some("h=1".parse().unwrap()),
            mcpx_trace: Some("0af7651916cd43dd8448eb211c80319c".parse().unwrap()),
            mcpx_span: None,
        };
        begin(settings, &headers, &Message::parse(text.into()).unwrap())
    }

    fn id(span: &Span) -> String {
        String::from_utf8(span.context.trace_id_hex().to_vec()).unwrap()
    }

    #[test]
    fn the_message_counts_before_headers_and_garbage_for_nothing() {
        let all = Trace { accept_incoming: true, accept_mcpx: true };
        let meta = format!(r#""traceparent":"00-{ID}-00f067aa0ba902b7-01","tracestate":"m=1""#);
        let span = traced(&meta, Some("00-11111111111111111111111111111111-00f067aa0ba902b7-01"), &all);
        assert_eq!(id(&span), ID);
        assert!(String::from_utf8(span.state.unwrap()).unwrap().ends_with("m=1"));
        let span = traced(
            r#""traceparent":"garbage","tracestate":"m=1""#,
            Some(&format!("00-{ID}-00f067aa0ba902b7-01")),
            &all,
        );
        assert_eq!(id(&span), ID);
        assert!(String::from_utf8(span.state.unwrap()).unwrap().ends_with("h=1"));
        let span = traced("", None, &all);
        assert_eq!((id(&span).as_str(), span.state), ("0af7651916cd43dd8448eb211c80319c", None));
    }

    #[test]
    fn settings_close_each_way() {
        let meta = format!(r#""traceparent":"00-{ID}-00f067aa0ba902b7-01""#);
        assert_ne!(id(&traced(&meta, None, &Trace { accept_incoming: false, accept_mcpx: true })), ID);
        let span = traced("", None, &Trace { accept_incoming: true, accept_mcpx: false });
        assert_ne!(id(&span), "0af7651916cd43dd8448eb211c80319c");
    }
}
