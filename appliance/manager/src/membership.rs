//! Who is in the Raft group, and who votes (S19).
//!
//! Invariants
//! - The voters are one node or three, never two: they grow from the one that created the cluster to three in one joint
//!   change, once both others follow the log. When one of three has left the cluster, a member that follows the log takes
//!   its place, or the primary of all volumes votes alone; until then both others are needed.
//! - Who votes alone is the primary of all volumes: the vote follows a hand-over.
//! - A node is let in when the committed state names it; before that, only by what pairing told (the introduction).

use crate::copies;
use crate::node::{Node, failed};
use crate::peers::Contact;
use crate::raft::log_view::Applied;
use base::NodeId;
use cluster::ClusterState;
use control::api::Answer;
use control::link::Member;
use openraft::{ChangeMembers, EmptyNode, RaftMetrics};
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

/// While this node leads, brings the Raft group, and the copies of volumes, in line with the committed state.
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
        let alive = node.heart.pulse(applied.state.members.keys().copied()).alive;
        if let Some(change) = next_change(&applied, &metrics, |node| alive.contains_key(&node)) {
            tracing::info!(?change, "changing the Raft group");
            match timeout(node.patience(), node.raft.change_membership(change, true)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "Raft group not changed"),
                Err(_) => tracing::warn!("Raft group not changed in time"),
            }
        }
        copies::add_missing(&node).await;
    }
}

/// Members that the Raft group does not know yet.
fn strangers(applied: &Applied) -> Vec<NodeId> {
    let known: BTreeSet<u64> = applied.membership.nodes().map(|(node, _)| *node).collect();
    applied.state.members.keys().copied().filter(|node| !known.contains(&node.0)).collect()
}

/// What is to be changed in the Raft group now, if anything: who votes; then who only listens, and is no member any more.
/// Nobody gets a vote who is not alive: the change might wait for it for ever.
fn next_change(
    applied: &Applied,
    metrics: &RaftMetrics<u64, EmptyNode>,
    is_alive: impl Fn(NodeId) -> bool,
) -> Option<ChangeMembers<u64, EmptyNode>> {
    let membership = metrics.membership_config.membership();
    let sets = membership.get_joint_config();
    // A leader died between the two steps of a joint change: finish it.
    if let [_, target] = sets.as_slice() {
        return Some(ChangeMembers::ReplaceAllVoters(target.clone()));
    }
    let [present] = sets.as_slice() else { return None };
    let follows = |node: &u64| {
        let matched = metrics.replication.as_ref()?.get(node)?.as_ref()?.index;
        Some(matched + CLOSE_ENOUGH >= metrics.last_log_index.unwrap_or(0))
    };
    let ready = |voters: &BTreeSet<u64>| {
        let may_vote = |node: &u64| is_alive(NodeId(*node)) && follows(node).unwrap_or(false);
        voters.iter().all(|node| present.contains(node) || may_vote(node))
    };
    let ids = |voters: BTreeSet<NodeId>| voters.iter().map(|node| node.0).collect();
    let mut wanted = wanted_voters(&applied.state, present).into_iter().map(ids);
    if let Some(voters) = wanted.find(ready) {
        return Some(ChangeMembers::ReplaceAllVoters(voters));
    }
    let gone = |node: &u64| !applied.state.members.contains_key(&NodeId(*node)) && !present.contains(node);
    let gone: BTreeSet<u64> = membership.nodes().map(|(node, _)| *node).filter(gone).collect();
    (!gone.is_empty()).then_some(ChangeMembers::RemoveNodes(gone))
}

/// Waits until the voters are as they should be and `is_so` of them, too; else the answer is `late`.
pub(crate) async fn settled(
    node: &Node,
    is_so: impl Fn(&Applied, &BTreeSet<u64>) -> bool,
    late: String,
) -> Answer {
    let mut applied = node.log.watch();
    let there =
        applied.wait_for(|applied| match applied.membership.membership().get_joint_config().as_slice() {
            [voters] => is_so(applied, voters) && wanted_voters(&applied.state, voters).is_empty(),
            _ => false,
        });
    match timeout(node.patience(), there).await {
        Ok(Ok(_)) => Answer::Done,
        Ok(Err(_)) => failed("unavailable", "the cluster manager is stopping".into()),
        Err(_) => failed("timed_out", late),
    }
}

/// S19: what the voters, `present` at the moment, are to become, the best first; nothing if they are as they should be. A
/// single one becomes three as soon as there are three members. When a voter has left the cluster, another member takes
/// its place, or the one that can go on without the others votes alone.
pub(crate) fn wanted_voters(state: &ClusterState, present: &BTreeSet<u64>) -> Vec<BTreeSet<NodeId>> {
    let members = present.iter().copied().map(NodeId).filter(|node| state.members.contains_key(node));
    let staying: BTreeSet<NodeId> = members.collect();
    let one_left = staying.len() < present.len();
    if !one_left && staying.len() != 1 {
        return Vec::new();
    }
    // Data nodes first: a third copy is a better third vote than a witness.
    let mut others: Vec<&Member> =
        state.members.values().filter(|member| !staying.contains(&member.node)).collect();
    others.sort_by_key(|member| (!member.data, member.node));
    let mut three = staying.clone();
    three.extend(others.iter().take(THREE.saturating_sub(staying.len())).map(|member| member.node));
    let three = (three.len() == THREE).then_some(three);
    let alone = if one_left {
        sole_voter(state, staying.iter())
    } else if sole_voter(state, staying.iter()).is_none() {
        sole_voter(state, state.members.keys())
    } else {
        None
    };
    three.into_iter().chain(alone.map(|node| BTreeSet::from([node]))).collect()
}

