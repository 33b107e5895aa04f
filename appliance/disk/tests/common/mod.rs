//! What the tests share: scratch directories on a real file system, disks, images.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use base::{ByteCount, ClusterId, NodeId};
use futago_disk::{Disk, Identity, OpenOptions, Preallocate};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// The owner that tests label disks for.
pub(crate) const OWNER: Identity = Identity { cluster: ClusterId(0xc1), node: NodeId(0xa) };

/// A directory under cargo's target directory: a real disk, not tmpfs.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A sparse disk of `mib` MiB.
pub(crate) fn disk(directory: &TempDir, name: &str, mib: u64) -> Disk {
    Disk::create_file(directory.path().join(name), ByteCount::mib(mib), Preallocate::Sparse).unwrap()
}

/// Opens at once or not at all.
pub(crate) fn at_once() -> OpenOptions {
    OpenOptions { lock_wait: Duration::ZERO, ..OpenOptions::default() }
}

pub(crate) fn path_of(disk: &Disk) -> PathBuf {
    disk.path().to_path_buf()
}

/// The first 16 MiB: labels and tables.
pub(crate) fn head_of(path: &Path) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; 16 << 20];
    std::fs::File::open(path).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Overwrites part of a disk that nobody has open.
pub(crate) fn patch(path: &Path, offset: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

/// Offsets of the 512-byte sectors that differ, in the order in which the records are written.
pub(crate) fn changed_sectors(before: &[u8], after: &[u8]) -> Vec<usize> {
    let sectors = (0..before.len()).step_by(512);
    sectors.filter(|at| before[*at..at + 512] != after[*at..at + 512]).collect()
}

/// A small random generator with a seed: tests that fail can be run again.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}
