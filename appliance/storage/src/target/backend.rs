//! What the target asks of whoever holds the blocks.

use base::{LOGICAL_BLOCK_BYTES, Lba, Reservations, VolumeId};
use disk::{Buffer, BufferPool};

/// Longest request, bytes; longer commands are split.
pub const MAX_REQUEST_BYTES: u32 = replication::MAX_REQUEST_BYTES;

/// Names a request until it is answered; unique among those that are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A request to a volume.
#[derive(Clone, Debug)]
pub struct BackendRequest {
    /// Its name.
    pub id: RequestId,
    /// Whose blocks.
    pub volume: VolumeId,
    /// What to do.
    pub op: BackendOp,
}

/// What to do. Block counts are in logical blocks of 512 bytes, not zero, within the volume and within
/// [`MAX_REQUEST_BYTES`].
#[derive(Clone, Debug)]
pub enum BackendOp {
    /// Answered with [`Reply::Data`] of exactly that length.
    Read {
        /// First block.
        lba: Lba,
        /// How many.
        blocks: u32,
    },
    /// Write.
    Write {
        /// First block.
        lba: Lba,
        /// Whole blocks.
        data: Buffer,
        /// Durable before it is answered, write-back or not.
        fua: bool,
    },
    /// Make blocks read as zero.
    Zero {
        /// First block.
        lba: Lba,
        /// How many.
        blocks: u32,
        /// The space may be given back.
        unmap: bool,
    },
    /// Everything answered before is durable on every in-sync replica (S1).
    Flush,
    /// Under one range lock (S16, S18): read, decide by [`Update::decide`], write what it says, or answer
    /// [`Reply::Miscompare`].
    Update {
        /// First block.
        lba: Lba,
        /// How many.
        blocks: u32,
        /// What depends on what was read.
        update: Update,
    },
    /// Have the cluster commit these reservations (S15): [`Reply::Done`] once they are, [`Reply::Contended`] if others
    /// were.
    Reserve(Box<Reservations>),
}

/// A write that depends on what stands there.
#[derive(Clone, Debug)]
pub enum Update {
    /// COMPARE AND WRITE: `write` where `expected` stands there.
    CompareAndWrite {
        /// What must stand there.
        expected: Buffer,
        /// What replaces it.
        write: Buffer,
    },
    /// ORWRITE.
    Or {
        /// Bits to set.
        data: Buffer,
    },
}

/// What an [`Update`] decides.
#[derive(Debug)]
pub enum Decision {
    /// Write this.
    Write(Buffer),
    /// Write nothing; the byte at this offset is the first that differs.
    Miscompare(u64),
    /// There is no memory for the result.
    OutOfMemory,
}

impl Update {
    /// Decides on the bytes that stand there now.
    #[must_use]
    pub fn decide(&self, current: &[u8], buffers: &BufferPool) -> Decision {
        match self {
            Self::CompareAndWrite { expected, write } => match first_difference(current, expected.as_slice())
            {
                Some(offset) => Decision::Miscompare(offset),
                None => Decision::Write(write.clone()),
            },
            Self::Or { data } => match buffers.take_urgent(current.len()) {
                Ok(mut result) => {
                    let bits = current.iter().zip(data.as_slice()).map(|(old, new)| old | new);
                    result.as_mut_slice().iter_mut().zip(bits).for_each(|(byte, value)| *byte = value);
                    Decision::Write(result.freeze())
                }
                Err(_) => Decision::OutOfMemory,
            },
        }
    }
}

/// Offset of the first byte that differs; a missing byte differs.
pub(super) fn first_difference(a: &[u8], b: &[u8]) -> Option<u64> {
    if a == b {
        return None;
    }
    let shorter = a.len().min(b.len());
    let offset = a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(shorter);
    u64::try_from(offset).ok()
}

/// How a request ended.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Written, zeroed, flushed or committed.
    Done,
    /// Read.
    Data(Buffer),
    /// An [`Update`] found something else; nothing was written. Bytes before the first that differs.
    Miscompare(u64),
    /// These blocks can't be read or written (S11).
    Medium,
    /// No space is left behind a thin volume.
    OutOfSpace,
    /// It was aborted before it started (S16).
    Aborted,
    /// The volume is not served here (any more). The initiator gets no answer: its connection is closed (S5, S13).
    NotServed,
    /// Another change of the reservations came first.
    Contended,
    /// Anything else.
    Failed,
}

/// The holder of the blocks: the replication engine, or memory in tests.
pub trait BlockBackend {
    /// Takes a request. It is answered exactly once by [`super::Service::complete`], from within this call or later.
    /// Requests of one volume that overlap are done in the order in which they were submitted (S18).
    fn submit(&self, request: BackendRequest);
    /// Nobody waits for the answer any more; a request that has not started may be answered [`Reply::Aborted`] at once.
    fn abort(&self, id: RequestId);
}

/// Blocks of one request at most.
pub(super) const MAX_REQUEST_BLOCKS: u32 = MAX_REQUEST_BYTES / LOGICAL_BLOCK_BYTES;

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(pool: &BufferPool, bytes: &[u8]) -> Buffer {
        let mut buffer = pool.take(bytes.len()).unwrap();
        buffer.as_mut_slice().copy_from_slice(bytes);
        buffer.freeze()
    }

    #[test]
    fn compare_and_write_writes_only_on_equality() {
        let pool = BufferPool::default();
        let update =
            Update::CompareAndWrite { expected: buffer(&pool, b"abcd"), write: buffer(&pool, b"wxyz") };
        assert!(matches!(update.decide(b"abcd", &pool), Decision::Write(b) if b.as_slice() == b"wxyz"));
        assert!(matches!(update.decide(b"abXd", &pool), Decision::Miscompare(2)));
        assert!(matches!(update.decide(b"abc", &pool), Decision::Miscompare(3)));
    }

    #[test]
    fn or_sets_bits() {
        let pool = BufferPool::default();
        let update = Update::Or { data: buffer(&pool, &[0x0f, 0x00]) };
        assert!(
            matches!(update.decide(&[0xf0, 0x01], &pool), Decision::Write(b) if b.as_slice() == [0xff, 0x01])
        );
    }
}
