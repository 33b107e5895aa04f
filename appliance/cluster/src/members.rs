//! Members come and go, and copies of volumes with them.
//!
//! Invariants
//! - A member leaves only if every volume keeps a copy that is in sync, and its primary: who serves does not change (S3).
//! - A copy that comes or goes raises the epoch: what was proposed before is void, and the primary's session with a peer that
//!   is none any more ends (S4, S8). A copy that comes is not in sync; the primary resyncs it as a target (S7, S10).

use crate::apply::{Applied, refuse};
use crate::command::{Note, Outcome, Refusal, RefusalKind, Severity};
use crate::formats::Promise;
use crate::state::{ClusterState, VolumeEntry};
use alloc::{collections::BTreeSet, format, string::String, vec::Vec};
use base::{EpochReason, Formats, NodeId, VolumeId};
use control::link::Member;
use control::settings::is_name;
use core::cmp::Reverse;

/// Most data nodes of a cluster.
const MAX_DATA_NODES: usize = 3;
/// Copies that a volume is to have.
pub const COPIES: usize = 2;

impl ClusterState {
    pub(crate) fn add_member(&mut self, member: &Member, formats: &Formats) -> Applied {
        self.need_cluster()?;
        check_member(member)?;
        if self.members.get(&member.node) == Some(member) {
            // It was paired anew, and may run another release than then.
            self.check_formats(&member.name, formats)?;
            if let Some(promise) = self.promises.get_mut(&member.node).filter(|promise| promise.number == 0) {
                promise.formats = *formats;
            }
            return Ok(Outcome::Applied { notes: self.raise_levels() });
        }
        if self.members.contains_key(&member.node) {
            return refuse(
                RefusalKind::Exists,
                format!("node {} is a member already, with other data", member.name),
            );
        }
        if self.member_named(&member.name).is_some() {
            return refuse(RefusalKind::Exists, format!("a member named {} exists", member.name));
        }
        if let Some(other) = self.members.values().find(|m| m.cluster_address == member.cluster_address) {
            let text =
                format!("{} has the address {} of {}", member.name, member.cluster_address, other.name);
            return refuse(RefusalKind::Exists, text);
        }
        if member.data && self.data_nodes().len() >= MAX_DATA_NODES {
            return refuse(
                RefusalKind::Invalid,
                format!("a cluster has at most {MAX_DATA_NODES} data nodes"),
            );
        }
        if !member.data && self.members.values().any(|m| !m.data) {
            return refuse(RefusalKind::Exists, "the cluster has a witness already".into());
        }
        self.check_formats(&member.name, formats)?;
        self.members.insert(member.node, member.clone());
        self.promises.insert(member.node, Promise { number: 0, formats: *formats });
        let role = if member.data { "data node" } else { "witness" };
        Ok(Outcome::told(Severity::Info, format!("{} joined the cluster as {role}.", member.name)))
    }

    /// Whether `node` may leave, by what is committed; the error says why not. Whether the others can go on without it
    /// depends on who is reached, which the manager knows.
    pub fn check_removal(&self, node: NodeId) -> Result<(), Refusal> {
        let Some(member) = self.members.get(&node) else {
            return refuse(RefusalKind::NotFound, format!("node {node} is no member"));
        };
        let name = &member.name;
        if member.data && self.data_nodes().len() == 1 {
            return refuse(RefusalKind::InUse, format!("{name} is the last data node"));
        }
        for VolumeEntry { name: volume, config, .. } in self.volumes.values() {
            if config.in_sync.iter().all(|copy| *copy == node) {
                let text = format!("{name} holds the only copy of volume {volume} that is in sync");
                return refuse(RefusalKind::InUse, text);
            }
            if config.primary == Some(node) {
                let text = format!("{name} is primary of volume {volume}: hand it over first");
                return refuse(RefusalKind::InUse, text);
            }
        }
        Ok(())
    }

    pub(crate) fn remove_member(&mut self, node: NodeId) -> Applied {
        self.check_removal(node)?;
        let name = self.name_of(node);
        self.members.remove(&node);
        self.promises.remove(&node);
        let mut notes =
            Vec::from([Note { severity: Severity::Warning, text: format!("{name} left the cluster.") }]);
        notes.extend(self.raise_levels());
        for entry in self.volumes.values_mut() {
            entry.proposals.remove(&node);
            entry.promotions.remove(&node);
            let config = &mut entry.config;
            if !config.replicas.remove(&node) {
                continue;
            }
            config.in_sync.remove(&node);
            config.epoch = config.epoch.next();
            config.reason = EpochReason::Copies;
            let text =
                format!("Volume {}: its copy on {name} is given up (epoch {}).", entry.name, config.epoch.0);
            notes.push(Note { severity: Severity::Warning, text });
        }
        Ok(Outcome::Applied { notes })
    }

    /// Volumes that lack a copy, while there is a data node without one of them. Not those that nobody has served yet: an epoch
    /// after the first says that the copies there are were made once.
    pub fn short_of_copies(&self) -> impl Iterator<Item = &VolumeEntry> {
        let nodes = self.data_nodes();
        self.volumes.values().filter(move |VolumeEntry { config, .. }| {
            config.primary.is_some() && config.replicas.len() < COPIES && !nodes.is_subset(&config.replicas)
        })
    }

    /// Where a new volume's copies are to be: of the data nodes those with most copies of others, as all volumes are behind
    /// one portal and only a node with a copy of each can serve it.
    #[must_use]
    pub fn nodes_for_copies(&self) -> BTreeSet<NodeId> {
        let copies = |node: &NodeId| {
            self.volumes.values().filter(|entry| entry.config.replicas.contains(node)).count()
        };
        let mut nodes: Vec<NodeId> = self.data_nodes().into_iter().collect();
        nodes.sort_by_key(|node| Reverse(copies(node)));
        nodes.into_iter().take(COPIES).collect()
    }

    pub(crate) fn add_copy(&mut self, volume: VolumeId, node: NodeId) -> Applied {
        let name = self.name_of(node);
        let data = self.members.get(&node).is_some_and(|member| member.data);
        let Some(entry) = self.volumes.get_mut(&volume) else {
            return refuse(RefusalKind::NotFound, format!("volume {volume} does not exist"));
        };
        if !data {
            return refuse(RefusalKind::Invalid, format!("{name} is no data node"));
        }
        if entry.config.replicas.contains(&node) {
            return Ok(Outcome::done());
        }
        if entry.config.replicas.len() >= COPIES {
            let text = format!("volume {} has {COPIES} copies already", entry.name);
            return refuse(RefusalKind::Exists, text);
        }
        let config = &mut entry.config;
        if config.primary.is_none() {
            let text = format!("volume {} has no primary yet", entry.name);
            return refuse(RefusalKind::Unavailable, text);
        }
        config.replicas.insert(node);
        config.epoch = config.epoch.next();
        config.reason = EpochReason::Copies;
        let text = format!("Volume {} gets a copy on {name} (epoch {}).", entry.name, config.epoch.0);
        Ok(Outcome::told(Severity::Info, text))
    }
}

pub(crate) fn check_member(member: &Member) -> Result<(), Refusal> {
    if member.node.0 == 0 {
        return refuse(RefusalKind::Invalid, format!("{} has node id 0", member.name));
    }
    if !is_name(&member.name) {
        let text: String = format!("{:?} is not 1 to 63 letters, digits and hyphens", member.name);
        return refuse(RefusalKind::Invalid, text);
    }
    Ok(())
}
