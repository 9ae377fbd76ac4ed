//! Connections that rest, and what must not be lost by it.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::accept::ListenerSettings;
use crate::body::{OutBody, read_bounded};
use crate::handshake::ConnInfo;
use crate::pool::{Pool, PoolSettings};
use crate::serve::ConnEnd;
use crate::testing::{Served, Tls, closed, get, hello, read_request, text, within, write};

thread_local! {
    /// How often connections of this test's runtime went to rest.
    pub(super) static RESTS: Cell<usize> = const { Cell::new(0) };
}

async fn rests(at_least: usize) {
    within(async {
        while RESTS.get() < at_least {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

async fn asked(client: &mut TcpStream) {
    write(client, REQUEST).await;
    // Reads any HTTP message, answers too.
    assert!(read_request(client).await.ends_with("hello"));
}

#[tokio::test]
async fn a_connection_rests_between_its_requests() {
    let served = Served::start(|_| {}, hello);
    let mut client = served.connect().await;
    // Before the first one, too.
    rests(1).await;
    for n in 1..=5 {
        asked(&mut client).await;
        rests(n + 1).await;
    }
    drop(client);
    assert_eq!(served.counts.ended(1).await, [Some(ConnEnd::Closed)]);
}

#[tokio::test]
async fn a_connection_rests_over_tls_and_knows_its_client_still() {
    let tls = Tls::new(&[b"http/1.1"]);
    let served = Served::start(
        |settings| settings.tls = Some(tls.provider()),
        |info: Arc<ConnInfo>, _| async move {
            Response::new(OutBody::full(format!("{} {}", info.requests(), info.peer_certs().unwrap().len())))
        },
    );
    let pool = Pool::new(tls.endpoint(served.address), PoolSettings::default());
    for n in 1..=5 {
        assert_eq!(text(within(pool.send(get("/"))).await.unwrap()).await, format!("{n} 1"));
        rests(n).await;
    }
}

#[tokio::test]
async fn few_connections_keep_their_buffers() {
    let served = Served::start(|settings| settings.http.buffers_kept = 2, hello);
    let (mut one, mut other) = (served.connect().await, served.connect().await);
    asked(&mut one).await;
    asked(&mut other).await;
    assert_eq!(RESTS.get(), 0);
    // With a third one they are too many.
    let _third = served.connect().await;
    rests(1).await;
    asked(&mut one).await;
    rests(2).await;
}

/// How long a client may take for a head, milliseconds.
const HEAD: u64 = 400;

fn impatient(settings: &mut ListenerSettings) {
    settings.http.head_timeout = Duration::from_millis(HEAD);
}

#[tokio::test]
async fn a_connection_that_rests_is_let_go_of_in_time() {
    let served = Served::start(impatient, hello);
    let mut client = served.connect().await;
    asked(&mut client).await;
    rests(2).await;
    closed(&mut client).await;
    assert_eq!(served.counts.ended(1).await, [Some(ConnEnd::TimedOut)]);
}

#[tokio::test]
async fn a_head_that_drips_is_cut_also_behind_a_request() {
    let served = Served::start(impatient, hello);
    let mut client = served.connect().await;
    write(&mut client, &format!("{REQUEST}GET / HTTP/1.1\r\nx-slow: ")).await;
    assert!(read_request(&mut client).await.ends_with("hello"));
    let (before, mut dripped) = (RESTS.get(), 0);
    // Each byte is progress, but the clock does not start anew: not for every byte.
    while dripped < 10_000 && client.write_all(b"z").await.is_ok() {
        dripped += 1;
        tokio::time::sleep(Duration::from_millis(HEAD / 8)).await;
    }
    assert_eq!(served.counts.ended(1).await, [Some(ConnEnd::TimedOut)]);
    assert!(RESTS.get() <= before + 1, "a connection with a part of a head does not rest");
}

/// A TLS record of 16 KiB that takes for ever to come: its bytes wake the connection, and are nothing to HTTP.
#[tokio::test]
async fn records_that_drip_do_not_keep_a_connection() {
    let tls = Tls::new(&[b"http/1.1"]);
    let provider = tls.provider();
    let served = Served::start(
        |settings| {
            impatient(settings);
            settings.tls = Some(provider);
        },
        hello,
    );
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(&tls.client));
    let name = rustls::pki_types::ServerName::try_from("server.test").unwrap();
    let mut stream = within(connector.connect(name, served.connect().await)).await.unwrap();
    // Past the handshake, which has a clock of its own.
    within(stream.write_all(REQUEST.as_bytes())).await.unwrap();
    let mut answer = [0; 1024];
    within(stream.read(&mut answer)).await.unwrap();
    let (mut socket, _) = stream.into_inner();
    within(socket.write_all(&[23, 3, 3, 0x40, 0])).await.unwrap();
    let mut dripped = 0;
    while dripped < 10_000 && socket.write_all(b"z").await.is_ok() {
        dripped += 1;
        tokio::time::sleep(Duration::from_millis(HEAD / 8)).await;
    }
    assert_eq!(served.counts.ended(1).await, [Some(ConnEnd::TimedOut)]);
}

#[tokio::test]
async fn requests_in_one_packet_are_all_answered() {
    let served = Served::start(|_| {}, hello);
    let mut client = served.connect().await;
    let half = REQUEST.len() / 2;
    write(&mut client, &format!("{}{}", REQUEST.repeat(3), &REQUEST[..half])).await;
    let mut read = String::new();
    while read.matches("hello").count() < 3 {
        let mut buffer = [0; 1024];
        let count = within(client.read(&mut buffer)).await.unwrap();
        read.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    write(&mut client, &REQUEST[half..]).await;
    assert!(read_request(&mut client).await.ends_with("hello"));
}

#[tokio::test]
async fn what_an_answer_left_of_its_request_is_no_request() {
    // Answers before the body is there.
    let served = Served::start(|_| {}, hello);
    let mut client = served.connect().await;
    write(&mut client, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 60\r\n\r\n").await;
    assert!(read_request(&mut client).await.ends_with("hello"));
    // Were the connection taken up anew here, this would be a request.
    let _ = client.write_all(REQUEST.repeat(3).as_bytes()).await;
    let mut more = String::new();
    let _ = within(client.read_to_string(&mut more)).await;
    assert_eq!(more, "");
}

#[tokio::test]
async fn a_body_that_comes_late_is_waited_for() {
    let served = Served::start(
        |_| {},
        |_, request: http::Request<_>| async move {
            let body = read_bounded(request.into_body(), 1000, Duration::from_secs(20)).await.unwrap();
            Response::new(OutBody::full(body))
        },
    );
    let mut client = served.connect().await;
    write(&mut client, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    write(&mut client, "late").await;
    assert!(read_request(&mut client).await.ends_with("late"));
}

#[tokio::test]
async fn a_connection_that_rests_ends_when_the_listener_drains() {
    let tls = Tls::new(&[b"http/1.1"]);
    let served = Served::start(|settings| settings.tls = Some(tls.provider()), hello);
    let pool = Pool::new(tls.endpoint(served.address), PoolSettings::default());
    let response = within(pool.send(get("/"))).await.unwrap();
    within(response.into_body().collect()).await.unwrap();
    rests(1).await;
    served.drain.signal();
    assert_eq!(served.counts.ended(1).await, [Some(ConnEnd::Closed)]);
}
