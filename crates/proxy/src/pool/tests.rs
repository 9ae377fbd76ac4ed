//! A pool against scripted HTTP/1.1 upstreams on real sockets.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use super::{Fresh, H1Lease, Pool, PoolSettings, SendErrorKind, Sent};
use crate::body::OutBody;
use crate::dial::Endpoint;
use crate::testing::{answer, closed, get, listen, pool_to, post, read_request, text, within, write};

mod h2;

#[tokio::test]
async fn one_connection_serves_one_request_after_the_other() {
    let (listener, address) = listen().await;
    let upstream = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        for n in 0..3 {
            let request = read_request(&mut socket).await;
            assert!(request.starts_with(&format!("POST /{n} HTTP/1.1\r\n")), "{request}");
            assert!(request.contains(&format!("host: {address}\r\n")), "{request}");
            write(&mut socket, &answer(&format!("r{n}"))).await;
        }
        tokio::time::timeout(Duration::from_millis(50), listener.accept()).await.is_err()
    });
    let pool = pool_to(address);
    for n in 0..3 {
        let response = within(pool.send(post(&format!("/{n}"), Bytes::from("{}")))).await.unwrap();
        assert_eq!(text(response).await, format!("r{n}"));
    }
    assert!(within(upstream).await.unwrap(), "no second connection");
}

#[tokio::test]
async fn chunked_and_empty_responses_give_the_connection_back_too() {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        read_request(&mut socket).await;
        write(&mut socket, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n").await;
        read_request(&mut socket).await;
        write(&mut socket, "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await;
        read_request(&mut socket).await;
        write(&mut socket, &answer("third")).await;
    });
    let pool = pool_to(address);
    assert_eq!(text(within(pool.send(get("/"))).await.unwrap()).await, "ab");
    // Its body is never read: there is none.
    drop(within(pool.send(get("/"))).await.unwrap());
    assert_eq!(text(within(pool.send(get("/"))).await.unwrap()).await, "third");
}

#[tokio::test]
async fn an_idle_connection_closed_by_the_server_is_replaced() {
    let (listener, address) = listen().await;
    let (closed_tx, closed_rx) = oneshot::channel();
    let upstream = tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        read_request(&mut first).await;
        write(&mut first, &answer("first")).await;
        first.shutdown().await.unwrap();
        closed_tx.send(()).unwrap();
        assert_eq!(read_request(&mut first).await, "", "nothing may be sent on the closed connection");
        let (mut second, _) = listener.accept().await.unwrap();
        let request = read_request(&mut second).await;
        write(&mut second, &answer("second")).await;
        request
    });
    let pool = pool_to(address);
    assert_eq!(text(within(pool.send(get("/1"))).await.unwrap()).await, "first");
    within(closed_rx).await.unwrap();
    let response = within(pool.send(post("/2", Bytes::from("once")))).await.unwrap();
    assert_eq!(text(response).await, "second");
    assert!(within(upstream).await.unwrap().ends_with("once"), "the body travelled with the retry");
}

#[tokio::test]
async fn a_request_that_meets_a_closing_connection_comes_back_whole() {
    let (listener, address) = listen().await;
    let (closed_tx, closed_rx) = oneshot::channel();
    tokio::spawn(async move {
        let (first, _) = listener.accept().await.unwrap();
        drop(first);
        closed_tx.send(()).unwrap();
        let (mut second, _) = listener.accept().await.unwrap();
        assert!(read_request(&mut second).await.ends_with("once"));
        write(&mut second, &answer("second")).await;
    });
    let pool = pool_to(address);
    let Fresh::H1 { connection, generation } = within(pool.connect()).await.unwrap() else { panic!("not HTTP/1.1") };
    within(closed_rx).await.unwrap();
    // Straight to the connection, past the look at the socket that usually finds out.
    let lease = H1Lease { connection, generation, slot: pool.slot().await.unwrap() };
    let sent = within(pool.send_h1(lease, post("/", Bytes::from("once")))).await.unwrap();
    let Sent::Returned(unsent) = sent else { panic!("answered by a closed connection") };
    let response = within(pool.send_fresh(pool.slot().await.unwrap(), unsent.request)).await.unwrap();
    assert_eq!(text(response).await, "second");
}

#[tokio::test]
async fn a_request_that_may_have_run_is_not_sent_again() {
    let (listener, address) = listen().await;
    let upstream = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        read_request(&mut socket).await;
        write(&mut socket, &answer("first")).await;
        read_request(&mut socket).await;
        drop(socket);
        tokio::time::timeout(Duration::from_millis(100), listener.accept()).await.is_err()
    });
    let pool = pool_to(address);
    assert_eq!(text(within(pool.send(get("/1"))).await.unwrap()).await, "first");
    let error = within(pool.send(post("/2", Bytes::from("{}")))).await.unwrap_err();
    assert_eq!((error.kind, error.sent), (SendErrorKind::Closed, true), "{error}");
    assert!(within(upstream).await.unwrap(), "no second attempt");
}

