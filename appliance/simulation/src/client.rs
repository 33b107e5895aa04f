//! Initiators: each has one request under way, over few blocks, so that they meet; after a failover they go to whoever
//! serves, and never learn what became of a request that was not answered.

use crate::buffer::SimBuffer;
use crate::check::{OpId, violation};
use crate::rng::MS;
use crate::world::{CalmState, Event, NAMES, Phase, World, trace};
use base::{InstanceId, Lba};
use replication::{Answer, BlockRange, RequestError, RequestId};
use std::ops::Range;

#[derive(Clone, Debug, Default)]
pub(crate) struct Client {
    /// What it waits for.
    pub(crate) op: Option<OpId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    Zero,
    CompareAndWrite,
    Flush,
}

/// A request that may still be answered.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) client: usize,
    pub(crate) node: usize,
    kind: Kind,
    blocks: Range<u64>,
    /// Sent in the present stretch without faults, if any.
    after_healing: bool,
}

/// How a request ended for the initiator.
#[derive(Clone, Debug)]
pub(crate) enum ClientReply {
    Done,
    Data(Vec<u64>),
    Miscompare,
    Aborted,
    /// A write that the disk refused, or a reason that no initiator should see here.
    Failed(RequestError),
    /// The connection ended: nobody knows.
    Disconnected,
}

impl From<Result<Answer<SimBuffer>, RequestError>> for ClientReply {
    fn from(result: Result<Answer<SimBuffer>, RequestError>) -> Self {
        match result {
            Ok(Answer::Done) => Self::Done,
            Ok(Answer::Data(data)) => Self::Data(data.blocks().to_vec()),
            Ok(Answer::Miscompare) => Self::Miscompare,
            Err(RequestError::NotServing) => Self::Disconnected,
            Err(RequestError::Aborted) => Self::Aborted,
            Err(error) => Self::Failed(error),
        }
    }
}

impl Op {
    /// As the replica takes it. A write's blocks all hold the number of the request.
    pub(crate) fn request(&self, op: OpId) -> replication::Request<SimBuffer> {
        let count = self.blocks.end - self.blocks.start;
        let range = BlockRange { lba: Lba(self.blocks.start), blocks: u32::try_from(count).unwrap() };
        let data = || SimBuffer::new(vec![op; usize::try_from(count).unwrap()]);
        let op_kind = match self.kind {
            Kind::Read => replication::Op::Read(range),
            Kind::Write => replication::Op::Write { lba: range.lba, data: data(), fua: op.is_multiple_of(3) },
            Kind::Zero => replication::Op::Zero { range, unmap: op.is_multiple_of(2) },
            Kind::CompareAndWrite => replication::Op::CompareAndWrite(range),
            Kind::Flush => replication::Op::Flush,
        };
        replication::Request { id: RequestId(op), op: op_kind }
    }

    fn value(&self, op: OpId) -> u64 {
        if self.kind == Kind::Zero { 0 } else { op }
    }
}

impl World {
    pub(crate) fn client_turn(&mut self, client: usize) {
        if self.clients[client].op.is_some() || matches!(self.phase, Phase::Calm(CalmState::Draining(_))) {
            return;
        }
        let serving: Vec<(usize, InstanceId)> = (0..2)
            .filter_map(|n| self.nodes[n].storage.as_ref().filter(|s| s.serving).map(|s| (n, s.instance)))
            .collect();
        if serving.is_empty() {
            let delay = self.rng.ms(10..60);
            return self.after(delay, Event::Client { client });
        }
        let (node, instance) = self.rng.pick(&serving);
        let op = self.next_op;
        self.next_op += 1;
        // As READ CAPACITY tells.
        let size = self.nodes[node].storage.as_ref().map_or(self.scenario.size, |s| s.replica.size());
        let blocks = self.scenario.blocks(&mut self.rng, size);
        let kind = match self.rng.within(0..100) {
            0..35 => Kind::Read,
            35..88 => Kind::Write,
            88..94 => Kind::Zero,
            94..98 => Kind::CompareAndWrite,
            _ => Kind::Flush,
        };
        match kind {
            Kind::Read => self.registers.read_sent(op, blocks.clone()),
            Kind::Write => self.registers.write_sent(op, blocks.clone(), op),
            Kind::Zero => self.registers.write_sent(op, blocks.clone(), 0),
            // Writes only once it has compared.
            Kind::CompareAndWrite | Kind::Flush => {}
        }
        trace!(self, "initiator {client} sends {op:x} {kind:?} blocks {blocks:?} to {}", NAMES[node]);
        let after_healing = self.liveness.is_some();
        self.ops.insert(op, Op { client, node, kind, blocks, after_healing });
        self.clients[client].op = Some(op);
        self.outcome.requests += 1;
        let delay = self.rng.delay(0..2, 10, 2..300);
        self.after(delay, Event::Request { node, instance, op });
        let patience = self.rng.ms(2000..6000);
        self.after(patience, Event::ClientTimeout { op });
    }

