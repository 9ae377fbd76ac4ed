//! The head of a reply from an origin: read by a library, since origins may be old, but never with two meanings.

use crate::request::{Field, Framing, decimal, has_word, named};

/// Fields of one head at most.
const MAX_FIELDS: usize = 128;

/// Why a reply is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadReply {
    /// Not HTTP/1.x.
    #[error("the server's reply is not HTTP/1")]
    Malformed,
    /// Lengths that contradict each other.
    #[error("the length of the server's reply is ambiguous")]
    Length,
}

/// The head of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The status.
    pub status: u16,
    /// The words after it.
    pub reason: &'a str,
    /// How the body ends.
    pub framing: Framing,
    /// All fields, in order.
    pub fields: Vec<Field<'a>>,
    /// Bytes of the head.
    pub length: usize,
}

/// Reads the head at the beginning of `bytes`; `None`: more is needed. `to_head`: it answers a HEAD request.
///
/// # Errors
/// [`BadReply`].
pub fn parse(bytes: &[u8], to_head: bool) -> Result<Option<Reply<'_>>, BadReply> {
    let mut room = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut reply = httparse::Response::new(&mut room);
    let httparse::Status::Complete(length) = reply.parse(bytes).map_err(|_| BadReply::Malformed)? else {
        return Ok(None);
    };
    // RFC 9110 section 15: what is below would pass for an interim reply.
    let status = reply.code.filter(|status| *status >= 100).ok_or(BadReply::Malformed)?;
    let fields: Vec<Field<'_>> =
        reply.headers.iter().map(|header| Field { name: header.name, value: header.value.trim_ascii() }).collect();
    if fields.iter().any(|field| field.value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))) {
        return Err(BadReply::Malformed);
    }
    let framing = framing(&fields, status, to_head, reply.version == Some(1))?;
    Ok(Some(Reply { status, reason: reply.reason.unwrap_or_default(), framing, fields, length }))
}

/// RFC 9112 section 6.3, without its leniency for contradictions.
fn framing(fields: &[Field<'_>], status: u16, to_head: bool, newer: bool) -> Result<Framing, BadReply> {
    let mut codings = named(fields, "transfer-encoding");
    let mut lengths = named(fields, "content-length").map(decimal);
    let (coding, length) = (codings.next(), lengths.next());
    if lengths.any(|other| Some(other) != length) || codings.next().is_some() || (coding.is_some() && length.is_some())
    {
        return Err(BadReply::Length);
    }
    if to_head || status < 200 || status == 204 || status == 304 {
        return Ok(Framing::Empty);
    }
    match (coding, length) {
        (Some(coding), _) if newer && coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        // Another coding around or inside: only the end of the connection is certain.
        (Some(coding), _) if !has_word(coding, "chunked") => Ok(Framing::UntilClose),
        (Some(_), _) | (None, Some(None)) => Err(BadReply::Length),
        (None, Some(Some(0))) => Ok(Framing::Empty),
        (None, Some(Some(length))) => Ok(Framing::Length(length)),
        (None, None) => Ok(Framing::UntilClose),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing_of(head: &str, to_head: bool) -> Result<Framing, BadReply> {
        parse(format!("{head}\r\n\r\n").as_bytes(), to_head).map(|reply| reply.unwrap().framing)
    }

    #[test]
    fn the_end_of_a_reply_is_known() {
        for (head, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5", Framing::Length(5)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\ncontent-length: 5", Framing::Length(5)),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", Framing::Chunked),
            ("HTTP/1.1 200 OK", Framing::UntilClose),
            ("HTTP/1.0 200 OK", Framing::UntilClose),
            ("HTTP/1.1 204 No Content", Framing::Empty),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5", Framing::Empty),
            ("HTTP/1.1 100 Continue", Framing::Empty),
        ] {
            assert_eq!(framing_of(head, false), Ok(expected), "{head}");
        }
        assert_eq!(framing_of("HTTP/1.1 200 OK\r\nContent-Length: 5", true), Ok(Framing::Empty));
    }

    #[test]
    fn contradictions_are_refused() {
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
            "HTTP/1.1 200 OK\r\nContent-Length: x",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
            "HTTP/1.1 000 None\r\nContent-Length: 0",
            "SSH-2.0-OpenSSH",
        ] {
            assert!(framing_of(head, false).is_err(), "{head}");
        }
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nA: b", false), Ok(None));
    }
}
