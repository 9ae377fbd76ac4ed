//! The pause before something that is to last, and ended, is begun again.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The first pause and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// What lived for so long has shown that it lasts, so the next pause is short again: as long as the longest pause, so that a
/// server which accepts a listen and ends it at once is not asked every moment for ever.
const STEADY: Duration = BACKOFF.1;

/// Pauses, each twice as long as the one before until something lasted.
#[derive(Debug)]
pub struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(BACKOFF.0)
    }
}

impl Pause {
    /// It is over, having begun then. Whether it had lasted.
    pub fn lived_since(&mut self, began: Instant) -> bool {
        let lasted = began.elapsed() >= STEADY;
        if lasted {
            self.0 = BACKOFF.0;
        }
        lasted
    }

    /// Waits for a part of the pause that differs, so that many do not come back in one moment.
    pub async fn wait(&mut self) {
        sleep(self.0.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        self.0 = (self.0 * 2).min(BACKOFF.1);
    }
}
