//! The cap, the drain and the size of a connection.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Response;
use outrigger_runtime::drain::DrainOutcome;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsConnector;

use super::{ListenerSettings, Shared, Stop, TaskTracker, connection};
use crate::body::OutBody;
use crate::serve::ConnEnd;
use crate::testing::{PATIENCE, Served, Tls, closed, hello, listen, read_request, within, write};

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test]
async fn connections_over_the_cap_are_closed_and_counted() {
    let served = Served::start(|settings| settings.max_connections = 1, hello);
    let mut first = served.connect().await;
    write(&mut first, REQUEST).await;
    assert!(read_request(&mut first).await.ends_with("hello"));
    let mut second = served.connect().await;
    closed(&mut second).await;
    assert_eq!(served.counts.refused.load(Ordering::SeqCst), 1);
    // The first is not disturbed, and its place is free when it is gone.
    write(&mut first, REQUEST).await;
    assert!(read_request(&mut first).await.ends_with("hello"));
    drop(first);
    served.counts.ended(1).await;
    let mut third = served.connect().await;
    write(&mut third, REQUEST).await;
    assert!(read_request(&mut third).await.ends_with("hello"));
}

#[tokio::test]
async fn a_drain_lets_calls_finish_and_closes_idle_connections() {
    let (started_tx, mut started) = mpsc::channel(100);
    let gate = Arc::new(Semaphore::new(0));
    let service_gate = Arc::clone(&gate);
    let served = Served::start(
        |_| {},
        move |_, _| {
            let (gate, started) = (Arc::clone(&service_gate), started_tx.clone());
            async move {
                started.try_send(()).unwrap();
                gate.acquire().await.unwrap().forget();
                Response::new(OutBody::full("finished"))
            }
        },
    );
    let mut idle = served.connect().await;
    let mut busy = served.connect().await;
    write(&mut busy, REQUEST).await;
    within(started.recv()).await.unwrap();
    served.drain.signal();
    closed(&mut idle).await;
    assert!(TcpStream::connect(served.address).await.is_err(), "nothing new is accepted");
    gate.add_permits(1);
    let answer = read_request(&mut busy).await;
    assert!(answer.ends_with("finished") && answer.contains("connection: close"), "{answer}");
    assert_eq!(within(served.drain.drain(PATIENCE, pending())).await, DrainOutcome::Finished);
    within(served.running).await.unwrap();
    assert_eq!(served.counts.ended(2).await, [Some(ConnEnd::Closed); 2]);
}

/// Connected and asked before the drain, and accepted by nobody yet: the drain wins every race here, because nothing of the runtime
/// runs between the requests and the signal.
#[tokio::test]
async fn a_drain_answers_what_waits_to_be_accepted() {
    use std::io::{Read as _, Write as _};
    let served = Served::start(|_| {}, hello);
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let mut client = std::net::TcpStream::connect(served.address).unwrap();
            client.write_all(REQUEST.as_bytes()).unwrap();
            client
        })
        .collect();
    served.drain.signal();
    within(served.running).await.unwrap();
    for mut client in clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("hello") && answer.contains("connection: close"), "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_has_just_connected_may_still_ask_when_the_drain_begins() {
    let tls = Tls::new(&[]);
    let provider = tls.provider();
    let served = Served::start(|settings| settings.tls = Some(provider), hello);
    let socket = served.connect().await;
    within(async {
        while served.counts.opened.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        served.drain.signal();
        while TcpStream::connect(served.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // The drain has begun, and the handshake has not.
    let name = ServerName::try_from("server.test").unwrap();
    let mut client = within(TlsConnector::from(tls.client).connect(name, socket)).await.unwrap();
    within(client.write_all(REQUEST.as_bytes())).await.unwrap();
    let mut answer = String::new();
    within(client.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.ends_with("hello") && answer.contains("connection: close"), "{answer}");
    within(served.running).await.unwrap();
}

#[tokio::test]
async fn a_part_of_a_first_head_does_not_hold_up_a_drain() {
    let served = Served::start(|_| {}, hello);
    let mut client = served.connect().await;
    write(&mut client, &REQUEST[..REQUEST.len() - 2]).await;
    within(async {
        while served.counts.opened.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    served.drain.signal();
    closed(&mut client).await;
    within(served.running).await.unwrap();
    assert_eq!(served.counts.ended(1).await, [Some(ConnEnd::Closed)]);
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_cut() {
    let (started_tx, mut started) = mpsc::channel(100);
    let served = Served::start(
        |_| {},
        move |_, _| {
            started_tx.try_send(()).unwrap();
            pending()
        },
    );
    let mut busy = served.connect().await;
    write(&mut busy, REQUEST).await;
    within(started.recv()).await.unwrap();
    let outcome = within(served.drain.drain(Duration::from_millis(50), pending())).await;
    assert_eq!(outcome, DrainOutcome::Forced { left: 1 });
    within(served.running).await.unwrap();
    closed(&mut busy).await;
    assert_eq!(served.counts.ended(1).await, [Some(ConnEnd::Forced)]);
}

#[tokio::test]
async fn dropping_the_listener_task_cuts_everything() {
    let served = Served::start(|_| {}, |_, _| pending());
    let mut busy = served.connect().await;
    write(&mut busy, REQUEST).await;
    within(async {
        while served.counts.opened.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    served.running.abort();
    closed(&mut busy).await;
    assert_eq!(served.counts.ended(1).await, [Some(ConnEnd::Forced)]);
}

/// An idle connection is this future, hyper's buffers and the TLS state. Grown by accident, it costs every one of
/// thousands of connections.
#[tokio::test]
async fn the_task_of_a_connection_stays_small() {
    let (listener, address) = listen().await;
    let socket = TcpStream::connect(address).await.unwrap();
    let (_accepted, peer) = listener.accept().await.unwrap();
    let settings = ListenerSettings::new("test");
    let shared = Arc::new(Shared { stop: Arc::<Stop>::default(), tasks: TaskTracker::new(), settings });
    let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    let size = size_of_val(&connection(socket, peer, permit, shared, hello));
    assert!(size <= 4096, "a connection's task grew to {size} bytes");
}