#[tokio::test]
async fn a_server_that_dies_in_its_answer_breaks_the_body() {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        read_request(&mut socket).await;
        write(&mut socket, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
        drop(socket);
        let (mut socket, _) = listener.accept().await.unwrap();
        read_request(&mut socket).await;
        write(&mut socket, &answer("fresh")).await;
    });
    let pool = pool_to(address);
    let mut body = within(pool.send(get("/"))).await.unwrap().into_body();
    assert_eq!(within(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "half");
    assert!(within(body.frame()).await.unwrap().is_err());
    assert_eq!(text(within(pool.send(get("/"))).await.unwrap()).await, "fresh");
}

#[tokio::test]
async fn pieces_arrive_as_they_are_sent_in_both_directions() {
    let (listener, address) = listen().await;
    let (go, mut gone) = mpsc::channel::<()>(1);
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        // The head must come before the body has ended.
        while !read_some(&mut socket).await.contains("upload") {}
        write(&mut socket, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        for event in ["5\r\none\r\n\r\n", "5\r\ntwo\r\n\r\n", "0\r\n\r\n"] {
            gone.recv().await.unwrap();
            write(&mut socket, event).await;
        }
    });
    let (upload, body) = OutBody::channel(1);
    upload.send(Bytes::from("upload")).await.unwrap();
    let pool = pool_to(address);
    let mut body = within(pool.send(post("/", body))).await.unwrap().into_body();
    upload.finish().await.unwrap();
    for event in ["one\r\n", "two\r\n"] {
        go.send(()).await.unwrap();
        assert_eq!(within(body.frame()).await.unwrap().unwrap().into_data().unwrap(), event);
    }
    go.send(()).await.unwrap();
    assert!(within(body.frame()).await.is_none());
}

/// The sizes of the pieces in which a body comes to a reader who takes them at once, and what they are together.
async fn pieces(body: &mut crate::pool::PooledBody) -> (Vec<usize>, Vec<u8>, bool) {
    let (mut sizes, mut all) = (Vec::new(), Vec::new());
    loop {
        match within(body.frame()).await {
            Some(Ok(frame)) => {
                let data = frame.into_data().unwrap();
                sizes.push(data.len());
                all.extend_from_slice(&data);
            }
            Some(Err(_)) => return (sizes, all, false),
            None => return (sizes, all, true),
        }
    }
}

fn chunks(of: &[String]) -> String {
    of.iter().map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len())).collect()
}

#[tokio::test]
async fn small_pieces_that_are_there_already_are_joined() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let events: Vec<String> = (0..1000).map(|n| format!("data: event {n}\n\n")).collect();
    let large = "x".repeat(5000);
    for (last, whole) in [("0\r\n\r\n", true), ("", false)] {
        let (listener, address) = listen().await;
        let flood = format!("{HEAD}{}{}{last}", chunks(&events), chunks(std::slice::from_ref(&large)));
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            read_request(&mut socket).await;
            write(&mut socket, &flood).await;
        });
        let pool = pool_to(address);
        let response = within(pool.send(get("/"))).await.unwrap();
        // Everything that fits into the reader's buffers is there.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut body = response.into_body();
        let (sizes, all, ended) = pieces(&mut body).await;
        assert_eq!(all, format!("{}{large}", events.concat()).into_bytes(), "in order, and nothing lost");
        assert_eq!(ended, whole, "a stream that breaks off is not taken for whole");
        assert!(sizes.len() < 20, "{sizes:?}");
    }
}

async fn read_some(socket: &mut tokio::net::TcpStream) -> String {
    let mut buffer = [0; 4096];
    let count = within(tokio::io::AsyncReadExt::read(socket, &mut buffer)).await.unwrap();
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

#[tokio::test]
async fn dropping_the_call_or_its_body_closes_the_connection() {
    let (listener, address) = listen().await;
    let (read_tx, read_rx) = oneshot::channel();
    let upstream = tokio::spawn(async move {
        let (mut waiting, _) = listener.accept().await.unwrap();
        read_request(&mut waiting).await;
        read_tx.send(()).unwrap();
        closed(&mut waiting).await;
        let (mut streaming, _) = listener.accept().await.unwrap();
        read_request(&mut streaming).await;
        write(&mut streaming, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n").await;
        closed(&mut streaming).await;
    });
    let pool = pool_to(address);
    tokio::select! {
        answered = pool.send(get("/")) => panic!("answered: {answered:?}"),
        read = read_rx => read.unwrap(),
    }
    let mut response = within(pool.send(get("/"))).await.unwrap();
    within(response.body_mut().frame()).await.unwrap().unwrap();
    drop(response);
    within(upstream).await.unwrap();
}

#[tokio::test]
async fn bytes_on_an_idle_connection_disqualify_it() {
    let (listener, address) = listen().await;
    let (sent_tx, sent_rx) = oneshot::channel();
    tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        read_request(&mut first).await;
        write(&mut first, &answer("first")).await;
        write(&mut first, &answer("nobody asked")).await;
        sent_tx.send(()).unwrap();
        let (mut second, _) = listener.accept().await.unwrap();
        read_request(&mut second).await;
        write(&mut second, &answer("second")).await;
        closed(&mut first).await;
    });
    let pool = pool_to(address);
    assert_eq!(text(within(pool.send(get("/"))).await.unwrap()).await, "first");
    within(sent_rx).await.unwrap();
    assert_eq!(text(within(pool.send(get("/"))).await.unwrap()).await, "second");
}

