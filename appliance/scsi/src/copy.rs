//! EXTENDED COPY (LID1) and RECEIVE COPY RESULTS (SPC-4 §6.4, §6.18 to §6.21): block to block, between logical units that this
//! nexus sees at this target.
//!
//! Invariants
//! - A unit is named by its own designator (VPD page 83h) and found only among those that exist for the nexus: a copy reaches
//!   nothing that READ and WRITE of the same nexus would not (CVE-2020-28374).
//! - Every segment is checked before the first one runs, and again before each piece of it: visibility, reservations,
//!   service, write protection, range. So a copy loses its access as soon as WRITE would.
//! - A list is refused in whole with nothing copied, or ends with COPY ABORTED after a part of it.
//! - What became of a list is kept for its nexus until it is asked, or another list takes its identifier.

use crate::cdb::Cdb;
use crate::command::{
    Command, Continuation, Extent, Fault, NexusId, Operation, Outcome, Response, Status, Step,
};
use crate::identity;
use crate::opcode::Medium;
use crate::persistent::{Access, Refusal};
use crate::sense::{Asc, Sense, SenseBytes, SenseKey};
use crate::target::{Target, cut};
use crate::unit::{LogicalUnit, UnitConfig};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use base::{LOGICAL_BLOCK_BYTES, Lba, VolumeId, Writer};

const HEADER_BYTES: usize = 16;
const CSCD_BYTES: usize = 32;
const SEGMENT_BYTES: usize = 28;
const OFFSET_SEGMENT_BYTES: usize = 32;
/// Most copy source and copy destination descriptors of a list.
pub(crate) const MAX_CSCDS: u16 = 16;
/// Most segments of a list.
pub(crate) const MAX_SEGMENTS: u16 = 64;
/// Longest descriptors of a list, both kinds.
pub(crate) const MAX_DESCRIPTOR_BYTES: u16 = MAX_CSCDS * 32 + MAX_SEGMENTS * 28;
/// Longest segment: all that the field of a block to block descriptor can say, 32 MiB.
pub(crate) const MAX_SEGMENT_BYTES: u32 = u16::MAX as u32 * LOGICAL_BLOCK_BYTES;
/// What a segment is a multiple of, as a power of two: a block.
pub(crate) const SEGMENT_GRANULARITY: u8 = 9;
const _: () = assert!(1 << SEGMENT_GRANULARITY == LOGICAL_BLOCK_BYTES);
/// A segment is copied in pieces of 4 MiB (what ESXi asks for at once).
const PIECE_BLOCKS: u64 = 8192;
/// Most copies at a time at a target, as each holds memory; one more is BUSY.
pub(crate) const MAX_COPIES: u8 = 32;

/// Identification descriptor CSCD descriptor (SPC-4 §6.4.5.6).
const IDENTIFICATION: u8 = 0xe4;
/// Block device to block device segment descriptor (SPC-4 §6.4.6.7).
const BLOCK_TO_BLOCK: u8 = 0x02;
/// Block device to block device with offset segment descriptor (SPC-4 §6.4.6): counts bytes, of which whole blocks are taken.
const BLOCK_TO_BLOCK_WITH_OFFSET: u8 = 0x0a;
/// Types of descriptors that are known, in ascending order.
pub(crate) const DESCRIPTORS: [u8; 3] = [BLOCK_TO_BLOCK, BLOCK_TO_BLOCK_WITH_OFFSET, IDENTIFICATION];

/// What became of a list.
#[derive(Clone, Debug)]
struct Record {
    /// Segments that are done.
    segments: u16,
    /// Bytes that were written.
    bytes: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Completed,
    Failed(Sense),
}

/// What became of the lists of each nexus, by list identifier.
#[derive(Debug, Default)]
pub(crate) struct CopyResults {
    records: BTreeMap<(NexusId, u8), Record>,
    /// How many copies of each nexus run.
    running: BTreeMap<NexusId, u32>,
}

impl CopyResults {
    /// The nexus is gone, and what was kept for it with it.
    pub(crate) fn forget(&mut self, nexus: NexusId) {
        self.records.retain(|(owner, _), _| *owner != nexus);
        self.running.remove(&nexus);
    }

    fn is_running(&self, nexus: NexusId, id: u8) -> bool {
        self.records.get(&(nexus, id)).is_some_and(|record| record.state == State::Running)
    }

