//! The SCSI device server: any CDB with any parameter list, from several nexuses, at units in any state, with commands
//! that wait for the backend while others come and the configuration changes.
//!
//! Checked: each command ends with a valid status, sense exactly with CHECK CONDITION, no more data than the CDB and its
//! transfer allow; each operation lies within the unit and is not empty; sense data is well formed in either format.

use arbitrary::{Arbitrary, Unstructured};
use base::{ClusterId, LOGICAL_BLOCK_BYTES, Lba, VolumeId};
use scsi::{
    Command, Continuation, DataIn, Direction, Extent, Fault, InitiatorPort, MAX_PARAMETER_BYTES, NexusId,
    Operation, Outcome, Response, Status, Step, Target, TargetPort, UnitConfig, expected_transfer,
};
use std::collections::BTreeMap;

/// Blocks of a new unit.
const BLOCKS: u64 = 4096;
/// Most blocks that a unit ever has here.
const MOST_BLOCKS: u64 = BLOCKS + 255 * 8;
/// Operations of one command, far above what any needs (an UNMAP list has at most 4095 descriptors).
const MOST_STEPS: usize = 5000;

#[derive(Arbitrary, Clone, Debug)]
enum Cdb {
    /// One that is known, its other bytes small, so that it reaches its handler.
    Known {
        which: u8,
        bytes: [u8; 16],
        keep: u16,
    },
    Any(Vec<u8>),
}

