//! The head of a request to the proxy, held against RFC 9112 without any of its allowances for old senders.

use std::str;

/// Fields of one head at most. A browser sends some thirty.
const MAX_FIELDS: usize = 128;

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// CR or LF that is not part of a line end, or another control character.
    #[error("a control character, or a line end that is not CR LF")]
    Control,
    /// The first line is not `method target HTTP/1.x`.
    #[error("the request line is malformed")]
    RequestLine,
    /// A version other than 1.0 and 1.1.
    #[error("only HTTP/1.0 and HTTP/1.1 are spoken here")]
    Version,
    /// A target that is not `host:port` (CONNECT) or `http://host/path`.
    #[error("the target must be host:port for CONNECT, else http://host/path; for https use CONNECT")]
    Target,
    /// A user name or password in the target.
    #[error("the target names a user")]
    UserInfo,
    /// A port that is no number from 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// A field that is no `name: value`, or continues on a second line.
    #[error("a header field is malformed or folded")]
    Field,
    /// More than 128 fields.
    #[error("too many header fields")]
    TooManyFields,
    /// `Host` is missing, repeated or empty.
    #[error("there must be exactly one Host")]
    Host,
    /// Lengths that contradict each other or are not what they seem.
    #[error("the length of the body is ambiguous")]
    Length,
    /// A transfer coding other than `chunked`.
    #[error("only the transfer coding `chunked` is understood, alone and in HTTP/1.1")]
    TransferCoding,
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// After so many bytes, more than none.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection; replies only.
    UntilClose,
}

/// Host and port as they stand in a target or `Host`, the port read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authority<'a> {
    /// As written.
    pub host: &'a str,
    /// Absent where the scheme's own is meant.
    pub port: Option<u16>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// `CONNECT host:port`.
    Connect(Authority<'a>),
    /// `GET http://host/path`.
    Absolute {
        /// Whose.
        authority: Authority<'a>,
        /// Path and query; empty, or begins with `/` or `?`.
        path: &'a str,
    },
    /// `GET /path`, as a server gets it: only on connections that were redirected.
    Origin {
        /// Path and query, beginning with `/`.
        path: &'a str,
    },
}

/// One header field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// As written.
    pub name: &'a str,
    /// Without the spaces around it.
    pub value: &'a [u8],
}

/// A head that means one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a str,
    /// What is asked for.
    pub target: Target<'a>,
    /// `Host`.
    pub host: Option<Authority<'a>>,
    /// How the body ends.
    pub framing: Framing,
    /// Whether the connection goes on afterwards.
    pub keep_alive: bool,
    /// All fields, in order.
    pub fields: Vec<Field<'a>>,
}

/// Where a head ends: the number of bytes up to and with the empty line. `None`: more is needed. Where bare LF would end it
/// for somebody, it ends for us too, to be refused by [`parse`].
pub fn end(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(found) = bytes.get(from..)?.iter().position(|byte| *byte == b'\n') {
        let next = from + found + 1;
        match bytes.get(next..)? {
            [b'\n', ..] => return Some(next + 1),
            [b'\r', b'\n', ..] => return Some(next + 2),
            _ => from = next,
        }
    }
    None
}

/// Reads a whole head, as long as [`end`] says.
///
/// # Errors
/// [`BadRequest`].
pub fn parse(head: &[u8]) -> Result<Request<'_>, BadRequest> {
    let mut lines = lines(head)?;
    let (method, target, newer) = request_line(lines.next().ok_or(BadRequest::RequestLine)?)?;
    let mut fields = Vec::with_capacity(16);
    for line in lines {
        if fields.len() == MAX_FIELDS {
            return Err(BadRequest::TooManyFields);
        }
        fields.push(field(line)?);
    }
    let host = host(&fields, &target, newer)?;
    let framing = framing(&fields, newer)?;
    if matches!(target, Target::Connect(_)) && framing != Framing::Empty {
        return Err(BadRequest::Length);
    }
    Ok(Request { method, target, host, framing, keep_alive: keep_alive(&fields, newer), fields })
}

/// The lines of a head without their ends and without the empty one.
fn lines(head: &[u8]) -> Result<impl Iterator<Item = &[u8]>, BadRequest> {
    let text = head.strip_suffix(b"\r\n\r\n").ok_or(BadRequest::Control)?;
    let mut previous = 0;
    for (at, byte) in text.iter().enumerate() {
        let next = text.get(at + 1).copied();
        let fine = match *byte {
            b'\r' => next == Some(b'\n'),
            b'\n' => previous == b'\r',
            b'\t' => true,
            other => other >= b' ' && other != 0x7f,
        };
        if !fine {
            return Err(BadRequest::Control);
        }
        previous = *byte;
    }
    Ok(text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)))
}