    fn is_full(&self) -> bool {
        self.running.values().sum::<u32>() >= u32::from(MAX_COPIES)
    }

    fn begin(&mut self, nexus: NexusId, id: Option<u8>) {
        *self.running.entry(nexus).or_default() += 1;
        if let Some(id) = id {
            self.records.insert((nexus, id), Record { segments: 0, bytes: 0, state: State::Running });
        }
    }

    fn end(&mut self, nexus: NexusId, id: Option<u8>, state: State) {
        if let Some(running) = self.running.get_mut(&nexus) {
            *running = running.saturating_sub(1);
        }
        self.change(nexus, id, |record| record.state = state);
    }

    /// Nothing if the nexus has gone meanwhile.
    fn change(&mut self, nexus: NexusId, id: Option<u8>, change: impl FnOnce(&mut Record)) {
        if let Some(record) = id.and_then(|id| self.records.get_mut(&(nexus, id))) {
            change(record);
        }
    }
}

/// A parameter list whose form is right.
struct List<'a> {
    /// `None`: nobody will ask (LIST ID USAGE 11b).
    id: Option<u8>,
    cscds: &'a [[u8; CSCD_BYTES]],
    /// Each with its place in the list.
    segments: Vec<(usize, &'a [u8])>,
}

/// One segment, resolved.
struct Segment {
    source: VolumeId,
    from: u64,
    destination: VolumeId,
    to: u64,
    blocks: u64,
}

impl Segment {
    /// The piece of it that begins at block `done`, if it has so many.
    fn piece(&self, done: u64) -> Option<Operation> {
        let blocks = self.blocks.checked_sub(done).filter(|&left| left > 0)?.min(PIECE_BLOCKS);
        let extent = Extent { lba: Lba(self.from.checked_add(done)?), blocks };
        let to = Lba(self.to.checked_add(done)?);
        Some(Operation::Copy { source: self.source, extent, destination: self.destination, to })
    }
}

/// EXTENDED COPY (LID1).
pub(crate) fn extended_copy(target: &mut Target, command: &Command<'_>, cdb: &Cdb) -> Result<Step, Sense> {
    if cdb.u32(10) == 0 {
        return Ok(Step::Done(Response::good()));
    }
    let list = list(command, cdb)?;
    if let Some(id) = list.id {
        if target.copies.is_running(command.nexus, id) {
            return Err(Sense::illegal(Asc::OPERATION_IN_PROGRESS));
        }
        target.copies.records.remove(&(command.nexus, id));
    }
    for index in 0..list.segments.len() {
        match segment(target, command.nexus, &list, index) {
            Ok(_) => {}
            Err(Refusal::Conflict) => return Ok(ended_by(Status::ReservationConflict)),
            Err(Refusal::Check(sense)) => return Err(sense),
        }
    }
    if target.copies.is_full() {
        return Ok(ended_by(Status::Busy));
    }
    target.copies.begin(command.nexus, list.id);
    run(target, command, &list, 0, 0)
}

/// A piece has ended: `done` blocks of segment `index` are copied if it went well.
pub(crate) fn copied(
    target: &mut Target,
    command: &Command<'_>,
    cdb: &Cdb,
    (index, done): (u16, u64),
    outcome: Outcome,
) -> Result<Step, Sense> {
    let list = list(command, cdb)?;
    let copy_aborted = |asc| Sense::new(SenseKey::CopyAborted, asc);
    let failure = match outcome {
        // The unit that the command was sent to was unmapped or masked meanwhile.
        _ if !target.has_unit(command.nexus, command.lun) => {
            Some(Sense::new(SenseKey::AbortedCommand, Asc::REPORTED_LUNS_CHANGED))
        }
        Outcome::Failed(Fault::NotServed) => Some(copy_aborted(Asc::COPY_TARGET_NOT_REACHABLE)),
        Outcome::Failed(_) | Outcome::Miscompare { .. } => {
            Some(copy_aborted(Asc::THIRD_PARTY_DEVICE_FAILURE))
        }
        Outcome::Done | Outcome::Provisioning { .. } => None,
    };
    if let Some(sense) = failure {
        target.copies.end(command.nexus, list.id, State::Failed(sense));
        return Err(sense);
    }
    let before = done.saturating_sub(1) / PIECE_BLOCKS * PIECE_BLOCKS;
    let bytes = done.saturating_sub(before).saturating_mul(u64::from(LOGICAL_BLOCK_BYTES));
    target.copies.change(command.nexus, list.id, |record| {
        record.bytes = record.bytes.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    });
    run(target, command, &list, index, done)
}

