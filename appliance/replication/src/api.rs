//! What goes in and what comes out of a [`Replica`](crate::Replica).

use alloc::{string::String, vec::Vec};
use base::{ByteCount, ClusterId, Epoch, InstanceId, LOGICAL_BLOCK_BYTES, Lba, NodeId, Proposal, ReplicaId};
use base::{SessionId, VolumeId};
use core::{fmt, ops::Range, time::Duration};

use crate::frame::Frame;

/// Longest range of one client request; callers split what is longer.
pub const MAX_REQUEST_BYTES: u32 = 8 << 20;

/// A handle on bytes that the engine passes on and never copies: cheap to clone, all clones show the same bytes,
/// which don't change while a clone lives.
pub trait Buffer: Clone {
    /// Length in bytes.
    fn len(&self) -> usize;
    /// No bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// A handle on a part; the range lies inside `0..len()`.
    #[must_use]
    fn slice(&self, range: Range<usize>) -> Self;
    /// CRC32C of the bytes (S17). An implementation may remember it, from when the bytes entered the process.
    fn crc32c(&self) -> u32;
}

/// Whose copy of what this is. Stands in every metadata record (S12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The volume.
    pub volume: VolumeId,
    /// The node that holds this copy.
    pub node: NodeId,
    /// This copy.
    pub replica: ReplicaId,
}

/// Time-outs that the replica needs; the same on all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a granted lease lasts (S5).
    pub lease: Duration,
    /// Allowance for clock drift over one lease (S5).
    pub drift: Duration,
    /// How often an unanswered proposal is sent again (S21).
    pub renew: Duration,
    /// Silence of the peer after which the primary goes on without it (S2).
    pub peer: Duration,
}

/// What a process tells its replica at start.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// This start of the storage process (S6).
    pub instance: InstanceId,
    /// Time-outs.
    pub timing: Timing,
}

/// Names a client request; drawn by the driver, unique among those not yet answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names a disk operation until it is completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskToken(pub u64);

/// Logical blocks `lba .. lba + blocks`, of 512 bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRange {
    /// The first.
    pub lba: Lba,
    /// How many.
    pub blocks: u32,
}

impl BlockRange {
    /// Offset from the start of the volume and length, both in bytes; `None` if they overflow.
    pub(crate) fn bytes(self) -> Option<Span> {
        let offset = self.lba.byte_offset()?.0;
        let len = self.blocks.checked_mul(LOGICAL_BLOCK_BYTES)?;
        offset.checked_add(u64::from(len))?;
        Some(Span { offset, len })
    }
}

/// A byte range of the data area. `offset + len` does not overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Bytes from the start.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) len: u32,
}

impl Span {
    /// The first byte after it.
    pub(crate) fn end(self) -> u64 {
        self.offset.saturating_add(u64::from(self.len))
    }
}

/// What an initiator wants.
#[derive(Clone, Debug)]
pub enum Op<B> {
    /// Read blocks.
    Read(BlockRange),
    /// Write `data` (a multiple of 512 bytes) at `lba`.
    Write {
        /// Where.
        lba: Lba,
        /// What.
        data: B,
        /// Answer only when durable, write-back or not.
        fua: bool,
    },
    /// Make blocks read as zero; `unmap` allows the space to be given back. Same bytes on every replica (S1).
    Zero {
        /// Where.
        range: BlockRange,
        /// Give the space back.
        unmap: bool,
    },
    /// Read blocks, ask the driver by [`Command::Compare`], write what it answers, all under one lock (S16).
    CompareAndWrite(BlockRange),
    /// Answer when all that was answered before is durable on every in-sync replica.
    Flush,
}

/// A request of an initiator.
#[derive(Clone, Debug)]
pub struct Request<B> {
    /// Its name.
    pub id: RequestId,
    /// What it wants.
    pub op: Op<B>,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// This node does not serve the volume (any more). The initiator must get no answer at all: close its
    /// connection, it will find the node that serves (S5, S13).
    NotServing,
    /// Outside the volume, empty, longer than [`MAX_REQUEST_BYTES`].
    OutOfRange,
    /// The disk of this node could not read or write just these blocks (S11): a medium error.
    Medium,
    /// Aborted before it started (S16).
    Aborted,
}

/// A request that succeeded.
#[derive(Clone, Debug)]
pub enum Answer<B> {
    /// Written, zeroed or flushed.
    Done,
    /// Read.
    Data(B),
    /// [`Op::CompareAndWrite`] found other data; nothing was written.
    Miscompare,
}

