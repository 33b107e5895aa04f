//! The size of the volume: growing it while it is served (S22).
//!
//! ```text
//! driver: the wanted size is committed ─▶ the areas get room, zeroed, durable ─▶ handle_room
//!   secondary, in sync: Room ─▶ primary      primary: has room, and the peer too if it is in sync: proposes Resize
//! committed: a new epoch ─▶ every copy takes the size over, makes it durable, acts in it
//! ```
//!
//! Invariants
//! - A size is proposed only when this copy and every in-sync peer have told that they have room for it: zeroed, durable,
//!   never taken away. So the added part is equal, and zero, on all of them; whoever is not in sync gets room, zeroed,
//!   before it opens a session in the new epoch, and what is written meanwhile is dirty for it like any other block.
//! - The epoch of a new size is acted in only when the superblock holds that size. Until then no request reaches the
//!   added part, so that no activity log names extents that the superblock does not cover.
//! - Where the dirty block doubles, the bitmap moves to other records: they hold every set bit before the superblock names
//!   them, and until then nothing leaves the activity log (S9).

use base::{ByteCount, Change, Monotonic};

use crate::api::Buffer;
use crate::frame::Message;
use crate::replica::Replica;
use crate::sabotage::Sabotage;
use crate::session::Phase;

/// What the size is, may be and shall be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resizing {
    /// Initiators may use so much: the size of the last epoch that was acted in.
    open: ByteCount,
    /// The areas have room for so much.
    room: ByteCount,
    /// The administrator wants so much.
    wanted: Option<ByteCount>,
    /// After a refusal: not proposed before.
    not_before: Monotonic,
    step: Step,
}

/// How far a larger size has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The superblock holds the size.
    Done,
    /// The bitmap's set bits are being written to where they are from now on.
    Pages,
    /// The superblock is being written: this change.
    Superblock(u64),
}

impl Resizing {
    /// As recovery found it.
    pub(crate) fn found(size: ByteCount) -> Self {
        Self { open: size, room: size, wanted: None, not_before: Monotonic(0), step: Step::Done }
    }

    /// A larger size is not durable yet.
    pub(crate) fn is_under_way(&self) -> bool {
        self.step != Step::Done
    }
}

impl<B: Buffer> Replica<B> {
    // Getters.

    /// The size that initiators may use. Grows only.
    #[must_use]
    pub fn size(&self) -> ByteCount {
        self.resizing.open
    }

    /// Whose copy this is.
    #[must_use]
    pub fn identity(&self) -> crate::Identity {
        self.identity
    }

    /// The size that this copy has room for.
    #[must_use]
    pub fn room(&self) -> ByteCount {
        self.resizing.room
    }

    /// The geometry for which there is room: what lies beyond it, the driver may format.
    #[must_use]
    pub fn room_layout(&self) -> Option<crate::Layout> {
        self.layout.at_size(self.resizing.room)
    }

    // Events.

    /// Both areas have room for `size` from now on: the added part of the data area reads as zero, the metadata area holds
    /// what [`crate::format_growth`] gave, all of it durable (S22). Then tell the configuration again.
    pub fn handle_room(&mut self, now: Monotonic, size: ByteCount) {
        self.advance(now);
        if size > self.resizing.room && self.layout.at_size(size).is_some() {
            self.resizing.room = size;
            let greeted = self.link.as_ref().is_some_and(|link| {
                !link.dialled && !matches!(link.phase, Phase::Draining | Phase::SavingEpoch(_))
            });
            if greeted {
                self.send(Message::Room { size }, None);
            }
        }
        self.pump();
    }

    /// The size that the administrator wants, as committed; `None`: the present one.
    pub fn handle_wanted(&mut self, now: Monotonic, size: Option<ByteCount>) {
        self.advance(now);
        self.resizing.wanted = size;
        self.pump();
    }

    /// The peer told what it has room for.
    pub(crate) fn peer_has_room(&mut self, size: ByteCount) {
        if let Some(link) = self.link.as_mut() {
            link.peer_room = link.peer_room.max(size);
        }
    }

    // Proposing.

    /// Proposes the wanted size once everyone in sync has room (S22).
    pub(crate) fn propose_size(&mut self) {
        let Some(size) = self.resizing.wanted.filter(|size| *size > self.layout.size) else { return };
        // One change at a time: of two proposals of one epoch only one can apply (S21).
        let busy = self.growing || self.closing.is_some() || !self.proposals.is_empty();
        if busy || !self.acting() || self.now < self.resizing.not_before {
            return;
        }
        let peer = self.link.as_ref().filter(|link| link.is_open() && link.in_sync && link.dialled);
        let peer_ready = !self.peer_in_sync()
            || peer.is_some_and(|link| link.peer_room >= size)
            || self.breaks(Sabotage::ResizeWithoutRoom);
        if self.room() >= size && peer_ready {
            self.propose(Change::Resize { size });
        }
    }

    /// The administrator has changed their mind meanwhile; what they want now is told soon.
    pub(crate) fn size_refused(&mut self) {
        self.resizing.not_before = self.now + self.options.timing.peer;
    }

    /// When a refused size is proposed again.
    pub(crate) fn size_timeout(&self) -> Option<Monotonic> {
        let waits = self.resizing.wanted.is_some() && self.primary;
        waits.then_some(self.resizing.not_before).filter(|at| *at > self.now)
    }

    // Taking over.

    /// A committed configuration has this size, and there is room for it.
    pub(crate) fn enlarge(&mut self, size: ByteCount) {
        let Some(layout) = self.layout.at_size(size).filter(|_| size > self.layout.size) else { return };
        self.bitmap.grow(&layout);
        self.log.grow(layout.al_slots);
        self.layout = layout;
        self.rewriting.begin_again();
        self.resizing.step = Step::Pages;
    }

    /// Runs the steps that have become possible.
    pub(crate) fn resize_further(&mut self) {
        match self.resizing.step {
            Step::Pages if !self.bitmap.all_saved(false) => self.save_bitmap(false),
            Step::Pages => {
                self.superblock.size = self.layout.size;
                self.resizing.step = Step::Superblock(self.save_superblock());
            }
            Step::Superblock(change) if self.superblock_record.is_durable(change) => {
                self.resizing.step = Step::Done;
                self.log_retry = true;
                self.adopted_if_durable();
            }
            Step::Done | Step::Superblock(_) => {}
        }
    }

    /// The newest configuration is acted in: so is its size.
    pub(crate) fn open_size(&mut self) {
        self.resizing.open = self.layout.size;
    }
}
