//! How long to wait after a failure: twice as long each time, up to a bound, and never the same for two workloads.

use std::time::Duration;

/// After the first failure.
const FIRST: Duration = Duration::from_secs(1);
/// After many: soon enough after an authority is back, and no burden on it while it struggles.
const LONGEST: Duration = Duration::from_secs(30);

/// Waits between attempts.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    failures: u32,
}

impl Pace {
    /// How long to wait after one more failure: between half of the bound and the bound itself. `jitter` is from 0 to 1.
    pub(crate) fn failed(&mut self, jitter: f64) -> Duration {
        let bound = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }

    /// It worked.
    pub(crate) fn worked(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_begin_anew_after_a_success() {
        let mut pace = Pace::default();
        let waits: Vec<u64> = (0..7).map(|_| pace.failed(1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pace.failed(0.0), LONGEST / 2);
        pace.worked();
        assert_eq!(pace.failed(1.0), FIRST);
    }
}
