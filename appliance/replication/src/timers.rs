//! What happens when nothing happens: silence of the peer, dialling, repeated proposals.

use base::{Change, Monotonic};
use core::time::Duration;

use crate::api::{Buffer, Command};
use crate::frame::Message;
use crate::replica::Replica;

impl<B: Buffer> Replica<B> {
    /// Time has passed: call at [`Self::poll_timeout`] (later or earlier does no harm).
    pub fn handle_timeout(&mut self, now: Monotonic) {
        self.advance(now);
        self.check_lease();
        self.watch_disk();
        self.check_link();
        self.check_incoming();
        self.check_shrink();
        self.repeat_proposals();
        self.closing_timeout();
        self.pump();
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        let timing = &self.options.timing;
        let lease = self.lease.filter(|_| self.serving);
        let wait = (self.primary && !self.serving && self.not_before > self.now).then_some(self.not_before);
        let incoming = self.incoming.map(|incoming| incoming.since + timing.peer);
        let proposals = self.proposals.iter().map(|pending| pending.sent + timing.renew).min();
        let shrink = self.down_since.filter(|_| !self.shrinking()).map(|since| since + timing.peer);
        [
            lease,
            wait,
            incoming,
            proposals,
            shrink,
            self.link_timeout(),
            self.dial_timeout(),
            self.resync_timeout(),
            self.wanted_deadline(),
            self.closing_deadline(),
            self.size_timeout(),
            Some(self.watch_timeout()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn ping_interval(&self) -> Duration {
        self.options.timing.peer / 4
    }

    /// Pause before dialling again.
    pub(crate) fn redial_pause(&self) -> Duration {
        self.options.timing.peer / 10
    }

    fn link_timeout(&self) -> Option<Monotonic> {
        let link = self.link.as_ref()?;
        let peer = self.options.timing.peer;
        if !link.dialled {
            return Some(link.heard + peer * 2);
        }
        let oldest = link.outstanding.front().map(|(sent, _)| *sent + peer);
        let due = (link.heard + peer).min(link.pinged + self.ping_interval());
        Some(oldest.map_or(due, |oldest| oldest.min(due)))
    }

    /// S2: silent, or slower than the peer time-out, is not answering.
    fn check_link(&mut self) {
        let (now, peer, ping) = (self.now, self.options.timing.peer, self.ping_interval());
        let Some(link) = self.link.as_mut() else { return };
        if !link.dialled {
            if now >= link.heard + peer * 2 {
                self.drop_link();
            }
            return;
        }
        let slow = link.outstanding.front().is_some_and(|(sent, _)| now >= *sent + peer);
        if slow || now >= link.heard + peer {
            self.drop_link();
            if self.peer_in_sync() {
                self.propose_shrink();
            }
        } else if now >= link.pinged + ping {
            link.pinged = now;
            self.send(Message::Ping, None);
        }
    }

    fn check_incoming(&mut self) {
        let limit = self.options.timing.peer;
        if let Some(incoming) = self.incoming.filter(|incoming| self.now >= incoming.since + limit) {
            self.incoming = None;
            self.emit(Command::Close { session: incoming.session });
        }
    }

    fn shrinking(&self) -> bool {
        self.proposals.iter().any(|pending| matches!(pending.proposal.change, Change::Shrink { .. }))
    }

    /// S2: an in-sync peer has been without a session for too long.
    fn check_shrink(&mut self) {
        let limit = self.options.timing.peer;
        if self.down_since.is_some_and(|since| self.now >= since + limit) && !self.shrinking() {
            self.propose_shrink();
            if !self.shrinking() {
                // Not now (a higher epoch is about to be learned): look again later.
                self.down_since = Some(self.now);
            }
        }
    }

    /// Nothing speaks against a new session as primary. While a grow is in doubt (S8) none is opened: whether the peer
    /// is in sync is not known.
    pub(crate) fn may_dial(&self) -> bool {
        self.acting()
            && self.link.is_none()
            && !self.growing
            && self.closing.is_none()
            && self.peer().is_some()
    }

    fn dial_timeout(&self) -> Option<Monotonic> {
        if !self.may_dial() {
            return None;
        }
        let next = self.redial_at.max(self.left_until);
        Some(self.dialling.map_or(next, |since| since + self.options.timing.peer))
    }

    /// Dials if it is time to.
    pub(crate) fn dial(&mut self) {
        if self.dial_timeout().is_some_and(|due| self.now >= due)
            && let Some(peer) = self.peer()
        {
            self.dialling = Some(self.now);
            self.emit(Command::Dial { peer });
        }
    }
}
