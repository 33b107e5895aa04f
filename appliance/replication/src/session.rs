//! Sessions: who may speak with whom in which epoch (S4, S7, S10), and the frames' way in and out.
//!
//! A session lives in exactly one epoch and on one connection; the primary dials. handshake.rs opens it.
//!
//! Invariants
//! - At most one link; its epoch is the floor (S4): learning a higher epoch ends it.
//! - Frames of any other session are dropped; frames out of order, or of another epoch, end the session.

use alloc::collections::VecDeque;
use base::{ByteCount, Epoch, InstanceId, Monotonic, NodeId, SessionId};

use crate::api::{Buffer, Command, Problem};
use crate::frame::{Frame, Greeting, Message};
use crate::job::{Kind, Remote, Stage};
use crate::replica::Replica;
use crate::sabotage::Sabotage;

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
    /// On the primary: the size that the peer has told to have room for (S22).
    pub(crate) peer_room: ByteCount,
    sent: u64,
    pub(crate) received: u64,
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

    pub(crate) fn new_link(
        &self,
        session: SessionId,
        peer: NodeId,
        dialled: bool,
        in_sync: bool,
        epoch: Epoch,
    ) -> Link {
        Link {
            session,
            peer,
            epoch,
            dialled,
            in_sync,
            phase: if dialled { Phase::Greeting } else { Phase::Draining },
            greeting: None,
            peer_room: ByteCount(0),
            sent: 0,
            received: 0,
            heard: self.now,
            pinged: self.now,
            outstanding: VecDeque::new(),
        }
    }

    pub(crate) fn my_greeting(&self, in_sync: bool) -> Greeting {
        Greeting {
            cluster: self.identity.cluster,
            node: self.identity.node,
            instance: self.options.instance,
            replica: self.identity.replica,
            al_number: self.log.durable_number(),
            data_epoch: self.superblock.data_epoch,
            size: self.layout.size,
            room: self.room(),
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

    pub(crate) fn emit_frame(
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
            (Message::Room { size }, phase) if phase != Phase::Greeting => self.peer_has_room(*size),
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
