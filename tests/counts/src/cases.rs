//! What is counted: for each phase of a request the functions that do its work, on input as it comes.

mod catalogs;
mod decisions;

use std::hint::black_box;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use outrigger_egress::{client_hello, request};
use outrigger_mcp::bridge::to_server::Call;
use outrigger_mcp::edit::{Edits, MetaEdit};
use outrigger_mcp::envelope::Message;
use outrigger_mcp::sse::Parser;
use outrigger_telemetry::metrics::Outcome;
use outrigger_telemetry::{AccessRecord, TraceContext};

use crate::{Broken, Run};

/// Makes a case ready to run.
pub(crate) type Prepare = fn() -> Result<Run, Broken>;

/// Every case under its name in the baseline: the phase, then what it does.
pub(crate) const ALL: &[(&str, Prepare)] = &[
    ("peek: envelope of a call, 300 bytes", || Ok(envelope(CALL))),
    ("peek: envelope of a call, 64 KiB of arguments", || Ok(envelope(&large()))),
    ("peek: envelope of a result, 200 bytes", || Ok(envelope(RESULT))),
    ("identify: traceparent read, child written", traceparent),
    ("authorize: 1,000 rules, allowed", || decisions::call("user77", "svc77", "tool3")),
    ("authorize: 1,000 rules, none for the caller", || decisions::call("somebody-else", "svc77", "tool3")),
    ("authorize: 1,000 rules, a condition over arguments", || decisions::call("user77", "cond", "arguments")),
    ("authorize: 1,000 rules, a list of 500 tools", decisions::list),
    ("authorize: egress, 1,000 rules, allowed", || decisions::egress("api998.example.test")),
    ("authorize: egress, 1,000 rules, denied", || decisions::egress("exfiltration.deep.down.somewhere.else.test")),
    ("route: a name among 10 services", || catalogs::resolve(10)),
    ("route: a name among 1,000 services", || catalogs::resolve(1_000)),
    ("route: merge 10 services of 50 tools", catalogs::merge),
    ("forward: rename a call and set its trace", rename),
    ("forward: a call for an older server", older),
    ("forward: 100 events of a stream", events),
    ("forward: write 500 tools of a list", catalogs::written),
    ("reply: 500 tools to a client of 2025-11-25", catalogs::listed),
    ("record: line of the access log", access),
    ("egress peek: ClientHello", hello),
    ("egress peek: head of a proxy request", head),
];

const CALL: &[u8] = br#"{"jsonrpc":"2.0","id":17,"method":"tools/call","params":{"name":"fs__read_file","arguments":{"path":"/data/reports/2026/november.txt","encoding":"utf-8","lines":[1,200]},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}}}"#;
const RESULT: &[u8] = br#"{"jsonrpc":"2.0","id":17,"result":{"content":[{"type":"text","text":"The quick brown fox jumps over the lazy dog, and nobody minds."}],"structuredContent":{"lines":200,"more":false},"isError":false}}"#;
const TRACEPARENT: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn large() -> Vec<u8> {
    let text = "0123456789abcdef".repeat(4096);
    format!(r#"{{"jsonrpc":"2.0","id":17,"method":"tools/call","params":{{"name":"a__b","arguments":{{"text":"{text}"}}}}}}"#)
        .into_bytes()
}

/// A message of ours, which is well-formed.
fn message(text: &[u8]) -> Result<Message, Broken> {
    Message::parse(Bytes::copy_from_slice(text)).map_err(|rejected| format!("{rejected:?}").into())
}

fn envelope(text: &[u8]) -> Run {
    let body = Bytes::copy_from_slice(text);
    Box::new(move || {
        let _message = black_box(Message::parse(black_box(body.clone())));
    })
}

fn traceparent() -> Result<Run, Broken> {
    Ok(Box::new(|| {
        let found = TraceContext::parse(black_box(TRACEPARENT));
        black_box(found.map(|parent| parent.child().format()));
    }))
}

fn rename() -> Result<Run, Broken> {
    let call = message(CALL)?;
    Ok(Box::new(move || {
        let mut edits = Edits::new();
        edits.set_id(&call, "4711");
        MetaEdit::default()
            .text("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-b9c7c989f97918e1-01")
            .params(&call, &mut edits);
        black_box(edits.apply(call.body()));
    }))
}

fn older() -> Result<Run, Broken> {
    let (call, reply) = (message(CALL)?, message(RESULT)?);
    let info = Bytes::from_static(br#"{"name":"x","version":"1"}"#);
    Ok(Box::new(move || {
        let translation = Call::new(&call, 4711);
        black_box(translation.request(&call, &[]));
        black_box(translation.reply(&reply, &info));
    }))
}

fn events() -> Result<Run, Broken> {
    let stream: Vec<u8> =
        (0..100).flat_map(|n| [format!("id: {n}\ndata: ").as_bytes(), RESULT, b"\n\n"].concat()).collect();
    Ok(Box::new(move || {
        let mut parser = Parser::new(1 << 20);
        for piece in stream.chunks(1400) {
            parser.push(piece);
            while let Ok(Some(event)) = parser.next_event() {
                black_box(event);
            }
        }
    }))
}

fn access() -> Result<Run, Broken> {
    let record = AccessRecord {
        time: UNIX_EPOCH + Duration::from_micros(1_795_230_245_000_120),
        client: Some("10.1.2.3:40000".parse()?),
        principal: Some("spiffe://demo.outrigger.local/ingress".into()),
        http_version: "HTTP/2",
        http_method: "POST".into(),
        path: "/mcp".into(),
        status: 200,
        method: Some("tools/call"),
        service: Some("fs".into()),
        capability: Some("read_file".into()),
        outcome: Outcome::Ok,
        duration: Duration::from_micros(77),
        bytes_in: 300,
        bytes_out: 200,
        egress: None,
        trace: TraceContext::parse(TRACEPARENT).ok_or("no trace")?,
    };
    let mut line = Vec::with_capacity(1024);
    Ok(Box::new(move || {
        line.clear();
        let _written = black_box(serde_json::to_writer(&mut line, &record));
    }))
}

fn hello() -> Result<Run, Broken> {
    let bytes = include_bytes!("../../fuzz/corpus/client_hello/openssl");
    client_hello::parse(bytes)?.ok_or("a part of a ClientHello")?;
    Ok(Box::new(move || {
        let _hello = black_box(client_hello::parse(black_box(bytes)));
    }))
}

fn head() -> Result<Run, Broken> {
    let bytes = b"GET http://api.example.test/v1/things?page=2 HTTP/1.1\r\nHost: api.example.test\r\nUser-Agent: x/1.0\r\nAccept: */*\r\nAuthorization: Bearer abc\r\nConnection: keep-alive\r\n\r\n";
    Ok(Box::new(move || {
        let _request = black_box(request::parse(black_box(bytes)));
    }))
}
