//! Messages between cluster managers, as JSON in frames over mutual TLS. docs/wire.md, "Cluster messages".

use crate::raft::Types;
use crate::raft::store::Introduction;
use base::{InstanceId, NodeId, VolumeId};
use cluster::lease::{LeaseAnswer, LeaseRequest};
use cluster::{Command, Outcome};
use control::api::Answer;
use control::link::Report;
use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};

/// Largest frame: a snapshot chunk of 1 MiB grows fourfold in JSON.
pub(crate) const MAX_FRAME_BYTES: usize = 16 << 20;

/// From the side that dialled. Answered by a [`ResponseFrame`] of the same number, in any order.
#[derive(Serialize, Deserialize)]
pub(crate) struct RequestFrame {
    pub(crate) number: u64,
    pub(crate) request: Request,
}

/// To the side that dialled.
#[derive(Serialize, Deserialize)]
pub(crate) struct ResponseFrame {
    pub(crate) number: u64,
    pub(crate) response: Response,
}

/// What one node asks of another.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Raft.
    AppendEntries(AppendEntriesRequest<Types>),
    /// Raft.
    Vote(VoteRequest<u64>),
    /// Raft.
    InstallSnapshot(InstallSnapshotRequest<Types>),
    /// To the leader: commit this.
    Propose(Command),
    /// Sign of life, lease request, and what the sender's storage process says of itself.
    Heartbeat {
        /// The request; its sender is the connection's.
        lease: LeaseRequest,
        /// `None` while no storage process is connected.
        report: Option<Report>,
    },
    /// To the primary: hand over.
    HandOver {
        /// Which volume.
        volume: VolumeId,
        /// To whom.
        to: NodeId,
        /// To which storage process.
        instance: InstanceId,
    },
    /// To a node that was just paired: it is a member now.
    Welcome(Introduction),
}

/// The answers, in the order of [`Request`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Response {
    AppendEntries(Result<AppendEntriesResponse<u64>, RaftError<u64>>),
    Vote(Result<VoteResponse<u64>, RaftError<u64>>),
    InstallSnapshot(Result<InstallSnapshotResponse<u64>, RaftError<u64, InstallSnapshotError>>),
    Proposed(Proposed),
    Heartbeat(LeaseAnswer),
    /// Of a hand-over or a welcome.
    Answer(Answer),
    /// Not answered: why.
    Refused(String),
}

/// What came of a proposal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Proposed {
    /// Committed and applied at `index` of the log.
    Decided {
        /// Its place in the log.
        index: u64,
        /// What it came to.
        outcome: Outcome,
    },
    /// Not taken: this node does not lead. Nothing was written.
    NotLeader,
    /// Taken, perhaps, but not decided in time: in doubt.
    Undecided,
}
