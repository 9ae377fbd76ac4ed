//! A modern answer on its way to a legacy client: questions, answers in any order and from anywhere, retries.
//!
//! Whatever the server and the client say: what we send on is a message, a retry carries each answer once under the
//! server's own key, and answers to what nobody asked change nothing.
#![no_main]

use std::collections::HashSet;

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use outrigger_mcp::bridge::narrow;
use outrigger_mcp::bridge::to_client::{Reply, Round, reply};
use outrigger_mcp::envelope::{Message, Param, Shape};
use outrigger_mcp::json::members;
use outrigger_mcp::method::Method;
use outrigger_mcp::revision::Revision;

#[derive(Debug, Arbitrary)]
struct Play {
    /// What the server says.
    answer: Vec<u8>,
    /// Keys of questions to make an answer of, when `answer` is none.
    keys: Vec<(String, u8)>,
    /// Which open question is answered, and how.
    responses: Vec<(u8, u8)>,
    /// What the client says besides.
    noise: Vec<Vec<u8>>,
}

const REQUEST: &str = r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"t","arguments":{"x":1}}}"#;

fuzz_target!(|play: Play| {
    let made = questions(&play.keys);
    let given = std::str::from_utf8(&play.answer).ok().and_then(|text| parse(text));
    for answer in given.into_iter().chain(parse(&made)) {
        if !matches!(answer.shape, Shape::Result | Shape::Error) {
            continue;
        }
        for revision in Revision::ALL {
            for method in [Method::ToolsCall, Method::ToolsList, Method::ResourcesRead] {
                if let Some(fit) = narrow::result(&answer, method, revision) {
                    Message::parse(fit).expect("what fits a client is a message");
                }
            }
        }
        match reply(&answer, Some("file:///a")) {
            Reply::Final(bytes) => {
                let told = Message::parse(bytes).expect("what a client is told");
                assert_eq!(told.id(), answer.id());
            }
            Reply::Ask(questions) => round(questions, &play),
        }
    }
});

fn round(questions: outrigger_mcp::bridge::to_client::Questions, play: &Play) {
    let keys: Vec<String> = questions.asks.iter().map(|(key, ..)| key.clone()).collect();
    let mut last = 0;
    let (mut round, requests) = Round::start(questions, || {
        last += 1;
        format!("q{last}")
    });
    assert_eq!(requests.len(), keys.len());
    for request in requests {
        Message::parse(request).expect("what a client is asked");
    }
    for noise in &play.noise {
        let open = round.open_ids().count();
        if let Some(message) = std::str::from_utf8(noise).ok().and_then(parse) {
            let answers_one = message.id().is_some_and(|id| round.open_ids().any(|open| id == format!("\"{open}\"")));
            round.answer(&message);
            assert!(answers_one || round.open_ids().count() == open, "an answer to nothing counted");
        }
    }
    for (which, how) in &play.responses {
        let open: Vec<String> = round.open_ids().map(str::to_owned).collect();
        let Some(id) = open.get(usize::from(*which) % open.len().max(1)) else { break };
        let body = if how % 3 == 0 { r#""error":{"code":1,"message":"no"}"# } else { r#""result":{"n":1}"# };
        let message = parse(&format!(r#"{{"jsonrpc":"2.0","id":"{id}",{body}}}"#)).expect("our own");
        round.answer(&message);
        let open_now = round.open_ids().count();
        assert_eq!(open_now, open.len() - 1, "an answer counts once");
        // The same again changes nothing.
        round.answer(&message);
        assert_eq!(round.open_ids().count(), open_now);
    }
    retried(&round, &keys);
}

fn retried(round: &Round, keys: &[String]) {
    let request = parse(REQUEST).expect("our own");
    // A server that names a key twice is refused where its answer is read, or its first question wins.
    let unique: HashSet<&String> = keys.iter().collect();
    if unique.len() != keys.len() {
        return;
    }
    let retry = Message::parse(round.retry(&request)).expect("a retry");
    assert_eq!(retry.id(), request.id());
    assert_eq!(retry.target(), request.target());
    let Some(span) = retry.params().get(Param::InputResponses) else { return };
    let mut answered = HashSet::new();
    for (key, _) in members(retry.body(), span) {
        let key = key.decode(retry.body()).into_owned();
        assert!(keys.contains(&key), "an answer under a key that the server did not use");
        assert!(answered.insert(key), "two answers under one key");
    }
    let accounted = answered.len() + round.open_ids().count();
    // Refused questions may have no answer: what the client said is told beside them.
    let refused = round.errors().map_or(0, |errors| errors.windows(9).filter(|at| at == b"{\"method\"").count());
    assert!(accounted <= keys.len() && accounted + refused >= keys.len(), "an answer was lost");
}

fn questions(keys: &[(String, u8)]) -> String {
    let asked: Vec<String> = keys
        .iter()
        .map(|(key, method)| {
            let method = ["elicitation/create", "sampling/createMessage", "roots/list"][usize::from(*method) % 3];
            format!(
                r#"{}:{{"method":"{method}","params":{{"mode":"url","url":"https://a/"}}}}"#,
                serde_json::json!(key)
            )
        })
        .collect();
    let result =
        format!(r#"{{"resultType":"input_required","inputRequests":{{{}}},"requestState":"s"}}"#, asked.join(","));
    format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#)
}

fn parse(text: &str) -> Option<Message> {
    Message::parse(Bytes::copy_from_slice(text.as_bytes())).ok()
}
