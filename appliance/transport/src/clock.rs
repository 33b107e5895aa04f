//! The clocks that leases are counted by (S5), read in one place: everything else takes time as a parameter.

use base::Monotonic;
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::time::Duration;

/// Two clocks read within this time are read together.
const TOGETHER: Duration = Duration::from_millis(1);
/// A thread that is interrupted between the two readings tries again so often.
const TRIES: u32 = 8;

/// `CLOCK_BOOTTIME`: goes on while the machine is suspended; shared by all processes of one machine.
#[must_use]
pub fn now() -> Monotonic {
    nanoseconds(clock_gettime(ClockId::Boottime))
}

/// Two clocks of this machine: [`now`], and the wall clock, which the hypervisor or time synchronisation sets right
/// after a pause that the guest did not notice.
///
/// A thread that loses its processor between the two readings would see them apart, as after a pause; so they are read
/// again until they were read together. If that never comes about, the difference stands, and costs a lease, no more.
#[must_use]
pub fn both() -> (Monotonic, Monotonic) {
    let mut clocks = (now(), wall());
    for _ in 0..TRIES {
        if now().since(clocks.0) <= TOGETHER {
            break;
        }
        clocks = (now(), wall());
    }
    clocks
}

fn wall() -> Monotonic {
    nanoseconds(clock_gettime(ClockId::Realtime))
}

fn nanoseconds(time: Timespec) -> Monotonic {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let rest = u64::try_from(time.tv_nsec).unwrap_or(0);
    Monotonic(seconds.saturating_mul(1_000_000_000).saturating_add(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_forward() {
        let first = now();
        let (boot, wall) = both();
        assert!(boot >= first && first.0 > 0);
        assert!(wall.0 > 1_600_000_000_000_000_000);
    }
}
