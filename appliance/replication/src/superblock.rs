//! The superblock: what a copy must remember across restarts besides its activity log and bitmap.

use alloc::vec::Vec;
use base::{ByteCount, DecodeError, Epoch, NodeId, Reader, ReplicaId, Writer};

/// What is known of the peer's copy: the state at which this side's bitmap for it begins (S7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerMark {
    /// The peer's copy; zero: not met yet.
    pub(crate) replica: ReplicaId,
    /// An epoch in which the peer's copy was in sync, as it confirmed itself.
    pub(crate) data_epoch: Epoch,
    /// The highest activity log number that it has shown or confirmed as durable.
    pub(crate) al_number: u64,
}

/// Content of the superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// Size of the volume.
    pub(crate) size: ByteCount,
    /// The highest epoch that this copy has learned (S4).
    pub(crate) epoch: Epoch,
    /// The last epoch in which this copy acted in sync: as primary, or in a session as in-sync secondary (S7).
    pub(crate) data_epoch: Epoch,
    /// Epoch in which this copy became the target of a resync, not yet voided (S10); zero: consistent.
    pub(crate) inconsistent: Epoch,
    /// The peer's copy.
    pub(crate) peer: PeerMark,
    /// The node of the peer's copy; zero: not met yet.
    pub(crate) peer_node: NodeId,
    /// Bytes of one dirty block when the copy was made: tells with the size where the bitmap is (S22).
    pub(crate) first_block_bytes: u64,
}

impl Superblock {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(80);
        w.u64(self.size.0).u64(self.epoch.0).u64(self.data_epoch.0).u64(self.inconsistent.0);
        w.u64(self.peer_node.0).u64(self.peer.replica.0).u64(self.peer.data_epoch.0).u64(self.peer.al_number);
        w.u64(self.first_block_bytes);
        w.into_vec()
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new("superblock", body);
        Ok(Self {
            size: ByteCount(r.u64()?),
            epoch: Epoch(r.u64()?),
            data_epoch: Epoch(r.u64()?),
            inconsistent: Epoch(r.u64()?),
            peer_node: NodeId(r.u64()?),
            peer: PeerMark { replica: ReplicaId(r.u64()?), data_epoch: Epoch(r.u64()?), al_number: r.u64()? },
            first_block_bytes: r.u64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn superblocks_survive(n: [u64; 9]) {
            let superblock = Superblock {
                size: ByteCount(n[0]),
                epoch: Epoch(n[1]),
                data_epoch: Epoch(n[2]),
                inconsistent: Epoch(n[3]),
                peer: PeerMark { replica: ReplicaId(n[4]), data_epoch: Epoch(n[5]), al_number: n[6] },
                peer_node: NodeId(n[7]),
                first_block_bytes: n[8],
            };
            prop_assert_eq!(Superblock::decode(&superblock.encode()), Ok(superblock));
        }
    }
}
