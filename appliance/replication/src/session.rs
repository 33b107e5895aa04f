//! Sessions: who may speak with whom in which epoch (S4, S7, S10), and the frames' way in and out.
//!
//! A session lives in exactly one epoch and on one connection; the primary dials. It opens so:
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
//! - At most one link; its epoch is the floor (S4): learning a higher epoch ends it.
//! - Frames of any other session are dropped; frames out of order, or of another epoch, end the session.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use base::{Epoch, InstanceId, Monotonic, NodeId, SessionId};

use crate::api::{Buffer, Command, Problem};
use crate::frame::{Frame, Greeting, MAX_RUNS, Message, RefuseReason, Run};
use crate::job::{Kind, Remote, Stage};
use crate::replica::Replica;
use crate::sabotage::Sabotage;
use crate::superblock::PeerMark;

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Primary: `Hello` is sent.
    Greeting,
    /// Primary: the target sends its runs.
    TakingRuns,
    /// Primary: the bitmap is being written.
    SavingRuns,
    /// Primary: the mark of a copy with another past is being written: this change.
    SavingMark(u64),
    /// Primary: `RunsTaken` is sent.
    AwaitingReady,
    /// Secondary: earlier writes have to end (S4).
    Draining,
    /// Secondary: the epoch is being written: this change.
    SavingEpoch(u64),
    /// Secondary: `HelloAck` is sent.
    AwaitingTaken,
    /// Secondary: its new state is being written: this change.
    Marking(u64),
    /// Secondary, not in sync: bitmap and activity log are being emptied.
    Forgetting,
    /// Data messages flow.
    Open,
}

/// The session with the peer.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) session: SessionId,
    pub(crate) peer: NodeId,
    pub(crate) epoch: Epoch,
    /// By this side: the primary's.
    pub(crate) dialled: bool,
    /// The secondary was in sync when it opened.
    pub(crate) in_sync: bool,
    pub(crate) phase: Phase,
    pub(crate) greeting: Option<Greeting>,
    sent: u64,
    received: u64,
    pub(crate) heard: Monotonic,
    pub(crate) pinged: Monotonic,
    /// Jobs that wait for the peer, in the order of sending; those in front may have ended.
    pub(crate) outstanding: VecDeque<(Monotonic, u64)>,
}

impl Link {
    pub(crate) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// The peer's storage process.
    pub(crate) fn instance(&self) -> Option<InstanceId> {
        self.greeting.as_ref().map(|greeting| greeting.instance)
    }
}

/// An accepted connection that has not said `Hello` yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incoming {
    pub(crate) session: SessionId,
    pub(crate) peer: NodeId,
    pub(crate) since: Monotonic,
}

impl<B: Buffer> Replica<B> {
    /// A connection with `peer` is open for this volume: `dialled` by us ([`Command::Dial`]), under a session id newly
    /// drawn by the driver, or accepted: then `session` is the one in the header of its first frame, which must be
    /// passed to `handle_frame` next.
    pub fn handle_session_opened(&mut self, now: Monotonic, peer: NodeId, session: SessionId, dialled: bool) {
        self.advance(now);
        if !dialled {
            if let Some(old) = self.incoming.replace(Incoming { session, peer, since: self.now }) {
                self.emit(Command::Close { session: old.session });
            }
        } else if self.may_dial() && self.dialling.is_some() && self.peer() == Some(peer) {
            self.greet(peer, session);
        } else {
            self.emit(Command::Close { session });
        }
        if dialled {
            self.dialling = None;
        }
        self.pump();
    }

    /// [`Command::Dial`] did not lead to a connection.
    pub fn handle_dial_failed(&mut self, now: Monotonic, peer: NodeId) {
        self.advance(now);
        if self.peer() == Some(peer) && self.dialling.take().is_some() {
            self.redial_at = self.now + self.redial_pause();
        }
        self.pump();
    }

    /// A connection ended (also after a frame that could not be decoded). Unknown sessions are ignored.
    pub fn handle_session_closed(&mut self, now: Monotonic, session: SessionId) {
        self.advance(now);
        if self.incoming.is_some_and(|incoming| incoming.session == session) {
            self.incoming = None;
        }
        if self.link.as_ref().is_some_and(|link| link.session == session) {
            self.drop_link();
        }
        self.pump();
    }

