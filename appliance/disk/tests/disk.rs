//! Opening disks: locks, sizes, what refuses direct I/O, block devices.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use base::ByteCount;
use common::{OWNER, at_once, disk, path_of, scratch};
use futago_disk::{
    AreaKind, BufferPool, Disk, DiskKind, Durability, ErrorKind, OpenOptions, Pool, Preallocate, Ring,
    RingConfig, Space, ZeroMode,
};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

#[test]
fn one_disk_has_one_holder() {
    let directory = scratch();
    let first = disk(&directory, "d", 1);
    let path = path_of(&first);
    let error = Disk::open(&path, &at_once()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(error.to_string().contains("held by another"), "{error}");
    let handle = first.clone();
    drop(first);
    Disk::open(&path, &at_once()).unwrap_err();
    drop(handle);
    Disk::open(&path, &at_once()).unwrap();
}

#[test]
fn opening_waits_for_a_holder_that_lets_go() {
    let directory = scratch();
    let first = disk(&directory, "d", 1);
    let path = path_of(&first);
    let holder = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        drop(first);
    });
    Disk::open(&path, &OpenOptions { lock_wait: Duration::from_secs(20), ..OpenOptions::default() }).unwrap();
    holder.join().unwrap();
}

#[test]
fn what_is_no_disk_is_refused_by_name() {
    let directory = scratch();
    for (path, kind) in [
        (directory.path().join("none"), ErrorKind::NotFound),
        (directory.path().to_path_buf(), ErrorKind::NotFound),
        (PathBuf::from("/dev/null"), ErrorKind::NotFound),
    ] {
        let error = Disk::open(&path, &at_once()).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn a_file_that_does_not_fit_is_not_left_behind() {
    let directory = scratch();
    // A file system of its own: the attempt fills it for a moment.
    let Some(mounted) = small_file_system(directory.path()) else { return };
    let path = mounted.0.join("huge");
    let error = Disk::create_file(&path, ByteCount::mib(64), Preallocate::Full).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(!path.exists());
    let small = Disk::create_file(&path, ByteCount::kib(512), Preallocate::Full).unwrap();
    assert_eq!((small.size(), small.kind()), (ByteCount::kib(512), DiskKind::File));
    let exists = Disk::create_file(&path, ByteCount::kib(512), Preallocate::Full).unwrap_err();
    assert_eq!(exists.kind(), ErrorKind::System);
}

#[test]
fn sizes_are_read_again_and_rounded_down() {
    let directory = scratch();
    let disk = disk(&directory, "d", 1);
    std::fs::File::options().write(true).open(disk.path()).unwrap().set_len((2 << 20) + 5000).unwrap();
    assert_eq!(disk.size(), ByteCount::mib(1));
    assert_eq!(disk.refresh_size().unwrap(), ByteCount((2 << 20) + 4096));
}

#[test]
fn blocking_calls_read_write_and_zero() {
    let directory = scratch();
    let disk = disk(&directory, "d", 4);
    let pool = BufferPool::default();
    let mut buffer = pool.take(2 << 20).unwrap();
    buffer.as_mut_slice().fill(5);
    disk.write_blocking(4096, buffer.as_slice()).unwrap();
    disk.zero_blocking(8192, 4096, ZeroMode::Keep).unwrap();
    disk.zero_blocking(16384, 8192, ZeroMode::Deallocate).unwrap();
    disk.flush_blocking().unwrap();
    disk.read_blocking(4096, buffer.as_mut_slice()).unwrap();
    for (number, block) in buffer.as_slice().chunks(4096).enumerate() {
        let zero = matches!(number, 1 | 3 | 4);
        assert!(block.iter().all(|byte| *byte == if zero { 0 } else { 5 }), "block {number}");
    }
    let past = disk.read_blocking((4 << 20) - 4096, &mut buffer.as_mut_slice()[..8192]).unwrap_err();
    assert_eq!(past.kind(), ErrorKind::OutOfRange);
}

/// A loop device, detached when dropped.
struct Loop(PathBuf);

impl Loop {
    /// `None` (with a word why) where this may not be done.
    fn attach(file: &Path, sector_bytes: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: loop devices need root");
            return None;
        }
        let sector = sector_bytes.to_string();
        let output = Command::new("losetup")
            .args(["--find", "--show", "--direct-io=on", "--sector-size", &sector])
            .arg(file)
            .output();
        match output {
            Ok(output) if output.status.success() => {
                Some(Self(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())))
            }
            other => {
                println!("skipped: losetup does not work here: {other:?}");
                None
            }
        }
    }

    fn command(&self, option: &str) {
        assert!(Command::new("losetup").arg(option).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.command("--detach");
    }
}

#[test]
fn a_block_device_with_large_sectors_works_like_any_other() {
    let directory = scratch();
    let file = directory.path().join("backing");
    std::fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
    let Some(device) = Loop::attach(&file, 4096) else { return };
    let disk = Disk::open(&device.0, &at_once()).unwrap();
    assert_eq!(
        (disk.kind(), disk.size(), disk.is_direct()),
        (DiskKind::BlockDevice, ByteCount::mib(64), true)
    );
    assert_eq!(disk.alignment().offset_bytes, 4096);
    assert_eq!(Disk::open(&device.0, &at_once()).unwrap_err().kind(), ErrorKind::InUse);
    let mut pool = Pool::assemble(vec![disk.clone()], OWNER).unwrap();
    let volume = base::VolumeId(1);
    pool.allocate(volume, base::ReplicaId(2), AreaKind::Data, ByteCount::mib(8)).unwrap();
    let space = pool.space(volume, AreaKind::Data).unwrap().unwrap();
    let buffers = BufferPool::default();
    let mut ring = Ring::new(&RingConfig::default()).unwrap();
    for sector in 0..64u64 {
        let mut buffer = buffers.take(512).unwrap();
        buffer.as_mut_slice().fill(u8::try_from(sector + 1).unwrap());
        ring.write(sector, &space, sector * 512, buffer.freeze(), Durability::Durable);
    }
    ring.zero(64, &space, 64 * 512, 9 * 512, ZeroMode::Deallocate, Durability::Durable);
    ring.flush(65, &space);
    for _ in 0..66 {
        ring.wait().unwrap().unwrap().result.unwrap();
    }
    ring.read(66, &space, 512, buffers.take(65 * 512).unwrap());
    let done = ring.wait().unwrap().unwrap();
    let futago_disk::Returned::Read(buffer) = done.buffer else { panic!("a read") };
    for (number, sector) in buffer.as_slice().chunks(512).enumerate() {
        let byte = if number >= 63 { 0 } else { u8::try_from(number + 2).unwrap() };
        assert!(sector.iter().all(|b| *b == byte), "sector {number}");
    }
    std::fs::File::options().write(true).open(&file).unwrap().set_len(96 << 20).unwrap();
    device.command("--set-capacity");
    assert_eq!(disk.refresh_size().unwrap(), ByteCount::mib(96));
    assert_eq!(pool.total(), ByteCount::mib(80));
    drop((space, pool, ring, disk));
}

/// A file system, unmounted when dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
    }
}

