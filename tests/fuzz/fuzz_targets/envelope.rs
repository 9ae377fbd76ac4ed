//! A message from any peer. What is accepted must be JSON to another parser too, and must survive an edit.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use outrigger_mcp::edit::{Edits, MetaEdit};
use outrigger_mcp::envelope::{Message, Meta, Shape};
use serde::de::IgnoredAny;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fuzz_target!(|data: &[u8]| {
    let Ok(message) = Message::parse(Bytes::copy_from_slice(data)) else { return };
    serde_json::from_slice::<IgnoredAny>(data).expect("we accepted what is not JSON");
    message.target();
    message.error_code();
    message.error_message();
    if message.shape == Shape::Request {
        rewritten(&message);
    }
});

/// What a hop does to a request: another id, and its own trace context.
fn rewritten(message: &Message) {
    let mut edits = Edits::new();
    edits.set_id(message, "7");
    MetaEdit::default().text("traceparent", TRACE).params(message, &mut edits);
    let out = edits.apply_flat(message.body());
    // Params that are not an object have no place for metadata; two levels of new nesting may pass the depth limit.
    let Ok(again) = Message::parse(out) else { panic!("an edit made a message unreadable") };
    assert_eq!((again.shape, again.method), (message.shape, message.method));
    assert_eq!(again.target(), message.target());
    assert_eq!(again.id().as_deref(), Some(&b"7"[..]));
    assert_eq!(again.meta_text(Meta::Traceparent).as_deref(), Some(TRACE));
}
