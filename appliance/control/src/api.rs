//! Status and commands. `GET /status` answers [`Status`], `POST /command` takes a [`Command`] and answers [`Answer`],
//! `GET /events?after=N` answers a list of [`Event`]; all on [`crate::paths::CLUSTER_SOCKET`].

use alloc::{string::String, vec::Vec};
use base::{ByteCount, Epoch, Levels};
use core::net::{IpAddr, SocketAddr};
use serde::{Deserialize, Serialize};

use crate::names::Pattern;
use crate::service::ServiceStatus;
use crate::targets::{BlockFormat, Chap, Presentation};

/// Everything the console shows; its JSON form is part of the demo contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node that answers.
    pub node: String,
    /// The cluster, or `None` while the node is in none.
    pub cluster: Option<ClusterStatus>,
    /// Every volume.
    pub volumes: Vec<VolumeStatus>,
    /// Every target.
    pub targets: Vec<TargetStatus>,
    /// Initiators that are logged in, wherever they are served.
    #[serde(default)]
    pub sessions: Vec<SessionStatus>,
    /// This node's services; filled in by the web process, which asks the supervisor.
    #[serde(default)]
    pub services: Vec<ServiceStatus>,
    /// What an administrator should look at: one sentence each.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// The cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Its id, hex.
    pub id: String,
    /// Generation (S14); 1 for a cluster that was never forced.
    pub generation: u64,
    /// Name of the Raft leader, if known.
    pub leader: Option<String>,
    /// A majority of the voters hears this node.
    pub quorum: bool,
    /// Everyone.
    pub members: Vec<MemberStatus>,
    /// Where initiators connect.
    pub portal: Option<SocketAddr>,
    /// The versions in which things are written down.
    #[serde(default)]
    pub formats: Option<Levels>,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its name.
    pub name: String,
    /// `data` or `witness`.
    pub role: crate::settings::Role,
    /// Heard from within the dead time.
    pub online: bool,
    /// Its address.
    pub address: IpAddr,
    /// Where its peers reach it there.
    #[serde(default)]
    pub ports: PeerPorts,
    /// It has a vote; a member without one only learns what is decided. A release that does not tell is taken to have one.
    #[serde(default = "votes")]
    pub votes: bool,
    /// It serves at least one volume.
    pub serving: bool,
    /// Free space for volumes.
    pub free: ByteCount,
    /// All space for volumes.
    pub capacity: ByteCount,
}

fn votes() -> bool {
    true
}

/// What a cluster of so many members, `data` of them data nodes, can't do by itself; one sentence.
#[must_use]
pub fn redundancy(data: usize, members: usize) -> Option<&'static str> {
    match (data, members) {
        (0 | 1, _) => Some(
            "There is one data node only: if it fails, no other can take over, and volumes have no second copy.",
        ),
        (2, 2) => Some(
            "There is no witness: if the data node that serves fails, the other can't take over by itself.",
        ),
        _ => None,
    }
}

/// The names of the volumes that move when `volume` is handed over, its own among them: all of its primary's, as one portal
/// stands before them.
#[must_use]
pub fn moving_with<'v>(volumes: &'v [VolumeStatus], volume: &'v VolumeStatus) -> Vec<&'v str> {
    together(volumes, volume).map(|other| other.name.as_str()).collect()
}

/// Who can take `volume` and all that move with it: another node that has each of them in sync.
#[must_use]
pub fn successor<'v>(volumes: &'v [VolumeStatus], volume: &'v VolumeStatus) -> Option<&'v str> {
    let others = volume.in_sync.iter().filter(|node| Some(*node) != volume.primary.as_ref());
    others
        .map(String::as_str)
        .find(|node| together(volumes, volume).all(|other| other.in_sync.iter().any(|has| has == node)))
}

fn together<'v>(
    volumes: &'v [VolumeStatus],
    volume: &'v VolumeStatus,
) -> impl Iterator<Item = &'v VolumeStatus> {
    volumes.iter().filter(|other| {
        other.name == volume.name || (other.primary.is_some() && other.primary == volume.primary)
    })
}

/// Ports of a member that its peers connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerPorts {
    /// Cluster messages.
    pub cluster: u16,
    /// Replication.
    pub replication: u16,
}

impl Default for PeerPorts {
    fn default() -> Self {
        let crate::settings::Ports { cluster, replication, .. } = crate::settings::Ports::default();
        Self { cluster, replication }
    }
}

