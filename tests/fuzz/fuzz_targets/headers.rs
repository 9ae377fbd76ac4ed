//! Headers of a request: encoded values, mirrored arguments, trace context.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger_mcp::headers::{decode, encode, safe_integer};
use outrigger_mcp::param_headers::ParamHeaders;
use outrigger_telemetry::trace::{TraceContext, choose_parent};

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = decode(data) {
        assert_eq!(decode(encode(&text).as_bytes()).as_ref(), Ok(&text));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        assert_eq!(decode(encode(text).as_bytes()).as_deref(), Ok(text));
        if let Some(number) = safe_integer(text) {
            assert!(number.unsigned_abs() < 1 << 53);
        }
    }
    mirrored(data);
    trace(data);
});

/// A schema and arguments, separated by a zero byte: the headers that we send must pass the check that we make.
fn mirrored(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let (Some(schema), arguments) = (parts.next(), parts.next()) else { return };
    let Ok(Some(params)) = ParamHeaders::compile(schema) else { return };
    let generated = params.generate(arguments);
    let header = |name: &str| {
        let value = generated.iter().find(|(generated, _)| generated.eq_ignore_ascii_case(name));
        value.map(|(_, value)| value.as_bytes())
    };
    // A number that not every reader takes for the same is refused on purpose.
    let clear = |value: &str| value.parse::<f64>().is_err() || safe_integer(value).is_some();
    if generated.iter().all(|(_, value)| clear(value))
        && let Err(wrong) = params.check(arguments, header)
    {
        // An argument that no header can carry stays out and is refused; what a header carries must not differ.
        assert!(!wrong.contains("differs"), "{wrong}");
    }
}

fn trace(data: &[u8]) {
    if let Some(context) = TraceContext::parse(data) {
        assert_eq!(TraceContext::parse(&context.format()), Some(context));
        context.child().tracestate(Some(data));
    }
    choose_parent(None, None, (Some(data), Some(data)), Some(data));
    TraceContext::new_root().tracestate(Some(data));
}
