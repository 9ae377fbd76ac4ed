//! Service to service: a server that calls another by its name in the mesh, with an SDK that knows of a proxy at most.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use std::net::SocketAddr;

use outrigger_tests::egress::{read_all, read_until};
use outrigger_tests::sidecar::text_of;
use outrigger_tests::subjects::{calling, installed, words};
use outrigger_tests::{Call, Client, Mesh, TestSidecar};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Settings of a service whose server calls others: what it may reach, and where the others are.
fn caller(mesh: &Mesh, allow: &str, services: &[(&str, SocketAddr)]) -> String {
    let log = mesh.path().join("egress.jsonl");
    let services: Vec<String> = services.iter().map(|(name, address)| format!("{name}: \"{address}\"")).collect();
    format!(
        "{}egress: {{ listen: \"127.0.0.1:0\", log: {}, allow: [{allow}] }}\nmesh: {{ services: {{ {} }} }}\n",
        calling(),
        log.display(),
        services.join(", ")
    )
}

async fn everything(mesh: &Mesh) -> TestSidecar {
    let command = words(&[&installed("npm/node_modules/.bin/mcp-server-everything"), "stdio"]);
    TestSidecar::of(mesh, "everything", &format!("command: {command}\n")).await
}

async fn ask(client: &Client, url: &str, tool: &str, arguments: Value) -> String {
    let arguments = json!({ "url": url, "tool": tool, "arguments": arguments });
    text_of(&client.reply(&Call::tool("ask", &arguments.to_string())).await.json())
}

fn lines(path: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_tool_calls_a_tool_of_another_service_as_its_own_workload() {
    let mesh = Mesh::new();
    let other = everything(&mesh).await;
    let settings = caller(&mesh, "everything.mesh, absent.mesh", &[("everything", other.address())]);
    let sidecar = TestSidecar::of(&mesh, "asker", &settings).await;
    other.ready_client(&mesh).await;
    let client = sidecar.ready_client(&mesh).await;

    let url = "http://everything.mesh/mcp";
    let echoed = ask(&client, url, "echo", json!({ "message": "ahoy" })).await;
    assert!(echoed.contains("ahoy"), "{echoed}");
    // Notifications of a call that streams.
    let arguments = json!({ "duration": 0.4, "steps": 4 });
    let streamed = ask(&client, url, "trigger-long-running-operation", arguments).await;
    let streamed: Value = serde_json::from_str(&streamed).unwrap_or_else(|e| panic!("{e}: {streamed}"));
    assert_eq!(streamed["steps"], 4, "{streamed}");
    for url in ["http://other.mesh/mcp", "http://absent.mesh/mcp"] {
        let refused = ask(&client, url, "echo", json!({ "message": "x" })).await;
        assert!(refused.contains("Error"), "{url}: {refused}");
    }
    let metrics = sidecar.admin("/metrics").await.1;
    for timed in ["connect", "handshake"] {
        let line = format!("outrigger_egress_{timed}_seconds_count{{service=\"asker\"}} ");
        let count = metrics.lines().find_map(|each| each.strip_prefix(&line));
        assert!(count.is_some_and(|count| count != "0"), "{timed}: {metrics}");
    }
    sidecar.stop().await;
    other.stop().await;

    let audit = lines(&TestSidecar::audit(&mesh, "everything"));
    let calls: Vec<&Value> = audit.iter().filter(|line| line.to_string().contains("\"echo\"")).collect();
    assert!(calls.iter().any(|line| line.to_string().contains("spiffe://test.local/asker")), "{audit:?}");
    let told = lines(&mesh.path().join("egress.jsonl"));
    for (host, reason) in [("other.mesh", "host"), ("absent.mesh", "no_service")] {
        assert!(told.iter().any(|line| line["host"] == host && line["reason"] == reason), "{host}: {told:?}");
    }
    let call = told.iter().find(|line| line["host"] == "everything.mesh" && line["bytes_down"] != 0).unwrap();
    assert_eq!(call["tools"], json!(["ask"]));
    // One trace on both sides.
    let trace = call["trace_id"].as_str().unwrap();
    assert!(calls.iter().any(|line| line.to_string().contains(trace)), "{call}\n{calls:?}");
}

#[tokio::test]
async fn the_other_service_decides_too_and_must_be_who_it_is_called() {
    let mesh = Mesh::new();
    let policy = "  authorization: { rules: [ { name: one, services: [\"*\"], capabilities: [\"*\"], requires: [ { workload: ingress } ] } ] }\n";
    let other = TestSidecar::with_policy(&mesh, policy, &outrigger_tests::subjects::fetching()).await;
    // The second name is that of a sidecar which is somebody else.
    let settings = caller(&mesh, "\"*.mesh\"", &[("fs", other.address()), ("pretender", other.address())]);
    let open = TestSidecar::of(&mesh, "asker", &settings);
    let sidecar = open.await;
    other.ready_client(&mesh).await;
    let client = sidecar.ready_client(&mesh).await;
    let refused = ask(&client, "http://fs.mesh/mcp", "weather", json!({})).await;
    assert!(!refused.contains("rested"), "{refused}");
    let refused = ask(&client, "http://pretender.mesh/mcp", "weather", json!({})).await;
    assert!(!refused.contains("rested"), "{refused}");
    let pretended = |line: &Value| line["host"] == "pretender.mesh" && line["reason"] == "tls";
    let log = mesh.path().join("egress.jsonl");
    outrigger_tests::eventually("it is told", || async { lines(&log).iter().any(pretended).then_some(()) }).await;

    // By hand: CONNECT and SOCKS5, what is between proxies, and another host inside.
    let proxy = sidecar.egress().unwrap();
    for (opening, opened) in [
        (&b"CONNECT fs.mesh:80 HTTP/1.1\r\nHost: fs.mesh:80\r\n\r\n"[..], "\r\n\r\n"),
        (&b"\x05\x01\x00\x05\x01\x00\x03\x07fs.mesh\x00\x50"[..], "\0\0\0\0\0\0"),
    ] {
        for (request, status) in [
            ("GET /nowhere HTTP/1.1\r\nHost: fs.mesh\r\nConnection: close\r\n\r\n", "404"),
            ("GET /mesh/v1/health HTTP/1.1\r\nHost: fs.mesh\r\n\r\n", "403"),
            ("GET /nowhere HTTP/1.1\r\nHost: pretender.mesh\r\n\r\n", "403"),
        ] {
            let mut stream = TcpStream::connect(proxy).await.unwrap();
            stream.write_all(opening).await.unwrap();
            read_until(&mut stream, opened).await;
            stream.write_all(request.as_bytes()).await.unwrap();
            let reply = read_all(&mut stream).await;
            assert!(reply.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {reply}");
        }
    }
    sidecar.stop().await;
    other.stop().await;
}
