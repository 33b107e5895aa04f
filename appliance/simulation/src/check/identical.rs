//! I3: when quiet, all in-sync replicas are byte-identical.

use super::{Checked, violation};
use crate::disk::Disk;

/// Compares two in-sync copies of which nothing is under way, up to block `end`.
pub(crate) fn identical(a: &Disk, b: &Disk, end: u64) -> Checked {
    for (block, value) in a.content().chain(b.content()).filter(|(block, _)| *block < end) {
        if a.value(block) != b.value(block) {
            let (x, y) = (a.value(block), b.value(block));
            return violation("I3", format!("block {block} (value {value:x}): a holds {x:x}, b holds {y:x}"));
        }
    }
    Ok(())
}
