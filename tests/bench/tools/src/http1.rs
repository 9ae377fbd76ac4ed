//! The least HTTP/1.1 client that can read keep-alive responses: a cheap load generator leaves the core to the proxy.

use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncRead, AsyncReadExt};

/// A response: what a benchmark looks at.
#[derive(Debug)]
pub struct Response {
    /// The status code; 0 when the status line is unreadable.
    pub status: u16,
    /// The peer closes the connection after this response.
    pub close: bool,
    /// The body, with a chunked one put together.
    pub body: Vec<u8>,
    /// `Mcp-Session-Id`.
    pub session: Option<String>,
}

/// The head of a request or a response: how far it goes and what follows it.
#[derive(Debug, Default)]
pub struct Head {
    /// Bytes of the head, with its blank line.
    pub length: usize,
    /// Bytes of the body, unless it is chunked.
    pub content_length: usize,
    /// The body comes in chunks.
    pub chunked: bool,
    /// The connection ends after this message.
    pub close: bool,
    /// `Mcp-Session-Id`.
    pub session: Option<String>,
}

/// Reads one response; `buffer` keeps what came after it for the next call.
///
/// # Errors
/// The connection ended or broke first, or a chunk has no length.
pub async fn read_response<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> Result<Response> {
    let head = read_head(stream, buffer).await?;
    let status = status(buffer);
    buffer.drain(..head.length);
    let body = if head.chunked {
        read_chunks(stream, buffer).await?
    } else {
        fill_to(stream, buffer, head.content_length).await?;
        buffer.drain(..head.content_length).collect()
    };
    Ok(Response { status, close: head.close, body, session: head.session })
}

/// The status of the response that begins here; 0 when it is unreadable.
pub fn status(head: &[u8]) -> u16 {
    head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()).unwrap_or(0)
}

/// Reads until the head of the next message is in `buffer`, and leaves it there.
///
/// # Errors
/// The connection ended or broke.
pub async fn read_head<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> Result<Head> {
    let length = fill_past(stream, buffer, b"\r\n\r\n").await? + 4;
    let mut head = Head { length, ..Head::default() };
    for line in buffer[..length].split(|byte| *byte == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            head.content_length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            head.chunked = value.eq_ignore_ascii_case(b"chunked");
        } else if name.eq_ignore_ascii_case(b"connection") {
            head.close = value.eq_ignore_ascii_case(b"close");
        } else if name.eq_ignore_ascii_case(b"mcp-session-id") {
            head.session = String::from_utf8(value.to_vec()).ok();
        }
    }
    Ok(head)
}

/// Where `needle` begins in `haystack`.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Reads what has arrived and appends it.
///
/// # Errors
/// The connection ended or broke.
pub async fn fill<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> Result<()> {
    buffer.reserve(4096);
    match stream.read_buf(buffer).await? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// Reads until `buffer` holds `length` bytes.
///
/// # Errors
/// The connection ended or broke.
pub async fn fill_to<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>, length: usize) -> Result<()> {
    while buffer.len() < length {
        fill(stream, buffer).await?;
    }
    Ok(())
}

/// Reads until `buffer` holds `mark`, and says where it begins.
///
/// # Errors
/// The connection ended or broke.
pub async fn fill_past<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>, mark: &[u8]) -> Result<usize> {
    loop {
        if let Some(position) = find(buffer, mark) {
            return Ok(position);
        }
        fill(stream, buffer).await?;
    }
}

async fn read_chunks<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = fill_past(stream, buffer, b"\r\n").await?;
        let text = String::from_utf8_lossy(&buffer[..line]);
        let digits = text.split(';').next().unwrap_or_default().trim();
        let length = usize::from_str_radix(digits, 16).map_err(|_| Error::other(format!("chunk length {digits:?}")))?;
        let end = line + 2 + length + 2;
        fill_to(stream, buffer, end).await?;
        body.extend_from_slice(&buffer[line + 2..end - 2]);
        buffer.drain(..end);
        if length == 0 {
            return Ok(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(mut wire: &[u8]) -> Result<Response> {
        read_response(&mut wire, &mut Vec::new()).await
    }

    #[tokio::test]
    async fn a_body_with_a_length_is_read_to_its_end() {
        let response = read(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabcd").await.unwrap();
        assert_eq!((response.status, response.body.as_slice(), response.close), (200, &b"abc"[..], true));
    }

    #[tokio::test]
    async fn a_chunked_body_is_put_together() {
        let response = read(b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\n\r\n")
            .await
            .unwrap();
        assert_eq!((response.status, response.body.as_slice()), (404, &b"abc"[..]));
    }

    #[tokio::test]
    async fn a_response_that_is_cut_off_is_an_error() {
        assert!(read(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab").await.is_err());
    }
}