#[derive(Arbitrary, Clone, Debug)]
enum DataOut {
    Zeroes(u16),
    Bytes(Vec<u8>),
    /// A parameter list whose header tells its true length, as UNMAP's does.
    Listed(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
enum Move {
    Command {
        nexus: u8,
        lun: u8,
        cdb: Cdb,
        data_out: DataOut,
        wait: bool,
    },
    /// The backend ends an operation of a command that waits.
    Resume {
        which: u8,
        end: End,
    },
    Attach {
        nexus: u8,
    },
    Detach {
        nexus: u8,
    },
    Map {
        lun: bool,
        thin: bool,
        physical_4k: bool,
        write_back: bool,
        read_only: bool,
    },
    Mask {
        lun: bool,
        mask: u8,
    },
    Unmap {
        lun: bool,
    },
    Resize {
        lun: bool,
        eights: u8,
    },
    Serve {
        lun: bool,
        served: bool,
    },
    Reset {
        all: bool,
    },
    Cleared {
        nexus: u8,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum End {
    Done,
    Miscompare(u16),
    Unreadable(u16),
    Unwritable(u16),
    OutOfSpace,
    NotServed,
    Internal,
    Unmapped,
}

/// A command that waits for its operation.
struct Waiting {
    nexus: NexusId,
    lun: [u8; 8],
    cdb: Vec<u8>,
    offered_len: u64,
    parameters: Vec<u8>,
    operation: Operation,
    continuation: Continuation,
    steps: usize,
}

struct Bench {
    target: Target,
    waiting: Vec<Waiting>,
    /// Bit n: the initiator of nexus n sees the unit; none: all do.
    masks: BTreeMap<u16, u8>,
}

/// Whether a mask shows its unit to this initiator, whose nexus its ISID tells.
fn is_shown(mask: u8, port: &InitiatorPort) -> bool {
    mask & 1 << (port.isid[5] % 4) != 0
}

/// A target through its commands and changes.
pub fn target(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let target = Target::new(TargetPort { iqn: "iqn.2026-11.x:t".into() });
    let mut bench = Bench { target, waiting: Vec::new(), masks: BTreeMap::new() };
    bench.target.map(0, UnitConfig::new(ClusterId(1), VolumeId(10), BLOCKS), |_| true);
    bench.attach(0);
    bench.attach(1);
    while !input.is_empty() {
        let Ok(step) = input.arbitrary::<Move>() else { break };
        bench.play(step);
    }
    while let Some(waiting) = bench.waiting.pop() {
        bench.resume(waiting, End::Done, false);
    }
}

fn nexus(number: u8) -> NexusId {
    NexusId(u64::from(number % 4))
}

impl Bench {
    fn play(&mut self, step: Move) {
        match step {
            Move::Command { nexus: from, lun, cdb, data_out, wait } => {
                self.start(nexus(from), lun, &cdb, &data_out, wait);
            }
            Move::Resume { which, end } => {
                if !self.waiting.is_empty() {
                    let at = usize::from(which) % self.waiting.len();
                    let waiting = self.waiting.swap_remove(at);
                    self.resume(waiting, end, true);
                }
            }
            Move::Attach { nexus } => self.attach(nexus),
            Move::Detach { nexus: from } => self.target.detach(nexus(from)),
            Move::Map { lun, thin, physical_4k, write_back, read_only } => {
                let config = UnitConfig::new(ClusterId(1), VolumeId(10 + u64::from(lun)), BLOCKS);
                let config = UnitConfig { thin, physical_4k, write_back, read_only, ..config };
                let mask = *self.masks.entry(u16::from(lun)).or_insert(u8::MAX);
                self.target.map(u16::from(lun), config, |port| is_shown(mask, port));
            }
            Move::Mask { lun, mask } => {
                self.masks.insert(u16::from(lun), mask);
                self.target.mask(u16::from(lun), |port| is_shown(mask, port));
            }
            Move::Unmap { lun } => self.target.unmap(u16::from(lun)),
            Move::Resize { lun, eights } => {
                self.target.resize(u16::from(lun), BLOCKS + 8 * u64::from(eights));
            }
            Move::Serve { lun, served } => self.target.set_served(u16::from(lun), served),
            Move::Reset { all: true } => self.target.reset_all(),
            Move::Reset { all: false } => self.target.reset_unit([0; 8]),
            Move::Cleared { nexus: by } => {
                self.target.tasks_cleared([0; 8], nexus(by), &[NexusId(0), NexusId(1)]);
            }
        }
    }

    fn attach(&mut self, number: u8) {
        let name = format!("iqn.2026-11.x:i{}", number % 4);
        let port = InitiatorPort { name, isid: [0x80, 0, 0, 0, 0, number % 4] };
        let masks = &self.masks;
        self.target.attach(nexus(number), port.clone(), |lun| {
            masks.get(&lun).is_none_or(|&mask| is_shown(mask, &port))
        });
    }

    fn start(&mut self, nexus: NexusId, lun: u8, cdb: &Cdb, data_out: &DataOut, wait: bool) {
        let cdb = cdb_bytes(cdb);
        let data_out = data_bytes(data_out, &cdb);
        let transfer = expected_transfer(&cdb);
        let wanted = if transfer.direction == Direction::Out { transfer.len_bytes } else { 0 };
        assert!(!transfer.inspected || transfer.len_bytes <= MAX_PARAMETER_BYTES, "{cdb:02x?}");
        let collected = data_out.len().min(usize::try_from(wanted).unwrap_or(usize::MAX));
        let lun = match lun {
            0..0xe0 => [0, lun & 1, 0, 0, 0, 0, 0, 0],
            _ => [lun & 0x4f, lun, 0, lun & 1, 0, 0, 0, 0],
        };
        let parameters = if transfer.inspected { data_out[..collected].to_vec() } else { Vec::new() };
        let offered_len = data_out.len() as u64;
        let command = Command { nexus, lun, cdb: &cdb, offered_len, parameters: &parameters };
        let step = self.target.execute(&command);
        self.take(step, nexus, lun, &cdb, offered_len, &parameters, 0, wait);
    }

    #[expect(clippy::too_many_arguments, reason = "a command's parts, borrowed and owned")]
    fn take(
        &mut self,
        step: Step,
        nexus: NexusId,
        lun: [u8; 8],
        cdb: &[u8],
        offered_len: u64,
        parameters: &[u8],
        steps: usize,
        wait: bool,
    ) {
        match step {
            Step::Done(response) => check_response(&response, cdb, parameters),
            Step::Backend(operation, continuation) => {
                assert!(steps < MOST_STEPS, "{cdb:02x?} never ends");
                self.check_operation(&operation, lun, cdb, offered_len);
                let (cdb, parameters) = (cdb.to_vec(), parameters.to_vec());
                let steps = steps + 1;
                let waiting =
                    Waiting { nexus, lun, cdb, offered_len, parameters, operation, continuation, steps };
                if wait && self.waiting.len() < 16 {
                    self.waiting.push(waiting);
                } else {
                    self.resume(waiting, End::Done, false);
                }
            }
        }
    }

    fn resume(&mut self, waiting: Waiting, end: End, wait: bool) {
        let Waiting { nexus, lun, cdb, offered_len, parameters, operation, continuation, steps } = waiting;
        let command = Command { nexus, lun, cdb: &cdb, offered_len, parameters: &parameters };
        let outcome = outcome(&operation, end);
        if let (Operation::Reserve(state), Outcome::Done, Some(lun)) =
            (&operation, &outcome, scsi::lun::decode(lun))
        {
            self.target.set_reservations(lun, state);
        }
        let step = self.target.resume(&command, continuation, outcome);
        self.take(step, nexus, lun, &cdb, offered_len, &parameters, steps, wait);
    }

    fn check_operation(&self, operation: &Operation, lun: [u8; 8], cdb: &[u8], offered_len: u64) {
        let (extent, data_blocks) = match operation {
            Operation::Read(extent) | Operation::Verify(extent) | Operation::Provisioning(extent) => {
                (extent, 0)
            }
            Operation::Write { extent, .. }
            | Operation::Compare(extent)
            | Operation::OrWrite { extent, .. } => (extent, extent.blocks),
            Operation::CompareAndWrite { extent, .. } => (extent, 2 * extent.blocks),
            Operation::Fill(extent) | Operation::CompareFill(extent) => (extent, 1),
            Operation::Zero { extent, .. } => (extent, 0),
            _ => return,
        };
        let number = scsi::lun::decode(lun).expect("an operation at no unit");
        let blocks = self.target.unit(number).map_or(MOST_BLOCKS, |unit| unit.config().blocks);
        let end = extent.lba.0.checked_add(extent.blocks);
        assert!(
            extent.blocks > 0 && end.is_some_and(|end| end <= blocks),
            "{cdb:02x?}: {operation:?} of {blocks}"
        );
        // What the operation takes of data-out, the initiator has offered and the transport has collected.
        let needed = data_blocks * u64::from(LOGICAL_BLOCK_BYTES);
        let collected = offered_len.min(expected_transfer(cdb).len_bytes);
        assert!(needed <= collected, "{cdb:02x?}: {operation:?} takes {needed} of {collected} bytes");
    }
}

/// How the operation ended: never in a way that it can't.
fn outcome(operation: &Operation, end: End) -> Outcome {
    let extent = match operation {
        Operation::Read(extent) | Operation::Verify(extent) | Operation::Provisioning(extent) => *extent,
        _ => Extent { lba: Lba(0), blocks: 1 },
    };
    let at = |off: u16| Lba(extent.lba.0 + u64::from(off) % extent.blocks);
    match end {
        End::Unreadable(off) => Outcome::Failed(Fault::Unreadable(at(off))),
        End::Unwritable(off) => Outcome::Failed(Fault::Unwritable(at(off))),
        End::OutOfSpace => Outcome::Failed(Fault::OutOfSpace),
        End::NotServed => Outcome::Failed(Fault::NotServed),
        End::Internal => Outcome::Failed(Fault::Internal),
        End::Miscompare(offset) => Outcome::Miscompare { offset_bytes: u64::from(offset) },
        End::Done | End::Unmapped => match operation {
            Operation::Provisioning(extent) => {
                Outcome::Provisioning { mapped: matches!(end, End::Done), blocks: extent.blocks }
            }
            _ => Outcome::Done,
        },
    }
}

fn check_response(response: &Response, cdb: &[u8], parameters: &[u8]) {
    let transfer = expected_transfer(cdb);
    let len = response.data_in.len_bytes();
    assert_eq!(response.sense.is_some(), response.status == Status::CheckCondition, "{cdb:02x?}");
    assert!(len == 0 || transfer.direction == Direction::In, "{cdb:02x?}: {len} bytes against its direction");
    assert!(len <= transfer.len_bytes, "{cdb:02x?}: {len} bytes of {}", transfer.len_bytes);
    assert!(len == 0 || response.status == Status::Good, "{cdb:02x?}: data with {:?}", response.status);
    if let DataIn::Medium { len_bytes } = response.data_in {
        assert!(len_bytes.is_multiple_of(u64::from(LOGICAL_BLOCK_BYTES)));
    }
    let Some(sense) = &response.sense else { return };
    let (bytes, field) = (sense.encode(), sense.field);
    let bytes = bytes.as_slice();
    match bytes[0] & 0x7f {
        0x70 => assert_eq!((bytes.len(), bytes[7]), (18, 10)),
        0x72 => assert_eq!(usize::from(bytes[7]) + 8, bytes.len()),
        code => panic!("sense of response code {code:#x}"),
    }
    if let Some(field) = field {
        let of = if field.in_cdb { cdb.len().max(16) } else { parameters.len().max(1) };
        assert!(usize::from(field.byte) < of, "{cdb:02x?}: {sense:?} points beyond {of} bytes");
    }
}

fn cdb_bytes(cdb: &Cdb) -> Vec<u8> {
    /// Opcode and service action of what is known, and of some neighbours.
    const KNOWN: &[(u8, u8)] = &[
        (0x00, 0),
        (0x03, 0),
        (0x08, 0),
        (0x0a, 0),
        (0x12, 0),
        (0x15, 0),
        (0x16, 0),
        (0x17, 0),
        (0x1a, 0),
        (0x1b, 0),
        (0x1d, 0),
        (0x25, 0),
        (0x28, 0),
        (0x2a, 0),
        (0x2e, 0),
        (0x2f, 0),
        (0x34, 0),
        (0x35, 0),
        (0x37, 0),
        (0x41, 0),
        (0x42, 0),
        (0x4d, 0),
        (0x55, 0),
        (0x56, 0),
        (0x57, 0),
        (0x5a, 0),
        (0x5e, 0),
        (0x5e, 1),
        (0x5e, 2),
        (0x5e, 3),
        (0x5f, 0),
        (0x5f, 1),
        (0x5f, 2),
        (0x5f, 3),
        (0x5f, 4),
        (0x5f, 5),
        (0x5f, 6),
        (0x5f, 7),
        (0x83, 0),
        (0x83, 1),
        (0x83, 0x10),
        (0x83, 0x11),
        (0x83, 0x1c),
        (0x84, 0),
        (0x84, 1),
        (0x84, 3),
        (0x84, 4),
        (0x84, 5),
        (0x84, 7),
        (0x88, 0),
        (0x89, 0),
        (0x8a, 0),
        (0x8b, 0),
        (0x8e, 0),
        (0x8f, 0),
        (0x90, 0),
        (0x91, 0),
        (0x93, 0),
        (0x9e, 0x10),
        (0x9e, 0x12),
        (0x9f, 0x11),
        (0xa0, 0),
        (0xa3, 0x0a),
        (0xa3, 0x0c),
        (0xa3, 0x0d),
        (0xa4, 0x0a),
        (0xa8, 0),
        (0xaa, 0),
        (0xae, 0),
        (0xaf, 0),
        (0xb7, 0),
    ];
    match cdb {
        Cdb::Any(bytes) => bytes[..bytes.len().min(40)].to_vec(),
        Cdb::Known { which, bytes, keep } => {
            let (code, action) = KNOWN[usize::from(*which) % KNOWN.len()];
            let mut cdb = *bytes;
            for (at, byte) in cdb.iter_mut().enumerate() {
                if keep >> at & 1 == 0 {
                    *byte = 0;
                }
            }
            cdb[0] = code;
            if matches!(code, 0x5e | 0x5f | 0x83 | 0x84 | 0x9e | 0x9f | 0xa3 | 0xa4) {
                cdb[1] = cdb[1] & 0xe0 | action;
            }
            cdb.to_vec()
        }
    }
}

fn data_bytes(data_out: &DataOut, cdb: &[u8]) -> Vec<u8> {
    match data_out {
        // Just what the command takes, where that is little.
        DataOut::Zeroes(0) => {
            let transfer = expected_transfer(cdb);
            let len = if transfer.direction == Direction::Out { transfer.len_bytes.min(1 << 20) } else { 0 };
            vec![0; usize::try_from(len).unwrap()]
        }
        DataOut::Zeroes(len) => vec![0; usize::from(*len)],
        DataOut::Bytes(bytes) => bytes.clone(),
        DataOut::Listed(bytes) => {
            let mut list = Vec::new();
            list.extend_from_slice(&u16::try_from(bytes.len() + 6).unwrap_or(u16::MAX).to_be_bytes());
            list.extend_from_slice(&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes());
            list.extend_from_slice(&[0; 4]);
            list.extend_from_slice(bytes);
            list
        }
    }
}
