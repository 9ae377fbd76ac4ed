//! What tools may reach: servers behind their sidecar, which finds out which call is behind each connection.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use outrigger_tests::egress::Origin;
use outrigger_tests::sidecar::text_of;
use outrigger_tests::subjects::{fetching, installed, words};
use outrigger_tests::{Call, Client, Mesh, TestSidecar};
use serde_json::{Value, json};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nsunny";

/// A server's `egress` section with rules for names of this machine.
fn section(mesh: &Mesh, rules: &[(&str, &str, u16, &str)]) -> String {
    let rules: Vec<_> = rules
        .iter()
        .map(|(name, host, port, more)| {
            format!("    - {{ name: {name}, hosts: [\"{host}:{port}\"], addresses: [127.0.0.0/8, \"::1\"], {more} }}\n")
        })
        .collect();
    let log = mesh.path().join("egress.jsonl");
    format!("egress:\n  listen: 127.0.0.1:0\n  log: {}\n  rules:\n{}", log.display(), rules.concat())
}

fn lines(mesh: &Mesh) -> Vec<Value> {
    let text = std::fs::read_to_string(mesh.path().join("egress.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn fetch(client: &Client, tool: &str, url: &str) -> String {
    text_of(&client.reply(&Call::tool(tool, &json!({ "url": url }).to_string())).await.json())
}

#[tokio::test]
async fn a_rule_for_one_tool_does_not_let_another_through() {
    let (mesh, origin) = (Mesh::new(), Origin::http(OK).await);
    let port = origin.address.port();
    let url = format!("http://localhost:{port}/");
    let rules = [("weather", "localhost", port, "tools: [weather]")];
    let sidecar = TestSidecar::start(&mesh, &format!("{}{}", fetching(), section(&mesh, &rules))).await;
    let client = sidecar.ready_client(&mesh).await;
    assert_eq!(fetch(&client, "weather", &url).await, "200 sunny");
    let refused = fetch(&client, "news", &url).await;
    let told: Value =
        serde_json::from_str(refused.strip_prefix("403 ").unwrap_or_else(|| panic!("{refused}"))).unwrap();
    assert_eq!((told["reason"].as_str(), told["tool"].as_str()), (Some("tool"), Some("news")));
    assert_eq!((told["rule"].as_str(), told["service"].as_str()), (Some("egress/weather"), Some("fs")));
    assert_eq!(origin.seen().len(), 1);
    assert_eq!(sidecar.metric("outrigger_denied_total{reason=\"egress\",service=\"fs\"}").await as u64, 1);

    // Beside a call of `weather`, which one is behind the connection is not certain: the set decides.
    let resting = Call::tool("weather", &json!({ "seconds": 1.5 }).to_string());
    let (rested, reached) = tokio::join!(client.reply(&resting), async {
        // The call beside it must be at work first.
        outrigger_tests::eventually("the set has both", || async {
            (fetch(&client, "news", &url).await == "200 sunny").then_some(())
        })
        .await;
    });
    let ((), rested) = (reached, rested.json());
    assert_eq!(text_of(&rested), "rested");
    sidecar.stop().await;

    let log = lines(&mesh);
    let first: Vec<_> = log[..2].iter().map(|line| (line["tools"].to_string(), line["verdict"].to_string())).collect();
    assert_eq!(
        first,
        [("[\"weather\"]".into(), "\"allowed\"".into()), ("[\"news\"]".into(), "\"denied\"".into())],
        "{log:?}"
    );
    assert!(log.iter().any(|line| line["tools"].as_array().unwrap().len() == 2 && line["verdict"] == "allowed"));
}

#[tokio::test]
async fn an_unchanged_fetch_server_reaches_what_is_allowed_and_nothing_else() {
    let (mesh, origin, other) = (Mesh::new(), Origin::http(OK).await, Origin::http(OK).await);
    let (port, elsewhere) = (origin.address.port(), other.address.port());
    let command = words(&[&installed("venv/bin/mcp-server-fetch"), "--ignore-robots-txt", "--allow-private-ips"]);
    let rules = [("local", "localhost", port, "tools: [\"*\"]")];
    let settings = format!("command: {command}\n{}", section(&mesh, &rules));
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let client = sidecar.ready_client(&mesh).await;
    let reached = fetch(&client, "fetch", &format!("http://localhost:{port}/")).await;
    assert!(reached.contains("sunny"), "{reached}");
    for url in [format!("http://localhost:{elsewhere}/"), format!("http://127.0.0.1:{port}/")] {
        let refused = fetch(&client, "fetch", &url).await;
        assert!(refused.contains("403"), "{url}: {refused}");
    }
    assert_eq!((origin.seen().len(), other.seen().len()), (1, 0));
    sidecar.stop().await;
}

#[tokio::test]
async fn a_confined_server_has_no_way_but_its_proxy() {
    let (mesh, origin) = (Mesh::new(), Origin::http(OK).await);
    let port = origin.address.port();
    let rules = [("weather", "localhost", port, "tools: [weather]")];
    let settings = format!("{}sandbox: strict\n{}", fetching(), section(&mesh, &rules));
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let client = sidecar.ready_client(&mesh).await;
    assert_eq!(fetch(&client, "weather", &format!("http://localhost:{port}/")).await, "200 sunny");
    assert!(fetch(&client, "news", &format!("http://localhost:{port}/")).await.starts_with("403 "));
    // Past the variables.
    let direct = json!({ "url": format!("http://127.0.0.1:{port}/"), "direct": true }).to_string();
    for tool in ["weather", "news"] {
        let reply = text_of(&client.reply(&Call::tool(tool, &direct)).await.json());
        assert!(reply.starts_with("no connection: "), "{reply}");
    }
    assert_eq!(origin.seen().len(), 1);
    sidecar.stop().await;
}
