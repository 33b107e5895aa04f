//! Commands that the backend works on: a SCSI operation becomes one request, or several for a long extent.
//!
//! Invariants
//! - A command is here from its first operation until its last one ended; each request of it is answered once.
//! - At most [`PARALLEL`] requests of a command are out at a time.
//! - Nothing more is submitted for a command that was stopped: its abort has settled once what was out is answered (S16).
//! - In steady state nothing is allocated: entries are used again.

use super::backend::{
    BackendOp, BackendRequest, MAX_REQUEST_BLOCKS, Reply, RequestId, Update, first_difference,
};
use super::driver::TargetEntry;
use super::link::Link;
use base::{LOGICAL_BLOCK_BYTES, Lba, Reservations, VolumeId};
use disk::{Buffer, BufferMut, BufferPool};
use iscsi::TaskId;
use scsi::{Continuation, Extent, Fault, NexusId, Operation, Outcome};
use std::rc::Rc;

/// Requests of one command that are out at a time.
const PARALLEL: usize = 4;
/// Longest pattern that a fill is written with, blocks.
const FILL_BLOCKS: u32 = 2048;

/// Longest part of a copy, blocks: as many bytes are in memory for each request that is out.
const COPY_BLOCKS: u32 = 1024;

/// A command and where it stands.
pub(super) struct Running {
    pub(super) link: Rc<Link>,
    pub(super) task: TaskId,
    pub(super) nexus: NexusId,
    pub(super) lun: [u8; 8],
    pub(super) cdb: [u8; 16],
    pub(super) offered_len: u64,
    pub(super) data_out: Option<Buffer>,
    /// What a read has brought.
    pub(super) medium: Option<Buffer>,
    pub(super) continuation: Continuation,
    pub(super) target: Rc<TargetEntry>,
    volume: VolumeId,
    work: Work,
    /// The command is to end soon: it was aborted, or may not write any more.
    stopped: bool,
    /// Who waits for that end ([`super::Inner::settled`]).
    waiters: Vec<u64>,
}

/// What is done with each part of the extent.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Read,
    Verify,
    Compare,
    CompareFill,
    Write {
        fua: bool,
    },
    Fill,
    Zero {
        unmap: bool,
    },
    Flush,
    CompareAndWrite,
    Or,
    Copy(Copying),
    Reserve,
    /// Waits for tasks of other sessions to settle; counted in `out`.
    Settle,
}

/// Whence and whither; whence the extent begins, the work tells.
#[derive(Clone, Copy, Debug)]
struct Copying {
    source: VolumeId,
    destination: VolumeId,
    to: Lba,
}

#[derive(Clone, Debug)]
struct Part {
    number: u16,
    /// Blocks from the start of the extent.
    at: u64,
    blocks: u32,
    open: bool,
    /// A copy has read this and is to write it.
    read: Option<Buffer>,
    /// A copy writes it.
    writes: bool,
}

impl Part {
    const NONE: Self = Self { number: 0, at: 0, blocks: 0, open: false, read: None, writes: false };
}

struct Work {
    kind: Kind,
    extent: Extent,
    /// Blocks that were submitted.
    submitted: u64,
    next_number: u16,
    parts: [Part; PARALLEL],
    out: usize,
    outcome: Outcome,
    not_served: bool,
    /// The whole of a read in several parts.
    assembly: Option<BufferMut>,
    /// What a fill is written with.
    pattern: Option<Buffer>,
    /// What the cluster is to commit.
    reservations: Option<Box<Reservations>>,
}

impl Work {
    const IDLE: Self = Self {
        kind: Kind::Flush,
        extent: Extent { lba: Lba(0), blocks: 0 },
        submitted: 0,
        next_number: 0,
        parts: [Part::NONE; PARALLEL],
        out: 0,
        outcome: Outcome::Done,
        not_served: false,
        assembly: None,
        pattern: None,
        reservations: None,
    };
}

impl Work {
    fn take_number(&mut self) -> u16 {
        let number = self.next_number;
        self.next_number = number.wrapping_add(1) & PART_MASK;
        number
    }

    /// Its requests read or write blocks; others run to their end once begun.
    fn moves_blocks(&self) -> bool {
        !matches!(self.kind, Kind::Flush | Kind::Reserve | Kind::Settle)
    }
}

