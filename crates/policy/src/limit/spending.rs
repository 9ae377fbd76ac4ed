//! So much in each window of time: for bytes, which come in amounts that no token bucket of single tokens fits.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::bucket::Nanos;
use super::keys::Kept;

/// How much may be spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Allowance {
    /// In each window.
    pub most: u64,
    /// How long a window is; it begins with the first amount that is spent.
    pub per: Duration,
}

/// What was spent in the window that is open.
#[derive(Debug, Default)]
pub struct Spending(Mutex<Option<Window>>);

#[derive(Debug, Clone, Copy)]
struct Window {
    ends: Nanos,
    spent: u64,
}

impl Kept for Spending {
    fn is_at_rest(&self, now: Nanos) -> bool {
        let window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        window.is_none_or(|window| window.ends <= now)
    }
}

impl Spending {
    /// Spends an amount, whole or not at all. An amount of 0 asks whether anything is left.
    ///
    /// # Errors
    /// When the next window begins.
    pub fn spend(&self, allowance: &Allowance, amount: u64, now: Nanos) -> Result<(), Duration> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = window.filter(|window| window.ends > now).unwrap_or_else(|| Window {
            ends: Nanos(now.0.saturating_add(Nanos::since_start(allowance.per).0)),
            spent: 0,
        });
        let spent = open.spent.saturating_add(amount);
        if spent > allowance.most || (amount == 0 && spent == allowance.most) {
            return Err(Duration::from_nanos(open.ends.0 - now.0));
        }
        if amount > 0 {
            *window = Some(Window { spent, ..open });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_spent_whole_within_their_window() {
        let (spending, allowance) = (Spending::default(), Allowance { most: 100, per: Duration::from_secs(60) });
        let at = |seconds: u64| Nanos(seconds * 1_000_000_000);
        assert_eq!(spending.spend(&allowance, 0, at(0)), Ok(()));
        assert_eq!(spending.spend(&allowance, 70, at(10)), Ok(()), "the window begins here");
        assert_eq!(spending.spend(&allowance, 31, at(20)), Err(Duration::from_secs(50)));
        assert_eq!(spending.spend(&allowance, 30, at(30)), Ok(()));
        assert_eq!(spending.spend(&allowance, 0, at(40)), Err(Duration::from_secs(30)), "nothing is left");
        assert_eq!(spending.spend(&allowance, 100, at(70)), Ok(()), "the next window");
        assert_eq!(spending.spend(&allowance, 101, at(1000)), Err(Duration::from_secs(60)), "never fits");
    }
}
