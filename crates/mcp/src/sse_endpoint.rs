//! The `endpoint` event of HTTP+SSE (2024-11-05 basic/transports): where messages are posted to.
//!
//! Its value is a URI reference, and comes from a peer: whatever is not plainly a path at the origin of the event stream
//! is refused, so that a server cannot make its client post elsewhere.

use thiserror::Error;

/// Longest value that is read; session ids in it are some dozens of bytes.
pub const MAX_BYTES: usize = 4096;

/// Why an endpoint cannot be used. The texts are for the operator of the server.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EndpointError {
    /// No value.
    #[error("its `endpoint` event is empty")]
    Empty,
    /// Too long.
    #[error("its `endpoint` event has {0} bytes, more than {MAX_BYTES}")]
    TooLong(usize),
    /// Bytes that a request line cannot have, or a backslash, which some take for a slash.
    #[error("its `endpoint` event has characters that a URI cannot have")]
    Characters,
    /// A user name or password.
    #[error("its `endpoint` event has a user name or password")]
    Credentials,
    /// Another origin than that of the stream.
    #[error(
        "its `endpoint` event leads to another origin, {found}, than the stream's, {own}; name the server in the \
         configuration as it names itself, or let it send a path only"
    )]
    OtherOrigin {
        /// What it names.
        found: String,
        /// What it must be.
        own: String,
    },
}

/// An origin (RFC 6454): scheme, host and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// A name, or an IP address without brackets.
    pub host: &'a str,
    /// The port.
    pub port: u16,
}

impl std::fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let brackets = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{}://{}{}{}:{}", self.scheme, brackets.0, self.host, brackets.1, self.port)
    }
}

/// Path and query to post to: `value` resolved against the stream's path (RFC 3986 section 5.2), always with a leading
/// `/` and without a fragment.
///
/// # Errors
/// [`EndpointError`].
pub fn resolve(own: Origin<'_>, stream_path: &str, value: &[u8]) -> Result<String, EndpointError> {
    if value.len() > MAX_BYTES {
        return Err(EndpointError::TooLong(value.len()));
    }
    let text = std::str::from_utf8(value).map_err(|_| EndpointError::Characters)?.trim_ascii();
    if text.is_empty() {
        return Err(EndpointError::Empty);
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\\"<>^`{|}".contains(&byte)) {
        return Err(EndpointError::Characters);
    }
    let text = text.split('#').next().unwrap_or_default();
    let (reference, scheme) = match scheme_of(text) {
        Some((scheme, rest)) => (rest, scheme),
        None => (text, own.scheme),
    };
    let local = match reference.strip_prefix("//") {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            same_origin(own, scheme, authority)?;
            path
        }
        // `http:x` without an authority is legal and means nothing here.
        None if scheme_of(text).is_some() => return Err(other(own, &format!("{scheme}:"))),
        None => reference,
    };
    Ok(merge(stream_path, local, reference.starts_with("//")))
}

/// Splits `scheme:` off, if there is one (RFC 3986 section 3.1).
fn scheme_of(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let begins = scheme.bytes().next().is_some_and(|first| first.is_ascii_alphabetic());
    (begins && scheme.bytes().all(good)).then_some((scheme, rest))
}

fn same_origin(own: Origin<'_>, scheme: &str, authority: &str) -> Result<(), EndpointError> {
    if authority.contains('@') {
        return Err(EndpointError::Credentials);
    }
    let found = || other(own, &format!("{scheme}://{authority}"));
    let default = match scheme.to_ascii_lowercase().as_str() {
        "http" => 80,
        "https" => 443,
        _ => return Err(found()),
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (authority, ""),
    };
    let port = if port.is_empty() { Ok(default) } else { port.parse::<u16>() };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let same = scheme.eq_ignore_ascii_case(own.scheme) && host.eq_ignore_ascii_case(own.host) && port == Ok(own.port);
    if same { Ok(()) } else { Err(found()) }
}

fn other(own: Origin<'_>, found: &str) -> EndpointError {
    EndpointError::OtherOrigin { found: found.to_owned(), own: own.to_string() }
}

fn merge(stream_path: &str, reference: &str, absolute: bool) -> String {
    let base = stream_path.split('?').next().unwrap_or_default();
    let (path, query) = match reference.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (reference, None),
    };
    let mut merged = match path {
        "" if absolute => "/".to_owned(),
        "" => base.to_owned(),
        path if path.starts_with('/') => without_dots(path),
        path => without_dots(&format!("{}{path}", base.get(..=base.rfind('/').unwrap_or(0)).unwrap_or("/"))),
    };
    if let Some(query) = query {
        merged.push('?');
        merged.push_str(query);
    }
    merged
}

/// Removes `.` and `..` (RFC 3986 section 5.2.4).
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let last = path.rsplit('/').next().unwrap_or_default();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let slash = if matches!(last, "." | "..") && !kept.is_empty() { "/" } else { "" };
    format!("/{}{slash}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWN: Origin<'_> = Origin { scheme: "http", host: "127.0.0.1", port: 9001 };

    fn at(value: &str) -> Result<String, EndpointError> {
        resolve(OWN, "/a/sse?x=1", value.as_bytes())
    }

    #[test]
    fn paths_at_the_same_origin_are_taken() {
        for (value, path) in [
            ("/messages?sessionId=1", "/messages?sessionId=1"),
            ("messages/?session_id=1", "/a/messages/?session_id=1"),
            ("./m", "/a/m"),
            ("../m", "/m"),
            ("../../../m/..", "/"),
            ("/x/./y/../z", "/x/z"),
            ("?session=1", "/a/sse?session=1"),
            ("http://127.0.0.1:9001/m?x=http://other/", "/m?x=http://other/"),
            ("HTTP://127.0.0.1:9001", "/"),
            ("//127.0.0.1:9001/m#part", "/m"),
            (" /m ", "/m"),
        ] {
            assert_eq!(at(value).as_deref(), Ok(path), "{value}");
        }
        let six = Origin { scheme: "http", host: "::1", port: 80 };
        assert_eq!(resolve(six, "/sse", b"http://[::1]/m").as_deref(), Ok("/m"));
    }

    #[test]
    fn everything_else_is_refused() {
        for value in [
            "http://evil.example/m",
            "http://127.0.0.1:9002/m",
            "http://127.0.0.1/m",
            "https://127.0.0.1:9001/m",
            "//evil.example/m",
            "http://127.0.0.1:9001.evil.example/m",
            "http://localhost:9001/m",
            "http:/m",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "http://127.0.0.1:99999/m",
        ] {
            assert!(matches!(at(value), Err(EndpointError::OtherOrigin { .. })), "{value}: {:?}", at(value));
        }
        assert_eq!(at("http://u@127.0.0.1:9001/m"), Err(EndpointError::Credentials));
        assert_eq!(at(" "), Err(EndpointError::Empty));
        assert_eq!(at(&"/".repeat(MAX_BYTES + 1)), Err(EndpointError::TooLong(MAX_BYTES + 1)));
        for value in ["/\\evil.example", "/m x", "/m\r\nHost: y", "/m\u{e4}", "/m\u{7f}"] {
            assert_eq!(at(value), Err(EndpointError::Characters), "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_a_path_for_a_request_line(value in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(path) = resolve(OWN, "/sse", &value) {
                prop_assert!(path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#'));
            }
        }

        #[test]
        fn references_stay_paths(value in "[a-z:/?.@#\\[\\]]{0,20}") {
            if let Ok(path) = resolve(OWN, "/sse", value.as_bytes()) {
                prop_assert!(path.starts_with('/'));
            }
        }
    }
}
