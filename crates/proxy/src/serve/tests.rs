//! Connections as hostile, slow or leaving clients make them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use super::ConnEnd;
use crate::accept::ListenerSettings;
use crate::body::{BodyEnd, OutBody, read_bounded};
use crate::peers::OpenPeers;
use crate::testing::{Served, Tls, closed, hello, read_request, within, write};

fn impatient(settings: &mut ListenerSettings) {
    settings.http.head_timeout = Duration::from_millis(150);
    settings.handshake_timeout = Duration::from_millis(150);
}

#[tokio::test]
async fn a_client_that_says_nothing_or_never_ends_its_head_is_cut() {
    let served = Served::start(impatient, hello);
    let mut silent = served.connect().await;
    let mut slow = served.connect().await;
    write(&mut slow, "GET / HTTP/1.1\r\nhost: a\r\nx-slow: ").await;
    // Each byte is progress, but the clock does not start anew.
    let drip = async {
        while slow.write_all(b"z").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(drip).await;
    closed(&mut silent).await;
    assert_eq!(served.counts.ended(2).await, [Some(ConnEnd::TimedOut); 2]);
}

#[tokio::test]
async fn a_client_that_is_silent_after_an_h2_handshake_is_cut() {
    let tls = Tls::new(&[b"h2"]);
    let served = Served::start(
        |settings| {
            impatient(settings);
            settings.handshake_timeout = Duration::from_secs(10);
            settings.tls = Some(tls.provider());
        },
        hello,
    );
    let connector = TlsConnector::from(Arc::clone(&tls.client));
    let name = ServerName::try_from("server.test").unwrap();
    let mut stream = within(connector.connect(name, served.connect().await)).await.unwrap();
    let mut settings_frame = Vec::new();
    // No `close_notify` when cut: the error is the end.
    let _ = within(stream.read_to_end(&mut settings_frame)).await;
    assert_eq!(served.counts.ended(1).await, [Some(ConnEnd::TimedOut)]);
}

#[tokio::test]
async fn a_client_that_never_starts_its_handshake_is_cut() {
    let tls = Tls::new(&[b"h2"]);
    let served = Served::start(
        |settings| {
            impatient(settings);
            settings.tls = Some(tls.provider());
        },
        hello,
    );
    closed(&mut served.connect().await).await;
    assert_eq!(served.counts.ended(1).await, [None]);
    let handshakes = served.counts.handshakes.lock().unwrap();
    assert_eq!(handshakes[0].as_ref().unwrap_err(), "no TLS handshake within 150 ms");
}

#[tokio::test]
async fn a_head_over_the_limit_is_refused_politely() {
    let served = Served::start(|settings| settings.http.max_head_bytes = 1000, hello);
    let mut client = served.connect().await;
    write(&mut client, &format!("GET / HTTP/1.1\r\nhost: a\r\nx-big: {}\r\n\r\n", "x".repeat(2000))).await;
    let mut answer = String::new();
    within(client.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert_eq!(served.counts.ended(1).await, [Some(ConnEnd::Malformed)]);
}

#[tokio::test]
async fn h2_without_tls_is_not_spoken() {
    let served = Served::start(|_| {}, hello);
    let mut client = served.connect().await;
    write(&mut client, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    closed(&mut client).await;
    assert_eq!(served.counts.ended(1).await, [Some(ConnEnd::Malformed)]);
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_call() {
    let (ended, mut ends) = mpsc::channel(100);
    let served = Served::start(
        |_| {},
        move |_, _| {
            let ended = ended.clone();
            async move {
                // Silent, like a subscription without events: only the closed socket can end it.
                let (events, body) = OutBody::channel(1);
                tokio::spawn(async move { events.gone().await });
                Response::new(body.on_end(Box::new(move |bytes, end| ended.try_send((bytes, end)).unwrap())))
            }
        },
    );
    let mut client = served.connect().await;
    write(&mut client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut head = [0; 8];
    within(client.read_exact(&mut head)).await.unwrap();
    drop(client);
    assert_eq!(within(ends.recv()).await, Some((0, BodyEnd::Dropped)));
    assert_eq!(served.counts.ended(1).await, [Some(ConnEnd::Broken)]);
}

#[tokio::test]
async fn events_leave_as_they_are_made_also_with_a_second_request_waiting() {
    let (feed, events) = mpsc::channel::<Bytes>(1);
    let events = Arc::new(tokio::sync::Mutex::new(events));
    let served = Served::start(
        |_| {},
        move |_, _| {
            let events = Arc::clone(&events);
            async move {
                let (sender, body) = OutBody::channel(1);
                tokio::spawn(async move {
                    let mut events = events.lock().await;
                    while let Some(event) = events.recv().await {
                        sender.send(event).await.unwrap();
                    }
                    sender.finish().await.unwrap();
                });
                Response::new(body)
            }
        },
    );
    let mut client = served.connect().await;
    write(&mut client, &"GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(2)).await;
    for event in ["data: one\n\n", "data: two\n\n"] {
        feed.send(Bytes::from(event)).await.unwrap();
        let mut read = String::new();
        while !read.contains(event) {
            let mut buffer = [0; 1024];
            let count = within(client.read(&mut buffer)).await.unwrap();
            read.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    }
}

#[tokio::test]
async fn requests_of_a_connection_know_it_and_its_peer() {
    let tls = Tls::new(&[b"http/1.1"]);
    let served = Served::start(
        |settings| settings.tls = Some(tls.provider()),
        |info: Arc<crate::handshake::ConnInfo>, request| async move {
            let body = read_bounded(request.into_body(), 1000, Duration::from_secs(5)).await.unwrap();
            let certs = info.peer_certs().unwrap().len();
            Response::new(OutBody::full(format!("{} {certs} {}", info.requests(), body.len())))
        },
    );
    let pool = crate::pool::Pool::new(tls.endpoint(served.address), crate::pool::PoolSettings::default());
    for n in 1..3 {
        let response = within(pool.send(crate::testing::post("/", Bytes::from("four")))).await.unwrap();
        let body = within(response.into_body().collect()).await.unwrap().to_bytes();
        assert_eq!(body, format!("{n} 1 4"));
    }
    let handshakes = served.counts.handshakes.lock().unwrap();
    let info = handshakes[0].as_ref().unwrap();
    assert_eq!(info.version, Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(info.group, Some(rustls::NamedGroup::X25519MLKEM768));
}

#[tokio::test]
async fn a_peer_that_is_no_longer_believed_is_cut_within_its_request() {
    for alpn in [&[b"h2".as_slice()][..], &[b"http/1.1"]] {
        let tls = Tls::new(alpn);
        let peers = OpenPeers::new(Arc::new(|_| Err(outrigger_identity::PeerError::OutsideLife)));
        let (asked, mut inside) = tokio::sync::mpsc::channel(1);
        let served = Served::start(
            |settings| (settings.tls, settings.peers) = (Some(tls.provider()), Some(Arc::clone(&peers))),
            move |_, _| {
                let asked = asked.clone();
                async move {
                    asked.send(()).await.unwrap();
                    std::future::pending().await
                }
            },
        );
        let pool = crate::pool::Pool::new(tls.endpoint(served.address), crate::pool::PoolSettings::default());
        let call = tokio::spawn(async move { pool.send(crate::testing::get("/")).await.map(drop) });
        within(inside.recv()).await.unwrap();
        assert_eq!(peers.recheck(), 1);
        assert!(within(call).await.unwrap().is_err());
        assert_eq!(served.counts.ended(1).await, [Some(ConnEnd::Untrusted)]);
    }
}

#[tokio::test]
async fn a_service_that_panics_costs_only_its_connection() {
    let served = Served::start(
        |_| {},
        |_, request: http::Request<_>| async move {
            assert_ne!(request.uri().path(), "/panic");
            Response::new(OutBody::full("fine"))
        },
    );
    let mut bad = served.connect().await;
    write(&mut bad, "GET /panic HTTP/1.1\r\nhost: a\r\n\r\n").await;
    closed(&mut bad).await;
    let mut good = served.connect().await;
    write(&mut good, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    // Reads any HTTP message, answers too.
    assert!(read_request(&mut good).await.ends_with("fine"));
    assert_eq!(served.counts.ended(1).await, [None]);
}

/// An h2 client that speaks in frames (RFC 9113 §4.1), past the greeting.
async fn frames(served: &Served, tls: &Tls) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let connector = TlsConnector::from(Arc::clone(&tls.client));
    let name = ServerName::try_from("server.test").unwrap();
    let mut stream = within(connector.connect(name, served.connect().await)).await.unwrap();
    within(stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")).await.unwrap();
    within(stream.write_all(&frame(0x4, 0, 0, &[]))).await.unwrap();
    stream
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// `GET https://a/` without Huffman codes (RFC 7541 appendix A: 2, 7 and 4 are whole, 1 is the authority's name).
const GET: &[u8] = &[0x82, 0x87, 0x84, 0x41, 0x01, b'a'];
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// Writes `attack` again and again; the bytes that were taken before the connection was cut.
async fn taken(stream: &mut (impl AsyncWriteExt + Unpin), attack: impl Fn(u32) -> Vec<u8>, times: u32) -> usize {
    let mut taken = 0;
    for n in 0..times {
        let bytes = attack(n);
        if within(stream.write_all(&bytes)).await.is_err() {
            break;
        }
        taken += bytes.len();
        tokio::task::yield_now().await;
    }
    taken
}

fn over_h2(tls: &Tls) -> impl FnOnce(&mut ListenerSettings) + use<> {
    let provider = tls.provider();
    |settings| settings.tls = Some(provider)
}

#[tokio::test]
async fn requests_that_are_taken_back_at_once_end_their_connection() {
    let tls = Tls::new(&[b"h2"]);
    let served = Served::start(over_h2(&tls), |_, _| std::future::pending());
    let mut hostile = frames(&served, &tls).await;
    let attack = |n: u32| {
        let id = 2 * n + 1;
        let mut pair = frame(0x1, END_STREAM | END_HEADERS, id, GET);
        pair.extend(frame(0x3, 0, id, &8u32.to_be_bytes()));
        pair
    };
    taken(&mut hostile, attack, 50_000).await;
    let ended = served.counts.ended(1).await;
    assert!(matches!(ended[..], [Some(ConnEnd::Broken | ConnEnd::Malformed)]), "{ended:?}");
}

#[tokio::test]
async fn a_head_that_never_ends_ends_its_connection() {
    let tls = Tls::new(&[b"h2"]);
    let served = Served::start(over_h2(&tls), hello);
    let mut hostile = frames(&served, &tls).await;
    // A field without indexing, its name and value of one letter each, many times.
    let fields = [0x00, 0x01, b'x', 0x01, b'y'].repeat(3000);
    let attack = |n: u32| match n {
        0 => frame(0x1, END_STREAM, 1, GET),
        _ => frame(0x9, 0, 1, &fields),
    };
    let taken = taken(&mut hostile, attack, 10_000).await;
    let ended = served.counts.ended(1).await;
    assert!(matches!(ended[..], [Some(ConnEnd::Broken | ConnEnd::Malformed)]), "{ended:?}");
    assert!(taken < 16 << 20, "{taken} bytes");
}

/// Bytes more than any buffer between two sockets of one machine holds.
const LARGE: usize = 64 << 20;

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_cut() {
    for alpn in [&b"h2"[..], b"http/1.1"] {
        let tls = Tls::new(&[alpn]);
        let provider = tls.provider();
        let (ends, mut ended) = mpsc::channel(1);
        let settings = |settings: &mut ListenerSettings| {
            settings.tls = Some(provider);
            settings.http.stall_timeout = Duration::from_millis(300);
        };
        let served = Served::start(settings, move |_, _| {
            let ends = ends.clone();
            async move {
                // Longer than the patience: what takes time here is not the client's fault.
                tokio::time::sleep(Duration::from_millis(600)).await;
                let body = OutBody::full(vec![b'x'; LARGE]);
                Response::new(body.on_end(Box::new(move |_, end| ends.try_send(end).unwrap())))
            }
        });
        let mut client = hyper_client(&served, &tls).await;
        let response = within(client.send_request(http::Request::get("https://a/").body(OutBody::empty()).unwrap()));
        let response = response.await.unwrap();
        assert_eq!(within(ended.recv()).await, Some(BodyEnd::Dropped), "{}", alpn.escape_ascii());
        assert!(within(response.into_body().collect()).await.is_err());
    }
}

#[tokio::test]
async fn a_stream_with_nothing_to_say_may_be_silent() {
    let tls = Tls::new(&[b"h2"]);
    let provider = tls.provider();
    let settings = |settings: &mut ListenerSettings| {
        settings.tls = Some(provider);
        settings.http.stall_timeout = Duration::from_millis(100);
    };
    let served = Served::start(settings, |_, _| async {
        let (sender, body) = OutBody::channel(1);
        tokio::spawn(async move {
            for word in ["slow", "ly"] {
                sender.send(Bytes::from_static(word.as_bytes())).await.unwrap();
                tokio::time::sleep(Duration::from_millis(400)).await;
            }
            sender.finish().await.unwrap();
        });
        Response::new(body)
    });
    let mut client = hyper_client(&served, &tls).await;
    let request = http::Request::get("https://a/").body(OutBody::empty()).unwrap();
    let response = within(client.send_request(request)).await.unwrap();
    assert_eq!(crate::testing::text(response).await, "slowly");
}

/// A client of hyper that reads its answers only when they are collected.
async fn hyper_client(served: &Served, tls: &Tls) -> Sender {
    let connector = TlsConnector::from(Arc::clone(&tls.client));
    let name = ServerName::try_from("server.test").unwrap();
    let stream = within(connector.connect(name, served.connect().await)).await.unwrap();
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = hyper_util::rt::TokioIo::new(stream);
    if h2 {
        let executor = hyper_util::rt::TokioExecutor::new();
        let (sender, driver) = within(hyper::client::conn::http2::handshake(executor, io)).await.unwrap();
        tokio::spawn(driver);
        Sender::H2(sender)
    } else {
        let (sender, driver) = within(hyper::client::conn::http1::handshake(io)).await.unwrap();
        tokio::spawn(driver);
        Sender::H1(sender)
    }
}

enum Sender {
    H1(hyper::client::conn::http1::SendRequest<OutBody>),
    H2(hyper::client::conn::http2::SendRequest<OutBody>),
}

impl Sender {
    async fn send_request(
        &mut self,
        request: http::Request<OutBody>,
    ) -> hyper::Result<Response<hyper::body::Incoming>> {
        match self {
            Sender::H1(sender) => sender.send_request(request).await,
            Sender::H2(sender) => sender.send_request(request).await,
        }
    }
}
