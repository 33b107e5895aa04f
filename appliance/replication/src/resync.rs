//! Resync: the source copies dirty blocks to the target while writes go on (S7, S8, S18).
//!
//! Invariants
//! - A block is read here and written there under one shared lock: no write to it runs meanwhile (S18).
//! - A bit is cleared only when the target has confirmed the block as durable (S7).

use base::{ByteCount, Change, Monotonic, NodeId};
use core::time::Duration;

use crate::api::{Buffer, Problem, ResyncStatus, Span};
use crate::frame::{Message, Run, Target};
use crate::job::{Job, Kind, Stage};
use crate::replica::Replica;

/// Runs in flight at once.
const WINDOW: u32 = 8;
/// The same while clients wait for work.
const WINDOW_BUSY: u32 = 2;
/// Most bytes of one run (one dirty block may be more).
const RUN_BYTES: u64 = 256 << 10;
const RATE_WINDOW: Duration = Duration::from_secs(1);

/// A resync to the target of the open session.
#[derive(Clone, Debug)]
pub(crate) struct Resync {
    target: NodeId,
    total: u64,
    cursor: u64,
    pub(crate) in_flight: u32,
    /// After a read error: not before.
    paused_until: Monotonic,
    rate_since: Monotonic,
    rate_bytes: u64,
    bytes_per_s: u64,
}

impl<B: Buffer> Replica<B> {
    pub(crate) fn dirty_bytes(&self) -> ByteCount {
        let bytes = self.bitmap.dirty().saturating_mul(self.layout.dirty_block_bytes);
        ByteCount(bytes.min(self.layout.size.0))
    }

    pub(crate) fn resync_status(&self) -> Option<ResyncStatus> {
        self.resync.as_ref().map(|resync| ResyncStatus {
            target: resync.target,
            total: ByteCount(resync.total),
            left: self.dirty_bytes(),
            bytes_per_s: resync.bytes_per_s,
        })
    }

    pub(crate) fn resync_begin(&mut self, target: NodeId) {
        self.resync = Some(Resync {
            target,
            total: self.dirty_bytes().0,
            cursor: 0,
            in_flight: 0,
            paused_until: self.now,
            rate_since: self.now,
            rate_bytes: 0,
            bytes_per_s: 0,
        });
    }

    /// Keeps the window full; proposes to grow when nothing is left.
    pub(crate) fn resync_pump(&mut self) {
        let most = u32::try_from((RUN_BYTES / self.layout.dirty_block_bytes).max(1)).unwrap_or(1);
        loop {
            // A client's work is whatever else is under way.
            let Some(resync) = self.resync.as_mut() else { return };
            let busy = self.jobs.len() > resync.in_flight as usize;
            let window = if busy { WINDOW_BUSY } else { WINDOW };
            if resync.in_flight >= window || self.now < resync.paused_until {
                return;
            }
            let Some(run) = self.bitmap.next_run(resync.cursor, most) else {
                if resync.in_flight > 0 {
                    return;
                }
                if self.bitmap.dirty() == 0 {
                    return self.resync_done();
                }
                // Blocks before the cursor became dirty again.
                resync.cursor = 0;
                continue;
            };
            resync.cursor = run.start + u64::from(run.count);
            resync.in_flight += 1;
            let span = self.span_of(run);
            self.enqueue(Job::new(Kind::Resync, span, None));
        }
    }

    fn span_of(&self, run: Run) -> Span {
        let block = self.layout.dirty_block_bytes;
        let offset = run.start * block;
        let end = (offset + u64::from(run.count) * block).min(self.layout.size.0);
        // At most RUN_BYTES or one dirty block.
        Span { offset, len: u32::try_from(end.saturating_sub(offset)).unwrap_or(0) }
    }

    /// The run's range is ours. A write may have cleaned it meanwhile.
    pub(crate) fn resync_start(&mut self, key: u64) {
        let Some(span) = self.jobs.get(key).map(|job| job.span) else { return };
        let block = self.layout.dirty_block_bytes;
        let first = span.offset / block;
        if self.resync.is_some() && self.bitmap.any(first, span.end().div_ceil(block) - first) {
            self.read(key);
        } else {
            self.remove(key);
        }
    }

    /// The local copy was read.
    pub(crate) fn resync_read(&mut self, key: u64, data: Option<B>) {
        let (Some(data), Some(job)) = (data, self.jobs.get_mut(key)) else {
            // S11: the blocks stay dirty and the target stays out; tried again later.
            if let Some(resync) = self.resync.as_mut() {
                resync.paused_until = self.now + self.options.timing.peer;
            }
            return self.remove(key);
        };
        job.stage = Stage::Sending;
        let (offset, len) = (job.span.offset, job.span.len);
        let target = Target { tag: key, offset, len, al_number: self.log.durable_number() };
        self.send_request(key, Message::Resync(target), Some(data));
    }

    /// The target has it, durably.
    pub(crate) fn resync_confirmed(&mut self, key: u64, span: Span) {
        self.mark_clean(span);
        self.resynced_total += u64::from(span.len);
        let now = self.now;
        if let Some(resync) = self.resync.as_mut() {
            resync.rate_bytes += u64::from(span.len);
            let elapsed = now.since(resync.rate_since);
            if elapsed >= RATE_WINDOW {
                let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
                resync.bytes_per_s = resync.rate_bytes.saturating_mul(1000) / millis;
                resync.rate_since = now;
                resync.rate_bytes = 0;
            }
        }
        self.remove(key);
    }

    /// Nothing is dirty: the target joins (S8), once the clean bits are on disk.
    fn resync_done(&mut self) {
        if self.growing || !self.acting() || self.closing.is_some() {
            return;
        }
        self.save_bitmap(true);
        if !self.bitmap.all_saved(true) {
            return;
        }
        let Some(target) = self.resync.as_ref().map(|resync| resync.target) else { return };
        // S8: from here on every write waits for the target, until a later epoch ends the doubt.
        self.growing = true;
        self.propose(Change::Grow { add: target });
    }

    /// When a paused resync goes on.
    pub(crate) fn resync_timeout(&self) -> Option<Monotonic> {
        self.resync.as_ref().map(|resync| resync.paused_until).filter(|until| *until > self.now)
    }

    /// The peer sent what it may lack or has changed (S7).
    pub(crate) fn take_runs(&mut self, runs: &[Run]) {
        for run in runs {
            if run.start.saturating_add(u64::from(run.count)) > self.layout.dirty_blocks {
                self.problem(Problem::Protocol("dirty run outside the volume"));
                self.drop_link();
                return;
            }
            self.bitmap.set(run.start, u64::from(run.count));
        }
    }
}
