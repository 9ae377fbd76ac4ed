//! Two ingresses in front of two sidecars of a legacy server: whatever way a request takes, it finds what it belongs to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use bytes::Bytes;
use http::{Method, Request};
use outrigger_proxy::body::OutBody;
use outrigger_tests::{
    Call, Client, Mesh, Reply, Stream, TestIngress, TestSidecar,
    sidecar::text_of,
    subjects::{HttpBackend, scripted},
};
use serde_json::{Value, json};

const ABLE: &str = r#"{"elicitation":{},"sampling":{},"roots":{}}"#;
const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// Everything, with names by position.
struct World {
    mesh: Mesh,
    sidecars: Vec<TestSidecar>,
    ingresses: Vec<TestIngress>,
}

impl World {
    /// Two sidecars with these settings, and two ingresses that share their session keys.
    async fn new(settings: [&str; 2]) -> Self {
        let mesh = Mesh::new();
        std::fs::write(mesh.path().join("session.keys"), KEY).unwrap();
        let mut world = Self { mesh, sidecars: Vec::new(), ingresses: Vec::new() };
        for settings in settings {
            let sidecar = TestSidecar::start(&world.mesh, settings).await;
            sidecar.ready_client(&world.mesh).await;
            world.sidecars.push(sidecar);
        }
        for _ in 0..2 {
            let ingress = world.ingress().await;
            world.ingresses.push(ingress);
        }
        world
    }

    async fn ingress(&self) -> TestIngress {
        let addresses: Vec<_> = self.sidecars.iter().map(TestSidecar::address).collect();
        let keys = self.mesh.path().join("session.keys");
        TestIngress::start(&self.mesh, &addresses, &format!("sessions: {{ key_file: {} }}\n", keys.display())).await
    }

    fn client(&self, at: usize) -> &Client {
        &self.ingresses[at].client
    }

    /// The sidecar that parked the call of this state.
    async fn owner(&self, state: &str) -> usize {
        for (at, sidecar) in self.sidecars.iter().enumerate() {
            if sidecar.health().await["replica"].as_str() == state.split_once('.').map(|(replica, _)| replica) {
                return at;
            }
        }
        panic!("{state} names nobody");
    }

    async fn stop(self) {
        for ingress in self.ingresses {
            ingress.stop().await;
        }
        for sidecar in self.sidecars {
            sidecar.stop().await;
        }
    }
}

/// A call of a modern client that makes the server ask, and what it is asked for.
async fn asked(client: &Client, tool: &str) -> String {
    let reply = client.reply(&Call::tool(tool, "{}").capabilities(ABLE)).await.json();
    assert_eq!(reply["result"]["resultType"], "input_required", "{reply}");
    reply["result"]["requestState"].as_str().unwrap().to_owned()
}

async fn answered(client: &Client, tool: &str, state: &str, answer: &Value) -> Reply {
    let params = format!("\"inputResponses\":{{\"r1\":{answer}}},\"requestState\":{}", json!(state));
    client.reply(&Call::tool(tool, "{}").capabilities(ABLE).params(&params)).await
}

#[tokio::test]
async fn a_question_through_one_ingress_is_answered_through_the_other_stdio() {
    let world = World::new([&scripted(&[]), &scripted(&[])]).await;
    for (there, back) in [(0, 1), (1, 0), (0, 0)] {
        let state = asked(world.client(there), "fs__elicit").await;
        let answer = json!({"action": "accept", "content": {"a": "x"}});
        let done = answered(world.client(back), "fs__elicit", &state, &answer).await.json();
        assert!(text_of(&done).contains("accept"), "{done}");
        // Used up, whichever ingress is asked.
        for client in [world.client(0), world.client(1)] {
            let again = answered(client, "fs__elicit", &state, &answer).await;
            assert!(matches!(again.error_code(), -32602 | -32603), "{again:?}");
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn a_retry_finds_a_replica_that_a_new_call_would_not_be_sent_to() {
    let world = World::new([&scripted(&[]), &scripted(&[])]).await;
    let usual = world.owner(&asked(world.client(0), "fs__elicit").await).await;
    let other = TestIngress::start(&world.mesh, &[world.sidecars[1 - usual].address()], "").await;
    let state = asked(&other.client, "fs__elicit").await;
    assert_eq!(world.owner(&state).await, 1 - usual);
    for wrong in [world.client(1), world.client(0)] {
        let bent = answered(wrong, "fs__roots", &state, &json!({"roots": []})).await;
        assert_eq!(bent.error_code(), -32602, "for another call it is not good: {bent:?}");
    }
    let done = answered(world.client(0), "fs__elicit", &state, &json!({"action": "decline"})).await.json();
    assert!(text_of(&done).contains("decline"), "{done}");
    // An ingress that does not have the replica in its configuration goes nowhere.
    let state = asked(world.client(0), "fs__elicit").await;
    let gone = answered(&other.client, "fs__elicit", &state, &json!({"action": "decline"})).await;
    assert_eq!(gone.error_code(), -32603, "{gone:?}");
    other.stop().await;
    world.stop().await;
}

#[tokio::test]
async fn a_question_through_one_ingress_is_answered_through_the_other_http() {
    let (first, second) = (HttpBackend::start("legacy").await, HttpBackend::start("legacy").await);
    let settings = [format!("upstream: {}\n", first.url), format!("upstream: {}\n", second.url)];
    let world = World::new([&settings[0], &settings[1]]).await;
    let tool = "fs__test_input_required_result_multi_round";
    let first = asked(world.client(0), tool).await;
    let name = json!({"action": "accept", "content": {"name": "Ada"}});
    let round = answered(world.client(1), tool, &first, &name).await.json();
    let second = round["result"]["requestState"].as_str().unwrap_or_else(|| panic!("{round}")).to_owned();
    assert_eq!(world.owner(&first).await, world.owner(&second).await);
    let color = json!({"action": "accept", "content": {"color": "blue"}});
    let done = answered(world.client(0), tool, &second, &color).await.json();
    assert_eq!(text_of(&done), "Ada likes blue");
    world.stop().await;
}

#[tokio::test]
async fn case_25_a_call_whose_replica_ends_is_over_and_not_run_elsewhere() {
    let mut world = World::new([&scripted(&[]), &scripted(&[])]).await;
    let state = asked(world.client(0), "fs__elicit").await;
    let owner = world.owner(&state).await;
    world.sidecars.remove(owner).stop().await;
    for client in [world.client(0), world.client(1)] {
        let gone = answered(client, "fs__elicit", &state, &json!({"action": "accept"})).await;
        assert_eq!((gone.status.as_u16(), gone.error_code()), (200, -32603), "{gone:?}");
        assert_eq!(gone.json()["error"]["data"]["reason"], "interaction");
    }
    // The other one still works, and has not been asked anything.
    let seen = world.client(0).reply(&Call::tool("fs__seen", "{}")).await.json();
    assert!(!text_of(&seen).contains("elicit"), "{seen}");
    world.stop().await;
}

/// A session of a client of an older revision.
struct Legacy {
    id: String,
}

impl Legacy {
    async fn open(client: &Client, revision: &str) -> Self {
        let params = json!({"protocolVersion": revision, "capabilities": serde_json::from_str::<Value>(ABLE).unwrap(),
            "clientInfo": {"name": "c", "version": "1"}});
        let reply =
            post(client, None, &json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})).await;
        let id = reply.headers["mcp-session-id"].to_str().unwrap().to_owned();
        Self { id }
    }

    async fn post(&self, client: &Client, message: &Value) -> Stream {
        post(client, Some(&self.id), message).await
    }

    async fn call(&self, client: &Client, tool: &str) -> Stream {
        let params = json!({"name": tool, "arguments": {}});
        self.post(client, &json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})).await
    }

    async fn count(&self, client: &Client) -> String {
        text_of(&self.call(client, "fs__count").await.rest().await.json())
    }
}

