//! Committed configurations and proposals: which epoch this copy acts in, and as what (S2, S3, S4, S6, S8, S21).
//!
//! Invariants
//! - `floor` never falls. Nothing is answered, to clients or the peer, in an epoch below it (S4).
//! - The superblock holds an epoch before anything is done in it.
//! - `primary` is true only while the newest known configuration names this node *and this instance* (S6).

use alloc::collections::BTreeSet;
use base::{Change, Epoch, EpochReason, Monotonic, Proposal, ProposalId, VolumeConfig};

use crate::api::{Buffer, Command, Problem};
use crate::job::Job;
use crate::replica::Replica;
use crate::sabotage::Sabotage;

/// A proposal whose outcome is not known yet (S21).
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) proposal: Proposal,
    pub(crate) sent: Monotonic,
}

impl<B: Buffer> Replica<B> {
    /// This node was primary in `epoch`, committed, before its machine started: whatever served in it ended with that, and
    /// a promotion that follows it has nobody's lease to wait for but those that ran before it (S5).
    pub fn handle_ended(&mut self, epoch: Option<Epoch>) {
        self.ended = epoch;
    }

    /// The committed configuration, as read or as changed. Older or equal ones are ignored. One of a size that there is no
    /// room for is only noted: it is to be told again after [`Self::handle_room`].
    pub fn handle_config(&mut self, now: Monotonic, config: &VolumeConfig) {
        self.advance(now);
        let old = self.known.as_ref().map_or(Epoch(0), |known| known.epoch);
        if config.volume != self.identity.volume || config.epoch < self.floor || config.epoch <= old {
            return;
        }
        if let Some(what) = self.unsupported(config) {
            self.problem(Problem::Unsupported(what));
            self.learn(config.epoch);
            self.step_down();
        } else if config.size > self.room() {
            // S22: nothing is done in this epoch before its size has room here; the driver then tells it again.
            self.learn(config.epoch);
            self.step_down();
            self.save_superblock();
        } else {
            self.learn_config(config);
        }
        self.pump();
    }

