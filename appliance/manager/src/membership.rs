//! Who is in the Raft group, and who votes (S19).
//!
//! Invariants
//! - The voters are one node or three, never two: they grow from the one that created the cluster to three in one joint
//!   change, once both others follow the log.
//! - A node is let in when the committed state names it; before that, only by what pairing told (the introduction).

use crate::node::Node;
use crate::peers::Contact;
use crate::raft::log_view::Applied;
use base::NodeId;
use cluster::ClusterState;
use control::link::Member;
use openraft::{EmptyNode, RaftMetrics};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use tokio::time::{interval, timeout};

/// Entries by which a node may lag behind and still be made a voter.
const CLOSE_ENOUGH: u64 = 20;
/// Voters of a cluster that can lose one.
const THREE: usize = 3;

/// Lets in and dials whom the committed state names, or, before this node is in it, whom pairing named.
pub(crate) fn refresh_contacts(node: &Node) {
    let applied = node.log.applied();
    let introduction = node.introduction.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut contacts: BTreeMap<NodeId, Contact> = if applied.state.members.contains_key(&node.me) {
        applied.state.members.values().filter_map(contact).collect()
    } else {
        introduction.iter().flat_map(|told| &told.members).filter_map(contact).collect()
    };
    // Just paired: let in to say welcome, or to be welcomed.
    let mut visitor = node.visitor.lock().unwrap_or_else(PoisonError::into_inner);
    if visitor.as_ref().is_some_and(|card| contacts.contains_key(&card.node)) {
        *visitor = None;
    }
    if let Some(card) = visitor.as_ref()
        && let Some(pin) = card.pin()
    {
        contacts.insert(card.node, Contact { address: card.cluster_address, pin });
    }
    drop(visitor);
    contacts.remove(&node.me);
    node.peers.update(&contacts);
}

fn contact(member: &Member) -> Option<(NodeId, Contact)> {
    match member.certificate_sha256.parse() {
        Ok(pin) => Some((member.node, Contact { address: member.cluster_address, pin })),
        Err(_) => {
            tracing::error!(member = member.name, "its certificate hash is malformed: it is not let in");
            None
        }
    }
}

/// Follows the committed state: contacts, storage, heart.
pub(crate) async fn follow(node: Arc<Node>) {
    let mut applied = node.log.watch();
    let mut members = BTreeMap::new();
    loop {
        let state = applied.borrow_and_update().state.clone();
        if state.members != members {
            members.clone_from(&state.members);
            refresh_contacts(&node);
        }
        node.tell_storage();
        node.heart.wake();
        if applied.changed().await.is_err() {
            return;
        }
    }
}

/// While this node leads, brings the Raft group in line with the committed state.
pub(crate) async fn reconcile(node: Arc<Node>) {
    let mut every = interval(node.timing.renew);
    loop {
        every.tick().await;
        let metrics = node.raft.metrics().borrow().clone();
        if metrics.current_leader != Some(node.me.0) || !metrics.state.is_leader() {
            continue;
        }
        let applied = node.log.applied();
        for stranger in strangers(&applied) {
            tracing::info!(node = %stranger, "adding a learner");
            let added =
                timeout(node.patience(), node.raft.add_learner(stranger.0, EmptyNode {}, false)).await;
            if let Ok(Err(error)) = added {
                tracing::warn!(%error, "learner not added");
            }
        }
        if let Some(voters) = next_voters(&applied, &metrics) {
            tracing::info!(?voters, "changing the voters");
            match timeout(node.patience(), node.raft.change_membership(voters, true)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "voters not changed"),
                Err(_) => tracing::warn!("voters not changed in time"),
            }
        }
    }
}

/// Members that the Raft group does not know yet.
fn strangers(applied: &Applied) -> Vec<NodeId> {
    let known: BTreeSet<u64> = applied.membership.nodes().map(|(node, _)| *node).collect();
    applied.state.members.keys().copied().filter(|node| !known.contains(&node.0)).collect()
}

/// The voters to change to now, if any.
fn next_voters(applied: &Applied, metrics: &RaftMetrics<u64, EmptyNode>) -> Option<BTreeSet<u64>> {
    let membership = metrics.membership_config.membership();
    let sets = membership.get_joint_config();
    // A leader died between the two steps of a joint change: finish it.
    if let [_, target] = sets.as_slice() {
        return Some(target.clone());
    }
    let [present] = sets.as_slice() else { return None };
    let wanted: BTreeSet<u64> = wanted_voters(&applied.state, present)?.iter().map(|node| node.0).collect();
    let follows = |node: &u64| {
        let matched = metrics.replication.as_ref()?.get(node)?.as_ref()?.index;
        Some(matched + CLOSE_ENOUGH >= metrics.last_log_index.unwrap_or(0))
    };
    let ready = wanted.iter().all(|node| present.contains(node) || follows(node).unwrap_or(false));
    ready.then_some(wanted)
}

/// S19: the three voters that the single one is to become; `None` while there are not three, or there are already.
pub(crate) fn wanted_voters(state: &ClusterState, present: &BTreeSet<u64>) -> Option<BTreeSet<NodeId>> {
    if present.len() != 1 {
        return None;
    }
    // Data nodes first: a third copy is a better third vote than a witness.
    let mut others: Vec<&Member> =
        state.members.values().filter(|member| !present.contains(&member.node.0)).collect();
    others.sort_by_key(|member| (!member.data, member.node));
    let mut voters: BTreeSet<NodeId> = present.iter().copied().map(NodeId).collect();
    voters.extend(others.iter().take(THREE - 1).map(|member| member.node));
    (voters.len() == THREE).then_some(voters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(members: &[(u64, bool)]) -> ClusterState {
        let member = |(node, data): &(u64, bool)| {
            let address = std::net::SocketAddr::from(([127, 1, 0, 1], u16::try_from(*node).unwrap()));
            let member = Member {
                node: NodeId(*node),
                name: format!("n{node}"),
                data: *data,
                cluster_address: address,
                replication_address: address,
                certificate_sha256: String::new(),
            };
            (NodeId(*node), member)
        };
        ClusterState { members: members.iter().map(member).collect(), ..ClusterState::default() }
    }

    #[test]
    fn voters_are_one_or_three() {
        let wanted = |members: &[(u64, bool)], present: &[u64]| {
            let voters = wanted_voters(&state(members), &present.iter().copied().collect());
            voters.map(|voters| voters.into_iter().map(|node| node.0).collect::<Vec<_>>())
        };
        assert_eq!(wanted(&[(5, true)], &[5]), None);
        assert_eq!(wanted(&[(5, true), (2, true)], &[5]), None);
        assert_eq!(wanted(&[(5, true), (2, true), (1, false)], &[5]), Some(vec![1, 2, 5]));
        assert_eq!(wanted(&[(5, true), (2, true), (1, false), (9, true)], &[5]), Some(vec![2, 5, 9]));
        assert_eq!(wanted(&[(5, true), (2, true), (1, false)], &[1, 2, 5]), None);
    }
}
