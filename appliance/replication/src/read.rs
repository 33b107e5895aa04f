//! Reads on the primary, COMPARE AND WRITE (S16), and help from the peer after a read error (S11).

use crate::api::{Answer, Buffer, Command, DiskOp, DiskResult, DiskToken, Problem, RequestError, RequestId};
use crate::frame::{Message, Target};
use crate::job::{Content, Kind, Stage};
use crate::replica::Replica;

impl<B: Buffer> Replica<B> {
    /// Reads the job's range from the local disk.
    pub(crate) fn read(&mut self, key: u64) {
        let Some(job) = self.jobs.get_mut(key) else { return };
        job.stage = Stage::Reading;
        let op = DiskOp::Read { offset: job.span.offset, len: job.span.len };
        self.emit(Command::Disk { token: DiskToken(key), op });
    }

    pub(crate) fn read_ended(&mut self, key: u64, result: DiskResult<B>) {
        let Some(span) = self.jobs.get(key).map(|job| job.span) else { return };
        let data = match result {
            DiskResult::Data(data) if u32::try_from(data.len()) == Ok(span.len) => Some(data),
            DiskResult::Data(_) | DiskResult::Done | DiskResult::Failed => None,
        };
        if data.is_none() {
            self.problem(Problem::DiskReadFailed { offset: span.offset });
        }
        let Some(job) = self.jobs.get(key) else { return };
        match (&job.kind, data) {
            (Kind::Resync, data) => self.resync_read(key, data),
            (Kind::Fetch { origin }, data) => {
                let tag = origin.tag;
                self.remove(key);
                self.send(Message::ReadDone { tag, ok: data.is_some() }, data);
            }
            (_, Some(data)) => self.have_data(key, data),
            (_, None) => self.ask_peer(key),
        }
    }

    /// The blocks are here: answer, or let the driver compare.
    fn have_data(&mut self, key: u64, data: B) {
        let Some(job) = self.jobs.get_mut(key) else { return };
        match (&job.kind, job.request) {
            (Kind::CompareAndWrite, Some(id)) => {
                job.stage = Stage::Comparing;
                self.emit(Command::Compare { id, data });
            }
            (Kind::CompareAndWrite, None) => self.remove(key),
            _ => self.end(key, Ok(Answer::Data(data))),
        }
    }

    fn end(&mut self, key: u64, result: Result<Answer<B>, RequestError>) {
        if let Some(job) = self.jobs.get_mut(key) {
            job.stage = Stage::Ended(result);
            self.settle(key);
        }
    }

    /// S11: the in-sync peer has the same blocks; without one it is a medium error.
    fn ask_peer(&mut self, key: u64) {
        let open = self.link.as_ref().is_some_and(|link| link.is_open() && link.dialled);
        if !open || !self.peer_in_sync() {
            return self.end(key, Err(RequestError::Medium));
        }
        let Some(job) = self.jobs.get_mut(key) else { return };
        job.stage = Stage::Fetching;
        let (offset, len) = (job.span.offset, job.span.len);
        let target = Target { tag: key, offset, len, al_number: self.log.durable_number() };
        self.send_request(key, Message::Read(target), None);
    }

    /// The peer answered [`Self::ask_peer`], or its session is gone.
    pub(crate) fn fetched(&mut self, key: u64, data: Option<B>) {
        let waiting = self.jobs.get(key).filter(|job| matches!(job.stage, Stage::Fetching));
        let Some(len) = waiting.map(|job| job.span.len) else { return };
        match data.filter(|data| u32::try_from(data.len()) == Ok(len)) {
            Some(data) => self.have_data(key, data),
            None => self.end(key, Err(RequestError::Medium)),
        }
    }

    /// The answer to [`Command::Compare`]: the bytes to write (as long as what was read), or `None` if they differed.
    pub fn handle_compared(&mut self, now: base::Monotonic, id: RequestId, write: Option<B>) {
        self.advance(now);
        self.check_lease();
        let comparing =
            |job: &crate::job::Job<B>| matches!(job.stage, Stage::Comparing) && job.request == Some(id);
        let found = self.jobs.iter().find(|(_, job)| comparing(job)).map(|(key, job)| (key, job.span));
        if let Some((key, span)) = found {
            match write {
                None => self.end(key, Ok(Answer::Miscompare)),
                Some(data) if u32::try_from(data.len()) == Ok(span.len) => {
                    if let Some(job) = self.jobs.get_mut(key) {
                        job.kind = Kind::Write(Content::Data(data));
                    }
                    self.log_extents(key);
                }
                Some(_) => self.end(key, Err(RequestError::OutOfRange)),
            }
        }
        self.pump();
    }
}
