//! The committed configuration of a volume and the changes proposed to it.
//!
//! `cluster` decides and commits these; `replication` obeys and proposes them. They stand here because both
//! rooms speak them and neither may use the other.

use crate::{ByteCount, Epoch, InstanceId, NodeId, VolumeId};
use alloc::collections::BTreeSet;
use serde::{Deserialize, Serialize};

/// What the Raft group has committed about one volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeConfig {
    /// Which volume.
    pub volume: VolumeId,
    /// Raised by one with every change of what follows.
    pub epoch: Epoch,
    /// Who may serve; `None` until the first promotion.
    pub primary: Option<NodeId>,
    /// The storage process that the promotion or hand-over was for (S6). Another instance never serves on it.
    pub primary_instance: InstanceId,
    /// What made this epoch.
    pub reason: EpochReason,
    /// Nodes that hold every acknowledged write.
    pub in_sync: BTreeSet<NodeId>,
    /// Nodes that hold a copy, in sync or not.
    pub replicas: BTreeSet<NodeId>,
    /// Size as initiators see it, a multiple of 4096 bytes.
    pub size: ByteCount,
    /// Write-back cache (WCE=1) instead of write-through (S1).
    pub write_back: bool,
}

/// What made an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EpochReason {
    /// The volume was created: every copy is empty and equal.
    Created,
    /// A member of the in-sync set promoted itself; `in_sync` is it alone (S3).
    Promoted,
    /// The old primary, drained and flushed, named its successor; `in_sync` is unchanged (S3).
    HandedOver,
    /// The primary went on without a peer (S2).
    Shrunk,
    /// A resynced peer joined (S8).
    Grown,
    /// The size changed (S22).
    Resized,
    /// A copy came, or went with the node that held it.
    Copies,
}

/// A change of one volume's configuration, applied only where `expected` is still the volume's epoch
/// (compare-and-swap), so at most one proposal leaves any epoch (S21).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposal {
    /// Who proposed, and which of its proposals this is.
    pub id: ProposalId,
    /// Which volume.
    pub volume: VolumeId,
    /// The epoch that the proposer acted on.
    pub expected: Epoch,
    /// What is asked for.
    pub change: Change,
}

/// Names a proposal for ever (S21).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProposalId {
    /// The proposing node.
    pub proposer: NodeId,
    /// Its storage process at that time.
    pub instance: InstanceId,
    /// Counts that process's proposals, from 1.
    pub number: u64,
}

/// What a proposal asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// The proposer, a member of `in_sync`, becomes primary with its present instance; `in_sync` becomes it alone (S3).
    Promote,
    /// The primary makes `to`'s storage process `instance` primary; `in_sync` stays, but for a primary that leaves (S3).
    HandOver {
        /// The successor, a member of `in_sync`.
        to: NodeId,
        /// The successor's storage process.
        instance: InstanceId,
        /// The primary ends: the successor is not to wait for it.
        #[serde(default)]
        leaves: bool,
    },
    /// The primary goes on with `keep` alone; raises the epoch even if `in_sync` reads so already (S2).
    Shrink {
        /// The new in-sync set: contains the primary, subset of `replicas`.
        keep: BTreeSet<NodeId>,
    },
    /// `add` joins the in-sync set (S8).
    Grow {
        /// A member of `replicas`.
        add: NodeId,
    },
    /// The new size, not smaller than the old (S22).
    Resize {
        /// Multiple of 4096 bytes.
        size: ByteCount,
    },
}