    fn unsupported(&self, config: &VolumeConfig) -> Option<&'static str> {
        if config.replicas.len() > 2 {
            return Some("more than two replicas of a volume");
        }
        if !config.replicas.contains(&self.identity.node) {
            return Some("a replica on a node that the configuration does not name");
        }
        if config.write_back {
            return Some("a write-back cache");
        }
        if config.size < self.layout.size {
            return Some("a volume that becomes smaller");
        }
        self.layout.at_size(config.size).is_none().then_some("a volume of this size")
    }

    /// Raises the floor: an epoch has been heard of. Whatever was to happen in a lower one does not happen any more.
    pub(crate) fn learn(&mut self, epoch: Epoch) {
        if epoch <= self.floor {
            return;
        }
        self.floor = epoch;
        self.superblock.epoch = epoch;
        self.proposals.retain(|pending| pending.proposal.expected >= epoch);
        if self.link.as_ref().is_some_and(|link| link.epoch < epoch) && !self.obeys_stale() {
            self.drop_link();
        }
    }

    /// Sabotage of S4 on a secondary: the old session lives on.
    fn obeys_stale(&self) -> bool {
        self.breaks(Sabotage::ObeyStale) && !self.primary
    }

    fn learn_config(&mut self, config: &VolumeConfig) {
        let me = self.identity.node;
        // S6: a restarted process is another instance, whatever the state says of its node.
        let named = config.primary == Some(me)
            && (config.primary_instance == self.options.instance || self.breaks(Sabotage::ServeAfterRestart));
        if self.primary && !named {
            self.step_down();
        }
        // From here on only this configuration counts: a grow or hand-over of an earlier epoch has ended (S8, S3).
        self.growing = false;
        self.gave_up = false;
        self.enlarge(config.size);
        let became_primary = named && !self.primary;
        self.primary = named;
        self.known = Some(config.clone());
        self.learn(config.epoch);
        self.adopting = true;
        // Learned from the peer's Hello before: the session stays if the peer is the primary of this epoch.
        if self.link.as_ref().is_some_and(|link| !link.dialled && Some(link.peer) != config.primary)
            && !self.obeys_stale()
        {
            self.drop_link();
        }
        if became_primary {
            self.become_primary(config);
        }
        if named {
            self.superblock.data_epoch = config.epoch;
        }
        // S10: only a later epoch with this copy in sync voids the mark.
        if config.in_sync.contains(&me) && config.epoch > self.superblock.inconsistent {
            self.superblock.inconsistent = Epoch(0);
        }
        self.closing_epoch();
        self.save_superblock();
    }

    fn become_primary(&mut self, config: &VolumeConfig) {
        self.not_before = self.serves_from(config);
        self.lease = None;
        self.draining = true;
        self.convert_log();
    }

    /// S5: until when the old primary's lease may run, whose successor `config` makes of this copy.
    fn serves_from(&self, config: &VolumeConfig) -> Monotonic {
        let wait = self.options.timing.lease + self.options.timing.drift;
        let follows_ended = self.ended.is_some_and(|ended| config.epoch == ended.next());
        match config.reason {
            // It gave its lease up before.
            EpochReason::HandedOver => self.now,
            // There was none in epoch 1, the volume's creation.
            EpochReason::Promoted if config.epoch == Epoch(2) => self.now,
            EpochReason::Promoted if follows_ended && self.breaks(Sabotage::IgnoreUptime) => self.now,
            // Leases of the epochs before the one that ended: it was committed before the clock began to count.
            EpochReason::Promoted if follows_ended => self.now.max(Monotonic(0) + wait),
            _ => self.now + wait,
        }
    }

    /// Not primary any more: no answer leaves, nothing new starts, what the disk works on ends without consequence.
    pub(crate) fn step_down(&mut self) {
        self.stop_serving();
        self.primary = false;
        self.growing = false;
        self.proposals.clear();
        if self.link.as_ref().is_some_and(|link| link.dialled) {
            self.drop_link();
        }
        self.resync = None;
        self.down_since = None;
        self.dialling = None;
        for key in self.jobs.keys() {
            self.abandon(key);
        }
    }

    /// Ends a job without answer or effect: at once, or when its disk operation ends.
    pub(crate) fn abandon(&mut self, key: u64) {
        if self.breaks(Sabotage::ObeyStale) && self.jobs.get(key).is_some_and(Job::writes_disk) {
            // Forgotten, though the disk still writes it.
            self.data_writes = self.data_writes.saturating_sub(1);
            return self.remove(key);
        }
        match self.jobs.get_mut(key) {
            Some(job) if job.on_disk() => job.doomed = true,
            Some(_) => self.remove(key),
            None => {}
        }
    }

    /// The superblock is durable: if that makes the newest configuration effective, act in it.
    pub(crate) fn adopted_if_durable(&mut self) {
        let newest = self.known.as_ref().is_some_and(|config| config.epoch == self.floor);
        if !self.adopting || !newest || self.durable_epoch < self.floor || self.resizing.is_under_way() {
            return;
        }
        self.adopting = false;
        self.open_size();
        if self.primary {
            // S11: it failed while it was in doubt whether the peer is in sync (S8), and it is.
            if self.peer_in_sync() && self.jobs.iter().any(|(_, job)| job.write_failed()) {
                return self.fail(false);
            }
            self.redial_at = self.now;
            self.down_since = (self.peer_required() && self.link.is_none()).then_some(self.now);
            for key in self.jobs.keys() {
                self.offer(key);
                self.settle(key);
            }
        }
    }

    /// Proposes a change of the present epoch, unless just that is pending.
    pub(crate) fn propose(&mut self, change: Change) {
        let Some(config) = self.known.as_ref() else { return };
        if self.proposals.iter().any(|pending| pending.proposal.change == change) {
            return;
        }
        let id = ProposalId {
            proposer: self.identity.node,
            instance: self.options.instance,
            number: self.next_number,
        };
        self.next_number += 1;
        let proposal = Proposal { id, volume: config.volume, expected: config.epoch, change };
        self.proposals.push(Pending { proposal: proposal.clone(), sent: self.now });
        self.emit(Command::Propose(proposal));
    }

    /// S2: go on alone. Not with a disk that failed or hangs: that copy must not stay alone (S11).
    pub(crate) fn propose_shrink(&mut self) {
        let newest = self.known.as_ref().is_some_and(|config| config.epoch == self.floor);
        if newest && self.primary && !self.failed && !self.watch.aside {
            self.propose(Change::Shrink { keep: BTreeSet::from([self.identity.node]) });
        }
    }

    /// The proposal `number` was refused for another reason than its epoch and will never be applied.
    ///
    /// A grow or hand-over stays in doubt all the same: only a later epoch ends that (S3, S8).
    pub fn handle_refused(&mut self, now: Monotonic, number: u64) {
        self.advance(now);
        let shrink = |pending: &Pending| matches!(pending.proposal.change, Change::Shrink { .. });
        let refused = self.proposals.iter().position(|pending| pending.proposal.id.number == number);
        if let Some(at) = refused {
            let pending = self.proposals.remove(at);
            if matches!(pending.proposal.change, Change::Resize { .. }) {
                self.size_refused();
            } else if !shrink(&pending) && self.primary {
                self.resolve_doubt();
            }
        }
        self.pump();
    }

    /// Ends the doubt about a grow or hand-over that may or may not be committed: a shrink to the present in-sync set
    /// raises the epoch, so that only one of them can (S2).
    pub(crate) fn resolve_doubt(&mut self) {
        if let Some(keep) = self.known.as_ref().map(|config| config.in_sync.clone()) {
            self.propose(Change::Shrink { keep });
        }
    }

    /// Sends proposals again that nobody has answered.
    pub(crate) fn repeat_proposals(&mut self) {
        let (now, again) = (self.now, self.options.timing.renew);
        for pending in &mut self.proposals {
            if now >= pending.sent + again {
                pending.sent = now;
                self.out.push_back(Command::Propose(pending.proposal.clone()));
            }
        }
    }
}
