//! The io_uring half of the ring: submission entries in, completion entries out.

use super::task::{Task, Verb};
use io_uring::{IoUring, opcode, squeue, types};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::thread;
use std::time::Duration;

/// Marks the completion of the poll on the workers' wake counter.
const WAKE: u64 = u64::MAX;
/// `IORING_ENTER_GETEVENTS` of io_uring_enter(2).
const ENTER_GETEVENTS: u32 = 1;
/// How often, and after which pause, a submission is tried again when the kernel is short of memory.
const SHORTAGE_TRIES: u32 = 100;
const SHORTAGE_PAUSE: Duration = Duration::from_millis(1);

pub(super) struct Uring {
    ring: IoUring,
    wake_armed: bool,
    /// Entries whose completion is still to come, the wake poll included. Never more than the completion queue
    /// holds, so that it can't overflow.
    unfinished: usize,
}

impl Uring {
    pub(super) fn new(entries: u32) -> io::Result<Self> {
        // Completions are made when this thread enters the kernel anyway, not by interrupting it. Not "deferred" to
        // our own io_uring_enter: seen on Linux 6.18, a sleeper on the ring's descriptor is not woken then.
        let modern = IoUring::builder()
            .setup_clamp()
            .setup_submit_all()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_single_issuer()
            .build(entries);
        let ring = match modern {
            Ok(ring) => ring,
            // Kernels before 6.0 do not know all of these.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::new(entries)?,
            Err(error) => return Err(error),
        };
        if !ring.params().is_feature_nodrop() || !ring.params().is_feature_submit_stable() {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        Ok(Self { ring, wake_armed: false, unfinished: 0 })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to `self.ring`, which lives as long as the borrow of `self`.
        unsafe { BorrowedFd::borrow_raw(self.raw_fd()) }
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// Makes sure that a count on `wake` completes an entry.
    pub(super) fn arm_wake(&mut self, wake: BorrowedFd<'_>) {
        if self.wake_armed {
            return;
        }
        let entry =
            opcode::PollAdd::new(types::Fd(wake.as_raw_fd()), libc::POLLIN.unsigned_abs().into()).build();
        self.wake_armed = self.push(&entry.user_data(WAKE));
    }

    /// Puts the present transfer of `task` into the submission queue; `false` if it does not fit now.
    /// The caller keeps the task, its memory and its disk until the completion has been collected.
    pub(super) fn start(&mut self, index: usize, task: &Task, max_bytes: u64) -> bool {
        let transfer = task.transfer();
        let fd = types::Fd(task.disk.as_fd().as_raw_fd());
        let len = u32::try_from(transfer.len_bytes.min(max_bytes)).unwrap_or(1 << 30);
        let entry = match task.verb() {
            Verb::Read => opcode::Read::new(fd, transfer.memory, len).offset(transfer.offset_bytes).build(),
            Verb::Write { durable } => opcode::Write::new(fd, transfer.memory.cast_const(), len)
                .offset(transfer.offset_bytes)
                .rw_flags(if durable { libc::RWF_DSYNC } else { 0 })
                .build(),
            Verb::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
            Verb::Zero(_) => return false,
        };
        self.push(&entry.user_data(index as u64))
    }

    fn push(&mut self, entry: &squeue::Entry) -> bool {
        if self.unfinished + 1 >= self.ring.params().cq_entries() as usize {
            return false;
        }
        // SAFETY: the entry's descriptor and memory stay valid until its completion is collected. They belong to a
        // task (or to the ring's wake counter), and `Ring` removes a task only when it has the completion; its Drop
        // waits for every completion, and keeps (leaks) tasks and memory if that wait is impossible.
        let pushed = unsafe { self.ring.submission().push(entry) }.is_ok();
        self.unfinished += usize::from(pushed);
        pushed
    }

    /// Hands the queued entries to the kernel; with `wait`, sleeps until a completion is there.
    pub(super) fn enter(&mut self, wait: bool) -> io::Result<()> {
        let mut tries = 0;
        loop {
            let (to_submit, work_waits) = {
                let queue = self.ring.submission();
                (queue.len(), queue.taskrun() || queue.cq_overflow())
            };
            let want = wait && self.unfinished > 0 && self.ring.completion().is_empty();
            if to_submit == 0 && !want && !work_waits {
                return Ok(());
            }
            let flags = if want || work_waits { ENTER_GETEVENTS } else { 0 };
            let to_submit_now = u32::try_from(to_submit).unwrap_or(u32::MAX);
            // SAFETY: no argument structure is passed; the entries' memory is covered in `push`.
            let entered = unsafe {
                self.ring.submitter().enter::<libc::sigset_t>(to_submit_now, u32::from(want), flags, None)
            };
            match entered {
                Ok(taken) if taken >= to_submit => return Ok(()),
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                // Completions must be collected first; the caller does so and comes back.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && tries < SHORTAGE_TRIES => {
                    tries += 1;
                    thread::sleep(SHORTAGE_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn has_completions(&mut self) -> bool {
        let queue = self.ring.submission();
        let work_waits = queue.taskrun() || queue.cq_overflow();
        drop(queue);
        work_waits || !self.ring.completion().is_empty()
    }

    /// Takes all completions that are there.
    pub(super) fn collect(&mut self, results: &mut Vec<(usize, io::Result<u64>)>) {
        for entry in self.ring.completion() {
            self.unfinished -= 1;
            if entry.user_data() == WAKE {
                self.wake_armed = false;
                continue;
            }
            let result = match u64::try_from(entry.result()) {
                Ok(moved) => Ok(moved),
                Err(_) => Err(io::Error::from_raw_os_error(entry.result().wrapping_neg())),
            };
            results.push((usize::try_from(entry.user_data()).unwrap_or(usize::MAX), result));
        }
    }
}
