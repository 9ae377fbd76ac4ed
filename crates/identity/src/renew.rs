//! When a certificate should be renewed. Pure: the caller owns the clock and the timer.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;

use crate::peer;
use crate::root::CLOCK_SKEW;

/// Share of the life by which jitter can bring a renewal forward: enough to spread a fleet that started together.
pub const MAX_JITTER: f64 = 0.1;

/// The moment to renew a certificate: two thirds of its life, brought forward by up to [`MAX_JITTER`] of its life.
///
/// A third of the life is left to notice and repair a failing renewal. `jitter` is the caller's random number from 0
/// (no jitter) to 1; anything else counts as the nearer end. A certificate without a life is due at once.
pub fn renew_at(not_before: SystemTime, not_after: SystemTime, jitter: f64) -> SystemTime {
    let life = not_after.duration_since(not_before).unwrap_or(Duration::ZERO);
    let jitter = if jitter.is_nan() { 0.0 } else { jitter.clamp(0.0, 1.0) };
    let forward = life.mul_f64(MAX_JITTER * jitter);
    not_before + (life / 3 * 2).saturating_sub(forward)
}

/// By when whoever shows this certificate has another one, if it renews in time, and when this one ends: a connection that
/// began with it should then give way to one that begins with the next. None for what is no certificate.
pub fn replaced_by(certificate: &CertificateDer<'_>) -> Option<(SystemTime, SystemTime)> {
    let (not_before, not_after) = peer::life(certificate).ok()?;
    let life = not_after.duration_since(not_before).unwrap_or_default();
    // Ours begin earlier than they are made; of the rest, a twelfth is left for the renewal to be late.
    let backdated = CLOCK_SKEW.min(life);
    Some((not_before + backdated + (life - backdated) / 4 * 3, not_after))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn two_thirds_of_the_life() {
        let start = SystemTime::UNIX_EPOCH + DAY * 20_000;
        assert_eq!(renew_at(start, start + DAY, 0.0), start + HOUR * 16);
    }

    #[test]
    fn jitter_only_brings_forward_and_is_bounded() {
        let start = SystemTime::UNIX_EPOCH + DAY * 20_000;
        let earliest = start + HOUR * 16 - DAY.mul_f64(MAX_JITTER);
        assert_eq!(renew_at(start, start + DAY, 1.0), earliest);
        assert_eq!(renew_at(start, start + DAY, 7.0), earliest);
        assert_eq!(renew_at(start, start + DAY, -1.0), start + HOUR * 16);
        assert_eq!(renew_at(start, start + DAY, f64::NAN), start + HOUR * 16);
    }

    #[test]
    fn no_life_is_due_at_once() {
        let start = SystemTime::UNIX_EPOCH + DAY;
        assert_eq!(renew_at(start, start, 0.5), start);
        assert_eq!(renew_at(start, start - HOUR, 0.5), start);
    }
}
