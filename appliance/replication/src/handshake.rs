//! How a session opens (S4, S7, S10).
//!
//! The primary dials, then:
//!
//! ```text
//! primary                                   secondary
//! Hello ───────────────────────────────────▶ earlier writes end, epoch durable (S4)
//!       ◀─────────────────────────── HelloAck
//!   in sync: the copy continues where it was, nothing else to exchange
//!   else:◀───────────── Runs … (dirty blocks and logged extents of the secondary, S7)
//!       union durable in the primary's bitmap
//! RunsTaken ───────────────────────────────▶ in sync: notes the epoch; else: marked inconsistent (S10),
//!                                             forgets its part; all durable
//!       ◀────────────────────────────── Ready
//! Open: Write, Zero, Resync ⇄ Ack
//! ```
//!
//! Invariants
//! - The secondary acknowledges only when writes accepted earlier have ended and the epoch is durable (S4).
//! - It forgets its part only when that is durable at the primary, and it is marked inconsistent (S7, S10).

use alloc::vec::Vec;
use base::Epoch;

use crate::api::{Buffer, Command, Problem};
use crate::frame::{Frame, Greeting, MAX_RUNS, Message, RefuseReason, Run};
use crate::replica::Replica;
use crate::sabotage::Sabotage;
use crate::session::{Incoming, Link, Phase};
use crate::superblock::PeerMark;

impl<B: Buffer> Replica<B> {
    // The secondary opens.

    pub(crate) fn first_frame(&mut self, incoming: Incoming, frame: &Frame) {
        let Message::Hello(greeting) = frame.message else {
            self.problem(Problem::Protocol("a session that does not begin with Hello"));
            return self.emit(Command::Close { session: incoming.session });
        };
        if let Err(reason) = self.judge(incoming, frame, &greeting) {
            self.emit_frame(incoming.session, self.floor, 1, Message::Refuse(reason), None);
            return self.emit(Command::Close { session: incoming.session });
        }
        // First of all, so that nothing of a lower epoch is answered any more (S4).
        self.learn(frame.epoch);
        self.drop_link();
        if self.primary {
            // The peer is primary of a higher epoch: this node is not primary any more.
            self.step_down();
        }
        let mut link = self.new_link(incoming.session, incoming.peer, false, greeting.in_sync, frame.epoch);
        link.greeting = Some(greeting);
        link.received = 1;
        self.link = Some(link);
    }

    fn judge(&self, incoming: Incoming, frame: &Frame, greeting: &Greeting) -> Result<(), RefuseReason> {
        let me = &self.identity;
        let stranger = greeting.cluster != me.cluster
            || frame.volume != me.volume
            || frame.session != incoming.session
            || greeting.node != incoming.peer
            || greeting.node == me.node
            || frame.number != 1;
        if stranger {
            return Err(RefuseReason::Identity);
        }
        if frame.epoch < self.floor && !self.breaks(Sabotage::ObeyStale) {
            return Err(RefuseReason::Epoch);
        }
        if greeting.size > self.layout.size {
            // S22: this side has not learned, or has no room for, the size of that epoch yet.
            return Err(RefuseReason::Size);
        }
        if greeting.size < self.layout.size {
            return Err(RefuseReason::Identity);
        }
        if self.failed || self.watch.aside || self.is_ending() {
            return Err(RefuseReason::Unusable);
        }
        let other_primary = self.known.as_ref().is_some_and(|config| {
            config.epoch == frame.epoch
                && (config.primary != Some(greeting.node) || config.primary_instance != greeting.instance)
        });
        if other_primary && !self.breaks(Sabotage::ServeAfterRestart) {
            return Err(RefuseReason::NotPrimary);
        }
        Ok(())
    }

    /// Runs the steps of opening that waited for the disk.
    pub(crate) fn session_progress(&mut self) {
        let Some(link) = self.link.as_ref() else { return };
        let (phase, in_sync) = (link.phase, link.in_sync);
        let next = match phase {
            Phase::Draining => self.drained(),
            Phase::SavingEpoch(change) if self.superblock_record.is_durable(change) => {
                self.epoch_saved(in_sync)
            }
            Phase::Marking(change) if self.superblock_record.is_durable(change) => self.marked(in_sync),
            Phase::Forgetting if self.bitmap.all_saved(true) && self.log.record.is_clean() => self.ready(),
            Phase::SavingRuns if self.bitmap.awaited_saved() => self.runs_saved(),
            Phase::SavingMark(change) if self.superblock_record.is_durable(change) => self.take(),
            _ => return,
        };
        if next != phase {
            self.set_phase(next);
            self.session_progress();
        }
    }

