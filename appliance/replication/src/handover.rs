//! Giving the volume up cleanly: hand-over to the in-sync peer (S3) and stop.
//!
//! Draining → Saving → Clearing → Proposed → Ending. New requests are parked until the proposal goes out; from then on
//! nothing is served until a later epoch names this node. A secondary that stops says goodbye instead (Leaving → Ending): the
//! primary, which would wait for it, goes on alone at once (S2).

use alloc::string::{String, ToString};
use base::{Change, InstanceId, Monotonic, NodeId};

use crate::api::{Buffer, Command};
use crate::frame::{Message, RefuseReason};
use crate::replica::Replica;

const UNDER_WAY: &str = "a hand-over or stop is under way";
const NO_SESSION: &str = "no session with the successor is open";

/// A hand-over that is asked for while the session with the successor is still being opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    to: NodeId,
    instance: InstanceId,
    /// Whoever has no session by then is about to leave `in_sync`.
    deadline: Monotonic,
}

/// An orderly end of serving.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closing {
    purpose: Purpose,
    phase: ClosingPhase,
    deadline: Monotonic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    HandOver { to: NodeId, instance: InstanceId, then_stop: bool },
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClosingPhase {
    /// Requests under way end.
    Draining,
    /// The bitmap is written.
    Saving,
    /// The emptied activity log is written: this change.
    Clearing(u64),
    /// The hand-over is proposed.
    Proposed,
    /// Goodbye is said; the primary takes this copy out of the in-sync set.
    Leaving,
    /// What the disk still does ends.
    Ending,
}

impl<B: Buffer> Replica<B> {
    /// Someone asked for a clean hand-over to `to`, whose storage process is `instance` (S3). Ends in an epoch that
    /// names `to`, or in [`Command::HandOverFailed`].
    pub fn handle_hand_over(&mut self, now: Monotonic, to: NodeId, instance: InstanceId) {
        self.advance(now);
        self.check_lease();
        let deadline = self.now + self.options.timing.peer;
        match &self.wanted {
            // Asked once more.
            Some(wanted) if (wanted.to, wanted.instance) == (to, instance) => {}
            Some(_) => self.emit(Command::HandOverFailed(UNDER_WAY.to_string())),
            None => self.wanted = Some(Wanted { to, instance, deadline }),
        }
        self.pump();
    }

    /// Begins the hand-over that was asked for, as soon as nothing is in its way.
    pub(crate) fn wanted_progress(&mut self) {
        let Some(Wanted { to, instance, deadline }) = self.wanted else { return };
        let obstacle = self.hand_over_obstacle(to, instance);
        if obstacle == Some(NO_SESSION) && self.now < deadline {
            return;
        }
        self.wanted = None;
        match obstacle {
            Some(reason) => self.emit(Command::HandOverFailed(reason.to_string())),
            None => self.close(Purpose::HandOver { to, instance, then_stop: false }),
        }
    }

    pub(crate) fn wanted_deadline(&self) -> Option<Monotonic> {
        self.wanted.map(|wanted| wanted.deadline)
    }