/// How an operation ended.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    /// The initiator gets no answer.
    pub(super) not_served: bool,
}

/// What a command is made of.
pub(super) struct Start {
    pub(super) link: Rc<Link>,
    pub(super) task: TaskId,
    pub(super) nexus: NexusId,
    pub(super) lun: [u8; 8],
    pub(super) cdb: [u8; 16],
    pub(super) offered_len: u64,
    pub(super) data_out: Option<Buffer>,
}

impl Running {
    pub(super) fn new(start: Start, target: Rc<TargetEntry>, volume: VolumeId) -> Self {
        let Start { link, task, nexus, lun, cdb, offered_len, data_out } = start;
        Self {
            link,
            task,
            nexus,
            lun,
            cdb,
            offered_len,
            data_out,
            medium: None,
            continuation: Continuation::Finish,
            target,
            volume,
            work: Work::IDLE,
            stopped: false,
            waiters: Vec::new(),
        }
    }

    /// Begins an operation.
    pub(super) fn begin(&mut self, operation: &Operation, continuation: Continuation, buffers: &BufferPool) {
        self.continuation = continuation;
        self.work = Work::IDLE;
        let (kind, extent) = match operation {
            Operation::Read(extent) => (Kind::Read, *extent),
            Operation::Verify(extent) => (Kind::Verify, *extent),
            Operation::Compare(extent) => (Kind::Compare, *extent),
            Operation::CompareFill(extent) => (Kind::CompareFill, *extent),
            Operation::Write { extent, fua } => (Kind::Write { fua: *fua }, *extent),
            Operation::Fill(extent) => (Kind::Fill, *extent),
            Operation::Zero { extent, deallocate } => (Kind::Zero { unmap: *deallocate }, *extent),
            Operation::Flush => (Kind::Flush, Extent { lba: Lba(0), blocks: 1 }),
            Operation::CompareAndWrite { extent, .. } => (Kind::CompareAndWrite, *extent),
            Operation::OrWrite { extent, .. } => (Kind::Or, *extent),
            Operation::Copy { source, extent, destination, to } => {
                let copying = Copying { source: *source, destination: *destination, to: *to };
                (Kind::Copy(copying), *extent)
            }
            Operation::Provisioning(extent) => {
                // Every volume is allocated in full: the pool hands out whole extents. What the disks below make of
                // that, nobody tells for both copies; "mapped" also stands for "unknown".
                self.work.outcome = Outcome::Provisioning { mapped: true, blocks: extent.blocks };
                (Kind::Settle, Extent { lba: extent.lba, blocks: 0 })
            }
            Operation::Reserve(reservations) => {
                self.work.reservations = Some(reservations.clone());
                (Kind::Reserve, Extent { lba: Lba(0), blocks: 1 })
            }
            Operation::AbortTasks(_) => (Kind::Settle, Extent { lba: Lba(0), blocks: 0 }),
        };
        self.work.kind = kind;
        self.work.extent = extent;
        if self.stopped && self.work.moves_blocks() {
            return self.fail(Outcome::Failed(Fault::Internal));
        }
        let several = extent.blocks > u64::from(MAX_REQUEST_BLOCKS);
        if matches!(kind, Kind::Read) && several {
            self.work.assembly = bytes_of(extent.blocks).and_then(|len| buffers.take_urgent(len).ok());
            if self.work.assembly.is_none() {
                self.fail(Outcome::Failed(Fault::Internal));
            }
        }
        if matches!(kind, Kind::Fill) {
            self.work.pattern = self.make_pattern(extent.blocks, buffers);
            if self.work.pattern.is_none() {
                self.fail(Outcome::Failed(Fault::Internal));
            }
        }
    }