    fn set_phase(&mut self, phase: Phase) {
        if let Some(link) = self.link.as_mut() {
            link.phase = phase;
        }
    }

    /// S4: writes accepted earlier, of whatever role, have ended on disk, unanswered; then the epoch is made durable.
    fn drained(&mut self) -> Phase {
        let quiet = self.data_writes == 0 && !self.jobs.iter().any(|(_, job)| job.on_disk());
        let settled = self.converting.is_none() && !self.resizing.is_under_way();
        if (quiet || self.breaks(Sabotage::ObeyStale)) && settled {
            Phase::SavingEpoch(self.save_superblock())
        } else {
            Phase::Draining
        }
    }

    fn epoch_saved(&mut self, in_sync: bool) -> Phase {
        let clean = self.log.is_empty() && self.bitmap.dirty() == 0;
        let ack = Message::HelloAck(self.my_greeting(clean));
        self.send(ack, None);
        if !in_sync {
            self.send_runs();
        }
        Phase::AwaitingTaken
    }

    /// S7: the target's own dirty blocks and logged extents count too.
    fn send_runs(&mut self) {
        let per_extent = self.layout.blocks_per_extent();
        let count = u32::try_from(per_extent).unwrap_or(u32::MAX);
        let blocks = self.layout.dirty_blocks;
        let extent = |extent: u32| {
            let start = u64::from(extent) * per_extent;
            Run {
                start,
                count: u32::try_from(blocks.saturating_sub(start)).map_or(count, |left| left.min(count)),
            }
        };
        let mut runs: Vec<Run> = self.log.extents().map(extent).collect();
        let mut from = 0;
        while let Some(run) = self.bitmap.next_run(from, u32::MAX) {
            from = run.start + u64::from(run.count);
            runs.push(run);
            if runs.len() >= MAX_RUNS {
                let full = runs.drain(..MAX_RUNS).collect();
                self.send(Message::Runs { last: false, runs: full }, None);
            }
        }
        self.send(Message::Runs { last: true, runs }, None);
    }

    /// The primary has taken what this side knew.
    pub(crate) fn taken(&mut self) {
        let Some(link) = self.link.as_ref() else { return };
        let (epoch, in_sync) = (link.epoch, link.in_sync);
        let Some(greeting) = link.greeting else { return };
        // Nothing is dirty for the primary from here on: the bitmap for it begins anew (S7).
        self.superblock.peer_node = greeting.node;
        self.superblock.peer =
            PeerMark { replica: greeting.replica, data_epoch: epoch, al_number: greeting.al_number };
        if in_sync {
            self.superblock.data_epoch = epoch;
        } else {
            // S10: durable before the first block arrives, and before anything is forgotten.
            self.superblock.inconsistent = epoch;
        }
        let change = self.save_superblock();
        self.set_phase(Phase::Marking(change));
    }

    fn marked(&mut self, in_sync: bool) -> Phase {
        if in_sync {
            return self.ready();
        }
        self.bitmap.clear_all();
        self.log.clear();
        self.save_bitmap(true);
        self.write_log();
        Phase::Forgetting
    }

    fn ready(&mut self) -> Phase {
        self.send(Message::Ready, None);
        Phase::Open
    }

    // The primary opens.

    pub(crate) fn acknowledged(&mut self, greeting: Greeting) {
        let Some(link) = self.link.as_mut() else { return };
        let stranger = greeting.cluster != self.identity.cluster
            || greeting.node != link.peer
            || greeting.size != self.layout.size
            || greeting.replica == self.identity.replica;
        if stranger {
            self.problem(Problem::Refused(RefuseReason::Identity));
            return self.drop_link();
        }
        link.greeting = Some(greeting);
        link.peer_room = greeting.room;
        let in_sync = link.in_sync;
        self.log.raise_number(greeting.al_number);
        if !in_sync {
            return self.set_phase(Phase::TakingRuns);
        }
        // S7: a copy that went back in time, or has writes of its own, is not in sync, whatever is committed.
        if !self.continues(&greeting) || !greeting.in_sync {
            self.drop_link();
            return self.propose_shrink();
        }
        let next = self.take();
        self.set_phase(next);
    }

