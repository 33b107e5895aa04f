//! The activity log: which 4 MiB extents may have writes in flight, or writes whose dirty bits are not on disk (S9).
//!
//! Invariants
//! - The record on disk lists every extent that a slot holds from the moment its change is durable until the change
//!   that removed it.
//! - A slot with references is never evicted; one without only when the extent's dirty bits are on disk.
//! - The number grows with every change of the extents; a secondary keeps the highest number it was sent.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use base::{DecodeError, Reader, Writer};

use crate::record::TwoPlaces;

/// The log as a record holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogRecord {
    /// Its number.
    pub(crate) number: u64,
    /// The highest number that the peer had confirmed when it was written.
    pub(crate) peer_number: u64,
    /// The extents.
    pub(crate) extents: Vec<u32>,
}

impl LogRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(20 + 4 * self.extents.len());
        w.u64(self.number).u64(self.peer_number);
        // At most `al_slots`, far under 65536.
        w.u16(u16::try_from(self.extents.len()).unwrap_or(u16::MAX));
        for extent in &self.extents {
            w.u32(*extent);
        }
        w.into_vec()
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new("activity log", body);
        let (number, peer_number) = (r.u64()?, r.u64()?);
        let extents = (0..r.u16()?).map(|_| r.u32()).collect::<Result<_, _>>()?;
        Ok(Self { number, peer_number, extents })
    }
}

#[derive(Clone, Debug, Default)]
struct Slot {
    extent: Option<u32>,
    refs: u32,
    /// When it was last acquired, by `clock`.
    used: u64,
    /// The change of the record that listed it.
    since: u64,
}

/// How an attempt to log extents ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acquired {
    /// Referenced; durable once this change of the record is.
    Listed(u64),
    /// No slot for all of them now. The extent named could leave if its dirty bits were on disk.
    Full(Option<u32>),
}

/// The activity log in memory.
#[derive(Clone, Debug)]
pub(crate) struct ActivityLog {
    slots: Vec<Slot>,
    index: BTreeMap<u32, usize>,
    pub(crate) record: TwoPlaces,
    number: u64,
    number_written: u64,
    number_durable: u64,
    changed: bool,
    clock: u64,
}

impl ActivityLog {
    /// The log with `slots` places (more if the record has more extents), as found on disk.
    pub(crate) fn found(slots: u32, content: &LogRecord, record: TwoPlaces) -> Self {
        let mut log = Self {
            slots: Vec::new(),
            index: BTreeMap::new(),
            record,
            number: content.number,
            number_written: content.number,
            number_durable: content.number,
            changed: false,
            clock: 0,
        };
        for extent in &content.extents {
            if !log.index.contains_key(extent) {
                log.index.insert(*extent, log.slots.len());
                log.slots.push(Slot { extent: Some(*extent), ..Slot::default() });
            }
        }
        log.slots.resize(log.slots.len().max(slots as usize), Slot::default());
        log
    }

    /// The volume has grown: at least so many places.
    pub(crate) fn grow(&mut self, slots: u32) {
        self.slots.resize(self.slots.len().max(slots as usize), Slot::default());
    }

    /// The number that the record on disk carries.
    pub(crate) fn durable_number(&self) -> u64 {
        self.number_durable
    }

    /// Continues from the peer's number, so that numbers grow along the line of primaries.
    pub(crate) fn raise_number(&mut self, at_least: u64) {
        self.number = self.number.max(at_least);
    }

    /// A secondary shall store the primary's number (S9).
    pub(crate) fn store_number(&mut self, number: u64) {
        if number > self.number {
            self.number = number;
            self.record.touch();
        }
    }

    /// References every extent of `first..=last`, listing those that are not: all or none. `saved` says whether an
    /// extent's dirty bits are on disk.
    pub(crate) fn acquire(&mut self, first: u32, last: u32, saved: impl Fn(u32) -> bool) -> Acquired {
        self.clock += 1;
        let missing = (first..=last).filter(|extent| !self.index.contains_key(extent)).count();
        if missing > 0 {
            if let Err(unsaved) = self.make_room(missing, first, last, saved) {
                return Acquired::Full(unsaved);
            }
            self.changed = true;
            let change = self.record.touch();
            for extent in first..=last {
                self.list(extent, change);
            }
        }
        let mut durable_at = 0;
        for extent in first..=last {
            let slot = self.index.get(&extent).and_then(|at| self.slots.get_mut(*at));
            if let Some(slot) = slot {
                slot.refs += 1;
                slot.used = self.clock;
                durable_at = durable_at.max(slot.since);
            }
        }
        Acquired::Listed(durable_at)
    }

    fn list(&mut self, extent: u32, change: u64) {
        if self.index.contains_key(&extent) {
            return;
        }
        if let Some((at, slot)) = self.slots.iter_mut().enumerate().find(|(_, slot)| slot.extent.is_none()) {
            *slot = Slot { extent: Some(extent), since: change, ..Slot::default() };
            self.index.insert(extent, at);
        }
    }

    /// Evicts the least recently used idle extents outside `first..=last` until `wanted` slots are free.
    fn make_room(
        &mut self,
        wanted: usize,
        first: u32,
        last: u32,
        saved: impl Fn(u32) -> bool,
    ) -> Result<(), Option<u32>> {
        let free = self.slots.iter().filter(|slot| slot.extent.is_none()).count();
        let mut idle: Vec<(u64, u32)> = self
            .slots
            .iter()
            .filter(|slot| slot.refs == 0)
            .filter_map(|slot| slot.extent.map(|extent| (slot.used, extent)))
            .filter(|(_, extent)| !(first..=last).contains(extent))
            .collect();
        idle.sort_unstable();
        let victims: Vec<u32> =
            idle.iter().map(|(_, e)| *e).filter(|e| saved(*e)).take(wanted.saturating_sub(free)).collect();
        if free + victims.len() < wanted {
            return Err(idle.iter().map(|(_, extent)| *extent).find(|extent| !saved(*extent)));
        }
        for extent in victims {
            self.remove(extent);
        }
        Ok(())
    }

