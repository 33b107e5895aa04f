//! The ring: many requests on many spaces in flight from one thread, through io_uring.
//!
//! # How a loop turns
//!
//! ```text
//! loop {
//!     while let Some(done) = ring.next() { … }        // may queue more
//!     ring.submit()?;                                 // once per turn, always: it also moves what was left over
//!     if !ring.is_ready() { readiness.wait().await? } // or poll(2) on the ring's descriptor
//! }
//! ```
//!
//! The descriptor tells of completions only when asked to sleep on after [`Ring::is_ready`] said no: a completion may
//! come up during [`Ring::submit`] itself.
//!
//! # Invariants
//! - **Memory.** The kernel (or a worker thread) gets addresses inside the buffer of a [`Request`], the bounce buffer of
//!   a [`Task`] or the ring's zeroes. A task is removed only after the result of its last transfer was collected, a
//!   request only after its last task. So a buffer's memory is alive and untouched for as long as anyone may use it,
//!   whatever the caller drops: the caller has no handle on a read buffer in flight, and a write buffer is shared and
//!   immutable. Dropping the ring waits for every transfer that was started (forgetting it frees nothing).
//! - Each request ends in exactly one [`Completion`], in any order. Requests in flight are not ordered among each
//!   other: order is made by waiting for completions (S18 is the caller's).
//! - A flush covers the writes whose completions were taken before it was queued.
//! - Writes on the blocks of a merge (see `task`) run one after the other, in order of arrival.

mod readiness;
mod slab;
mod task;
mod uring;
mod workers;

use crate::buffer::{Buffer, BufferMut, BufferPool};
use crate::disk::{Disk, DiskKind, ZeroMode};
use crate::error::DiskError;
use crate::space::{Piece, Space};
pub use readiness::Readiness;
use rustix::event::{PollFd, PollFlags, poll};
use slab::Slab;
use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use task::{Next, Task, Transfer, Verb};
use uring::Uring;
use workers::Workers;

/// Bytes of the block of zeroes that the edges of an unaligned zeroing are written from; not less than any
/// device's alignment.
const ZEROES_BYTES: usize = 4096;
/// No device asks for more than this alignment, in bytes.
const MOST_ALIGNED: u64 = 4096;

/// Longest read that the ring's own thread does; longer ones are spread over threads.
const MOST_COPIED_BYTES: u64 = 16 << 10;

/// How a ring is set up.
#[derive(Clone, Copy, Debug)]
pub struct RingConfig {
    /// Submission queue entries; twice as many transfers may be in flight, more are queued.
    pub entries: u32,
    /// Most threads for what io_uring does not do (well), or for everything where it is refused: bounds the queue
    /// depth that the disks see then. Started when needed.
    pub threads: usize,
    /// Use threads even where io_uring works (tests, comparison).
    pub force_threads: bool,
    /// Longest single transfer in bytes; longer requests go piece by piece.
    pub max_transfer_bytes: u64,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self { entries: 256, threads: 16, force_threads: false, max_transfer_bytes: 1 << 30 }
    }
}

/// What moves the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// io_uring.
    IoUring,
    /// A thread per transfer in flight, up to a limit.
    Threads,
}

/// When a write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The device has it; a flush makes it durable.
    Cached,
    /// It survives power loss (`RWF_DSYNC`: FUA where the device can, else a flush by the kernel).
    Durable,
}

/// The end of a request.
#[derive(Debug)]
pub struct Completion {
    /// As given with the request.
    pub token: u64,
    /// On an error, a read buffer's content and the written range's content are unspecified.
    pub result: Result<(), DiskError>,
    /// The request's buffer, back.
    pub buffer: Returned,
}

/// The buffer of a request that ended.
#[derive(Debug)]
pub enum Returned {
    /// Flush and zero have none.
    None,
    /// Of a read: filled if it succeeded.
    Read(BufferMut),
    /// Of a write.
    Write(Buffer),
}

