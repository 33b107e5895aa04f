//! A node's clocks: drifting, and after a pause either jumping or knowing nothing of it.

use crate::rng::{Nanos, Rng};
use base::Monotonic;
use cluster::lease::Clocks;

/// Two nodes' clocks differ by at most twice this over a lease: just within the drift allowance (75 of 1500 ms).
const MAX_DRIFT_PPM: u64 = 24_000;

#[derive(Clone, Debug)]
pub(crate) struct Machine {
    boot_offset: u64,
    host_offset: u64,
    /// Nanoseconds per million nanoseconds of true time.
    rate: u64,
    /// True time that the boot clock did not count.
    uncounted: Nanos,
    /// What the boot clock had counted when a pause began that it does not count.
    stands_at: Option<Nanos>,
    pub(crate) paused_until: Nanos,
    /// No cluster manager has run since it started.
    fresh: bool,
}

impl Machine {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let rate = 1_000_000 - MAX_DRIFT_PPM + rng.within(0..2 * MAX_DRIFT_PPM + 1);
        Self {
            boot_offset: rng.ms(1_000..1_000_000),
            host_offset: rng.ms(1_000_000_000..2_000_000_000),
            rate: if rng.chance(30) { 1_000_000 } else { rate },
            uncounted: 0,
            stands_at: None,
            paused_until: 0,
            fresh: false,
        }
    }

    /// Power is cut and comes back.
    pub(crate) fn restart(&mut self, now: Nanos) {
        self.boot_offset = 0;
        self.uncounted = now;
        self.stands_at = None;
        self.paused_until = now;
        self.fresh = true;
    }

    /// Whether this is the first cluster manager since the machine started.
    pub(crate) fn take_fresh(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }

    /// True time that the boot clock has counted.
    fn counted(&self, now: Nanos) -> Nanos {
        self.stands_at.filter(|_| self.paused(now)).unwrap_or_else(|| now - self.uncounted)
    }

    pub(crate) fn boot(&self, now: Nanos) -> Monotonic {
        Monotonic(self.boot_offset + scaled(self.counted(now), self.rate))
    }

    pub(crate) fn clocks(&self, now: Nanos) -> Clocks {
        // The host's clock is the better one; over one renewal the two stay together.
        Clocks { boot: self.boot(now), host: Monotonic(self.host_offset + now) }
    }

    /// The true time at which the boot clock will show `boot`, if nothing comes between.
    pub(crate) fn true_time(&self, boot: Monotonic) -> Nanos {
        let counted = u128::from(boot.0.saturating_sub(self.boot_offset)) * 1_000_000 / u128::from(self.rate);
        u64::try_from(counted).unwrap() + self.uncounted + 1
    }

    /// The hypervisor stops the VM. With `hidden` the guest's clock goes on afterwards as if nothing had been.
    pub(crate) fn pause(&mut self, now: Nanos, length: Nanos, hidden: bool) {
        self.stands_at = hidden.then(|| self.counted(now));
        self.paused_until = now + length;
        if hidden {
            self.uncounted += length;
        }
    }

    pub(crate) fn paused(&self, now: Nanos) -> bool {
        now < self.paused_until
    }
}

fn scaled(time: Nanos, rate: u64) -> u64 {
    u64::try_from(u128::from(time) * u128::from(rate) / 1_000_000).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_does_not_count_a_pause_stands_still() {
        let mut machine = Machine::new(&mut Rng::new(1));
        let before = machine.boot(100);
        machine.pause(100, 1_000_000, true);
        assert_eq!([machine.boot(200), machine.boot(1_000_099)], [before; 2]);
        assert_eq!(machine.boot(1_000_100), before);
        assert!(machine.boot(2_000_000) > before);
    }
}
