//! A disk with a queue: operations complete in any order; a crash lets any part of what is under way land, block by
//! block, metadata records torn at 512 bytes included; a power cut also takes back what was complete but not durable.

use crate::buffer::{BLOCK, SimBuffer};
use crate::rng::Rng;
use base::ByteCount;
use replication::{DiskOp, DiskResult, DiskToken};
use std::collections::{BTreeMap, BTreeSet};

/// One node's disk for the one volume.
pub(crate) struct Disk {
    /// Data area: block number → value; what is absent is zero.
    data: BTreeMap<u64, u64>,
    /// Blocks whose value is not durable yet, with the durable one.
    volatile: BTreeMap<u64, u64>,
    meta: Vec<u8>,
    /// The pool has given so much to the data area, zeroed (S22).
    room: ByteCount,
    /// Offsets of the records that were ever formatted.
    records: Vec<u64>,
    /// Offsets of metadata records that a crash tore, or that rotted.
    damaged: BTreeSet<u64>,
    queue: Vec<(DiskToken, DiskOp<SimBuffer>)>,
}

/// A range of 512-byte blocks.
type Blocks = std::ops::Range<u64>;

impl Disk {
    pub(crate) fn new(meta_bytes: u64, room: ByteCount) -> Self {
        let meta = vec![0; usize::try_from(meta_bytes).unwrap()];
        Self {
            data: BTreeMap::new(),
            volatile: BTreeMap::new(),
            meta,
            room,
            records: Vec::new(),
            damaged: BTreeSet::new(),
            queue: Vec::new(),
        }
    }

    pub(crate) fn meta(&self) -> &[u8] {
        &self.meta
    }

    /// Writes metadata at rest, e.g. when the copy is made.
    pub(crate) fn format(&mut self, offset: u64, bytes: &[u8]) {
        let at = usize::try_from(offset).unwrap();
        self.meta[at..at + bytes.len()].copy_from_slice(bytes);
        self.records.extend((offset..offset + bytes.len() as u64).step_by(4096));
        self.records.dedup();
    }

    /// What lies on the disk where the volume does not reach yet: what someone else left there.
    pub(crate) fn litter(&mut self, blocks: &[u64]) {
        let end = self.room.0 / BLOCK;
        for block in blocks.iter().filter(|block| **block >= end) {
            self.data.insert(*block, u64::MAX - *block);
        }
    }

    pub(crate) fn room(&self) -> ByteCount {
        self.room
    }

    /// The pool makes the areas longer; what is added to the data area is zeroed, once.
    pub(crate) fn enlarge(&mut self, data: ByteCount, meta: ByteCount) {
        let added = self.room.0 / BLOCK..data.0 / BLOCK;
        self.data.retain(|block, _| !added.contains(block));
        self.room = self.room.max(data);
        let meta = usize::try_from(meta.0).unwrap();
        self.meta.resize(self.meta.len().max(meta), 0);
    }

    /// What a reader of the disk gets.
    pub(crate) fn value(&self, block: u64) -> u64 {
        self.data.get(&block).copied().unwrap_or(0)
    }

    /// What a power cut can't undo.
    pub(crate) fn durable(&self, block: u64) -> u64 {
        self.volatile.get(&block).copied().unwrap_or_else(|| self.value(block))
    }

    /// Every block that is not zero.
    pub(crate) fn content(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.data.iter().filter(|(_, value)| **value != 0).map(|(block, value)| (*block, *value))
    }

    /// Writes to the data area that have not ended.
    pub(crate) fn writes_queued(&self) -> usize {
        self.queue.iter().filter(|(_, op)| written(op).is_some()).count()
    }

    /// Queues an operation. The error tells how the replica broke its promise to the disk; what conflicts is queued all
    /// the same, as a drive would.
    pub(crate) fn submit(&mut self, token: DiskToken, op: DiskOp<SimBuffer>) -> Result<(), String> {
        if self.queue.iter().any(|(other, _)| *other == token) {
            return Err(format!("disk: {token:?} is in use"));
        }
        if let DiskOp::WriteMeta { offset, bytes } = &op {
            let end = offset + bytes.len() as u64;
            if !offset.is_multiple_of(4096)
                || !bytes.len().is_multiple_of(4096)
                || end > self.meta.len() as u64
            {
                return Err(format!("disk: metadata write of {} at {offset}", bytes.len()));
            }
        }
        // Drives may reorder what is queued together, so the replica must not queue what conflicts.
        let conflicting = self.queue.iter().find(|(_, other)| conflict(&op, other));
        let checked = match conflicting {
            Some((_, other)) => Err(format!("disk: {} while {} is queued", brief(&op), brief(other))),
            None => Ok(()),
        };
        self.queue.push((token, op));
        checked
    }

