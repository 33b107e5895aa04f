//! The life of a write on the primary (S1, S2, S9, S18), and what all jobs share.
//!
//! Locking → Logging → Writing (here and there at once) → settled. In the healthy steady state nothing is scanned and
//! no metadata is written: the extent is in the activity log, the peer's session is open.
//!
//! Invariants
//! - No disk is touched before the extents are in the durable activity log (S9).
//! - A write keeps its range until the local disk is done and the peer has confirmed it, or lacks it by a committed
//!   configuration and the dirty bits say so (S1, S2, S18).

use crate::activity_log::Acquired;
use crate::api::{Answer, Buffer, Command, DiskOp, DiskResult, DiskToken, Problem, RequestError, Span};
use crate::frame::{Message, Target};
use crate::job::{Content, Kind, Local, Remote, Stage};
use crate::layout::EXTENT_BYTES;
use crate::replica::Replica;
use crate::sabotage::Sabotage;

/// First and last extent of a span. Volumes are at most 2^50 bytes: extents fit 28 bits.
pub(crate) fn extents(span: Span) -> (u32, u32) {
    let extent = |byte: u64| u32::try_from(byte / EXTENT_BYTES).unwrap_or(u32::MAX);
    (extent(span.offset), extent(span.end().saturating_sub(1).max(span.offset)))
}

impl<B: Buffer> Replica<B> {
    /// A job got its range.
    pub(crate) fn start(&mut self, key: u64) {
        let Some(job) = self.jobs.get(key) else { return };
        match job.kind {
            Kind::Read | Kind::CompareAndWrite | Kind::Fetch { .. } => self.read(key),
            Kind::Resync => self.resync_start(key),
            Kind::Write(_) => self.log_extents(key),
            Kind::Apply { .. } => self.apply(key),
            Kind::Flush => {}
        }
    }

    /// S9: the extents go into the activity log first.
    pub(crate) fn log_extents(&mut self, key: u64) {
        if self.breaks(Sabotage::SkipActivityLog) {
            return self.write(key);
        }
        if let Some(job) = self.jobs.get_mut(key) {
            job.stage = Stage::Logging;
        }
        self.log_waiting.push_back(key);
        if self.log_waiting.len() == 1 {
            self.log_retry = true;
        }
    }

    /// Lists the extents of waiting writes, first come first served.
    pub(crate) fn retry_log(&mut self) {
        self.log_retry = false;
        if self.converting.is_some() || self.resizing.is_under_way() {
            return;
        }
        while let Some(key) = self.log_waiting.front().copied() {
            let Some(job) = self.jobs.get_mut(key).filter(|job| !job.doomed) else {
                self.log_waiting.pop_front();
                continue;
            };
            let (first, last) = extents(job.span);
            let bitmap = &self.bitmap;
            match self.log.acquire(first, last, |extent| bitmap.extent_saved(extent)) {
                Acquired::Listed(change) => {
                    self.log_waiting.pop_front();
                    job.logged = true;
                    if self.log.record.is_durable(change) {
                        self.write(key);
                    } else {
                        self.log_listed.push_back((change, key));
                    }
                }
                Acquired::Full(unsaved) => {
                    if let Some(page) = unsaved.and_then(|extent| self.bitmap.save_extent(extent)) {
                        self.write_page(page);
                    }
                    return;
                }
            }
        }
    }

    /// The activity log's record is durable.
    pub(crate) fn log_durable(&mut self) {
        self.log.written();
        while let Some((change, key)) = self.log_listed.front().copied() {
            if !self.log.record.is_durable(change) {
                break;
            }
            self.log_listed.pop_front();
            self.write(key);
        }
        self.numbers_durable();
        self.log_retry = true;
    }

    /// Writes here and at the peer, at the same time.
    fn write(&mut self, key: u64) {
        let Some(job) = self.jobs.get_mut(key).filter(|job| !job.doomed) else { return };
        let Kind::Write(content) = &job.kind else { return };
        let (span, content) = (job.span, content.clone());
        job.stage = Stage::Writing { local: Local::Running, remote: Remote::Unsent };
        self.submit_write(key, span, content);
        self.offer(key);
    }

    /// Write-through (S1): every write is durable when it ends.
    pub(crate) fn submit_write(&mut self, key: u64, span: Span, content: Content<B>) {
        let (offset, len) = (span.offset, span.len);
        let op = match content {
            Content::Data(data) => DiskOp::Write { offset, data, durable: true },
            Content::Zero { unmap } => DiskOp::Zero { offset, len, unmap, durable: true },
        };
        self.data_writes += 1;
        self.emit(Command::Disk { token: DiskToken(key), op });
    }

    /// Sends a write to the peer if a session is open; if the peer need not have it, notes that it lacks it.
    pub(crate) fn offer(&mut self, key: u64) {
        let open = self.link.as_ref().is_some_and(|link| link.is_open() && link.dialled);
        let required = self.peer_required();
        let al_number = self.log.durable_number();
        let Some(job) = self.jobs.get_mut(key) else { return };
        let span = job.span;
        let Stage::Writing { remote, .. } = &mut job.stage else { return };
        if *remote != Remote::Unsent {
            return;
        }
        if !open {
            if !required {
                *remote = Remote::Dirty;
                self.mark_dirty(span);
            }
            return;
        }
        *remote = Remote::Sent;
        let Kind::Write(content) = &job.kind else { return };
        let target = Target { tag: key, offset: span.offset, len: span.len, al_number };
        let (message, payload) = match content {
            Content::Data(data) => (Message::Write(target), Some(data.clone())),
            Content::Zero { unmap } => (Message::Zero { target, unmap: *unmap }, None),
        };
        self.send_request(key, message, payload);
    }

