//! I4: every member of the committed in-sync set holds every acknowledged write, at every instant, whatever crash comes
//! next.

use super::{Checked, Registers, violation};
use crate::disk::Disk;

/// `disk` belongs to the in-sync node `name`.
pub(crate) fn in_sync_hold_everything(name: &str, disk: &Disk, registers: &Registers) -> Checked {
    for block in registers.touched() {
        let value = disk.durable(block);
        if !registers.allows(block, value) {
            let possible = registers.possible(block);
            return violation(
                "I4",
                format!("in-sync node {name}, block {block}: holds {value:x}, not of {possible:x?}"),
            );
        }
    }
    Ok(())
}