#[tokio::test]
async fn idle_connections_are_closed_by_age_and_by_retiring() {
    let (listener, address) = listen().await;
    let upstream = tokio::spawn(async move {
        for name in ["old", "retired"] {
            let (mut socket, _) = listener.accept().await.unwrap();
            read_request(&mut socket).await;
            write(&mut socket, &answer(name)).await;
            closed(&mut socket).await;
        }
    });
    let settings = PoolSettings { idle_timeout: Duration::from_millis(200), ..PoolSettings::default() };
    let pool = Pool::new(Endpoint::tcp("127.0.0.1", address.port()), settings);
    assert_eq!(text(within(pool.send(get("/"))).await.unwrap()).await, "old");
    // Nothing is sent: the sweeper alone must close it, or the upstream never gets to the next connection.
    assert_eq!(text(loop_until_second(&pool).await).await, "retired");
    pool.retire();
    within(upstream).await.unwrap();
}

/// The upstream accepts again only when the first connection is closed, so this waits for exactly that.
async fn loop_until_second(pool: &Pool) -> http::Response<super::PooledBody> {
    let shared = &pool.shared;
    within(async {
        while !super::lock(&shared.idle).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    within(pool.send(get("/"))).await.unwrap()
}

#[tokio::test]
async fn a_busy_connection_is_not_kept_after_retiring() {
    let (listener, address) = listen().await;
    let (go, wait) = oneshot::channel::<()>();
    let upstream = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        read_request(&mut socket).await;
        write(&mut socket, "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await;
        wait.await.unwrap();
        write(&mut socket, "done").await;
        closed(&mut socket).await;
    });
    let pool = pool_to(address);
    let response = within(pool.send(get("/"))).await.unwrap();
    pool.retire();
    go.send(()).unwrap();
    assert_eq!(text(response).await, "done");
    within(upstream).await.unwrap();
}

#[tokio::test]
async fn a_full_pool_makes_requests_wait_and_then_refuses() {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        for _ in 0..2 {
            read_request(&mut socket).await;
            write(&mut socket, &answer("x")).await;
        }
        std::future::pending::<()>().await;
    });
    let settings = PoolSettings { max_open: 1, wait_timeout: Duration::from_millis(50), ..PoolSettings::default() };
    let pool = Pool::new(Endpoint::tcp("127.0.0.1", address.port()), settings);
    let first = within(pool.send(get("/"))).await.unwrap();
    let error = within(pool.send(get("/"))).await.unwrap_err();
    assert_eq!((error.kind, error.sent), (SendErrorKind::Exhausted, false), "{error}");
    assert_eq!(text(first).await, "x");
    assert_eq!(text(within(pool.send(get("/"))).await.unwrap()).await, "x");
}

#[tokio::test]
async fn nobody_listening_is_a_connect_error() {
    let (listener, address) = listen().await;
    drop(listener);
    let error = within(pool_to(address).send(get("/"))).await.unwrap_err();
    assert_eq!((error.kind, error.sent), (SendErrorKind::Connect, false), "{error}");
}

#[tokio::test]
async fn noise_instead_of_http_is_a_protocol_error() {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        read_request(&mut socket).await;
        write(&mut socket, "a banner, not an answer\r\n\r\n").await;
        closed(&mut socket).await;
    });
    let error = within(pool_to(address).send(get("/"))).await.unwrap_err();
    assert_eq!((error.kind, error.sent), (SendErrorKind::Protocol, true), "{error}");
}

#[tokio::test]
async fn a_unix_socket_is_an_upstream_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("server.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let upstream = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 4096];
        let count = tokio::io::AsyncReadExt::read(&mut socket, &mut head).await.unwrap();
        socket.write_all(answer("unix").as_bytes()).await.unwrap();
        String::from_utf8_lossy(&head[..count]).into_owned()
    });
    let pool = Pool::new(Endpoint::unix(&path), PoolSettings::default());
    // An absolute URI becomes origin-form, and its authority the Host.
    let response = within(pool.send(get("http://fs.mesh/mcp?a=b"))).await.unwrap();
    assert_eq!(text(response).await, "unix");
    let request = within(upstream).await.unwrap();
    assert!(request.starts_with("GET /mcp?a=b HTTP/1.1\r\nhost: fs.mesh\r\n"), "{request}");
}
