//! Finding room: which parts of the disks become a volume's next runs.

use crate::disk::{Disk, ZeroMode};
use crate::error::{DiskError, ErrorKind};
use crate::label::DiskId;
use crate::table::{AreaKind, EXTENT_BYTES, Run, SPACE_START_BYTES};
use base::{ByteCount, ReplicaId, VolumeId};
use std::ops::Range;
use std::sync::Arc;

/// Space set aside for a volume, not yet its own. Dropping it gives the space back.
#[derive(Debug)]
pub struct Reservation {
    pub(crate) runs: Vec<ReservedRun>,
    pub(crate) zeroed: bool,
    /// The pool holds a weak one: space stays set aside while this lives.
    pub(crate) alive: Arc<()>,
}

#[derive(Clone, Debug)]
pub(crate) struct ReservedRun {
    pub(crate) disk: Disk,
    pub(crate) disk_id: DiskId,
    pub(crate) run: Run,
}

impl Reservation {
    /// Whether the area was long enough already.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Bytes set aside.
    #[must_use]
    pub fn len(&self) -> ByteCount {
        ByteCount(self.runs.iter().map(|reserved| reserved.run.len_bytes).sum())
    }

    /// Makes the space read as zero, durably; must come before it is committed. May take as long as writing all
    /// of it, on any thread.
    pub fn zero(&mut self) -> Result<(), DiskError> {
        for ReservedRun { disk, run, .. } in &self.runs {
            disk.zero_blocking(run.disk_offset_bytes, run.len_bytes, ZeroMode::Keep)?;
        }
        for ReservedRun { disk, .. } in &self.runs {
            disk.flush_blocking()?;
        }
        self.zeroed = true;
        Ok(())
    }
}

/// A free range of one disk, in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Free {
    pub(crate) disk: Disk,
    pub(crate) disk_id: DiskId,
    pub(crate) range: Range<u64>,
}

impl Free {
    fn len(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// The free ranges of a disk of `size_bytes` on which `taken` is in use.
pub(crate) fn free_ranges(size_bytes: u64, mut taken: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let end = size_bytes - size_bytes % EXTENT_BYTES;
    taken.sort_by_key(|range| range.start);
    let mut free = Vec::new();
    let mut from = SPACE_START_BYTES;
    for range in taken {
        if range.start > from {
            free.push(from..range.start);
        }
        from = from.max(range.end);
    }
    if end > from {
        free.push(from..end);
    }
    free
}

/// What the runs are for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Purpose {
    pub(crate) volume: VolumeId,
    pub(crate) replica: ReplicaId,
    pub(crate) kind: AreaKind,
    /// Present end of the area, in bytes.
    pub(crate) start_bytes: u64,
    /// Its new end, in bytes.
    pub(crate) end_bytes: u64,
}

/// Picks the fewest runs: right behind the area's last one if it fits there, else the tightest free range that
/// holds all, else the largest ones.
pub(crate) fn pick(
    purpose: Purpose,
    last: Option<(DiskId, u64)>,
    mut free: Vec<Free>,
) -> Result<Vec<ReservedRun>, DiskError> {
    let need = purpose.end_bytes - purpose.start_bytes;
    let total: u64 = free.iter().map(Free::len).sum();
    if total < need {
        return Err(DiskError::new(
            ErrorKind::NoSpace,
            format!("volume {} needs {}; {} are free", purpose.volume, ByteCount(need), ByteCount(total)),
        ));
    }
    let behind_last = free.iter().position(|f| f.len() >= need && last == Some((f.disk_id, f.range.start)));
    let tightest = || {
        let fitting = free.iter().enumerate().filter(|(_, f)| f.len() >= need);
        fitting.min_by_key(|(_, f)| f.len()).map(|(index, _)| index)
    };
    let chosen = match behind_last.or_else(tightest) {
        Some(index) => vec![free.swap_remove(index)],
        None => {
            free.sort_by_key(|f| std::cmp::Reverse(f.len()));
            free
        }
    };
    let mut runs = Vec::new();
    let mut at = purpose.start_bytes;
    for Free { disk, disk_id, range } in chosen {
        let len_bytes = (range.end - range.start).min(purpose.end_bytes - at);
        if len_bytes == 0 {
            break;
        }
        let run = Run {
            volume: purpose.volume,
            replica: purpose.replica,
            kind: purpose.kind,
            freeing: false,
            area_offset_bytes: at,
            batch_end_bytes: purpose.end_bytes,
            disk_offset_bytes: range.start,
            len_bytes,
        };
        runs.push(ReservedRun { disk, disk_id, run });
        at += len_bytes;
    }
    Ok(runs)
}
