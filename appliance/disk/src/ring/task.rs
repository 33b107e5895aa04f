//! One request's part on one disk, as a state machine: which transfer is next, what its result means.
//!
//! A transfer that the device can take as it is goes straight between the caller's memory and the disk. Otherwise:
//! - memory not aligned enough: through a bounce buffer (one copy);
//! - offset or length not aligned, read: the surrounding blocks are read into a bounce buffer, the part copied out;
//! - offset or length not aligned, write: the surrounding blocks are read, changed and written back as one
//!   (a *merge*). No other write may touch those blocks meanwhile: see `Ring::conflicts`.

use crate::buffer::{BufferMut, BufferPool};
use crate::disk::{Alignment, Disk, ZeroMode};
use crate::error::{DiskError, ErrorKind};
use std::io;
use std::ops::Range;
use std::ptr;

/// Transfers in a row that may end without progress before the task fails.
const MAX_STALLS: u8 = 16;

/// What is asked of the kernel next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Read,
    Write { durable: bool },
    Sync,
    Zero(ZeroMode),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Read,
    /// Reads a superset of the caller's range; the part is copied out at the end.
    BounceRead,
    Write,
    /// First half of a merge.
    MergeRead,
    MergeWrite,
    Flush,
    Zero(ZeroMode),
    ZeroFlush,
}

/// The memory and disk range of the present step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    /// Where the next byte goes to or comes from; dangling for steps without data.
    pub(super) memory: *mut u8,
    /// What is left, in bytes.
    pub(super) len_bytes: u64,
    /// Where it continues on the disk.
    pub(super) offset_bytes: u64,
}

pub(super) struct Task {
    pub(super) request: usize,
    pub(super) disk: Disk,
    pub(super) durable: bool,
    /// Order of arrival, for fairness among conflicting writes.
    pub(super) number: u64,
    /// Not started: waits for a conflicting write.
    pub(super) waits: bool,
    step: Step,
    /// The caller's memory and the disk range that it stands for.
    user: Transfer,
    whole: Transfer,
    done_bytes: u64,
    stalls: u8,
    bounce: Option<BufferMut>,
}

/// What becomes of a task after a transfer.
pub(super) enum Next {
    /// The transfer of [`Task::transfer`] is to be started.
    Again,
    Done(Result<(), DiskError>),
}

/// Smallest aligned range around `start..end`.
fn outer(range: Range<u64>, alignment: Alignment) -> Range<u64> {
    let unit = u64::from(alignment.offset_bytes);
    range.start - range.start % unit..range.end.next_multiple_of(unit)
}

impl Task {
    fn new(request: usize, disk: Disk, step: Step, user: Transfer) -> Self {
        Self {
            request,
            disk,
            durable: false,
            number: 0,
            waits: false,
            step,
            user,
            whole: user,
            done_bytes: 0,
            stalls: 0,
            bounce: None,
        }
    }

    /// A read into `user`.
    pub(super) fn read(
        request: usize,
        disk: Disk,
        user: Transfer,
        pool: &BufferPool,
    ) -> Result<Self, DiskError> {
        let aligned = user.is_aligned(disk.alignment());
        let mut task = Self::new(request, disk, Step::Read, user);
        if !aligned {
            task.step = Step::BounceRead;
            task.bounce(pool)?;
        }
        Ok(task)
    }

    /// A write from `user`.
    pub(super) fn write(
        request: usize,
        disk: Disk,
        user: Transfer,
        durable: bool,
        pool: &BufferPool,
    ) -> Result<Self, DiskError> {
        let alignment = disk.alignment();
        let mut task = Self::new(request, disk, Step::Write, user);
        task.durable = durable;
        if !user.is_aligned(alignment) {
            task.bounce(pool)?;
            if task.whole.len_bytes == user.len_bytes {
                task.copy_to_bounce();
            } else {
                task.step = Step::MergeRead;
            }
        }
        Ok(task)
    }

