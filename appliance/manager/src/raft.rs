//! Consensus: openraft over a durable log in redb and the cluster state of crate `cluster`.
//!
//! - [`store`]: the file `raft.redb`.
//! - [`log_view`]: what the log adds up to, applied and not: what leases are judged by (S5).
//! - [`log_store`], [`state_machine`], [`network`]: what openraft asks for.
//!
//! Invariants
//! - A vote, an entry or a snapshot is on disk before anyone is told of it.
//! - The committed position is on disk too: after a restart the applied state is what it was, not what the last
//!   snapshot said.
//! - openraft is never built with `loosen-follower-log-revert`, and its leader lease is not used for anything of ours.

pub(crate) mod log_store;
pub(crate) mod log_view;
pub(crate) mod network;
pub(crate) mod state_machine;
pub(crate) mod store;

use cluster::{Command, Outcome};
use control::settings::Timing;
use std::io::Cursor;
use std::time::Duration;

openraft::declare_raft_types!(
    /// The types of this Raft group. Node ids are those of [`base::NodeId`]; addresses stand in the cluster state.
    pub(crate) Types:
        D = Command,
        R = Outcome,
        NodeId = u64,
        Node = openraft::EmptyNode,
        Entry = openraft::Entry<Types>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
);

pub(crate) type Raft = openraft::Raft<Types>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Entry = openraft::Entry<Types>;
pub(crate) type StorageError = openraft::StorageError<u64>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, openraft::EmptyNode>;

/// Entries applied since the last snapshot that make a new one.
const SNAPSHOT_EVERY: u64 = 1000;
/// Entries kept behind a snapshot, so that a node that was away a moment needs no snapshot.
const KEEP_BEHIND_SNAPSHOT: u64 = 200;

/// openraft's settings at `timing`.
///
/// openraft waits its leader lease (`election_timeout_max`) and then the election time-out proper; together these are
/// to lie between `raft_election_min` and `raft_election_max`, so each gets half.
pub(crate) fn config(timing: &Timing) -> Result<openraft::Config, Box<openraft::ConfigError>> {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let heartbeat = ms(timing.raft_heartbeat).max(1);
    let election_max = (ms(timing.raft_election_max) / 2).max(heartbeat + 2);
    let election_min = (election_max / 2).clamp(heartbeat + 1, election_max - 1);
    openraft::Config {
        cluster_name: "futago".into(),
        heartbeat_interval: heartbeat,
        election_timeout_min: election_min,
        election_timeout_max: election_max,
        install_snapshot_timeout: ms(timing.lease) * 10,
        snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: KEEP_BEHIND_SNAPSHOT,
        replication_lag_threshold: SNAPSHOT_EVERY,
        snapshot_max_chunk_size: 1 << 20,
        ..openraft::Config::default()
    }
    .validate()
    .map_err(Box::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_scale_makes_a_valid_configuration() {
        for percent in [10, 50, 100, 500, 2000] {
            let timing = Timing::at_scale(percent);
            let config = config(&timing).unwrap();
            let longest = Duration::from_millis(config.election_timeout_max * 2);
            assert!(longest <= timing.raft_election_max + Duration::from_millis(4));
        }
    }
}
