//! Applying a committed command: the cluster begins, volumes come and go. (Members: [`crate::members`]; targets:
//! [`crate::targets`].)

use crate::command::{Command, Outcome, Refusal, RefusalKind, Severity};
use crate::formats::Promise;
use crate::members::check_member;
use crate::state::{ClusterIdentity, ClusterState, MAX_VOLUME_BYTES, SIZE_UNIT_BYTES, VolumeEntry};
use alloc::{collections::BTreeMap, format, string::String};
use base::{
    ByteCount, ClusterId, CommittedReservations, Epoch, EpochReason, Formats, InstanceId, VolumeConfig,
    VolumeId,
};
use control::link::Member;
use control::settings::{TIME_SCALES, is_name};
use control::targets::Presentation;
use core::net::SocketAddr;

/// What comes of a command.
pub(crate) type Applied = Result<Outcome, Refusal>;

impl ClusterState {
    /// Applies one committed command. The same commands in the same order make the same state on every node.
    pub fn apply(&mut self, command: &Command) -> Outcome {
        let applied = match command {
            Command::CreateCluster { id, portal, time_scale_percent, first, formats } => {
                self.create_cluster(*id, *portal, *time_scale_percent, first, formats)
            }
            Command::AddMember { member, formats } => self.add_member(member, formats),
            Command::Promise { node, number, formats } => self.promise(*node, *number, formats),
            Command::RemoveMember { node } => self.remove_member(*node),
            Command::AddCopy { volume, node } => self.add_copy(*volume, *node),
            Command::CreateVolume { id, name, size, write_back, presentation } => {
                self.create_volume(*id, name, *size, *write_back, *presentation)
            }
            Command::GrowVolume { name, size } => self.grow_volume(name, *size),
            Command::EndGrowth { volume, size, reason } => Ok(self.end_growth(*volume, *size, reason)),
            Command::DeleteVolume { name } => self.delete_volume(name),
            Command::Propose(proposal) => Ok(self.propose(proposal)),
            Command::Reserve(proposal) => self.reserve(proposal),
            Command::CreateTarget { iqn } => self.create_target(iqn),
            Command::DeleteTarget { iqn } => self.delete_target(iqn),
            Command::MapLun { iqn, lun, volume, read_only, initiators } => {
                self.map_lun(iqn, *lun, volume, *read_only, initiators)
            }
            Command::ChangeLun { iqn, lun, read_only, initiators } => {
                self.change_lun(iqn, *lun, *read_only, initiators.as_deref())
            }
            Command::UnmapLun { iqn, lun } => self.unmap_lun(iqn, *lun),
            Command::AllowInitiator { iqn, pattern } => self.allow_initiator(iqn, pattern),
            Command::DenyInitiator { iqn, pattern, open } => self.deny_initiator(iqn, pattern, *open),
            Command::SetChap { iqn, pattern, chap } => self.set_chap(iqn, pattern.as_ref(), chap.as_ref()),
        };
        applied.unwrap_or_else(Outcome::Refused)
    }

