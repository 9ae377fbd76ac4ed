//! Many callers at once, each with its own progress, questions and answers; some go away, some never answer, some try
//! what another caller was given, and the server dies in between. Nobody ever hears what was another's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use outrigger_tests::{Call, Client, Mesh, TestSidecar, eventually, subjects::scripted};
use serde_json::{Value, json};

const CALLERS: usize = 5;
const CALLS: usize = 12;

/// What the callers did together; a storm in which nothing works would show nothing.
#[derive(Debug, Default)]
struct Tally {
    answered: usize,
    retried: usize,
    failed: usize,
    left: usize,
    states: Vec<(usize, String)>,
    stolen: usize,
}

struct Caller {
    number: usize,
    client: Client,
    random: fastrand::Rng,
    tally: Arc<Mutex<Tally>>,
}

impl Caller {
    async fn run(mut self, deadly: bool) {
        for call in 0..CALLS {
            let nonce = format!("{}-{call}", self.number);
            let failed = self.tally.lock().unwrap().failed;
            self.one(&nonce, deadly).await;
            self.steal().await;
            if self.tally.lock().unwrap().failed > failed {
                // A client would wait too, and a server that has died needs a moment.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    async fn one(&mut self, nonce: &str, deadly: bool) {
        let arguments = json!({
            "nonce": nonce, "steps": self.random.usize(..4), "asks": self.random.usize(..3),
            "again": self.random.u8(..4) == 0, "die": deadly && self.random.u8(..20) == 0,
        });
        let mut extra = String::new();
        loop {
            let call = Call::tool("work", &arguments.to_string())
                // Everybody's ids and tokens are the same.
                .meta("\"progressToken\":1")
                .capabilities(r#"{"elicitation":{}}"#)
                .params(&format!("\"_\":0{extra}"));
            let Some(result) = self.ask(&call, nonce).await else { return };
            if result["resultType"] != "input_required" {
                let text = result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{result}"));
                let said: Value = serde_json::from_str(text).unwrap();
                assert_eq!(said["nonce"], nonce, "the answer to another call");
                for answer in said["got"].as_array().unwrap().iter().filter(|answer| answer.get("error").is_none()) {
                    let abandoned = answer["action"] == "cancel";
                    let own = self.owns(&answer["content"]["a"]);
                    assert!(abandoned || own, "another caller's answer: {said}");
                }
                self.tally.lock().unwrap().answered += 1;
                return;
            }
            let requests = result["inputRequests"].as_object().unwrap();
            let mut answers = json!({});
            for (key, request) in requests {
                assert!(self.owns(&request["params"]["message"]), "a question for another caller: {result}");
                answers[key] = json!({"action": "accept", "content": {"a": nonce}});
            }
            let state = result["requestState"].as_str().unwrap().to_owned();
            self.tally.lock().unwrap().states.push((self.number, state.clone()));
            if self.random.u8(..4) == 0 {
                return self.tally.lock().unwrap().left += 1;
            }
            extra = format!(",\"inputResponses\":{answers},\"requestState\":{}", json!(state));
            self.tally.lock().unwrap().retried += 1;
        }
    }

    /// The result; `None` when it failed, or when this caller went away.
    async fn ask(&mut self, call: &Call, nonce: &str) -> Option<Value> {
        let leaves = (self.random.u8(..5) == 0).then(|| self.random.usize(..3));
        let mut stream = self.client.try_open(call).await.unwrap();
        if !stream.headers["content-type"].as_bytes().starts_with(b"text/event-stream") {
            return self.end(stream.rest().await.json());
        }
        let mut heard = 0;
        while let Some(message) = stream.next().await {
            if message.get("id").is_some() {
                return self.end(message);
            }
            assert_eq!(message["params"]["message"], nonce, "progress of another call");
            assert_eq!(message["params"]["progressToken"], 1);
            heard += 1;
            if leaves.is_some_and(|after| heard > after) {
                self.tally.lock().unwrap().left += 1;
                return None;
            }
        }
        // The stream broke: the server died.
        self.tally.lock().unwrap().failed += 1;
        None
    }

    /// Whether a nonce is of this caller. A cancelled call of its own may work on and ask during its next one, which
    /// nobody can tell apart.
    fn owns(&self, nonce: &Value) -> bool {
        nonce.as_str().is_some_and(|nonce| nonce.starts_with(&format!("{}-", self.number)))
    }

    fn end(&self, mut message: Value) -> Option<Value> {
        let result = message.get_mut("result").map(Value::take);
        if result.is_none() {
            assert!(message["error"]["code"].is_i64(), "{message}");
            self.tally.lock().unwrap().failed += 1;
        }
        result
    }

    /// Somebody else's state is worth nothing.
    async fn steal(&mut self) {
        let foreign = {
            let tally = self.tally.lock().unwrap();
            tally.states.iter().rev().find(|(owner, _)| *owner != self.number).map(|(_, state)| state.clone())
        };
        let Some(state) = foreign else { return };
        let call = Call::tool("work", r#"{"nonce":"x","steps":0,"asks":0,"again":false,"die":false}"#)
            .params(&format!("\"inputResponses\":{{\"r1\":{{}}}},\"requestState\":{}", json!(state)));
        let reply = self.client.reply(&call).await.json();
        assert_eq!(reply["error"]["code"], -32602, "{reply}");
        self.tally.lock().unwrap().stolen += 1;
    }
}

async fn storm(session: &str, deadly: bool, seed: u64) {
    let mesh = Mesh::new();
    // Calls whose callers left while a question was open keep their servers for some time.
    let settings = format!("session: {session}\nlimits: {{ children: 64 }}\n{}", scripted(&[]));
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    sidecar.ready_client(&mesh).await;
    let tally = Arc::new(Mutex::new(Tally::default()));
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..CALLERS {
        let client = sidecar.client(&mesh, &format!("caller-{number}"));
        let random = fastrand::Rng::with_seed(seed + number as u64);
        callers.spawn(Caller { number, client, random, tally: tally.clone() }.run(deadly));
    }
    while let Some(ended) = callers.join_next().await {
        ended.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    let tally = Arc::try_unwrap(tally).unwrap().into_inner().unwrap();
    // A server that dies fails what the others have in flight, and is given growing pauses.
    let worked = if deadly { tally.answered > 0 } else { tally.answered > CALLERS && tally.left > 0 };
    assert!(worked, "{session}, seed {seed}: {tally:?}");
    eventually("nothing is in flight", || async {
        (sidecar.metric("outrigger_in_flight{service=\"fs\"}").await == 0.0).then_some(())
    })
    .await;
    // And it works as on the first day.
    let client = sidecar.client(&mesh, "caller-0");
    eventually("it answers", || async { client.tool("echo", "{}").await.get("result").is_some().then_some(()) }).await;
    sidecar.stop().await;
}

#[tokio::test]
async fn callers_with_a_server_each_never_hear_of_each_other() {
    storm("per_principal", false, 1).await;
}

#[tokio::test]
async fn callers_of_one_server_never_hear_of_each_other() {
    storm("shared", false, 2).await;
}

#[tokio::test]
async fn callers_with_a_server_for_each_call_never_hear_of_each_other() {
    storm("per_request", false, 3).await;
}

#[tokio::test]
async fn a_server_that_dies_again_and_again_mixes_nothing_up() {
    storm("per_principal", true, 4).await;
    storm("shared", true, 5).await;
}
