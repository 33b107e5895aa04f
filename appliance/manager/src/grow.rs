//! Growing a volume (S22): the wanted size is committed, every copy makes room, the primary proposes it.
//!
//! A node that has no room has the wanted size withdrawn: the volume keeps the size that it has.

use crate::api::{in_cluster, propose};
use crate::copies::Reports;
use crate::node::{Node, failed};
use crate::proposals;
use base::{ByteCount, VolumeConfig};
use cluster::{ClusterState, Command};
use control::api::Answer;
use control::link::{Report, VolumeReport};
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// Wants the size, and waits a while for it.
pub(crate) async fn run(node: &Node, name: String, size: ByteCount) -> Answer {
    if let Err(answer) = in_cluster(node) {
        return answer;
    }
    let state = node.log.applied().state;
    // A volume that does not exist, or can't have that size, is refused by the voters in better words.
    let possible = |config: &&VolumeConfig| config.size < size && size.0 <= cluster::MAX_VOLUME_BYTES;
    let grows = state.volume_named(&name).map(|entry| &entry.config).filter(possible);
    if let Some(text) = grows.and_then(|config| shortage(node, &state, config, size)) {
        return failed("unavailable", format!("volume {name} can't grow to {size}: {text}"));
    }
    match propose(node, Command::GrowVolume { name: name.clone(), size }).await {
        Answer::Done => outcome(node, &name, size).await,
        other => other,
    }
}

/// What a node that is heard lacks. One that is away makes room when it returns, before it is in sync again.
fn shortage(node: &Node, state: &ClusterState, config: &VolumeConfig, size: ByteCount) -> Option<String> {
    let reports = Reports::of(node, state);
    config.replicas.iter().find_map(|replica| {
        let report = reports.get(*replica)?;
        let copy = report.volumes.iter().find(|copy| copy.volume == config.volume)?;
        // S22: what is in sync has room for the present size, whatever an older report says; another copy may not.
        let present = if config.in_sync.contains(replica) { config.size } else { ByteCount(0) };
        lacks(copy, report.free, present, size).map(|text| format!("{} {text}", state.name_of(*replica)))
    })
}

fn lacks(copy: &VolumeReport, free: ByteCount, present: ByteCount, size: ByteCount) -> Option<String> {
    let needed = ByteCount(size.0.saturating_sub(copy.room.max(present).0));
    (needed > free).then(|| format!("has {free} ({} B) free, {needed} ({} B) are needed", free.0, needed.0))
}

/// Waits until the volume has the size, or is not to have it any more. What takes longer goes on by itself.
async fn outcome(node: &Node, name: &str, size: ByteCount) -> Answer {
    let mut applied = node.log.watch();
    let decided = applied.wait_for(|applied| {
        applied.state.volume_named(name).is_none_or(|entry| entry.wanted_size != Some(size))
    });
    let Ok(Ok(applied)) = timeout_at(Instant::now() + node.patience(), decided).await else {
        return Answer::Done;
    };
    match applied.state.volume_named(name) {
        Some(entry) if entry.config.size >= size => Answer::Done,
        Some(entry) => {
            let reason = entry.not_grown.as_deref().unwrap_or("its size is not wanted any more");
            failed("unavailable", format!("volume {name} can't grow to {size}: {reason}"))
        }
        None => failed("not_found", format!("volume {name} was deleted meanwhile")),
    }
}

/// Has a size withdrawn that this node's storage process has no room for.
pub(crate) fn give_up(node: &Arc<Node>, report: &Report) {
    let without = report.volumes.iter().filter_map(|copy| Some((copy.volume, copy.no_room.as_ref()?)));
    for (volume, no_room) in without {
        let state = node.log.applied().state;
        let wanted = state.volumes.get(&volume).and_then(|entry| entry.wanted_size);
        if wanted != Some(no_room.size) {
            continue;
        }
        let reason = format!("{} {}", state.name_of(node.me), no_room.reason);
        let command = Command::EndGrowth { volume, size: no_room.size, reason };
        let node = node.clone();
        // Not decided in time: the next report asks again.
        tokio::spawn(async move {
            let patience = node.patience();
            if let Err(error) = proposals::propose(&node, command, patience).await {
                tracing::warn!(%volume, %error, "a size without room is still wanted");
            }
        });
    }
}