/// One volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: ByteCount,
    /// A larger size that it is being given.
    pub growth: Option<GrowthStatus>,
    /// Why it did not get the last size that was wanted.
    pub not_grown: Option<String>,
    /// Its epoch.
    pub epoch: Epoch,
    /// Name of its primary.
    pub primary: Option<String>,
    /// Names of the nodes in sync.
    pub in_sync: Vec<String>,
    /// Names of all nodes with a copy.
    pub replicas: Vec<String>,
    /// Names of the nodes on which the copy is not open, for another reason than that there is no room to make it; as far as they
    /// tell.
    #[serde(default)]
    pub unopened: Vec<String>,
    /// In one word.
    pub state: VolumeState,
    /// Why a copy is missing: one sentence each, with the node's name.
    #[serde(default)]
    pub problems: Vec<String>,
    /// A resync under way.
    pub resync: Option<ResyncStatus>,
    /// A verify under way.
    pub verify: Option<VerifyStatus>,
    /// Bytes moved by resyncs since the primary's storage process started.
    pub resynced_total: ByteCount,
    /// Bytes that a peer may lack.
    pub dirty: ByteCount,
    /// Bytes that the activity log's extents cover at most: what a resync may move beside dirty blocks.
    pub logged: ByteCount,
    /// Size of the physical blocks that initiators are told.
    #[serde(default)]
    pub block_format: BlockFormat,
    /// UNMAP is offered.
    #[serde(default)]
    pub thin: bool,
}

/// A volume on its way to a larger size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrowthStatus {
    /// That size.
    pub size: ByteCount,
    /// Names of the nodes whose copies have room for it.
    pub ready: Vec<String>,
    /// Names of the nodes that have to make room before it can be the size.
    pub waiting_for: Vec<String>,
}

/// State of a volume in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeState {
    /// Served, every replica in sync.
    Healthy,
    /// Served, a replica missing.
    Degraded,
    /// Served, a replica being brought up to date.
    Resyncing,
    /// Not served for the moment: no majority, a promotion under way, no in-sync copy (S13).
    Suspended,
    /// Not served and nobody tries.
    Offline,
}

/// A resync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResyncStatus {
    /// Where the data comes from.
    pub source: String,
    /// Where it goes.
    pub target: String,
    /// 0 to 100.
    pub percent: u32,
    /// Bytes still to move.
    pub bytes_left: ByteCount,
    /// Recent rate.
    pub bytes_per_s: u64,
    /// Seconds left at that rate; `None` while unknown.
    pub eta_s: Option<u64>,
}

/// A verify.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyStatus {
    /// 0 to 100.
    pub percent: u32,
    /// Differing blocks found.
    pub mismatches: u64,
}

/// One target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// iSCSI qualified name.
    pub iqn: String,
    /// Its LUNs.
    pub luns: Vec<LunStatus>,
    /// Who may log in; empty: everyone.
    #[serde(default)]
    pub initiators: Vec<RuleStatus>,
    /// What they must know unless their rule says something else.
    #[serde(default)]
    pub chap: Option<ChapStatus>,
}

/// Initiators that may log in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleStatus {
    /// Which.
    pub pattern: Pattern,
    /// CHAP of their own.
    pub chap: Option<ChapStatus>,
}

/// CHAP as far as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChapStatus {
    /// Name of the initiator.
    pub user: String,
    /// That it has a secret.
    pub secret: IsSet,
    /// How the target proves itself.
    pub mutual: Option<LoginStatus>,
}

/// The target's name and that it has a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginStatus {
    /// Name of the target.
    pub user: String,
    /// That it has a secret.
    pub secret: IsSet,
}

/// Stands in the place of a secret, which is never told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IsSet {
    /// There is one.
    Set,
}

impl From<&Chap> for ChapStatus {
    fn from(chap: &Chap) -> Self {
        let mutual = chap.mutual.as_ref();
        Self {
            user: chap.user.clone(),
            secret: IsSet::Set,
            mutual: mutual.map(|own| LoginStatus { user: own.user.clone(), secret: IsSet::Set }),
        }
    }
}

/// An initiator that is logged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Its iSCSI name.
    pub initiator: String,
    /// Where it comes from.
    pub address: SocketAddr,
    /// The target's iSCSI name.
    pub target: String,
    /// Name of the node that serves it.
    pub node: String,
}

