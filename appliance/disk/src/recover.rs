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

#[cfg(test)]
mod tests {
    use super::*;

    const E: u64 = crate::table::EXTENT_BYTES;

    fn run(area_offset: u64, len: u64, batch_end: u64) -> Run {
        Run {
            volume: VolumeId(1),
            replica: ReplicaId(10),
            kind: AreaKind::Data,
            freeing: false,
            area_offset_bytes: area_offset * E,
            batch_end_bytes: batch_end * E,
            disk_offset_bytes: (area_offset + 4) * E,
            len_bytes: len * E,
        }
    }

    fn undone(runs: &[Run]) -> Option<u64> {
        let undo = unfinished(runs.iter()).unwrap();
        undo.batches.first().map(|(_, _, end)| end / E)
    }

    #[test]
    fn whole_batches_stay() {
        assert_eq!(undone(&[]), None);
        assert_eq!(undone(&[run(0, 2, 5), run(2, 3, 5), run(5, 1, 6)]), None);
    }

    #[test]
    fn a_last_batch_cut_short_goes() {
        assert_eq!(undone(&[run(0, 2, 2), run(2, 3, 9)]), Some(9), "its end is missing");
        assert_eq!(undone(&[run(0, 2, 2), run(5, 4, 9)]), Some(9), "its start is missing");
        assert_eq!(undone(&[run(3, 1, 4)]), Some(4));
        let undo = unfinished([run(0, 2, 2), run(2, 3, 9)].iter()).unwrap();
        assert!(!undo.covers(&run(0, 2, 2)) && undo.covers(&run(2, 3, 9)));
    }

    #[test]
    fn a_freeing_mark_on_one_run_takes_the_whole_volume() {
        let marked = Run { freeing: true, ..run(0, 2, 2) };
        let other_disk = run(2, 3, 5);
        let bystander = Run { volume: VolumeId(2), ..run(0, 1, 1) };
        let undo = unfinished([marked, other_disk, bystander].iter()).unwrap();
        assert!(undo.covers(&marked) && undo.covers(&other_disk) && !undo.covers(&bystander));
        // The other disk's runs are gone already.
        assert!(unfinished([marked].iter()).unwrap().covers(&marked));
    }

    #[test]
    fn what_no_crash_leaves_is_refused() {
        let other_replica = Run { replica: ReplicaId(11), ..run(2, 1, 3) };
        for runs in [
            vec![run(0, 2, 2), other_replica],
            vec![run(0, 2, 2), run(1, 2, 3)],
            vec![run(0, 1, 2), run(2, 1, 3)],
            vec![run(0, 3, 2)],
        ] {
            assert_eq!(unfinished(runs.iter()).unwrap_err().kind(), ErrorKind::Damaged, "{runs:?}");
        }
    }
}
