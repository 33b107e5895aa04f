//! A clean hand-over on request (S3): asked of the primary's storage process, done when the change is committed.

use crate::copies::Reports;
use crate::messages::{Request, Response};
use crate::node::{Node, failed};
use base::{InstanceId, NodeId, VolumeId};
use cluster::ClusterState;
use cluster::promotion::{HandOver, plan_hand_over};
use control::api::Answer;
use control::link::Report;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// How long a hand-over may take: it ends when writes under way have ended and the log is flushed.
fn patience(node: &Node) -> Duration {
    node.patience() * 2
}

/// Hands the volume over, wherever it is served, and with it all others of its primary, one after the other: the portal
/// moves when the last has gone. Answers when that is committed and known here.
pub(crate) async fn run(node: &Node, volume: &str, to: Option<&str>) -> Answer {
    let state = node.log.applied().state;
    let storage_of = |peer: NodeId| {
        if peer == node.me { node.storage.current().0 } else { node.heart.storage_of(peer) }
    };
    let plans = match plan_hand_over(&state, volume, to, storage_of) {
        Ok(plans) => plans,
        Err(refusal) => return refusal.into(),
    };
    if let Some(not_yet) = wait_until_served(node, &state, &plans).await {
        return not_yet;
    }
    for plan in plans {
        match carry_out(node, &state, &plan).await {
            Answer::Done => {}
            other => return other,
        }
    }
    Answer::Done
}

/// A volume that has just got its primary, or has it anew, can't be handed over yet; the others must not go without it, as
/// the portal stays. The answer if one is not served soon.
async fn wait_until_served(node: &Node, state: &ClusterState, plans: &[HandOver]) -> Option<Answer> {
    let deadline = Instant::now() + node.timing.lease * 2;
    loop {
        let reports = Reports::of(node, state);
        let now = node.log.applied().state;
        // What has moved or was deleted meanwhile is not waited for; of a node that is not reached nothing is known, and asking
        // it tells.
        let is_waited_for = |plan: &&HandOver| {
            let stays = now.config(plan.volume).is_some_and(|config| config.primary == Some(plan.primary));
            let serves = |report: &Report| {
                report.volumes.iter().any(|copy| copy.volume == plan.volume && copy.serving)
            };
            stays && reports.get(plan.primary).is_some_and(|report| !serves(report))
        };
        let plan = plans.iter().find(is_waited_for)?;
        if Instant::now() >= deadline {
            let volume = state.volumes.get(&plan.volume).map_or("?", |entry| &entry.name);
            let primary = state.name_of(plan.primary);
            let text =
                format!("{primary} does not serve volume {volume} at the moment: nothing was handed over");
            return Some(failed("unavailable", text));
        }
        sleep(node.timing.renew / 4).await;
    }
}

async fn carry_out(node: &Node, state: &ClusterState, plan: &HandOver) -> Answer {
    if plan.primary == node.me {
        return on_primary(node, plan.volume, plan.to, plan.instance).await;
    }
    let deadline = Instant::now() + patience(node);
    let request = Request::HandOver { volume: plan.volume, to: plan.to, instance: plan.instance };
    match node.peers.call(plan.primary, request, patience(node)).await {
        Ok(Response::Answer(Answer::Done)) => committed(node, plan.volume, plan.to, deadline).await,
        Ok(Response::Answer(other)) => other,
        Ok(_) => failed("refused", format!("{} did not understand", state.name_of(plan.primary))),
        Err(error) => failed("unavailable", error.to_string()),
    }
}

/// The part of the primary's node.
pub(crate) async fn on_primary(node: &Node, volume: VolumeId, to: NodeId, instance: InstanceId) -> Answer {
    let deadline = Instant::now() + patience(node);
    let Some(refused) = node.storage.ask_hand_over(volume, to, instance) else {
        return failed(
            "unavailable",
            format!("the storage process of {} is not connected", node.settings.name),
        );
    };
    tokio::select! {
        answer = committed(node, volume, to, deadline) => answer,
        reason = refused => match reason {
            Ok(reason) => failed("refused", reason),
            // The storage process is gone, or someone else asked: the committed state tells the rest.
            Err(_) => committed(node, volume, to, deadline).await,
        },
    }
}

/// Waits until the committed state names `to` as primary.
async fn committed(node: &Node, volume: VolumeId, to: NodeId, deadline: Instant) -> Answer {
    let mut applied = node.log.watch();
    let there = applied
        .wait_for(|applied| applied.state.config(volume).is_none_or(|config| config.primary == Some(to)));
    match timeout_at(deadline, there).await {
        Ok(Ok(applied)) if applied.state.config(volume).is_some() => Answer::Done,
        Ok(Ok(_)) => failed("not_found", "the volume was deleted meanwhile".into()),
        Ok(Err(_)) => failed("unavailable", "the cluster manager is stopping".into()),
        Err(_) => failed("timed_out", "the hand-over is not committed yet; it may still come about".into()),
    }
}