    pub(crate) fn client_gives_up(&mut self, op: OpId) {
        let Some(request) = self.ops.get(&op) else { return };
        let (client, node) = (request.client, request.node);
        if self.clients[client].op != Some(op) {
            return;
        }
        trace!(self, "initiator {client} gives {op:x} up");
        self.clients[client].op = None;
        self.after(10 * MS, Event::Client { client });
        if let Some(storage) = &self.nodes[node].storage {
            let instance = storage.instance;
            self.after(MS, Event::Abort { node, instance, op });
        }
    }

    pub(crate) fn reply_arrives(&mut self, op: OpId, reply: ClientReply) {
        let Some(request) = self.ops.remove(&op) else { return };
        let Op { client, kind, blocks, .. } = request;
        trace!(self, "initiator {client} hears of {op:x}: {reply:?}");
        match (reply, kind) {
            (ClientReply::Done, Kind::Write | Kind::Zero | Kind::CompareAndWrite) => {
                self.registers.write_answered(op, blocks);
                self.outcome.answered += 1;
                self.note_service(request.after_healing);
            }
            (ClientReply::Data(values), Kind::Read) => {
                let checked = self.registers.read_answered(op, blocks.start, &values);
                self.judge(checked);
                self.outcome.answered += 1;
                self.note_service(request.after_healing);
            }
            (ClientReply::Done, Kind::Flush) => {}
            (ClientReply::Miscompare, Kind::CompareAndWrite) => {}
            (ClientReply::Aborted, Kind::Read) => self.registers.read_forgotten(op, blocks),
            (ClientReply::Aborted, _) => {
                let checked = self.registers.write_aborted(op, blocks);
                self.judge(checked);
            }
            (ClientReply::Disconnected, Kind::Read) => self.registers.read_forgotten(op, blocks),
            (ClientReply::Disconnected, _) => self.registers.write_lost(op, blocks),
            // S11: the blocks hold the old or the new, as after a connection that ended.
            (ClientReply::Failed(RequestError::Medium), Kind::Write | Kind::Zero | Kind::CompareAndWrite) => {
                self.registers.write_lost(op, blocks)
            }
            (ClientReply::Failed(error), _) => {
                self.judge(violation("engine", format!("{kind:?} {op:x} failed: {error:?}")));
            }
            (reply, _) => {
                self.judge(violation("engine", format!("{kind:?} {op:x} was answered by {reply:?}")))
            }
        }
        if self.clients[client].op == Some(op) {
            self.clients[client].op = None;
            let think = self.rng.delay(self.scenario.think_ms.clone(), 100, 0..1);
            self.after(think, Event::Client { client });
        }
    }

    fn note_service(&mut self, after_healing: bool) {
        if let Some(liveness) = &mut self.liveness
            && after_healing
        {
            liveness.answered();
        }
    }

    /// The target compares, under the replica's lock (S16).
    pub(crate) fn compare(&mut self, node: usize, id: RequestId, data: &SimBuffer) {
        let Some(request) = self.ops.get(&id.0).cloned() else {
            // Its initiator is gone.
            return self.compared(node, id, None);
        };
        if self.may_serve(node) {
            for (block, value) in request.blocks.clone().zip(data.blocks()) {
                if !self.registers.allows(block, *value) {
                    let possible = self.registers.possible(block);
                    let text = format!("block {block}: compared with {value:x}, possible were {possible:x?}");
                    return self.judge(violation("I1", text));
                }
            }
        }
        let write = self.rng.chance(70).then(|| {
            self.registers.write_sent(id.0, request.blocks.clone(), request.value(id.0));
            SimBuffer::new(vec![id.0; data.blocks().len()])
        });
        self.compared(node, id, write);
    }

    fn compared(&mut self, node: usize, id: RequestId, write: Option<SimBuffer>) {
        let now = self.nodes[node].machine.boot(self.now);
        if let Some(storage) = &mut self.nodes[node].storage {
            storage.replica.handle_compared(now, id, write);
        }
    }
}
