//! What a failed dial says, and that a timeout covers a silent TLS peer.

use std::time::Duration;

use super::{DialError, Endpoint, Target, dial, speaks_h2};
use crate::testing::{Tls, listen, within};

#[test]
fn targets_print_as_people_write_them() {
    let tcp = |host: &str| Target::Tcp { host: host.to_owned(), port: 9001 };
    assert_eq!(tcp("localhost").to_string(), "localhost:9001");
    assert_eq!(tcp("::1").to_string(), "[::1]:9001");
    assert_eq!(Target::Unix("/run/s.sock".into()).to_string(), "unix:/run/s.sock");
}

#[tokio::test]
async fn a_name_is_looked_up() {
    let (_listener, address) = listen().await;
    let stream = within(dial(&Endpoint::tcp("localhost", address.port()), Duration::from_secs(10))).await.unwrap();
    assert!(!speaks_h2(&stream));
}

#[tokio::test]
async fn a_name_without_an_address_is_named() {
    let error = within(dial(&Endpoint::tcp("no-such-name.invalid", 1), Duration::from_secs(15))).await.unwrap_err();
    // A resolver that is not there at all may take its time instead.
    assert!(matches!(error, DialError::Resolve { .. } | DialError::Timeout { .. }), "{error}");
    assert!(error.to_string().contains("no-such-name.invalid"), "{error}");
}

#[tokio::test]
async fn a_peer_that_is_silent_in_the_handshake_times_out() {
    let (_listener, address) = listen().await;
    let endpoint = Tls::new(&[b"h2"]).endpoint(address);
    let error = within(dial(&endpoint, Duration::from_millis(100))).await.unwrap_err();
    assert!(matches!(error, DialError::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn a_peer_without_tls_is_a_tls_error() {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        crate::testing::write(&mut socket, "HTTP/1.1 400 Bad Request\r\n\r\n").await;
        crate::testing::closed(&mut socket).await;
    });
    let error = within(dial(&Tls::new(&[b"h2"]).endpoint(address), Duration::from_secs(10))).await.unwrap_err();
    assert!(matches!(error, DialError::Tls { .. }), "{error}");
}
