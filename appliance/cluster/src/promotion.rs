//! When this node proposes itself as primary, and what a request to hand over comes to.
//!
//! Nothing here is needed for safety: a promotion out of turn costs a resync, never data. What it is good for: the
//! right node steps in, soon, and two don't duel.
//!
//! Time from the death of a primary to the first answer of its successor, with the default time-outs: silence until
//! it counts as dead (1.0 s) + commit (a Raft election, which runs meanwhile, ends at 1.0 s at the latest) + the old
//! lease (1.575 s from learning of the commit) ≈ 2.7 s.

use crate::command::{Refusal, RefusalKind};
use crate::liveness::Liveness;
use crate::state::{ClusterState, VolumeEntry};
use alloc::{collections::BTreeMap, format, string::String, vec::Vec};
use base::{Change, Epoch, InstanceId, Monotonic, NodeId, Proposal, ProposalId, VolumeConfig, VolumeId};
use control::link::Report;
use control::settings::Timing;

/// What the policy judges by.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// This node's clock.
    pub now: Monotonic,
    /// What this node knows to be committed.
    pub state: &'a ClusterState,
    /// The last report of this node's storage process; `None` while none is connected.
    pub report: Option<&'a Report>,
    /// Who else lives.
    pub liveness: &'a Liveness,
    /// What the others' storage processes reported last.
    pub peers: &'a BTreeMap<NodeId, Report>,
}

/// Decides when to propose this node.
#[derive(Clone, Debug)]
pub struct Policy {
    me: NodeId,
    timing: Timing,
    volumes: BTreeMap<VolumeId, Watch>,
}

/// One volume in one epoch.
#[derive(Clone, Copy, Debug)]
struct Watch {
    epoch: Epoch,
    since: Monotonic,
    proposed: Option<Monotonic>,
}

impl Policy {
    /// The policy of node `me`.
    #[must_use]
    pub fn new(me: NodeId, timing: Timing) -> Self {
        Self { me, timing, volumes: BTreeMap::new() }
    }

    /// The promotions to propose now. Call it at least every `renew`, and when the state, the report or who lives
    /// changed. An unanswered proposal is made again; compare-and-swap lets at most one of them through.
    pub fn poll(&mut self, view: View<'_>) -> Vec<Proposal> {
        self.volumes.retain(|volume, _| view.state.volumes.contains_key(volume));
        view.state.volumes.values().filter_map(|entry| self.poll_volume(entry, view)).collect()
    }

    fn poll_volume(&mut self, entry: &VolumeEntry, view: View<'_>) -> Option<Proposal> {
        let config = &entry.config;
        let watch = self
            .volumes
            .entry(config.volume)
            .and_modify(|watch| {
                if watch.epoch != config.epoch {
                    *watch = Watch { epoch: config.epoch, since: view.now, proposed: None };
                }
            })
            .or_insert(Watch { epoch: config.epoch, since: view.now, proposed: None });
        let watch_now = *watch;
        let report = view.report.filter(|report| report.instance.0 != 0)?;
        if !config.in_sync.contains(&self.me) {
            return None;
        }
        // The copy must be usable as of the very configuration that the promotion leaves (S3, S10).
        let usable = |r: &&control::link::VolumeReport| {
            r.volume == config.volume && r.usable && r.epoch == config.epoch
        };
        report.volumes.iter().find(usable)?;
        let vacant_since = match config.primary {
            None => watch_now.since,
            // S6: a restarted storage process has to be promoted anew.
            Some(primary) if primary == self.me => {
                if config.primary_instance == report.instance {
                    return None;
                }
                watch_now.since
            }
            Some(primary) => match view.liveness.gone_since(primary, config.primary_instance, view.now) {
                Some(since) => since,
                None if lost_its_copy(config, primary, view) => watch_now.since,
                None => return None,
            },
        };
        if view.now < vacant_since + self.timing.dead * self.rank(entry, view) {
            return None;
        }
        if watch_now.proposed.is_some_and(|at| view.now.since(at) < self.timing.renew * 2) {
            return None;
        }
        self.volumes.insert(config.volume, Watch { proposed: Some(view.now), ..watch_now });
        // Numbers go on from what is committed: a restarted manager speaks for the same storage process.
        let number = match entry.promotions.get(&self.me) {
            Some(last) if last.instance == report.instance => last.number.saturating_add(1),
            _ => 1,
        };
        Some(Proposal {
            id: ProposalId { proposer: self.me, instance: report.instance, number },
            volume: config.volume,
            expected: config.epoch,
            change: Change::Promote,
        })
    }

