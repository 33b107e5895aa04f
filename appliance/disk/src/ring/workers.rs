//! Threads for what blocks: everything where io_uring is refused, some of it where it is not.
//!
//! Jobs carry plain addresses, as submissions to the kernel do; the ring keeps the memory alive until it has taken
//! the job's result, and waits for all results before it goes.

use super::task::{Task, Transfer, Verb};
use crate::disk::Disk;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

struct Job {
    task: usize,
    disk: Disk,
    verb: Verb,
    memory: *mut u8,
    len_bytes: u64,
    offset_bytes: u64,
}

impl Job {
    /// The present transfer of `task`, at most `max_bytes` of it if it moves data.
    fn of(index: usize, task: &Task, max_bytes: u64) -> Self {
        let transfer = task.transfer();
        let verb = task.verb();
        let len_bytes = match verb {
            Verb::Read | Verb::Write { .. } => transfer.len_bytes.min(max_bytes),
            Verb::Sync | Verb::Zero(_) => transfer.len_bytes,
        };
        let Transfer { memory, offset_bytes, .. } = transfer;
        Self { task: index, disk: task.disk.clone(), verb, memory, len_bytes, offset_bytes }
    }
}

// SAFETY: `memory` is the only part that is not Send by itself. The ring hands a range to one job at a time, neither
// reads nor writes nor frees it until the job's result has been taken (through a mutex, which orders the accesses).
unsafe impl Send for Job {}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Threads that sleep.
    idle: usize,
    /// Those of them that were woken and have not come up yet: they look for jobs until there is none.
    waking: usize,
    stop: bool,
}

impl Queue {
    /// Counts a wake-up, if somebody sleeps who was not woken yet; the caller then notifies.
    fn wakes_one(&mut self) -> bool {
        let wakes = self.idle > self.waking;
        self.waking += usize::from(wakes);
        wakes
    }
}

struct Shared {
    queue: Mutex<Queue>,
    available: Condvar,
    done: Mutex<Vec<(usize, io::Result<u64>)>>,
    /// Counts up when `done` gets an entry.
    wake: OwnedFd,
}

pub(super) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    max_threads: usize,
    /// Jobs handed in whose result was not taken yet.
    outstanding: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding these locks; a poisoned one is whole all the same.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Workers {
    pub(super) fn new(max_threads: usize) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared =
            Shared { queue: Mutex::default(), available: Condvar::new(), done: Mutex::default(), wake };
        Ok(Self { shared: Arc::new(shared), threads: Vec::new(), max_threads, outstanding: 0 })
    }

    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Readable when results wait.
    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
    }

    pub(super) fn has_results(&self) -> bool {
        self.outstanding > 0 && !lock(&self.shared.done).is_empty()
    }

    /// Starts the present transfer of `task`, at most `max_bytes` of it if it moves data.
    pub(super) fn start(&mut self, index: usize, task: &Task, max_bytes: u64) {
        let job = Job::of(index, task, max_bytes);
        self.outstanding += 1;
        let mut queue = lock(&self.shared.queue);
        queue.jobs.push_back(job);
        let short_of_threads = queue.idle < queue.jobs.len() && self.threads.len() < self.max_threads;
        let wake = queue.waking == 0 && queue.wakes_one();
        drop(queue);
        if wake {
            self.shared.available.notify_one();
        }
        if short_of_threads {
            self.spawn();
        }
    }

    fn spawn(&mut self) {
        let shared = self.shared.clone();
        match thread::Builder::new().name("disk-io".into()).spawn(move || work(&shared)) {
            Ok(thread) => self.threads.push(thread),
            Err(error) if self.threads.is_empty() => {
                // Slow, but no request is left behind: this thread does the work itself.
                tracing::warn!(%error, "no thread for disk I/O; waiting for the disk in line");
                let job = lock(&self.shared.queue).jobs.pop_front();
                if let Some(job) = job {
                    self.shared.post(job.task, run(&job));
                }
            }
            Err(_) => {}
        }
    }

    /// Takes all results that are there.
    pub(super) fn collect(&mut self, results: &mut Vec<(usize, io::Result<u64>)>) {
        if self.outstanding == 0 {
            return;
        }
        let mut count = [0; 8];
        // Emptied first, list taken second: what comes in between is taken now and wakes once more for nothing.
        // An empty counter (EAGAIN) is fine.
        let _ = rustix::io::read(&self.shared.wake, &mut count);
        let before = results.len();
        results.append(&mut lock(&self.shared.done));
        self.outstanding -= results.len() - before;
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        lock(&self.shared.queue).stop = true;
        self.shared.available.notify_all();
        for thread in self.threads.drain(..) {
            // A worker catches its panics; there is nothing to learn from the result.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn post(&self, task: usize, result: io::Result<u64>) {
        let mut done = lock(&self.done);
        let is_first = done.is_empty();
        done.push((task, result));
        drop(done);
        // Who put the first one in wakes the ring, for all that come until the list is taken.
        if is_first {
            // Fails only when the counter is at its limit, and then it is readable anyway.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }

    fn next_job(&self) -> Option<Job> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                // One after the other: short jobs are done by a few threads, and only long ones get them all.
                let wake = !queue.jobs.is_empty() && queue.waking == 0 && queue.wakes_one();
                drop(queue);
                if wake {
                    self.available.notify_one();
                }
                return Some(job);
            }
            if queue.stop {
                return None;
            }
            queue.idle += 1;
            queue = self.available.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
            // A wake-up without a cause counts as one that had: then one too many is woken, never one too few.
            queue.waking = queue.waking.saturating_sub(1);
        }
    }
}

fn work(shared: &Shared) {
    while let Some(job) = shared.next_job() {
        // A result is posted whatever happens: the ring waits for it.
        let result = catch_unwind(AssertUnwindSafe(|| run(&job)));
        shared.post(job.task, result.unwrap_or_else(|_| Err(io::Error::from_raw_os_error(libc::EIO))));
    }
}

/// Does the present transfer of `task` in the calling thread.
pub(super) fn run_here(index: usize, task: &Task, max_bytes: u64) -> io::Result<u64> {
    run(&Job::of(index, task, max_bytes))
}

fn run(job: &Job) -> io::Result<u64> {
    let len = usize::try_from(job.len_bytes).unwrap_or(usize::MAX);
    match job.verb {
        Verb::Read => {
            // SAFETY: the range lies in a buffer that the ring keeps alive and untouched until it has this result,
            // and it is this job's alone.
            let bytes = unsafe { slice::from_raw_parts_mut(job.memory, len) };
            job.disk.read_some(job.offset_bytes, bytes).map(|n| n as u64)
        }
        Verb::Write { durable } => {
            // SAFETY: as above; nobody writes the range until the ring has this result.
            let bytes = unsafe { slice::from_raw_parts(job.memory.cast_const(), len) };
            job.disk.write_some(job.offset_bytes, bytes, durable).map(|n| n as u64)
        }
        Verb::Sync => job.disk.sync().map(|()| 0),
        Verb::Zero(mode) => job.disk.zero(job.offset_bytes, job.len_bytes, mode).map(|()| 0),
    }
}
