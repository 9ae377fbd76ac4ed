//! One connection of the outbound half, with or without TLS. Both directions are used through one shared reference, and
//! neither holds a buffer while nothing moves, but for what TLS itself keeps. The runtime watches a socket from when somebody has
//! to wait for it: a connection that is refused is over before that.

use std::io::{self, Read, Write};
use std::net::{self, SocketAddr};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::net::{SendFlags, Shutdown, send as send_to, shutdown};
use rustls::Connection;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A connected socket, perhaps with TLS over it.
#[derive(Debug)]
pub(super) struct Wire {
    socket: Socket,
    /// Never held over an await. Both directions belong to one task, so nobody waits for it.
    tls: Option<Box<Mutex<Connection>>>,
}

impl From<TcpStream> for Wire {
    fn from(socket: TcpStream) -> Self {
        Self { socket: Socket { fresh: Mutex::default(), watched: OnceLock::from(socket) }, tls: None }
    }
}

/// Of one that was just accepted, and does not block.
impl From<net::TcpStream> for Wire {
    fn from(socket: net::TcpStream) -> Self {
        Self { socket: Socket { fresh: Mutex::new(Some(socket)), watched: OnceLock::new() }, tls: None }
    }
}

impl Wire {
    /// The socket below, watched from now on.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub(super) fn socket(&self) -> io::Result<&TcpStream> {
        self.socket.watched()
    }

    /// The address of the other side, and ours.
    pub(super) fn ends(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        let socket = self.socket()?;
        Ok((socket.peer_addr()?, socket.local_addr()?))
    }

    /// Speaks TLS on a plain connection, until both sides have finished. `begun` was read from it already.
    ///
    /// # Errors
    /// What the socket or rustls says; the other side was told then.
    pub(super) async fn secure(self, connection: impl Into<Connection>, begun: &[u8]) -> io::Result<Self> {
        let mut connection = connection.into();
        let mut begun = begun;
        while !begun.is_empty() {
            connection.read_tls(&mut begun)?;
            process(&mut connection, &self.socket)?;
        }
        let wire = Self { socket: self.socket, tls: Some(Box::new(Mutex::new(connection))) };
        loop {
            wire.flush().await?;
            let step = {
                let mut tls = wire.lock().ok_or(io::ErrorKind::Other)?;
                if !tls.is_handshaking() {
                    break;
                }
                receive(&mut tls, &wire.socket)
            };
            match step {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => wire.socket()?.readable().await?,
                Err(error) => return Err(error),
            }
        }
        wire.flush().await?;
        Ok(wire)
    }

    /// Reads what there is; `WouldBlock` when there is nothing.
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(mut tls) = self.lock() else { return self.socket.try_read(buffer) };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            // At the end of the socket the reader says whether TLS was ended too.
            receive(&mut tls, &self.socket)?;
        }
    }

    /// Writes what fits. With TLS, what was taken may wait for [`Wire::flush`].
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let Some(mut tls) = self.lock() else { return self.socket.try_write(bytes) };
        send(&mut tls, &self.socket)?;
        let taken = tls.writer().write(bytes)?;
        match send(&mut tls, &self.socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(taken),
            sent => sent.map(|()| taken),
        }
    }

    /// The same for the last words, which leave in one packet with the end that [`Wire::finish`] says: two packets would wake the
    /// other side twice.
    pub(super) fn try_write_last(&self, bytes: &[u8]) -> io::Result<usize> {
        if self.tls.is_some() { self.try_write(bytes) } else { self.socket.try_write_last(bytes) }
    }

    /// Sends what TLS still holds.
    pub(super) async fn flush(&self) -> io::Result<()> {
        loop {
            let sent = match self.lock() {
                Some(mut tls) => send(&mut tls, &self.socket),
                None => return Ok(()),
            };
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.socket()?.writable().await?,
                done => return done,
            }
        }
    }

    /// Says that nothing more will come.
    pub(super) fn finish(&self) {
        if let Some(mut tls) = self.lock() {
            tls.send_close_notify();
            // A peer that does not read learns it from the socket.
            let _ = send(&mut tls, &self.socket);
        }
        // Fails only when the connection is over already.
        self.socket.finish();
    }

    /// A panic elsewhere leaves rustls in a state that it reports by itself.
    fn lock(&self) -> Option<MutexGuard<'_, Connection>> {
        self.tls.as_ref().map(|tls| tls.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A socket that the runtime watches once somebody has waited for it.
#[derive(Debug)]
struct Socket {
    /// Until then. Never held over an await.
    fresh: Mutex<Option<net::TcpStream>>,
    watched: OnceLock<TcpStream>,
}

impl Socket {
    fn watched(&self) -> io::Result<&TcpStream> {
        if let Some(socket) = self.watched.get() {
            return Ok(socket);
        }
        // Both directions belong to one task: nobody takes it at the same time.
        let fresh = self.fresh().take().ok_or(io::ErrorKind::NotConnected)?;
        let socket = TcpStream::from_std(fresh)?;
        Ok(self.watched.get_or_init(|| socket))
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.watched.get() {
            Some(socket) => socket.try_read(buffer),
            None => self.fresh().as_ref().ok_or(io::ErrorKind::NotConnected)?.read(buffer),
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.watched.get() {
            Some(socket) => socket.try_write(bytes),
            None => self.fresh().as_ref().ok_or(io::ErrorKind::NotConnected)?.write(bytes),
        }
    }

    fn try_write_last(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
        match self.watched.get() {
            Some(socket) => socket.try_io(Interest::WRITABLE, || Ok(send_to(socket, bytes, flags)?)),
            None => Ok(send_to(self.fresh().as_ref().ok_or(io::ErrorKind::NotConnected)?, bytes, flags)?),
        }
    }

    /// Fails only when the connection is over already.
    fn finish(&self) {
        let _ = match self.watched.get() {
            Some(socket) => shutdown(socket, Shutdown::Write),
            None => self.fresh().as_ref().map_or(Ok(()), |socket| shutdown(socket, Shutdown::Write)),
        };
    }

    /// Every use is one operation on it, so a panic elsewhere leaves nothing half done.
    fn fresh(&self) -> MutexGuard<'_, Option<net::TcpStream>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads records and works on them: how many bytes they were; 0 is the end of the socket.
fn receive(tls: &mut Connection, socket: &Socket) -> io::Result<usize> {
    let read = tls.read_tls(&mut Sock(socket))?;
    process(tls, socket)?;
    Ok(read)
}

fn process(tls: &mut Connection, socket: &Socket) -> io::Result<()> {
    let done = tls.process_new_packets();
    // Answers to key updates, and the alert that says what is wrong; what does not fit goes with the next write.
    match send(tls, socket) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock && done.is_ok() => return Err(error),
        _ => {}
    }
    done.map(drop).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn send(tls: &mut Connection, socket: &Socket) -> io::Result<()> {
    while tls.wants_write() {
        if tls.write_tls(&mut Sock(socket))? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

/// A socket as rustls wants it, never waiting.
struct Sock<'s>(&'s Socket);

impl Read for Sock<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Sock<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
