//! What the cluster manager tells.

use base::VolumeId;
use cluster::lease::Guard;
use control::link::{CommittedState, ToCluster, ToStorage};

use super::moving::Move;
use super::{Engine, clock};
use crate::link::LinkEvent;

impl Engine {
    pub(super) fn handle_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up => {
                self.last_report = None;
                self.repeat_reservations_now();
            }
            LinkEvent::Down => {}
            LinkEvent::Message(message) => self.handle_message(*message),
        }
    }

    fn handle_message(&mut self, message: ToStorage) {
        let now = clock::now();
        match message {
            ToStorage::State(state) => self.handle_state(*state),
            ToStorage::Lease(lease) => {
                if let Some(guard) = &mut self.guard {
                    guard.handle_lease(lease, clock::clocks());
                }
                self.judge_leases();
            }
            ToStorage::HandOver { volume, to, instance } if self.volumes.contains_key(&volume) => {
                self.move_later(Move::HandOver { volume, to, instance });
            }
            ToStorage::HandOver { volume, .. } => self.tell_not_open(volume),
            ToStorage::Refused { volume, number, reason } => {
                tracing::warn!(%volume, number, reason, "proposal refused");
                if let Some(volume) = self.volumes.get_mut(&volume) {
                    volume.replica.handle_refused(now, number);
                }
            }
            ToStorage::ReservationRefused { volume, number, reason } => {
                self.handle_reservation_refused(volume, number, &reason);
            }
            ToStorage::Stop => self.handle_stop(),
        }
    }

    /// There is nothing to hand over.
    pub(super) fn tell_not_open(&self, volume: VolumeId) {
        let reason = "the volume is not open on this node".into();
        self.tell(ToCluster::HandOverFailed { volume, reason });
    }

    fn handle_state(&mut self, state: CommittedState) {
        if self.guard.is_none() {
            self.guard = Some(Guard::new(self.instance, state.timing));
        }
        let pins = state
            .members
            .iter()
            .filter_map(|member| Some((member.certificate_sha256.parse().ok()?, member.node)));
        self.peers.set_members(pins);
        self.opener.set_levels(state.levels);
        self.opener.set_owner(state.cluster, state.node);
        for volume in &state.volumes {
            let id = volume.config.volume;
            match self.volumes.get_mut(&id) {
                Some(open) => {
                    open.name.clone_from(&volume.name);
                    open.config = volume.config.clone();
                    if open.config.in_sync == open.config.replicas {
                        open.forget_passing_problems();
                    }
                    open.wanted_size = volume.wanted_size;
                    open.replica.handle_version(clock::now(), state.levels.metadata);
                    open.replica.handle_ended(volume.ended);
                    open.replica.handle_config(clock::now(), &volume.config);
                    open.replica.handle_wanted(clock::now(), volume.wanted_size);
                }
                None => self.opener.open(volume),
            }
        }
        for id in &state.deleted {
            match self.volumes.get_mut(id) {
                // Its space is freed once nothing of it is in flight.
                Some(volume) => volume.replica.handle_stop(clock::now()),
                None => self.opener.free(*id),
            }
        }
        self.portal.set_targets(&state, |id| Some(self.volumes.get(&id)?.replica.size()));
        self.settle_reservations(&state);
        self.state = Some(state);
    }
}