/// A disk operation. Offsets and lengths are in bytes. Metadata operations are multiples of 4096, data operations of
/// 512; never two data operations that touch the same 4096-byte block, one of them writing, at the same time.
#[derive(Clone, Debug)]
pub enum DiskOp<B> {
    /// Write `bytes` to the metadata area, durably (RWF_DSYNC): complete only when a power cut can't undo it.
    WriteMeta {
        /// From the start of the metadata area.
        offset: u64,
        /// A whole number of 4096-byte records.
        bytes: Vec<u8>,
    },
    /// Write to the data area.
    Write {
        /// From the start of the data area.
        offset: u64,
        /// What.
        data: B,
        /// Complete only when a power cut can't undo it.
        durable: bool,
    },
    /// Read from the data area into a new buffer.
    Read {
        /// From the start of the data area.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// Make a range of the data area read as zero.
    Zero {
        /// From the start of the data area.
        offset: u64,
        /// Bytes.
        len: u32,
        /// The space may be given back.
        unmap: bool,
        /// Complete only when a power cut can't undo it.
        durable: bool,
    },
}

/// How a disk operation ended.
#[derive(Clone, Debug)]
pub enum DiskResult<B> {
    /// A write or zeroing.
    Done,
    /// What was read, of the length asked for.
    Data(B),
    /// Failed; nothing is known of the blocks that it was to write.
    Failed,
}

/// What the driver must do, in this order.
#[derive(Clone, Debug)]
pub enum Command<B> {
    /// Start a disk operation; answer with `handle_disk`.
    Disk {
        /// Its name.
        token: DiskToken,
        /// What to do.
        op: DiskOp<B>,
    },
    /// Send a frame, and its payload after it, on an open session; in order, dropped if the session is gone.
    Send {
        /// Which session.
        session: SessionId,
        /// Header and body.
        frame: Frame,
        /// Payload; its length and checksum stand in the header.
        payload: Option<B>,
    },
    /// End a request. Judge the lease once more before the bytes leave (S5).
    Reply {
        /// Which request.
        id: RequestId,
        /// How it ended.
        result: Result<Answer<B>, RequestError>,
    },
    /// Compare for [`Op::CompareAndWrite`]; answer with `handle_compared`.
    Compare {
        /// Which request.
        id: RequestId,
        /// What the blocks hold.
        data: B,
    },
    /// Propose a change; the engine sends it again (same id) until it knows how it ended.
    Propose(Proposal),
    /// Connect to the peer's replication port for this volume; answer with `handle_session_opened` under a newly drawn
    /// session id, or `handle_dial_failed`.
    Dial {
        /// Whom.
        peer: NodeId,
    },
    /// Close a session; what is queued on it need not be sent.
    Close {
        /// Which.
        session: SessionId,
    },
    /// The volume is (true) or is no longer (false) served to initiators here. On false: answer nothing more,
    /// close the initiators' sessions, drop the floating address.
    Serving(bool),
    /// The hand-over asked for can't be done, and why; the volume is served here as before.
    HandOverFailed(String),
    /// Something that an administrator must know.
    Problem(Problem),
    /// After `handle_stop`: nothing is in flight any more, drop the replica.
    Stopped,
}

/// Something that an administrator must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The disk failed to write; the copy is not used any more until the process restarts (S11).
    DiskWriteFailed {
        /// Metadata (else data).
        metadata: bool,
    },
    /// The disk does not answer; the copy is not used while that lasts, if another one is in sync (S11).
    DiskHangs,
    /// The disk failed to read here.
    DiskReadFailed {
        /// Offset in the data area, bytes.
        offset: u64,
    },
    /// The peer's data arrived damaged; the session was closed (S17).
    PayloadChecksum,
    /// The peer sent what the protocol does not allow; the session was closed.
    Protocol(&'static str),
    /// The peer refuses this replica.
    Refused(crate::frame::RefuseReason),
    /// The committed configuration asks for something that this version can't do.
    Unsupported(&'static str),
    /// The peer's copy does not continue where this one left it: it gets everything (S7).
    FullResync,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DiskWriteFailed { metadata: true } => f.write_str("disk failed to write replica metadata"),
            Self::DiskWriteFailed { metadata: false } => f.write_str("disk failed to write data"),
            Self::DiskHangs => f.write_str("disk does not answer"),
            Self::DiskReadFailed { offset } => write!(f, "disk failed to read data at byte {offset}"),
            Self::PayloadChecksum => f.write_str("data from the peer arrived damaged"),
            Self::Protocol(what) => write!(f, "peer broke the replication protocol: {what}"),
            Self::Refused(reason) => write!(f, "peer refuses this replica: {reason}"),
            Self::Unsupported(what) => write!(f, "not supported: {what}"),
            Self::FullResync => f.write_str("peer's copy has another past: it is resynced in full"),
        }
    }
}

/// What the replica knows of itself, for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The highest epoch that it acts in (durable).
    pub epoch: Epoch,
    /// The copy may be served if the cluster says so: not marked inconsistent (S10), disk not failed, does not hang.
    pub usable: bool,
    /// Served to initiators here.
    pub serving: bool,
    /// A session with the peer is open for writes.
    pub connected: bool,
    /// Bytes that the peer may lack.
    pub dirty: ByteCount,
    /// A resync that runs from here.
    pub resync: Option<ResyncStatus>,
    /// Bytes that resyncs have moved from here since the process started.
    pub resynced_total: ByteCount,
    /// Payloads that arrived damaged since the process started (S17).
    pub checksum_errors: u64,
    /// Size that initiators may use (S22).
    pub size: ByteCount,
    /// Size that this copy has room for (S22).
    pub room: ByteCount,
}

/// A resync, seen from its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResyncStatus {
    /// Who is being brought up to date.
    pub target: NodeId,
    /// Bytes to move when it began.
    pub total: ByteCount,
    /// Bytes still to move.
    pub left: ByteCount,
    /// Recent rate.
    pub bytes_per_s: u64,
}
