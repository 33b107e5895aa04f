//! Random life of a pool, compared with a plain map of what every volume should have.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use base::{ByteCount, ReplicaId, VolumeId};
use common::{OWNER, at_once, changed_sectors, disk, head_of, patch, path_of, scratch};
use futago_disk::{AreaKind, Disk, EXTENT_BYTES, ErrorKind, Pool, RunInfo};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Clone, Debug)]
enum Step {
    /// Make the volume's area this many extents long.
    Grow {
        volume: u64,
        data: bool,
        extents: u64,
    },
    /// The same, and the power fails meanwhile, after this much of the written sectors.
    CutGrow {
        volume: u64,
        data: bool,
        extents: u64,
        percent: usize,
    },
    /// Reserve and drop.
    GiveUp {
        volume: u64,
        extents: u64,
    },
    Free {
        volume: u64,
    },
    Restart,
    AddDisk,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..4u64, any::<bool>(), 0..8u64)
            .prop_map(|(volume, data, extents)| Step::Grow { volume, data, extents }),
        2 => (0..4u64, any::<bool>(), 0..8u64, 0..=100usize)
            .prop_map(|(volume, data, extents, percent)| Step::CutGrow { volume, data, extents, percent }),
        1 => (0..4u64, 1..4u64).prop_map(|(volume, extents)| Step::GiveUp { volume, extents }),
        2 => (0..4u64).prop_map(|volume| Step::Free { volume }),
        1 => Just(Step::Restart),
        1 => Just(Step::AddDisk),
    ]
}

/// Extents that each area should have.
type Model = BTreeMap<(u64, AreaKind), u64>;

fn check(pool: &Pool, model: &Model) {
    let used: u64 = model.values().sum();
    assert_eq!(pool.free_space().0, pool.total().0 - used * EXTENT_BYTES);
    let mut places = Vec::new();
    for volume in 0..4 {
        let runs = pool.lookup(VolumeId(volume));
        for kind in [AreaKind::Meta, AreaKind::Data] {
            let area: Vec<&RunInfo> = runs.iter().filter(|run| run.kind == kind).collect();
            let mut end = 0;
            for run in &area {
                assert_eq!(run.area_offset.0, end, "no gap");
                end += run.len.0;
            }
            assert_eq!(end, model.get(&(volume, kind)).copied().unwrap_or(0) * EXTENT_BYTES);
        }
        places.extend(runs.iter().map(|run| (run.disk, run.disk_offset.0, run.len.0)));
    }
    places.sort_unstable();
    for pair in places.windows(2) {
        assert!(pair[0].0 != pair[1].0 || pair[0].1 + pair[0].2 <= pair[1].1, "runs overlap: {pair:?}");
    }
    assert!(places.iter().all(|(_, offset, _)| *offset >= 16 << 20 && offset % EXTENT_BYTES == 0));
}

fn live(steps: Vec<Step>) {
    let directory = scratch();
    let mut paths: Vec<PathBuf> = vec![path_of(&disk(&directory, "0", 40))];
    let open = |paths: &[PathBuf]| {
        let disks = paths.iter().map(|path| Disk::open(path, &at_once()).unwrap()).collect();
        Pool::assemble(disks, OWNER).unwrap()
    };
    let mut pool = open(&paths);
    let mut model = Model::new();
    for step in steps {
        match step {
            Step::Grow { volume, data, extents } => {
                let kind = if data { AreaKind::Data } else { AreaKind::Meta };
                let present = model.get(&(volume, kind)).copied().unwrap_or(0);
                let fits = extents.saturating_sub(present) * EXTENT_BYTES <= pool.free_space().0;
                let wanted = ByteCount((extents * EXTENT_BYTES).saturating_sub(1));
                let result = pool.allocate(VolumeId(volume), ReplicaId(volume + 100), kind, wanted);
                match result {
                    Ok(()) => {
                        assert!(fits);
                        if extents > present {
                            model.insert((volume, kind), extents);
                        }
                    }
                    Err(error) => assert!(!fits && error.kind() == ErrorKind::NoSpace, "{error}"),
                }
            }
            Step::CutGrow { volume, data, extents, percent } => {
                let kind = if data { AreaKind::Data } else { AreaKind::Meta };
                let present = model.get(&(volume, kind)).copied().unwrap_or(0);
                // Tables are written in order of disk id.
                let mut order: Vec<_> = pool.disks().map(|(id, disk)| (id, path_of(disk))).collect();
                order.sort();
                let before: Vec<_> = order.iter().map(|(_, path)| head_of(path)).collect();
                let wanted = ByteCount(extents * EXTENT_BYTES);
                let done = pool.allocate(VolumeId(volume), ReplicaId(volume + 100), kind, wanted).is_ok();
                drop(pool);
                let after: Vec<_> = order.iter().map(|(_, path)| head_of(path)).collect();
                let heads = before.iter().zip(&after).enumerate();
                let writes: Vec<(usize, usize)> = heads
                    .flat_map(|(n, (old, new))| changed_sectors(old, new).into_iter().map(move |at| (n, at)))
                    .collect();
                for (n, at) in &writes[writes.len() * percent / 100..] {
                    patch(&order[*n].1, *at as u64, &before[*n][*at..at + 512]);
                }
                pool = open(&paths);
                // Old or new; if it was done, new.
                let found: u64 = {
                    let runs = pool.lookup(VolumeId(volume));
                    runs.iter().filter(|run| run.kind == kind).map(|run| run.len.0 / EXTENT_BYTES).sum()
                };
                assert!(found == present || done && found == extents.max(present), "{found}, not {present}");
                assert!(percent < 100 || !done || found == extents.max(present), "what was done is gone");
                if found > 0 {
                    model.insert((volume, kind), found);
                }
            }
            Step::GiveUp { volume, extents } => {
                let data = model.get(&(volume, AreaKind::Data)).copied().unwrap_or(0);
                let wanted = ByteCount((data + extents) * EXTENT_BYTES);
                let free = pool.free_space();
                let reserved =
                    pool.reserve(VolumeId(volume), ReplicaId(volume + 100), AreaKind::Data, wanted);
                if let Ok(reservation) = reserved {
                    assert_eq!(pool.free_space().0, free.0 - reservation.len().0);
                }
            }
            Step::Free { volume } => {
                pool.free(VolumeId(volume)).unwrap();
                model.retain(|(of, _), _| *of != volume);
            }
            Step::Restart => {
                drop(pool);
                pool = open(&paths);
            }
            Step::AddDisk if paths.len() < 3 => {
                drop(pool);
                paths.push(path_of(&disk(&directory, &paths.len().to_string(), 24)));
                pool = open(&paths);
            }
            Step::AddDisk => {}
        }
        check(&pool, &model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_pool_holds_what_it_was_told_to(steps in prop::collection::vec(step(), 1..25)) {
        live(steps);
    }
}
