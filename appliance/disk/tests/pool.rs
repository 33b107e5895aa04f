//! Labels and the extent pool on real files: what is refused, what survives which crash.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use base::{ByteCount, ClusterId, Formats, NodeId, ReplicaId, VolumeId};
use common::{OWNER, at_once, changed_sectors, disk, head_of, patch, path_of, scratch};
use futago_disk::{
    AreaKind, BufferPool, Content, Disk, DiskError, Durability, EXTENT_BYTES, ErrorKind, Force, Identity,
    Pool, Preallocate, Returned, Ring, RingConfig, RunInfo, inspect,
};
use std::path::{Path, PathBuf};

const VOLUME: VolumeId = VolumeId(7);
const REPLICA: ReplicaId = ReplicaId(70);
/// Where labels and tables stand (docs/ondisk.md), in bytes.
const LABELS: [u64; 2] = [0, 1 << 20];
const TABLES: [u64; 2] = [2 << 20, 8 << 20];

fn refs_of(paths: &[PathBuf]) -> Vec<&Path> {
    paths.iter().map(PathBuf::as_path).collect()
}

fn open(paths: &[&Path]) -> Result<Pool, DiskError> {
    let disks = paths.iter().map(|path| Disk::open(path, &at_once()).unwrap()).collect();
    Pool::open(disks, OWNER)
}

/// A pool on one disk with one volume, closed again.
fn one_disk(directory: &tempfile::TempDir, name: &str) -> PathBuf {
    let disk = disk(directory, name, 64);
    let path = path_of(&disk);
    let mut pool = Pool::assemble(vec![disk], OWNER).unwrap();
    pool.allocate(VOLUME, REPLICA, AreaKind::Meta, ByteCount::mib(1)).unwrap();
    pool.allocate(VOLUME, REPLICA, AreaKind::Data, ByteCount::mib(8)).unwrap();
    path
}

fn flip(path: &Path, offset: u64, bit: u8) {
    let head = head_of(path);
    patch(path, offset, &[head[usize::try_from(offset).unwrap()] ^ (1 << bit)]);
}

/// Opening must fail with this kind, name the disk, and leave it as it was.
fn refused(path: &Path, owner: Identity, kind: ErrorKind) {
    let before = head_of(path);
    let error = Pool::assemble(vec![Disk::open(path, &at_once()).unwrap()], owner).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert!(head_of(path) == before, "a refused disk was changed");
}

#[test]
fn what_was_allocated_is_there_after_a_restart() {
    let directory = scratch();
    let path = one_disk(&directory, "d");
    let pool = open(&[&path]).unwrap();
    assert_eq!(pool.total(), ByteCount::mib(48));
    assert_eq!(pool.free_space(), ByteCount::mib(36));
    let volumes = pool.volumes();
    assert_eq!(volumes.len(), 1);
    assert_eq!((volumes[0].volume, volumes[0].replica), (VOLUME, REPLICA));
    assert_eq!((volumes[0].meta, volumes[0].data), (ByteCount::mib(4), ByteCount::mib(8)));
    let runs = pool.lookup(VOLUME);
    assert_eq!(runs.len(), 2);
    assert!(runs.iter().all(|run| run.disk_offset.0 >= 16 << 20 && run.disk_offset.0 % EXTENT_BYTES == 0));
}

#[test]
fn growing_is_idempotent_and_keeps_what_was_there() {
    let directory = scratch();
    let path = one_disk(&directory, "d");
    let mut pool = open(&[&path]).unwrap();
    let before = pool.lookup(VOLUME);
    pool.allocate(VOLUME, REPLICA, AreaKind::Data, ByteCount::mib(5)).unwrap();
    assert_eq!(pool.lookup(VOLUME), before);
    pool.allocate(VOLUME, REPLICA, AreaKind::Data, ByteCount::mib(17)).unwrap();
    let after = pool.lookup(VOLUME);
    assert_eq!(after[..2], before[..]);
    assert_eq!(after[2].area_offset, ByteCount::mib(8));
    assert_eq!(after[2].disk_offset.0, before[1].disk_offset.0 + before[1].len.0, "grown in place");
    let other = pool.allocate(VOLUME, ReplicaId(71), AreaKind::Data, ByteCount::mib(64)).unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Invalid);
    let full = pool.allocate(VOLUME, REPLICA, AreaKind::Data, ByteCount::gib(1)).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::NoSpace);
}

