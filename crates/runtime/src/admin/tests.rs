//! Talks to a served listener with plain bytes, as a kubelet or a scraper would.

use std::net::SocketAddr;

use outrigger_telemetry::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

use super::*;
use crate::listen::ListenOptions;

struct Running {
    address: SocketAddr,
    readiness: Readiness,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn start() -> Running {
    let readiness = Readiness::new();
    let metrics = Metrics::new(Role::Sidecar).unwrap();
    let server =
        AdminServer::new(metrics, readiness.clone()).page("/catalog", || AdminPage::ok(JSON, r#"{"tools":[]}"#));
    let options = ListenOptions::new(SocketAddr::from(([127, 0, 0, 1], 0)), "admin.listen");
    let listener = Listener::bind(options).unwrap();
    let (address, stop) = (listener.address(), CancellationToken::new());
    let task = tokio::spawn(server.serve(listener, stop.clone()));
    Running { address, readiness, stop, task }
}

/// Sends a request on a connection of its own and returns all that comes back.
async fn exchange(address: SocketAddr, head: &str) -> String {
    exchange_on(TcpStream::connect(address).await.unwrap(), head).await
}

/// A connection of the nth address that is somebody else's.
async fn connect_as(n: usize, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let [high, low] = u16::try_from(n).unwrap().to_be_bytes();
    socket.bind(SocketAddr::from(([127, 1, high, low], 0))).unwrap();
    socket.connect(address).await.unwrap()
}

async fn exchange_on(mut stream: TcpStream, head: &str) -> String {
    let request = format!("{head} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

/// One exchange on a connection that stays open; returns the body.
async fn ask(stream: &mut TcpStream, path: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: admin\r\n\r\n").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    String::from_utf8(body).unwrap()
}

#[tokio::test]
async fn readiness_is_503_with_reasons_and_then_200() {
    let server = start();
    let guard = server.readiness.block("catalog", "not fetched");
    let reply = exchange(server.address, "GET /readyz").await;
    assert!(reply.starts_with("HTTP/1.1 503 "), "{reply}");
    assert!(reply.contains("catalog: not fetched"), "{reply}");
    assert!(exchange(server.address, "GET /healthz").await.starts_with("HTTP/1.1 200 "));
    drop(guard);
    assert!(exchange(server.address, "GET /readyz").await.starts_with("HTTP/1.1 200 "));
}

/// A server with a handler that waits until `open` is closed, and what counts who asked it.
struct Slow {
    address: SocketAddr,
    asked: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

fn start_slow() -> Slow {
    let (asked, open) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (waiting, may) = (Arc::clone(&asked), Arc::clone(&open));
    let metrics = Metrics::new(Role::Sidecar).unwrap();
    let server = AdminServer::new(metrics, Readiness::new()).handler("/slow/", move |_| {
        waiting.add_permits(1);
        let may = Arc::clone(&may);
        Box::pin(async move {
            let _ = may.acquire().await;
            AdminPage::ok(TEXT, "done")
        })
    });
    let listener = Listener::bind(ListenOptions::new(SocketAddr::from(([127, 0, 0, 1], 0)), "admin.listen")).unwrap();
    let address = listener.address();
    tokio::spawn(server.serve(listener, CancellationToken::new()));
    Slow { address, asked, open }
}

impl Slow {
    /// Asks as the nth address.
    fn ask_as(&self, n: usize) -> JoinHandle<String> {
        let address = self.address;
        tokio::spawn(async move { exchange_on(connect_as(n, address).await, &format!("GET /slow/{n}")).await })
    }

    async fn at_work(&self, count: usize) {
        self.asked.acquire_many(count.try_into().unwrap()).await.unwrap().forget();
    }
}

#[tokio::test]
async fn handlers_that_wait_leave_room_for_the_pages() {
    let slow = start_slow();
    let at_work: Vec<_> = (0..MAX_AT_WORK).map(|n| slow.ask_as(n)).collect();
    slow.at_work(MAX_AT_WORK).await;
    let more: Vec<_> = (0..2 * MAX_CONNECTIONS).map(|n| slow.ask_as(MAX_AT_WORK + n)).collect();
    for refused in more {
        assert!(refused.await.unwrap().starts_with("HTTP/1.1 503 "));
    }
    assert!(exchange(slow.address, "GET /healthz").await.starts_with("HTTP/1.1 200 "));
    assert!(exchange(slow.address, "GET /metrics").await.starts_with("HTTP/1.1 200 "));
    slow.open.close();
    for done in at_work {
        assert!(done.await.unwrap().starts_with("HTTP/1.1 200 "));
    }
}

#[tokio::test]
async fn one_address_that_waits_everywhere_keeps_nobody_else_from_a_handler() {
    let slow = start_slow();
    let stranger: Vec<_> = (0..MAX_OF_PEER).map(|_| slow.ask_as(0)).collect();
    slow.at_work(MAX_OF_PEER).await;
    // One more of it is closed, whether or not it could send anything before.
    assert_eq!(exchange_lossy(connect_as(0, slow.address).await).await, b"");
    // A kubelet is let in, and its request is at work.
    let kubelet = slow.ask_as(1);
    slow.at_work(1).await;
    assert!(exchange_on(connect_as(1, slow.address).await, "GET /healthz").await.starts_with("HTTP/1.1 200 "));
    slow.open.close();
    assert!(kubelet.await.unwrap().starts_with("HTTP/1.1 200 "));
    for done in stranger {
        assert!(done.await.unwrap().starts_with("HTTP/1.1 200 "));
    }
    // Its places are its own again, as soon as the server has seen the last connection end.
    while exchange_lossy(connect_as(0, slow.address).await).await.is_empty() {}
}

/// What comes back, if anything does.
async fn exchange_lossy(mut stream: TcpStream) -> Vec<u8> {
    let mut reply = Vec::new();
    let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").await;
    let _ = stream.read_to_end(&mut reply).await;
    reply
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let server = start();
    let reply = exchange(server.address, "GET /metrics?x=1").await;
    assert!(reply.contains("content-type: text/plain; version=0.0.4"), "{reply}");
    assert!(reply.contains("\noutrigger_build_info{role=\"sidecar\""), "{reply}");
    assert!(reply.contains("\noutrigger_connections_open{listener=\"admin\"} 1\n"), "{reply}");
}

#[tokio::test]
async fn added_pages_are_served_and_others_are_listed() {
    let server = start();
    let reply = exchange(server.address, "GET /catalog").await;
    assert!(reply.contains("content-type: application/json"), "{reply}");
    assert!(reply.ends_with("\r\n\r\n{\"tools\":[]}"), "{reply}");
    let reply = exchange(server.address, "GET /nothing").await;
    assert!(reply.starts_with("HTTP/1.1 404 "), "{reply}");
    assert!(reply.contains("/catalog /healthz /metrics /readyz"), "{reply}");
}

#[tokio::test]
async fn only_get_and_head() {
    let server = start();
    let reply = exchange(server.address, "POST /healthz").await;
    assert!(reply.starts_with("HTTP/1.1 405 ") && reply.contains("allow: GET, HEAD"), "{reply}");
    let reply = exchange(server.address, "HEAD /healthz").await;
    assert!(reply.contains("content-length: 3") && reply.ends_with("\r\n\r\n"), "{reply}");
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let server = start();
    let head = format!("GET /healthz HTTP/1.1\r\nx: {}", "x".repeat(MAX_HEADER_BYTES));
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    // The server may reset the connection, since it does not read the rest.
    let _ = stream.read_to_end(&mut reply).await;
    assert!(reply.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&reply));
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_cut() {
    let server = start();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let started = tokio::time::Instant::now();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.unwrap();
    assert!(started.elapsed() >= HEADER_TIMEOUT && started.elapsed() < HEADER_TIMEOUT * 2);
}

#[tokio::test]
async fn connections_beyond_the_cap_wait_for_a_place() {
    let server = start();
    let mut held = Vec::new();
    for n in 0..MAX_CONNECTIONS {
        let mut stream = connect_as(n, server.address).await;
        ask(&mut stream, "/healthz").await;
        held.push(stream);
    }
    let mut late = TcpStream::connect(server.address).await.unwrap();
    // The late connection is in the backlog. If there were room, it would be accepted during these exchanges.
    for stream in &mut held {
        ask(stream, "/healthz").await;
    }
    let metrics = ask(&mut held[0], "/metrics").await;
    assert!(metrics.contains("outrigger_connections_open{listener=\"admin\"} 128\n"), "{metrics}");
    held.pop();
    assert_eq!(ask(&mut late, "/healthz").await, "ok\n");
}

#[tokio::test]
async fn stop_ends_idle_connections_and_closes_the_socket() {
    let server = start();
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    ask(&mut idle, "/healthz").await;
    server.stop.cancel();
    server.task.await.unwrap();
    let mut rest = Vec::new();
    let _ = idle.read_to_end(&mut rest).await;
    assert!(TcpStream::connect(server.address).await.is_err());
}
