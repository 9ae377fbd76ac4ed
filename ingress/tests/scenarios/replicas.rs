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

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const OTHER_KEY: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";
const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

/// Opens a session as a client of an older revision, and gives its id.
async fn session(client: &Client) -> String {
    let initialize = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}"#;
    let got = client.send(client.raw("/mcp", initialize)).await;
    got.headers["mcp-session-id"].to_str().unwrap().to_owned()
}

async fn ping(client: &Client, id: &str) -> u16 {
    let mut request = client.raw("/mcp", PING);
    request.headers_mut().insert("mcp-session-id", id.parse().unwrap());
    client.send(request).await.status.as_u16()
}

#[tokio::test]
async fn case_41_a_session_outlives_the_ingress_with_a_key_file_and_not_without() {
    let mesh = Mesh::start(&[("a", health(tools(&["read"])))]).await;
    let id = session(&mesh.client).await;
    let mesh = mesh.another_ingress("").await;
    assert_eq!(ping(&mesh.client, &id).await, 404);

    std::fs::write(mesh.path("session.keys"), KEY).unwrap();
    let settings = format!("sessions: {{ key_file: {} }}", mesh.path("session.keys").display());
    let mesh = mesh.another_ingress(&settings).await;
    let id = session(&mesh.client).await;
    let mesh = mesh.another_ingress(&settings).await;
    assert_eq!(ping(&mesh.client, &id).await, 200);
}

#[tokio::test]
async fn session_keys_are_read_again_and_bad_ones_change_nothing() {
    let mesh = Mesh::start(&[("a", health(tools(&["read"])))]).await;
    let keys = mesh.path("session.keys");
    std::fs::write(&keys, KEY).unwrap();
    let settings = format!("sessions: {{ key_file: {} }}", keys.display());
    let mesh = mesh.another_ingress(&settings).await;
    let reloads = |outcome: &'static str| {
        let mesh = &mesh;
        async move {
            let page = mesh.admin("/metrics").await;
            let line = format!("outrigger_reloads_total{{outcome=\"{outcome}\",what=\"session_keys\"}} 1");
            String::from_utf8_lossy(&page.body).contains(&line)
        }
    };
    std::fs::write(&keys, "no key").unwrap();
    eventually("the bad keys", || reloads("failed")).await;
    let old = session(&mesh.client).await;
    std::fs::write(&keys, format!("{OTHER_KEY}\n{KEY}\n")).unwrap();
    eventually("the new keys", || reloads("applied")).await;
    let new = session(&mesh.client).await;

    let mesh = mesh.another_ingress(&settings).await;
    assert_eq!([ping(&mesh.client, &old).await, ping(&mesh.client, &new).await], [200, 200]);
    std::fs::write(&keys, OTHER_KEY).unwrap();
    let mesh = mesh.another_ingress(&settings).await;
    assert_eq!([ping(&mesh.client, &old).await, ping(&mesh.client, &new).await], [404, 200]);
}

#[tokio::test]
async fn the_session_of_somebody_else_is_unknown_and_the_audit_says_who_tried() {
    let mesh = Mesh::start(&[("a", health(tools(&["read"])))]).await;
    let id = session(&mesh.client).await;
    assert_eq!(ping(&mesh.client.as_bob(), &id).await, 404);
    assert_eq!(ping(&mesh.client.as_bob(), &id.replace("s1.", "s1.A")).await, 404, "an invented one is no event");
    let lines = mesh.audit(1).await;
    let sessions: Vec<_> = lines.iter().filter(|line| line["action"] == "session").collect();
    assert_eq!(sessions.len(), 1, "{lines:?}");
    assert_eq!((&sessions[0]["who"], &sessions[0]["decision"]), (&json!("user:bob"), &json!("deny")));
    assert!(!sessions[0].to_string().contains(&id));
    assert_eq!(ping(&mesh.client, &id).await, 200);
}

#[tokio::test]
async fn the_next_page_of_a_list_can_be_asked_for_anywhere() {
    let names: Vec<String> = (0..400).map(|at| format!("tool-{at}-{}", "x".repeat(30))).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mesh = Mesh::start(&[("a", health(tools(&names)))]).await;
    std::fs::write(mesh.path("session.keys"), KEY).unwrap();
    let settings =
        format!("sessions: {{ key_file: {} }}\nlimits: {{ page_bytes: 16KiB }}", mesh.path("session.keys").display());
    let mesh = mesh.another_ingress(&settings).await;
    let first = mesh.client.ask("/mcp", "tools/list", json!({})).await.json();
    let cursor = first["result"]["nextCursor"].clone();
    let page = first["result"]["tools"].as_array().unwrap().len();
    assert!(cursor.is_string() && page < 400, "pages are as small as the setting says: {page} tools, {cursor}");
    let mesh = mesh.another_ingress(&settings).await;
    let second = mesh.client.ask("/mcp", "tools/list", json!({ "cursor": cursor })).await.json();
    let next = &second["result"]["tools"][0]["name"];
    assert_eq!(*next, format!("a__{}", names[page]), "the second page goes on where the first ended");
}