    /// A frame arrived on `session`, with its payload if it announced one.
    pub fn handle_frame(&mut self, now: Monotonic, session: SessionId, frame: Frame, payload: Option<B>) {
        self.advance(now);
        if let Some(incoming) = self.incoming.filter(|incoming| incoming.session == session) {
            self.incoming = None;
            self.first_frame(incoming, &frame);
        } else if self.link.as_ref().is_some_and(|link| link.session == session) {
            self.next_frame(session, frame, payload);
        } else if self.breaks(Sabotage::ObeyStale) && payload.is_some() {
            self.data_message(session, &frame, payload);
        }
        // Else: S4, another session: dropped.
        self.pump();
    }

    fn new_link(&self, session: SessionId, peer: NodeId, dialled: bool, in_sync: bool, epoch: Epoch) -> Link {
        Link {
            session,
            peer,
            epoch,
            dialled,
            in_sync,
            phase: if dialled { Phase::Greeting } else { Phase::Draining },
            greeting: None,
            sent: 0,
            received: 0,
            heard: self.now,
            pinged: self.now,
            outstanding: VecDeque::new(),
        }
    }

    fn my_greeting(&self, in_sync: bool) -> Greeting {
        Greeting {
            cluster: self.identity.cluster,
            node: self.identity.node,
            instance: self.options.instance,
            replica: self.identity.replica,
            al_number: self.log.durable_number(),
            data_epoch: self.superblock.data_epoch,
            size: self.layout.size,
            in_sync,
        }
    }

    /// Primary: opens a session.
    fn greet(&mut self, peer: NodeId, session: SessionId) {
        let in_sync = self.peer_in_sync();
        self.link = Some(self.new_link(session, peer, true, in_sync, self.floor));
        let hello = Message::Hello(self.my_greeting(in_sync));
        self.send(hello, None);
    }

    // Frames out.

    /// Sends a frame on the link.
    pub(crate) fn send(&mut self, message: Message, payload: Option<B>) {
        let Some(link) = self.link.as_mut() else { return };
        link.sent += 1;
        let (session, epoch, number) = (link.session, link.epoch, link.sent);
        self.emit_frame(session, epoch, number, message, payload);
    }

    fn emit_frame(
        &mut self,
        session: SessionId,
        epoch: Epoch,
        number: u64,
        message: Message,
        payload: Option<B>,
    ) {
        let frame = Frame {
            volume: self.identity.volume,
            session,
            epoch,
            number,
            // Payloads are at most MAX_REQUEST_BYTES.
            payload_len: payload.as_ref().map_or(0, |data| u32::try_from(data.len()).unwrap_or(u32::MAX)),
            payload_crc: payload.as_ref().map_or(0, Buffer::crc32c),
            message,
        };
        self.emit(Command::Send { session, frame, payload });
    }

    /// Sends a frame that the peer must answer within its time-out (S2).
    pub(crate) fn send_request(&mut self, key: u64, message: Message, payload: Option<B>) {
        let now = self.now;
        if let Some(link) = self.link.as_mut() {
            link.outstanding.push_back((now, key));
        }
        self.send(message, payload);
    }

    /// Forgets the oldest requests that the peer has answered meanwhile.
    fn trim_outstanding(&mut self) {
        let Some(link) = self.link.as_mut() else { return };
        while let Some((_, key)) = link.outstanding.front().copied() {
            let waits = self.jobs.get(key).is_some_and(|job| {
                matches!(
                    job.stage,
                    Stage::Writing { remote: Remote::Sent, .. } | Stage::Sending | Stage::Fetching
                )
            });
            if waits {
                return;
            }
            link.outstanding.pop_front();
        }
    }

    // Frames in.

    pub(crate) fn protocol_error(&mut self, what: &'static str) {
        self.problem(Problem::Protocol(what));
        self.drop_link();
    }

    fn next_frame(&mut self, session: SessionId, frame: Frame, payload: Option<B>) {
        let now = self.now;
        let Some(link) = self.link.as_mut() else { return };
        link.received += 1;
        link.heard = now;
        if frame.volume != self.identity.volume || frame.session != session || frame.number != link.received {
            return self.protocol_error("a frame is missing or belongs elsewhere");
        }
        let (dialled, epoch, phase) = (link.dialled, link.epoch, link.phase);
        if let Message::Refuse(reason) = frame.message
            && dialled
        {
            return self.refused(reason, frame.epoch);
        }
        if frame.epoch != epoch {
            return self.protocol_error("a frame of another epoch");
        }
        if dialled {
            self.secondary_frame(phase, &frame, payload)
        } else {
            self.primary_frame(phase, &frame, payload)
        }
    }

