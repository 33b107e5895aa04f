//! Everything the console shows, from the committed state and the nodes' reports.

use crate::copies;
use crate::heartbeat::Pulse;
use crate::node::Node;
use base::{ByteCount, NodeId, VolumeConfig, VolumeId};
use cluster::placement::{gathering_node, is_parted};
use cluster::{ClusterState, VolumeEntry, Voters};
use control::api::{
    ChapStatus, ClusterStatus, GrowthStatus, LunStatus, MemberStatus, PeerPorts, ResyncStatus, RuleStatus,
    SessionStatus, Status, TargetStatus, VolumeState, VolumeStatus, redundancy,
};
use control::link::{Report, ResyncReport, SessionReport, VolumeReport};
use control::settings::Role;
use control::targets::Rule;
use std::collections::BTreeMap;
use std::sync::PoisonError;

/// What this node knows at the moment.
pub(crate) fn status(node: &Node) -> Status {
    let applied = node.log.applied();
    let voters = applied.voters();
    let in_raft = applied.membership.membership().get_node(&node.me.0).is_some();
    let state = applied.state;
    let pulse = node.heart.pulse(state.members.keys().copied().filter(|member| *member != node.me));
    let mut reports: BTreeMap<NodeId, Report> = BTreeMap::new();
    for (peer, report) in &pulse.alive {
        if let Some(report) = report {
            reports.insert(*peer, report.clone());
        }
    }
    if let Some(report) = node.storage.current().1 {
        reports.insert(node.me, report);
    }
    let view = View { node, state: &state, voters: &voters, in_raft, pulse: &pulse, reports: &reports };
    Status {
        node: node.settings.name.clone(),
        cluster: view.cluster(),
        volumes: state.volumes.values().map(|entry| view.volume(entry)).collect(),
        targets: view.targets(),
        sessions: view.sessions(),
        services: Vec::new(),
        problems: view.problems(),
    }
}

struct View<'a> {
    node: &'a Node,
    state: &'a ClusterState,
    voters: &'a Voters,
    /// The Raft group counts this node in.
    in_raft: bool,
    pulse: &'a Pulse,
    reports: &'a BTreeMap<NodeId, Report>,
}