/// Runs the next piece, from block `done` of segment `first` on; ends the command after the last.
fn run(
    target: &mut Target,
    command: &Command<'_>,
    list: &List<'_>,
    first: u16,
    mut done: u64,
) -> Result<Step, Sense> {
    for index in usize::from(first)..list.segments.len() {
        let segment = match segment(target, command.nexus, list, index) {
            Ok(segment) => segment,
            Err(refusal) => {
                let asc = match refusal {
                    Refusal::Check(Sense { key: SenseKey::NotReady, .. }) => Asc::COPY_TARGET_NOT_REACHABLE,
                    Refusal::Check(_) | Refusal::Conflict => Asc::THIRD_PARTY_DEVICE_FAILURE,
                };
                let sense = Sense::new(SenseKey::CopyAborted, asc);
                target.copies.end(command.nexus, list.id, State::Failed(sense));
                return Err(sense);
            }
        };
        if let Some(piece) = segment.piece(done) {
            let done = done.saturating_add(PIECE_BLOCKS).min(segment.blocks);
            let index = u16::try_from(index).unwrap_or(u16::MAX);
            return Ok(Step::Backend(piece, Continuation::Copy { index, done }));
        }
        done = 0;
        target.copies.change(command.nexus, list.id, |record| {
            record.segments = record.segments.saturating_add(1);
        });
    }
    target.copies.end(command.nexus, list.id, State::Completed);
    Ok(Step::Done(Response::good()))
}

fn ended_by(status: Status) -> Step {
    Step::Done(Response::status(status))
}

/// The parameter list (SPC-4 table 111): its form, not yet whom it concerns.
fn list<'a>(command: &Command<'a>, cdb: &Cdb) -> Result<List<'a>, Sense> {
    let short = Sense::illegal(Asc::PARAMETER_LIST_LENGTH);
    let len = usize::try_from(cdb.u32(10)).ok();
    let bytes = len.and_then(|len| command.parameters.get(..len)).ok_or(short)?;
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(short)?;
    let [id, flags, cscds_high, cscds_low, _, _, _, _, a, b, c, d, inline @ ..] = *header;
    let id = match flags >> 3 & 3 {
        3 if id != 0 => return Err(Sense::invalid_parameter_byte(0)),
        3 => None,
        1 => return Err(Sense::invalid_parameter_bit(1, 4)), // reserved
        _ => Some(id),
    };
    if inline != [0; 4] {
        return Err(Sense::illegal(Asc::INLINE_DATA_LENGTH_EXCEEDED));
    }
    let cscds_len = usize::from(u16::from_be_bytes([cscds_high, cscds_low]));
    let segments_len = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if cscds_len.saturating_add(segments_len) > usize::from(MAX_DESCRIPTOR_BYTES) {
        return Err(short);
    }
    if !cscds_len.is_multiple_of(CSCD_BYTES) {
        return Err(Sense::invalid_parameter_byte(2));
    }
    if cscds_len / CSCD_BYTES > usize::from(MAX_CSCDS) {
        return Err(Sense::illegal(Asc::TOO_MANY_TARGET_DESCRIPTORS));
    }
    let (cscds, rest) = rest.split_at_checked(cscds_len).ok_or(short)?;
    let segments = rest.get(..segments_len).ok_or(short)?;
    let cscds: &[[u8; CSCD_BYTES]] = cscds.as_chunks().0;
    // Descriptors of other types may have other lengths: the types are looked at first.
    if cscds.iter().any(|[kind, ..]| *kind != IDENTIFICATION) {
        return Err(Sense::illegal(Asc::UNSUPPORTED_TARGET_DESCRIPTOR_TYPE));
    }
    let segments = split(HEADER_BYTES + cscds_len, segments)?;
    Ok(List { id, cscds, segments })
}

