//! The clocks of this machine, read in one place so that everything else takes time as a parameter.

use base::Monotonic;
use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_BOOTTIME`: goes on while the machine is suspended; shared by all processes of one machine.
pub(crate) fn now() -> Monotonic {
    read(ClockId::Boottime)
}

/// `CLOCK_REALTIME`, as nanoseconds since the Unix epoch. Only its *rate* against [`now`] is used: a hypervisor
/// that pauses the VM may leave every guest clock running on, but sets this one right afterwards (S5).
pub(crate) fn host() -> Monotonic {
    read(ClockId::Realtime)
}

fn read(clock: ClockId) -> Monotonic {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    Monotonic(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}

#[cfg(test)]
mod tests {
    #[test]
    fn time_goes_forward() {
        let first = super::now();
        assert!(super::now() >= first && first.0 > 0);
        assert!(super::host().0 > 1_600_000_000_000_000_000);
    }
}