    /// A flush of the whole disk.
    pub(super) fn flush(request: usize, disk: Disk) -> Self {
        Self::new(request, disk, Step::Flush, Transfer::without_memory(0, 0))
    }

    /// Zeroing of an aligned range.
    pub(super) fn zero(request: usize, disk: Disk, range: Range<u64>, mode: ZeroMode, durable: bool) -> Self {
        let transfer = Transfer::without_memory(range.start, range.end - range.start);
        let mut task = Self::new(request, disk, Step::Zero(mode), transfer);
        task.durable = durable;
        task
    }

    fn bounce(&mut self, pool: &BufferPool) -> Result<(), DiskError> {
        let range = outer(self.user.range(), self.disk.alignment());
        let len = usize::try_from(range.end - range.start).map_err(|_| {
            DiskError::new(ErrorKind::Invalid, format!("{}: request too long", self.disk.name()))
        })?;
        let buffer = pool.take_urgent(len)?;
        self.whole = Transfer {
            memory: buffer.as_ptr(),
            len_bytes: range.end - range.start,
            offset_bytes: range.start,
        };
        self.bounce = Some(buffer);
        Ok(())
    }

    /// Whether this task reads, changes and writes back blocks that are not wholly its own.
    pub(super) fn is_merge(&self) -> bool {
        matches!(self.step, Step::MergeRead | Step::MergeWrite)
    }

    /// Whether this task changes the disk's content.
    pub(super) fn changes(&self) -> bool {
        !matches!(self.step, Step::Read | Step::BounceRead | Step::Flush)
    }

    /// Disk range that the task touches, in bytes.
    pub(super) fn range(&self) -> Range<u64> {
        self.whole.range()
    }

    /// What to ask the kernel for.
    pub(super) fn verb(&self) -> Verb {
        match self.step {
            Step::Read | Step::BounceRead | Step::MergeRead => Verb::Read,
            Step::Write | Step::MergeWrite => Verb::Write { durable: self.durable },
            Step::Flush | Step::ZeroFlush => Verb::Sync,
            Step::Zero(mode) => Verb::Zero(mode),
        }
    }

    /// What is left of the present step.
    pub(super) fn transfer(&self) -> Transfer {
        let done = usize::try_from(self.done_bytes).unwrap_or(usize::MAX);
        Transfer {
            memory: self.whole.memory.wrapping_add(done),
            len_bytes: self.whole.len_bytes - self.done_bytes,
            offset_bytes: self.whole.offset_bytes + self.done_bytes,
        }
    }

    /// Takes the kernel's answer to the last transfer.
    pub(super) fn advance(&mut self, answer: io::Result<u64>) -> Next {
        let moved = match answer {
            Ok(moved) => moved,
            Err(error) => return self.failed(error),
        };
        match self.verb() {
            Verb::Read | Verb::Write { .. } => self.moved(moved),
            Verb::Sync => Next::Done(Ok(())),
            Verb::Zero(_) if self.durable => {
                self.step = Step::ZeroFlush;
                self.stalls = 0;
                Next::Again
            }
            Verb::Zero(_) => Next::Done(Ok(())),
        }
    }

    /// `moved` bytes of a read or write went over; the rest, if any, is asked for again.
    fn moved(&mut self, moved: u64) -> Next {
        let what = if self.verb() == Verb::Read { "read" } else { "write" };
        if moved == 0 && self.whole.len_bytes > 0 {
            return Next::Done(Err(self.disk.past_end(what, self.transfer().offset_bytes)));
        }
        let reached = (self.done_bytes + moved).min(self.whole.len_bytes);
        if reached < self.whole.len_bytes {
            // A transfer cut short within a block goes on from that block's start: the same bytes once more.
            let reached = reached - reached % u64::from(self.disk.alignment().offset_bytes);
            if reached <= self.done_bytes {
                return self.stalled(io::Error::from_raw_os_error(libc::EIO));
            }
            self.done_bytes = reached;
            self.stalls = 0;
            return Next::Again;
        }
        self.done_bytes = 0;
        self.stalls = 0;
        match self.step {
            Step::BounceRead => self.copy_from_bounce(),
            Step::MergeRead => {
                self.copy_to_bounce();
                self.step = Step::MergeWrite;
                return Next::Again;
            }
            Step::Read | Step::Write | Step::MergeWrite | Step::Flush | Step::Zero(_) | Step::ZeroFlush => {}
        }
        Next::Done(Ok(()))
    }

