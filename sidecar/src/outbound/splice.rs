//! Moving many bytes from one socket to another inside the kernel (splice(2)): nothing is copied into this process.
//!
//! A pipe costs two descriptors and several system calls, so this is only for what flows; a thread keeps a few for the next
//! time, and who waits holds none.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::coop::consume_budget;

/// What a pipe is asked to hold: as much as Linux gives without privileges. It holds less where many pipes are open.
const CAPACITY: usize = 1024 * 1024;
/// Fewer bytes at once are cheaper to copy.
const WORTHWHILE: usize = 16 * 1024;
/// Pipes that a thread keeps.
const SPARE: usize = 4;

thread_local! {
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// An empty pipe.
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Pipe {
    fn take() -> io::Result<Self> {
        if let Some(spare) = PIPES.with_borrow_mut(Vec::pop) {
            return Ok(spare);
        }
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // Refused over the user's share of pipe memory: it works with less, too.
        let _ = fcntl_setpipe_size(&writer, CAPACITY);
        Ok(Self { reader, writer })
    }

    /// Keeps it for the next time. One with something in it is dropped instead, and never comes here.
    fn keep(self) {
        PIPES.with_borrow_mut(|spare| {
            if spare.len() < SPARE {
                spare.push(self);
            }
        });
    }
}

/// Moves bytes while they come in large pieces; `moved` hears how many. Returns when `from` has ended or brings little, and
/// leaves the end to be read.
///
/// # Errors
/// Of either socket.
pub(super) async fn splice(from: &TcpStream, to: &TcpStream, moved: &impl Fn(usize)) -> io::Result<()> {
    loop {
        // Out of descriptors: copying needs none.
        let Ok(pipe) = Pipe::take() else { return Ok(()) };
        match from.try_io(Interest::READABLE, || step(from, &pipe.writer, CAPACITY)) {
            Ok(bytes) => {
                drain(&pipe, to, bytes).await?;
                pipe.keep();
                moved(bytes);
                if bytes < WORTHWHILE {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                pipe.keep();
                from.readable().await?;
            }
            Err(error) => return Err(error),
        }
        consume_budget().await;
    }
}

async fn drain(pipe: &Pipe, to: &TcpStream, mut left: usize) -> io::Result<()> {
    while left > 0 {
        match to.try_io(Interest::WRITABLE, || step(&pipe.reader, to, left)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(bytes) => left = left.saturating_sub(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn step(from: impl std::os::fd::AsFd, to: impl std::os::fd::AsFd, most: usize) -> io::Result<usize> {
    Ok(rustix::pipe::splice(from, None, to, None, most, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn every_byte_arrives_in_its_order_and_the_pipe_is_kept() {
        let ((mut source, from), (to, mut sink)) = (pair().await, pair().await);
        let sent: Vec<u8> = (0..8 * CAPACITY).map(|at| (at % 251) as u8).collect();
        let (expected, moved) = (sent.clone(), Cell::new(0));
        let write = async move {
            source.write_all(&sent).await.unwrap();
            drop(source);
        };
        let relay = async move {
            let count = |bytes| moved.set(moved.get() + bytes);
            while moved.get() < 8 * CAPACITY {
                splice(&from, &to, &count).await.unwrap();
            }
            moved.get()
        };
        let mut received = Vec::new();
        let ((), moved, read) = tokio::join!(write, relay, sink.read_to_end(&mut received));
        read.unwrap();
        assert_eq!((moved, received.len()), (expected.len(), expected.len()));
        assert!(received == expected, "in another order");
        assert!((1..=SPARE).contains(&PIPES.with_borrow(Vec::len)));
    }

    #[tokio::test]
    async fn what_is_stuck_in_a_pipe_goes_to_nobody_else() {
        PIPES.with_borrow_mut(Vec::clear);
        let ((mut source, from), (to, sink)) = (pair().await, pair().await);
        let flood = async { source.write_all(&vec![7; 64 * CAPACITY]).await };
        let moved = Cell::new(0);
        let relay = async { splice(&from, &to, &|bytes| moved.set(moved.get() + bytes)).await };
        // Nobody reads: it stands still with bytes in the pipe, and is given up there.
        let stuck = async {
            let mut seen = 0;
            while seen == 0 || seen != moved.get() {
                seen = moved.get();
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
        };
        tokio::select! {
            _ = flood => panic!("64 MiB fit into socket buffers"),
            _ = relay => panic!("it came to an end without a reader"),
            () = stuck => {}
        }
        drop(sink);
        assert_eq!(PIPES.with_borrow(Vec::len), 0);
    }
}
