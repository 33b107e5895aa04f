//! What the voters agree on: data, look-ups, self-check.

use crate::formats::Promise;
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
};
use base::{
    ByteCount, ClusterId, CommittedReservations, Epoch, Formats, InstanceId, Levels, NodeId, VolumeConfig,
    VolumeId,
};
use control::link::{CommittedState, Member, Volume};
use control::settings::{Timing, is_name};
use control::targets::{Presentation, Target};
use core::fmt;
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

/// Sizes are multiples of this many bytes.
pub(crate) const SIZE_UNIT_BYTES: u64 = 4096;
/// Largest volume: what a VMFS datastore can use of one LUN.
pub const MAX_VOLUME_BYTES: u64 = 62 << 40;

/// Everything committed. Serialised as JSON in snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterState {
    /// Version of its JSON form, and of the commands in the log; raised like the other levels ([`crate::formats`]).
    pub version: u16,
    /// The version in which replicas' metadata is written.
    pub metadata_version: u16,
    /// The version in which labels and tables of data disks are written.
    pub pool_version: u16,
    /// `None` until the cluster is created.
    pub cluster: Option<ClusterIdentity>,
    /// Everyone.
    pub members: BTreeMap<NodeId, Member>,
    /// What each member has promised to understand.
    pub promises: BTreeMap<NodeId, Promise>,
    /// Every volume.
    pub volumes: BTreeMap<VolumeId, VolumeEntry>,
    /// Every target, by iSCSI name.
    pub targets: BTreeMap<String, Target>,
    /// Volumes that were deleted, for good: a node that was away frees their space when it returns. A volume that is
    /// merely missing from a state may be one that this state is too old to know.
    pub deleted: BTreeSet<VolumeId>,
}

/// Which cluster this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterIdentity {
    /// Drawn at its creation.
    pub id: ClusterId,
    /// 1 (S14).
    pub generation: u64,
    /// Where initiators connect.
    pub portal: SocketAddr,
    /// Leases, and the wait for an old one, scale by this, percent. Committed: were they each node's own setting, a
    /// primary's lease could outlast its successor's wait (S5).
    pub time_scale_percent: u32,
}

/// One volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeEntry {
    /// Its name.
    pub name: String,
    /// Its configuration.
    pub config: VolumeConfig,
    /// The larger size that the administrator wants, until it is the size or no copy can have it (S22).
    pub wanted_size: Option<ByteCount>,
    /// Why the last size that was wanted is not wanted any more, if it did not come about.
    pub not_grown: Option<String>,
    /// How it is shown to initiators.
    pub presentation: Presentation,
    /// Last number seen from each node's storage process (S21): shrink, grow, hand-over, resize.
    pub proposals: BTreeMap<NodeId, LastNumber>,
    /// Last number seen from each node's manager, which proposes promotions and counts apart.
    pub promotions: BTreeMap<NodeId, LastNumber>,
    /// Its persistent reservations (S15).
    pub reservations: CommittedReservations,
}

impl VolumeEntry {
    fn for_storage(&self) -> Volume {
        Volume {
            name: self.name.clone(),
            config: self.config.clone(),
            wanted_size: self.wanted_size,
            presentation: self.presentation,
            ended: None,
            reservations: self.reservations.clone(),
        }
    }
}

/// The last proposal of one proposer (S21).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastNumber {
    /// The storage process that it named.
    pub instance: InstanceId,
    /// Its number.
    pub number: u64,
    /// The epoch that it made, if any.
    pub made: Option<Epoch>,
}

/// A state that contradicts itself: what, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateError(pub String);

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cluster state: {}", self.0)
    }
}

impl core::error::Error for StateError {}

impl Default for ClusterState {
    fn default() -> Self {
        let Levels { metadata, pool, state } = Levels::OLDEST;
        Self {
            version: state,
            metadata_version: metadata,
            pool_version: pool,
            cluster: None,
            members: BTreeMap::new(),
            promises: BTreeMap::new(),
            volumes: BTreeMap::new(),
            targets: BTreeMap::new(),
            deleted: BTreeSet::new(),
        }
    }
}

/// Whether a volume of `size` may become one of `wanted`; the error says why not (S22).
pub(crate) fn check_growth(size: ByteCount, wanted: ByteCount) -> Result<(), String> {
    if !wanted.0.is_multiple_of(SIZE_UNIT_BYTES) {
        return Err(format!("the size {} B is no multiple of {SIZE_UNIT_BYTES} B", wanted.0));
    }
    if wanted < size {
        return Err(format!("it has {size} and can't become smaller, {wanted} would lose data"));
    }
    if wanted == size {
        return Err(format!("it has {size} already"));
    }
    if wanted.0 > MAX_VOLUME_BYTES {
        return Err(format!("{wanted} are more than {}, the most for a volume", ByteCount(MAX_VOLUME_BYTES)));
    }
    Ok(())
}

impl ClusterState {
    /// The volume of that name.
    #[must_use]
    pub fn volume_named(&self, name: &str) -> Option<&VolumeEntry> {
        self.volumes.values().find(|v| v.name == name)
    }

