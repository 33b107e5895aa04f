//! Connections between the two replicas: in order, until they break; then each direction loses its own tail, and each
//! end learns of it in its own time.

use crate::buffer::SimBuffer;
use crate::rng::{Nanos, Rng};
use crate::world::{Event, World};
use base::{InstanceId, SessionId};
use replication::frame::{Frame, Message};
use std::collections::{BTreeMap, VecDeque};

/// What is under way in one direction.
#[derive(Default)]
pub(crate) struct Direction {
    frames: VecDeque<(Frame, Option<SimBuffer>)>,
    /// Frames of one direction never overtake each other.
    pub(crate) last_delivery: Nanos,
}

/// One connection. Index 0 is data node a, 1 is b.
pub(crate) struct Session {
    pub(crate) dialler: usize,
    /// The processes at its ends; the accepting one is known from the start.
    pub(crate) instances: [InstanceId; 2],
    /// Whether the accepting side has seen the first frame.
    pub(crate) accepted: bool,
    pub(crate) broken: bool,
    /// Which ends know that it is closed, or closed it.
    pub(crate) closed: [bool; 2],
    /// By receiver.
    pub(crate) towards: [Direction; 2],
}

/// All connections that still matter.
#[derive(Default)]
pub(crate) struct Network {
    pub(crate) sessions: BTreeMap<SessionId, Session>,
}

impl Network {
    pub(crate) fn open(&mut self, id: SessionId, dialler: usize, instances: [InstanceId; 2]) {
        let session = Session {
            dialler,
            instances,
            accepted: false,
            broken: false,
            closed: [false; 2],
            towards: [Direction::default(), Direction::default()],
        };
        self.sessions.insert(id, session);
    }

    /// Queues a frame; `false` if the connection is gone and it is dropped.
    pub(crate) fn send(
        &mut self,
        id: SessionId,
        from: usize,
        frame: Frame,
        payload: Option<SimBuffer>,
    ) -> bool {
        match self.sessions.get_mut(&id) {
            Some(session) if !session.broken && !session.closed[from] => {
                session.towards[1 - from].frames.push_back((frame, payload));
                true
            }
            _ => false,
        }
    }

    /// The next frame for `to`.
    pub(crate) fn receive(&mut self, id: SessionId, to: usize) -> Option<(Frame, Option<SimBuffer>)> {
        let session = self.sessions.get_mut(&id)?;
        if session.closed[to] {
            return None;
        }
        session.towards[to].frames.pop_front()
    }

    /// What `from` has sent last, and is still under way, is a refusal: the driver sends it before it closes.
    pub(crate) fn ends_with_refusal(&self, id: SessionId, from: usize) -> bool {
        let session = self.sessions.get(&id).filter(|session| !session.broken);
        let last = session.and_then(|session| session.towards[1 - from].frames.back());
        last.is_some_and(|(frame, _)| matches!(frame.message, Message::Refuse(_)))
    }

    /// The connection breaks: of each direction a random part still gets through.
    pub(crate) fn sever(&mut self, id: SessionId, rng: &mut Rng) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.broken = true;
        for direction in &mut session.towards {
            let len = direction.frames.len();
            let keep = rng.within(0..len as u64 + 1);
            direction.frames.truncate(usize::try_from(keep).unwrap());
        }
    }

    /// An end has closed, or learnt that it is closed. A connection that both ends have left is forgotten.
    pub(crate) fn close(&mut self, id: SessionId, end: usize) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.closed[end] = true;
            session.towards[end].frames.clear();
            if session.closed == [true; 2] {
                self.sessions.remove(&id);
            }
        }
    }
}

/// How connections end.
impl World {
    /// The end `from` has closed, and all that it sent arrives first.
    pub(crate) fn close_orderly(&mut self, session: SessionId, from: usize) {
        let to = 1 - from;
        let Some(open) = self.network.sessions.get(&session).filter(|open| !open.closed[to]) else { return };
        let at = open.towards[to].last_delivery.max(self.now) + self.rng.ms(0..5);
        self.at(at, Event::Closed { session, to });
    }

    /// The connection breaks; ends that don't know yet learn of it after about `notice`.
    pub(crate) fn break_connection(&mut self, session: SessionId, notice: Nanos) {
        self.network.sever(session, &mut self.rng);
        for end in 0..2 {
            if self.network.sessions.get(&session).is_some_and(|s| !s.closed[end]) {
                let delay = notice + self.rng.ms(0..5);
                self.after(delay, Event::Closed { session, to: end });
            }
        }
    }
}
