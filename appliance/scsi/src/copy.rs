//! EXTENDED COPY (LID1) and RECEIVE COPY RESULTS (SPC-4 §6.4, §6.18 to §6.21): block to block, between logical units that this
//! nexus sees at this target.
//!
//! Invariants
//! - A unit is named by its own designator (VPD page 83h) and found only among those that exist for the nexus: a copy reaches
//!   nothing that READ and WRITE of the same nexus would not (CVE-2020-28374).
//! - Every segment is checked before the first one runs, and again when its turn comes: visibility, reservations, service,
//!   write protection, range.
//! - What became of a list is kept for its nexus until it is asked, or another list takes its identifier.

use crate::cdb::Cdb;
use crate::command::{
    Command, Continuation, Extent, Fault, NexusId, Operation, Outcome, Response, Status, Step,
};
use crate::identity;
use crate::inquiry::VENDOR;
use crate::opcode::Medium;
use crate::persistent::{Access, Refusal};
use crate::sense::{Asc, Sense, SenseBytes, SenseKey};
use crate::target::{Target, cut};
use crate::unit::LogicalUnit;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use base::{LOGICAL_BLOCK_BYTES, Lba, Writer};

const HEADER_BYTES: usize = 16;
const CSCD_BYTES: usize = 32;
const SEGMENT_BYTES: usize = 28;
/// Most copy source and copy destination descriptors of a list.
const MAX_CSCDS: usize = 16;
/// Most segments of a list.
const MAX_SEGMENTS: usize = 64;
/// Longest segment: all that its field can say, 32 MiB.
const MAX_SEGMENT_BYTES: u32 = u16::MAX as u32 * LOGICAL_BLOCK_BYTES;
/// Most copies at a time: the transport's command window bounds them before this does.
const MAX_COPIES: u8 = 64;

/// Identification descriptor CSCD descriptor (SPC-4 §6.4.5.6).
const IDENTIFICATION: u8 = 0xe4;
/// Block device to block device segment descriptor (SPC-4 §6.4.6.7).
const BLOCK_TO_BLOCK: u8 = 0x02;

/// What became of a list.
#[derive(Clone, Debug)]
struct Record {
    segments: u16,
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
}

impl CopyResults {
    /// The nexus is gone, and what was kept for it with it.
    pub(crate) fn forget(&mut self, nexus: NexusId) {
        self.records.retain(|(owner, _), _| *owner != nexus);
    }
}

/// A parameter list whose form is right.
struct List<'a> {
    /// `None`: nobody will ask (LIST ID USAGE 11b).
    id: Option<u8>,
    cscds: &'a [[u8; CSCD_BYTES]],
    segments: &'a [[u8; SEGMENT_BYTES]],
}

/// One segment, resolved.
struct Segment {
    operation: Operation,
    blocks: u64,
}

/// EXTENDED COPY (LID1).
pub(crate) fn extended_copy(target: &mut Target, command: &Command<'_>, cdb: &Cdb) -> Result<Step, Sense> {
    if cdb.u32(10) == 0 {
        return Ok(Step::Done(Response::good()));
    }
    let list = list(command, cdb)?;
    if let Some(id) = list.id
        && target
            .copies
            .records
            .get(&(command.nexus, id))
            .is_some_and(|record| record.state == State::Running)
    {
        return Err(Sense::illegal(Asc::OPERATION_IN_PROGRESS));
    }
    for index in 0..list.segments.len() {
        match segment(target, command.nexus, &list, index) {
            Ok(_) => {}
            Err(Refusal::Conflict) => return Ok(conflict()),
            Err(Refusal::Check(sense)) => return Err(sense),
        }
    }
    if let Some(id) = list.id {
        let record = Record { segments: 0, state: State::Running };
        target.copies.records.insert((command.nexus, id), record);
    }
    run(target, command, &list, 0)
}

