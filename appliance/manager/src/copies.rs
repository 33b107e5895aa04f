//! Room for copies of volumes: which nodes have it, and who takes the copy that a volume lacks.
//!
//! What a node has is what its storage process told last, less what is committed and not made there yet. It decides early
//! and in clear words; whether there is room is known when the copy is made, and a node that has none says so.

use crate::heartbeat::Pulse;
use crate::node::Node;
use crate::proposals;
use base::{ByteCount, NodeId};
use cluster::{ClusterState, Command, VolumeEntry};
use control::link::Report;
use std::cmp::Reverse;

/// What the storage processes of this node and of live peers reported last.
pub(crate) struct Reports {
    own: Option<Report>,
    me: NodeId,
    pulse: Pulse,
}

impl Reports {
    pub(crate) fn of(node: &Node, state: &ClusterState) -> Self {
        let pulse = node.heart.pulse(state.members.keys().copied());
        Self { own: node.storage.current().1, me: node.me, pulse }
    }

    /// `None`: that process is not reached.
    pub(crate) fn get(&self, node: NodeId) -> Option<&Report> {
        let peers = || self.pulse.alive.get(&node).and_then(Option::as_ref);
        if node == self.me { self.own.as_ref() } else { peers() }
    }

    /// The node itself is reached, whatever its storage process does.
    pub(crate) fn is_reached(&self, node: NodeId) -> bool {
        node == self.me || self.pulse.alive.contains_key(&node)
    }
}

/// Bytes of volumes whose copy on `node` is about to be made, or opened: neither open nor found impossible.
fn to_make(state: &ClusterState, node: NodeId, report: &Report) -> u64 {
    let is_told = |entry: &&VolumeEntry| {
        let id = entry.config.volume;
        report.volumes.iter().any(|copy| copy.volume == id)
            || report.unopened.iter().any(|unopened| unopened.volume == id)
    };
    let here = state.volumes.values().filter(|entry| entry.config.replicas.contains(&node));
    here.filter(|entry| !is_told(entry)).fold(0, |sum, entry| sum.saturating_add(entry.config.size.0))
}

/// Whether `report`, of `node`, is from before it made or opened all of its copies.
pub(crate) fn is_early(state: &ClusterState, node: NodeId, report: &Report) -> bool {
    to_make(state, node, report) > 0
}

/// Why `node`, whose storage process told `report`, can't take a new copy of `size`; follows its name.
pub(crate) fn shortage(
    state: &ClusterState,
    node: NodeId,
    report: &Report,
    size: ByteCount,
) -> Option<String> {
    let to_make = to_make(state, node, report);
    let less = |bytes: ByteCount| ByteCount(bytes.0.saturating_sub(to_make));
    let (free, largest) = (less(report.free), less(report.largest.unwrap_or(report.free)));
    (size > largest).then(|| {
        format!(
            "has {free} ({} B) free, room for a volume of {largest} ({} B) at most, {size} ({} B) are asked for",
            free.0, largest.0, size.0
        )
    })
}

/// While this node leads: a volume that lacks a copy gets one where there is room for it. One at a time: the next takes it into
/// account.
pub(crate) async fn add_missing(node: &Node) {
    let state = node.log.applied().state;
    let reports = Reports::of(node, &state);
    let missing = state.short_of_copies().find_map(|entry| {
        let taker = taker(&state, entry, &reports)?;
        Some(Command::AddCopy { volume: entry.config.volume, node: taker })
    });
    let Some(command) = missing else { return };
    tracing::info!(?command, "a volume lacks a copy");
    // One attempt: the next round looks again.
    if let Err(error) = proposals::here(node, command, node.attempt_time()).await {
        tracing::warn!(%error, "copy not added");
    }
}

/// Who takes it: of those with room the one with most copies of others, as all are behind one portal; then with most room.
fn taker(state: &ClusterState, entry: &VolumeEntry, reports: &Reports) -> Option<NodeId> {
    let free = |node: NodeId| {
        let report = reports.get(node)?;
        shortage(state, node, report, entry.config.size).is_none().then_some(report.free)
    };
    let copies =
        |node: NodeId| state.volumes.values().filter(|other| other.config.replicas.contains(&node)).count();
    let others = state.data_nodes().into_iter().filter(|node| !entry.config.replicas.contains(node));
    let able = others.filter_map(|node| Some((Reverse(copies(node)), Reverse(free(node)?), node)));
    able.min().map(|(_, _, node)| node)
}