    /// S7: the peer's copy is at, or after, the point where this side's bitmap for it begins.
    fn continues(&self, greeting: &Greeting) -> bool {
        let mark = self.superblock.peer;
        let same = mark.replica.0 == 0 || mark.replica == greeting.replica;
        same && greeting.data_epoch >= mark.data_epoch && greeting.al_number >= mark.al_number
    }

    pub(crate) fn runs(&mut self, last: bool, runs: &[Run]) {
        if !self.breaks(Sabotage::ForgetTargetsPart) {
            self.take_runs(runs);
        }
        if !last || self.link.is_none() {
            return;
        }
        // S7: both sides' logged extents, and everything if the copies have another past.
        let per_extent = self.layout.blocks_per_extent();
        for extent in self.log.extents().collect::<Vec<_>>() {
            self.bitmap.set(u64::from(extent) * per_extent, per_extent);
        }
        if !self.peer_continues() {
            self.problem(Problem::FullResync);
            self.bitmap.set_all();
        }
        // Writes go on meanwhile: what they make dirty is in the durable activity log (S9), and not waited for.
        self.bitmap.await_saved();
        self.save_bitmap(false);
        self.set_phase(Phase::SavingRuns);
    }

    fn peer_continues(&self) -> bool {
        let greeting = self.link.as_ref().and_then(|link| link.greeting);
        greeting.is_some_and(|greeting| self.continues(&greeting))
    }

    fn runs_saved(&mut self) -> Phase {
        if self.peer_continues() {
            return self.take();
        }
        // All bits are set and durable: from now on they say what this copy lacks.
        self.mark_peer(None);
        Phase::SavingMark(self.save_superblock())
    }

    fn take(&mut self) -> Phase {
        self.send(Message::RunsTaken, None);
        Phase::AwaitingReady
    }

    /// Notes what the peer's copy is; `in_sync`: the epoch in which it has confirmed to be.
    fn mark_peer(&mut self, in_sync: Option<Epoch>) {
        let Some(greeting) = self.link.as_ref().and_then(|link| link.greeting) else { return };
        self.superblock.peer_node = greeting.node;
        self.superblock.peer = PeerMark {
            replica: greeting.replica,
            data_epoch: in_sync.unwrap_or(greeting.data_epoch),
            al_number: greeting.al_number,
        };
    }

    /// The secondary is ready: data messages may flow.
    pub(crate) fn opened(&mut self) {
        let Some(link) = self.link.as_ref() else { return };
        let (in_sync, epoch, peer) = (link.in_sync, link.epoch, link.peer);
        self.mark_peer(in_sync.then_some(epoch));
        self.save_superblock();
        self.set_phase(Phase::Open);
        if in_sync {
            self.down_since = None;
            // What was written while no session was open is sent now (S2).
            for key in self.jobs.keys() {
                self.offer(key);
            }
        } else {
            self.resync_begin(peer);
        }
    }

    pub(crate) fn refused(&mut self, reason: RefuseReason, epoch: Epoch) {
        // A secondary that stops: no fault of anybody's.
        let goodbye = reason == RefuseReason::Unusable && self.link.as_ref().is_some_and(Link::is_open);
        if reason == RefuseReason::Epoch {
            // S4: told of a higher epoch, this side stops until it has learned it.
            self.learn(epoch);
        } else if reason != RefuseReason::Size && !goodbye {
            self.problem(Problem::Refused(reason));
        }
        self.drop_link();
        if reason == RefuseReason::Unusable && self.peer_in_sync() {
            // S2: it will confirm nothing, so there is nothing to wait for.
            self.propose_shrink();
        }
        if goodbye {
            // The epoch that this makes is no reason to disturb it while it ends.
            self.left_until = self.now + self.options.timing.peer;
        }
        // A peer that is about to grow is soon ready: no longer pause. S2 says when it no longer matters.
        if !matches!(reason, RefuseReason::Epoch | RefuseReason::Size) {
            self.redial_at = self.now + self.options.timing.peer;
        }
    }
}