    /// Nothing more is to be submitted for the command; what the backend works on is still answered.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        if self.work.moves_blocks() && (self.work.submitted < self.work.extent.blocks || self.is_copy()) {
            self.fail(Outcome::Failed(Fault::Internal));
        }
    }

    fn is_copy(&self) -> bool {
        matches!(self.work.kind, Kind::Copy(_))
    }

    /// Its nexus does not see the unit any more that it is for, or that it copies to.
    pub(super) fn has_lost_its_unit(&self) -> bool {
        let copies_out_of_sight = matches!(self.work.kind, Kind::Copy(copying)
            if !self.target.shows_volume(self.nexus, copying.destination));
        copies_out_of_sight || !self.target.shows(self.nexus, self.lun)
    }

    /// Whether it copies to `volume`.
    pub(super) fn copies_to(&self, volume: VolumeId) -> bool {
        matches!(self.work.kind, Kind::Copy(copying) if copying.destination == volume)
    }

    /// `waiter` is told when the command has ended.
    pub(super) fn add_waiter(&mut self, waiter: u64) {
        self.waiters.push(waiter);
    }

    /// Who is to be told of the command's end.
    pub(super) fn take_waiters(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.waiters)
    }

    /// So many tasks of other sessions have to settle.
    pub(super) fn wait_for(&mut self, tasks: usize) {
        self.work.out = self.work.out.saturating_add(tasks);
    }

    fn make_pattern(&self, blocks: u64, buffers: &BufferPool) -> Option<Buffer> {
        let blocks = blocks.min(u64::from(FILL_BLOCKS));
        let block = self.data_out.as_ref()?;
        let mut pattern = buffers.take_urgent(bytes_of(blocks)?).ok()?;
        for place in pattern.as_mut_slice().chunks_mut(block.len().max(1)) {
            place.copy_from_slice(block.as_slice().get(..place.len())?);
        }
        Some(pattern.freeze())
    }

    /// No further part is submitted.
    fn fail(&mut self, outcome: Outcome) {
        if matches!(self.work.outcome, Outcome::Done) {
            self.work.outcome = outcome;
        }
        self.work.submitted = self.work.extent.blocks;
    }

    /// The next request of the operation, if one can be submitted now.
    pub(super) fn next_request(&mut self, token: u64) -> Option<BackendRequest> {
        if let Kind::Copy(copying) = self.work.kind
            && let Some(request) = self.next_copied(copying, token)
        {
            return Some(request);
        }
        let left = self.work.extent.blocks.saturating_sub(self.work.submitted);
        let slot = self.work.parts.iter().position(|part| !part.open)?;
        if left == 0 {
            return None;
        }
        let most = match self.work.kind {
            Kind::Fill => FILL_BLOCKS,
            Kind::Copy(_) => COPY_BLOCKS,
            _ => MAX_REQUEST_BLOCKS,
        };
        let blocks = u32::try_from(left).unwrap_or(u32::MAX).min(most);
        let at = self.work.submitted;
        let Some(op) = self.part(at, blocks) else {
            self.fail(Outcome::Failed(Fault::Internal));
            return None;
        };
        let number = self.work.take_number();
        self.work.submitted = at.saturating_add(u64::from(blocks));
        self.work.out += 1;
        if let Some(part) = self.work.parts.get_mut(slot) {
            *part = Part { number, at, blocks, open: true, ..Part::NONE };
        }
        let volume = if let Kind::Copy(copying) = self.work.kind { copying.source } else { self.volume };
        Some(BackendRequest { id: RequestId(token | u64::from(number)), volume, op })
    }

    /// The write of a part that was read.
    fn next_copied(&mut self, copying: Copying, token: u64) -> Option<BackendRequest> {
        let slot = self.work.parts.iter().position(|part| part.read.is_some())?;
        let number = self.work.take_number();
        let part = self.work.parts.get_mut(slot)?;
        let data = part.read.take()?;
        let lba = Lba(copying.to.0.saturating_add(part.at));
        (part.number, part.open, part.writes) = (number, true, true);
        self.work.out += 1;
        let op = BackendOp::Write { lba, data, fua: false };
        Some(BackendRequest { id: RequestId(token | u64::from(number)), volume: copying.destination, op })
    }

    /// The request for `blocks` blocks at `at` of the extent.
    fn part(&self, at: u64, blocks: u32) -> Option<BackendOp> {
        let lba = Lba(self.work.extent.lba.0.checked_add(at)?);
        let data_out = || {
            let begin = bytes_of(at)?;
            self.data_out.as_ref()?.slice(begin..begin.checked_add(bytes_of(u64::from(blocks))?)?)
        };
        Some(match self.work.kind {
            Kind::Read | Kind::Verify | Kind::Compare | Kind::CompareFill | Kind::Copy(_) => {
                BackendOp::Read { lba, blocks }
            }
            Kind::Write { fua } => BackendOp::Write { lba, data: data_out()?, fua },
            Kind::Fill => {
                let data = self.work.pattern.as_ref()?.slice(0..bytes_of(u64::from(blocks))?)?;
                BackendOp::Write { lba, data, fua: false }
            }
            Kind::Zero { unmap } => BackendOp::Zero { lba, blocks, unmap },
            Kind::Flush => BackendOp::Flush,
            Kind::CompareAndWrite => {
                let half = bytes_of(u64::from(blocks))?;
                let data = self.data_out.as_ref()?;
                let (expected, write) = (data.slice(0..half)?, data.slice(half..half.checked_mul(2)?)?);
                BackendOp::Update { lba, blocks, update: Update::CompareAndWrite { expected, write } }
            }
            Kind::Or => BackendOp::Update { lba, blocks, update: Update::Or { data: data_out()? } },
            Kind::Reserve => BackendOp::Reserve(self.work.reservations.clone()?),
            Kind::Settle => return None,
        })
    }

    /// A request of the operation was answered.
    pub(super) fn handle_reply(&mut self, id: RequestId, reply: Reply) {
        let number = u16::try_from(id.0 & u64::from(PART_MASK)).unwrap_or(0);
        let Some(part) = self.work.parts.iter_mut().find(|part| part.open && part.number == number) else {
            return;
        };
        part.open = false;
        let part = part.clone();
        self.work.out = self.work.out.saturating_sub(1);
        let lba = Lba(self.work.extent.lba.0.saturating_add(part.at));
        match reply {
            Reply::Done => {}
            Reply::Data(data) => self.take_data(&part, data),
            Reply::Miscompare(offset_bytes) => self.fail(Outcome::Miscompare { offset_bytes }),
            Reply::Medium => self.fail(Outcome::Failed(match self.work.kind {
                Kind::Read | Kind::Verify | Kind::Compare | Kind::CompareFill => Fault::Unreadable(lba),
                Kind::Copy(_) if !part.writes => Fault::Unreadable(lba),
                Kind::Copy(copying) => Fault::Unwritable(Lba(copying.to.0.saturating_add(part.at))),
                _ => Fault::Unwritable(lba),
            })),
            Reply::OutOfSpace => self.fail(Outcome::Failed(Fault::OutOfSpace)),
            Reply::Contended => self.fail(Outcome::Failed(Fault::Contended)),
            Reply::Aborted | Reply::Failed => self.fail(Outcome::Failed(Fault::Internal)),
            Reply::NotServed => {
                self.work.not_served = true;
                self.fail(Outcome::Failed(Fault::NotServed));
            }
        }
    }

    /// A task that [`Kind::Settle`] waits for has settled.
    pub(super) fn handle_settled(&mut self) {
        self.work.out = self.work.out.saturating_sub(1);
    }

    fn take_data(&mut self, part: &Part, data: Buffer) {
        if Some(data.len()) != bytes_of(u64::from(part.blocks)) {
            self.fail(Outcome::Failed(Fault::Internal));
            return;
        }
        let begin = bytes_of(part.at).unwrap_or(usize::MAX);
        match self.work.kind {
            Kind::Read => match &mut self.work.assembly {
                None => self.medium = Some(data),
                Some(assembly) => {
                    let window = assembly.as_mut_slice().get_mut(begin..begin.saturating_add(data.len()));
                    match window {
                        Some(window) => window.copy_from_slice(data.as_slice()),
                        None => self.fail(Outcome::Failed(Fault::Internal)),
                    }
                }
            },
            // Nothing is written once the copy has failed or was stopped.
            Kind::Copy(_) if matches!(self.work.outcome, Outcome::Done) => {
                let number = part.number;
                if let Some(part) =
                    self.work.parts.iter_mut().find(|part| part.number == number && !part.open)
                {
                    part.read = Some(data);
                }
            }
            Kind::Compare => {
                let expected =
                    self.data_out.as_ref().and_then(|out| out.slice(begin..begin.checked_add(data.len())?));
                let expected = expected.as_ref().map_or(&[][..], Buffer::as_slice);
                self.compared(first_difference(data.as_slice(), expected), begin);
            }
            Kind::CompareFill => {
                let block = self.data_out.as_ref().map_or(&[][..], Buffer::as_slice);
                let size = block.len().max(1);
                let differs = data.as_slice().chunks(size).enumerate().find_map(|(index, chunk)| {
                    first_difference(chunk, block)
                        .map(|at| at.saturating_add((index.saturating_mul(size)) as u64))
                });
                self.compared(differs, begin);
            }
            _ => {}
        }
    }

    /// Parts end in any order: the first difference of the whole extent counts.
    fn compared(&mut self, difference: Option<u64>, begin: usize) {
        let Some(difference) = difference else { return };
        let found = difference.saturating_add(begin as u64);
        match self.work.outcome {
            Outcome::Miscompare { offset_bytes } if offset_bytes <= found => {}
            Outcome::Done | Outcome::Miscompare { .. } => {
                self.work.outcome = Outcome::Miscompare { offset_bytes: found };
                self.work.submitted = self.work.extent.blocks;
            }
            _ => {}
        }
    }

    /// The operation's end, once nothing of it is out.
    pub(super) fn ended(&mut self) -> Option<Ended> {
        if self.work.out > 0 || self.work.submitted < self.work.extent.blocks {
            return None;
        }
        if let Some(assembly) = self.work.assembly.take() {
            self.medium = Some(assembly.freeze());
        }
        self.work.pattern = None;
        Some(Ended { outcome: self.work.outcome, not_served: self.work.not_served })
    }

    fn out_requests(&self, token: u64) -> impl Iterator<Item = RequestId> + '_ {
        self.work
            .parts
            .iter()
            .filter(|part| part.open)
            .map(move |part| RequestId(token | u64::from(part.number)))
    }
}

