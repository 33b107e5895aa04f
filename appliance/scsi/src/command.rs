//! What goes in and out of the device server: commands, backend operations, outcomes, responses.

use crate::sense::Sense;
use alloc::{boxed::Box, vec::Vec};
use base::{Lba, Reservations};

/// One I_T nexus (a session), as the transport names it. Unique while the target lives, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NexusId(pub u64);

/// One SCSI command, as the transport received it. Kept by the caller until the response, and passed again to
/// [`crate::Target::resume`].
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    /// Who asks.
    pub nexus: NexusId,
    /// The LUN field, 8 bytes as on the wire (SAM-5 §4.7).
    pub lun: [u8; 8],
    /// The CDB: 16 bytes, shorter ones padded with zeroes (RFC 7143 §11.3); longer ones are refused.
    pub cdb: &'a [u8],
    /// Data-out bytes that the initiator offers: its expected length (iSCSI: EDTL of a command with the W bit), 0
    /// without data-out. May be less or more than the CDB wants; the transport collects the lesser of both.
    pub offered_len: u64,
    /// The bytes collected, where [`Transfer::inspected`] says that the device server reads them; otherwise empty.
    pub parameters: &'a [u8],
}

/// Which way a command moves data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// No data.
    None,
    /// To the initiator.
    In,
    /// From the initiator.
    Out,
}

/// What a CDB says about its data, before it is executed. For [`Direction::In`] `len_bytes` is the most there can be;
/// the response may hold less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Which way.
    pub direction: Direction,
    /// How much. The transport compares it with the initiator's expected length for the residual of data-out.
    pub len_bytes: u64,
    /// The device server reads the data-out bytes itself ([`Command::parameters`]); never more than
    /// [`MAX_PARAMETER_BYTES`].
    pub inspected: bool,
}

/// Longest parameter list that a command may bring, in bytes. Longer ones are refused without reading them.
pub const MAX_PARAMETER_BYTES: u64 = 65536;

impl Transfer {
    /// No data.
    pub const NONE: Self = Self { direction: Direction::None, len_bytes: 0, inspected: false };
}

/// A run of logical blocks. An operation never has an empty one, nor one that ends past the unit's capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First block.
    pub lba: Lba,
    /// How many.
    pub blocks: u64,
}

/// What the device server asks of whoever holds the data. "Data-out" and "data-in" are the command's own buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Read into data-in. [`Outcome::Done`].
    Read(Extent),
    /// Write the extent from the start of data-out.
    Write {
        /// Where.
        extent: Extent,
        /// Force unit access: durable before it is done (S1), write-back cache or not.
        fua: bool,
    },
    /// Write the one block that is data-out to every block of the extent.
    Fill(Extent),
    /// Make the extent read as zeroes. Data-out, if any, is not looked at.
    Zero {
        /// Where.
        extent: Extent,
        /// Space may be given back.
        deallocate: bool,
    },
    /// Everything written before is durable on every in-sync replica (S1).
    Flush,
    /// Prove that the extent can be read. [`Outcome::Done`].
    Verify(Extent),
    /// Compare the extent with data-out. [`Outcome::Done`] or [`Outcome::Miscompare`].
    Compare(Extent),
    /// Compare every block of the extent with the one block that is data-out. [`Outcome::Done`] or
    /// [`Outcome::Miscompare`].
    CompareFill(Extent),
    /// Under one range lock (S16): compare the extent with the first half of data-out; if equal, write the second half.
    /// [`Outcome::Done`], or [`Outcome::Miscompare`] with nothing changed.
    CompareAndWrite {
        /// Where; half as long as data-out.
        extent: Extent,
        /// Force unit access.
        fua: bool,
    },
    /// Under one range lock (S18): replace the extent by itself OR data-out.
    OrWrite {
        /// Where.
        extent: Extent,
        /// Force unit access.
        fua: bool,
    },
    /// Whether blocks from the extent's first on have space of their own. [`Outcome::Provisioning`].
    Provisioning(Extent),
    /// Abort every task of these nexuses on this logical unit and wait until each has settled (PREEMPT AND ABORT).
    AbortTasks(Vec<NexusId>),
    /// Have the cluster commit this state of the unit's persistent reservations (S15). [`Outcome::Done`] once it is
    /// committed; [`Fault::Contended`] if another state was.
    Reserve(Box<Reservations>),
}

