//! One data device: a block device or a regular file, opened once and for us alone.
//!
//! Invariants
//! - While a [`Disk`] (or I/O on it in the kernel) lives, no other process opens the device through this room:
//!   `O_EXCL` on a block device, `flock` on a file. Both locks end with the last reference to the open file, and a
//!   request in flight holds one. So a process that starts after `kill -9` of the old one can open the disk only
//!   when the old one's writes have ended: what S4 asks before an epoch is served.
//! - After a failed flush nobody knows which of the writes before it are on the medium, and the kernel reports the
//!   failure only once: every later flush fails too until the device is opened anew ([`ErrorKind::FlushFailed`]).
//!   Durable writes answer for themselves and go on.

use crate::error::{DiskError, ErrorKind};
use base::ByteCount;
use rustix::fs::{AtFlags, FallocateFlags, FileType, FlockOperation, Mode, OFlags, StatxFlags};
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Alignment assumed where the kernel does not tell.
const SAFE_ALIGN: u32 = 4096;
/// How long to pause between two tries at a lock.
const LOCK_RETRY: Duration = Duration::from_millis(20);
/// Zeroes are written in pieces of this many bytes where the device has no command for it.
const ZERO_CHUNK: usize = 1 << 20;

/// How to open a disk.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// How long to wait for another holder: I/O of a process just killed may take a moment to end.
    pub lock_wait: Duration,
    /// Bypass the page cache. Off only to measure the fallback.
    pub direct: bool,
    /// Align requests to at least this many bytes (a power of two up to 4096), whatever the device takes: as if it
    /// had larger sectors.
    pub least_alignment_bytes: u32,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { lock_wait: Duration::from_secs(2), direct: true, least_alignment_bytes: 1 }
    }
}

/// What a disk is underneath.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskKind {
    /// A block device, e.g. `/dev/sdb`.
    BlockDevice,
    /// A regular file.
    File,
}

/// What direct I/O on a disk asks of a request; powers of two, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// Of the buffer's address.
    pub memory_bytes: u32,
    /// Of the offset and the length.
    pub offset_bytes: u32,
}

/// How a range comes to read as zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroMode {
    /// The space stays allocated.
    Keep,
    /// The space below may be given back where the device can do so and still reads as zero (UNMAP). Nothing here
    /// discards without that guarantee: copies would then differ (S1).
    Deallocate,
}

/// How the space of a new file is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preallocate {
    /// All of it now: the file system can't run full under us later.
    Full,
    /// On first write.
    Sparse,
}

/// An open disk. Clones share one open file.
#[derive(Clone, Debug)]
pub struct Disk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: File,
    path: PathBuf,
    kind: DiskKind,
    direct: bool,
    in_memory: bool,
    alignment: Alignment,
    size_bytes: AtomicU64,
    flush_failed: AtomicBool,
}

impl Disk {
    /// Opens `path` for this process alone. [`ErrorKind::InUse`] if another holder does not let go in time.
    ///
    /// Where the file system refuses direct I/O (tmpfs), I/O goes through the page cache with `O_DSYNC`: as safe,
    /// slower, logged.
    pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self, DiskError> {
        let path = path.as_ref();
        let deadline = Instant::now() + options.lock_wait;
        let mut direct = options.direct;
        loop {
            match open_once(path, direct, options.least_alignment_bytes) {
                Ok(disk) if disk.works_directly() => return Ok(disk),
                Ok(_) => direct = false,
                Err(error) if direct && error.kind() == ErrorKind::Invalid => direct = false,
                Err(error) if error.kind() == ErrorKind::InUse && Instant::now() < deadline => {
                    thread::sleep(LOCK_RETRY);
                    continue;
                }
                Err(error) => return Err(error),
            }
            tracing::warn!(disk = %path.display(), "no direct I/O here; going through the page cache with O_DSYNC");
        }
    }

