//! What is proposed to the voters, and what comes of it.

use alloc::{format, string::String, vec::Vec};
use base::{ByteCount, ClusterId, Epoch, Formats, NodeId, Proposal, ReservationProposal, VolumeId};
use control::api::Answer;
use control::link::Member;
use control::names::Pattern;
use control::targets::{Chap, Presentation};
use core::fmt;
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

/// One entry of the Raft log. Everything random (identifiers) or local (addresses) was put in by the proposer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Begin the cluster, generation 1, with its first member.
    CreateCluster {
        /// Drawn by the proposer.
        id: ClusterId,
        /// Where initiators connect.
        portal: SocketAddr,
        /// The time scale of every lease in this cluster, percent (S5).
        time_scale_percent: u32,
        /// The node that creates it: a data node.
        first: Member,
        /// What its releases understand: the newest of each is in force at once.
        formats: Formats,
    },
    /// A paired node joins. Repeated with equal data it changes nothing.
    AddMember {
        /// The node.
        member: Member,
        /// What its releases understand.
        formats: Formats,
    },
    /// A member promises that every release that it may start understands this.
    Promise {
        /// Which member.
        node: NodeId,
        /// One more than that of its last promise.
        number: u64,
        /// What they understand.
        formats: Formats,
    },
    /// A node leaves, and its copies of volumes with it. It may be primary of none and hold the only in-sync copy of none.
    RemoveMember {
        /// Which.
        node: NodeId,
    },
    /// A volume with fewer copies than [`crate::COPIES`] gets one more, which is not in sync. Repeated it changes nothing.
    AddCopy {
        /// Which volume.
        volume: VolumeId,
        /// Where: a data node.
        node: NodeId,
    },
    /// A volume, with a copy on each of [`crate::COPIES`] data nodes, as far as there are so many.
    CreateVolume {
        /// Drawn by the proposer.
        id: VolumeId,
        /// 1 to 63 letters, digits and hyphens.
        name: String,
        /// A multiple of 4096 bytes.
        size: ByteCount,
        /// Write-back cache (S1).
        write_back: bool,
        /// How it is shown to initiators.
        #[serde(default)]
        presentation: Presentation,
    },
    /// A larger size is wanted: every copy makes room, then the primary proposes it (S22).
    GrowVolume {
        /// Its name.
        name: String,
        /// More than it has, a multiple of 4096 bytes, at most [`crate::MAX_VOLUME_BYTES`].
        size: ByteCount,
    },
    /// A node can't make room for the wanted size: it is not wanted any more. If another one is, nothing changes.
    EndGrowth {
        /// Which volume.
        volume: VolumeId,
        /// The size that was wanted.
        size: ByteCount,
        /// A sentence that names the node, what it needs and what it has.
        reason: String,
    },
    /// Delete a volume that no target shows.
    DeleteVolume {
        /// Its name.
        name: String,
    },
    /// Change one volume's configuration (compare-and-swap on its epoch).
    Propose(Proposal),
    /// Change one volume's persistent reservations (compare-and-swap on its epoch and their revision, S15).
    Reserve(ReservationProposal),
    /// Create a target without LUNs.
    CreateTarget {
        /// iSCSI name, RFC 7143 §4.2.7.
        iqn: String,
    },
    /// Delete a target that has no LUN.
    DeleteTarget {
        /// Its name.
        iqn: String,
    },
    /// Show a volume as a LUN.
    MapLun {
        /// The target.
        iqn: String,
        /// 0 to 16383, free.
        lun: u16,
        /// Name of a volume that no LUN shows yet.
        volume: String,
        /// Writes are refused.
        #[serde(default)]
        read_only: bool,
        /// Who sees it of those who may log in; empty: all of them.
        #[serde(default)]
        initiators: Vec<Pattern>,
    },
    /// Change how a LUN is shown; what is `None` stays.
    ChangeLun {
        /// The target.
        iqn: String,
        /// Which LUN.
        lun: u16,
        /// Writes are refused.
        read_only: Option<bool>,
        /// Who sees it; empty: all who may log in.
        initiators: Option<Vec<Pattern>>,
    },
    /// Take a LUN away.
    UnmapLun {
        /// The target.
        iqn: String,
        /// Which LUN.
        lun: u16,
    },
    /// Let initiators log in; with the first rule only those whom one covers.
    AllowInitiator {
        /// The target.
        iqn: String,
        /// Which initiators.
        pattern: Pattern,
    },
    /// Take a rule back.
    DenyInitiator {
        /// The target.
        iqn: String,
        /// Which rule.
        pattern: Pattern,
        /// The last one too, which lets everyone in.
        open: bool,
    },
    /// Set or remove CHAP of a target or of one of its rules.
    SetChap {
        /// The target.
        iqn: String,
        /// Which rule; `None`: the target.
        pattern: Option<Pattern>,
        /// `None`: no CHAP.
        chap: Option<Chap>,
    },
}

