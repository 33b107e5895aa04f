//! Makes sense of the tables of all disks together, after any crash.
//!
//! An allocation or a freeing may change several tables, one after the other. A crash between them leaves a batch of
//! runs that does not reach its end, or runs marked as being freed. Nothing relies on either (S12): both are undone
//! here, before the pool answers anything.

use crate::error::{DiskError, ErrorKind};
use crate::table::{AreaKind, Run};
use base::{ReplicaId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

/// An area of a volume: its runs in order, from all disks.
type Areas<'a> = BTreeMap<(VolumeId, AreaKind), Vec<&'a Run>>;

/// What to drop from the tables.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Undo {
    /// Volumes whose freeing was begun.
    pub(crate) freeing: BTreeSet<VolumeId>,
    /// Batches that were not completed: volume, area, end of the batch.
    pub(crate) batches: BTreeSet<(VolumeId, AreaKind, u64)>,
}

impl Undo {
    pub(crate) fn covers(&self, run: &Run) -> bool {
        self.freeing.contains(&run.volume)
            || self.batches.contains(&(run.volume, run.kind, run.batch_end_bytes))
    }
}

/// Finds what a crash left unfinished in the runs of *all* disks of a pool. [`ErrorKind::Damaged`] if they make no
/// sense by any crash.
pub(crate) fn unfinished<'a>(runs: impl Iterator<Item = &'a Run> + Clone) -> Result<Undo, DiskError> {
    let freeing = runs.clone().filter(|run| run.freeing).map(|run| run.volume).collect::<BTreeSet<_>>();
    let mut undo = Undo { freeing, batches: BTreeSet::new() };
    let mut replicas: BTreeMap<VolumeId, ReplicaId> = BTreeMap::new();
    let mut areas = Areas::new();
    for run in runs.filter(|run| !undo.freeing.contains(&run.volume)) {
        if *replicas.entry(run.volume).or_insert(run.replica) != run.replica {
            return Err(nonsense(run.volume, "has runs of two replicas"));
        }
        areas.entry((run.volume, run.kind)).or_default().push(run);
    }
    for ((volume, kind), mut runs) in areas {
        runs.sort_by_key(|run| run.area_offset_bytes);
        if let Some(batch_end) = unfinished_batch(volume, &runs)? {
            undo.batches.insert((volume, kind, batch_end));
        }
    }
    Ok(undo)
}

/// `runs` of one area, in order. Only the last batch may be incomplete.
fn unfinished_batch(volume: VolumeId, runs: &[&Run]) -> Result<Option<u64>, DiskError> {
    let mut end = 0;
    let mut batches = runs.chunk_by(|a, b| a.batch_end_bytes == b.batch_end_bytes).peekable();
    while let Some(batch) = batches.next() {
        let batch_end = batch.first().map_or(0, |run| run.batch_end_bytes);
        let mut reached = end;
        let mut whole = true;
        for run in batch {
            if run.area_offset_bytes < reached {
                return Err(nonsense(volume, "has two runs for one place"));
            }
            whole &= run.area_offset_bytes == reached;
            reached = run.area_offset_bytes.saturating_add(run.len_bytes);
        }
        if whole && reached == batch_end {
            end = reached;
        } else if batches.peek().is_none() && reached <= batch_end {
            return Ok(Some(batch_end));
        } else {
            return Err(nonsense(volume, "lacks runs in its midst"));
        }
    }
    Ok(None)
}

fn nonsense(volume: VolumeId, reason: &str) -> DiskError {
    DiskError::new(ErrorKind::Damaged, format!("allocation tables: volume {volume} {reason}"))
}
