//! A pool against our own listener, over mutual TLS.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use tokio::sync::{Barrier, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::body::{BodyEnd, OutBody};
use crate::pool::{Pool, PoolSettings, SendErrorKind};
use crate::testing::{Served, Tls, get, hello, post, text, within};

const BOTH: &[&[u8]] = &[b"h2", b"http/1.1"];

fn pool(tls: &Tls, served: &Served) -> Pool {
    Pool::new(tls.endpoint(served.address), PoolSettings::default())
}

#[tokio::test]
async fn many_requests_share_one_connection() {
    const CALLS: usize = 50;
    let tls = Tls::new(BOTH);
    let everyone = Arc::new(Barrier::new(CALLS));
    let served = Served::start(
        |settings| settings.tls = Some(tls.provider()),
        move |_, request| {
            let everyone = Arc::clone(&everyone);
            async move {
                assert_eq!(request.uri().authority().unwrap(), "tools.test");
                assert!(!request.headers().contains_key("host"));
                // Passed only when all the calls are open at once.
                everyone.wait().await;
                Response::new(OutBody::full(request.uri().path().to_owned()))
            }
        },
    );
    let pool = pool(&tls, &served);
    let mut calls = JoinSet::new();
    for n in 0..CALLS {
        let pool = pool.clone();
        calls.spawn(async move {
            let mut request = post(&format!("/{n}"), Bytes::from("{}"));
            request.headers_mut().insert("host", "tools.test".parse().unwrap());
            assert_eq!(text(pool.send(request).await.unwrap()).await, format!("/{n}"));
        });
    }
    within(calls.join_all()).await;
    assert_eq!(served.counts.opened.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn connections_to_an_upstream_that_is_no_longer_believed_are_cut() {
    for alpn in [BOTH, &[b"http/1.1"]] {
        let tls = Tls::new(alpn);
        let (asked, mut inside) = mpsc::channel(2);
        let served = Served::start(
            |settings| settings.tls = Some(tls.provider()),
            move |_, request| {
                let asked = asked.clone();
                async move {
                    let (feed, body) = OutBody::channel(1);
                    feed.send(Bytes::from("begun")).await.unwrap();
                    asked.send(feed).await.unwrap();
                    if request.uri().path() == "/silent" { std::future::pending().await } else { Response::new(body) }
                }
            },
        );
        let pool = pool(&tls, &served);
        let mut body = within(pool.send(get("/stream"))).await.unwrap().into_body();
        within(body.frame()).await.unwrap().unwrap();
        let _feed = within(inside.recv()).await.unwrap();
        let silent = tokio::spawn({
            let pool = pool.clone();
            async move { pool.send(get("/silent")).await.map(drop) }
        });
        let _unread = within(inside.recv()).await.unwrap();

        assert_eq!(pool.recheck(|certs| !certs.is_empty()), 0, "they are asked about by their certificates");
        assert!(pool.recheck(|_| false) > 0);
        assert!(within(body.frame()).await.unwrap().is_err(), "a body");
        let error = within(silent).await.unwrap().unwrap_err();
        assert!(error.sent, "a call may have run: {error}");
        let mut again = within(pool.send(get("/stream"))).await.unwrap().into_body();
        assert_eq!(within(again.frame()).await.unwrap().unwrap().into_data().unwrap(), "begun", "a new connection");
    }
}

#[tokio::test]
async fn full_connections_are_joined_by_others_up_to_the_limit() {
    let tls = Tls::new(BOTH);
    let gate = Arc::new(Semaphore::new(0));
    let inside = Arc::new(AtomicUsize::new(0));
    let (service_gate, service_inside) = (Arc::clone(&gate), Arc::clone(&inside));
    let served = Served::start(
        |settings| settings.tls = Some(tls.provider()),
        move |_, _| {
            let (gate, inside) = (Arc::clone(&service_gate), Arc::clone(&service_inside));
            async move {
                inside.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
                Response::new(OutBody::empty())
            }
        },
    );
    let settings = PoolSettings { h2_max_connections: 2, h2_streams_per_connection: 2, ..PoolSettings::default() };
    let pool = Pool::new(tls.endpoint(served.address), settings);
    let mut calls = JoinSet::new();
    for _ in 0..6 {
        let pool = pool.clone();
        calls.spawn(async move { pool.send(get("/")).await.map(|response| response.status()) });
    }
    within(async {
        while inside.load(Ordering::SeqCst) < 6 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(served.counts.opened.load(Ordering::SeqCst), 2);
    gate.add_permits(6);
    assert!(within(calls.join_all()).await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn http1_is_spoken_to_a_server_that_offers_nothing_else() {
    let tls = Tls::new(&[b"http/1.1"]);
    let served = Served::start(|settings| settings.tls = Some(tls.provider()), hello);
    let pool = pool(&tls, &served);
    for _ in 0..3 {
        let response = within(pool.send(get("/"))).await.unwrap();
        assert_eq!(response.version(), http::Version::HTTP_11);
        assert_eq!(text(response).await, "hello");
    }
    assert_eq!(served.counts.opened.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn readers_that_stall_hold_up_nobody_else() {
    const STALLED: usize = 12;
    // As small as events of MCP are.
    const EVENT: &[u8] =
        b"data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\",\"params\":{}}\n\n";
    let tls = Tls::new(BOTH);
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let served = Served::start(
        |settings| settings.tls = Some(tls.provider()),
        move |_, request| {
            let (events, body) = OutBody::channel(1);
            let sent = Arc::clone(&counted);
            if request.uri().path() == "/events" {
                tokio::spawn(async move {
                    while events.send(Bytes::from_static(EVENT)).await.is_ok() {
                        sent.fetch_add(EVENT.len(), Ordering::Relaxed);
                    }
                });
                return std::future::ready(Response::new(body));
            }
            std::future::ready(Response::new(OutBody::full("at once")))
        },
    );
    let pool = pool(&tls, &served);
    let mut unread = Vec::new();
    for _ in 0..STALLED {
        unread.push(within(pool.send(get("/events"))).await.unwrap().into_body());
    }
    // As much as every stream may hold here, in small frames.
    within(async {
        while sent.load(Ordering::Relaxed) < STALLED * 64 * 1024 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!(text(within(pool.send(get("/"))).await.unwrap()).await, "at once");
    for body in &mut unread {
        assert_eq!(within(body.frame()).await.unwrap().unwrap().into_data().unwrap(), EVENT);
    }
    assert_eq!(served.counts.opened.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_dropped_body_resets_its_stream_and_no_other() {
    let tls = Tls::new(BOTH);
    let (ended, mut ends) = mpsc::channel(100);
    let served = Served::start(
        |settings| settings.tls = Some(tls.provider()),
        move |_, _| {
            let ended = ended.clone();
            async move {
                let (events, body) = OutBody::channel(1);
                tokio::spawn(async move { while events.send(Bytes::from("event")).await.is_ok() {} });
                Response::new(body.on_end(Box::new(move |_, end| ended.try_send(end).unwrap())))
            }
        },
    );
    let pool = pool(&tls, &served);
    let mut stays = within(pool.send(get("/stays"))).await.unwrap();
    let mut goes = within(pool.send(get("/goes"))).await.unwrap();
    within(goes.body_mut().frame()).await.unwrap().unwrap();
    drop(goes);
    assert_eq!(within(ends.recv()).await, Some(BodyEnd::Dropped));
    within(stays.body_mut().frame()).await.unwrap().unwrap();
    assert_eq!(served.counts.opened.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_cancelled_call_ends_the_service() {
    /// Says when it is dropped.
    struct Running(mpsc::Sender<&'static str>);
    impl Drop for Running {
        fn drop(&mut self) {
            self.0.try_send("dropped").unwrap();
        }
    }
    let tls = Tls::new(BOTH);
    let (says, mut said) = mpsc::channel(100);
    let served = Served::start(
        |settings| settings.tls = Some(tls.provider()),
        move |_, _| {
            let running = Running(says.clone());
            async move {
                running.0.try_send("started").unwrap();
                std::future::pending().await
            }
        },
    );
    let pool = pool(&tls, &served);
    tokio::select! {
        answered = pool.send(get("/")) => panic!("answered: {answered:?}"),
        started = said.recv() => assert_eq!(started, Some("started")),
    }
    assert_eq!(within(said.recv()).await, Some("dropped"));
}

#[tokio::test]
async fn a_draining_server_finishes_its_streams_and_gets_no_new_ones() {
    let tls = Tls::new(BOTH);
    let (started_tx, mut started) = mpsc::channel(100);
    let gate = Arc::new(Semaphore::new(0));
    let service_gate = Arc::clone(&gate);
    let served = Served::start(
        |settings| settings.tls = Some(tls.provider()),
        move |_, _| {
            let (gate, started) = (Arc::clone(&service_gate), started_tx.clone());
            async move {
                started.try_send(()).unwrap();
                gate.acquire().await.unwrap().forget();
                Response::new(OutBody::full("finished"))
            }
        },
    );
    let pool = pool(&tls, &served);
    let call = tokio::spawn({
        let pool = pool.clone();
        async move { text(pool.send(get("/")).await.unwrap()).await }
    });
    within(started.recv()).await.unwrap();
    served.drain.signal();
    // The listener is closed and the old connection says GOAWAY. A call that slips in before that is dropped: the gate
    // would keep it for ever.
    let error = within(async {
        loop {
            if let Ok(Err(error)) = tokio::time::timeout(Duration::from_millis(50), pool.send(get("/late"))).await {
                return error;
            }
        }
    })
    .await;
    assert_eq!((error.kind, error.sent), (SendErrorKind::Connect, false), "{error}");
    gate.add_permits(100);
    assert_eq!(within(call).await.unwrap(), "finished");
    within(served.running).await.unwrap();
}

#[tokio::test]
async fn after_retiring_the_next_call_dials_again() {
    let tls = Tls::new(BOTH);
    let served = Served::start(|settings| settings.tls = Some(tls.provider()), hello);
    let pool = pool(&tls, &served);
    assert_eq!(text(within(pool.send(get("/"))).await.unwrap()).await, "hello");
    pool.retire();
    assert_eq!(text(within(pool.send(get("/"))).await.unwrap()).await, "hello");
    assert_eq!(served.counts.opened.load(Ordering::SeqCst), 2);
    assert_eq!(served.counts.ended(1).await, [Some(crate::serve::ConnEnd::Closed)]);
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_a_tls_error() {
    let (ours, theirs) = (Tls::new(BOTH), Tls::new(BOTH));
    let served = Served::start(|settings| settings.tls = Some(theirs.provider()), hello);
    let error = within(pool(&ours, &served).send(get("/"))).await.unwrap_err();
    assert_eq!((error.kind, error.sent), (SendErrorKind::Tls, false), "{error}");
    served.counts.ended(1).await;
    assert!(served.counts.handshakes.lock().unwrap()[0].is_err());
}

#[tokio::test]
async fn unused_connections_are_closed() {
    let tls = Tls::new(BOTH);
    let served = Served::start(|settings| settings.tls = Some(tls.provider()), hello);
    let settings = PoolSettings { idle_timeout: Duration::from_millis(200), ..PoolSettings::default() };
    let pool = Pool::new(tls.endpoint(served.address), settings);
    assert_eq!(text(within(pool.send(get("/"))).await.unwrap()).await, "hello");
    assert_eq!(served.counts.ended(1).await, [Some(crate::serve::ConnEnd::Closed)]);
}