struct Request {
    token: u64,
    buffer: Returned,
    /// Keeps the disk space from being freed under the request.
    _space: Space,
    open_tasks: usize,
    error: Option<DiskError>,
}

/// The I/O engine of one thread. See the module's page.
pub struct Ring {
    uring: Option<Uring>,
    workers: Workers,
    requests: Slab<Request>,
    tasks: Slab<Task>,
    /// Tasks whose next transfer is to be started.
    backlog: VecDeque<usize>,
    /// Tasks that wait for a conflicting write, in order of arrival.
    waiting: VecDeque<usize>,
    /// Tasks that merge, waiting or not.
    merges: usize,
    /// Transfers started and not collected.
    in_flight: usize,
    next_number: u64,
    ready: VecDeque<Completion>,
    /// Not collected yet: what this thread did itself.
    results: Vec<(usize, io::Result<u64>)>,
    bounces: BufferPool,
    zeroes: Buffer,
    max_transfer_bytes: u64,
}

impl Ring {
    /// A ring of its own for the calling thread. Where the system refuses io_uring (seccomp in containers,
    /// `kernel.io_uring_disabled`), threads do the work behind the same calls, and a warning is logged.
    pub fn new(config: &RingConfig) -> Result<Self, DiskError> {
        let workers = Workers::new(config.threads.max(1))
            .map_err(|e| DiskError::system("set up the disk threads' wake counter", e))?;
        let uring = if config.force_threads { None } else { set_up_uring(config.entries) };
        let bounces = BufferPool::default();
        let mut zeroes = bounces.take_urgent(ZEROES_BYTES)?;
        zeroes.as_mut_slice().fill(0);
        Ok(Self {
            uring,
            workers,
            requests: Slab::default(),
            tasks: Slab::default(),
            backlog: VecDeque::new(),
            waiting: VecDeque::new(),
            merges: 0,
            in_flight: 0,
            next_number: 0,
            ready: VecDeque::new(),
            results: Vec::new(),
            bounces,
            zeroes: zeroes.freeze(),
            // Whole blocks of any device, so that a piece never ends inside one.
            max_transfer_bytes: (config.max_transfer_bytes - config.max_transfer_bytes % MOST_ALIGNED)
                .clamp(MOST_ALIGNED, 1 << 30),
        })
    }

    /// What moves the data.
    #[must_use]
    pub fn backend(&self) -> BackendKind {
        if self.uring.is_some() { BackendKind::IoUring } else { BackendKind::Threads }
    }

    /// Requests whose completion was not taken yet.
    #[must_use]
    pub fn open_requests(&self) -> usize {
        self.requests.len() + self.ready.len()
    }

    /// Queues a read that fills `buffer` from `offset_bytes` of `space`. Starts with the next [`submit`](Self::submit).
    pub fn read(&mut self, token: u64, space: &Space, offset_bytes: u64, buffer: BufferMut) {
        let memory = buffer.as_ptr();
        let len_bytes = buffer.len() as u64;
        let request = self.open(token, space, Returned::Read(buffer));
        self.each_piece(request, space, offset_bytes, len_bytes, |ring, piece| {
            let user = user_part(memory, offset_bytes, &piece);
            let task = Task::read(request, piece.disk, user, &ring.bounces);
            ring.add(request, task);
        });
    }

    /// Queues a write of `buffer` at `offset_bytes` of `space`.
    pub fn write(
        &mut self,
        token: u64,
        space: &Space,
        offset_bytes: u64,
        buffer: Buffer,
        durability: Durability,
    ) {
        let memory = buffer.as_ptr().cast_mut();
        let len_bytes = buffer.len() as u64;
        let durable = durability == Durability::Durable;
        let request = self.open(token, space, Returned::Write(buffer));
        self.each_piece(request, space, offset_bytes, len_bytes, |ring, piece| {
            let user = user_part(memory, offset_bytes, &piece);
            let task = Task::write(request, piece.disk, user, durable, &ring.bounces);
            ring.add(request, task);
        });
    }