    fn hand_over_obstacle(&self, to: NodeId, instance: InstanceId) -> Option<&'static str> {
        if self.closing.is_some() {
            return Some(UNDER_WAY);
        }
        if !self.gate(self.now) || !self.acting() {
            return Some("the volume is not served here");
        }
        if self.peer() != Some(to) || !self.peer_in_sync() {
            return Some("the successor is not in sync");
        }
        self.link_obstacle(instance)
    }

    fn link_obstacle(&self, instance: InstanceId) -> Option<&'static str> {
        match self.link.as_ref().filter(|link| link.is_open() && link.dialled && link.in_sync) {
            None => Some(NO_SESSION),
            Some(link) if link.instance() != Some(instance) => {
                Some("the successor's storage process is another")
            }
            Some(_) => None,
        }
    }

    /// End: hand over if the peer can take it, finish what is in flight, then [`Command::Stopped`].
    pub fn handle_stop(&mut self, now: Monotonic) {
        self.advance(now);
        self.check_lease();
        let successor = self.link.as_ref().and_then(|link| Some((link.peer, link.instance()?)));
        if let Some(closing) = self.closing.as_mut() {
            if let Purpose::HandOver { then_stop, .. } = &mut closing.purpose {
                *then_stop = true;
            }
        } else {
            match successor.filter(|(to, instance)| self.hand_over_obstacle(*to, *instance).is_none()) {
                Some((to, instance)) => self.close(Purpose::HandOver { to, instance, then_stop: true }),
                None => self.close(Purpose::Stop),
            }
        }
        self.pump();
    }

    fn close(&mut self, purpose: Purpose) {
        let deadline = self.now + self.options.timing.peer * 2;
        self.closing = Some(Closing { purpose, phase: ClosingPhase::Draining, deadline });
        if purpose == Purpose::Stop && !self.primary {
            self.say_goodbye();
        }
    }

    /// The secondary's end of a session: nothing is confirmed any more, and the primary need not find that out by waiting
    /// (S2). Whoever is not in sync keeps nobody waiting. A goodbye that gets lost is a peer that is silent.
    fn say_goodbye(&mut self) {
        if self.link.as_ref().is_some_and(|link| !link.dialled) {
            self.send(Message::Refuse(RefuseReason::Unusable), None);
        }
        self.drop_link();
        if self.is_waited_for()
            && let Some(closing) = self.closing.as_mut()
        {
            closing.phase = ClosingPhase::Leaving;
        }
    }

    /// Another node is primary, and this copy counts as in sync.
    fn is_waited_for(&self) -> bool {
        let me = self.identity.node;
        !self.primary
            && self.known.as_ref().is_some_and(|config| {
                config.in_sync.contains(&me) && config.primary.is_some_and(|primary| primary != me)
            })
    }

    /// Runs the steps that have become possible.
    pub(crate) fn closing_progress(&mut self) {
        let Some(closing) = self.closing else { return };
        match closing.purpose {
            Purpose::HandOver { to, instance, then_stop } => {
                if matches!(closing.phase, ClosingPhase::Proposed | ClosingPhase::Ending) {
                    return self.ending(closing.phase);
                }
                let lost = if self.gate(self.now) && self.acting() {
                    self.link_obstacle(instance)
                } else {
                    Some("the volume is not served here any more")
                };
                match lost {
                    Some(reason) => self.cancel_hand_over(reason, then_stop),
                    None => self.hand_over_step(closing.phase, to, instance, then_stop),
                }
            }
            Purpose::Stop => self.stop_step(closing.phase),
        }
    }

    fn set_closing(&mut self, phase: ClosingPhase) {
        if let Some(closing) = self.closing.as_mut() {
            closing.phase = phase;
        }
        self.closing_progress();
    }

    /// Draining, Saving and Clearing; true when the activity log is empty on disk.
    fn emptied(&mut self, phase: ClosingPhase) -> bool {
        match phase {
            ClosingPhase::Draining
                if self.jobs.is_empty() && self.converting.is_none() && !self.resizing.is_under_way() =>
            {
                self.save_bitmap(true);
                self.set_closing(ClosingPhase::Saving);
            }
            ClosingPhase::Saving if self.bitmap.all_saved(true) => {
                // S9: everything is confirmed by each in-sync replica, or dirty on disk.
                let change = self.log.clear();
                self.write_log();
                self.set_closing(ClosingPhase::Clearing(change));
            }
            ClosingPhase::Clearing(change) => return self.log.record.is_durable(change),
            _ => {}
        }
        false
    }

    fn hand_over_step(&mut self, phase: ClosingPhase, to: NodeId, instance: InstanceId, leaves: bool) {
        if !self.emptied(phase) {
            return;
        }
        // S3: from proposing on nothing is served; the lease is given up (S5).
        self.stop_serving();
        self.lease = None;
        self.propose(Change::HandOver { to, instance, leaves });
        self.gave_up = true;
        if let Some(closing) = self.closing.as_mut() {
            closing.phase = ClosingPhase::Proposed;
            closing.deadline = self.now + self.options.timing.lease;
        }
    }

    fn stop_step(&mut self, phase: ClosingPhase) {
        if phase == ClosingPhase::Ending {
            return self.ending(phase);
        }
        if phase == ClosingPhase::Leaving && self.is_waited_for() {
            return;
        }
        // Only a primary knows that its log may be emptied.
        if !self.acting() || self.emptied(phase) {
            self.set_closing(ClosingPhase::Ending);
        }
    }

    fn ending(&mut self, phase: ClosingPhase) {
        if phase != ClosingPhase::Ending || self.stopped {
            return;
        }
        self.stop_serving();
        self.drop_link();
        if self.meta_quiet() && !self.jobs.iter().any(|(_, job)| job.on_disk()) {
            self.stopped = true;
            self.emit(Command::Stopped);
        }
    }

    fn cancel_hand_over(&mut self, reason: &str, then_stop: bool) {
        self.closing = None;
        self.emit(Command::HandOverFailed(String::from(reason)));
        if then_stop {
            self.close(Purpose::Stop);
            return self.closing_progress();
        }
        while let Some(request) = self.parked.pop_front() {
            if !self.gate(self.now) {
                self.parked.push_front(request);
                return self.refuse_parked();
            }
            self.accept(request);
        }
    }

    /// A later epoch is known: the proposal has been applied, or never will be.
    pub(crate) fn closing_epoch(&mut self) {
        let Some(Closing { purpose: Purpose::HandOver { then_stop, .. }, phase, .. }) = self.closing else {
            return;
        };
        if phase != ClosingPhase::Proposed {
            return;
        }
        if self.primary {
            self.emit(Command::HandOverFailed("another change was committed first".into()));
        }
        if then_stop {
            self.set_closing(ClosingPhase::Ending);
        } else {
            self.closing = None;
        }
    }

    /// Nothing new is begun any more, not even as a secondary.
    pub(crate) fn is_ending(&self) -> bool {
        self.closing.is_some_and(|c| c.purpose == Purpose::Stop || c.phase == ClosingPhase::Ending)
    }

    pub(crate) fn closing_deadline(&self) -> Option<Monotonic> {
        let waits = |closing: &&Closing| closing.phase != ClosingPhase::Ending;
        self.closing.as_ref().filter(waits).map(|closing| closing.deadline)
    }

    pub(crate) fn closing_timeout(&mut self) {
        let Some(closing) = self.closing.filter(|closing| self.now >= closing.deadline) else { return };
        match (closing.purpose, closing.phase) {
            (_, ClosingPhase::Ending) => {}
            (Purpose::Stop, _) | (Purpose::HandOver { then_stop: true, .. }, ClosingPhase::Proposed) => {
                self.set_closing(ClosingPhase::Ending);
            }
            (Purpose::HandOver { .. }, ClosingPhase::Proposed) => {
                // In doubt: only a later epoch ends that (S3). One that keeps everything does no harm.
                if let Some(closing) = self.closing.as_mut() {
                    closing.deadline = self.now + self.options.timing.lease;
                }
                self.resolve_doubt();
            }
            (Purpose::HandOver { then_stop, .. }, _) => {
                self.cancel_hand_over("requests under way did not end in time", then_stop);
            }
        }
    }
}
