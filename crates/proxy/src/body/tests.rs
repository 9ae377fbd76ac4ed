//! Bodies that end, break and are dropped; bounded reading.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};

use super::{BodyEnd, BodyError, OutBody, ReadError, read_bounded};

type Heard = Arc<Mutex<Vec<(u64, BodyEnd)>>>;

/// A body that tells the returned list how it ended.
fn heard(body: OutBody) -> (OutBody, Heard) {
    let heard = Heard::default();
    let hook = Arc::clone(&heard);
    let body = body.on_end(Box::new(move |bytes, end| hook.lock().unwrap().push((bytes, end))));
    (body, heard)
}

fn told(heard: &Heard) -> Vec<(u64, BodyEnd)> {
    heard.lock().unwrap().clone()
}

#[tokio::test]
async fn a_whole_body_ends_once_with_its_last_piece() {
    let (mut body, heard) = heard(OutBody::full("hello"));
    assert_eq!(body.size_hint().exact(), Some(5));
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "hello");
    // hyper stops polling here, so the hook must not wait for the `None`.
    assert!(body.is_end_stream());
    assert_eq!(told(&heard), [(5, BodyEnd::Completed)]);
    drop(body);
    assert_eq!(told(&heard).len(), 1);
}

#[tokio::test]
async fn a_large_body_is_handed_over_piece_by_piece() {
    let (mut body, heard) = heard(OutBody::full(vec![b'x'; 200_000]));
    assert_eq!(body.size_hint().exact(), Some(200_000));
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap().len();
    assert!(first < 100_000, "{first}");
    assert_eq!((body.size_hint().exact(), told(&heard)), (Some(200_000 - first as u64), vec![]));
    drop(body);
    assert_eq!(told(&heard), [(first as u64, BodyEnd::Dropped)]);
    let whole = OutBody::full(vec![b'x'; 200_000]).collect().await.unwrap().to_bytes();
    assert_eq!(whole.len(), 200_000);
}

#[test]
fn an_empty_body_completes_by_being_dropped() {
    let (body, heard) = heard(OutBody::full(""));
    assert!(body.is_end_stream());
    drop(body);
    assert_eq!(told(&heard), [(0, BodyEnd::Completed)]);
}

#[tokio::test]
async fn a_body_dropped_half_way_says_so() {
    let big = Bytes::from(vec![b'x'; 4096]);
    let (mut body, heard) = heard(OutBody::chunks(vec![big.clone(), big]));
    assert_eq!(body.size_hint().exact(), Some(8192));
    body.frame().await.unwrap().unwrap();
    assert_eq!(body.size_hint().exact(), Some(4096));
    drop(body);
    assert_eq!(told(&heard), [(4096, BodyEnd::Dropped)]);
}

#[tokio::test]
async fn small_chunks_are_joined_and_large_ones_not_copied() {
    let mut small = OutBody::chunks(vec![Bytes::from("ab"), Bytes::new(), Bytes::from("cd")]);
    assert_eq!(small.frame().await.unwrap().unwrap().into_data().unwrap(), "abcd");

    let big = Bytes::from(vec![b'x'; 5000]);
    let mut chunks = OutBody::chunks(vec![Bytes::new(), big.clone(), Bytes::from("end")]);
    let first = chunks.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first.as_ptr(), big.as_ptr());
    assert_eq!(chunks.frame().await.unwrap().unwrap().into_data().unwrap(), "end");
    assert!(chunks.is_end_stream());
}

#[tokio::test]
async fn a_finished_stream_completes() {
    let (sender, body) = OutBody::channel(2);
    let (body, heard) = heard(body);
    sender.send(Bytes::from("one")).await.unwrap();
    // An empty piece would end an HTTP/1.1 chunked body.
    sender.send(Bytes::new()).await.unwrap();
    sender.finish().await.unwrap();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "one");
    assert_eq!(told(&heard), [(3, BodyEnd::Completed)]);
}

#[tokio::test]
async fn an_abandoned_stream_is_an_error_not_an_end() {
    let (sender, body) = OutBody::channel(2);
    let (mut body, heard) = heard(body);
    sender.send(Bytes::from("one")).await.unwrap();
    drop(sender);
    body.frame().await.unwrap().unwrap();
    assert!(matches!(body.frame().await, Some(Err(BodyError::Abandoned))));
    assert!(body.frame().await.is_none());
    assert_eq!(told(&heard), [(3, BodyEnd::Failed)]);
}

#[tokio::test(start_paused = true)]
async fn a_full_stream_holds_its_producer_and_a_dropped_one_tells_it() {
    let (sender, body) = OutBody::channel(1);
    sender.send(Bytes::from("one")).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_secs(1), sender.send(Bytes::from("two"))).await;
    assert!(waiting.is_err(), "the channel holds one piece");
    drop(body);
    sender.gone().await;
    assert!(sender.send(Bytes::from("three")).await.is_err());
}

#[tokio::test]
async fn one_frame_is_read_without_a_copy() {
    let bytes = Bytes::from(vec![b'x'; 1000]);
    let read = read_bounded(Full::new(bytes.clone()), 1000, Duration::from_secs(1)).await.unwrap();
    assert_eq!(read.as_ptr(), bytes.as_ptr());
    let (sender, body) = OutBody::channel(2);
    sender.send(bytes.clone()).await.unwrap();
    sender.finish().await.unwrap();
    let read = read_bounded(body, 1000, Duration::from_secs(1)).await.unwrap();
    assert_eq!(read.as_ptr(), bytes.as_ptr());
}

#[tokio::test]
async fn several_frames_are_joined() {
    let part = Bytes::from(vec![b'x'; 3000]);
    let read = read_bounded(OutBody::chunks(vec![part; 3]), 9000, Duration::from_secs(1)).await.unwrap();
    assert_eq!(read.len(), 9000);
}

#[tokio::test]
async fn a_declared_length_over_the_limit_is_refused_unread() {
    let (body, heard) = heard(OutBody::full(vec![b'x'; 11]));
    let error = read_bounded(body, 10, Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(error, ReadError::TooLarge { limit: 10 }), "{error}");
    assert_eq!(told(&heard), [(0, BodyEnd::Dropped)]);
}

#[tokio::test]
async fn an_undeclared_length_is_counted() {
    let (sender, body) = OutBody::channel(4);
    sender.send(Bytes::from("123456")).await.unwrap();
    sender.send(Bytes::from("789012")).await.unwrap();
    let error = read_bounded(body, 10, Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(error, ReadError::TooLarge { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_runs_out_of_time() {
    let (_sender, body) = OutBody::channel(1);
    let error = read_bounded(body, 10, Duration::from_secs(7)).await.unwrap_err();
    assert!(matches!(error, ReadError::Timeout { .. }), "{error}");
    assert_eq!(error.to_string(), "the body did not arrive within 7000 ms");
}

#[tokio::test]
async fn a_broken_body_is_not_a_short_one() {
    let broken = Limited::new(Full::new(Bytes::from("too long for it")), 3);
    let error = read_bounded(broken, 100, Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(error, ReadError::Broken(_)), "{error}");
}
