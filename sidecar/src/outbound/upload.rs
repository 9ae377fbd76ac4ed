//! The bytes that one connection or request sends, counted before they go.

use std::sync::{Arc, OnceLock};

use outrigger_policy::egress::{Meter, Over};
use outrigger_policy::limit::Nanos;
use tokio::time::Instant;

/// What a connection may still send.
#[derive(Debug)]
pub struct Upload {
    meter: Option<Arc<Meter>>,
    /// Whether passing the limit stops it, or is only noted.
    enforced: bool,
    /// What the time of limits counts from.
    started: Instant,
    over: OnceLock<Over>,
}

impl Upload {
    /// Under the meter of its rule, where it has one.
    pub(super) fn new(meter: Option<Arc<Meter>>, enforced: bool, started: Instant) -> Self {
        Self { meter, enforced, started, over: OnceLock::new() }
    }

    /// Whether so many bytes may be sent; they count as sent then.
    ///
    /// # Errors
    /// The limit that they would pass.
    pub fn may_send(&self, bytes: usize) -> Result<(), Over> {
        let Some(meter) = &self.meter else { return Ok(()) };
        let sent = meter.send(bytes as u64, Nanos::since_start(self.started.elapsed()));
        match sent {
            Err(over) => {
                self.over.get_or_init(|| over);
                if self.enforced { Err(over) } else { Ok(()) }
            }
            Ok(()) => Ok(()),
        }
    }

    /// Whether anything is counted.
    pub fn metered(&self) -> bool {
        self.meter.is_some()
    }

    /// Whether passing the limit stops it.
    pub fn enforced(&self) -> bool {
        self.enforced
    }

    /// The limit that was passed.
    pub fn over(&self) -> Option<Over> {
        self.over.get().copied()
    }
}
