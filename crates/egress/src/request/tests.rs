//! What is a request, and what two readers could understand differently.

use super::*;

fn read(text: &str) -> Result<Request<'_>, BadRequest> {
    assert_eq!(end(text.as_bytes()), Some(text.len()), "{text:?}");
    parse(text.as_bytes())
}

fn refused(text: &str) -> BadRequest {
    match parse(&text.as_bytes()[..end(text.as_bytes()).unwrap_or(text.len())]) {
        Err(error) => error,
        Ok(request) => panic!("{text:?} was read as {request:?}"),
    }
}

#[test]
fn connect_and_absolute_targets_are_read() {
    let request = read("CONNECT Allowed.test:443 HTTP/1.1\r\nHost: allowed.test:443\r\n\r\n").unwrap();
    assert_eq!(request.target, Target::Connect(Authority { host: "Allowed.test", port: Some(443) }));
    assert_eq!(request.host, Some(Authority { host: "allowed.test", port: Some(443) }));
    let request = read("GET http://a.test:8080/x?y=1 HTTP/1.1\r\nHost: a.test:8080\r\n\r\n").unwrap();
    let authority = Authority { host: "a.test", port: Some(8080) };
    assert_eq!(request.target, Target::Absolute { authority, path: "/x?y=1" });
    assert!(request.keep_alive);
    let request = read("GET http://a.test?y=1 HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(request.target, Target::Absolute { authority: Authority { host: "a.test", port: None }, path: "?y=1" });
    assert!(!request.keep_alive);
    let request = read("CONNECT [::1]:443 HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(request.target, Target::Connect(Authority { host: "[::1]", port: Some(443) }));
}

#[test]
fn a_head_ends_where_anybody_would_say_so() {
    assert_eq!(end(b"GET / HTTP/1.1\r\nA: b\r\n"), None);
    assert_eq!(end(b"GET / HTTP/1.1\r\n\r\nrest"), Some(18));
    assert_eq!(end(b"GET / HTTP/1.1\n\nrest"), Some(16));
    assert_eq!(refused("GET http://a/ HTTP/1.1\nHost: a\n\n"), BadRequest::Control);
}

#[test]
fn targets_that_mean_two_things_are_refused() {
    for (target, error) in [
        ("http://allowed.test@evil.test/", BadRequest::UserInfo),
        ("http://allowed.test:80@evil.test/", BadRequest::UserInfo),
        ("http://evil.test#@allowed.test/", BadRequest::Target),
        ("https://allowed.test/", BadRequest::Target),
        ("ftp://allowed.test/", BadRequest::Target),
        ("http:///x", BadRequest::Target),
        ("http://a\\b/", BadRequest::Target),
        ("http://a:65616/", BadRequest::Port),
        ("http://a:0/", BadRequest::Port),
        ("http://a:+80/", BadRequest::Port),
        ("http://a:/", BadRequest::Port),
        ("http://a:b:c/", BadRequest::Target),
        ("http://a]b/", BadRequest::Target),
        ("http://[::1]x/", BadRequest::Target),
        ("a.test", BadRequest::Target),
        ("*", BadRequest::Target),
        ("http://\u{430}llowed.test/", BadRequest::Target),
    ] {
        assert_eq!(refused(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")), error, "{target}");
    }
    for authority in ["a.test", "a.test:+443", "a.test:000443", "u@a.test:443", "a.test:443/", "http://a.test:443"] {
        refused(&format!("CONNECT {authority} HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
}

#[test]
fn lines_and_fields_are_strict() {
    let with = |field: &str| refused(&format!("GET http://a/ HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n"));
    assert_eq!(with("X-A: b\r\n X-Inj: 1"), BadRequest::Field);
    assert_eq!(with("X-A : b"), BadRequest::Field);
    assert_eq!(with(": b"), BadRequest::Field);
    assert_eq!(with("no colon"), BadRequest::Field);
    assert_eq!(with("X-A: b\nX-B: c"), BadRequest::Control);
    assert_eq!(with("X-A: b\rX-B: c"), BadRequest::Control);
    assert_eq!(with("X-A: b\0"), BadRequest::Control);
    assert_eq!(with(&["X: y"; 128].join("\r\n")), BadRequest::TooManyFields);
    assert_eq!(with("Host: b"), BadRequest::Host);
    assert_eq!(refused("GET http://a/ HTTP/1.1\r\n\r\n"), BadRequest::Host);
    assert_eq!(refused("GET /x HTTP/1.0\r\n\r\n"), BadRequest::Host);
    assert_eq!(refused("GET http://a/ HTTP/1.1\r\nHost: a b\r\n\r\n"), BadRequest::Host);
    assert_eq!(refused("GET  http://a/ HTTP/1.1\r\n\r\n"), BadRequest::RequestLine);
    assert_eq!(refused("GET\thttp://a/ HTTP/1.1\r\n\r\n"), BadRequest::RequestLine);
    assert_eq!(refused("GET http://a/ HTTP/2.0\r\n\r\n"), BadRequest::Version);
    assert_eq!(refused("\r\nGET http://a/ HTTP/1.1\r\n\r\n"), BadRequest::RequestLine);
    assert_eq!(refused("G(T http://a/ HTTP/1.1\r\n\r\n"), BadRequest::RequestLine);
}

#[test]
fn ambiguous_lengths_are_refused() {
    let with = |fields: &str| refused(&format!("POST http://a/ HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"));
    assert_eq!(with("Content-Length: 5\r\nTransfer-Encoding: chunked"), BadRequest::Length);
    assert_eq!(with("Content-Length: 4\r\nContent-Length: 9"), BadRequest::Length);
    assert_eq!(with("Content-Length: 4\r\nContent-Length: 4"), BadRequest::Length);
    assert_eq!(with("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"), BadRequest::Length);
    for length in ["+4", "-1", "4, 4", "0x4", "", "99999999999999999999"] {
        assert_eq!(with(&format!("Content-Length: {length}")), BadRequest::Length, "{length}");
    }
    for coding in ["identity", "gzip, chunked", "chunked, chunked", "xchunked", "\u{b}chunked"] {
        refused(&format!("POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n"));
    }
    refused("POST http://a/ HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    refused("CONNECT a:443 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n");
    let chunked = read("POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n").unwrap();
    assert_eq!(chunked.framing, Framing::Chunked);
    let sized = read("POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n").unwrap();
    assert_eq!(sized.framing, Framing::Length(12));
}