#[test]
fn new_space_reads_as_zero_whatever_was_there() {
    let directory = scratch();
    let path = path_of(&disk(&directory, "d", 32));
    patch(&path, 16 << 20, &vec![0xee; 16 << 20]);
    let mut pool = Pool::assemble(vec![Disk::open(&path, &at_once()).unwrap()], OWNER).unwrap();
    let unzeroed = pool.reserve(VOLUME, REPLICA, AreaKind::Data, ByteCount::mib(8)).unwrap();
    assert_eq!(pool.free_space(), ByteCount::mib(8), "set aside");
    assert_eq!(pool.commit(unzeroed).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(pool.free_space(), ByteCount::mib(16));
    pool.allocate(VOLUME, REPLICA, AreaKind::Data, ByteCount::mib(8)).unwrap();
    let space = pool.space(VOLUME, AreaKind::Data).unwrap().unwrap();
    let mut ring = Ring::new(&RingConfig::default()).unwrap();
    ring.read(1, &space, 0, BufferPool::default().take(8 << 20).unwrap());
    let Returned::Read(buffer) = ring.wait().unwrap().unwrap().buffer else { panic!("a read") };
    assert!(buffer.as_slice().iter().all(|byte| *byte == 0));
}

#[test]
fn space_with_handles_is_not_freed() {
    let directory = scratch();
    let path = one_disk(&directory, "d");
    let mut pool = open(&[&path]).unwrap();
    let space = pool.space(VOLUME, AreaKind::Data).unwrap().unwrap();
    assert_eq!(pool.free(VOLUME).unwrap_err().kind(), ErrorKind::InUse);
    drop(space);
    pool.free(VOLUME).unwrap();
    pool.free(VOLUME).unwrap();
    assert_eq!(pool.free_space(), pool.total());
    drop(pool);
    assert!(open(&[&path]).unwrap().volumes().is_empty());
}

#[test]
fn a_volume_over_two_disks_is_one_space() {
    let directory = scratch();
    let disks = vec![disk(&directory, "a", 32), disk(&directory, "b", 24)];
    let mut pool = Pool::assemble(disks, OWNER).unwrap();
    pool.allocate(VOLUME, REPLICA, AreaKind::Data, ByteCount::mib(20)).unwrap();
    let space = pool.space(VOLUME, AreaKind::Data).unwrap().unwrap();
    assert_eq!((space.pieces().len(), space.disks().count()), (2, 2));
    let border = space.pieces()[1].start_bytes;
    let buffers = BufferPool::default();
    let mut ring = Ring::new(&RingConfig::default()).unwrap();
    let mut buffer = buffers.take(64 << 10).unwrap();
    for (i, byte) in buffer.as_mut_slice().iter_mut().enumerate() {
        *byte = u8::try_from(i % 253).unwrap();
    }
    let buffer = buffer.freeze();
    ring.write(1, &space, border - 1536, buffer.clone(), Durability::Durable);
    ring.wait().unwrap().unwrap().result.unwrap();
    ring.flush(2, &space);
    ring.wait().unwrap().unwrap().result.unwrap();
    ring.read(3, &space, border - 1536, buffers.take(64 << 10).unwrap());
    let Returned::Read(back) = ring.wait().unwrap().unwrap().buffer else { panic!("a read") };
    assert!(back.as_slice() == buffer.as_slice());
    drop(space);
    pool.free(VOLUME).unwrap();
    assert_eq!(pool.free_space(), ByteCount::mib(24));
}

#[test]
fn any_flipped_bit_in_one_copy_is_found_and_mended() {
    let directory = scratch();
    let path = one_disk(&directory, "d");
    let whole = head_of(&path);
    let expected = open(&[&path]).unwrap().lookup(VOLUME);
    for (number, place) in LABELS.iter().chain(&TABLES).enumerate() {
        for offset in [0, 6, 8, 12, 16, 24, 32, 40, 48, 60, 2000, 4090, 4093] {
            flip(&path, place + offset, u8::try_from((offset + number as u64) % 8).unwrap());
            assert_eq!(open(&[&path]).unwrap().lookup(VOLUME), expected, "byte {offset} of {place}");
            assert!(head_of(&path) == whole, "byte {offset} of {place} was not mended");
        }
    }
    // The runs themselves, behind the table's header.
    for offset in (4096..4096 + 128).step_by(7) {
        flip(&path, TABLES[1] + offset, u8::try_from(offset % 8).unwrap());
        assert_eq!(open(&[&path]).unwrap().lookup(VOLUME), expected);
        assert!(head_of(&path) == whole);
    }
}

#[test]
fn two_bad_copies_are_refused_and_left_alone() {
    let directory = scratch();
    for places in [LABELS, TABLES] {
        for (first, second) in [(8, 8), (20, 3000), (4094, 16)] {
            let path = one_disk(&directory, &format!("{}-{first}", places[1]));
            flip(&path, places[0] + first, 1);
            flip(&path, places[1] + second, 1);
            refused(&path, OWNER, ErrorKind::Damaged);
        }
    }
}

#[test]
fn a_newer_build_s_records_are_refused() {
    let directory = scratch();
    for place in LABELS.iter().chain(&TABLES) {
        let path = one_disk(&directory, &place.to_string());
        let at = usize::try_from(*place).unwrap();
        let mut block = head_of(&path)[at..at + 4096].to_vec();
        block[8] = 2;
        let crc = base::crc32c(&block[..4092]);
        block[4092..].copy_from_slice(&crc.to_le_bytes());
        patch(&path, *place, &block);
        refused(&path, OWNER, ErrorKind::UnknownVersion);
    }
}

/// Labels and tables of all disks are written anew in a version that comes into force, and a release that does not know it
/// refuses each of them.
#[test]
fn records_are_written_anew_in_the_version_in_force() {
    let directory = scratch();
    let (present, higher) = (Formats::CURRENT.pool.newest, Formats::CURRENT.pool.newest + 1);
    let version_at = |path: &Path, place: u64| head_of(path)[usize::try_from(place).unwrap() + 8];
    let path = one_disk(&directory, "d");
    let before = head_of(&path);
    let mut pool = open(&[&path]).unwrap();
    pool.set_version(present).unwrap();
    assert!(head_of(&path) == before, "it has that version");
    let second = disk(&directory, "e", 64);
    let other = path_of(&second);
    pool.add(second, Force::No).unwrap();
    pool.set_version(higher).unwrap();
    pool.allocate(VOLUME, REPLICA, AreaKind::Data, ByteCount::mib(16)).unwrap();
    pool.set_version(present).unwrap();
    drop(pool);
    for path in [&path, &other] {
        for place in LABELS.into_iter().chain(TABLES) {
            assert_eq!(u16::from(version_at(path, place)), higher, "{path:?} at {place}");
        }
        refused(path, OWNER, ErrorKind::UnknownVersion);
    }
}

#[test]
fn another_cluster_s_or_node_s_disk_is_refused() {
    let directory = scratch();
    let path = one_disk(&directory, "d");
    refused(&path, Identity { cluster: ClusterId(1), ..OWNER }, ErrorKind::Foreign);
    refused(&path, Identity { node: NodeId(1), ..OWNER }, ErrorKind::Foreign);
    refused(&path, Identity::default(), ErrorKind::Foreign);
}

#[test]
fn a_disk_labelled_before_pairing_joins_the_cluster_with_its_node() {
    let directory = scratch();
    let disk = disk(&directory, "d", 32);
    let path = path_of(&disk);
    let alone = Identity { cluster: ClusterId(0), ..OWNER };
    let mut pool = Pool::assemble(vec![disk], alone).unwrap();
    pool.set_identity(OWNER).unwrap();
    drop(pool);
    refused(&path, alone, ErrorKind::Foreign);
    open(&[&path]).unwrap();
}

#[test]
fn only_blank_disks_are_labelled_unless_forced() {
    let directory = scratch();
    let mut table = vec![0; 512];
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    let mut ext4 = vec![0; 2048];
    ext4[1080..1082].copy_from_slice(&[0x53, 0xef]);
    for (name, bytes, reason) in [
        ("mbr", &table[..], "MBR"),
        ("gpt", &[&[0; 512][..], b"EFI PART"].concat(), "GPT"),
        ("ext4", &ext4, "ext"),
        ("xfs", b"XFSB", "XFS"),
        ("junk", &[&vec![0; 900_000][..], b"x"].concat(), "unknown data"),
        ("late", &[&vec![0; 1 << 20][..], b"x"].concat(), "unknown data"),
    ] {
        let path = path_of(&disk(&directory, name, 32));
        patch(&path, 0, bytes);
        refused(&path, OWNER, ErrorKind::Foreign);
        let mut pool = Pool::open(Vec::new(), OWNER).unwrap();
        let open = || Disk::open(&path, &at_once()).unwrap();
        let error = pool.add(open(), Force::No).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotBlank);
        assert!(error.to_string().contains(reason), "{error}");
        pool.add(open(), Force::Overwrite).unwrap();
        drop(pool);
        let Content::Labelled(label) = inspect(&open()).unwrap() else { panic!("it was labelled") };
        assert_eq!((label.identity, label.members), (OWNER, vec![label.disk]));
    }
}

