//! How a member goes: one that is lost for good, or is to be replaced. It is committed at once, with its copies of volumes;
//! then the Raft group follows ([`crate::membership`]).
//!
//! What the state alone can tell is refused by the voters ([`ClusterState::check_removal`]); here stands what depends on who
//! is reached.

use crate::api::{in_cluster, propose};
use crate::copies::Reports;
use crate::membership;
use crate::node::{Node, failed};
use base::NodeId;
use cluster::{ClusterState, Command, Voters};
use control::api::Answer;
use std::collections::BTreeSet;

/// Takes the member of that name out.
pub(crate) async fn run(node: &Node, name: &str) -> Answer {
    if let Err(answer) = in_cluster(node) {
        return answer;
    }
    let applied = node.log.applied();
    let state = &applied.state;
    let Some(member) = state.member_named(name) else {
        return failed("not_found", format!("node {name} is no member"));
    };
    let leaving = member.node;
    if leaving == node.me {
        let text = format!("{name} can't take itself out: ask another member");
        return failed("refused", text);
    }
    if let Err(refusal) = state.check_removal(leaving) {
        return refusal.into();
    }
    let reports = Reports::of(node, state);
    if let Some((kind, text)) = obstacle(state, &applied.voters(), leaving, &reports) {
        return failed(kind, text);
    }
    match propose(node, Command::RemoveMember { node: leaving }).await {
        Answer::Done => settled(node, leaving, name).await,
        other => other,
    }
}

/// Why the others could not go on without it: kind and text.
fn obstacle(
    state: &ClusterState,
    voters: &Voters,
    leaving: NodeId,
    reports: &Reports,
) -> Option<(&'static str, String)> {
    let name = state.name_of(leaving);
    if reports.get(leaving).is_some_and(|report| report.volumes.iter().any(|volume| volume.serving)) {
        return Some(("in_use", format!("{name} serves a volume: hand it over first")));
    }
    let present: BTreeSet<u64> = voters.all().into_iter().map(|voter| voter.0).collect();
    let votes_alone = present.iter().eq([&leaving.0]);
    let is_moving = votes_alone && !membership::wanted_voters(state, &present).is_empty();
    if reports.is_reached(leaving) && (voters.is_joint() || is_moving) {
        return Some((
            "unavailable",
            format!("who votes is just changing: try to remove {name} again in a moment"),
        ));
    }
    if votes_alone {
        if !reports.is_reached(leaving) {
            let text =
                format!("{name} alone votes, and is not reached: nothing can be decided until it returns");
            return Some(("unavailable", text));
        }
        let text = format!("{name} alone votes; pair a witness or a third data node first, then three vote");
        return Some(("refused", text));
    }
    if !voters.majority(|voter| voter != leaving && reports.is_reached(voter)) {
        let away: Vec<String> = voters
            .all()
            .into_iter()
            .filter(|voter| *voter != leaving && !reports.is_reached(*voter))
            .map(|voter| state.name_of(voter))
            .collect();
        let text =
            format!("without {name} there is no majority of voters: {} is not reached", away.join(", "));
        return Some(("unavailable", text));
    }
    let mut rest = state.clone();
    rest.members.remove(&leaving);
    if present.contains(&leaving.0) && membership::wanted_voters(&rest, &present).is_empty() {
        let text = format!(
            "{name} votes, and while volumes are served by different nodes none of the others can vote alone: they come \
             together by themselves once all copies are in sync"
        );
        return Some(("unavailable", text));
    }
    let in_use = |copy: &NodeId, volume: base::VolumeId| {
        let report = reports.get(*copy);
        report.is_some_and(|report| report.volumes.iter().any(|copy| copy.volume == volume && copy.usable))
    };
    state.volumes.values().find_map(|entry| {
        let config = &entry.config;
        let left = config.in_sync.iter().filter(|copy| **copy != leaving);
        let lost = config.replicas.contains(&leaving) && !left.clone().any(|copy| in_use(copy, config.volume));
        lost.then(|| {
            let left: Vec<String> = left.map(|copy| state.name_of(*copy)).collect();
            let text = format!(
                "without {name} volume {} has no usable copy in sync at the moment: that on {} is not reached",
                entry.name,
                left.join(", ")
            );
            ("unavailable", text)
        })
    })
}

/// Waits until it does not vote any more either.
async fn settled(node: &Node, leaving: NodeId, name: &str) -> Answer {
    let text =
        format!("{name} is no member any more, but who votes is not settled yet; that goes on by itself");
    membership::settled(node, |_, voters| !voters.contains(&leaving.0), text).await
}