/// The segment descriptors, which begin at byte `at` of the list.
fn split(mut at: usize, mut rest: &[u8]) -> Result<Vec<(usize, &[u8])>, Sense> {
    let mut out = Vec::new();
    while let Some(&kind) = rest.first() {
        let len = match kind {
            BLOCK_TO_BLOCK => SEGMENT_BYTES,
            BLOCK_TO_BLOCK_WITH_OFFSET => OFFSET_SEGMENT_BYTES,
            _ => return Err(Sense::illegal(Asc::UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE)),
        };
        if out.len() >= usize::from(MAX_SEGMENTS) {
            return Err(Sense::illegal(Asc::TOO_MANY_SEGMENT_DESCRIPTORS));
        }
        let (segment, left) = rest.split_at_checked(len).ok_or(Sense::invalid_parameter_byte(8))?;
        out.push((at, segment));
        at = at.saturating_add(len);
        rest = left;
    }
    Ok(out)
}

/// Segment `index` of the list, if the nexus may copy it now.
fn segment(target: &Target, nexus: NexusId, list: &List<'_>, index: usize) -> Result<Segment, Refusal> {
    let nothing = Sense::invalid_parameter_byte(8);
    let &(at, descriptor) = list.segments.get(index).ok_or(nothing)?;
    let wrong = |byte: usize| Sense::invalid_parameter_byte(u16::try_from(at + byte).unwrap_or(u16::MAX));
    let (fixed, offsets) = descriptor.split_first_chunk::<SEGMENT_BYTES>().ok_or(nothing)?;
    // DC and CAT do not matter between units whose blocks are of one size.
    let [_, _, l0, l1, s0, s1, d0, d1, c0, c1, c2, c3, lbas @ ..] = *fixed;
    let [len, source, destination] = [[l0, l1], [s0, s1], [d0, d1]].map(u16::from_be_bytes);
    if usize::from(len) + 4 != descriptor.len() {
        return Err(wrong(2).into());
    }
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = lbas;
    let [from, to] = [[a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]].map(u64::from_be_bytes);
    let blocks = if offsets.is_empty() {
        u64::from(u16::from_be_bytes([c2, c3])) // the two bytes before are reserved
    } else {
        let bytes = u32::from_be_bytes([c0, c1, c2, c3]);
        if bytes > MAX_SEGMENT_BYTES || !bytes.is_multiple_of(LOGICAL_BLOCK_BYTES) {
            return Err(wrong(8).into());
        }
        if offsets != [0; OFFSET_SEGMENT_BYTES - SEGMENT_BYTES] {
            return Err(wrong(SEGMENT_BYTES).into());
        }
        u64::from(bytes / LOGICAL_BLOCK_BYTES)
    };
    // SPC-4 §6.4.3.3: what is wrong with a segment aborts the copy, and the field pointer tells where.
    let aborted = |asc, byte| Sense { key: SenseKey::CopyAborted, asc, ..wrong(byte) };
    let nowhere = |byte| aborted(Asc::UNREACHABLE_COPY_TARGET, byte);
    let source = unit(target, nexus, list, source, nowhere(4))?;
    let destination = unit(target, nexus, list, destination, nowhere(6))?;
    let port = target.nexuses.get(&nexus);
    if !source.grants(nexus, port, Access::Read) || !destination.grants(nexus, port, Access::Write) {
        return Err(Refusal::Conflict);
    }
    source.check_medium(Medium::Needed)?;
    destination.check_medium(Medium::Modified)?;
    source.extent(from, blocks).map_err(|_| aborted(Asc::NONE, 12))?;
    destination.extent(to, blocks).map_err(|_| aborted(Asc::NONE, 20))?;
    let (source, destination) = (source.config.volume, destination.config.volume);
    // What would be read is written before, in part.
    if source == destination && blocks > 0 && from.abs_diff(to) < blocks {
        return Err(wrong(12).into());
    }
    Ok(Segment { source, from, destination, to, blocks })
}

