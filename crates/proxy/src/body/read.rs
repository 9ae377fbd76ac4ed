//! Reading a whole body under a limit of bytes and time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;

/// What a first allocation may be, whatever length the peer announces: memory follows bytes that really came.
const FIRST_ALLOCATION: usize = 64 * 1024;

/// Why a body could not be read whole.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The body is, or announces itself to be, longer than allowed. Answer 413.
    #[error("the body is larger than the limit of {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The body did not end in time. Answer 408.
    #[error("the body did not arrive within {} ms", after.as_millis())]
    Timeout {
        /// The time that was allowed for the whole body.
        after: Duration,
    },
    /// The connection failed or the peer went away.
    #[error("the body broke off: {0}")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Reads `body` to its end: at most `max` bytes, within `timeout` for all of it.
///
/// A declared length over `max` is refused before anything is read. A body that arrives as one frame (nearly every MCP
/// message) is returned as it came, without a copy. Trailers are dropped. Cancelling the future drops the body.
pub async fn read_bounded<B>(body: B, max: usize, timeout: Duration) -> Result<Bytes, ReadError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if body.size_hint().lower() > max as u64 {
        return Err(ReadError::TooLarge { limit: max });
    }
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    match tokio::time::timeout(timeout, collect(body, max)).await {
        Ok(read) => read,
        Err(_elapsed) => Err(ReadError::Timeout { after: timeout }),
    }
}

async fn collect<B>(mut body: B, max: usize) -> Result<Bytes, ReadError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Some(first) = next_data(&mut body).await? else { return Ok(Bytes::new()) };
    let announced = body.size_hint().lower() as usize;
    let mut length = checked_length(first.len(), max)?;
    if body.is_end_stream() {
        return Ok(first);
    }
    let Some(second) = next_data(&mut body).await? else { return Ok(first) };

    length = checked_length(length + second.len(), max)?;
    let mut whole = BytesMut::with_capacity(length.max((first.len() + announced).min(FIRST_ALLOCATION)));
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&second);
    while let Some(data) = next_data(&mut body).await? {
        length = checked_length(length + data.len(), max)?;
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

fn checked_length(length: usize, max: usize) -> Result<usize, ReadError> {
    if length > max { Err(ReadError::TooLarge { limit: max }) } else { Ok(length) }
}

/// The next non-empty piece of data, `None` at the end.
async fn next_data<B>(body: &mut B) -> Result<Option<Bytes>, ReadError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ReadError::Broken(error.into()))?;
        if let Ok(data) = frame.into_data()
            && !data.is_empty()
        {
            return Ok(Some(data));
        }
    }
    Ok(None)
}