    /// Queues a flush of every disk below `space`.
    pub fn flush(&mut self, token: u64, space: &Space) {
        let request = self.open(token, space, Returned::None);
        for disk in space.disks() {
            let task = disk.check_flushable().map(|()| Task::flush(request, disk.clone()));
            self.add(request, task);
        }
        self.close(request);
    }

    /// Queues the zeroing of `len_bytes` from `offset_bytes` of `space`: afterwards they read as zero. A command
    /// to the device or file system where there is one; else zeroes are written, at the cost of a write.
    pub fn zero(
        &mut self,
        token: u64,
        space: &Space,
        offset_bytes: u64,
        len_bytes: u64,
        mode: ZeroMode,
        durability: Durability,
    ) {
        let request = self.open(token, space, Returned::None);
        self.each_piece(request, space, offset_bytes, len_bytes, |ring, piece| {
            ring.add_zero(request, &piece, mode, durability == Durability::Durable);
        });
    }

    /// Starts what was queued, as far as the kernel's queues go; the rest follows with later calls. Nothing is lost
    /// on an error: it may be called again.
    pub fn submit(&mut self) -> Result<(), DiskError> {
        self.start_backlog(false)
    }

    /// The next completion that is there already.
    #[expect(clippy::should_implement_trait, reason = "an iterator would seem to end for good")]
    pub fn next(&mut self) -> Option<Completion> {
        if self.ready.is_empty() {
            self.collect();
        }
        self.ready.pop_front()
    }

    /// Whether [`next`](Self::next) or [`submit`](Self::submit) has something to do now. To be asked before sleeping
    /// on the descriptor.
    pub fn is_ready(&mut self) -> bool {
        !self.ready.is_empty()
            || !self.results.is_empty()
            || self.workers.has_results()
            || self.uring.as_mut().is_some_and(Uring::has_completions)
    }

    /// Submits, and sleeps until a completion is there; `None` when no request is open.
    pub fn wait(&mut self) -> Result<Option<Completion>, DiskError> {
        loop {
            if let Some(completion) = self.next() {
                return Ok(Some(completion));
            }
            if self.requests.len() == 0 {
                return Ok(None);
            }
            self.start_backlog(true)?;
        }
    }

    fn open(&mut self, token: u64, space: &Space, buffer: Returned) -> usize {
        // One task more than there are, until all are added: the request can't end before.
        let request = Request { token, buffer, _space: space.clone(), open_tasks: 1, error: None };
        self.requests.insert(request)
    }

    fn each_piece(
        &mut self,
        request: usize,
        space: &Space,
        offset_bytes: u64,
        len_bytes: u64,
        mut add: impl FnMut(&mut Self, Piece),
    ) {
        match space.locate(offset_bytes, len_bytes) {
            Ok(pieces) => pieces.for_each(|piece| add(self, piece)),
            Err(error) => self.fail(request, error),
        }
        self.close(request);
    }

    fn add(&mut self, request: usize, task: Result<Task, DiskError>) {
        let mut task = match task {
            Ok(task) => task,
            Err(error) => return self.fail(request, error),
        };
        if let Some(request) = self.requests.get_mut(request) {
            request.open_tasks += 1;
        }
        task.number = self.next_number;
        self.next_number += 1;
        self.merges += usize::from(task.is_merge());
        let index = self.tasks.insert(task);
        if self.conflicts(index) {
            if let Some(task) = self.tasks.get_mut(index) {
                task.waits = true;
            }
            self.waiting.push_back(index);
        } else {
            self.backlog.push_back(index);
        }
    }

