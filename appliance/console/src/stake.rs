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

/// What a reset of the node called `name` would cost others, a sentence each; none: nothing that is not elsewhere, too.
#[must_use]
pub fn lost_by_reset(name: &str, known: Option<&Snapshot>) -> Vec<String> {
    let Some(known) = known else {
        return vec!["The node does not say what it holds: it may be the only copy of a volume.".into()];
    };
    let members = known.status.cluster.iter().flat_map(|cluster| &cluster.members);
    let others: Vec<&str> =
        members.filter(|member| member.online && member.name != name).map(|member| &*member.name).collect();
    let lost = known.status.volumes.iter().filter_map(|volume| {
        let safe = volume.in_sync.iter().any(|node| others.contains(&node.as_str()));
        let serves = volume.primary.as_deref() == Some(name);
        match (safe, serves) {
            (false, _) if volume.replicas.iter().any(|node| node == name) => {
                Some(format!("No other node that answers has {} in sync: ITS DATA MAY BE LOST.", volume.name))
            }
            (_, true) => {
                Some(format!("This node serves {}: its hosts wait until another does.", volume.name))
            }
            (_, false) => None,
        }
    });
    lost.collect()
}