#[test]
fn a_partition_table_over_the_first_label_is_not_mended_away() {
    let directory = scratch();
    let path = one_disk(&directory, "d");
    let mut sector = vec![0; 512];
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    patch(&path, 0, &sector);
    refused(&path, OWNER, ErrorKind::Foreign);
}

#[test]
fn a_real_file_system_is_refused() {
    let directory = scratch();
    let path = path_of(&disk(&directory, "d", 32));
    let made = std::process::Command::new("/usr/sbin/mkfs.ext4").arg("-q").arg(&path).status();
    if !made.is_ok_and(|status| status.success()) {
        println!("skipped: no mkfs.ext4 here");
        return;
    }
    refused(&path, OWNER, ErrorKind::Foreign);
}

#[test]
fn every_disk_of_the_pool_must_be_there_once() {
    let directory = scratch();
    let paths: Vec<PathBuf> = ["a", "b"].iter().map(|name| path_of(&disk(&directory, name, 32))).collect();
    let both = || paths.iter().map(|path| Disk::open(path, &at_once()).unwrap()).collect::<Vec<_>>();
    drop(Pool::assemble(both(), OWNER).unwrap());
    for path in &paths {
        refused(path, OWNER, ErrorKind::MissingDisk);
    }
    open(&[&paths[1], &paths[0]]).unwrap();
    let copy = directory.path().join("copy");
    std::fs::copy(&paths[0], &copy).unwrap();
    assert_eq!(open(&[&paths[0], &paths[1], &copy]).unwrap_err().kind(), ErrorKind::Damaged);
}

