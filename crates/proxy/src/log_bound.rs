//! Keeps one kind of log line from filling a disk: so many in a while, and then how many were left out.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lines that are logged within [`WINDOW`].
const LOGGED: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);

/// The bound of one kind of line. Metrics count what it leaves out.
#[derive(Debug)]
pub struct LogBound(Mutex<State>);

#[derive(Debug)]
struct State {
    began: Instant,
    logged: u32,
    left_out: u64,
}

impl Default for LogBound {
    fn default() -> Self {
        Self(Mutex::new(State { began: Instant::now(), logged: 0, left_out: 0 }))
    }
}

impl LogBound {
    /// Whether to log a line now; then how many were left out before it.
    pub fn admit(&self) -> Option<u64> {
        // What is behind the lock is whole after every statement, so also after a panic.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now.duration_since(state.began) >= WINDOW {
            (state.began, state.logged) = (now, 0);
        }
        if state.logged >= LOGGED {
            state.left_out += 1;
            return None;
        }
        state.logged += 1;
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_logged_in_part_and_summed_up() {
        let bound = LogBound::default();
        let logged = (0..1000).filter(|_| bound.admit().is_some()).count();
        assert_eq!(logged, LOGGED as usize);
        tokio::time::advance(WINDOW).await;
        assert_eq!(bound.admit(), Some(1000 - u64::from(LOGGED)));
        assert_eq!(bound.admit(), Some(0));
    }
}