    /// Completes one operation; `None` if a crash took it.
    pub(crate) fn complete(&mut self, token: DiskToken) -> Option<DiskResult<SimBuffer>> {
        let at = self.queue.iter().position(|(other, _)| *other == token)?;
        let (_, op) = self.queue.remove(at);
        Some(match op {
            DiskOp::Read { offset, len } => {
                let blocks: Vec<u64> = blocks(offset, len).map(|block| self.value(block)).collect();
                DiskResult::Data(SimBuffer::new(blocks))
            }
            op => {
                self.land(&op, |_| true);
                DiskResult::Done
            }
        })
    }

    /// Ends one operation with an error, if it is a write: any part of it may have landed. A read succeeds.
    pub(crate) fn fail(&mut self, token: DiskToken, rng: &mut Rng) -> Option<DiskResult<SimBuffer>> {
        let at = self.queue.iter().position(|(other, _)| *other == token)?;
        if matches!(self.queue[at].1, DiskOp::Read { .. }) {
            return self.complete(token);
        }
        let (_, op) = self.queue.remove(at);
        self.land_partly(&op, rng);
        Some(DiskResult::Failed)
    }

    /// The process is gone, with its queue. Its successor starts only after the last of it has ended (the device is
    /// locked until then).
    pub(crate) fn crash(&mut self, rng: &mut Rng, power: bool) {
        for (_, op) in std::mem::take(&mut self.queue) {
            self.land_partly(&op, rng);
        }
        if power {
            for (block, durable) in std::mem::take(&mut self.volatile) {
                if rng.chance(50) {
                    self.set(block, durable);
                }
            }
        }
    }

    /// Nothing of it lands, all, or any part.
    fn land_partly(&mut self, op: &DiskOp<SimBuffer>, rng: &mut Rng) {
        match rng.within(0..3) {
            0 => {}
            1 => self.land(op, |_| true),
            _ => {
                let bits = rng.next();
                self.land(op, |n| bits >> (n % 64) & 1 == 1);
                if let DiskOp::WriteMeta { offset, .. } = op {
                    self.damaged.insert(*offset);
                }
            }
        }
    }

    /// A byte of one metadata record goes bad while nobody looks; never of a record whose other place is bad (S12, I8).
    pub(crate) fn rot(&mut self, rng: &mut Rng) {
        // Its other place is 2 MiB away, within each 4 MiB.
        let record = rng.pick(&self.records);
        let other = record ^ (2 << 20);
        if self.queue.is_empty() && !self.damaged.contains(&other) {
            let at = usize::try_from(record + rng.within(0..4096)).unwrap();
            self.meta[at] ^= 1 << rng.within(0..8);
            self.damaged.insert(record);
        }
    }

    /// Writes those of the operation's 512-byte units for which `lands` holds.
    fn land(&mut self, op: &DiskOp<SimBuffer>, lands: impl Fn(u64) -> bool) {
        match op {
            DiskOp::WriteMeta { offset, bytes } => {
                self.damaged.remove(offset);
                for (n, unit) in (0..).zip(bytes.chunks(512)).filter(|(n, _)| lands(*n)) {
                    let at = usize::try_from(offset + n * 512).unwrap();
                    self.meta[at..at + unit.len()].copy_from_slice(unit);
                }
            }
            DiskOp::Write { offset, data, durable } => {
                for (n, value) in (0..).zip(data.blocks()).filter(|(n, _)| lands(*n)) {
                    self.write(offset / BLOCK + n, *value, *durable);
                }
            }
            DiskOp::Zero { offset, len, durable, .. } => {
                for (_, block) in (0..).zip(blocks(*offset, *len)).filter(|(n, _)| lands(*n)) {
                    self.write(block, 0, *durable);
                }
            }
            DiskOp::Read { .. } => {}
        }
    }

    fn write(&mut self, block: u64, value: u64, durable: bool) {
        if durable {
            self.volatile.remove(&block);
        } else {
            let before = self.value(block);
            self.volatile.entry(block).or_insert(before);
        }
        self.set(block, value);
    }

    fn set(&mut self, block: u64, value: u64) {
        if value == 0 {
            self.data.remove(&block);
        } else {
            self.data.insert(block, value);
        }
    }
}

