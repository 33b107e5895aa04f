//! Wrong passwords per address: the first few are free, then each doubles the wait.
//!
//! Invariant: the table is bounded; when it is full, the address that failed longest ago is forgotten.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use transport::door::party;

/// Wrong passwords without a wait.
const FREE: u32 = 4;
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(300);
/// Failures are forgotten after this long without another.
const FORGET: Duration = Duration::from_secs(900);
/// Addresses remembered.
const CAPACITY: usize = 4096;

#[derive(Default)]
pub(crate) struct Limiter {
    failures: Mutex<HashMap<IpAddr, Failures>>,
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    fn wait(self) -> Duration {
        match self.count.checked_sub(FREE + 1) {
            None => Duration::ZERO,
            Some(doublings) => Duration::from_secs(1 << doublings.min(16)).min(LONGEST),
        }
    }
}

impl Limiter {
    /// Counts an attempt from `address` as failed before its password is looked at, so that attempts at the same
    /// time do not slip past each other; [`Limiter::forgive`] takes it back. Answers the wait if it is too early.
    pub(crate) fn attempt(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let address = party(address);
        let mut table = self.lock();
        table.retain(|_, f| now.saturating_duration_since(f.last) < FORGET);
        if let Some(failures) = table.get(&address) {
            let left = failures.wait().saturating_sub(now.saturating_duration_since(failures.last));
            if left > Duration::ZERO {
                return Err(left);
            }
        } else if table.len() >= CAPACITY {
            let oldest = table.iter().min_by_key(|(_, f)| f.last).map(|(a, _)| *a);
            oldest.and_then(|a| table.remove(&a));
        }
        let failures = table.entry(address).or_insert(Failures { count: 0, last: now });
        failures.count = failures.count.saturating_add(1);
        failures.last = now;
        Ok(())
    }

    /// The password from `address` was right.
    pub(crate) fn forgive(&self, address: IpAddr) {
        self.lock().remove(&party(address));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Failures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_end_with_success() {
        let limiter = Limiter::default();
        let a: IpAddr = "192.0.2.1".parse().unwrap();
        let mut now = Instant::now();
        for _ in 0..=FREE {
            assert_eq!(limiter.attempt(a, now), Ok(()));
        }
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            assert_eq!(limiter.attempt(a, now), Err(Duration::from_secs(seconds)));
            assert_eq!(limiter.attempt("192.0.2.2".parse().unwrap(), now), Ok(()));
            limiter.forgive("192.0.2.2".parse().unwrap());
            now += Duration::from_secs(seconds);
            assert_eq!(limiter.attempt(a, now), Ok(()));
        }
        limiter.forgive(a);
        assert_eq!(limiter.attempt(a, now), Ok(()));
    }

    #[test]
    fn the_table_is_bounded_and_ipv6_counts_by_network() {
        let limiter = Limiter::default();
        let now = Instant::now();
        for n in 0..5000_u32 {
            assert_eq!(limiter.attempt(IpAddr::V4(n.into()), now), Ok(()));
        }
        assert_eq!(limiter.lock().len(), CAPACITY);
        for n in 0..=FREE {
            let _ = limiter.attempt(format!("2001:db8::{n:x}").parse().unwrap(), now);
        }
        assert!(limiter.attempt("2001:db8::ffff".parse().unwrap(), now).is_err());
    }
}