    /// The aligned middle is zeroed by the device, the edges by merges from the block of zeroes.
    fn add_zero(&mut self, request: usize, piece: &Piece, mode: ZeroMode, durable: bool) {
        let unit = u64::from(piece.disk.alignment().offset_bytes);
        let start = piece.disk_offset_bytes;
        let end = start + piece.len_bytes;
        let middle_start = start.next_multiple_of(unit).min(end);
        let middle_end = (end - end % unit).max(middle_start);
        for (from, to) in [(start, middle_start), (middle_end, end)] {
            if from < to {
                let memory = self.zeroes.as_ptr().cast_mut();
                let user = Transfer { memory, len_bytes: to - from, offset_bytes: from };
                let task = Task::write(request, piece.disk.clone(), user, durable, &self.bounces);
                self.add(request, task);
            }
        }
        if middle_start < middle_end {
            let task = Task::zero(request, piece.disk.clone(), middle_start..middle_end, mode, durable);
            self.add(request, Ok(task));
        }
    }

    fn fail(&mut self, request: usize, error: DiskError) {
        if let Some(request) = self.requests.get_mut(request) {
            // The first error is the one to report.
            request.error.get_or_insert(error);
        }
    }

    /// One task of the request ended (or all were added).
    fn close(&mut self, index: usize) {
        let Some(request) = self.requests.get_mut(index) else { return };
        request.open_tasks -= 1;
        if request.open_tasks == 0
            && let Some(request) = self.requests.remove(index)
        {
            let result = request.error.map_or(Ok(()), Err);
            self.ready.push_back(Completion { token: request.token, result, buffer: request.buffer });
        }
    }

    /// Whether the task must wait for another write: one of the two merges, their blocks overlap, and the other is
    /// under way or came first.
    fn conflicts(&self, index: usize) -> bool {
        let Some(task) = self.tasks.get(index).filter(|task| self.merges > 0 && task.changes()) else {
            return false;
        };
        let range = task.range();
        self.tasks.iter().any(|(other_index, other)| {
            other_index != index
                && (task.is_merge() || other.is_merge())
                && other.changes()
                && (!other.waits || other.number < task.number)
                && other.range().start < range.end
                && range.start < other.range().end
                && is_one_device(&other.disk, &task.disk)
        })
    }

    fn start_backlog(&mut self, wait: bool) -> Result<(), DiskError> {
        while let Some(index) = self.backlog.pop_front() {
            if !self.start(index) {
                self.backlog.push_front(index);
                break;
            }
            self.in_flight += 1;
        }
        let wait = wait && self.results.is_empty();
        match &mut self.uring {
            Some(uring) => {
                if self.workers.outstanding() > 0 {
                    uring.arm_wake(self.workers.wake_fd());
                }
                uring.enter(wait).map_err(|e| DiskError::system("io_uring_enter", e))
            }
            None if wait && self.in_flight > 0 => self.wait_for_workers(),
            None => Ok(()),
        }
    }

    /// `false` if the kernel's queue is full.
    fn start(&mut self, index: usize) -> bool {
        let Some(task) = self.tasks.get(index) else { return true };
        if is_a_copy(task) {
            let result = workers::run_here(index, task, self.max_transfer_bytes);
            self.results.push((index, result));
            return true;
        }
        match &mut self.uring {
            Some(uring) if !needs_thread(task) => {
                uring.start(index, task, self.max_transfer_bytes)
                    || (uring.enter(false).is_ok() && uring.start(index, task, self.max_transfer_bytes))
            }
            _ => {
                self.workers.start(index, task, self.max_transfer_bytes);
                true
            }
        }
    }

