//! Volumes belong on one node: one portal stands before all of them and follows who serves. A failed disk, or a start at
//! which one copy of each is in sync on another node, can part them; whoever is out of reach of the portal is of no use
//! to the hosts. As soon as one node has a copy in sync of every volume, the others hand theirs over to it.
//!
//! Nothing here is needed for safety: what it asks for is an ordinary hand-over (S3).

use crate::state::ClusterState;
use alloc::{collections::BTreeMap, vec::Vec};
use base::{Epoch, Monotonic, NodeId, VolumeId};
use control::settings::Timing;

/// How many dead times nothing may have changed before anything is moved: promotions and resyncs come first.
const CALM: u32 = 4;

/// Decides when this node hands its volumes over to the one that serves the others.
#[derive(Clone, Debug)]
pub struct Placement {
    me: NodeId,
    timing: Timing,
    /// The epochs that were seen last, and since when they, or the last request, stand.
    epochs: Vec<(VolumeId, Epoch)>,
    since: Monotonic,
}

impl Placement {
    /// The policy of node `me`.
    #[must_use]
    pub fn new(me: NodeId, timing: Timing) -> Self {
        Self { me, timing, epochs: Vec::new(), since: Monotonic::default() }
    }

    /// A hand-over to ask for now: of which volume, to whom; the other volumes of this node go along. To be called every
    /// `renew`; asks again after a while if nothing came of it.
    pub fn poll(&mut self, now: Monotonic, state: &ClusterState) -> Option<(VolumeId, NodeId)> {
        let epochs: Vec<_> = state.volumes.iter().map(|(id, entry)| (*id, entry.config.epoch)).collect();
        if epochs != self.epochs {
            self.epochs = epochs;
            self.since = now;
        }
        if now < self.since + self.timing.dead * CALM {
            return None;
        }
        let to = gathering_node(state).filter(|node| *node != self.me)?;
        let (id, _) = state.volumes.iter().find(|(_, entry)| entry.config.primary == Some(self.me))?;
        self.since = now;
        Some((*id, to))
    }
}

/// Where parted volumes can be together: a primary that holds an in-sync copy of all that are served; of several the one
/// that serves most, then by name. `None`: they are together, or can't be.
#[must_use]
pub fn gathering_node(state: &ClusterState) -> Option<NodeId> {
    let mut served: BTreeMap<NodeId, usize> = BTreeMap::new();
    let configs =
        || state.volumes.values().map(|entry| &entry.config).filter(|config| config.primary.is_some());
    configs().filter_map(|config| config.primary).for_each(|node| *served.entry(node).or_default() += 1);
    if served.len() < 2 {
        return None;
    }
    let able = served.iter().filter(|(node, _)| configs().all(|config| config.in_sync.contains(node)));
    able.min_by_key(|(node, count)| (usize::MAX - **count, state.name_of(**node), **node))
        .map(|(node, _)| *node)
}

/// Whether volumes are served by different nodes: hosts reach those of one of them only.
#[must_use]
pub fn is_parted(state: &ClusterState) -> bool {
    let mut primaries = state.volumes.values().filter_map(|entry| entry.config.primary);
    primaries.next().is_some_and(|first| primaries.any(|other| other != first))
}