    /// Makes the file `path` of `size` bytes (it must not exist yet) and opens it.
    pub fn create_file(
        path: impl AsRef<Path>,
        size: ByteCount,
        space: Preallocate,
    ) -> Result<Self, DiskError> {
        let path = path.as_ref();
        let context = || format!("create {} of {size}", path.display());
        let fail = |error: io::Error| DiskError::system(context(), error);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(|e| fail(e.into()))?;
        let made = match space {
            Preallocate::Full => rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size.0),
            Preallocate::Sparse => rustix::fs::ftruncate(&file, size.0),
        };
        let made = made.and_then(|()| rustix::fs::fsync(&file)).map_err(io::Error::from);
        if let Err(error) = made {
            // Nobody has seen the file yet; a half-made one would only be in the way.
            if let Err(left) = std::fs::remove_file(path) {
                tracing::warn!(disk = %path.display(), error = %left, "half-made file not removed");
            }
            return Err(fail(error));
        }
        sync_directory_of(path).map_err(fail)?;
        drop(file);
        Self::open(path, &OpenOptions::default())
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Block device or file.
    #[must_use]
    pub fn kind(&self) -> DiskKind {
        self.0.kind
    }

    /// Whether I/O bypasses the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.0.direct
    }

    /// Whether a read is a copy from memory: a file on tmpfs.
    pub(crate) fn is_in_memory(&self) -> bool {
        self.0.in_memory
    }

    /// What the device asks of a request. The ring meets it for any request; the blocking calls here do not.
    #[must_use]
    pub fn alignment(&self) -> Alignment {
        self.0.alignment
    }

    /// Usable size, as last read; a multiple of 4096 bytes.
    #[must_use]
    pub fn size(&self) -> ByteCount {
        ByteCount(self.0.size_bytes.load(Ordering::Relaxed))
    }

    /// Reads the size again: a device may have grown. Answers the new size; [`ErrorKind::Gone`] if it has none left.
    pub fn refresh_size(&self) -> Result<ByteCount, DiskError> {
        let size_bytes = size_of(self.as_fd()).map_err(|e| self.fault("read the size", e))?;
        if size_bytes == 0 && self.0.kind == DiskKind::BlockDevice {
            return Err(DiskError::new(ErrorKind::Gone, format!("{}: the device is gone", self.name())));
        }
        self.0.size_bytes.store(size_bytes, Ordering::Relaxed);
        Ok(ByteCount(size_bytes))
    }

    /// Whether both handles share one open file.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Fills `bytes` from `offset_bytes`, waiting for the device. Both ends and the memory must meet
    /// [`alignment`](Self::alignment).
    pub fn read_blocking(&self, offset_bytes: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.read_some(offset_bytes + done as u64, rest) {
                Ok(0) => return Err(self.past_end("read", offset_bytes + done as u64)),
                Ok(n) => done += n,
                Err(error) => return Err(self.fault(format_args!("read at {offset_bytes}"), error)),
            }
        }
        Ok(())
    }

    /// Writes `bytes` at `offset_bytes`, waiting for the device. Not durable before
    /// [`flush_blocking`](Self::flush_blocking). Alignment as for [`read_blocking`](Self::read_blocking).
    pub fn write_blocking(&self, offset_bytes: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            match self.write_some(offset_bytes + done as u64, rest, false) {
                Ok(0) => return Err(self.past_end("write", offset_bytes + done as u64)),
                Ok(n) => done += n,
                Err(error) => return Err(self.fault(format_args!("write at {offset_bytes}"), error)),
            }
        }
        Ok(())
    }

    /// Makes every write that has ended durable.
    pub fn flush_blocking(&self) -> Result<(), DiskError> {
        self.check_flushable()?;
        self.sync().map_err(|e| self.flush_fault("flush", e))
    }

    /// Makes `len_bytes` from `offset_bytes` read as zero; not durable before a flush. Slow where the device has no
    /// command for it: zeroes are written then. Both ends must meet [`alignment`](Self::alignment).
    pub fn zero_blocking(&self, offset_bytes: u64, len_bytes: u64, mode: ZeroMode) -> Result<(), DiskError> {
        self.zero(offset_bytes, len_bytes, mode)
            .map_err(|e| self.fault(format_args!("zero {len_bytes} bytes at {offset_bytes}"), e))
    }

    // What follows is for the ring and its threads: plain system results, no context.

    pub(crate) fn read_some(&self, offset_bytes: u64, bytes: &mut [u8]) -> io::Result<usize> {
        retry(|| rustix::io::pread(self, &mut *bytes, offset_bytes))
    }

    pub(crate) fn write_some(&self, offset_bytes: u64, bytes: &[u8], durable: bool) -> io::Result<usize> {
        let flags = if durable { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
        retry(|| rustix::io::pwritev2(self, &[IoSlice::new(bytes)], offset_bytes, flags))
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        retry(|| rustix::fs::fdatasync(self))
    }

    /// On block devices, fallocate's "punch" is a zeroing that may unmap and "zero range" one that may not
    /// (block/fops.c), so both kinds of disk take the same call.
    pub(crate) fn zero(&self, offset_bytes: u64, len_bytes: u64, mode: ZeroMode) -> io::Result<()> {
        if len_bytes == 0 {
            return Ok(());
        }
        let modes: &[FallocateFlags] = match mode {
            ZeroMode::Deallocate => &[FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE],
            ZeroMode::Keep => &[FallocateFlags::ZERO_RANGE],
        };
        for flag in modes {
            let flags = *flag | FallocateFlags::KEEP_SIZE;
            match retry(|| rustix::fs::fallocate(self, flags, offset_bytes, len_bytes)) {
                Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => {}
                other => return other,
            }
        }
        self.write_zeroes(offset_bytes, len_bytes)
    }

    fn write_zeroes(&self, offset_bytes: u64, len_bytes: u64) -> io::Result<()> {
        let chunk = crate::buffer::BufferPool::default()
            .take_zeroed(ZERO_CHUNK)
            .map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
        let mut done = 0;
        while done < len_bytes {
            let want = usize::try_from(len_bytes - done).unwrap_or(ZERO_CHUNK).min(ZERO_CHUNK);
            let bytes = chunk.as_slice().get(..want).unwrap_or_default();
            match self.write_some(offset_bytes + done, bytes, false)? {
                0 => return Err(io::Error::from_raw_os_error(libc::ENOSPC)),
                n => done += n as u64,
            }
        }
        Ok(())
    }

    /// For messages.
    pub(crate) fn name(&self) -> String {
        self.0.path.display().to_string()
    }

    /// Refuses a flush after one has failed.
    pub(crate) fn check_flushable(&self) -> Result<(), DiskError> {
        if self.0.flush_failed.load(Ordering::Relaxed) {
            return Err(DiskError::new(
                ErrorKind::FlushFailed,
                format!("{}: an earlier flush failed; open the disk anew", self.name()),
            ));
        }
        Ok(())
    }

    /// Turns the failure of a flush into an error and remembers it.
    pub(crate) fn flush_fault(&self, what: impl std::fmt::Display, error: io::Error) -> DiskError {
        self.0.flush_failed.store(true, Ordering::Relaxed);
        self.fault(what, error)
    }

    /// Turns a system error into one that names this disk. A block device that lost its size was unplugged, whatever
    /// number the kernel answered with (EIO for a read in flight, ENOSPC for a write after it).
    pub(crate) fn fault(&self, what: impl std::fmt::Display, error: io::Error) -> DiskError {
        let error = DiskError::system(format!("{}: {what}", self.name()), error);
        if self.0.kind == DiskKind::BlockDevice && matches!(size_of(self.as_fd()), Ok(0) | Err(_)) {
            return error.with_kind(ErrorKind::Gone);
        }
        error
    }

    pub(crate) fn past_end(&self, what: &str, offset_bytes: u64) -> DiskError {
        let error = DiskError::new(
            ErrorKind::OutOfRange,
            format!("{}: {what} at {offset_bytes} reached the end of the disk", self.name()),
        );
        if self.0.kind == DiskKind::BlockDevice && matches!(size_of(self.as_fd()), Ok(0) | Err(_)) {
            return error.with_kind(ErrorKind::Gone);
        }
        error
    }

    /// Some file systems accept the flag and refuse the I/O: one block is read to know.
    fn works_directly(&self) -> bool {
        if !self.0.direct || self.size().0 == 0 {
            return true;
        }
        let Ok(mut probe) = crate::buffer::BufferPool::default().take(SAFE_ALIGN as usize) else {
            return true;
        };
        let answer = self.read_some(0, probe.as_mut_slice());
        !matches!(answer, Err(error) if error.raw_os_error() == Some(libc::EINVAL))
    }
}

