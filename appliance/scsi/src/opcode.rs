//! What is known of a command besides its handler: one [`Opcode`] per opcode and service action. [`crate::table`] lists
//! them.

use crate::cdb::Cdb;
use crate::command::{Command, Direction, MAX_PARAMETER_BYTES, Step, Transfer};
use crate::limits::MAX_TRANSFER_BLOCKS;
use crate::sense::Sense;
use crate::table::TABLE;
use crate::target::{Call, Target};
use crate::unit::UnitConfig;
use base::LOGICAL_BLOCK_BYTES;

/// One command.
pub(crate) struct Opcode {
    pub(crate) name: &'static str,
    pub(crate) code: u8,
    /// `None` where the opcode has no service actions.
    pub(crate) service_action: Option<u16>,
    /// CDB usage data (SPC-4 §6.35.3): as long as the CDB; opcode and service action in place, then a bit for each that is
    /// evaluated.
    pub(crate) usage: &'static [u8],
    pub(crate) data: Data,
    pub(crate) rights: Rights,
    pub(crate) medium: Medium,
    pub(crate) available: Available,
    pub(crate) handler: Handler,
}

/// Who runs a command.
#[derive(Clone, Copy)]
pub(crate) enum Handler {
    /// The target, with or without a logical unit at the LUN. These three commands also leave unit attentions pending
    /// (SAM-5 §5.14): INQUIRY, REPORT LUNS, REQUEST SENSE.
    Target(fn(&mut Target, &Command<'_>, &Cdb) -> Result<Step, Sense>),
    /// A logical unit.
    Unit(fn(&mut Call<'_>) -> Result<Step, Sense>),
}

/// What a nexus may do while another holds a reservation: the rows of SPC-4 table 66, SBC-3 table 13 and SPC-2 table 10
/// that occur here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rights {
    /// Always allowed.
    Always,
    /// Allowed past persistent reservations; conflicts with RESERVE of another.
    PastPersistent,
    /// Allowed past write exclusive; conflicts with exclusive access, and with RESERVE of another.
    Read,
    /// Conflicts with every reservation of another.
    Write,
    /// START STOP UNIT: with START and no power condition as `Always`, else as `Write`.
    StartStop,
    /// PERSISTENT RESERVE IN and OUT: conflict with RESERVE of anyone; OUT checks keys itself.
    Persistent,
    /// RESERVE and RELEASE: check themselves, conflict with any registration.
    Scsi2,
}

/// What a command needs of the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Medium {
    /// Nothing: answered while the unit is not served, too.
    Unneeded,
    /// A served unit.
    Needed,
    /// A served unit that is not write protected.
    Modified,
}

/// On which units a command exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Available {
    /// All.
    Always,
    /// Those that give space back.
    Thin,
}

/// How a CDB tells its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    None,
    /// Allocation length of one byte, at.
    In8(usize),
    /// Allocation length of two bytes, at.
    In16(usize),
    /// Allocation length of four bytes, at.
    In32(usize),
    /// A fixed number of bytes in.
    InFixed(u64),
    /// The block range, in.
    InBlocks,
    /// The block range, out.
    OutBlocks,
    /// COMPARE AND WRITE: twice the block range.
    OutCompare,
    /// VERIFY: by BYTCHK nothing, the block range, or one block.
    OutVerify,
    /// WRITE SAME (10): one block.
    OutPattern,
    /// WRITE SAME (16): one block unless NDOB.
    OutPatternUnlessNdob,
    /// Parameter list length of one byte, at.
    List8(usize),
    /// Parameter list length of two bytes, at.
    List16(usize),
    /// Parameter list length of four bytes, at.
    List32(usize),
}

impl Data {
    /// What the CDB says. Lengths that the device server refuses count as none: they need not be collected.
    pub(crate) fn transfer(self, cdb: &Cdb) -> Transfer {
        let block = u64::from(LOGICAL_BLOCK_BYTES);
        let data_in = |len_bytes| Transfer { direction: Direction::In, len_bytes, inspected: false };
        let pattern = Transfer { direction: Direction::Out, len_bytes: block, inspected: true };
        let blocks = |direction, blocks: u64, copies: u64| {
            if blocks == 0 || blocks > MAX_TRANSFER_BLOCKS {
                return Transfer::NONE;
            }
            Transfer { direction, len_bytes: blocks * block * copies, inspected: false }
        };
        let list = |len_bytes: u64| {
            if len_bytes == 0 || len_bytes > MAX_PARAMETER_BYTES {
                return Transfer::NONE;
            }
            Transfer { direction: Direction::Out, len_bytes, inspected: true }
        };
        match self {
            Self::None => Transfer::NONE,
            Self::In8(at) => data_in(u64::from(cdb.byte(at))),
            Self::In16(at) => data_in(u64::from(cdb.u16(at))),
            Self::In32(at) => data_in(u64::from(cdb.u32(at))),
            Self::InFixed(len_bytes) => data_in(len_bytes),
            Self::InBlocks => blocks(Direction::In, cdb.range().blocks, 1),
            Self::OutBlocks => blocks(Direction::Out, cdb.range().blocks, 1),
            Self::OutCompare => blocks(Direction::Out, cdb.compare_range().blocks, 2),
            Self::OutVerify => match cdb.byte(1) >> 1 & 3 {
                1 => blocks(Direction::Out, cdb.range().blocks, 1),
                3 => blocks(Direction::Out, cdb.range().blocks.min(1), 1),
                _ => Transfer::NONE,
            },
            Self::OutPattern => pattern,
            Self::OutPatternUnlessNdob if cdb.bit(1, 0) => Transfer::NONE,
            Self::OutPatternUnlessNdob => pattern,
            Self::List8(at) => list(u64::from(cdb.byte(at))),
            Self::List16(at) => list(u64::from(cdb.u16(at))),
            Self::List32(at) => list(u64::from(cdb.u32(at))),
        }
    }
}

impl Opcode {
    /// The entry for a CDB. `Err`: 5/20/00 for an unknown opcode, 5/24/00 for an unknown service action.
    pub(crate) fn find(cdb: &Cdb) -> Result<&'static Self, Sense> {
        let family = Self::family(cdb.opcode());
        if family.is_empty() {
            return Err(Sense::illegal(crate::sense::Asc::INVALID_OPCODE));
        }
        family
            .iter()
            .find(|entry| entry.service_action.is_none_or(|action| action == cdb.service_action()))
            .ok_or(Sense::invalid_cdb_bit(1, 4))
    }

    /// Every entry with that opcode; the table is sorted by opcode.
    pub(crate) fn family(code: u8) -> &'static [Self] {
        let start = TABLE.partition_point(|entry| entry.code < code);
        let rest = TABLE.get(start..).unwrap_or(&[]);
        let len = rest.partition_point(|entry| entry.code == code);
        rest.get(..len).unwrap_or(&[])
    }

    /// Whether a unit knows the command.
    pub(crate) fn exists_on(&self, unit: &UnitConfig) -> bool {
        match self.available {
            Available::Always => true,
            Available::Thin => unit.thin,
        }
    }

    /// Index of the CONTROL byte: the last one.
    pub(crate) fn control_at(&self) -> usize {
        self.usage.len().saturating_sub(1)
    }
}
