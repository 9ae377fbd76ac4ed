//! The outbound proxy as its clients and attackers find it. Verdicts are judged by what the origin saw.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use std::sync::Arc;

use outrigger_tests::egress::{Origin, TestEgress, read_all, read_until};
use outrigger_tests::{eventually, within};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

/// A rule for `localhost` at a port, whose addresses it names.
fn localhost(port: u16, more: &str) -> String {
    format!(
        "  rules: [ {{ name: local, hosts: [\"localhost:{port}\"], addresses: [127.0.0.0/8, \"::1\"], {more} }} ]\n"
    )
}

fn body_of(reply: &str) -> Value {
    serde_json::from_str(reply.split("\r\n\r\n").nth(1).unwrap_or_default()).unwrap_or_else(|e| panic!("{e}: {reply}"))
}

/// The ClientHello that rustls sends for a name.
fn client_hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let mut tls = rustls::ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    tls.write_tls(&mut bytes).unwrap();
    bytes
}

async fn connect(egress: &TestEgress, authority: &str) -> (TcpStream, String) {
    let mut stream = egress.dial().await;
    stream.write_all(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").as_bytes()).await.unwrap();
    let head = read_until(&mut stream, "\r\n\r\n").await;
    (stream, head)
}

#[tokio::test]
async fn plain_requests_go_one_after_the_other_and_each_is_checked() {
    let origin = Origin::http(OK).await;
    let port = origin.address.port();
    let egress = TestEgress::start(&localhost(port, "methods: [GET, POST], paths: [/v1]"));
    let mut stream = egress.dial().await;
    for path in ["/v1/a", "/v1/b?x=1"] {
        let request = format!(
            "GET http://LOCALHOST:{port}{path} HTTP/1.1\r\nHost: localhost:{port}\r\nProxy-Authorization: secret\r\n\
             Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let reply = read_until(&mut stream, "hi").await;
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n") && reply.contains("Connection: keep-alive"), "{reply}");
    }
    let refused = format!("GET http://localhost:{port}/v2 HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
    stream.write_all(refused.as_bytes()).await.unwrap();
    let reply = read_all(&mut stream).await;
    assert!(reply.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{reply}");
    let told = body_of(&reply);
    assert_eq!((told["reason"].as_str(), told["rule"].as_str()), (Some("request"), Some("egress/local")));
    assert_eq!((told["host"].as_str(), told["service"].as_str()), (Some("localhost"), Some("egress")));
    let seen = origin.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen[1].starts_with(&format!("GET /v1/b?x=1 HTTP/1.1\r\nHost: localhost:{port}\r\n")), "{}", seen[1]);
    for hop in ["secret", "X-Hop", "keep-alive"] {
        assert!(!seen[0].contains(hop), "{hop} was passed on: {}", seen[0]);
    }
    assert!(seen[0].contains("X-End: 2\r\n"));
    let log = egress.stop().await;
    let verdicts: Vec<_> = log.iter().map(|line| line["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["allowed", "allowed", "denied"]);
    assert_eq!((log[0]["bytes_down"].as_u64(), log[0]["way"].as_str()), (Some(2), Some("http")));
}

#[tokio::test]
async fn bodies_pass_whole_and_what_is_ambiguous_reaches_nobody() {
    let origin = Origin::http(OK).await;
    let port = origin.address.port();
    let egress = TestEgress::start(&localhost(port, ""));
    let post = |rest: &str| format!("POST http://localhost:{port}/ HTTP/1.1\r\nHost: localhost:{port}\r\n{rest}");
    for rest in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "Content-Length: 4\r\nContent-Length: 9\r\n\r\nabcdefghi",
        "Content-Length: +4\r\n\r\nabcd",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "X-A: b\r\n X-Inj: 1\r\n\r\n",
        "X-A: b\nX-Inj: 1\r\n\r\n",
        "X-A: b\rX-Inj: 1\r\n\r\n",
        "Host: evil.test\r\n\r\n",
    ] {
        let reply = egress.say(post(rest).as_bytes()).await;
        assert!(reply.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{rest:?}: {reply}");
    }
    assert_eq!(origin.seen(), Vec::<String>::new());
    let chunked = "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let reply = egress.say(post(chunked).as_bytes()).await;
    assert!(reply.ends_with("hi"), "{reply}");
    assert!(origin.seen()[0].ends_with("\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), "{:?}", origin.seen());
    // Malformed chunks: the head is through already, the bad bytes are not.
    let reply = egress.say(post("Transfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n").as_bytes()).await;
    assert!(reply.starts_with("HTTP/1.1 400"), "{reply}");
    assert!(!origin.seen()[1].contains("abc"));
}

#[tokio::test]
async fn hosts_that_lie_are_refused() {
    let origin = Origin::http(OK).await;
    let port = origin.address.port();
    let egress = TestEgress::start(&localhost(port, ""));
    for (request, status) in [
        (format!("GET http://localhost:{port}/ HTTP/1.1\r\nHost: evil.test\r\n\r\n"), 403),
        (format!("GET http://localhost:{port}/ HTTP/1.1\r\nHost: localhost:1\r\n\r\n"), 403),
        (format!("GET http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"), 403),
        (format!("GET http://0x7f.1:{port}/ HTTP/1.1\r\nHost: 0x7f.1:{port}\r\n\r\n"), 403),
        (format!("GET http://[::ffff:127.0.0.1]:{port}/ HTTP/1.1\r\nHost: [::ffff:127.0.0.1]:{port}\r\n\r\n"), 403),
        (format!("GET http://evil.test@localhost:{port}/ HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n"), 400),
        (format!("GET http://localhost%2eevil.test:{port}/ HTTP/1.1\r\nHost: a\r\n\r\n"), 400),
        (format!("GET /x HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n"), 400),
        (format!("CONNECT evil.test:443 HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n"), 403),
        (format!("CONNECT localhost:{port} HTTP/1.1\r\nHost: evil.test:{port}\r\n\r\n"), 403),
        ("GET http://localhost:22/ HTTP/1.1\r\nHost: localhost:22\r\n\r\n".to_owned(), 403),
    ] {
        let reply = egress.say(request.as_bytes()).await;
        assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {reply}");
    }
    assert_eq!(origin.seen(), Vec::<String>::new());
}

#[tokio::test]
async fn a_name_that_leads_inside_is_refused_by_its_address() {
    let origin = Origin::http(OK).await;
    let port = origin.address.port();
    let egress = TestEgress::start(&format!("  allow: [\"localhost:{port}\"]\n"));
    let reply =
        egress.say(format!("GET http://localhost:{port}/ HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n").as_bytes()).await;
    let told = body_of(&reply);
    assert_eq!(told["reason"], "address");
    assert!(told["hint"].as_str().unwrap().contains("loopback"), "{told}");
    assert_eq!(origin.seen(), Vec::<String>::new());
}

#[tokio::test]
async fn tunnels_carry_tls_to_the_name_they_were_opened_for() {
    let origin = Origin::echo().await;
    let port = origin.address.port();
    let egress = TestEgress::start(&localhost(port, ""));
    let hello = client_hello("localhost");
    let (mut stream, head) = connect(&egress, &format!("LocalHost.:{port}")).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    // In two pieces: the name may be in the second.
    stream.write_all(&hello[..40]).await.unwrap();
    tokio::task::yield_now().await;
    stream.write_all(&hello[40..]).await.unwrap();
    let mut back = vec![0; hello.len()];
    within("the echo", stream.read_exact(&mut back)).await.unwrap();
    assert!(back == hello && origin.bytes() == hello, "the origin gets what the client said");
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await, "");

    for (said, reason) in [
        (client_hello("evil.test"), "sni_mismatch"),
        (client_hello("127.0.0.1"), "no_sni"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), "not_tls"),
        (b"SSH-2.0-x\r\n".to_vec(), "not_tls"),
    ] {
        let (mut stream, _) = connect(&egress, &format!("localhost:{port}")).await;
        stream.write_all(&said).await.unwrap();
        let told = read_all(&mut stream).await;
        assert_eq!(
            told.as_bytes().first(),
            (reason != "not_tls").then_some(&21),
            "an alert where TLS is spoken: {reason}"
        );
    }
    eventually("the origin saw them come", || async { (origin.seen().len() == 5).then_some(()) }).await;
    assert!(origin.seen()[1..].iter().all(String::is_empty), "nothing of what was refused arrived");
    let log = egress.stop().await;
    let reasons: Vec<_> = log[1..].iter().map(|line| line["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["sni_mismatch", "no_sni", "not_tls", "not_tls"]);
    assert_eq!((log[0]["verdict"].as_str(), log[0]["bytes_up"].as_u64()), (Some("allowed"), Some(hello.len() as u64)));
}

#[tokio::test]
async fn raw_tunnels_carry_anything() {
    let origin = Origin::echo().await;
    let port = origin.address.port();
    let egress = TestEgress::start(&localhost(port, "raw: true"));
    let (mut stream, _) = connect(&egress, &format!("localhost:{port}")).await;
    stream.write_all(b"SSH-2.0-x\r\n").await.unwrap();
    assert_eq!(read_until(&mut stream, "\n").await, "SSH-2.0-x\r\n");
}

#[tokio::test]
async fn socks_asks_by_name_and_is_refused_by_code() {
    let origin = Origin::echo().await;
    let port = origin.address.port();
    let egress = TestEgress::start(&localhost(port, "raw: true"));
    let ask = |name: &str, port: u16| {
        let mut bytes = vec![5, 1, 0, 5, 1, 0, 3, u8::try_from(name.len()).unwrap()];
        bytes.extend(name.as_bytes());
        bytes.extend(port.to_be_bytes());
        bytes
    };
    let mut stream = egress.dial().await;
    stream.write_all(&ask("localhost", port)).await.unwrap();
    let mut answer = [0; 12];
    within("the answer", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer[..4], [5, 0, 5, 0]);
    stream.write_all(b"hello\n").await.unwrap();
    assert_eq!(read_until(&mut stream, "\n").await, "hello\n");
    for (bytes, code) in [
        (ask("evil.test", 443), 2),
        (ask("localhost", 22), 2),
        (ask("127.0.0.1", port), 2),
        (ask("a b", 443), 1),
        (vec![5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1, 0, 80], 2),
        (vec![5, 1, 0, 5, 3, 0, 1, 127, 0, 0, 1, 0, 80], 7),
    ] {
        let mut stream = egress.dial().await;
        stream.write_all(&bytes).await.unwrap();
        let mut answer = [0; 4];
        within("the answer", stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(answer, [5, 0, 5, code], "{bytes:?}");
    }
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn observing_lets_through_records_and_still_guards_addresses() {
    let origin = Origin::http(OK).await;
    let port = origin.address.port();
    let settings = format!("  mode: observe\n{}", localhost(port, "methods: [POST]"));
    let egress = TestEgress::start(&settings);
    let get = format!("GET http://localhost:{port}/ HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
    let reply = egress.say(get.as_bytes()).await;
    assert!(reply.starts_with("HTTP/1.1 403"), "loopback is not opened by a rule that does not fit: {reply}");
    // 192.0.2.1 is nobody's: the guard says so before anything is dialled.
    let (_, head) = connect(&egress, "192.0.2.1:443").await;
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    let log = egress.stop().await;
    assert!(log.iter().all(|line| line["verdict"] == "denied" && line["reason"] == "address"), "{log:?}");
    assert_eq!(origin.seen(), Vec::<String>::new());
}

#[tokio::test]
async fn observing_notes_fields_that_mean_another_request_and_lets_it_through() {
    let origin = Origin::http(OK).await;
    let port = origin.address.port();
    let egress = TestEgress::start(&format!("  mode: observe\n{}", localhost(port, "methods: [GET]")));
    let get = format!(
        "GET http://localhost:{port}/ HTTP/1.1\r\nHost: localhost:{port}\r\nX_HTTP_Method_Override: DELETE\r\nConnection: close\r\n\r\n"
    );
    let reply = egress.say(get.as_bytes()).await;
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    let log = egress.stop().await;
    assert!(log.iter().all(|line| line["verdict"] == "observed" && line["reason"] == "request"), "{log:?}");
    assert_eq!(log.len(), 1);
}

#[tokio::test]
async fn slow_and_large_heads_are_not_waited_for() {
    let origin = Origin::http(OK).await;
    let port = origin.address.port();
    let settings = format!(
        "  timeouts: {{ header: 200ms, hello: 200ms }}\n  limits: {{ header_bytes: 4KiB, connections: 2 }}\n{}",
        localhost(port, "")
    );
    let egress = TestEgress::start(&settings);
    let slow = egress.say(b"GET http://localhost/ HTTP/1.1\r\nHost: loc").await;
    assert!(slow.starts_with("HTTP/1.1 408"), "{slow}");
    let large = format!("GET http://localhost:{port}/ HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(5000));
    let large = egress.say(large.as_bytes()).await;
    assert!(large.starts_with("HTTP/1.1 431"), "{large}");
    let (mut silent, head) = connect(&egress, &format!("localhost:{port}")).await;
    assert!(head.starts_with("HTTP/1.1 200"));
    assert_eq!(read_all(&mut silent).await, "", "a tunnel in which nothing is said");
    let held = [egress.dial().await, egress.dial().await];
    // Both places are taken: a third is closed at once.
    let closed = eventually("a further connection is closed", || async {
        let mut third = egress.dial().await;
        matches!(third.read(&mut [0; 1]).await, Ok(0) | Err(_)).then_some(true)
    });
    assert!(closed.await);
    drop(held);
}

#[tokio::test]
async fn interim_replies_are_few() {
    let flood: &'static str =
        Box::leak(format!("{}{OK}", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(200)).into_boxed_str());
    let origin = Origin::http(flood).await;
    let port = origin.address.port();
    let egress = TestEgress::start(&localhost(port, ""));
    let request = format!("GET http://localhost:{port}/ HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
    let reply = egress.say(request.as_bytes()).await;
    assert!(reply.matches("HTTP/1.1 103").count() < 50 && reply.contains("HTTP/1.1 502 Bad Gateway"), "{reply}");
}

/// Two sides that are always ready keep a task busy for ever, and its thread with it, unless it lets go by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reply_without_end_ends_with_its_time() {
    use std::io::{Read, Write};
    let origin = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = origin.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = origin.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999999\r\n\r\n";
        let _ = stream.write_all(head);
        while stream.write_all(&[b'x'; 65_536]).is_ok() {}
    });
    let rules = format!("{}  timeouts: {{ total: 500ms }}\n", localhost(port, ""));
    let egress = TestEgress::start(&rules);
    let proxy = egress.address();
    let client = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(proxy).unwrap();
        write!(stream, "GET http://localhost:{port}/ HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n").unwrap();
        let (mut chunk, mut all) = ([0; 65_536], 0);
        while let Ok(read @ 1..) = stream.read(&mut chunk) {
            all += read;
        }
        all
    });
    assert!(within("the end", client).await.unwrap() > 65_536);
}