async fn post(client: &Client, session: Option<&str>, message: &Value) -> Stream {
    let mut request = Request::new(OutBody::full(Bytes::from(message.to_string())));
    let headers = request.headers_mut();
    headers.insert("content-type", "application/json".parse().unwrap());
    headers.insert("accept", "application/json, text/event-stream".parse().unwrap());
    if let Some(session) = session {
        headers.insert("mcp-session-id", session.parse().unwrap());
    }
    client.send(Method::POST, "/mcp", request).await.unwrap()
}

#[tokio::test]
async fn case_42_a_stateful_server_sees_one_session_whatever_ingress_is_asked_and_after_a_restart() {
    let mut world = World::new([&scripted(&[]), &scripted(&[])]).await;
    let session = Legacy::open(world.client(0), "2025-06-18").await;
    let other = Legacy::open(world.client(1), "2025-06-18").await;
    for (at, count) in [(0, "1"), (1, "2"), (0, "3"), (1, "4")] {
        assert_eq!(session.count(world.client(at)).await, count);
    }
    assert_eq!(other.count(world.client(0)).await, "1", "sessions of one principal are apart");
    for at in 0..2 {
        let restarted = world.ingress().await;
        std::mem::replace(&mut world.ingresses[at], restarted).stop().await;
    }
    assert_eq!(session.count(world.client(0)).await, "5");
    assert_eq!(session.count(world.client(1)).await, "6");
    assert_eq!(other.count(world.client(1)).await, "2");
    world.stop().await;
}

#[tokio::test]
async fn a_legacy_client_must_answer_where_it_was_asked_and_is_told_otherwise() {
    let world = World::new([&scripted(&[]), &scripted(&[])]).await;
    let session = Legacy::open(world.client(0), "2025-06-18").await;
    let mut stream = session.call(world.client(0), "fs__elicit").await;
    let question = stream.next().await.unwrap();
    assert_eq!(question["method"], "elicitation/create", "{question}");
    let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"a": "x"}}});
    let stray = session.post(world.client(1), &answer).await.rest().await;
    assert_eq!(stray.status.as_u16(), 409);
    assert_eq!(stray.json()["error"]["data"]["reason"], "answer_elsewhere");
    assert_eq!(session.post(world.client(0), &answer).await.status.as_u16(), 202);
    let done = stream.next().await.unwrap();
    assert!(text_of(&done).contains("accept"), "{done}");
    world.stop().await;
}

#[tokio::test]
async fn a_hundred_sessions_each_with_every_request_at_a_random_ingress() {
    let shared = format!("{}session: shared\n", scripted(&[]));
    let world = World::new([&shared, &shared]).await;
    let random = |at: usize, round: usize| world.client((at * 7 + round * 3 + at / 3) % 2);
    let mut sessions = Vec::new();
    for at in 0..100 {
        let revision = ["2025-03-26", "2025-06-18", "2025-11-25"][at % 3];
        sessions.push(Legacy::open(random(at, 0), revision).await);
    }
    for round in 1..4 {
        for (at, session) in sessions.iter().enumerate() {
            let reply = session.call(random(at, round), "fs__echo").await.rest().await;
            assert_eq!(reply.status.as_u16(), 200, "{reply:?}");
            assert!(reply.json()["result"].is_object(), "{reply:?}");
        }
    }
    world.stop().await;
}