impl View<'_> {
    fn online(&self, member: NodeId) -> bool {
        member == self.node.me || self.pulse.alive.contains_key(&member)
    }

    fn cluster(&self) -> Option<ClusterStatus> {
        let cluster = self.state.cluster.as_ref()?;
        // A leader that no majority hears names itself still, and leads nobody.
        let leader = self.node.raft.metrics().borrow().current_leader.filter(|_| self.pulse.quorum);
        Some(ClusterStatus {
            id: cluster.id.to_string(),
            generation: cluster.generation,
            leader: leader.map(|leader| self.state.name_of(NodeId(leader))),
            quorum: self.pulse.quorum,
            members: self.state.members.values().map(|member| self.member(member)).collect(),
            portal: Some(cluster.portal),
            formats: Some(self.state.levels()),
        })
    }

    fn member(&self, member: &control::link::Member) -> MemberStatus {
        let report = self.reports.get(&member.node);
        MemberStatus {
            name: member.name.clone(),
            role: if member.data { Role::Data } else { Role::Witness },
            online: self.online(member.node),
            address: member.cluster_address.ip(),
            ports: PeerPorts {
                cluster: member.cluster_address.port(),
                replication: member.replication_address.port(),
            },
            votes: self.voters.contains(member.node),
            serving: report.is_some_and(|report| report.volumes.iter().any(|volume| volume.serving)),
            free: report.map_or(ByteCount(0), |report| report.free),
            capacity: report.map_or(ByteCount(0), |report| report.capacity),
        }
    }

    fn names<'n>(&self, nodes: impl IntoIterator<Item = &'n NodeId>) -> Vec<String> {
        let mut names: Vec<String> = nodes.into_iter().map(|node| self.state.name_of(*node)).collect();
        names.sort();
        names
    }

    fn volume(&self, entry: &VolumeEntry) -> VolumeStatus {
        let config = &entry.config;
        let report = config.primary.and_then(|primary| self.replica(primary, config.volume));
        let resync = report.and_then(|report| report.resync.as_ref());
        VolumeStatus {
            name: entry.name.clone(),
            size: config.size,
            growth: entry.wanted_size.map(|size| self.growth(entry, size)),
            not_grown: entry.not_grown.clone(),
            epoch: config.epoch,
            primary: config.primary.map(|primary| self.state.name_of(primary)),
            in_sync: self.names(&config.in_sync),
            replicas: self.names(&config.replicas),
            unopened: self.unopened(config),
            state: self.volume_state(entry, report),
            problems: self.volume_problems(entry),
            resync: config.primary.zip(resync).map(|(source, resync)| self.resync(source, resync)),
            verify: None,
            resynced_total: report.map_or(ByteCount(0), |report| report.resynced_total),
            dirty: report.map_or(ByteCount(0), |report| report.dirty),
            logged: report.map_or(ByteCount(0), |report| report.logged),
            block_format: entry.presentation.block_format,
            thin: entry.presentation.thin,
        }
    }

    /// Whose copy is not open, other than for lack of room.
    fn unopened(&self, config: &VolumeConfig) -> Vec<String> {
        let told = self.reports.iter().filter(|(node, _)| config.replicas.contains(node));
        let unopened = told.filter(|(_, report)| is_unopened(report, config.volume));
        unopened.map(|(node, _)| self.state.name_of(*node)).collect()
    }

    /// Why a copy is missing, or of no use.
    fn volume_problems(&self, entry: &VolumeEntry) -> Vec<String> {
        let config = &entry.config;
        let mut problems = Vec::new();
        for (node, report) in self.reports.iter().filter(|(node, _)| config.replicas.contains(node)) {
            let name = self.state.name_of(*node);
            let unopened = report.unopened.iter().filter(|unopened| unopened.volume == config.volume);
            problems.extend(unopened.map(|unopened| format!("{name}: {}.", unopened.reason)));
            let here = report.volumes.iter().find(|copy| copy.volume == config.volume);
            let no_room = here.and_then(|copy| copy.no_room.as_ref()).filter(|no| no.size <= config.size);
            problems.extend(no_room.map(|no_room| {
                format!("The copy on {name} can't have the volume's {}: it {}.", config.size, no_room.reason)
            }));
        }
        if config.replicas.len() >= cluster::COPIES {
            return problems;
        }
        let others: Vec<NodeId> =
            self.state.data_nodes().into_iter().filter(|node| !config.replicas.contains(node)).collect();
        if others.is_empty() {
            problems.push("There is no other data node to hold a second copy.".into());
        }
        for node in others {
            let shortage = self
                .reports
                .get(&node)
                .and_then(|report| copies::shortage(self.state, node, report, config.size));
            problems
                .extend(shortage.map(|text| format!("No second copy: {} {text}.", self.state.name_of(node))));
        }
        problems
    }

    fn growth(&self, entry: &VolumeEntry, size: ByteCount) -> GrowthStatus {
        let config = &entry.config;
        let has =
            |node: &NodeId| self.replica(*node, config.volume).is_some_and(|report| report.room >= size);
        GrowthStatus {
            size,
            ready: self.names(config.replicas.iter().filter(|node| has(node))),
            waiting_for: self.names(config.in_sync.iter().filter(|node| !has(node))),
        }
    }

    fn replica(&self, node: NodeId, volume: base::VolumeId) -> Option<&VolumeReport> {
        self.reports.get(&node)?.volumes.iter().find(|report| report.volume == volume)
    }

    fn volume_state(&self, entry: &VolumeEntry, primary: Option<&VolumeReport>) -> VolumeState {
        let config = &entry.config;
        match primary {
            Some(report) if report.serving && report.resync.is_some() => VolumeState::Resyncing,
            Some(report)
                if report.serving
                    && config.in_sync == config.replicas
                    && config.replicas.len() >= cluster::COPIES =>
            {
                VolumeState::Healthy
            }
            Some(report) if report.serving => VolumeState::Degraded,
            _ if config.in_sync.iter().any(|node| self.reports.contains_key(node)) => VolumeState::Suspended,
            _ => VolumeState::Offline,
        }
    }

    fn resync(&self, source: NodeId, resync: &ResyncReport) -> ResyncStatus {
        let total = resync.total.0.max(resync.left.0);
        let done = total - resync.left.0;
        let percent = done.saturating_mul(100).checked_div(total).unwrap_or(100);
        ResyncStatus {
            source: self.state.name_of(source),
            target: self.state.name_of(resync.target),
            percent: u32::try_from(percent).unwrap_or(100),
            bytes_left: resync.left,
            bytes_per_s: resync.bytes_per_s,
            eta_s: resync.left.0.checked_div(resync.bytes_per_s),
        }
    }

    fn targets(&self) -> Vec<TargetStatus> {
        let name =
            |volume| self.state.volumes.get(volume).map_or_else(String::new, |entry| entry.name.clone());
        let targets = self.state.targets.values();
        targets
            .map(|target| TargetStatus {
                iqn: target.iqn.clone(),
                luns: target
                    .luns
                    .iter()
                    .map(|(lun, mapping)| LunStatus {
                        lun: *lun,
                        volume: name(&mapping.volume),
                        read_only: mapping.read_only,
                        initiators: mapping.initiators.clone(),
                    })
                    .collect(),
                initiators: target.access.rules.iter().map(rule).collect(),
                chap: target.access.chap.as_ref().map(ChapStatus::from),
            })
            .collect()
    }

    fn sessions(&self) -> Vec<SessionStatus> {
        let of_node = |(node, report): (&NodeId, &Report)| {
            let node = self.state.name_of(*node);
            let status = |session: &SessionReport| SessionStatus {
                initiator: session.initiator.clone(),
                address: session.address,
                target: session.target.clone(),
                node: node.clone(),
            };
            report.sessions.iter().map(status).collect::<Vec<_>>()
        };
        self.reports.iter().flat_map(of_node).collect()
    }

    /// Nobody in the cluster knows this node any more.
    fn removed(&self) -> Option<String> {
        let (name, refusing) = (&self.node.settings.name, self.node.peers.refusing());
        self.state.cluster.as_ref()?;
        // Who made the cluster is in it from the first entry of the log on; who joined is so before it follows the log.
        let made_it = self.node.introduction.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        let gone = (made_it || self.in_raft) && !self.state.members.contains_key(&self.node.me);
        let refused = !refusing.is_empty() && self.pulse.alive.is_empty();
        let by = if refused { format!(" by {}", self.names(&refusing).join(" and ")) } else { String::new() };
        let others = self.state.members.keys().filter(|member| **member != self.node.me);
        if gone || (refused && others.clone().all(|member| refusing.contains(member))) {
            return Some(format!(
                "{name} is not accepted{by} any more: it was removed from the cluster, and what it holds is out of date. \
                 Reset it; then it can be paired as a new node."
            ));
        }
        refused.then(|| {
            format!(
                "{name} is not accepted{by} any more, and nobody else is reached: one of them was removed from the cluster. The \
                 others' consoles tell which."
            )
        })
    }

    /// One sentence each.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        problems.extend(self.removed());
        if self.state.cluster.is_some() && !self.pulse.quorum {
            problems.push(
                "No majority of the cluster answers this node: no change can be decided, and service stops."
                    .into(),
            );
        }
        let own = self.node.settings.time_scale_percent;
        if let Some(cluster) = &self.state.cluster
            && cluster.time_scale_percent != own
        {
            problems.push(format!(
                "The time scale of {} is {own} percent, that of the cluster {} percent.",
                self.node.settings.name, cluster.time_scale_percent
            ));
        }
        for member in self.state.members.values().filter(|member| !self.online(member.node)) {
            problems.push(format!("{} is not reached.", member.name));
        }
        for data_node in self.state.data_nodes() {
            if self.online(data_node) && !self.reports.contains_key(&data_node) {
                problems
                    .push(format!("The storage process of {} does not run.", self.state.name_of(data_node)));
            }
        }
        if is_parted(self.state) {
            let cure = match gathering_node(self.state) {
                Some(node) => {
                    format!("they are about to be brought together on {}", self.state.name_of(node))
                }
                None => "they come together when one node has all of them in sync".into(),
            };
            problems.push(format!(
                "Volumes are served by different nodes, and hosts reach those of one only; {cure}."
            ));
        }
        for (node, report) in self.reports {
            let name = self.state.name_of(*node);
            problems.extend(report.problems.iter().map(|problem| format!("{name}: {problem}")));
        }
        for entry in self.state.short_of_copies() {
            let shortages = self.volume_problems(entry);
            problems.extend(shortages.iter().map(|problem| format!("Volume {}: {problem}", entry.name)));
        }
        // A peer's come with its report.
        let name = &self.node.settings.name;
        problems.extend(self.node.machine_problems().iter().map(|problem| format!("{name}: {problem}")));
        problems
            .extend(redundancy(self.state.data_nodes().len(), self.state.members.len()).map(str::to_owned));
        problems
    }
}