    /// The session of a write that the peer has not confirmed is gone.
    pub(crate) fn unsend(&mut self, key: u64) {
        if let Some(Stage::Writing { remote, .. }) = self.jobs.get_mut(key).map(|job| &mut job.stage)
            && *remote == Remote::Sent
        {
            *remote = Remote::Unsent;
        }
    }

    /// The peer may lack these blocks. Their extents are in the activity log (S9).
    fn mark_dirty(&mut self, span: Span) {
        let block = self.layout.dirty_block_bytes;
        let first = span.offset / block;
        self.bitmap.set(first, span.end().div_ceil(block) - first);
    }

    /// The peer has these blocks. Those that lie wholly inside are clean.
    pub(crate) fn mark_clean(&mut self, span: Span) {
        if self.bitmap.dirty() == 0 {
            return;
        }
        let block = self.layout.dirty_block_bytes;
        let first = span.offset.div_ceil(block);
        let end =
            if span.end() == self.layout.size.0 { self.layout.dirty_blocks } else { span.end() / block };
        self.bitmap.clear(first, end.saturating_sub(first));
    }

    /// A data operation of the disk ended.
    pub(crate) fn data_ended(&mut self, key: u64, result: DiskResult<B>) {
        let Some(job) = self.jobs.get_mut(key).filter(|job| job.on_disk()) else { return };
        let (wrote, doomed) = (job.writes_disk(), job.doomed);
        if wrote {
            self.data_writes = self.data_writes.saturating_sub(1);
        }
        match (wrote, doomed) {
            (_, true) => self.remove(key),
            (true, false) => self.write_ended(key, matches!(result, DiskResult::Failed)),
            (false, false) => self.read_ended(key, result),
        }
    }

    fn write_ended(&mut self, key: u64, failed: bool) {
        let apply = self.jobs.get(key).is_some_and(|job| matches!(job.kind, Kind::Apply { .. }));
        self.set_local(key, if failed { Local::Failed } else { Local::Done });
        // S11: with an in-sync peer this copy goes out of use; without one the initiator is told what failed.
        if failed && (apply || self.peer_in_sync()) {
            return self.fail(false);
        }
        if failed {
            self.problem(Problem::DiskWriteFailed { metadata: false });
            // Whether there is one is in doubt (S8): told apart by the epoch that ends the doubt.
            if self.growing {
                self.propose_shrink();
            }
        }
        if apply {
            self.applied(key);
        } else {
            self.settle(key);
        }
    }

    fn set_local(&mut self, key: u64, to: Local) {
        if let Some(Stage::Writing { local, .. }) = self.jobs.get_mut(key).map(|job| &mut job.stage) {
            *local = to;
        }
    }

    /// The peer confirmed a write.
    pub(crate) fn confirmed(&mut self, key: u64) {
        let Some(job) = self.jobs.get_mut(key) else { return };
        let span = job.span;
        match &mut job.stage {
            Stage::Writing { remote, .. } if *remote == Remote::Sent => {
                *remote = Remote::Confirmed;
                self.mark_clean(span);
                self.settle(key);
            }
            Stage::Sending => self.resync_confirmed(key, span),
            _ => {}
        }
    }

    /// Ends a job if its conditions are met (S1, S2, S4); called whenever one of them may have changed.
    pub(crate) fn settle(&mut self, key: u64) {
        if !self.acting() {
            return;
        }
        let required = self.peer_required();
        let Some(job) = self.jobs.get_mut(key).filter(|job| !job.doomed) else { return };
        let span = job.span;
        match &mut job.stage {
            Stage::Writing { local: Local::Running, .. } | Stage::Writing { remote: Remote::Sent, .. } => {}
            Stage::Writing { remote: Remote::Unsent, .. } if required => {}
            // S11: the peer has it, or may have to have it (S8), and this copy has not: they would differ.
            Stage::Writing { local: Local::Failed, .. } if required => {}
            Stage::Writing { local, remote } => {
                let failed = *local == Local::Failed;
                if *remote == Remote::Unsent || failed {
                    *remote = Remote::Dirty;
                    self.mark_dirty(span);
                }
                self.finish(key, if failed { Err(RequestError::Medium) } else { Ok(Answer::Done) });
            }
            Stage::Ended(_) => {
                if let Stage::Ended(result) = core::mem::replace(&mut job.stage, Stage::Locking) {
                    self.finish(key, result);
                }
            }
            Stage::Locking
            | Stage::Logging
            | Stage::Reading
            | Stage::Comparing
            | Stage::Fetching
            | Stage::Sending => {}
        }
    }

    fn finish(&mut self, key: u64, result: Result<Answer<B>, RequestError>) {
        let request = self.jobs.get(key).and_then(|job| job.request);
        self.remove(key);
        if let Some(id) = request {
            self.reply(id, result);
        }
    }

    /// Takes a job out: its references, its range, its place.
    pub(crate) fn remove(&mut self, key: u64) {
        let Some(job) = self.jobs.remove(key) else { return };
        if job.logged {
            let (first, last) = extents(job.span);
            self.log.release(first, last);
            self.log_retry |= !self.log_waiting.is_empty();
        }
        if let Some(lock) = job.lock {
            self.locks.release(lock, &mut self.ready);
        }
        if matches!(job.kind, Kind::Resync)
            && let Some(resync) = self.resync.as_mut()
        {
            resync.in_flight = resync.in_flight.saturating_sub(1);
        }
    }
}
