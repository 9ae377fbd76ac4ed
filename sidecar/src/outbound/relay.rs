//! forward, second half: moves bytes both ways until both sides are done, nothing moves any more, or time is up.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use super::io::{CHUNK, read, write_all};
use super::splice::splice;
use super::upload::Upload;
use super::wire::Wire;

/// What moved: bytes up (from the client) and down, and when last.
#[derive(Debug)]
pub(super) struct Moved {
    begun: Instant,
    up: AtomicU64,
    down: AtomicU64,
    /// Milliseconds from `begun`.
    last: AtomicU64,
}

impl Moved {
    pub(super) fn new() -> Self {
        Self { begun: Instant::now(), up: AtomicU64::new(0), down: AtomicU64::new(0), last: AtomicU64::new(0) }
    }

    pub(super) fn count_up(&self, bytes: usize) {
        self.count(&self.up, bytes);
    }

    pub(super) fn count_down(&self, bytes: usize) {
        self.count(&self.down, bytes);
    }

    fn count(&self, which: &AtomicU64, bytes: usize) {
        which.fetch_add(bytes as u64, Ordering::Relaxed);
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Bytes up and down.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.up.load(Ordering::Relaxed), self.down.load(Ordering::Relaxed))
    }

    /// Resolves when nothing moved for `idle`, or `total` is over. One timer, set anew only when it fires.
    pub(super) async fn over(&self, idle: Duration, total: Duration) {
        let end = self.begun + total;
        loop {
            let last = self.begun + Duration::from_millis(self.last.load(Ordering::Relaxed));
            let wake = (last + idle).min(end);
            if Instant::now() >= wake {
                return;
            }
            tokio::time::sleep_until(wake).await;
        }
    }
}

/// Relays a tunnel to its end.
pub(super) async fn relay(
    (client, origin): (&Wire, &Wire),
    moved: &Moved,
    upload: &Upload,
    (idle, total): (Duration, Duration),
) {
    let up = pump(client, origin, Some(upload).filter(|upload| upload.metered()), |bytes| moved.count_up(bytes));
    let down = pump(origin, client, None, |bytes| moved.count_down(bytes));
    let both = async {
        // An error on one side leaves nobody to talk to for the other.
        let _ = tokio::try_join!(up, down);
    };
    tokio::select! {
        () = both => {}
        () = moved.over(idle, total) => {}
    }
}

/// One direction, to its end, which is passed on, or to the limit of what may be sent. What is counted before it goes is not
/// spliced.
async fn pump(from: &Wire, to: &Wire, upload: Option<&Upload>, moved: impl Fn(usize)) -> io::Result<()> {
    loop {
        let (mut chunk, bytes) = read(from).await?;
        if bytes == 0 {
            to.finish();
            return Ok(());
        }
        if upload.is_some_and(|upload| upload.may_send(bytes).is_err()) {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        write_all(to, chunk.bytes().get(..bytes).unwrap_or_default()).await?;
        moved(bytes);
        if bytes == CHUNK && upload.is_none() {
            drop(chunk);
            splice(from.socket()?, to.socket()?, &moved).await?;
        }
        // Both sides may be ready for ever: other connections of this thread have their turn too.
        consume_budget().await;
    }
}