    /// The configuration of a volume.
    #[must_use]
    pub fn config(&self, volume: VolumeId) -> Option<&VolumeConfig> {
        self.volumes.get(&volume).map(|v| &v.config)
    }

    /// The member of that name.
    #[must_use]
    pub fn member_named(&self, name: &str) -> Option<&Member> {
        self.members.values().find(|m| m.name == name)
    }

    /// The member's name, or its id if it is none.
    #[must_use]
    pub fn name_of(&self, node: NodeId) -> String {
        self.members.get(&node).map_or_else(|| format!("node {node}"), |m| m.name.clone())
    }

    /// The data nodes.
    #[must_use]
    pub fn data_nodes(&self) -> BTreeSet<NodeId> {
        self.members.values().filter(|m| m.data).map(|m| m.node).collect()
    }

    /// What the storage process of `node` is told; `None` while there is no cluster, or the node is not in it.
    #[must_use]
    pub fn for_storage(&self, node: NodeId) -> Option<CommittedState> {
        let cluster = self.cluster.as_ref()?;
        self.members.get(&node)?;
        let here = self.volumes.values().filter(|v| v.config.replicas.contains(&node));
        Some(CommittedState {
            cluster: cluster.id,
            node,
            members: self.members.values().cloned().collect(),
            volumes: here.map(VolumeEntry::for_storage).collect(),
            targets: self.targets.values().cloned().collect(),
            deleted: self.deleted.iter().copied().collect(),
            portal: Some(cluster.portal),
            timing: Timing::at_scale(cluster.time_scale_percent),
            levels: self.levels(),
        })
    }

    /// Whether this release understands what is in force. To be asked of every state that was read from disk or received.
    pub fn check_levels(&self) -> Result<(), StateError> {
        if let Some((format, level)) = Formats::CURRENT.lack(&self.levels()) {
            let known = Formats::CURRENT.of(format);
            return Err(StateError(format!(
                "version {level} of {format} is in force; this release understands {} to {}",
                known.oldest, known.newest
            )));
        }
        Ok(())
    }

    /// Checks every invariant; the first breach is returned. Holds after every [`ClusterState::apply`], and is to be
    /// checked on every state that was read from disk or received.
    pub fn validate(&self) -> Result<(), StateError> {
        let fault = |text: String| Err(StateError(text));
        if self.cluster.is_none()
            && !(self.members.is_empty() && self.volumes.is_empty() && self.targets.is_empty())
        {
            return fault("members, volumes or targets without a cluster".into());
        }
        for (node, member) in &self.members {
            if *node != member.node {
                return fault(format!("member {:?} stands under the id of another", member.name));
            }
            if self.members.values().filter(|m| m.name == member.name).count() > 1 {
                return fault(format!("two members are named {:?}", member.name));
            }
        }
        if self.deleted.iter().any(|id| self.volumes.contains_key(id)) {
            return fault("a deleted volume is there again".into());
        }
        for (id, entry) in &self.volumes {
            self.validate_volume(*id, entry)?;
        }
        for (node, promise) in &self.promises {
            if !self.members.contains_key(node) {
                return fault(format!("a promise of node {node}, which is no member"));
            }
            if !promise.formats.are_sound() || promise.formats.lack(&self.levels()).is_some() {
                return fault(format!("{} has not promised what is in force", self.name_of(*node)));
            }
        }
        self.validate_targets()
    }

    fn validate_volume(&self, id: VolumeId, entry: &VolumeEntry) -> Result<(), StateError> {
        let config = &entry.config;
        let fault = |text: &str| Err(StateError(format!("volume {:?}: {text}", entry.name)));
        if id != config.volume {
            return fault("stands under the id of another");
        }
        if !is_name(&entry.name) {
            return fault("not a name");
        }
        if self.volumes.values().filter(|v| v.name == entry.name).count() > 1 {
            return fault("two of that name");
        }
        if config.epoch.0 == 0 {
            return fault("epoch 0");
        }
        if config.size.0 == 0 || !config.size.0.is_multiple_of(SIZE_UNIT_BYTES) {
            return fault("size is no multiple of 4096 bytes");
        }
        if entry.wanted_size.is_some_and(|size| check_growth(config.size, size).is_err()) {
            return fault("its wanted size can't be");
        }
        if config.in_sync.is_empty() {
            return fault("no copy is in sync");
        }
        if !config.in_sync.is_subset(&config.replicas) {
            return fault("in sync without a copy");
        }
        if config.replicas.iter().any(|n| !self.members.get(n).is_some_and(|m| m.data)) {
            return fault("a copy on a node that is no data member");
        }
        if let Err(text) = entry.reservations.state.check() {
            return fault(text);
        }
        match config.primary {
            Some(primary) if !config.in_sync.contains(&primary) => fault("the primary is not in sync"),
            Some(_) if config.primary_instance.0 == 0 => fault("a primary without instance"),
            None if config.primary_instance.0 != 0 => fault("an instance without primary"),
            _ => Ok(()),
        }
    }
}
