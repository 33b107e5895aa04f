//! The clocks that leases are counted by (S5).

use cluster::lease::Clocks;

/// Both clocks, now.
pub(crate) fn now() -> Clocks {
    let (boot, host) = transport::clock::both();
    Clocks { boot, host }
}
