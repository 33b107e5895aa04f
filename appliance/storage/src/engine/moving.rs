//! A controlled move begins with a word to the initiators: please log out (RFC 7143 §11.9.1). Their next login lands on
//! the other node. Those that don't are served on and lose their connection when the move comes to pass, as in a failover.
//!
//! Invariants
//! - A move that was asked for begins at most [`NOTICE`] later, and at once when nobody is logged in or notice was given
//!   already: volumes move one after the other, and none is served anywhere until the last has gone.
//! - Logins are held back for at most [`PATIENCE`] after the last move that was asked for.

use std::time::Duration;

use base::{InstanceId, Monotonic, NodeId, VolumeId};

use super::{Engine, clock};

/// How long initiators are served on. Those that logged out wait as long for the other node, so it is short.
const NOTICE: Duration = Duration::from_millis(500);
/// What they are told: whole seconds, and more than they get is harmless.
const NOTICE_SECONDS: u16 = 1;
/// A move takes less. After that it has failed without a word, and the portal goes on here.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is to be done when the initiators have had their time.
pub(super) enum Move {
    /// Hand one volume over.
    HandOver { volume: VolumeId, to: NodeId, instance: InstanceId },
    /// Hand over what can be, and end.
    Stop,
}

/// Moves that wait.
#[derive(Default)]
pub(super) struct Moves {
    waiting: Vec<Move>,
    begin_at: Option<Monotonic>,
    resume_at: Option<Monotonic>,
}

impl Engine {
    /// Tells the initiators, once for all moves in a row, and begins the move when they have had their time.
    pub(super) fn move_later(&mut self, what: Move) {
        let now = clock::now();
        if !self.portal.is_moving() {
            self.moves.begin_at = Some(now + NOTICE);
            self.portal.request_logout(NOTICE_SECONDS);
        }
        self.moves.begin_at.get_or_insert(now);
        self.moves.resume_at = Some(now + NOTICE + PATIENCE);
        self.moves.waiting.push(what);
    }

    /// Begins the moves whose time has come.
    pub(super) fn run_moves(&mut self) {
        let now = clock::now();
        if self.moves.resume_at.is_some_and(|at| at <= now) {
            self.moves.resume_at = None;
            self.portal.resume();
        }
        let due = self.moves.begin_at.is_some_and(|at| at <= now || self.portal.is_idle());
        if !due {
            return;
        }
        self.moves.begin_at = None;
        for what in std::mem::take(&mut self.moves.waiting) {
            match what {
                Move::HandOver { volume, to, instance } => match self.volumes.get_mut(&volume) {
                    Some(volume) => volume.replica.handle_hand_over(now, to, instance),
                    None => self.tell_not_open(volume),
                },
                Move::Stop => {
                    for volume in self.volumes.values_mut() {
                        volume.replica.handle_stop(now);
                    }
                }
            }
        }
        self.execute_all();
    }
}