fn request_line(line: &[u8]) -> Result<(&str, Target<'_>, bool), BadRequest> {
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(BadRequest::RequestLine);
    };
    if method.is_empty() || method.len() > 20 || !method.iter().all(|byte| is_token(*byte)) {
        return Err(BadRequest::RequestLine);
    }
    let newer = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ => return Err(BadRequest::Version),
    };
    if !target.iter().all(u8::is_ascii_graphic) {
        return Err(BadRequest::Target);
    }
    let text = |bytes| str::from_utf8(bytes).map_err(|_| BadRequest::RequestLine);
    let (method, target) = (text(method)?, text(target)?);
    let target = if method == "CONNECT" { Target::Connect(connect_authority(target)?) } else { other_target(target)? };
    Ok((method, target, newer))
}

fn connect_authority(target: &str) -> Result<Authority<'_>, BadRequest> {
    let authority = authority(target)?;
    if authority.port.is_none() { Err(BadRequest::Port) } else { Ok(authority) }
}

fn other_target(target: &str) -> Result<Target<'_>, BadRequest> {
    if target.contains('#') {
        return Err(BadRequest::Target);
    }
    if target.starts_with('/') {
        return Ok(Target::Origin { path: target });
    }
    let (scheme, rest) = target.split_once("://").ok_or(BadRequest::Target)?;
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(BadRequest::Target);
    }
    let (whose, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    Ok(Target::Absolute { authority: authority(whose)?, path })
}

/// Splits an authority. What the host means is for its reader to say; here only its ends are found.
///
/// # Errors
/// [`BadRequest`].
pub fn authority(text: &str) -> Result<Authority<'_>, BadRequest> {
    if text.contains('@') {
        return Err(BadRequest::UserInfo);
    }
    if text.contains(['/', '?', '#', '\\']) {
        return Err(BadRequest::Target);
    }
    let (host, port) = match text.rfind(']') {
        Some(end) if text.starts_with('[') => {
            let (host, rest) = text.split_at(end + 1);
            match rest {
                "" => (host, None),
                rest => (host, Some(rest.strip_prefix(':').ok_or(BadRequest::Target)?)),
            }
        }
        Some(_) => return Err(BadRequest::Target),
        None => match text.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err(BadRequest::Target),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err(BadRequest::Target);
    }
    let port = match port {
        Some(port) if !port.is_empty() && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(port.parse().ok().filter(|port| *port != 0).ok_or(BadRequest::Port)?)
        }
        Some(_) => return Err(BadRequest::Port),
        None => None,
    };
    Ok(Authority { host, port })
}

fn field(line: &[u8]) -> Result<Field<'_>, BadRequest> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(BadRequest::Field)?;
    let (name, rest) = line.split_at(colon);
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(BadRequest::Field);
    }
    let value = rest.get(1..).unwrap_or_default().trim_ascii();
    Ok(Field { name: str::from_utf8(name).map_err(|_| BadRequest::Field)?, value })
}

fn host<'a>(fields: &[Field<'a>], target: &Target<'_>, newer: bool) -> Result<Option<Authority<'a>>, BadRequest> {
    let mut found = named(fields, "host");
    let (first, second) = (found.next(), found.next());
    if second.is_some() {
        return Err(BadRequest::Host);
    }
    let Some(value) = first else {
        // Python's CONNECT has none, and nothing of a CONNECT is passed on.
        let needed = newer && !matches!(target, Target::Connect(_)) || matches!(target, Target::Origin { .. });
        return if needed { Err(BadRequest::Host) } else { Ok(None) };
    };
    let value = str::from_utf8(value).map_err(|_| BadRequest::Host)?;
    if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(BadRequest::Host);
    }
    authority(value).map(Some).map_err(|_| BadRequest::Host)
}

fn framing(fields: &[Field<'_>], newer: bool) -> Result<Framing, BadRequest> {
    let mut codings = named(fields, "transfer-encoding");
    let mut lengths = named(fields, "content-length");
    let (coding, length) = (codings.next(), lengths.next());
    if codings.next().is_some() || lengths.next().is_some() || (coding.is_some() && length.is_some()) {
        return Err(BadRequest::Length);
    }
    match (coding, length) {
        (Some(coding), _) if newer && coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (Some(_), _) => Err(BadRequest::TransferCoding),
        (None, None) => Ok(Framing::Empty),
        (None, Some(length)) => match decimal(length).ok_or(BadRequest::Length)? {
            0 => Ok(Framing::Empty),
            length => Ok(Framing::Length(length)),
        },
    }
}

fn keep_alive(fields: &[Field<'_>], newer: bool) -> bool {
    let says = |word: &str| {
        named(fields, "connection").chain(named(fields, "proxy-connection")).any(|value| has_word(value, word))
    };
    if newer { !says("close") } else { says("keep-alive") && !says("close") }
}

/// The values of the fields of a name.
pub fn named<'f, 'a>(fields: &'f [Field<'a>], name: &'f str) -> impl Iterator<Item = &'a [u8]> + use<'f, 'a> {
    fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
}

/// Whether a list of words, separated by commas, has this one.
pub fn has_word(list: &[u8], word: &str) -> bool {
    list.split(|byte| *byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

/// Digits only, and few enough for 64 bits.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

/// RFC 9110 section 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