    fn wait_for_workers(&self) -> Result<(), DiskError> {
        loop {
            match poll(&mut [PollFd::from_borrowed_fd(self.workers.wake_fd(), PollFlags::IN)], None) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(DiskError::system("wait for the disk threads", error.into())),
            }
        }
    }

    /// Takes the results that are there and moves their tasks on.
    fn collect(&mut self) {
        let mut results = mem::take(&mut self.results);
        if let Some(uring) = &mut self.uring {
            uring.collect(&mut results);
        }
        self.workers.collect(&mut results);
        for (index, result) in results.drain(..) {
            self.in_flight -= 1;
            let Some(task) = self.tasks.get_mut(index) else { continue };
            match task.advance(result) {
                Next::Again => self.backlog.push_back(index),
                Next::Done(result) => self.end(index, result),
            }
        }
        self.results = results;
    }

    fn end(&mut self, index: usize, result: Result<(), DiskError>) {
        let Some(task) = self.tasks.remove(index) else { return };
        self.merges -= usize::from(task.is_merge());
        if let Err(error) = result {
            self.fail(task.request, error);
        }
        self.close(task.request);
        if task.changes() {
            self.start_waiting();
        }
    }

    fn start_waiting(&mut self) {
        let mut still_waiting = VecDeque::new();
        while let Some(index) = self.waiting.pop_front() {
            if self.conflicts(index) {
                still_waiting.push_back(index);
            } else if let Some(task) = self.tasks.get_mut(index) {
                task.waits = false;
                self.backlog.push_back(index);
            }
        }
        self.waiting = still_waiting;
    }

    /// Waits for every transfer that was started. What was only queued never starts.
    fn drain(&mut self) -> Result<(), DiskError> {
        loop {
            self.backlog.clear();
            self.waiting.clear();
            if self.in_flight == 0 {
                return Ok(());
            }
            self.start_backlog(true)?;
            self.collect();
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if let Err(error) = self.drain() {
            // The kernel may still write into the buffers: they must outlive it, so they are never freed.
            tracing::error!(%error, "disk ring could not be drained; its buffers are kept for good");
            mem::forget(mem::take(&mut self.requests));
            mem::forget(mem::take(&mut self.tasks));
            mem::forget(self.zeroes.clone());
        }
    }
}

impl AsFd for Ring {
    /// Readable when a completion is there.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.uring.as_ref().map_or_else(|| self.workers.wake_fd(), Uring::fd)
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.uring.as_ref().map_or_else(|| self.workers.wake_fd().as_raw_fd(), Uring::raw_fd)
    }
}

/// Transfers that a thread of ours does better than io_uring. Zeroing: the kernel would use a thread too, and knows
/// no command for it on older versions. Synchronous writes to a file: the kernel ends them on a shared work queue, where
/// they were seen to wait five times as long on a busy machine; block devices end them at the interrupt.
fn needs_thread(task: &Task) -> bool {
    match task.verb() {
        Verb::Zero(_) => true,
        Verb::Write { durable } => task.disk.kind() == DiskKind::File && (durable || !task.disk.is_direct()),
        Verb::Read | Verb::Sync => false,
    }
}

/// A short read of what is in memory: done at once. io_uring would wake a thread for it, as tmpfs can't say whether it
/// would block.
fn is_a_copy(task: &Task) -> bool {
    task.verb() == Verb::Read && task.disk.is_in_memory() && task.transfer().len_bytes <= MOST_COPIED_BYTES
}

fn set_up_uring(entries: u32) -> Option<Uring> {
    match Uring::new(entries) {
        Ok(uring) => Some(uring),
        Err(error) => {
            tracing::warn!(%error, "io_uring is refused here; using threads for disk I/O");
            None
        }
    }
}

/// The part of the caller's memory (for a request at `offset_bytes`) that belongs to `piece`.
fn user_part(memory: *mut u8, offset_bytes: u64, piece: &Piece) -> Transfer {
    let skip = usize::try_from(piece.start_bytes - offset_bytes).unwrap_or(usize::MAX);
    Transfer {
        memory: memory.wrapping_add(skip),
        len_bytes: piece.len_bytes,
        offset_bytes: piece.disk_offset_bytes,
    }
}

/// Opening is exclusive, so one device has one open file.
fn is_one_device(a: &Disk, b: &Disk) -> bool {
    a.same(b)
}