/// How an [`Operation`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As asked.
    Done,
    /// The first byte that differs, counted from the start of the extent.
    Miscompare {
        /// Bytes before it.
        offset_bytes: u64,
    },
    /// The blocks at the start of the extent that share a state.
    Provisioning {
        /// They have space.
        mapped: bool,
        /// How many, from the extent's first block; at least 1.
        blocks: u64,
    },
    /// Not done.
    Failed(Fault),
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The block can't be read from any copy.
    Unreadable(Lba),
    /// The block can't be written, and no other copy took it.
    Unwritable(Lba),
    /// No space left behind a thin volume.
    OutOfSpace,
    /// The volume is not served here (any more). Prefer dropping the connection: this answers 2/04/0A.
    NotServed,
    /// Another change came first; the command is to be tried again.
    Contended,
    /// Anything else.
    Internal,
}

/// Where a command that waits for its operation goes on. Small, and meaningless without its [`Command`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuation {
    /// Done ends the command; no data-in.
    Finish,
    /// Done ends the command; data-in holds this many bytes of medium data.
    FinishRead {
        /// Length of data-in.
        len_bytes: u64,
    },
    /// WRITE AND VERIFY: the write is done.
    VerifyWritten,
    /// UNMAP: descriptors before this one are done.
    Unmap {
        /// Index of the next block descriptor.
        next: u16,
    },
    /// GET LBA STATUS: the state of the first blocks.
    LbaStatus,
    /// PERSISTENT RESERVE OUT: the unit's change of that number.
    Reserve {
        /// Which change.
        change: u64,
    },
}

/// What [`crate::Target::execute`] and [`crate::Target::resume`] answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The command is finished.
    Done(Response),
    /// Run the operation, then call [`crate::Target::resume`] with its outcome.
    Backend(Operation, Continuation),
}

/// SCSI status (SAM-5 §5.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// GOOD.
    Good = 0x00,
    /// CHECK CONDITION.
    CheckCondition = 0x02,
    /// CONDITION MET (PRE-FETCH: the blocks fit into the cache).
    ConditionMet = 0x04,
    /// BUSY.
    Busy = 0x08,
    /// RESERVATION CONFLICT.
    ReservationConflict = 0x18,
}

/// What the initiator gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// SCSI status.
    pub status: Status,
    /// Sense data, exactly with [`Status::CheckCondition`].
    pub sense: Option<Sense>,
    /// Data-in, already cut to the CDB's allocation length. The transport cuts it to what the initiator expects.
    pub data_in: DataIn,
}

/// Data for the initiator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataIn {
    /// None.
    None,
    /// Medium data, in the buffer that the caller's read filled.
    Medium {
        /// How much.
        len_bytes: u64,
    },
    /// Parameter data.
    Parameters(Vec<u8>),
}

impl DataIn {
    /// Length in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Medium { len_bytes } => *len_bytes,
            Self::Parameters(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        }
    }
}

impl Response {
    /// GOOD without data.
    #[must_use]
    pub fn good() -> Self {
        Self { status: Status::Good, sense: None, data_in: DataIn::None }
    }

    /// GOOD with parameter data.
    #[must_use]
    pub fn parameters(bytes: Vec<u8>) -> Self {
        Self { status: Status::Good, sense: None, data_in: DataIn::Parameters(bytes) }
    }

    /// A status without data or sense.
    #[must_use]
    pub fn status(status: Status) -> Self {
        Self { status, sense: None, data_in: DataIn::None }
    }
}

impl From<Sense> for Response {
    fn from(sense: Sense) -> Self {
        Self { status: Status::CheckCondition, sense: Some(sense), data_in: DataIn::None }
    }
}
