//! What would be lost with this node, by what it last said. Pure.

use crate::model::Snapshot;
use control::api::VolumeStatus;

/// What the node serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serving {
    /// This volume, maybe others too.
    Volume(String),
    /// No volume.
    Nothing,
    /// It does not say.
    Unknown,
}

/// What the node called `name` serves.
#[must_use]
pub fn serving(name: &str, known: Option<&Snapshot>) -> Serving {
    let Some(known) = known else { return Serving::Unknown };
    let own = |volume: &&VolumeStatus| volume.primary.as_deref() == Some(name);
    match known.status.volumes.iter().find(own) {
        Some(volume) => Serving::Volume(volume.name.clone()),
        None => Serving::Nothing,
    }
}

/// Why the clock of a node that serves `volume` is not set: leases are judged by it, too (S5).
#[must_use]
pub fn clock_of_primary(volume: &str) -> String {
    format!(
        "This node serves {volume}, and its right to serve is timed by this clock, too:\n\
         a step would end it, and hosts would wait. Hand over first (H)."
    )
}
