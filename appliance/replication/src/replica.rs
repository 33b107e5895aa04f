//! The replica: state, getters, events in (`handle_*`), commands out (`poll_*`).

use alloc::collections::VecDeque;
use base::{InstanceId, Monotonic, NodeId, SessionId, VolumeConfig};

use crate::api::{Buffer, Command, DiskResult, DiskToken, Request, RequestId, Status};
use crate::frame::Frame;

/// One volume's copy on one node.
#[derive(Debug)]
pub struct Replica<B> {
    out: VecDeque<Command<B>>,
}

impl<B: Buffer> Replica<B> {
    /// What reports show.
    #[must_use]
    pub fn status(&self, now: Monotonic) -> Status {
        let _ = now;
        unreachable!()
    }

    /// Checks the engine's own invariants; the first that does not hold is named.
    ///
    /// # Errors
    /// Names the invariant.
    pub fn validate(&self) -> Result<(), &'static str> {
        Ok(())
    }

    /// The committed configuration, as read or as changed. Older or equal ones are ignored.
    pub fn handle_config(&mut self, now: Monotonic, config: &VolumeConfig) {
        let _ = (now, config);
    }

    /// A lease of this volume that a majority granted to this instance, valid until `valid_until` (sending of the
    /// oldest granting request + lease time, S5); `None` voids it at once.
    pub fn handle_lease(&mut self, now: Monotonic, valid_until: Option<Monotonic>) {
        let _ = (now, valid_until);
    }

    /// A request of an initiator. Answered by exactly one [`Command::Reply`].
    pub fn handle_request(&mut self, now: Monotonic, request: Request<B>) {
        let _ = (now, request);
    }

    /// The initiator gave a request up (S16): one that has not started is answered `Aborted`, else its ordinary answer
    /// says when it has settled.
    pub fn handle_abort(&mut self, now: Monotonic, id: RequestId) {
        let _ = (now, id);
    }

    /// The answer to [`Command::Compare`]: the bytes to write (as long as what was read), or `None` if they differed.
    pub fn handle_compared(&mut self, now: Monotonic, id: RequestId, write: Option<B>) {
        let _ = (now, id, write);
    }

    /// A disk operation ended.
    pub fn handle_disk(&mut self, now: Monotonic, token: DiskToken, result: DiskResult<B>) {
        let _ = (now, token, result);
    }

    /// A connection with `peer` is open for this volume: `dialled` by us ([`Command::Dial`]), under a session id newly
    /// drawn by the driver, or accepted: then `session` is the one in the header of its first frame, which must be
    /// passed to `handle_frame` next.
    pub fn handle_session_opened(&mut self, now: Monotonic, peer: NodeId, session: SessionId, dialled: bool) {
        let _ = (now, peer, session, dialled);
    }

    /// [`Command::Dial`] did not lead to a connection.
    pub fn handle_dial_failed(&mut self, now: Monotonic, peer: NodeId) {
        let _ = (now, peer);
    }

    /// A connection ended (also after a frame that could not be decoded). Unknown sessions are ignored.
    pub fn handle_session_closed(&mut self, now: Monotonic, session: SessionId) {
        let _ = (now, session);
    }

    /// A frame arrived on `session`, with its payload if it announced one.
    pub fn handle_frame(&mut self, now: Monotonic, session: SessionId, frame: Frame, payload: Option<B>) {
        let _ = (now, session, frame, payload);
    }

    /// The proposal `number` was refused for another reason than its epoch and will never be applied.
    pub fn handle_refused(&mut self, now: Monotonic, number: u64) {
        let _ = (now, number);
    }

    /// Someone asked for a clean hand-over to `to`, whose storage process is `instance` (S3). Ends in an epoch that
    /// names `to`, or in [`Command::HandOverFailed`].
    pub fn handle_hand_over(&mut self, now: Monotonic, to: NodeId, instance: InstanceId) {
        let _ = (now, to, instance);
    }

    /// End: hand over if the peer can take it, finish what is in flight, then [`Command::Stopped`].
    pub fn handle_stop(&mut self, now: Monotonic) {
        let _ = now;
    }

    /// Time has passed: call at [`Self::poll_timeout`] (later or earlier does no harm).
    pub fn handle_timeout(&mut self, now: Monotonic) {
        let _ = now;
    }

    /// The next thing to do; call after every event until `None`.
    pub fn poll_command(&mut self) -> Option<Command<B>> {
        self.out.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        None
    }
}