    /// The state as it will be if everything in this node's log commits: `self` is what is applied, `uncommitted` the
    /// commands after that, in log order. What [`crate::lease::Voter`] judges by (S5).
    #[must_use]
    pub fn with_uncommitted<'a>(&self, uncommitted: impl IntoIterator<Item = &'a Command>) -> Self {
        let mut state = self.clone();
        for command in uncommitted {
            state.apply(command);
        }
        state
    }

    fn create_cluster(
        &mut self,
        id: ClusterId,
        portal: SocketAddr,
        time_scale_percent: u32,
        first: &Member,
        formats: &Formats,
    ) -> Applied {
        if let Some(cluster) = &self.cluster {
            return refuse(RefusalKind::Exists, format!("this node is in cluster {} already", cluster.id));
        }
        if id.0 == 0 {
            return refuse(RefusalKind::Invalid, "cluster id 0".into());
        }
        if portal.ip().is_unspecified() || portal.ip().is_multicast() || portal.port() == 0 {
            return refuse(RefusalKind::Invalid, format!("{portal} is no address that initiators can reach"));
        }
        if !TIME_SCALES.contains(&time_scale_percent) {
            return refuse(RefusalKind::Invalid, format!("a time scale of {time_scale_percent} percent"));
        }
        if !first.data {
            return refuse(
                RefusalKind::Invalid,
                format!("{} is a witness; a data node creates the cluster", first.name),
            );
        }
        check_member(first)?;
        if !formats.are_sound() {
            return refuse(
                RefusalKind::Invalid,
                format!("{} understands nothing of some format", first.name),
            );
        }
        self.version = formats.state.newest;
        self.metadata_version = formats.metadata.newest;
        self.pool_version = formats.pool.newest;
        self.promises.insert(first.node, Promise { number: 0, formats: *formats });
        self.cluster = Some(ClusterIdentity { id, generation: 1, portal, time_scale_percent });
        self.members.insert(first.node, first.clone());
        Ok(Outcome::told(Severity::Info, format!("Cluster {id} was created by {}.", first.name)))
    }

    /// Why there can't be a new volume of that name and size, wherever it finds room.
    pub fn check_new_volume(&self, name: &str, size: ByteCount) -> Result<(), Refusal> {
        self.need_cluster()?;
        let invalid = |text: String| refuse(RefusalKind::Invalid, text);
        if !is_name(name) {
            return invalid(format!("volume name {name:?} is not 1 to 63 letters, digits and hyphens"));
        }
        if size.0 == 0 {
            return invalid(format!("volume {name} can't have 0 bytes"));
        }
        if !size.0.is_multiple_of(SIZE_UNIT_BYTES) {
            return invalid(format!("the size {} B is no multiple of {SIZE_UNIT_BYTES} B", size.0));
        }
        if size.0 > MAX_VOLUME_BYTES {
            let most = ByteCount(MAX_VOLUME_BYTES);
            return invalid(format!("{size} are more than {most}, the most for a volume"));
        }
        if self.volume_named(name).is_some() {
            return refuse(RefusalKind::Exists, format!("volume {name} exists"));
        }
        Ok(())
    }

    fn create_volume(
        &mut self,
        id: VolumeId,
        name: &str,
        size: ByteCount,
        write_back: bool,
        presentation: Presentation,
    ) -> Applied {
        self.check_new_volume(name, size)?;
        if id.0 == 0 || self.volumes.contains_key(&id) {
            return refuse(RefusalKind::Invalid, format!("{id} can't be the identifier of a new volume"));
        }
        let replicas = self.nodes_for_copies();
        if replicas.is_empty() {
            return refuse(RefusalKind::Unavailable, "no data node to hold a copy".into());
        }
        let config = VolumeConfig {
            volume: id,
            epoch: Epoch(1),
            primary: None,
            primary_instance: InstanceId(0),
            reason: EpochReason::Created,
            in_sync: replicas.clone(),
            replicas,
            size,
            write_back,
        };
        let entry = VolumeEntry {
            name: name.into(),
            config,
            wanted_size: None,
            not_grown: None,
            presentation,
            proposals: BTreeMap::new(),
            promotions: BTreeMap::new(),
            reservations: CommittedReservations::default(),
        };
        self.volumes.insert(id, entry);
        Ok(Outcome::told(Severity::Info, format!("Volume {name} of {size} was created.")))
    }

    fn delete_volume(&mut self, name: &str) -> Applied {
        let id = self.volume_id(name)?;
        for target in self.targets.values() {
            if let Some((lun, _)) = target.luns.iter().find(|(_, mapping)| mapping.volume == id) {
                let text = format!("volume {name} is LUN {lun} of target {}", target.iqn);
                return refuse(RefusalKind::InUse, text);
            }
        }
        self.volumes.remove(&id);
        self.deleted.insert(id);
        Ok(Outcome::told(Severity::Warning, format!("Volume {name} was deleted.")))
    }

    pub(crate) fn need_cluster(&self) -> Result<(), Refusal> {
        match self.cluster {
            Some(_) => Ok(()),
            None => refuse(RefusalKind::Unavailable, "this node is in no cluster".into()),
        }
    }

    pub(crate) fn volume_id(&self, name: &str) -> Result<VolumeId, Refusal> {
        match self.volume_named(name) {
            Some(entry) => Ok(entry.config.volume),
            None => refuse(RefusalKind::NotFound, format!("volume {name} does not exist")),
        }
    }
}

pub(crate) fn refuse<T>(kind: RefusalKind, message: String) -> Result<T, Refusal> {
    Err(Refusal::new(kind, message))
}