impl AsFd for Disk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.file.as_fd()
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

/// Size in bytes, rounded down to whole 4096-byte blocks.
fn size_of(fd: BorrowedFd<'_>) -> io::Result<u64> {
    // The file position is used by nobody: all I/O here names its offset.
    let end = rustix::fs::seek(fd, rustix::fs::SeekFrom::End(0))?;
    Ok(end - end % u64::from(SAFE_ALIGN))
}

fn open_once(path: &Path, direct: bool, least_alignment_bytes: u32) -> Result<Disk, DiskError> {
    let fail = |what: &str, error: Errno| {
        DiskError::system(format!("{what} {}", path.display()), io::Error::from(error))
    };
    let stat = rustix::fs::stat(path).map_err(|e| fail("open", e))?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => DiskKind::BlockDevice,
        FileType::RegularFile => DiskKind::File,
        _ => {
            let text = format!("{}: neither a block device nor a regular file", path.display());
            return Err(DiskError::new(ErrorKind::NotFound, text));
        }
    };
    let mut flags = OFlags::RDWR | OFlags::CLOEXEC;
    flags |= if direct { OFlags::DIRECT } else { OFlags::DSYNC };
    if kind == DiskKind::BlockDevice {
        flags |= OFlags::EXCL;
    }
    let in_use = |error: Errno| match error {
        Errno::BUSY | Errno::AGAIN => fail("open", error)
            .with_kind(ErrorKind::InUse)
            .with_context_suffix(": held by another process or mount"),
        error => fail("open", error),
    };
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(in_use)?);
    if kind == DiskKind::File {
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(in_use)?;
    }
    let Some(mut alignment) = alignment_of(&file, kind, direct) else {
        return Err(fail("direct I/O on", Errno::INVAL));
    };
    let least = least_alignment_bytes.clamp(1, SAFE_ALIGN).next_power_of_two();
    alignment.offset_bytes = alignment.offset_bytes.max(least);
    alignment.memory_bytes = alignment.memory_bytes.max(least);
    let size_bytes = size_of(file.as_fd())
        .map_err(|e| DiskError::system(format!("read the size of {}", path.display()), e))?;
    let in_memory = rustix::fs::fstatfs(&file).is_ok_and(|system| system.f_type == libc::TMPFS_MAGIC);
    Ok(Disk(Arc::new(Inner {
        file,
        path: path.to_path_buf(),
        kind,
        direct,
        in_memory,
        alignment,
        size_bytes: AtomicU64::new(size_bytes),
        flush_failed: AtomicBool::new(false),
    })))
}

/// `None` if the kernel says that direct I/O is not possible.
fn alignment_of(file: &File, kind: DiskKind, direct: bool) -> Option<Alignment> {
    if !direct {
        return Some(Alignment { memory_bytes: 1, offset_bytes: 1 });
    }
    let sane = |bytes: u32| bytes.is_power_of_two() && bytes <= SAFE_ALIGN;
    let told = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
        .ok()
        .filter(|told| told.stx_mask & StatxFlags::DIOALIGN.bits() != 0);
    if let Some(told) = told {
        let (memory_bytes, offset_bytes) = (told.stx_dio_mem_align, told.stx_dio_offset_align);
        return (sane(memory_bytes) && sane(offset_bytes))
            .then_some(Alignment { memory_bytes, offset_bytes });
    }
    let logical = match kind {
        DiskKind::BlockDevice => rustix::fs::ioctl_blksszget(file).ok().filter(|bytes| sane(*bytes)),
        DiskKind::File => None,
    };
    let bytes = logical.unwrap_or(SAFE_ALIGN);
    Some(Alignment { memory_bytes: bytes, offset_bytes: bytes })
}

/// A new name is durable when its directory is.
fn sync_directory_of(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}
