//! The clocks that leases are counted by (S5).

use base::Monotonic;
use cluster::lease::Clocks;
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::time::Duration;

/// Two clocks read within this time are read together.
const TOGETHER: Duration = Duration::from_millis(1);
/// A thread that is interrupted between the two readings tries again so often.
const TRIES: u32 = 8;

/// Both clocks, now: `CLOCK_BOOTTIME`, which counts suspension, and the wall clock, which the hypervisor or time
/// synchronisation sets right after a pause that the guest did not notice.
///
/// A thread that loses its processor between the two readings would see them apart, as after a pause; so they are read
/// again until they were read together. If that never comes about, the difference stands, and costs a lease, no more.
pub(crate) fn now() -> Clocks {
    let mut clocks = read();
    for _ in 0..TRIES {
        if read_boot().since(clocks.boot) <= TOGETHER {
            break;
        }
        clocks = read();
    }
    clocks
}

fn read() -> Clocks {
    Clocks { boot: read_boot(), host: nanoseconds(clock_gettime(ClockId::Realtime)) }
}

fn read_boot() -> Monotonic {
    nanoseconds(clock_gettime(ClockId::Boottime))
}

fn nanoseconds(time: Timespec) -> Monotonic {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let rest = u64::try_from(time.tv_nsec).unwrap_or(0);
    Monotonic(seconds.saturating_mul(1_000_000_000).saturating_add(rest))
}
