//! I7: a replica never answers a data message of an old epoch after it learned of a newer one, nor of an old session,
//! nor lets a write that it accepted before land after.

use super::{Checked, violation};
use base::{Epoch, SessionId};
use replication::frame::{Frame, Message};
use std::collections::BTreeMap;

/// What one process of a replica was asked, and what it knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct StaleAnswers {
    /// Epoch of each data message delivered and not answered yet.
    asked: BTreeMap<(SessionId, u64), Epoch>,
    /// The last session that it agreed to.
    session: Option<SessionId>,
}

impl StaleAnswers {
    /// A frame was delivered.
    pub(crate) fn delivered(&mut self, session: SessionId, frame: &Frame) {
        if let Message::Write(target) | Message::Resync(target) | Message::Zero { target, .. } =
            &frame.message
        {
            self.asked.insert((session, target.tag), frame.epoch);
        }
    }

    /// A frame is being sent by a process that acts in `acts_in` and has `queued` data writes on its disk.
    pub(crate) fn sent(
        &mut self,
        session: SessionId,
        frame: &Frame,
        acts_in: Epoch,
        queued: usize,
    ) -> Checked {
        match &frame.message {
            Message::HelloAck(_) => {
                self.session = Some(session);
                if queued > 0 {
                    return violation(
                        "I7",
                        format!("{session:?} opens over {queued} writes accepted before"),
                    );
                }
            }
            Message::Ack { tag, .. } => {
                let Some(epoch) = self.asked.remove(&(session, *tag)) else {
                    return violation(
                        "I7",
                        format!("answers message {tag} of {session:?} that it never got"),
                    );
                };
                if epoch < acts_in {
                    return violation(
                        "I7",
                        format!("acts in {acts_in:?}, answers message {tag} of {epoch:?}"),
                    );
                }
                if self.session.is_some_and(|current| current != session) {
                    return violation(
                        "I7",
                        format!("agreed to {:?}, answers message {tag} of {session:?}", self.session),
                    );
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The process begins to serve with `queued` data writes, accepted from a primary, on its disk.
    pub(crate) fn serves(queued: usize) -> Checked {
        if queued > 0 {
            return violation("I7", format!("begins to serve over {queued} writes accepted before"));
        }
        Ok(())
    }
}
