//! Locks on ranges of the volume (S18): readers share, a writer is alone, strictly first come first served.
//!
//! Invariants
//! - Of two requests that overlap and are not both shared, the later waits until the earlier is released. So no
//!   request starves, and a waiting writer holds back later readers.
//! - `blockers` of a request is the number of earlier ones, held or waiting, that it conflicts with.
//!
//! A request is filed under each 64 KiB granule that it touches, in a table of buckets, so finding its conflicts costs
//! the neighbourhood, not all that is outstanding. A pair that shares several granules counts once: in the first
//! granule that both touch.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::api::Span;
use crate::layout::LOCK_BLOCK_BYTES;
use crate::slab::Slab;

const GRANULE_BLOCKS: u64 = 16;
const BUCKETS: u64 = 1024;

/// A held or awaited lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LockId(u64);

#[derive(Clone, Debug)]
struct Entry {
    first: u64,
    /// Inclusive.
    last: u64,
    exclusive: bool,
    ticket: u64,
    blockers: u32,
    owner: u64,
}

impl Entry {
    fn conflicts(&self, other: &Self) -> bool {
        (self.exclusive || other.exclusive) && self.first <= other.last && other.first <= self.last
    }

    fn granules(&self) -> core::ops::RangeInclusive<u64> {
        self.first / GRANULE_BLOCKS..=self.last / GRANULE_BLOCKS
    }
}

#[derive(Clone, Copy, Debug)]
struct Filed {
    granule: u64,
    id: u64,
}

/// All locks of a volume.
#[derive(Clone, Debug)]
pub(crate) struct RangeLocks {
    entries: Slab<Entry>,
    buckets: Vec<Vec<Filed>>,
    next_ticket: u64,
    /// Sabotage of S18: everything is granted at once.
    pub(crate) broken: bool,
}

fn bucket(granule: u64) -> usize {
    // Below BUCKETS, so it fits.
    usize::try_from(granule % BUCKETS).unwrap_or(0)
}

impl RangeLocks {
    pub(crate) fn new() -> Self {
        let buckets = (0..BUCKETS).map(|_| Vec::new()).collect();
        Self { entries: Slab::new(), buckets, next_ticket: 0, broken: false }
    }

    /// Asks for `span` (not empty). True: granted; else `owner` comes out of a later [`Self::release`].
    pub(crate) fn acquire(&mut self, span: Span, exclusive: bool, owner: u64) -> (LockId, bool) {
        let first = span.offset / LOCK_BLOCK_BYTES;
        let last = span.end().saturating_sub(1).max(span.offset) / LOCK_BLOCK_BYTES;
        let mut entry = Entry { first, last, exclusive, ticket: self.next_ticket, blockers: 0, owner };
        self.next_ticket += 1;
        if !self.broken {
            for granule in entry.granules() {
                for filed in self.buckets.get(bucket(granule)).into_iter().flatten() {
                    if filed.granule == granule && self.counts_here(&entry, filed) {
                        entry.blockers += 1;
                    }
                }
            }
        }
        let granted = entry.blockers == 0;
        let granules = entry.granules();
        let id = self.entries.insert(entry);
        for granule in granules {
            if let Some(bucket) = self.buckets.get_mut(bucket(granule)) {
                bucket.push(Filed { granule, id });
            }
        }
        (LockId(id), granted)
    }

    /// Whether the filed entry conflicts with `entry` and this granule is the first that both touch.
    fn counts_here(&self, entry: &Entry, filed: &Filed) -> bool {
        self.entries.get(filed.id).is_some_and(|other| {
            let shared_from = entry.first.max(other.first) / GRANULE_BLOCKS;
            shared_from == filed.granule && entry.conflicts(other)
        })
    }

