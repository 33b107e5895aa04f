//! The clocks that leases are counted by (S5).

use base::Monotonic;
use cluster::lease::Clocks;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Both clocks, now: `CLOCK_BOOTTIME`, which counts suspension, and the wall clock, which the hypervisor or time
/// synchronisation sets right after a pause that the guest did not notice.
pub(crate) fn now() -> Clocks {
    Clocks {
        boot: nanoseconds(clock_gettime(ClockId::Boottime)),
        host: nanoseconds(clock_gettime(ClockId::Realtime)),
    }
}

fn nanoseconds(time: Timespec) -> Monotonic {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let rest = u64::try_from(time.tv_nsec).unwrap_or(0);
    Monotonic(seconds.saturating_mul(1_000_000_000).saturating_add(rest))
}