    fn failed(&mut self, error: io::Error) -> Next {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR | libc::ECANCELED) => self.stalled(error),
            _ => Next::Done(Err(self.fault(error))),
        }
    }

    fn stalled(&mut self, error: io::Error) -> Next {
        self.stalls += 1;
        if self.stalls > MAX_STALLS { Next::Done(Err(self.fault(error))) } else { Next::Again }
    }

    fn fault(&self, error: io::Error) -> DiskError {
        let Transfer { len_bytes, offset_bytes, .. } = self.transfer();
        match self.verb() {
            Verb::Read => self.disk.fault(format_args!("read {len_bytes} bytes at {offset_bytes}"), error),
            Verb::Write { .. } => {
                self.disk.fault(format_args!("write {len_bytes} bytes at {offset_bytes}"), error)
            }
            Verb::Zero(_) => self.disk.fault(format_args!("zero {len_bytes} bytes at {offset_bytes}"), error),
            Verb::Sync => self.disk.flush_fault("flush", error),
        }
    }

    /// Where the caller's bytes start within the bounce buffer.
    fn user_in_bounce(&self) -> *mut u8 {
        let skip = usize::try_from(self.user.offset_bytes - self.whole.offset_bytes).unwrap_or(usize::MAX);
        self.whole.memory.wrapping_add(skip)
    }

    fn copy_to_bounce(&mut self) {
        let len = usize::try_from(self.user.len_bytes).unwrap_or(0);
        // SAFETY: `user` lies in the request's buffer (or the ring's zeroes), alive while the task is; `whole` is the
        // bounce buffer, which covers the aligned range around it, so both hold `len` bytes. They are different
        // allocations. No transfer of this task is in flight, so nobody else writes the bounce buffer.
        unsafe { ptr::copy_nonoverlapping(self.user.memory.cast_const(), self.user_in_bounce(), len) }
    }

    fn copy_from_bounce(&mut self) {
        let len = usize::try_from(self.user.len_bytes).unwrap_or(0);
        // SAFETY: as in `copy_to_bounce`; the request's read buffer is written by this task alone in this range.
        unsafe { ptr::copy_nonoverlapping(self.user_in_bounce().cast_const(), self.user.memory, len) }
    }
}

impl Transfer {
    fn without_memory(offset_bytes: u64, len_bytes: u64) -> Self {
        Self { memory: ptr::null_mut(), len_bytes, offset_bytes }
    }

    fn range(&self) -> Range<u64> {
        self.offset_bytes..self.offset_bytes + self.len_bytes
    }