/// The segment before `next` has ended.
pub(crate) fn copied(
    target: &mut Target,
    command: &Command<'_>,
    cdb: &Cdb,
    next: u16,
    outcome: Outcome,
) -> Result<Step, Sense> {
    let list = list(command, cdb)?;
    if let Outcome::Failed(fault) = outcome {
        let asc = match fault {
            Fault::NotServed => Asc::COPY_TARGET_NOT_REACHABLE,
            _ => Asc::THIRD_PARTY_DEVICE_FAILURE,
        };
        return Err(failed(target, command.nexus, &list, Sense::new(SenseKey::CopyAborted, asc)));
    }
    record(target, command.nexus, &list, |record| record.segments = next);
    run(target, command, &list, next)
}

/// Runs the next segment that is not empty; ends the command after the last.
fn run(target: &mut Target, command: &Command<'_>, list: &List<'_>, from: u16) -> Result<Step, Sense> {
    for (index, next) in (0..list.segments.len()).zip(1_u16..).skip(usize::from(from)) {
        match segment(target, command.nexus, list, index) {
            Ok(Segment { blocks: 0, .. }) => {
                record(target, command.nexus, list, |record| record.segments = next)
            }
            Ok(Segment { operation, .. }) => {
                return Ok(Step::Backend(operation, Continuation::Copy { next }));
            }
            Err(refusal) => {
                let sense = match refusal {
                    Refusal::Check(sense) => sense,
                    Refusal::Conflict => Sense::new(SenseKey::CopyAborted, Asc::THIRD_PARTY_DEVICE_FAILURE),
                };
                return Err(failed(target, command.nexus, list, sense));
            }
        }
    }
    record(target, command.nexus, list, |record| record.state = State::Completed);
    Ok(Step::Done(Response::good()))
}

fn conflict() -> Step {
    Step::Done(Response::status(Status::ReservationConflict))
}

fn failed(target: &mut Target, nexus: NexusId, list: &List<'_>, sense: Sense) -> Sense {
    record(target, nexus, list, |record| record.state = State::Failed(sense));
    sense
}

fn record(target: &mut Target, nexus: NexusId, list: &List<'_>, change: impl FnOnce(&mut Record)) {
    if let Some(record) = list.id.and_then(|id| target.copies.records.get_mut(&(nexus, id))) {
        change(record);
    }
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
    if !cscds_len.is_multiple_of(CSCD_BYTES) {
        return Err(Sense::invalid_parameter_byte(2));
    }
    if cscds_len / CSCD_BYTES > MAX_CSCDS {
        return Err(Sense::illegal(Asc::TOO_MANY_TARGET_DESCRIPTORS));
    }
    if segments_len / SEGMENT_BYTES > MAX_SEGMENTS {
        return Err(Sense::illegal(Asc::TOO_MANY_SEGMENT_DESCRIPTORS));
    }
    let (cscds, rest) = rest.split_at_checked(cscds_len).ok_or(short)?;
    let segments = rest.get(..segments_len).ok_or(short)?;
    let cscds = cscds.as_chunks().0;
    check_types(cscds, segments)?;
    let (segments, tail) = segments.as_chunks();
    if !tail.is_empty() {
        return Err(Sense::invalid_parameter_byte(8));
    }
    Ok(List { id, cscds, segments })
}

/// Descriptors of other types may have other lengths: the types are looked at first.
fn check_types(cscds: &[[u8; CSCD_BYTES]], segments: &[u8]) -> Result<(), Sense> {
    if cscds.iter().any(|[kind, ..]| *kind != IDENTIFICATION) {
        return Err(Sense::illegal(Asc::UNSUPPORTED_TARGET_DESCRIPTOR_TYPE));
    }
    let mut rest = segments;
    while let Some((&kind, _)) = rest.split_first() {
        if kind != BLOCK_TO_BLOCK {
            return Err(Sense::illegal(Asc::UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE));
        }
        rest = rest.get(SEGMENT_BYTES..).unwrap_or(&[]);
    }
    Ok(())
}

