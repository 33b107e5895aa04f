//! Commands to the leader, from any node (S21).

use crate::messages::{Proposed, Request, Response};
use crate::node::Node;
use base::NodeId;
use cluster::{ClusterState, Command, Outcome};
use control::names::Pattern;
use openraft::error::RaftError;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Not decided: the command may have been committed or may yet be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProposeError {
    #[error("no decision in time: there is no majority at the moment, or it is very slow")]
    TimedOut,
    #[error("the cluster manager is stopping")]
    Stopped,
}

/// Has `command` decided by the voters; waits until the result is applied here too.
///
/// Goes on through changes of the leader until `patience` ends. A command whose answer was lost is asked again: a
/// volume's proposal carries its number, and any other is done when the state is as it asks.
pub(crate) async fn propose(
    node: &Node,
    command: Command,
    patience: Duration,
) -> Result<Outcome, ProposeError> {
    if let Err(refusal) = node.log.applied().state.admits(&command) {
        return Ok(Outcome::Refused(refusal));
    }
    let deadline = Instant::now() + patience;
    let mut in_doubt = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ProposeError::TimedOut);
        }
        let attempt = left.min(node.attempt_time());
        let leader = node.raft.metrics().borrow().current_leader.map(NodeId);
        let proposed = match leader {
            None => Proposed::NotLeader,
            Some(leader) if leader == node.me => here(node, command.clone(), attempt).await?,
            Some(leader) => there(node, leader, command.clone(), attempt).await,
        };
        match proposed {
            Proposed::Decided { index, outcome } => {
                applied_here(node, index, deadline).await;
                let state = node.log.applied().state;
                let done = in_doubt && matches!(outcome, Outcome::Refused(_)) && is_so(&command, &state);
                return Ok(if done { Outcome::done() } else { outcome });
            }
            Proposed::NotLeader => {}
            Proposed::Undecided => in_doubt = true,
        }
        sleep(node.timing.raft_heartbeat.min(left)).await;
    }
}

/// Asks the leader, for as long as it leads: a leader that is gone answers nothing, and the next one is known sooner than
/// the time-out.
async fn there(node: &Node, leader: NodeId, command: Command, patience: Duration) -> Proposed {
    let mut metrics = node.raft.metrics();
    let asked = node.peers.call(leader, Request::Propose(command), patience);
    let answer = tokio::select! {
        answer = asked => answer,
        _ = metrics.wait_for(|metrics| metrics.current_leader != Some(leader.0)) => {
            return Proposed::Undecided;
        }
    };
    match answer {
        Ok(Response::Proposed(proposed)) => proposed,
        Ok(_) => Proposed::NotLeader,
        Err(error) => {
            tracing::debug!(%error, "proposal not answered");
            Proposed::Undecided
        }
    }
}

/// The leader's part.
pub(crate) async fn here(
    node: &Node,
    command: Command,
    patience: Duration,
) -> Result<Proposed, ProposeError> {
    match timeout(patience, node.raft.client_write(command)).await {
        Ok(Ok(response)) => Ok(Proposed::Decided { index: response.log_id.index, outcome: response.data }),
        Ok(Err(RaftError::APIError(_))) => Ok(Proposed::NotLeader),
        Ok(Err(RaftError::Fatal(_))) => Err(ProposeError::Stopped),
        Err(_) => Ok(Proposed::Undecided),
    }
}

/// Waits until what the leader committed is applied here, so that who asked sees it. Not having it in time is no
/// failure: it is committed.
async fn applied_here(node: &Node, index: u64, deadline: Instant) {
    let mut applied = node.log.watch();
    let reached = applied.wait_for(|applied| applied.last.is_some() && applied.index() >= index);
    let _late = tokio::time::timeout_at(deadline, reached).await;
}

/// Whether `state` is as `command` asks: it was applied before, and only the answer was lost.
fn is_so(command: &Command, state: &ClusterState) -> bool {
    match command {
        Command::CreateCluster { id, .. } => state.cluster.as_ref().is_some_and(|cluster| cluster.id == *id),
        Command::AddMember { member, .. } => state.members.get(&member.node) == Some(member),
        Command::Promise { node, number, formats } => state
            .promises
            .get(node)
            .is_some_and(|promise| (promise.number, promise.formats) == (*number, *formats)),
        Command::RemoveMember { node } => !state.members.contains_key(node),
        Command::AddCopy { volume, node } => {
            state.config(*volume).is_some_and(|config| config.replicas.contains(node))
        }
        Command::CreateVolume { id, .. } => state.volumes.contains_key(id),
        Command::GrowVolume { name, size } => state
            .volume_named(name)
            .is_some_and(|entry| entry.wanted_size == Some(*size) || entry.config.size == *size),
        // Never refused.
        Command::EndGrowth { .. } => false,
        Command::DeleteVolume { name } => state.volume_named(name).is_none(),
        Command::CreateTarget { iqn } => state.targets.contains_key(iqn),
        Command::DeleteTarget { iqn } => !state.targets.contains_key(iqn),
        Command::MapLun { iqn, lun, volume, read_only, initiators } => {
            let shown = state.targets.get(iqn).and_then(|target| target.luns.get(lun));
            shown.zip(state.volume_named(volume)).is_some_and(|(shown, entry)| {
                shown.volume == entry.config.volume
                    && (shown.read_only, &shown.initiators) == (*read_only, initiators)
            })
        }
        Command::UnmapLun { iqn, lun } => {
            !state.targets.get(iqn).is_some_and(|target| target.luns.contains_key(lun))
        }
        Command::AllowInitiator { iqn, pattern } => has_rule(state, iqn, pattern),
        Command::DenyInitiator { iqn, pattern, .. } => {
            state.targets.contains_key(iqn) && !has_rule(state, iqn, pattern)
        }
        // Repeating them is good.
        Command::ChangeLun { .. } | Command::SetChap { .. } => false,
        // Its number tells (S21).
        Command::Propose(_) | Command::Reserve(_) => false,
    }
}

fn has_rule(state: &ClusterState, iqn: &str, pattern: &Pattern) -> bool {
    state
        .targets
        .get(iqn)
        .is_some_and(|target| target.access.rules.iter().any(|rule| rule.pattern == *pattern))
}