    fn is_aligned(&self, alignment: Alignment) -> bool {
        let unit = u64::from(alignment.offset_bytes);
        self.offset_bytes.is_multiple_of(unit)
            && self.len_bytes.is_multiple_of(unit)
            && self.memory.addr().is_multiple_of(alignment.memory_bytes as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{OpenOptions, Preallocate};

    fn disk() -> (tempfile::TempDir, Disk) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        drop(Disk::create_file(&path, base::ByteCount::mib(1), Preallocate::Sparse).unwrap());
        let options = OpenOptions { least_alignment_bytes: 4096, ..OpenOptions::default() };
        (directory, Disk::open(&path, &options).unwrap())
    }

    fn errno(number: i32) -> io::Result<u64> {
        Err(io::Error::from_raw_os_error(number))
    }

    /// A read of four blocks, and what it asks for after each answer.
    fn read_of_four_blocks(answers: Vec<io::Result<u64>>) -> (Task, Vec<(u64, u64)>, Option<ErrorKind>) {
        let (_directory, disk) = disk();
        let pool = BufferPool::default();
        let buffer = pool.take(4 * 4096).unwrap();
        let user = Transfer { memory: buffer.as_ptr(), len_bytes: 4 * 4096, offset_bytes: 8192 };
        let mut task = Task::read(0, disk, user, &pool).unwrap();
        let mut asked = Vec::new();
        for answer in answers {
            match task.advance(answer) {
                Next::Again => asked.push((task.transfer().offset_bytes, task.transfer().len_bytes)),
                Next::Done(result) => return (task, asked, result.err().map(|error| error.kind())),
            }
        }
        panic!("the task wants more answers");
    }

    #[test]
    fn short_transfers_go_on_at_a_block() {
        let (_, asked, error) = read_of_four_blocks(vec![Ok(5000), Ok(4096), Ok(8192)]);
        assert_eq!(asked, [(12288, 12288), (16384, 8192)]);
        assert_eq!(error, None);
    }

    #[test]
    fn passing_troubles_are_tried_again_but_not_for_ever() {
        let (_, asked, error) =
            read_of_four_blocks(vec![errno(libc::EAGAIN), errno(libc::EINTR), Ok(4096), Ok(12288)]);
        assert_eq!((asked.len(), error), (3, None));
        let (_, asked, error) = read_of_four_blocks((0..100).map(|_| errno(libc::EAGAIN)).collect());
        assert_eq!((asked.len(), error), (usize::from(MAX_STALLS), Some(ErrorKind::InUse)));
        let (_, _, error) = read_of_four_blocks((0..100).map(|_| Ok(100)).collect());
        assert_eq!(error, Some(ErrorKind::Medium), "never a whole block");
    }

    #[test]
    fn errors_end_the_task_with_their_kind() {
        for (number, kind) in [
            (libc::EIO, ErrorKind::Medium),
            (libc::ENODEV, ErrorKind::Gone),
            (libc::ENOSPC, ErrorKind::NoSpace),
        ] {
            assert_eq!(read_of_four_blocks(vec![Ok(4096), errno(number)]).2, Some(kind));
        }
        assert_eq!(read_of_four_blocks(vec![Ok(4096), Ok(0)]).2, Some(ErrorKind::OutOfRange));
    }

    #[test]
    fn a_merge_reads_then_writes_whole_blocks() {
        let (_directory, disk) = disk();
        let pool = BufferPool::default();
        let mut buffer = pool.take(512).unwrap();
        buffer.as_mut_slice().fill(9);
        let user = Transfer { memory: buffer.as_ptr(), len_bytes: 512, offset_bytes: 4096 + 3584 };
        let mut task = Task::write(0, disk.clone(), user, true, &pool).unwrap();
        assert!(task.is_merge() && task.range() == (4096..8192) && task.verb() == Verb::Read);
        assert!(matches!(task.advance(Ok(4096)), Next::Again));
        assert_eq!((task.verb(), task.transfer().len_bytes), (Verb::Write { durable: true }, 4096));
        let merged = task.bounce.as_ref().unwrap().as_slice();
        assert!(merged[..3584].iter().all(|b| *b == 0) && merged[3584..].iter().all(|b| *b == 9));
        assert!(matches!(task.advance(Ok(4096)), Next::Done(Ok(()))));
    }

    #[test]
    fn a_failed_flush_is_remembered() {
        let (_directory, disk) = disk();
        let mut task = Task::flush(0, disk.clone());
        disk.check_flushable().unwrap();
        let Next::Done(Err(error)) = task.advance(errno(libc::EIO)) else { panic!("it failed") };
        assert_eq!(error.kind(), ErrorKind::Medium);
        assert_eq!(disk.check_flushable().unwrap_err().kind(), ErrorKind::FlushFailed);
        assert_eq!(disk.flush_blocking().unwrap_err().kind(), ErrorKind::FlushFailed);
    }
}
