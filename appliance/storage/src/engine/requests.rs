//! Initiators' requests, from the target to the replica and back.
//!
//! Invariants
//! - Every request is answered exactly once.
//! - Without a valid lease at the moment of the answer, the answer is "not served": the connection is closed and the
//!   initiator hears nothing (S5).

use std::collections::HashMap;

use base::VolumeId;
use disk::BufferPool;
use replication::{Answer, BlockRange, Op, Request, RequestError};

use super::data::Data;
use super::{Engine, clock};
use crate::target::{BackendOp, BackendRequest, Decision, Reply, RequestId, Update};

/// What initiators' connections tell the engine.
pub(crate) enum InitiatorEvent {
    Request(BackendRequest),
    /// The initiator gave the request up; its answer still comes.
    Abort(RequestId),
}

/// A request that the replica works on.
struct Open {
    volume: VolumeId,
    update: Option<Update>,
    /// Why an update wrote nothing.
    unwritten: Option<Reply>,
}

/// Requests that replicas work on.
pub(super) struct Requests {
    buffers: BufferPool,
    open: HashMap<RequestId, Open>,
    /// How many were answered since [`Requests::state`] was asked.
    answered: usize,
}

impl Requests {
    pub(super) fn new(buffers: BufferPool) -> Self {
        Self { buffers, open: HashMap::new(), answered: 0 }
    }

    /// How many are open, and how many were answered since the last call.
    pub(super) fn state(&mut self) -> (usize, usize) {
        (self.open.len(), std::mem::take(&mut self.answered))
    }

    /// The answer to `Command::Compare`: what to write, if anything.
    pub(super) fn compared(&mut self, id: replication::RequestId, found: &Data) -> Option<Data> {
        let open = self.open.get_mut(&RequestId(id.0))?;
        match open.update.as_ref()?.decide(found.0.as_slice(), &self.buffers) {
            Decision::Write(buffer) => Some(Data(buffer)),
            Decision::Miscompare(offset) => {
                open.unwritten = Some(Reply::Miscompare(offset));
                None
            }
            Decision::OutOfMemory => {
                open.unwritten = Some(Reply::Failed);
                None
            }
        }
    }
}

impl Engine {
    pub(super) fn handle_initiator(&mut self, event: InitiatorEvent) {
        match event {
            InitiatorEvent::Request(request) => self.start_request(request),
            InitiatorEvent::Abort(id) => {
                let volume = self.requests.open.get(&id).map(|open| open.volume);
                if let Some(volume) = volume.and_then(|volume| self.volumes.get_mut(&volume)) {
                    volume.replica.handle_abort(clock::now(), replication::RequestId(id.0));
                }
            }
        }
    }

    fn start_request(&mut self, request: BackendRequest) {
        let BackendRequest { id, volume, op } = request;
        // Judged after the receipt of the command, on every command (S5).
        self.judge_leases();
        let Some(open) = self.volumes.get_mut(&volume) else {
            return self.portal.complete(id, Reply::NotServed);
        };
        let (op, update) = match op {
            BackendOp::Reserve(next) => return self.start_reservation(id, volume, *next),
            BackendOp::Read { lba, blocks } => (Op::Read(BlockRange { lba, blocks }), None),
            BackendOp::Write { lba, data, fua } => (Op::Write { lba, data: Data(data), fua }, None),
            BackendOp::Zero { lba, blocks, unmap } => {
                (Op::Zero { range: BlockRange { lba, blocks }, unmap }, None)
            }
            BackendOp::Flush => (Op::Flush, None),
            BackendOp::Update { lba, blocks, update } => {
                (Op::CompareAndWrite(BlockRange { lba, blocks }), Some(update))
            }
        };
        self.requests.open.insert(id, Open { volume, update, unwritten: None });
        open.replica.handle_request(clock::now(), Request { id: replication::RequestId(id.0), op });
    }

    /// The replica is done with a request.
    pub(super) fn reply(
        &mut self,
        volume: VolumeId,
        id: replication::RequestId,
        result: Result<Answer<Data>, RequestError>,
    ) {
        let id = RequestId(id.0);
        let Some(open) = self.requests.open.remove(&id) else { return };
        self.requests.answered = self.requests.answered.saturating_add(1);
        let may_answer = self.may_answer(volume);
        let reply = match result {
            _ if !may_answer => Reply::NotServed,
            Ok(Answer::Done) => Reply::Done,
            Ok(Answer::Data(data)) => Reply::Data(data.0),
            Ok(Answer::Miscompare) => open.unwritten.unwrap_or(Reply::Failed),
            Err(RequestError::NotServing) => Reply::NotServed,
            Err(RequestError::Medium) => Reply::Medium,
            Err(RequestError::Aborted) => Reply::Aborted,
            Err(RequestError::OutOfRange) => Reply::Failed,
        };
        self.portal.complete(id, reply);
    }

    /// S5: judged once more before the answer, clocks included: the machine may have stood still since the request came.
    pub(super) fn may_answer(&mut self, volume: VolumeId) -> bool {
        let now = clock::clocks();
        self.guard.as_mut().is_some_and(|guard| {
            guard.handle_clocks(now);
            guard.valid_until(volume, now.boot).is_some()
        })
    }

    /// Answers everything that a volume, which is going away, still owes.
    pub(super) fn abandon_requests(&mut self, volume: VolumeId) {
        self.drop_reservation(volume);
        let owed: Vec<RequestId> =
            self.requests.open.iter().filter(|(_, open)| open.volume == volume).map(|(id, _)| *id).collect();
        for id in owed {
            self.requests.open.remove(&id);
            self.portal.complete(id, Reply::NotServed);
        }
    }
}
