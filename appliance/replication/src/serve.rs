//! Who may be answered when: the lease gate (S5), start and end of serving, initiators' requests.
//!
//! Invariants
//! - Every request is answered exactly once.
//! - An answer other than `NotServing` leaves only while [`Replica::gate`] is open, and only in the newest epoch (S4).

use base::{Epoch, Monotonic};

use crate::api::{Answer, Buffer, Command, MAX_REQUEST_BYTES, Op, Request, RequestError, RequestId, Span};
use crate::job::{Content, Job, Kind, Stage};
use crate::replica::Replica;
use crate::sabotage::Sabotage;

impl<B: Buffer> Replica<B> {
    /// A lease of this volume that a majority granted to this instance, valid until `valid_until` (sending of the
    /// oldest granting request + lease time, S5); `None` voids it at once.
    pub fn handle_lease(&mut self, now: Monotonic, valid_until: Option<Monotonic>) {
        self.advance(now);
        self.lease = match (self.lease, valid_until) {
            (Some(old), Some(new)) => Some(old.max(new)),
            (_, new) => new,
        };
        self.check_lease();
        self.pump();
    }

    /// S5: initiators may be answered at `now`.
    pub(crate) fn gate(&self, now: Monotonic) -> bool {
        self.serving && self.lease_valid(now)
    }

    fn lease_valid(&self, now: Monotonic) -> bool {
        self.lease.is_some_and(|until| now < until) || self.breaks(Sabotage::IgnoreLease)
    }

    /// The lease has ended: so has serving.
    pub(crate) fn check_lease(&mut self) {
        if self.serving && !self.lease_valid(self.now) {
            self.stop_serving();
        }
    }

    /// Starts serving if nothing stands against it.
    pub(crate) fn try_serve(&mut self) {
        if self.serving
            || !self.primary
            || !self.acting()
            || self.converting.is_some()
            || self.closing.is_some()
        {
            return;
        }
        // S4: writes accepted as a secondary have ended. S10: a half-synced copy is never served.
        let drained = !self.draining || self.breaks(Sabotage::ObeyStale);
        let waited = self.now >= self.not_before || self.breaks(Sabotage::IgnoreLease);
        let consistent = self.superblock.inconsistent == Epoch(0);
        if drained && waited && consistent && self.lease_valid(self.now) {
            self.serving = true;
            self.emit(Command::Serving(true));
        }
    }

    /// Ends serving: no client gets an answer any more; writes under way go on (S18).
    pub(crate) fn stop_serving(&mut self) {
        if !self.serving {
            return;
        }
        self.serving = false;
        self.emit(Command::Serving(false));
        for key in self.jobs.keys() {
            let Some(job) = self.jobs.get_mut(key) else { continue };
            let Some(id) = job.request.take() else { continue };
            let pointless = job.unstarted() || matches!(job.stage, Stage::Comparing | Stage::Ended(_));
            if pointless {
                self.remove(key);
            }
            self.emit(Command::Reply { id, result: Err(RequestError::NotServing) });
        }
        self.refuse_parked();
    }

    pub(crate) fn refuse_parked(&mut self) {
        while let Some(request) = self.parked.pop_front() {
            self.emit(Command::Reply { id: request.id, result: Err(RequestError::NotServing) });
        }
    }

    /// A request of an initiator. Answered by exactly one [`Command::Reply`].
    pub fn handle_request(&mut self, now: Monotonic, request: Request<B>) {
        self.advance(now);
        self.check_lease();
        // S5: checked after receipt.
        if !self.gate(self.now) {
            self.emit(Command::Reply { id: request.id, result: Err(RequestError::NotServing) });
        } else if self.closing.is_some() {
            self.parked.push_back(request);
        } else {
            self.accept(request);
        }
        self.pump();
    }

    pub(crate) fn accept(&mut self, request: Request<B>) {
        let Request { id, op } = request;
        let (kind, span) = match op {
            Op::Read(range) => (Kind::Read, range.bytes()),
            Op::Write { lba, data, fua: _ } => {
                let len = u32::try_from(data.len()).ok();
                let span = lba.byte_offset().zip(len).map(|(offset, len)| Span { offset: offset.0, len });
                (Kind::Write(Content::Data(data)), span)
            }
            Op::Zero { range, unmap } => (Kind::Write(Content::Zero { unmap }), range.bytes()),
            Op::CompareAndWrite(range) => (Kind::CompareAndWrite, range.bytes()),
            Op::Flush => return self.flush(id),
        };
        match span.filter(|span| self.in_volume(*span) && span.end() <= self.size().0) {
            Some(span) => self.enqueue(Job::new(kind, span, Some(id))),
            None => self.reply(id, Err(RequestError::OutOfRange)),
        }
    }

    /// Whether a request or a message may touch `span`.
    pub(crate) fn in_volume(&self, span: Span) -> bool {
        let end = span.offset.checked_add(u64::from(span.len));
        span.len > 0
            && span.len <= MAX_REQUEST_BYTES
            && span.len.is_multiple_of(512)
            && span.offset.is_multiple_of(512)
            && end.is_some_and(|end| end <= self.layout.size.0)
    }

    /// Write-through (S1): what was answered is durable on every in-sync replica already.
    fn flush(&mut self, id: RequestId) {
        let mut job = Job::new(Kind::Flush, Span { offset: 0, len: 0 }, Some(id));
        job.stage = Stage::Ended(Ok(Answer::Done));
        let key = self.jobs.insert(job);
        self.settle(key);
    }

    /// Files a job and asks for its range.
    pub(crate) fn enqueue(&mut self, job: Job<B>) {
        let (span, exclusive) = (job.span, job.exclusive());
        let key = self.jobs.insert(job);
        let (lock, granted) = self.locks.acquire(span, exclusive, key);
        if let Some(job) = self.jobs.get_mut(key) {
            job.lock = Some(lock);
        }
        if granted {
            self.ready.push_back(key);
        }
    }

    /// The initiator gave a request up (S16): one that has not started is answered `Aborted`, else its ordinary answer
    /// says when it has settled.
    pub fn handle_abort(&mut self, now: Monotonic, id: RequestId) {
        self.advance(now);
        if let Some(at) = self.parked.iter().position(|request| request.id == id) {
            self.parked.remove(at);
            self.reply(id, Err(RequestError::Aborted));
        }
        let found = self.jobs.iter().find(|(_, job)| job.request == Some(id));
        if let Some(key) = found.filter(|(_, job)| job.unstarted()).map(|(key, _)| key) {
            self.remove(key);
            self.reply(id, Err(RequestError::Aborted));
        }
        self.pump();
    }
}