fn rule(rule: &Rule) -> RuleStatus {
    RuleStatus { pattern: rule.pattern.clone(), chap: rule.chap.as_ref().map(ChapStatus::from) }
}

/// The copy is not open, and that is not for lack of room.
fn is_unopened(report: &Report, volume: VolumeId) -> bool {
    let is_open = report.volumes.iter().any(|copy| copy.volume == volume);
    let waits = report.unopened.iter().any(|copy| copy.volume == volume && copy.lacks_room);
    !is_open && !waits
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::link::Unopened;

    #[test]
    fn a_copy_that_waits_for_room_is_not_called_unopened() {
        let (id, other) = (VolumeId(1), VolumeId(2));
        let refused = |volume, lacks_room| Unopened { volume, reason: "x".into(), lacks_room };
        let report = |unopened| Report { unopened, ..Report::default() };
        assert!(is_unopened(&report(vec![]), id), "not open yet");
        assert!(is_unopened(&report(vec![refused(id, false)]), id));
        assert!(is_unopened(&report(vec![refused(other, true)]), id));
        assert!(!is_unopened(&report(vec![refused(id, true)]), id));
        let open = serde_json::json!({
            "volume": id, "epoch": 1, "usable": true, "serving": false, "dirty": 0, "resync": null,
            "resynced_total": 0, "logged": 0, "room": 4096, "no_room": null
        });
        let volumes = vec![serde_json::from_value(open).unwrap()];
        assert!(!is_unopened(&Report { volumes, ..Report::default() }, id));
    }
}
