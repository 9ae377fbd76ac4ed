//! Heads, bodies and SOCKS of the outbound proxy: nothing panics, and what is accepted has one reading.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger_egress::{body::Body, reply, request, socks};

fuzz_target!(|data: &[u8]| {
    let _ = (socks::greeting(data), socks::request(data), socks::password(data), reply::parse(data, false));
    let Some(end) = request::end(data) else { return };
    let (head, rest) = data.split_at(end);
    let Ok(asked) = request::parse(head) else { return };
    // What no reader could take for a line end or a second field.
    assert!(!head.windows(2).any(|two| two[1] == b'\n' && two[0] != b'\r'));
    assert!(!asked.method.is_empty() && asked.fields.iter().all(|field| !field.value.contains(&b'\r')));
    if let request::Target::Absolute { authority, .. } | request::Target::Connect(authority) = asked.target {
        assert!(!authority.host.contains('@'));
    }
    // However it is cut, a body ends at the same place.
    let mut whole = Body::strict(asked.framing);
    let read = whole.advance(rest);
    let (one, two) = rest.split_at(rest.len() / 2);
    let mut cut = Body::strict(asked.framing);
    let pieces = cut.advance(one).and_then(|first| Ok(first + if cut.done() { 0 } else { cut.advance(two)? }));
    assert_eq!((read, whole.done()), (pieces, cut.done()));
});