/// One LUN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LunStatus {
    /// Its number.
    pub lun: u16,
    /// The volume behind it.
    pub volume: String,
    /// Writes are refused.
    #[serde(default)]
    pub read_only: bool,
    /// Who sees it of those who may log in; empty: all of them.
    #[serde(default)]
    pub initiators: Vec<Pattern>,
}

/// What can be asked of the cluster manager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Make this node the first member of a new cluster.
    CreateCluster {
        /// Where initiators will connect.
        portal: SocketAddr,
    },
    /// Let one node pair with this one: answers [`Answer::PairingCode`]. Ends after 10 minutes or 5 wrong codes.
    OfferPairing,
    /// Pair with the node at `address`, which offers `code`, and add it to this node's cluster.
    Pair {
        /// Its cluster port.
        address: SocketAddr,
        /// The code that it shows.
        code: String,
    },
    /// Take a node out of the cluster, with its copies of volumes. It is trusted no longer.
    RemoveMember {
        /// Its name.
        name: String,
    },
    /// Create a volume, with copies on two data nodes.
    CreateVolume {
        /// 1 to 63 letters, digits and hyphens.
        name: String,
        /// A multiple of 4096 bytes.
        size: ByteCount,
        /// How it is shown to initiators.
        #[serde(default)]
        presentation: Presentation,
    },
    /// Give a volume a larger size while it is used. Answers when it has it, or after a while, when it goes on.
    GrowVolume {
        /// Its name.
        name: String,
        /// A multiple of 4096 bytes, more than it has.
        size: ByteCount,
    },
    /// Delete a volume that no target uses. The data is lost.
    DeleteVolume {
        /// Its name.
        name: String,
    },
    /// Create a target.
    CreateTarget {
        /// iSCSI name (`iqn.`, `eui.` or `naa.` form).
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
        /// 0 to 16383.
        lun: u16,
        /// The volume.
        volume: String,
        /// Writes are refused.
        #[serde(default)]
        read_only: bool,
        /// Who sees it of those who may log in; empty: all of them.
        #[serde(default)]
        initiators: Vec<Pattern>,
    },
    /// Change how a LUN is shown; what is not given stays as it is.
    ChangeLun {
        /// The target.
        iqn: String,
        /// The LUN.
        lun: u16,
        /// Writes are refused.
        #[serde(default)]
        read_only: Option<bool>,
        /// Who sees it of those who may log in; empty: all of them.
        #[serde(default)]
        initiators: Option<Vec<Pattern>>,
    },
    /// Take a LUN away.
    UnmapLun {
        /// The target.
        iqn: String,
        /// The LUN.
        lun: u16,
    },
    /// Let initiators log in to a target; the first rule shuts out everyone whom no rule covers.
    AllowInitiator {
        /// The target.
        iqn: String,
        /// Which initiators.
        pattern: Pattern,
    },
    /// Take such a rule back. The sessions of those whom no rule covers any more end.
    DenyInitiator {
        /// The target.
        iqn: String,
        /// The rule.
        pattern: Pattern,
        /// Even if it is the last one, so that everyone may log in.
        #[serde(default)]
        open: bool,
    },
    /// Set or remove what initiators must know to log in. It counts from the next login on.
    SetChap {
        /// The target.
        iqn: String,
        /// The rule that it is for; `None`: the target's, for all rules without one of their own.
        #[serde(default)]
        pattern: Option<Pattern>,
        /// `None`: nothing any more.
        #[serde(default)]
        chap: Option<Chap>,
    },
    /// Move the service of a volume to the other in-sync node, cleanly. Answers when it is committed.
    HandOver {
        /// The volume.
        volume: String,
        /// To whom; `None`: to whichever peer is in sync.
        #[serde(default)]
        to: Option<String>,
    },
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// Done and committed.
    Done,
    /// Show this to whoever sits at the other node.
    PairingCode {
        /// Digits and hyphens.
        code: String,
        /// Seconds that it is good for.
        valid_s: u64,
    },
    /// Not done.
    Failed {
        /// A word for programs: `not_found`, `exists`, `invalid`, `unavailable`, `refused`, `in_use`, `timed_out`.
        kind: String,
        /// A sentence for people, naming the thing.
        message: String,
    },
}

/// Something that happened, for the event list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts this node's events, from 1.
    pub number: u64,
    /// Seconds since the Unix epoch.
    pub at: u64,
    /// It had happened by then: this node was away, and heard of it at that time. Left out if not.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub late: bool,
    /// `info`, `warning` or `error`.
    pub severity: String,
    /// A sentence.
    pub text: String,
}
