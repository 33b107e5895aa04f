//! Changes of persistent reservations, from the target to the cluster and back (S15, S21).
//!
//! A change is proposed under its number until the committed state shows what became of it. Another epoch under this same
//! primary (a peer left or joined) has refused it for good, so it is proposed anew, under a new number.
//!
//! Invariants
//! - Each volume has at most one change under way; it was asked for while the volume was served here.
//! - A change is answered "done" only on a committed state that says that this very proposal made it, and, as every answer,
//!   only under a valid lease (S5).
//! - When the service of a volume ends, its change is answered "not served": whether it will be committed is not known,
//!   and whoever serves next reads it from the committed state.

use std::collections::BTreeMap;

use base::{
    CommittedReservations, Monotonic, NodeId, ProposalId, ReservationProposal, Reservations, VolumeId,
};
use control::link::{CommittedState, ToCluster};

use super::{Engine, clock};
use crate::target::{Reply, RequestId};

/// A change that waits to be committed.
struct Waiting {
    request: RequestId,
    proposal: ReservationProposal,
    sent: Monotonic,
}

/// Every volume's change.
#[derive(Default)]
pub(super) struct ReservationRequests {
    waiting: BTreeMap<VolumeId, Waiting>,
    numbers: u64,
}

/// What a committed state says of a change.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// Nothing yet.
    Open,
    Committed,
    /// Its epoch is over and it was not applied: it never will be.
    Outdated,
    /// Another change took its revision.
    Contended,
    /// Another storage process is primary.
    NotPrimary,
}

impl Engine {
    /// An initiator's command asks for a change.
    pub(super) fn start_reservation(&mut self, request: RequestId, volume: VolumeId, next: Reservations) {
        let node = self.state.as_ref().map(|state| state.node);
        let open = self.volumes.get(&volume).filter(|open| open.serving && open.lease_until.is_some());
        let (Some(node), Some(open)) = (node, open) else {
            return self.portal.complete(request, Reply::NotServed);
        };
        // The device server asks for one at a time; one that it has forgotten (the unit was set up anew) may be left.
        if self.reservations.waiting.contains_key(&volume) {
            return self.portal.complete(request, Reply::Contended);
        }
        let id = self.reservations.next_id(node, self.instance);
        let proposal = ReservationProposal { id, volume, expected: open.config.epoch, next };
        self.tell(ToCluster::Reserve(proposal.clone()));
        self.reservations.waiting.insert(volume, Waiting { request, proposal, sent: clock::now() });
    }

    /// Answers the changes that `state` decides, and proposes anew those that it has outdated.
    pub(super) fn settle_reservations(&mut self, state: &CommittedState) {
        let volumes: Vec<VolumeId> = self.reservations.waiting.keys().copied().collect();
        for id in volumes {
            let Some(waiting) = self.reservations.waiting.get(&id) else { continue };
            let volume = state.volumes.iter().find(|volume| volume.config.volume == id);
            let fate = volume.map_or(Fate::NotPrimary, |volume| fate(&waiting.proposal, volume));
            match (fate, volume) {
                (Fate::Open, _) => {}
                (Fate::Committed, _) => self.answer_reservation(id, Reply::Done),
                (Fate::Contended, _) => self.answer_reservation(id, Reply::Contended),
                (Fate::Outdated, Some(volume)) => self.propose_again(id, state.node, volume.config.epoch),
                (Fate::NotPrimary | Fate::Outdated, _) => self.drop_reservation(id),
            }
        }
    }

    fn propose_again(&mut self, volume: VolumeId, node: NodeId, epoch: base::Epoch) {
        let number = self.reservations.next_id(node, self.instance);
        let Some(waiting) = self.reservations.waiting.get_mut(&volume) else { return };
        waiting.proposal.id = number;
        waiting.proposal.expected = epoch;
        waiting.sent = clock::now();
        let proposal = waiting.proposal.clone();
        self.tell(ToCluster::Reserve(proposal));
    }

    /// The voters refuse it as it is: a defect here, for the log.
    pub(super) fn handle_reservation_refused(&mut self, volume: VolumeId, number: u64, reason: &str) {
        let waiting = self.reservations.waiting.get(&volume);
        if waiting.is_some_and(|waiting| waiting.proposal.id.number == number) {
            tracing::warn!(%volume, number, reason, "change of reservations refused");
            self.answer_reservation(volume, Reply::Failed);
        }
    }

    /// The volume is not served here any more.
    pub(super) fn drop_reservation(&mut self, volume: VolumeId) {
        if let Some(waiting) = self.reservations.waiting.remove(&volume) {
            self.portal.complete(waiting.request, Reply::NotServed);
        }
    }