/// Segment `index` of the list, if the nexus may copy it now.
fn segment(target: &Target, nexus: NexusId, list: &List<'_>, index: usize) -> Result<Segment, Refusal> {
    let at = HEADER_BYTES + list.cscds.len() * CSCD_BYTES + index * SEGMENT_BYTES;
    let wrong = |byte: usize| Sense::invalid_parameter_byte(u16::try_from(at + byte).unwrap_or(u16::MAX));
    let descriptor = list.segments.get(index).ok_or(wrong(0))?;
    let [_, _, len @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = *descriptor;
    let [high, low, source_high, source_low] = len;
    if u16::from_be_bytes([high, low]) != 0x18 {
        return Err(wrong(2).into());
    }
    let [_, _, _, _, _, _, dest_high, dest_low, _, _, blocks_high, blocks_low, lbas @ ..] = *descriptor;
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = lbas;
    let blocks = u64::from(u16::from_be_bytes([blocks_high, blocks_low]));
    let from = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let to = u64::from_be_bytes([i, j, k, l, m, n, o, p]);
    let source_index = u16::from_be_bytes([source_high, source_low]);
    let source = unit(target, nexus, list, source_index, wrong(4))?;
    let destination = unit(target, nexus, list, u16::from_be_bytes([dest_high, dest_low]), wrong(6))?;
    let port = target.nexuses.get(&nexus);
    if !source.grants(nexus, port, Access::Read) || !destination.grants(nexus, port, Access::Write) {
        return Err(Refusal::Conflict);
    }
    source.check_medium(Medium::Needed)?;
    destination.check_medium(Medium::Modified)?;
    let extent = source.extent(from, blocks)?;
    destination.extent(to, blocks)?;
    let (source, destination) = (source.config.volume, destination.config.volume);
    // What would be read is written before, in part.
    if source == destination && blocks > 0 && from.abs_diff(to) < blocks {
        return Err(wrong(12).into());
    }
    let operation = Operation::Copy { source, extent: Extent { blocks, ..extent }, destination, to: Lba(to) };
    Ok(Segment { operation, blocks })
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
    if flags & 0x20 != 0 {
        return Err(at(1)); // NUL: no device
    }
    let designator = designator.get(..usize::from(len)).ok_or(at(7))?;
    let block: [u8; 3] = specific.get(1..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
    let [high, middle, low] = block;
    let named = (flags & 0x1f == 0)
        .then(|| {
            target.units.values().filter(|unit| unit.attentions.is_attached(nexus)).find(|unit| {
                let config = &unit.config;
                match (code_set & 0x0f, kind & 0x3f) {
                    (1, 3) => identity::naa(config.cluster, config.volume) == *designator,
                    (2, 1) => designator.strip_prefix(VENDOR).is_some_and(|serial| {
                        // Only as much of the serial number as the field holds.
                        !serial.is_empty()
                            && identity::serial(config.cluster, config.volume).into_bytes() == serial
                    }),
                    _ => false,
                }
            })
        })
        .flatten();
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
    // TRANSFER COUNT in bytes is not kept: segments are what is counted.
    out.u32_be(8).u8(status).u16_be(record.segments).u8(0).u32_be(0);
    Ok(Step::Done(Response::parameters(cut(out.into_vec(), u64::from(cdb.u32(10))))))
}

/// RECEIVE COPY RESULTS, OPERATING PARAMETERS (SPC-4 table 323).
pub(crate) fn operating_parameters(_: &mut Target, _: &Command<'_>, cdb: &Cdb) -> Result<Step, Sense> {
    let count = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
    let lists = MAX_CSCDS * CSCD_BYTES + MAX_SEGMENTS * SEGMENT_BYTES;
    let mut out = Writer::with_capacity(46);
    out.u32_be(42).u8(0x01).bytes(&[0; 3]); // SNLID: lists without identifier
    out.u16_be(count(MAX_CSCDS)).u16_be(count(MAX_SEGMENTS)).u32_be(u32::from(count(lists)));
    out.u32_be(MAX_SEGMENT_BYTES);
    out.u32_be(0).u32_be(0).u32_be(0); // no inline data, none held, no streams
    out.u16_be(0).u16_be(u16::from(MAX_COPIES)).u8(MAX_COPIES);
    out.u8(9).u8(0).u8(0); // granularity: a block
    out.bytes(&[0; 3]).u8(2).bytes(&[BLOCK_TO_BLOCK, IDENTIFICATION]);
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