#[test]
fn a_grown_disk_has_more_room() {
    let directory = scratch();
    let path = one_disk(&directory, "d");
    let pool = open(&[&path]).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(128 << 20).unwrap();
    pool.refresh().unwrap();
    assert_eq!(pool.total(), ByteCount::mib(112));
    drop(pool);
    assert_eq!(open(&[&path]).unwrap().lookup(VOLUME).len(), 2);
    // Shrunk below what is in use: refused.
    std::fs::File::options().write(true).open(&path).unwrap().set_len(24 << 20).unwrap();
    refused(&path, OWNER, ErrorKind::Damaged);
}

#[test]
fn a_disk_too_small_is_refused() {
    let directory = scratch();
    let disk =
        Disk::create_file(directory.path().join("d"), ByteCount::mib(19), Preallocate::Sparse).unwrap();
    assert_eq!(Pool::assemble(vec![disk], OWNER).unwrap_err().kind(), ErrorKind::Invalid);
}

/// Runs `change` and then opens the pool from every state that a power cut during it could have left, sector by
/// sector, disk by disk in `order`. Each must open to what was before or what is after.
fn cut_power_everywhere(
    paths: &[PathBuf],
    order: &[usize],
    change: impl FnOnce(&mut Pool),
) -> (Vec<RunInfo>, Vec<RunInfo>) {
    let refs = refs_of(paths);
    let heads = || paths.iter().map(|path| head_of(path)).collect::<Vec<_>>();
    let mut pool = open(&refs).unwrap();
    let (old, before) = (pool.lookup(VOLUME), heads());
    change(&mut pool);
    let (new, after) = (pool.lookup(VOLUME), heads());
    drop(pool);
    assert_ne!(old, new);
    let writes: Vec<(usize, usize)> = order
        .iter()
        .flat_map(|disk| changed_sectors(&before[*disk], &after[*disk]).into_iter().map(|at| (*disk, at)))
        .collect();
    assert!(writes.len() >= 4, "both copies change");
    let mut seen_new = false;
    for cut in 0..=writes.len() {
        for (disk, path) in paths.iter().enumerate() {
            let mut state = before[disk].clone();
            for (_, at) in writes[..cut].iter().filter(|(d, _)| *d == disk) {
                state[*at..at + 512].copy_from_slice(&after[disk][*at..at + 512]);
            }
            patch(path, 0, &state);
        }
        let found = open(&refs).unwrap_or_else(|e| panic!("cut {cut}: {e}")).lookup(VOLUME);
        assert!(found == old || found == new, "cut {cut}: {found:?}");
        assert!(found == new || !seen_new, "cut {cut}: went back");
        seen_new = found == new;
        let again = open(&refs).unwrap().lookup(VOLUME);
        assert_eq!(found, again, "recovery is stable");
    }
    assert!(seen_new, "a finished change holds");
    (old, new)
}

