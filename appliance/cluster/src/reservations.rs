//! Persistent reservations of a volume: who may change them, and on what (S15, S21).
//!
//! Invariants
//! - A change applies only in the epoch that it names, proposed by that epoch's primary with the storage process that the
//!   epoch is for, and only on the revision before its own. So two changes never apply to one revision, none applies
//!   twice, and none at all once another node, or another start of the same, became primary.
//! - The epoch stays: reservations are no part of who serves.

use crate::command::{Outcome, Refusal, RefusalKind};
use crate::state::ClusterState;
use alloc::{format, string::String, vec::Vec};
use base::{CommittedReservations, ReservationProposal};

impl ClusterState {
    /// Applies a change of one volume's reservations.
    pub(crate) fn reserve(&mut self, proposal: &ReservationProposal) -> Result<Outcome, Refusal> {
        let Some(entry) = self.volumes.get_mut(&proposal.volume) else {
            let text = format!("volume {} does not exist", proposal.volume);
            return Err(Refusal::new(RefusalKind::NotFound, text));
        };
        let (config, present) = (&entry.config, &entry.reservations);
        let id = proposal.id;
        let refused = |text: String| {
            Err(Refusal::new(RefusalKind::Refused, format!("volume {}: reservations: {text}", entry.name)))
        };
        if present.made_by == Some(id) {
            return Ok(Outcome::Repeated { made: Some(config.epoch) });
        }
        if proposal.expected != config.epoch {
            return Ok(Outcome::Stale { epoch: config.epoch });
        }
        if config.primary != Some(id.proposer) || config.primary_instance != id.instance {
            return refused("proposed by a storage process that is not the primary".into());
        }
        if present.state.revision.checked_add(1) != Some(proposal.next.revision) {
            return refused(format!(
                "revision {} was proposed after revision {}",
                proposal.next.revision, present.state.revision
            ));
        }
        if let Err(breach) = proposal.next.check() {
            return refused(breach.into());
        }
        entry.reservations = CommittedReservations { state: proposal.next.clone(), made_by: Some(id) };
        Ok(Outcome::Applied { notes: Vec::new() })
    }
}