    /// Gives a lock back, held or still awaited; owners whose turn has come are appended to `granted`.
    pub(crate) fn release(&mut self, id: LockId, granted: &mut VecDeque<u64>) {
        let Some(entry) = self.entries.remove(id.0) else { return };
        for granule in entry.granules() {
            let Some(bucket) = self.buckets.get_mut(bucket(granule)) else { continue };
            // Order within a bucket does not matter: tickets decide.
            if let Some(at) = bucket.iter().position(|f| f.id == id.0 && f.granule == granule) {
                bucket.swap_remove(at);
            }
            for filed in bucket.iter() {
                let Some(other) = self.entries.get_mut(filed.id) else { continue };
                let shared_from = entry.first.max(other.first) / GRANULE_BLOCKS;
                let later = other.ticket > entry.ticket && filed.granule == granule && shared_from == granule;
                if later && entry.conflicts(other) && other.blockers > 0 {
                    other.blockers -= 1;
                    if other.blockers == 0 {
                        granted.push_back(other.owner);
                    }
                }
            }
        }
    }

    /// Locks held or awaited.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Checks that no two granted locks conflict and that every count is right. Quadratic.
    pub(crate) fn validate(&self) -> Result<(), &'static str> {
        if self.broken {
            return Ok(());
        }
        for (key, entry) in self.entries.iter() {
            let earlier = self
                .entries
                .iter()
                .filter(|(k, o)| *k != key && o.ticket < entry.ticket && entry.conflicts(o));
            if usize::try_from(entry.blockers) != Ok(earlier.count()) {
                return Err("range lock: wrong number of blockers (S18)");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span(first: u64, blocks: u32) -> Span {
        Span { offset: first * LOCK_BLOCK_BYTES, len: blocks * 4096 }
    }

    #[test]
    fn a_waiting_writer_is_not_overtaken() {
        let mut locks = RangeLocks::new();
        let mut granted = VecDeque::new();
        let (reader, now) = locks.acquire(span(0, 4), false, 1);
        assert!(now);
        let (writer, now) = locks.acquire(span(3, 1), true, 2);
        assert!(!now);
        let (late, now) = locks.acquire(span(3, 2), false, 3);
        assert!(!now);
        assert!(locks.acquire(span(4, 1), false, 4).1, "shared beside an awaited shared one");
        assert!(locks.acquire(span(40, 100), true, 5).1);
        locks.release(reader, &mut granted);
        assert_eq!(granted.drain(..).collect::<Vec<_>>(), [2]);
        locks.release(writer, &mut granted);
        assert_eq!(granted.drain(..).collect::<Vec<_>>(), [3]);
        locks.release(late, &mut granted);
        assert_eq!((granted.len(), locks.len()), (0, 2));
    }

    #[test]
    fn parts_of_one_block_conflict() {
        let mut locks = RangeLocks::new();
        locks.acquire(Span { offset: 512, len: 512 }, true, 1);
        assert!(!locks.acquire(Span { offset: 3584, len: 512 }, false, 2).1);
        assert!(locks.acquire(Span { offset: 4096, len: 512 }, false, 3).1);
    }

    proptest! {
        #[test]
        fn first_come_first_served(steps in prop::collection::vec(
            (any::<bool>(), 0u64..200, 1u32..60, any::<bool>(), any::<prop::sample::Index>()), 1..120)
        ) {
            let mut locks = RangeLocks::new();
            let mut held = Vec::new();
            let mut granted = VecDeque::new();
            for (owner, (release, first, blocks, exclusive, pick)) in (0u64..).zip(steps) {
                if release && !held.is_empty() {
                    let (id, _) = held.swap_remove(pick.index(held.len()));
                    locks.release(id, &mut granted);
                } else {
                    held.push((locks.acquire(span(first, blocks), exclusive, owner).0, owner));
                }
                prop_assert_eq!(locks.validate(), Ok(()));
            }
            while let Some((id, _)) = held.pop() {
                locks.release(id, &mut granted);
                prop_assert_eq!(locks.validate(), Ok(()));
            }
            prop_assert_eq!(locks.len(), 0);
            prop_assert!(locks.buckets.iter().all(Vec::is_empty));
        }
    }
}
