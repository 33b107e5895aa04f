//! I2: at no instant do two nodes serve the volume.

use super::{Checked, violation};

/// Who could answer an initiator at this instant.
pub(crate) fn single_server(names: &[&str]) -> Checked {
    match names {
        [] | [_] => Ok(()),
        _ => violation("I2", format!("{} serve at the same time", names.join(" and "))),
    }
}