/// A file system of 1 MiB; `None`, with a printed reason, where this machine does not let us have one.
fn small_file_system(directory: &Path) -> Option<Mounted> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting needs root");
        return None;
    }
    let mount = directory.join("small");
    std::fs::create_dir(&mount).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(&mount).status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("skipped: may not mount here");
        return None;
    }
    Some(Mounted(mount))
}

#[test]
fn a_full_file_system_below_is_told_as_such() {
    let directory = scratch();
    let Some(mounted) = small_file_system(directory.path()) else { return };
    for force_threads in [false, true] {
        let path = mounted.0.join(format!("disk-{force_threads}"));
        let disk = Disk::create_file(&path, ByteCount::mib(8), Preallocate::Sparse).unwrap();
        let space = Space::of_disk(&disk);
        let mut ring = Ring::new(&RingConfig { force_threads, ..RingConfig::default() }).unwrap();
        let buffer = BufferPool::default().take_zeroed(2 << 20).unwrap().freeze();
        ring.write(1, &space, 0, buffer, Durability::Durable);
        let error = ring.wait().unwrap().unwrap().result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        ring.zero(2, &space, 0, 8 << 20, ZeroMode::Keep, Durability::Durable);
        let error = ring.wait().unwrap().unwrap().result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        drop((ring, space, disk));
        std::fs::remove_file(&path).unwrap();
    }
}