#[test]
fn a_power_cut_during_allocation_leaves_old_or_new() {
    let directory = scratch();
    let path = one_disk(&directory, "d");
    cut_power_everywhere(&[path], &[0], |pool| {
        pool.allocate(VOLUME, REPLICA, AreaKind::Data, ByteCount::mib(16)).unwrap();
    });
}

#[test]
fn a_power_cut_during_freeing_leaves_old_or_new() {
    let directory = scratch();
    let path = one_disk(&directory, "d");
    cut_power_everywhere(&[path], &[0], |pool| pool.free(VOLUME).unwrap());
}

#[test]
fn a_power_cut_between_two_disks_is_undone() {
    let directory = scratch();
    let disks = vec![disk(&directory, "a", 32), disk(&directory, "b", 32)];
    let paths: Vec<PathBuf> = disks.iter().map(path_of).collect();
    let mut pool = Pool::assemble(disks, OWNER).unwrap();
    pool.allocate(VOLUME, REPLICA, AreaKind::Data, ByteCount::mib(4)).unwrap();
    // Tables are written in order of disk id.
    let mut ids: Vec<_> = pool.disks().map(|(id, _)| id).enumerate().collect();
    ids.sort_by_key(|(_, id)| *id);
    let order: Vec<usize> = ids.into_iter().map(|(index, _)| index).collect();
    drop(pool);
    let (_, new) = cut_power_everywhere(&paths, &order, |pool| {
        pool.allocate(VOLUME, REPLICA, AreaKind::Data, ByteCount::mib(24)).unwrap();
    });
    assert!(new.len() >= 3);
    open(&refs_of(&paths)).unwrap().free(VOLUME).unwrap();
    assert!(open(&refs_of(&paths)).unwrap().volumes().is_empty());
}
