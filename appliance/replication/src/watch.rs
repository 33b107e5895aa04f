//! A disk that does not answer in time (S11).
//!
//! Such a copy stands aside: as primary with an in-sync peer it serves nothing, so that the peer steps in; as secondary
//! it opens no session. It is of use again when what hung has ended; if the peer stepped in, as a target. With no
//! in-sync peer there is nobody to stand aside for: the disk stays, and the initiators wait for it.
//!
//! Invariants
//! - Patience is counted in looks, a peer time-out or more apart: time in which this process did not run is not held
//!   against the disk.
//! - While it stands aside nothing is answered and no shrink is proposed: a copy whose disk hangs must not stay alone.

use alloc::collections::BTreeMap;
use base::Monotonic;

use crate::api::{Buffer, Problem};
use crate::replica::Replica;

/// An operation that was under way at so many looks in a row hangs: five peer time-outs at least.
const LOOKS: u32 = 6;

/// What is known of operations that take long.
#[derive(Clone, Debug, Default)]
pub(crate) struct DiskWatch {
    next_look: Monotonic,
    /// Operations under way at the last look, and at how many in a row.
    seen: BTreeMap<(u64, u64), u32>,
    hangs: bool,
    /// It hangs, and someone else may have an in-sync copy.
    pub(crate) aside: bool,
}

impl<B: Buffer> Replica<B> {
    pub(crate) fn watch_timeout(&self) -> Monotonic {
        self.watch.next_look
    }

    /// Looks at what the disk works on.
    pub(crate) fn watch_disk(&mut self) {
        if self.now < self.watch.next_look {
            return;
        }
        self.watch.next_look = self.now + self.options.timing.peer;
        let before = core::mem::take(&mut self.watch.seen);
        let data = self.jobs.iter().filter(|(_, job)| job.on_disk());
        let data = data.map(|(key, job)| (key, u64::from(job.writes_disk())));
        let under_way = data.chain(self.meta_writes());
        let seen = under_way.map(|op| (op, before.get(&op).map_or(1, |looks| looks.saturating_add(1))));
        self.watch.seen = seen.collect();
        let hangs = self.watch.seen.values().any(|looks| *looks >= LOOKS);
        if hangs && !self.watch.hangs {
            self.problem(Problem::DiskHangs);
        }
        self.watch.hangs = hangs;
        let aside = hangs && (!self.primary || self.peer_in_sync());
        if aside != self.watch.aside {
            self.watch.aside = aside;
            if aside { self.stand_aside() } else { self.come_back() }
        }
    }

    fn stand_aside(&mut self) {
        self.stop_serving();
        if self.link.as_ref().is_some_and(|link| !link.dialled) {
            self.drop_link();
        }
    }

    /// Nobody has stepped in, or this copy is a target now.
    fn come_back(&mut self) {
        if self.primary {
            for key in self.jobs.keys() {
                self.offer(key);
                self.settle(key);
            }
        }
    }
}
