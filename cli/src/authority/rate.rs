//! How often one address may ask for a certificate: a bucket for each, a bounded number of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use outrigger_config::kinds::Rate;
use tokio::time::Instant;

/// Addresses that are remembered. Past it all begin anew, which lets a flood from many addresses through to the bound on
/// connections and nothing further.
const MAX_ADDRESSES: usize = 16_384;

/// The buckets.
pub(crate) struct RateLimit {
    rate: Rate,
    /// What is left for an address, and when that was counted.
    buckets: Mutex<HashMap<IpAddr, (f64, Instant)>>,
}

impl RateLimit {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, buckets: Mutex::default() }
    }

    /// Takes one from the bucket of an address; false when it is empty.
    pub(crate) fn admit(&self, address: IpAddr, now: Instant) -> bool {
        let full = f64::from(self.rate.count);
        // Numbers in a map are good after a panic, too.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_ADDRESSES && !buckets.contains_key(&address) {
            buckets.clear();
        }
        let (left, counted) = buckets.entry(address).or_insert((full, now));
        let refilled = now.duration_since(*counted).as_secs_f64() * full / self.rate.per.as_secs_f64();
        *left = (*left + refilled).min(full);
        *counted = now;
        if *left < 1.0 {
            return false;
        }
        *left -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_address_has_its_own_bucket_which_fills_again() {
        let limit = RateLimit::new(Rate { count: 2, per: Duration::from_secs(60) });
        let (a, b) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let now = Instant::now();
        let admitted = |address, seconds| limit.admit(address, now + Duration::from_secs(seconds));
        assert!(admitted(a, 0) && admitted(a, 0) && !admitted(a, 0));
        assert!(admitted(b, 0));
        assert!(admitted(a, 31) && !admitted(a, 31));
    }
}
