//! What to do when `accept` fails: go on at once, or wait until the system has room again.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Counts failures in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    pause: Option<Duration>,
    last_log: Option<Instant>,
}

impl Backoff {
    /// A connection was accepted.
    pub(super) fn reset(&mut self) {
        self.pause = None;
    }

    /// How long to wait before the next try.
    ///
    /// An error that belongs to one connection (its peer gave up while it was queued) is no reason to wait. All others
    /// (`EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`) stay until something else is closed; trying again at once would spin.
    pub(super) fn after(&mut self, error: &io::Error) -> Duration {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
            return Duration::ZERO;
        }
        let pause = self.pause.map_or(FIRST_PAUSE, |last| (last * 2).min(LONGEST_PAUSE));
        self.pause = Some(pause);
        pause
    }

    /// Whether this failure may be logged: once per second at most.
    pub(super) fn may_log(&mut self) -> bool {
        let now = Instant::now();
        let due = self.last_log.is_none_or(|last| now.duration_since(last) >= LOG_EVERY);
        if due {
            self.last_log = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_tables_are_waited_for_longer_and_longer() {
        let mut backoff = Backoff::default();
        let full = io::Error::from_raw_os_error(24);
        let pauses: Vec<u128> = (0..7).map(|_| backoff.after(&full).as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.after(&full).as_millis(), 50);
    }

    #[test]
    fn a_peer_that_gave_up_costs_no_time() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.after(&io::ErrorKind::ConnectionAborted.into()), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_is_logged_once_per_second() {
        let mut backoff = Backoff::default();
        assert!(backoff.may_log());
        assert!(!backoff.may_log());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(backoff.may_log());
    }
}
