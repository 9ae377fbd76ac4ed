//! Several sidecars of one service: what one of them holds is asked for at that one, through whichever ingress.

use serde_json::{Value, json};

use crate::fake::{Fake, health, tools};
use crate::mesh::{Client, Got, Mesh, eventually};

const FIRST: &str = "00000000000000a1";
const SECOND: &str = "00000000000000a2";

/// Two replicas of `a`, and two ingresses in front of them.
struct Pair {
    mesh: Mesh,
    second: Fake,
    /// Keeps the other ingress.
    _other: outrigger_ingress::Running,
    clients: [Client; 2],
}

fn replica(id: &str, revision: &str) -> Value {
    let mut document = health(tools(&["ask"]));
    document["replica"] = json!(id);
    document["server"]["revision"] = json!(revision);
    document
}

async fn pair(revision: &str) -> Pair {
    let mesh = Mesh::start(&[("a", replica(FIRST, revision))]).await;
    let second = Fake::start("a", mesh.credentials("a"), replica(SECOND, revision)).await;
    let services =
        format!("services: {{ a: {{ addresses: [\"{}\", \"{}\"] }} }}", mesh.fake("a").address, second.address);
    let mut mesh = mesh.another_ingress(&services).await;
    let (first, other) = (mesh.client.clone(), mesh.ingress.take().unwrap());
    all_known(other.admin).await;
    let mesh = mesh.another_ingress(&services).await;
    all_known(mesh.ingress.as_ref().unwrap().admin).await;
    let clients = [first, mesh.client.clone()];
    Pair { mesh, second, _other: other, clients }
}

async fn all_known(admin: std::net::SocketAddr) {
    let client = Client::to(admin);
    let page = || http::Request::get("/catalog").body(outrigger_proxy::body::OutBody::empty()).unwrap();
    eventually("both replicas", || async {
        let page = client.send(page()).await.json();
        page["services"]["a"]["replicas"].as_array().unwrap().iter().all(|replica| replica["status"] == "serving")
    })
    .await;
}

async fn retry(client: &Client, state: &str) -> Got {
    let params = json!({ "name": "a__ask", "arguments": {}, "inputResponses": {}, "requestState": state });
    client.ask("/mcp", "tools/call", params).await
}

impl Pair {
    /// How many calls each replica has had.
    fn seen(&self) -> [usize; 2] {
        [self.mesh.fake("a").seen().len(), self.second.seen().len()]
    }
}

#[tokio::test]
async fn a_retry_goes_to_the_replica_that_its_state_names() {
    let pair = pair("2025-06-18").await;
    for client in &pair.clients {
        for _ in 0..3 {
            let state = format!("{SECOND}.c2VhbGVk");
            let got = retry(client, &state).await.json();
            assert_eq!(got["result"]["echo"]["requestState"], json!(state), "{got}");
        }
        assert_eq!(retry(client, &format!("{FIRST}.c2VhbGVk")).await.status, 200);
    }
    assert_eq!(pair.seen(), [2, 6]);
}

#[tokio::test]
async fn case_25_a_replica_that_is_gone_takes_its_calls_along() {
    let Pair { mesh, second, _other, clients } = pair("2025-06-18").await;
    second.kill().await;
    for client in &clients {
        for owner in [SECOND, "00000000000000a3"] {
            let got = retry(client, &format!("{owner}.c2VhbGVk")).await;
            let error = &got.json()["error"];
            assert_eq!((got.status.as_u16(), &error["code"]), (200, &json!(-32603)), "{error}");
            assert_eq!(error["data"]["reason"], "interaction");
        }
    }
    assert!(mesh.fake("a").seen().is_empty(), "nothing is run again elsewhere");
}

#[tokio::test]
async fn a_state_that_is_not_of_a_sidecar_is_left_to_the_sidecar() {
    let pair = pair("2025-06-18").await;
    let other = ["", ".", "x", "127.0.0.1:1.x", "00000000000000A2.x", "00000000000000a2", "../../../../etc/.x"];
    for state in other.into_iter().map(str::to_owned).chain([format!("{SECOND}{}", "9".repeat(60_000))]) {
        let got = retry(&pair.clients[0], &state).await;
        assert_eq!(got.json()["result"]["echo"]["requestState"], json!(state));
    }
    assert_eq!(pair.seen().iter().sum::<usize>(), 8);
}

#[tokio::test]
async fn a_modern_servers_state_is_its_own_whatever_it_looks_like() {
    let pair = pair("2026-07-28").await;
    for replica in [FIRST, SECOND, "00000000000000a3"] {
        let state = format!("{replica}.c2VhbGVk");
        let got = retry(&pair.clients[0], &state).await.json();
        assert_eq!(got["result"]["echo"]["requestState"], json!(state));
    }
}

#[tokio::test]
async fn every_ingress_sends_a_session_to_the_same_replica() {
    let pair = pair("2025-06-18").await;
    for client in &pair.clients {
        for _ in 0..4 {
            assert_eq!(client.call("a__ask").await.status, 200);
        }
    }
    let seen = pair.seen();
    assert!(seen == [8, 0] || seen == [0, 8], "{seen:?}");
}
