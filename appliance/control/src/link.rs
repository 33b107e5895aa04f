//! Storage link: one JSON object a line, over the unix socket [`crate::paths::LINK_SOCKET`]. The cluster manager
//! listens, the storage process dials and sends [`ToCluster::Hello`] first. Either side that loses the link dials or
//! accepts anew; nothing is assumed to have arrived. While the link is down storage serves until its lease ends.

use alloc::{boxed::Box, string::String, vec::Vec};
use base::{
    ByteCount, ClusterId, CommittedReservations, Epoch, InstanceId, Levels, Monotonic, NodeId, Proposal,
    ReservationProposal, VolumeConfig, VolumeId,
};
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

use crate::settings::Timing;
use crate::targets::{Presentation, Target};

/// From the cluster manager to storage. Tagged from outside (`{"state": {…}}`): inside an internally tagged enum serde
/// can't read back maps whose keys are numbers ([`Target::luns`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToStorage {
    /// The committed state, whole, sent after `Hello` and after every commit that changes it.
    State(Box<CommittedState>),
    /// A lease that a majority granted (S5).
    Lease(Lease),
    /// Someone asked for a clean hand-over of `volume` to `to` (whose storage process is `instance`).
    HandOver {
        /// Which volume; must be served here.
        volume: VolumeId,
        /// The successor.
        to: NodeId,
        /// The successor's storage process, as it last told.
        instance: InstanceId,
    },
    /// The proposal was refused for a reason other than the epoch; it will not be applied.
    Refused {
        /// Of which volume: each counts its own proposals.
        volume: VolumeId,
        /// Its number.
        number: u64,
        /// Why, for the log.
        reason: String,
    },
    /// The change of reservations was refused for a reason other than the epoch; it will not be applied.
    ReservationRefused {
        /// Of which volume.
        volume: VolumeId,
        /// Its number.
        number: u64,
        /// Why, for the log.
        reason: String,
    },
    /// End: hand over what is served (if a peer can take it), flush, close, and exit.
    Stop,
}

/// What storage needs of the committed cluster state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedState {
    /// Which cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// Everyone, with addresses.
    pub members: Vec<Member>,
    /// Every volume that has a replica here.
    pub volumes: Vec<Volume>,
    /// Every target.
    pub targets: Vec<Target>,
    /// Volumes that were deleted: their space is freed. One that is only missing from `volumes` is kept.
    pub deleted: Vec<VolumeId>,
    /// Where initiators connect; bound by the node that serves.
    pub portal: Option<SocketAddr>,
    /// Time-outs.
    pub timing: Timing,
    /// The versions in which things are written down.
    pub levels: Levels,
}

/// A member of the cluster as its peers need it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Data node (otherwise a witness).
    pub data: bool,
    /// Cluster port.
    pub cluster_address: SocketAddr,
    /// Replication port.
    pub replication_address: SocketAddr,
    /// SHA-256 of its certificate (DER), hex: the only certificate accepted from it.
    pub certificate_sha256: String,
}

/// One volume: name, committed configuration, and what it is to become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// What is committed.
    pub config: VolumeConfig,
    /// A larger size that every copy is to have room for (S22).
    pub wanted_size: Option<ByteCount>,
    /// How it is shown to initiators.
    pub presentation: Presentation,
    /// Its epoch, with this node as primary, when the machine last started: nothing that served in it is left (S5).
    pub ended: Option<Epoch>,
    /// Its persistent reservations (S15). Whoever is primary in `config`'s epoch has the last of every epoch before.
    pub reservations: CommittedReservations,
}

/// Leases of this node's volumes. `sent_at` and the storage process's clock are the same `CLOCK_BOOTTIME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// When the oldest request of the granting majority was sent. The lease ends at `sent_at + timing.lease`.
    pub sent_at: Monotonic,
    /// The storage process that it is for.
    pub instance: InstanceId,
    /// Volumes granted by a majority.
    pub volumes: Vec<VolumeId>,
}

/// From storage to the cluster manager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToCluster {
    /// First on every connection.
    Hello {
        /// This start of the storage process.
        instance: InstanceId,
        /// Its process id, for log lines.
        pid: u32,
    },
    /// A proposal; sent again (same id) until a higher epoch is seen or it is refused.
    Propose(Proposal),
    /// A change of persistent reservations; sent again (same id) until it is seen committed, another epoch is seen, or
    /// it is refused (S21).
    Reserve(ReservationProposal),
    /// Sent on change and every `renew`.
    Report(Report),
    /// The hand-over can't be done, and why.
    HandOverFailed {
        /// Which volume.
        volume: VolumeId,
        /// Why.
        reason: String,
    },
}

/// What storage knows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// This start of the storage process.
    pub instance: InstanceId,
    /// Space for new volumes, all disks.
    pub free: ByteCount,
    /// The largest volume that can have a new copy in that space, beside its metadata; `None`: not told.
    #[serde(default)]
    pub largest: Option<ByteCount>,
    /// All space, all disks.
    pub capacity: ByteCount,
    /// Per volume that is open.
    pub volumes: Vec<VolumeReport>,
    /// Volumes that are to be open here and can't be.
    #[serde(default)]
    pub unopened: Vec<Unopened>,
    /// Sessions of initiators, all targets.
    #[serde(default)]
    pub sessions: Vec<SessionReport>,
    /// What an administrator must know, e.g. a refused disk: one sentence each.
    pub problems: Vec<String>,
}

/// A copy that can't be made or opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unopened {
    /// Of which volume.
    pub volume: VolumeId,
    /// Why, without names.
    pub reason: String,
    /// There is no room for it: no fault of the copy, nor of the release.
    #[serde(default)]
    pub lacks_room: bool,
}

/// An initiator that is logged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionReport {
    /// Its iSCSI name.
    pub initiator: String,
    /// Where it comes from.
    pub address: SocketAddr,
    /// The target's iSCSI name.
    pub target: String,
}

/// One replica, seen from its own node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeReport {
    /// Which volume.
    pub volume: VolumeId,
    /// The epoch that the replica acts in.
    pub epoch: Epoch,
    /// The copy can be used: labelled, opened, not marked inconsistent.
    pub usable: bool,
    /// Serving initiators now.
    pub serving: bool,
    /// Bytes that the peer may lack (on the primary).
    pub dirty: ByteCount,
    /// A resync that runs from here.
    pub resync: Option<ResyncReport>,
    /// Bytes that resyncs have moved since the process started.
    pub resynced_total: ByteCount,
    /// Bytes that the activity log's extents cover at most: what a resync may move beside dirty blocks (S7).
    pub logged: ByteCount,
    /// Size that the copy has room for, zeroed and durable (S22).
    pub room: ByteCount,
    /// It can't have room for a size that was wanted.
    pub no_room: Option<NoRoom>,
}

/// A copy that can't grow (S22).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoRoom {
    /// To this size.
    pub size: ByteCount,
    /// Why, without the node's name.
    pub reason: String,
}

/// A resync, seen from its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResyncReport {
    /// Who is being brought up to date.
    pub target: NodeId,
    /// Bytes to move when it began.
    pub total: ByteCount,
    /// Bytes still to move.
    pub left: ByteCount,
    /// Recent rate.
    pub bytes_per_s: u64,
}