fn bytes_of(blocks: u64) -> Option<usize> {
    usize::try_from(blocks.checked_mul(u64::from(LOGICAL_BLOCK_BYTES))?).ok()
}

/// The low bits of a request's id count its command's parts.
const PART_MASK: u16 = 0x0fff;
const PART_BITS: u32 = 12;
const SLOT_BITS: u32 = 20;

/// All running commands. An id is generation (32 bits), slot (20 bits), part (12 bits).
#[derive(Default)]
pub(super) struct Slab {
    entries: Vec<(u32, Option<Running>)>,
    free: Vec<u32>,
}

impl Slab {
    /// Adds a command; answers its token: the id of its requests without the part. `None`: too many run.
    pub(super) fn insert(&mut self, running: Running) -> Option<u64> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let slot = u32::try_from(self.entries.len()).ok().filter(|slot| slot >> SLOT_BITS == 0)?;
                self.entries.push((0, None));
                slot
            }
        };
        let (generation, place) = self.entries.get_mut(slot as usize)?;
        *generation = generation.wrapping_add(1);
        *place = Some(running);
        Some(u64::from(*generation) << 32 | u64::from(slot) << PART_BITS)
    }

    fn slot(&self, id: u64) -> Option<usize> {
        let slot = usize::try_from((id & 0xffff_ffff) >> PART_BITS).ok()?;
        let (generation, place) = self.entries.get(slot)?;
        (u64::from(*generation) == id >> 32 && place.is_some()).then_some(slot)
    }

    /// The command of a request or token.
    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Running> {
        let slot = self.slot(id)?;
        self.entries.get_mut(slot)?.1.as_mut()
    }

    /// Takes the command out.
    pub(super) fn remove(&mut self, id: u64) -> Option<Running> {
        let slot = self.slot(id)?;
        let running = self.entries.get_mut(slot)?.1.take();
        self.free.push(u32::try_from(slot).ok()?);
        running
    }

    /// Requests that are out for the command of `token`.
    pub(super) fn out_requests(&self, token: u64) -> impl Iterator<Item = RequestId> + '_ {
        let running = self.slot(token).and_then(|slot| self.entries.get(slot)?.1.as_ref());
        running.into_iter().flat_map(move |running| running.out_requests(token))
    }

    /// The token of a request.
    pub(super) fn token(id: u64) -> u64 {
        id & !u64::from(PART_MASK)
    }

    /// Tokens of the commands of a connection that satisfy `wanted`.
    pub(super) fn tokens<'a>(
        &'a self,
        wanted: impl Fn(&Running) -> bool + 'a,
    ) -> impl Iterator<Item = u64> + 'a {
        self.entries.iter().enumerate().filter_map(move |(slot, (generation, running))| {
            running.as_ref().filter(|running| wanted(running))?;
            Some(u64::from(*generation) << 32 | (slot as u64) << PART_BITS)
        })
    }
}