fn blocks(offset: u64, len: u32) -> Blocks {
    assert!(
        offset.is_multiple_of(BLOCK) && u64::from(len).is_multiple_of(BLOCK),
        "data operation off a block's edge"
    );
    offset / BLOCK..(offset + u64::from(len)) / BLOCK
}

fn touched(op: &DiskOp<SimBuffer>) -> Option<Blocks> {
    match op {
        DiskOp::Read { offset, len } => Some(blocks(*offset, *len)),
        _ => written(op),
    }
}

fn written(op: &DiskOp<SimBuffer>) -> Option<Blocks> {
    match op {
        DiskOp::Write { offset, data, .. } => {
            Some(offset / BLOCK..offset / BLOCK + data.blocks().len() as u64)
        }
        DiskOp::Zero { offset, len, .. } => Some(blocks(*offset, *len)),
        DiskOp::Read { .. } | DiskOp::WriteMeta { .. } => None,
    }
}

/// Same 4096-byte unit, one of them writing.
fn conflict(a: &DiskOp<SimBuffer>, b: &DiskOp<SimBuffer>) -> bool {
    if let (DiskOp::WriteMeta { offset: x, bytes: p }, DiskOp::WriteMeta { offset: y, bytes: q }) = (a, b) {
        return *x < y + q.len() as u64 && *y < x + p.len() as u64;
    }
    let (Some(x), Some(y)) = (touched(a), touched(b)) else { return false };
    if written(a).is_none() && written(b).is_none() {
        return false;
    }
    x.start / 8 < y.end.div_ceil(8) && y.start / 8 < x.end.div_ceil(8)
}

/// For the trace.
pub(crate) fn brief(op: &DiskOp<SimBuffer>) -> String {
    match op {
        DiskOp::WriteMeta { offset, bytes } => format!("meta {offset}+{}", bytes.len()),
        DiskOp::Write { offset, data, durable } => {
            let flag = if *durable { "" } else { " volatile" };
            format!(
                "write block {}+{} {:x?}{flag}",
                offset / BLOCK,
                data.blocks().len(),
                data.blocks().first()
            )
        }
        DiskOp::Read { offset, len } => format!("read block {}+{}", offset / BLOCK, u64::from(*len) / BLOCK),
        DiskOp::Zero { offset, len, .. } => {
            format!("zero block {}+{}", offset / BLOCK, u64::from(*len) / BLOCK)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(block: u64, values: &[u64], durable: bool) -> DiskOp<SimBuffer> {
        DiskOp::Write { offset: block * BLOCK, data: SimBuffer::new(values.to_vec()), durable }
    }

    #[test]
    fn a_power_cut_takes_only_what_is_not_durable() {
        let (mut kept, mut lost) = (0, 0);
        for seed in 0..50 {
            let mut disk = Disk::new(4096, ByteCount(0));
            disk.submit(DiskToken(1), write(0, &[1], true)).unwrap();
            disk.submit(DiskToken(2), write(8, &[2], false)).unwrap();
            disk.complete(DiskToken(2));
            disk.complete(DiskToken(1));
            assert_eq!((disk.value(8), disk.durable(8)), (2, 0));
            disk.crash(&mut Rng::new(seed), true);
            assert_eq!(disk.value(0), 1);
            *if disk.value(8) == 2 { &mut kept } else { &mut lost } += 1;
        }
        assert!(kept > 0 && lost > 0);
    }

    #[test]
    fn a_crash_tears_what_is_queued() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut disk = Disk::new(4096, ByteCount(0));
            disk.submit(DiskToken(1), write(0, &[7, 7], true)).unwrap();
            disk.crash(&mut Rng::new(seed), false);
            seen.insert((disk.value(0), disk.value(1)));
        }
        assert_eq!(seen.len(), 4, "both, none, either: {seen:?}");
    }

    #[test]
    fn conflicting_operations_are_refused() {
        let mut disk = Disk::new(8192, ByteCount(0));
        disk.submit(DiskToken(1), write(3, &[1], true)).unwrap();
        assert!(disk.submit(DiskToken(2), write(4, &[1], true)).is_err(), "the same 4096 bytes");
        assert!(disk.submit(DiskToken(3), DiskOp::Read { offset: 0, len: 4096 }).is_err());
        disk.submit(DiskToken(4), DiskOp::Read { offset: 4096, len: 4096 }).unwrap();
        assert!(disk.submit(DiskToken(1), write(80, &[1], true)).is_err(), "the token is in use");
        assert!(disk.submit(DiskToken(5), DiskOp::WriteMeta { offset: 512, bytes: vec![0; 4096] }).is_err());
    }
}