    /// How many live candidates go before this node; each is given the dead time to step in. The last primary goes
    /// first (the portal stays where it is), then who is primary of another volume (all are behind one portal), then
    /// by name.
    fn rank(&self, entry: &VolumeEntry, view: View<'_>) -> u32 {
        let serves_another = |node: NodeId| {
            view.state
                .volumes
                .values()
                .any(|v| v.config.volume != entry.config.volume && v.config.primary == Some(node))
        };
        let key = |node: NodeId| {
            (entry.config.primary != Some(node), !serves_another(node), view.state.name_of(node), node)
        };
        let mine = key(self.me);
        let alive = |node: &&NodeId| **node != self.me && view.liveness.alive(**node, view.now);
        let before = entry.config.in_sync.iter().filter(alive).filter(|node| key(**node) < mine).count();
        u32::try_from(before).unwrap_or(u32::MAX)
    }
}

/// S11: the primary lives, but the disk under its copy has failed: that process serves it no more, and only an in-sync
/// peer can. Its rank makes the peer wait a dead time from the start of the epoch; a report that is older than that, of
/// a process that has become primary meanwhile, is not judged.
fn lost_its_copy(config: &VolumeConfig, primary: NodeId, view: View<'_>) -> bool {
    let report = view.peers.get(&primary).filter(|report| report.instance == config.primary_instance);
    report.is_some_and(|report| report.volumes.iter().any(|r| r.volume == config.volume && !r.usable))
}

/// A hand-over that can be asked of the primary's storage process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandOver {
    /// Which volume.
    pub volume: VolumeId,
    /// The node whose storage process is to be told ([`control::link::ToStorage::HandOver`]).
    pub primary: NodeId,
    /// The successor.
    pub to: NodeId,
    /// The successor's storage process.
    pub instance: InstanceId,
}

/// Turns a request into hand-overs: the volume's, then those of all others that its primary serves. One portal stands
/// before all volumes and follows who serves; a volume left behind would hold it, and the others were out of reach.
/// `storage_of` tells the storage process of a live node.
pub fn plan_hand_over(
    state: &ClusterState,
    volume: &str,
    to: Option<&str>,
    storage_of: impl Fn(NodeId) -> Option<InstanceId>,
) -> Result<Vec<HandOver>, Refusal> {
    let first = plan_one(state, volume, to, storage_of)?;
    let mut plans = alloc::vec![first.clone()];
    for entry in state.volumes.values() {
        let config = &entry.config;
        if config.volume == first.volume || config.primary != Some(first.primary) {
            continue;
        }
        if !config.in_sync.contains(&first.to) {
            return Err(Refusal::new(
                RefusalKind::Refused,
                format!(
                    "volume {} has to go along, as one portal stands before both, and its copy on {} is not in sync",
                    entry.name,
                    state.name_of(first.to)
                ),
            ));
        }
        plans.push(HandOver { volume: config.volume, ..first.clone() });
    }
    Ok(plans)
}

fn plan_one(
    state: &ClusterState,
    volume: &str,
    to: Option<&str>,
    storage_of: impl Fn(NodeId) -> Option<InstanceId>,
) -> Result<HandOver, Refusal> {
    let refuse = |kind, message: String| Err(Refusal::new(kind, message));
    let Some(entry) = state.volume_named(volume) else {
        return refuse(RefusalKind::NotFound, format!("volume {volume} does not exist"));
    };
    let config = &entry.config;
    let Some(primary) = config.primary else {
        return refuse(RefusalKind::Unavailable, format!("volume {volume} has no primary yet"));
    };
    let candidates: Vec<NodeId> = match to {
        Some(name) => match state.member_named(name) {
            Some(member) => alloc::vec![member.node],
            None => return refuse(RefusalKind::NotFound, format!("node {name} is no member")),
        },
        None => config.in_sync.iter().copied().filter(|node| *node != primary).collect(),
    };
    if candidates.is_empty() {
        return refuse(RefusalKind::Unavailable, format!("volume {volume} has no other copy in sync"));
    }
    for node in candidates {
        let name = state.name_of(node);
        if node == primary {
            return refuse(RefusalKind::Refused, format!("{name} is primary of volume {volume} already"));
        }
        if !config.in_sync.contains(&node) {
            return refuse(
                RefusalKind::Refused,
                format!("the copy of volume {volume} on {name} is not in sync"),
            );
        }
        if let Some(instance) = storage_of(node) {
            return Ok(HandOver { volume: config.volume, primary, to: node, instance });
        }
    }
    let who = to.unwrap_or("any other node in sync");
    refuse(RefusalKind::Unavailable, format!("the storage process of {who} is not reached"))
}
