//! The version in which records are written, and those that were written in an older one.
//!
//! Invariants
//! - Records are written in the version in force, as far as it is known: at first in that of the superblock, as a copy is not
//!   made before the version is told. It never falls: a release that does not understand it is not let onto the node.
//! - Those of an older version are written anew, one at a time and beside everything else, so that a later release
//!   need not understand them. Nothing relies on it: until then they are as good as any.

use crate::api::Buffer;
use crate::replica::Replica;
use base::Monotonic;

/// The version in force, and how far the records are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rewriting {
    pub(crate) version: u16,
    /// The bitmap page to look at next; those before it have the version. `None`: all records have.
    page: Option<u32>,
}

impl Rewriting {
    /// With a superblock of `version`.
    pub(crate) fn found(version: u16) -> Self {
        Self { version, page: Some(0) }
    }

    /// There are other pages.
    pub(crate) fn begin_again(&mut self) {
        self.page = Some(0);
    }
}

impl<B: Buffer> Replica<B> {
    /// Records are written in `version` from now on, if it is higher than before.
    pub fn handle_version(&mut self, now: Monotonic, version: u16) {
        self.advance(now);
        if version > self.rewriting.version {
            self.rewriting = Rewriting::found(version);
        }
        self.pump();
    }

    /// Every record has the version in force, in both places.
    #[must_use]
    pub fn is_rewritten(&self) -> bool {
        self.rewriting.page.is_none()
    }

    /// Asks for the next record to be written that is of an older version, if none is being written.
    pub(crate) fn rewrite_further(&mut self) {
        let busy = self.closing.is_some() || self.stopped || self.failed || self.watch.aside;
        let version = self.rewriting.version;
        // While the pages move (S22) all of them are written anyway.
        if busy
            || self.resizing.is_under_way()
            || self.superblock_record.rewrite(version)
            || self.log.record.rewrite(version)
        {
            return;
        }
        while let Some(page) = self.rewriting.page {
            match self.bitmap.record(page).map(|record| record.rewrite(version)) {
                None => self.rewriting.page = None,
                Some(false) => self.rewriting.page = Some(page.saturating_add(1)),
                Some(true) => return self.write_page(page),
            }
        }
    }
}