    fn remove(&mut self, extent: u32) {
        if let Some(slot) = self.index.remove(&extent).and_then(|at| self.slots.get_mut(at)) {
            *slot = Slot::default();
        }
    }

    /// Gives the references of one [`Self::acquire`] back. The extents stay listed.
    pub(crate) fn release(&mut self, first: u32, last: u32) {
        for extent in first..=last {
            if let Some(slot) = self.index.get(&extent).and_then(|at| self.slots.get_mut(*at)) {
                slot.refs = slot.refs.saturating_sub(1);
            }
        }
    }

    /// Whether a write to `extent` may be submitted.
    pub(crate) fn is_durable(&self, extent: u32) -> bool {
        self.index
            .get(&extent)
            .and_then(|at| self.slots.get(*at))
            .is_some_and(|slot| self.record.is_durable(slot.since))
    }

    /// Everything listed, in order.
    pub(crate) fn extents(&self) -> impl Iterator<Item = u32> {
        self.index.keys().copied()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Forgets every extent; the caller has made their dirty bits durable, or another copy has. Returns the change that
    /// makes it durable.
    pub(crate) fn clear(&mut self) -> u64 {
        if self.index.is_empty() {
            return self.record.wanted();
        }
        self.index.clear();
        self.slots.fill(Slot::default());
        self.record.touch()
    }

    /// Starts writing the record in `version` if it has changed.
    pub(crate) fn begin(
        &mut self,
        version: u16,
        peer_number: u64,
        seal: impl FnOnce(u64, &[u8]) -> Vec<u8>,
    ) -> Option<(u8, Vec<u8>)> {
        if self.record.is_writing() || self.record.is_clean() {
            return None;
        }
        if self.changed {
            self.number += 1;
            self.changed = false;
        }
        self.number_written = self.number;
        let content = LogRecord { number: self.number, peer_number, extents: self.extents().collect() };
        self.record.begin(version, |sequence| seal(sequence, &content.encode()))
    }

    /// Both places hold what [`Self::begin`] started.
    pub(crate) fn written(&mut self) {
        self.number_durable = self.number_written;
    }

    /// Checks the index against the slots.
    pub(crate) fn validate(&self) -> Result<(), &'static str> {
        let listed = self.slots.iter().filter(|slot| slot.extent.is_some()).count();
        if listed != self.index.len() {
            return Err("activity log: index and slots differ");
        }
        let right =
            |(extent, at): (&u32, &usize)| self.slots.get(*at).is_some_and(|s| s.extent == Some(*extent));
        if self.index.iter().all(right) { Ok(()) } else { Err("activity log: index points to a wrong slot") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn log(slots: u32) -> ActivityLog {
        ActivityLog::found(slots, &LogRecord::default(), TwoPlaces::found(1, 0, 2))
    }

    fn write(log: &mut ActivityLog) {
        log.begin(2, 0, |_, body| body.to_vec()).unwrap();
        log.record.completed();
        log.record.completed();
        log.written();
    }

    #[test]
    fn an_extent_is_logged_once_and_numbered() {
        let mut log = log(8);
        let Acquired::Listed(change) = log.acquire(3, 4, |_| true) else { panic!() };
        assert!(!log.is_durable(3));
        write(&mut log);
        assert!(
            log.record.is_durable(change) && log.is_durable(3) && log.is_durable(4) && !log.is_durable(5)
        );
        assert_eq!(log.durable_number(), 1);
        assert_eq!(log.acquire(4, 4, |_| true), Acquired::Listed(change));
        assert!(log.begin(2, 0, |_, b| b.to_vec()).is_none(), "nothing to write for a known extent");
        log.store_number(1);
        assert!(log.record.is_clean());
        log.store_number(9);
        write(&mut log);
        assert_eq!((log.durable_number(), log.validate()), (9, Ok(())));
    }

    #[test]
    fn only_idle_and_saved_extents_leave_oldest_first() {
        let mut log = log(2);
        log.acquire(1, 1, |_| true);
        log.acquire(2, 2, |_| true);
        assert_eq!(log.acquire(3, 3, |_| true), Acquired::Full(None));
        log.release(1, 1);
        log.release(2, 2);
        assert_eq!(log.acquire(3, 3, |_| false), Acquired::Full(Some(1)));
        assert!(matches!(log.acquire(3, 3, |extent| extent != 1), Acquired::Listed(_)));
        assert_eq!(log.extents().collect::<Vec<_>>(), [1, 3]);
        assert_eq!(log.acquire(1, 2, |_| true), Acquired::Full(None), "all or none");
        log.clear();
        assert!(log.is_empty());
    }

    proptest! {
        #[test]
        fn records_survive(number: u64, peer_number: u64, extents in prop::collection::vec(any::<u32>(), 0..900)) {
            let content = LogRecord { number, peer_number, extents };
            prop_assert_eq!(LogRecord::decode(&content.encode()), Ok(content));
        }
    }

    #[test]
    fn what_recovery_found_is_listed() {
        let content = LogRecord { number: 5, peer_number: 4, extents: vec![7, 9, 7] };
        let log = ActivityLog::found(2, &content, TwoPlaces::found(1, 0, 2));
        assert_eq!((log.extents().collect::<Vec<_>>(), log.durable_number()), (vec![7, 9], 5));
        assert!(log.is_durable(7));
    }
}