    fn answer_reservation(&mut self, volume: VolumeId, reply: Reply) {
        let Some(waiting) = self.reservations.waiting.remove(&volume) else { return };
        let reply = if self.may_answer(volume) { reply } else { Reply::NotServed };
        self.portal.complete(waiting.request, reply);
    }

    /// Sends again what was not decided within the time of a renewal.
    pub(super) fn repeat_reservations(&mut self) {
        let Some(renew) = self.state.as_ref().map(|state| state.timing.renew) else { return };
        let now = clock::now();
        let due = |waiting: &Waiting| now.since(waiting.sent) >= renew;
        for proposal in self.reservations.repeat(now, due) {
            self.tell(ToCluster::Reserve(proposal));
        }
    }

    /// The link is up again: what was sent before may be lost.
    pub(super) fn repeat_reservations_now(&mut self) {
        for proposal in self.reservations.repeat(clock::now(), |_| true) {
            self.tell(ToCluster::Reserve(proposal));
        }
    }
}

impl ReservationRequests {
    fn next_id(&mut self, proposer: NodeId, instance: base::InstanceId) -> ProposalId {
        self.numbers = self.numbers.saturating_add(1);
        ProposalId { proposer, instance, number: self.numbers }
    }

    fn repeat(&mut self, now: Monotonic, due: impl Fn(&Waiting) -> bool) -> Vec<ReservationProposal> {
        let due = self.waiting.values_mut().filter(|waiting| due(waiting));
        due.map(|waiting| {
            waiting.sent = now;
            waiting.proposal.clone()
        })
        .collect()
    }
}

/// What has become of `proposal`, by a state that holds `volume`.
fn fate(proposal: &ReservationProposal, volume: &control::link::Volume) -> Fate {
    let (config, CommittedReservations { state, made_by }) = (&volume.config, &volume.reservations);
    let id = proposal.id;
    if *made_by == Some(id) {
        Fate::Committed
    } else if config.primary != Some(id.proposer) || config.primary_instance != id.instance {
        Fate::NotPrimary
    } else if state.revision.checked_add(1) != Some(proposal.next.revision) {
        Fate::Contended
    } else if config.epoch == proposal.expected {
        Fate::Open
    } else {
        Fate::Outdated
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{ByteCount, Epoch, EpochReason, InstanceId, VolumeConfig};
    use control::link::Volume;

    const ME: NodeId = NodeId(1);

    fn id(number: u64) -> ProposalId {
        ProposalId { proposer: ME, instance: InstanceId(11), number }
    }

    /// In epoch 2, served by this process, with nothing reserved yet.
    fn volume() -> Volume {
        Volume {
            name: "demo".into(),
            config: VolumeConfig {
                volume: VolumeId(9),
                epoch: Epoch(2),
                primary: Some(ME),
                primary_instance: InstanceId(11),
                reason: EpochReason::Promoted,
                in_sync: [ME].into(),
                replicas: [ME].into(),
                size: ByteCount::mib(1),
                write_back: false,
            },
            wanted_size: None,
            ended: None,
            presentation: control::targets::Presentation::default(),
            reservations: CommittedReservations::default(),
        }
    }

    fn committed(number: u64) -> CommittedReservations {
        let state = Reservations { revision: 1, generation: 1, ..Reservations::default() };
        CommittedReservations { state, made_by: Some(id(number)) }
    }

    #[test]
    fn the_committed_state_tells_what_became_of_a_change() {
        let proposal = ReservationProposal {
            id: id(3),
            volume: VolumeId(9),
            expected: Epoch(2),
            next: committed(3).state,
        };
        type Change = fn(&mut Volume);
        let cases: [(Change, Fate); 8] = [
            (|_| {}, Fate::Open),
            (|volume| volume.reservations = committed(3), Fate::Committed),
            (
                |volume| {
                    volume.reservations = committed(3);
                    volume.config.epoch = Epoch(3);
                    volume.config.primary = Some(NodeId(2));
                },
                Fate::Committed,
            ),
            (|volume| volume.config.epoch = Epoch(3), Fate::Outdated),
            (|volume| volume.reservations = committed(2), Fate::Contended),
            (
                |volume| {
                    volume.reservations = committed(2);
                    volume.config.epoch = Epoch(3);
                },
                Fate::Contended,
            ),
            (|volume| volume.config.primary = Some(NodeId(2)), Fate::NotPrimary),
            (|volume| volume.config.primary_instance = InstanceId(12), Fate::NotPrimary),
        ];
        for (number, (change, expected)) in cases.into_iter().enumerate() {
            let mut volume = volume();
            change(&mut volume);
            assert_eq!(fate(&proposal, &volume), expected, "case {number}");
        }
    }
}
