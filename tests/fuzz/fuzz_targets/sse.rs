//! A stream from a server. How it is cut into pieces must not matter, and no event may pass the limit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger_mcp::sse::{Event, EventTooLarge, Parser, event};

const SMALL: usize = 32;

fuzz_target!(|data: &[u8]| {
    let Some((&first, stream)) = data.split_first() else { return };
    let piece = usize::from(first).max(1);
    let whole = events(stream.len() + 1, [stream]).expect("no event is larger than its stream");
    let pieces = events(stream.len() + 1, stream.chunks(piece)).expect("no event is larger than its stream");
    assert_eq!(whole, pieces);
    for event in events(SMALL, stream.chunks(piece)).unwrap_or_default() {
        assert!(event.data.map_or(0, |data| data.len()) <= SMALL);
    }
    round_trip(stream);
});

fn events<'a>(limit: usize, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Event>, EventTooLarge> {
    let mut parser = Parser::new(limit);
    let mut found = Vec::new();
    for piece in pieces {
        parser.push(piece);
        while let Some(event) = parser.next_event()? {
            found.push(event);
        }
    }
    Ok(found)
}

/// What we write is one event with the same data, line ends aside.
fn round_trip(message: &[u8]) {
    let encoded = event(message);
    let found = events(encoded.len(), [&encoded[..]]).expect("no event is larger than its stream");
    let [only] = &found[..] else { panic!("one message became {} events", found.len()) };
    let lines: Vec<u8> = message.iter().map(|byte| if *byte == b'\r' { b'\n' } else { *byte }).collect();
    assert_eq!(only.data.as_deref(), Some(&lines[..]));
}