/// S19: the one of `nodes` that can vote alone: the primary of all volumes, else a data node with all of them in sync.
/// `None` while volumes are served by different nodes; they come together by themselves.
fn sole_voter<'a>(state: &ClusterState, mut nodes: impl Iterator<Item = &'a NodeId>) -> Option<NodeId> {
    let configs = || state.volumes.values().map(|entry| &entry.config);
    let all = |node: &NodeId| {
        state.members.get(node).is_some_and(|member| member.data)
            && configs().all(|config| {
                config.in_sync.contains(node) && config.primary.is_none_or(|primary| primary == *node)
            })
    };
    nodes.find(|node| all(node)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{LogId, StoredMembership};
    use openraft::{CommittedLeaderId, Membership};

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

    fn wanted(state: &ClusterState, present: &[u64]) -> Vec<Vec<u64>> {
        let voters = wanted_voters(state, &present.iter().copied().collect());
        voters.into_iter().map(|voters| voters.into_iter().map(|node| node.0).collect()).collect()
    }

    const NOTHING: [Vec<u64>; 0] = [];

    #[test]
    fn voters_are_one_or_three() {
        let wanted = |members: &[(u64, bool)], present: &[u64]| wanted(&state(members), present);
        assert_eq!(wanted(&[(5, true)], &[5]), NOTHING);
        assert_eq!(wanted(&[(5, true), (2, true)], &[5]), NOTHING);
        assert_eq!(wanted(&[(5, true), (2, true), (1, false)], &[5]), [[1, 2, 5]]);
        assert_eq!(wanted(&[(5, true), (2, true), (1, false), (9, true)], &[5]), [[2, 5, 9]]);
        assert_eq!(wanted(&[(5, true), (2, true), (1, false)], &[1, 2, 5]), NOTHING);
    }

    #[test]
    fn without_one_of_three_another_takes_its_place_or_one_votes_alone() {
        let wanted = |members: &[(u64, bool)], present: &[u64]| wanted(&state(members), present);
        // The witness is never alone.
        assert_eq!(wanted(&[(5, true), (1, false)], &[1, 2, 5]), [[5]]);
        assert_eq!(wanted(&[(2, true), (5, true)], &[1, 2, 5]), [[2]]);
        assert_eq!(wanted(&[(5, true), (1, false), (7, true)], &[1, 2, 5]), [vec![1, 5, 7], vec![5]]);
    }

    fn serve(state: &mut ClusterState, volume: u64, primary: u64) {
        let (id, node) = (base::VolumeId(volume), NodeId(primary));
        let config = base::VolumeConfig {
            volume: id,
            epoch: base::Epoch(3),
            primary: Some(node),
            primary_instance: base::InstanceId(1),
            reason: base::EpochReason::Grown,
            in_sync: [NodeId(2), NodeId(5)].into(),
            replicas: [NodeId(2), NodeId(5)].into(),
            size: base::ByteCount::mib(1),
            write_back: false,
        };
        let entry = cluster::VolumeEntry {
            name: format!("v{volume}"),
            config,
            wanted_size: None,
            not_grown: None,
            presentation: Default::default(),
            proposals: BTreeMap::new(),
            promotions: BTreeMap::new(),
            reservations: Default::default(),
        };
        state.volumes.insert(id, entry);
    }

    #[test]
    fn who_votes_alone_is_primary_of_all() {
        let mut state = state(&[(2, true), (5, true)]);
        serve(&mut state, 1, 5);
        assert_eq!(wanted(&state, &[1, 2, 5]), [[5]]);
        serve(&mut state, 2, 2);
        assert_eq!(wanted(&state, &[1, 2, 5]), NOTHING, "they come together first");
        serve(&mut state, 2, 5);
        assert_eq!(wanted(&state, &[1, 2, 5]), [[5]]);
        assert_eq!(wanted(&state, &[5]), NOTHING);
        assert_eq!(wanted(&state, &[2]), [[5]], "the vote follows a hand-over");
        serve(&mut state, 1, 2);
        assert_eq!(wanted(&state, &[5]), NOTHING);
        serve(&mut state, 2, 2);
        assert_eq!(wanted(&state, &[5]), [[2]]);
        state
            .members
            .insert(NodeId(1), Member { node: NodeId(1), data: false, ..state.members[&NodeId(2)].clone() });
        assert_eq!(
            wanted(&state, &[5]),
            [vec![1, 2, 5], vec![2]],
            "a third that does not follow stops nothing"
        );
    }

    #[test]
    fn who_does_not_follow_or_is_away_gets_no_vote() {
        let mut state = state(&[(2, true), (5, true)]);
        serve(&mut state, 1, 2);
        let applied = Applied { state: Arc::new(state), ..Applied::default() };
        let nodes: BTreeMap<u64, EmptyNode> = [2, 5].map(|node| (node, EmptyNode {})).into();
        let mut metrics = RaftMetrics::new_initial(5);
        metrics.membership_config =
            Arc::new(StoredMembership::new(None, Membership::new(vec![BTreeSet::from([5])], nodes)));
        metrics.last_log_index = Some(100);
        let mut next = |matched: u64, alive: bool| {
            let matched = LogId::new(CommittedLeaderId::new(1, 5), matched);
            metrics.replication = Some(BTreeMap::from([(2, Some(matched))]));
            next_change(&applied, &metrics, |_| alive)
        };
        assert_eq!(next(50, true), None);
        assert_eq!(next(100, false), None, "what it had matched when it died says nothing");
        assert_eq!(next(100, true), Some(ChangeMembers::ReplaceAllVoters(BTreeSet::from([2]))));
    }
}
