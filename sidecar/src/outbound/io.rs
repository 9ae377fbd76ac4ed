//! Reading and writing the sockets of the outbound half: buffers exist only while something moves.

use std::cell::RefCell;
use std::io;
use std::time::Duration;

use super::wire::Wire;

/// Bytes moved at once: large enough that a system call costs little beside the copying.
pub(super) const CHUNK: usize = 64 * 1024;
/// Buffers that a thread keeps for its next read.
const SPARE: usize = 4;
/// Bytes that a peer that was refused may still send before it is cut off, and how long it may take.
const LINGER: (usize, Duration) = (256 * 1024, Duration::from_secs(2));

thread_local! {
    static BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of [`CHUNK`] bytes, given back when dropped. Connections that rest hold none.
pub(super) struct Chunk(Option<Box<[u8]>>);

impl Chunk {
    pub(super) fn take() -> Self {
        let spare = BUFFERS.with_borrow_mut(Vec::pop);
        Self(Some(spare.unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice())))
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let Some(buffer) = self.0.take() else { return };
        // At the end of a thread there is no list any more; then the buffer just goes.
        let _ = BUFFERS.try_with(|spare| {
            if let Ok(mut spare) = spare.try_borrow_mut()
                && spare.len() < SPARE
            {
                spare.push(buffer);
            }
        });
    }
}

/// Reads what there is, waiting for the first byte: the buffer and how much of it; 0 is the end.
pub(super) async fn read(from: &Wire) -> io::Result<(Chunk, usize)> {
    loop {
        {
            let mut chunk = Chunk::take();
            match from.try_read(chunk.bytes()) {
                Ok(read) => return Ok((chunk, read)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        from.socket()?.readable().await?;
    }
}

/// Appends what there is, waiting for the first byte; 0 is the end.
pub(super) async fn read_into(from: &Wire, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let (mut chunk, read) = read(from).await?;
    buffer.extend_from_slice(chunk.bytes().get(..read).unwrap_or_default());
    Ok(read)
}

/// Writes everything.
pub(super) async fn write_all(to: &Wire, bytes: &[u8]) -> io::Result<()> {
    write_by(to, Wire::try_write, bytes).await
}

/// Writes everything, and says that it was the last.
pub(super) async fn write_last(to: &Wire, bytes: &[u8]) -> io::Result<()> {
    write_by(to, Wire::try_write_last, bytes).await?;
    to.finish();
    Ok(())
}

async fn write_by(to: &Wire, step: fn(&Wire, &[u8]) -> io::Result<usize>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match step(to, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.socket()?.writable().await?,
            Err(error) => return Err(error),
        }
    }
    to.flush().await
}

/// Says the end, and [`drain`]s.
pub(super) async fn linger(stream: &Wire) {
    stream.finish();
    drain(stream).await;
}

/// Reads on until the other side ends too, so that the last words arrive: a close with unread bytes would reset the connection and
/// take them back.
pub(super) async fn drain(stream: &Wire) {
    let rest = async {
        let mut seen = 0;
        while seen < LINGER.0 {
            match read(stream).await {
                Ok((_, read)) if read > 0 => seen += read,
                Ok(_) | Err(_) => return,
            }
        }
    };
    let _ = tokio::time::timeout(LINGER.1, rest).await;
}
