//! The voter's side of a lease.

use super::{LeaseAnswer, LeaseRequest};
use crate::state::ClusterState;
use crate::voters::Voters;
use alloc::{collections::BTreeMap, vec::Vec};
use base::{InstanceId, Monotonic, NodeId, VolumeId};
use control::settings::Timing;

/// This node's log, uncommitted entries included.
#[derive(Clone, Copy, Debug)]
pub struct LogView<'a> {
    /// The state that it adds up to ([`ClusterState::with_uncommitted`]).
    pub state: &'a ClusterState,
    /// The latest membership in it.
    pub voters: &'a Voters,
}

/// Answers lease requests. Keeps nothing that safety needs: what it grants follows from the log alone, so a voter that
/// restarts need not remember.
#[derive(Clone, Debug)]
pub struct Voter {
    me: NodeId,
    timing: Timing,
    granted: BTreeMap<VolumeId, Grant>,
}

#[derive(Clone, Copy, Debug)]
struct Grant {
    holder: NodeId,
    until: Monotonic,
}

impl Voter {
    /// The voter of node `me`.
    #[must_use]
    pub fn new(me: NodeId, timing: Timing) -> Self {
        Self { me, timing, granted: BTreeMap::new() }
    }

    /// To whom, and until when at most by this node's clock, `volume` was last granted here: for status and for
    /// telling a silent primary from a dead one, never for safety.
    #[must_use]
    pub fn granted(&self, volume: VolumeId) -> Option<(NodeId, Monotonic)> {
        self.granted.get(&volume).map(|grant| (grant.holder, grant.until))
    }

    /// S5: grants each volume that the log gives to the asker's storage process, if this node votes by the log and
    /// the asker counts by the same voters. Call it with a view that no append overtakes: one that was read after the
    /// request came in, under the same lock or in the same task that appends.
    pub fn handle_request(
        &mut self,
        request: &LeaseRequest,
        log: LogView<'_>,
        now: Monotonic,
    ) -> LeaseAnswer {
        let votes = log.voters.contains(self.me) && *log.voters == request.voters;
        let granted: Vec<VolumeId> = match request.instance {
            Some(instance) if votes => {
                let named = |volume: &&VolumeId| names(log.state, **volume, request.from, instance);
                request.volumes.iter().filter(named).copied().collect()
            }
            _ => Vec::new(),
        };
        for volume in &granted {
            let until = now + self.timing.lease;
            self.granted.insert(*volume, Grant { holder: request.from, until });
        }
        LeaseAnswer { from: self.me, incarnation: request.incarnation, sequence: request.sequence, granted }
    }
}

/// Whether `state` gives `volume` to this very storage process (S6).
fn names(state: &ClusterState, volume: VolumeId, node: NodeId, instance: InstanceId) -> bool {
    state.config(volume).is_some_and(|c| c.primary == Some(node) && c.primary_instance == instance)
}
