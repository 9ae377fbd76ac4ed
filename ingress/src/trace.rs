//! Which span a message belongs under.

use http::HeaderValue;
use outrigger_config::sections::Trace;
use outrigger_mcp::envelope::Message;
use outrigger_proxy::trace::{Span, TraceRules};

use crate::core::TraceHeaders;

/// Begins this hop's span. Invalid values count as absent: a trace is never a reason to refuse anything.
pub(crate) fn begin(settings: &Trace, headers: &TraceHeaders, message: &Message) -> Span {
    let rules = TraceRules { incoming: settings.accept_incoming, mcpx: settings.accept_mcpx };
    let header = |name: &str| match name {
        "traceparent" => headers.traceparent.as_ref(),
        "tracestate" => headers.tracestate.as_ref(),
        "x-mcpx-trace-id" => headers.mcpx_trace.as_ref(),
        "x-mcpx-span-id" => headers.mcpx_span.as_ref(),
        _ => None,
    };
    outrigger_proxy::trace::begin(rules, |name| header(name).map(HeaderValue::as_bytes), message)
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