/// The unit that the descriptor `index` names, among those that exist for the nexus.
fn unit<'t>(
    target: &'t Target,
    nexus: NexusId,
    list: &List<'_>,
    index: u16,
    wrong: Sense,
) -> Result<&'t LogicalUnit, Sense> {
    let index = usize::from(index);
    let cscd = list.cscds.get(index).ok_or(wrong)?;
    let at = |byte: usize| {
        Sense::invalid_parameter_byte(
            u16::try_from(HEADER_BYTES + index * CSCD_BYTES + byte).unwrap_or(u16::MAX),
        )
    };
    let [_, flags, _, _, code_set, kind, _, len, rest @ ..] = *cscd;
    let (designator, specific) = rest.split_at(20);
    let designator = designator.get(..usize::from(len)).ok_or(at(7))?;
    let block: [u8; 3] = specific.get(1..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
    let [high, middle, low] = block;
    // A direct access block device, named by the logical unit's NAA designator: the T10 one is longer than the field.
    let by_naa = flags & 0x1f == 0 && code_set & 0x0f == 1 && kind & 0x3f == 3;
    let named = target.units.values().find(|unit| {
        let UnitConfig { cluster, volume, .. } = unit.config;
        by_naa && unit.is_visible_to(nexus) && identity::naa(cluster, volume) == *designator
    });
    let unit = named.ok_or(Sense::new(SenseKey::CopyAborted, Asc::COPY_TARGET_NOT_REACHABLE))?;
    if u32::from_be_bytes([0, high, middle, low]) != LOGICAL_BLOCK_BYTES {
        return Err(at(29));
    }
    Ok(unit)
}

/// RECEIVE COPY RESULTS, COPY STATUS. A list that has ended is forgotten once it was told.
pub(crate) fn copy_status(target: &mut Target, command: &Command<'_>, cdb: &Cdb) -> Result<Step, Sense> {
    let key = (command.nexus, cdb.byte(2));
    let record = target.copies.records.get(&key).cloned().ok_or(Sense::invalid_cdb_byte(2))?;
    let status = match record.state {
        State::Running => 0,
        State::Completed => 1,
        State::Failed(_) => 2,
    };
    if record.state == State::Completed {
        target.copies.records.remove(&key);
    }
    let mut out = Writer::with_capacity(12);
    out.u32_be(8).u8(status).u16_be(record.segments).u8(0).u32_be(record.bytes); // counted in bytes
    Ok(Step::Done(Response::parameters(cut(out.into_vec(), u64::from(cdb.u32(10))))))
}

/// RECEIVE COPY RESULTS, OPERATING PARAMETERS (SPC-4 table 323).
pub(crate) fn operating_parameters(_: &mut Target, _: &Command<'_>, cdb: &Cdb) -> Result<Step, Sense> {
    let mut out = Writer::with_capacity(47);
    out.u32_be(43).u8(0x01).bytes(&[0; 3]); // SNLID: lists without identifier
    out.u16_be(MAX_CSCDS).u16_be(MAX_SEGMENTS).u32_be(u32::from(MAX_DESCRIPTOR_BYTES));
    out.u32_be(MAX_SEGMENT_BYTES);
    out.u32_be(0).u32_be(0).u32_be(0); // no inline data, none held, no streams
    out.u16_be(0).u16_be(u16::from(MAX_COPIES)).u8(MAX_COPIES);
    out.u8(SEGMENT_GRANULARITY).u8(0).u8(0).bytes(&[0; 3]);
    out.u8(3).bytes(&DESCRIPTORS);
    Ok(Step::Done(Response::parameters(cut(out.into_vec(), u64::from(cdb.u32(10))))))
}

/// RECEIVE COPY RESULTS, FAILED SEGMENT DETAILS: nothing, or the sense data of the list that failed, which is then forgotten.
pub(crate) fn failed_segment_details(
    target: &mut Target,
    command: &Command<'_>,
    cdb: &Cdb,
) -> Result<Step, Sense> {
    let key = (command.nexus, cdb.byte(2));
    let record = target.copies.records.get(&key).cloned().ok_or(Sense::invalid_cdb_byte(2))?;
    let mut out = Writer::with_capacity(96);
    match record.state {
        State::Failed(sense) => {
            target.copies.records.remove(&key);
            let sense: SenseBytes = sense.encode();
            let sense = sense.as_slice();
            out.u32_be(u32::try_from(56 + sense.len()).unwrap_or(0)).pad_to(56);
            out.u8(Status::CheckCondition as u8).u8(0);
            out.u16_be(u16::try_from(sense.len()).unwrap_or(0)).bytes(sense);
        }
        State::Running | State::Completed => {
            out.u32_be(0);
        }
    }
    Ok(Step::Done(Response::parameters(cut(out.into_vec(), u64::from(cdb.u32(10))))))
}
