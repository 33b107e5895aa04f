//! The clocks that leases are counted by (S5).

use cluster::lease::Clocks;

pub(crate) use transport::clock::now;

/// Both clocks, now.
pub(crate) fn clocks() -> Clocks {
    let (boot, host) = transport::clock::both();
    Clocks { boot, host }
}
