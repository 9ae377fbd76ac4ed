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