    fn secondary_frame(&mut self, phase: Phase, frame: &Frame, payload: Option<B>) {
        match (&frame.message, phase) {
            (Message::HelloAck(greeting), Phase::Greeting) => self.acknowledged(*greeting),
            (Message::Runs { last, runs }, Phase::TakingRuns) => self.runs(*last, runs),
            (Message::Ready, Phase::AwaitingReady) => self.opened(),
            (Message::Ack { tag, al_number }, Phase::Open) => {
                let known = self.superblock.peer.al_number;
                self.superblock.peer.al_number = known.max(*al_number);
                self.confirmed(*tag);
                self.trim_outstanding();
            }
            (Message::ReadDone { tag, ok }, Phase::Open) => self.read_done(*tag, *ok, frame, payload),
            (Message::Pong, _) => {}
            _ => self.protocol_error("a frame that does not fit the state of the session"),
        }
    }

    fn read_done(&mut self, tag: u64, ok: bool, frame: &Frame, payload: Option<B>) {
        match payload {
            Some(data) if ok => {
                if self.payload_intact(frame, &data) {
                    self.fetched(tag, Some(data));
                }
            }
            _ => self.fetched(tag, None),
        }
        self.trim_outstanding();
    }

    fn primary_frame(&mut self, phase: Phase, frame: &Frame, payload: Option<B>) {
        match (&frame.message, phase) {
            (Message::RunsTaken, Phase::AwaitingTaken) => self.taken(),
            (
                Message::Write(_) | Message::Resync(_) | Message::Zero { .. } | Message::Read(_),
                Phase::Open,
            ) => {
                self.data_message(frame.session, frame, payload);
            }
            (Message::Ping, _) => self.send(Message::Pong, None),
            _ => self.protocol_error("a frame that does not fit the state of the session"),
        }
    }

    // The secondary opens.

    fn first_frame(&mut self, incoming: Incoming, frame: &Frame) {
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
            || greeting.size != self.layout.size
            || frame.number != 1;
        if stranger {
            return Err(RefuseReason::Identity);
        }
        if frame.epoch < self.floor && !self.breaks(Sabotage::ObeyStale) {
            return Err(RefuseReason::Epoch);
        }
        if self.failed || self.is_ending() {
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
            Phase::SavingRuns if self.bitmap.all_saved(false) => self.runs_saved(),
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
        if (quiet || self.breaks(Sabotage::ObeyStale)) && self.converting.is_none() {
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
    fn taken(&mut self) {
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

    fn acknowledged(&mut self, greeting: Greeting) {
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

    fn runs(&mut self, last: bool, runs: &[Run]) {
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
    fn opened(&mut self) {
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

    fn refused(&mut self, reason: RefuseReason, epoch: Epoch) {
        if reason == RefuseReason::Epoch {
            // S4: told of a higher epoch, this side stops until it has learned it.
            self.learn(epoch);
        } else {
            self.problem(Problem::Refused(reason));
        }
        self.drop_link();
        if reason != RefuseReason::Epoch {
            self.redial_at = self.now + self.options.timing.peer;
        }
    }

    // The end.

    /// Closes the link, if there is one. What it carried is sent again, marked dirty, or dropped.
    pub(crate) fn drop_link(&mut self) {
        let Some(link) = self.link.take() else { return };
        self.emit(Command::Close { session: link.session });
        if link.dialled {
            self.target_gone();
        } else {
            // S4: not started: never; on the disk: ends unanswered.
            for key in self.jobs.keys() {
                if self.jobs.get(key).is_some_and(|job| job.is_peers()) {
                    self.abandon(key);
                }
            }
        }
    }

    fn target_gone(&mut self) {
        self.resync = None;
        self.redial_at = self.now + self.redial_pause();
        if self.peer_in_sync() || self.growing {
            self.down_since = self.down_since.or(Some(self.now));
        }
        for key in self.jobs.keys() {
            let Some(job) = self.jobs.get(key) else { continue };
            match (&job.kind, &job.stage) {
                (Kind::Resync, _) => self.abandon(key),
                (_, Stage::Fetching) => self.fetched(key, None),
                (_, Stage::Writing { .. }) => {
                    self.unsend(key);
                    self.offer(key);
                    self.settle(key);
                }
                _ => {}
            }
        }
        // S8: the target or its session failed while a grow is in doubt.
        if self.growing && !self.breaks(Sabotage::AnswerWhileGrowing) {
            self.propose_shrink();
        }
    }
}
