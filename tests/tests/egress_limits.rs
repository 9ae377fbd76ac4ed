//! How much a rule lets through: requests, connections and bytes of each destination; and destinations that fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use outrigger_tests::egress::{Origin, TestEgress, read_all, read_until};
use outrigger_tests::eventually;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

fn rule(port: u16, more: &str) -> String {
    format!(
        "  rules: [ {{ name: local, hosts: [\"localhost:{port}\"], addresses: [127.0.0.0/8, \"::1\"], {more} }} ]\n\
         admin: {{ listen: \"127.0.0.1:0\" }}\n"
    )
}

fn get(port: u16, path: &str) -> String {
    format!("GET http://localhost:{port}{path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n")
}

/// The status, the reason and the rule of a refusal.
fn told(reply: &str) -> (String, String, String) {
    let body: Value = serde_json::from_str(reply.split("\r\n\r\n").nth(1).unwrap_or_default()).unwrap_or_default();
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    (reply.split(' ').nth(1).unwrap_or_default().to_owned(), text("reason"), text("rule"))
}

fn refused(reason: &str) -> (String, String, String) {
    ("429".to_owned(), reason.to_owned(), "egress/local".to_owned())
}

async fn tunnel(egress: &TestEgress, port: u16) -> (TcpStream, String) {
    let mut stream = egress.dial().await;
    let head = format!("CONNECT localhost:{port} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let reply = read_until(&mut stream, "\r\n\r\n").await;
    (stream, reply)
}

#[tokio::test]
async fn requests_over_the_rate_are_told_when_to_come_again() {
    let origin = Origin::http(OK).await;
    let port = origin.address.port();
    let egress = TestEgress::start(&rule(port, "rate: 2/h, burst: 2"));
    for _ in 0..2 {
        assert!(egress.say(get(port, "/").as_bytes()).await.starts_with("HTTP/1.1 200"));
    }
    let reply = egress.say(get(port, "/").as_bytes()).await;
    assert_eq!(told(&reply), refused("rate"));
    assert!(reply.contains("\r\nRetry-After: "), "{reply}");
    assert_eq!(origin.seen().len(), 2);
    let metrics = egress.metrics().await;
    for line in [
        "outrigger_egress_total{host=\"other\",rule=\"egress/local\",service=\"egress\",tool=\"\",verdict=\"limited\"} 1",
        "outrigger_limited_total{limit=\"egress\",service=\"egress\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let log = egress.stop().await;
    let last = log.last().unwrap();
    assert_eq!((last["verdict"].as_str(), last["reason"].as_str()), (Some("limited"), Some("rate")));
    assert_eq!(last["rule"].as_str(), Some("egress/local"));
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_nobody() {
    let origin = Origin::echo().await;
    let port = origin.address.port();
    let egress = TestEgress::start(&rule(port, "raw: true, connections: 1"));
    let (first, reply) = tunnel(&egress, port).await;
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    let (mut second, head) = tunnel(&egress, port).await;
    assert_eq!(told(&format!("{head}{}", read_all(&mut second).await)), refused("connections"));
    drop(first);
    eventually("the place is free", || async {
        let (_, reply) = tunnel(&egress, port).await;
        reply.starts_with("HTTP/1.1 200").then_some(())
    })
    .await;
}

#[tokio::test]
async fn bytes_over_the_limit_do_not_leave() {
    let origin = Origin::echo().await;
    let port = origin.address.port();
    let egress = TestEgress::start(&rule(port, "raw: true, bytes_out: 1000B/h"));
    let (mut stream, _) = tunnel(&egress, port).await;
    stream.write_all(&[b'a'; 600]).await.unwrap();
    assert_eq!(read_until(&mut stream, &"a".repeat(600)).await.len(), 600);
    stream.write_all(&[b'b'; 600]).await.unwrap();
    assert_eq!(read_all(&mut stream).await, "", "the tunnel is cut");
    assert_eq!(origin.bytes().len(), 600);
    // A request carries data in its path as well; of another connection the same destination is charged.
    let reply = egress.say(get(port, &format!("/{}", "c".repeat(500))).as_bytes()).await;
    assert_eq!(told(&reply), refused("bytes_out"));
    assert!(origin.seen().iter().all(|seen| !seen.contains('c')));
    let log = egress.stop().await;
    assert!(log.iter().all(|line| line["reason"] == "bytes_out" && line["verdict"] == "limited"), "{log:?}");
    assert_eq!(log[0]["bytes_up"], 600);
}

#[tokio::test]
async fn limits_are_only_noted_where_rules_are_observed() {
    let origin = Origin::http(OK).await;
    let port = origin.address.port();
    let limits = "rate: 1/h, bytes_out: 10B/h";
    let egress = TestEgress::start(&format!("  mode: observe\n{}", rule(port, limits)));
    for _ in 0..2 {
        assert!(egress.say(get(port, "/").as_bytes()).await.starts_with("HTTP/1.1 200"));
    }
    let log = egress.stop().await;
    assert!(log.iter().all(|line| line["verdict"] == "observed"), "{log:?}");
}

#[tokio::test]
async fn a_host_that_keeps_failing_is_left_alone() {
    // A port that was free a moment ago, and that nobody gets while its listener is kept: it never accepts on IPv6.
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let origin = Origin::http(OK).await;
    let port = origin.address.port();
    let egress = TestEgress::start(&format!(
        "  breaker: {{ failures: 2, rest: 1h }}\n  rules: [ {{ name: local, hosts: [\"localhost:{closed}\", \"localhost:{port}\"], \
         addresses: [127.0.0.0/8, \"::1\"] }} ]\n"
    ));
    for expected in ["502 refused", "502 refused", "503 breaker", "503 breaker"] {
        let (status, reason, rule) = told(&egress.say(get(closed, "/").as_bytes()).await);
        assert_eq!((format!("{status} {reason}"), rule.as_str()), (expected.to_owned(), "egress/local"));
    }
    assert!(egress.say(get(port, "/").as_bytes()).await.starts_with("HTTP/1.1 200"), "another port is another host");
}
