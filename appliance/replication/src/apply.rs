//! The secondary's side of a write: the primary's data lands here (S1, S4, S9, S17, S18).
//!
//! Invariants
//! - Only messages of the open session are obeyed, and only while it is open are they answered (S4).
//! - A confirmation leaves when the blocks *and* the activity log number are durable (S9).

use base::SessionId;

use crate::api::{Buffer, Problem, Span};
use crate::frame::{Frame, Message, Target};
use crate::job::{Content, Job, Kind, Local, Origin, Remote, Stage};
use crate::replica::Replica;

impl<B: Buffer> Replica<B> {
    /// A data message of the open session arrived.
    pub(crate) fn data_message(&mut self, session: SessionId, frame: &Frame, payload: Option<B>) {
        let (target, content) = match (&frame.message, payload) {
            (Message::Write(target) | Message::Resync(target), Some(data)) => {
                if !self.payload_intact(frame, &data) {
                    return;
                }
                (*target, Some(Content::Data(data)))
            }
            (Message::Zero { target, unmap }, None) => (*target, Some(Content::Zero { unmap: *unmap })),
            (Message::Read(target), None) => (*target, None),
            _ => return self.protocol_error("payload does not fit the message"),
        };
        let span = Span { offset: target.offset, len: target.len };
        if !self.in_volume(span) {
            return self.protocol_error("range outside the volume");
        }
        self.enqueue_from_peer(session, target, span, content);
    }

    fn enqueue_from_peer(
        &mut self,
        session: SessionId,
        target: Target,
        span: Span,
        content: Option<Content<B>>,
    ) {
        let Target { tag, al_number, .. } = target;
        let origin = Origin { session, tag };
        let kind = match content {
            Some(content) => Kind::Apply { origin, al_number, content },
            None => Kind::Fetch { origin },
        };
        // Stored with the number: should this copy become the source, its bitmap for the peer begins there (S7).
        self.superblock.peer.al_number = self.superblock.peer.al_number.max(al_number);
        self.log.store_number(al_number);
        self.enqueue(Job::new(kind, span, None));
    }

    /// S17: what the sender's checksum says, before it gets near the disk.
    pub(crate) fn payload_intact(&mut self, frame: &Frame, data: &B) -> bool {
        let right = u32::try_from(data.len()) == Ok(frame.payload_len) && data.crc32c() == frame.payload_crc;
        if !right {
            self.checksum_errors += 1;
            self.problem(Problem::PayloadChecksum);
            self.drop_link();
        }
        right
    }

    /// The range is free: write.
    pub(crate) fn apply(&mut self, key: u64) {
        let Some(job) = self.jobs.get_mut(key) else { return };
        let Kind::Apply { content, .. } = &job.kind else { return };
        let (span, content) = (job.span, content.clone());
        job.stage = Stage::Writing { local: Local::Running, remote: Remote::Confirmed };
        self.submit_write(key, span, content);
    }

    /// The disk has written it: confirm, once the number is durable too.
    pub(crate) fn applied(&mut self, key: u64) {
        let Some(Kind::Apply { origin, al_number, .. }) = self.jobs.get(key).map(|job| &job.kind) else {
            return;
        };
        let (origin, al_number) = (*origin, *al_number);
        if self.log.durable_number() < al_number {
            self.number_waiting.push(key);
            return;
        }
        self.remove(key);
        // Jobs of a session that is gone are gone with it; this is the last guard (S4).
        if self.link.as_ref().is_some_and(|link| link.session == origin.session) {
            let al_number = self.log.durable_number();
            self.send(Message::Ack { tag: origin.tag, al_number }, None);
        }
    }

    /// The activity log's number is durable: confirm what waited for it.
    pub(crate) fn numbers_durable(&mut self) {
        for key in core::mem::take(&mut self.number_waiting) {
            self.applied(key);
        }
    }
}