/// What applying a command came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The state now is as asked.
    Applied {
        /// For the event list.
        notes: Vec<Note>,
    },
    /// A [`Command::Propose`] or [`Command::Reserve`] that acted on another epoch than the present one: nothing changed, and it can never apply.
    Stale {
        /// The volume's present epoch.
        epoch: Epoch,
    },
    /// A [`Command::Propose`] whose number, or a later one of the same process, was seen before, or a
    /// [`Command::Reserve`] that was applied before (S21): nothing changed.
    Repeated {
        /// The epoch that the proposal of that number made (for [`Command::Reserve`], the present one); `None` if it made
        /// none, or another came after it.
        made: Option<Epoch>,
    },
    /// Not allowed or not possible: nothing changed.
    Refused(Refusal),
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub kind: RefusalKind,
    /// For people; names the thing.
    pub message: String,
}

/// The kinds of [`Answer::Failed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// No such thing.
    NotFound,
    /// There is one already.
    Exists,
    /// A value out of its range.
    Invalid,
    /// Not possible at the moment.
    Unavailable,
    /// Not by this proposer, or not to this thing.
    Refused,
    /// Something depends on it.
    InUse,
}

impl RefusalKind {
    /// The word of [`Answer::Failed`].
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Exists => "exists",
            Self::Invalid => "invalid",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
            Self::InUse => "in_use",
        }
    }
}

impl Refusal {
    /// A refusal of `kind`.
    #[must_use]
    pub fn new(kind: RefusalKind, message: String) -> Self {
        Self { kind, message }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl core::error::Error for Refusal {}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self::Failed { kind: refusal.kind.word().into(), message: refusal.message }
    }
}

impl Outcome {
    /// Nothing to tell.
    #[must_use]
    pub fn done() -> Self {
        Self::Applied { notes: Vec::new() }
    }

    /// One thing to tell.
    #[must_use]
    pub fn told(severity: Severity, text: String) -> Self {
        Self::Applied { notes: alloc::vec![Note { severity, text }] }
    }

    /// The outcome as the answer to whoever gave the command.
    #[must_use]
    pub fn answer(&self) -> Answer {
        match self {
            Self::Applied { .. } | Self::Repeated { made: Some(_) } => Answer::Done,
            Self::Stale { epoch } => Refusal::new(
                RefusalKind::Refused,
                format!("the volume changed meanwhile, it is in epoch {}", epoch.0),
            )
            .into(),
            Self::Repeated { made: None } => {
                Refusal::new(RefusalKind::Refused, "this proposal was already decided".into()).into()
            }
            Self::Refused(refusal) => refusal.clone().into(),
        }
    }
}

/// Something for the event list; the manager adds number and time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// How bad.
    pub severity: Severity,
    /// A sentence.
    pub text: String,
}

/// How bad an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As planned.
    Info,
    /// Redundancy was lost, or someone stepped in.
    Warning,
    /// Service was lost.
    Error,
}

impl Severity {
    /// The word of [`control::api::Event`].
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}
