//! Calls of many callers on one channel of a server, in any order, with a server that may say anything, cancel, restart.
//!
//! The model knows which caller each id of ours stands for. Whatever happens: a reply reaches the caller whose call it
//! answers and carries that caller's own id; a question without a tie is never guessed between two calls; nothing is
//! left when the channel ends.
#![no_main]

use std::collections::HashMap;

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use outrigger_mcp::bridge::demux::{Demux, Route};
use outrigger_mcp::bridge::to_server::{Ask, Call, answers};
use outrigger_mcp::envelope::{Message, Meta, Shape};
use outrigger_mcp::revision::Revision;

/// All callers count alike, and some with strings: only our own ids tell them apart.
const IDS: [&str; 4] = ["1", "\"1\"", "2", "9007199254740993"];
const TOKENS: [&str; 4] = ["", "1", "\"1\"", "\"t\""];
const INFO: &[u8] = br#"{"name":"s","version":"1"}"#;

#[derive(Debug, Arbitrary)]
enum Event {
    /// A caller asks.
    Start { caller: u8, token: u8, modern: bool },
    /// The server answers a call, known or not; `kind` chooses what it says.
    Reply { call: u8, kind: u8 },
    /// The server tells of progress.
    Progress { call: u8 },
    /// The server asks something, tied to a call or to none.
    Ask { tied: Option<u8> },
    /// The caller of a parked call answers.
    Retry { call: u8, caller: u8, wrong: bool },
    /// The caller goes away.
    Cancel { call: u8 },
    /// The server says something of its own making.
    Says(Vec<u8>),
    /// The server ends; its successor counts anew.
    Restart,
}

struct InFlight {
    call: Call,
    client_id: &'static str,
    token: &'static str,
    asks: Vec<Ask>,
    parked: bool,
}

fuzz_target!(|events: Vec<Event>| {
    let mut demux: Demux<InFlight> = Demux::new();
    // Every id that was ever given out; some of them may be in flight.
    let mut known: Vec<u64> = Vec::new();
    for event in events {
        step(&mut demux, &mut known, event);
    }
    let left: HashMap<u64, InFlight> = demux.drain().collect();
    assert!(left.keys().all(|id| known.contains(id)), "a call that nobody made");
    assert!(demux.is_empty());
});

