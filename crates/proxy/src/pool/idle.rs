//! The idle HTTP/1.1 connections of a pool and the one task that closes those nobody used for long.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::h1::H1;
use super::{Shared, lock};

/// The shortest pause between sweeps, against an idle timeout of zero.
const MIN_PAUSE: Duration = Duration::from_millis(100);

/// Last in, first out: the connection used most recently is the least likely to be closed by the upstream, and those
/// that are not needed grow old together.
#[derive(Default)]
pub(super) struct IdleList {
    entries: Vec<Idle>,
}

/// A connection that waits for a request.
pub(super) struct Idle {
    pub(super) connection: Box<H1>,
    pub(super) generation: u64,
    pub(super) since: Instant,
}

impl IdleList {
    /// Adds a connection; gives it back when the list is full.
    pub(super) fn push(&mut self, connection: Box<H1>, generation: u64, max: usize) -> Option<Box<H1>> {
        if self.entries.len() >= max {
            return Some(connection);
        }
        self.entries.push(Idle { connection, generation, since: Instant::now() });
        None
    }

    pub(super) fn pop(&mut self) -> Option<Idle> {
        self.entries.pop()
    }

    pub(super) fn take_all(&mut self) -> Vec<Idle> {
        std::mem::take(&mut self.entries)
    }

    /// Takes out the connections that are too old or that the upstream has closed.
    fn take_dead(&mut self, now: Instant, idle_timeout: Duration) -> Vec<Idle> {
        self.entries
            .extract_if(.., |entry| now.duration_since(entry.since) >= idle_timeout || !entry.connection.is_usable())
            .collect()
    }

    fn len(&self) -> usize {
        self.entries.len()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Closes unused connections until the pool is dropped. Sleeps without a timer while there is nothing to watch.
pub(super) async fn sweep_while_alive(pool: Weak<Shared>, wake: Arc<Notify>) {
    loop {
        wake.notified().await;
        loop {
            // Not held across the pause: the pool may go meanwhile.
            let Some(pause) = pool.upgrade().map(|shared| (shared.settings.idle_timeout / 2).max(MIN_PAUSE)) else {
                return;
            };
            tokio::time::sleep(pause).await;
            match pool.upgrade() {
                Some(shared) if shared.sweep() > 0 => {}
                Some(_) => break,
                None => return,
            }
        }
    }
}

impl Shared {
    /// One pass over both lists. Returns how many connections are left to watch.
    fn sweep(&self) -> usize {
        let now = Instant::now();
        let (dead, kept) = {
            let mut idle = lock(&self.idle);
            (idle.take_dead(now, self.settings.idle_timeout), idle.len())
        };
        dead.into_iter().for_each(|entry| entry.connection.close());
        let mut h2 = lock(&self.h2);
        h2.sweep(now, self.settings.idle_timeout);
        kept + h2.len()
    }
}