fn step(demux: &mut Demux<InFlight>, known: &mut Vec<u64>, event: Event) {
    let of = |call: u8, known: &[u64]| known.get(usize::from(call) % known.len().max(1)).copied().unwrap_or(999);
    match event {
        Event::Start { caller, token, modern } => start(demux, known, caller, token, modern),
        Event::Reply { call, kind } => {
            let id = of(call, known);
            hears(demux, known, &reply(id, kind));
        }
        Event::Progress { call } => {
            let id = of(call, known);
            let params = format!(r#"{{"progressToken":{id},"progress":1,"nonce":{id}}}"#);
            hears(demux, known, &format!(r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{params}}}"#));
        }
        Event::Ask { tied } => {
            let meta = tied.map(|call| format!(r#""_meta":{{"progressToken":{}}}"#, of(call, known)));
            let params = format!("{{{}}}", meta.unwrap_or_default());
            hears(demux, known, &format!(r#"{{"jsonrpc":"2.0","id":7,"method":"roots/list","params":{params}}}"#));
        }
        Event::Retry { call, caller, wrong } => retry(demux, of(call, known), caller, wrong),
        Event::Cancel { call } => {
            let id = of(call, known);
            if let Some(gone) = demux.remove(id) {
                let said = Message::parse(gone.call.cancelled("gone")).expect("our own message");
                assert!(String::from_utf8_lossy(said.body()).contains(&format!("\"requestId\":{id},")));
            }
            assert!(demux.get(id).is_none());
        }
        Event::Says(bytes) => {
            if let Ok(text) = std::str::from_utf8(&bytes) {
                hears(demux, known, text);
            }
        }
        Event::Restart => {
            demux.drain().for_each(drop);
            assert_eq!(demux.len(), 0);
        }
    }
}

fn start(demux: &mut Demux<InFlight>, known: &mut Vec<u64>, caller: u8, token: u8, modern: bool) {
    let client_id = IDS[usize::from(caller) % IDS.len()];
    let token = TOKENS[usize::from(token) % TOKENS.len()];
    let Ok(request) = Message::parse(request(client_id, token, "")) else { panic!("our own request") };
    let id = demux.next_id();
    let revision = if modern { Revision::MODERN } else { Revision::NEWEST_LEGACY };
    let call = Call::new(&request, id).on(revision);
    let sent = Message::parse(flat(call.request(&request, &[]))).expect("what a server is sent");
    assert_eq!(sent.id().as_deref(), Some(id.to_string().as_bytes()));
    assert_eq!(sent.meta().get(Meta::ProgressToken).is_some(), !token.is_empty());
    known.push(id);
    demux.insert(id, InFlight { call, client_id, token, asks: Vec::new(), parked: false });
}

/// The server says something: it must go where it belongs.
fn hears(demux: &mut Demux<InFlight>, known: &[u64], text: &str) {
    let Ok(message) = Message::parse(Bytes::copy_from_slice(text.as_bytes())) else { return };
    match demux.route(&message) {
        Route::Finish(id) => {
            let done = demux.remove(id).expect("routed to a call that is not there");
            let (said, _) = done.call.reply(&message, &Bytes::from_static(INFO));
            let said = Message::parse(flat(said)).expect("what a caller is told");
            assert_eq!(said.id().as_deref(), Some(done.client_id.as_bytes()));
            assert!(matches!(said.shape, Shape::Result | Shape::Error));
        }
        Route::Call(id) => {
            if message.shape == Shape::Request {
                never_guessed(demux, known, id, &message);
            }
            told(demux, id, &message);
        }
        Route::Session | Route::Ping | Route::Nobody => {}
    }
}

/// A question without a tie belongs to the only call that runs; when all wait for their callers, to the only one.
fn never_guessed(demux: &Demux<InFlight>, known: &[u64], id: u64, question: &Message) {
    let tie = question.meta().get(Meta::ProgressToken).map(|span| question.raw(span));
    if tie == Some(id.to_string().as_bytes()) {
        return;
    }
    let in_flight = || known.iter().filter_map(|id| Some((*id, demux.get(*id)?)));
    let mut running: Vec<u64> = in_flight().filter(|(_, call)| !call.parked).map(|(id, _)| id).collect();
    if running.is_empty() {
        running = in_flight().map(|(id, _)| id).collect();
    }
    assert_eq!(running, [id], "guessed between calls");
}

fn told(demux: &mut Demux<InFlight>, id: u64, message: &Message) {
    let parked = demux.get(id).expect("routed to a call that is not there");
    if message.shape == Shape::Notification {
        if let Some(seen) = parked.call.notification(message) {
            let text = String::from_utf8_lossy(&seen).into_owned();
            Message::parse(seen).expect("what a caller is told");
            if text.contains("notifications/progress") && text.contains("\"nonce\"") {
                assert!(text.contains(&format!("\"nonce\":{id}}}")), "progress of another call");
                assert!(!parked.token.is_empty(), "progress that nobody asked for");
            }
        }
        return;
    }
    let mut asked = demux.remove(id).expect("there a moment ago");
    if let Some(ask) = Ask::from_request(message) {
        asked.asks.push(ask);
        let required = asked.call.input_required(&asked.asks, &[], Some("state"), INFO);
        let required = Message::parse(required).expect("what a caller is asked");
        assert_eq!(required.id().as_deref(), Some(asked.client_id.as_bytes()));
    }
    asked.parked = true;
    demux.insert(id, asked);
    demux.wait(id, true);
}

fn retry(demux: &mut Demux<InFlight>, id: u64, caller: u8, wrong: bool) {
    let Some(mut parked) = demux.remove(id) else { return };
    let client_id = IDS[usize::from(caller) % IDS.len()];
    let responses = if wrong { r#"{"r1":7,"r99":{}}"# } else { r#"{"r1":{"roots":[]},"r2":{"roots":[]}}"# };
    let extra = format!(r#","inputResponses":{responses},"requestState":"state""#);
    let message = Message::parse(request(client_id, "", &extra)).expect("our own retry");
    let given = answers(&message, &parked.asks);
    assert_eq!(given.len(), parked.asks.len());
    for (ask, answer) in parked.asks.iter().zip(&given) {
        let said = answer.as_ref().map_or_else(|| ask.abandon(), |answer| ask.answer(answer));
        let said = Message::parse(said).expect("what a server is answered");
        assert_eq!(said.id(), Some(ask.id.clone()), "an answer to another question");
    }
    parked.asks.clear();
    parked.parked = false;
    parked.call.reattach(&message);
    parked.client_id = client_id;
    parked.token = "";
    demux.insert(id, parked);
    demux.wait(id, false);
}

fn request(id: &str, token: &str, extra: &str) -> Bytes {
    let token = if token.is_empty() { String::new() } else { format!(r#","progressToken":{token}"#) };
    let meta = format!(r#"{{"io.modelcontextprotocol/clientCapabilities":{{}}{token}}}"#);
    let params = format!(r#"{{"name":"t","arguments":{{}},"_meta":{meta}{extra}}}"#);
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{params}}}"#).into()
}

fn reply(id: u64, kind: u8) -> String {
    let body = match kind % 6 {
        0 => r#""result":{}"#,
        1 => r#""result":{"content":[],"isError":true,"_meta":{}}"#,
        2 => r#""result":{"resultType":"complete","_meta":{"x":1}}"#,
        3 => r#""error":{"code":-32602,"message":"no"}"#,
        4 => {
            r#""error":{"code":-32042,"message":"url","data":{"elicitations":[{"mode":"url","elicitationId":"e","url":"https://a/"}]}}"#
        }
        _ => r#""error":7"#,
    };
    format!(r#"{{"jsonrpc":"2.0",{body},"id":{id}}}"#)
}

fn flat(pieces: Vec<Bytes>) -> Bytes {
    pieces.concat().into()
}
