//! What ended when this machine started (S5).
//!
//! Only the storage process that was promoted is ever granted a lease in its epoch. Of the epochs of this node as primary
//! that were known, durably, to be committed before the machine started, nothing is left that could serve: whoever is
//! promoted next waits for nobody's lease in them. The leases of the epochs before ended within lease + drift of that
//! commit, so of the start; the replica sees to that.
//!
//! Invariants
//! - What is told was on disk before anything of this start ran: the second cluster manager of one start tells nothing.
//! - In doubt (no id of this start, or of the last) nothing is told, and the whole lease is waited for.
//! - A machine has its own kernel and its disks for itself: that a copy of it runs elsewhere is not seen here (S20).

use crate::raft::log_view::Applied;
use crate::raft::store::{Store, StoreError};
use crate::raft::{Entry, LogId};
use base::{Epoch, NodeId, VolumeId};
use cluster::ClusterState;
use control::paths;
use openraft::EntryPayload;
use std::collections::BTreeMap;
use std::time::Duration;

/// The kernel, and with it the clock, had run no longer than this when the first process began; in a container it had.
const FIRST_PROCESS: Duration = Duration::from_secs(10);
/// Of `/proc/PID/stat`.
const TICKS_PER_SECOND: u64 = 100;

/// This start of the machine; `None` where that is not known, or is not the start of the clock that leases are counted by.
pub(crate) fn boot_id() -> Option<String> {
    let first_process = std::fs::read_to_string("/proc/1/stat").ok()?;
    if began_after(&first_process)? > FIRST_PROCESS {
        return None;
    }
    let id = std::fs::read_to_string(paths::BOOT_ID).ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

/// How long after the kernel the process of this `stat` began (proc_pid_stat(5), field 22).
fn began_after(stat: &str) -> Option<Duration> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let ticks: u64 = after_name.split_ascii_whitespace().nth(19)?.parse().ok()?;
    Some(Duration::from_secs(ticks / TICKS_PER_SECOND))
}

/// Notes the machine's start `boot`, and tells the epochs of `me` as primary that ended with it. To be called once, before
/// anything is added to the log. `snapshot`, the `entries` after it and `committed`: as they were found.
pub(crate) fn note_start(
    store: &Store,
    boot: Option<&str>,
    me: NodeId,
    snapshot: &Applied,
    entries: &[Entry],
    committed: Option<LogId>,
) -> Result<BTreeMap<VolumeId, Epoch>, StoreError> {
    let before = store.boot()?;
    if before.as_deref() == boot {
        return Ok(BTreeMap::new());
    }
    // Also that it is not known: the next one must not take this start's epochs for an earlier one's.
    store.save_boot(boot)?;
    if before.is_none() || boot.is_none() {
        return Ok(BTreeMap::new());
    }
    let state = committed_state(snapshot, entries, committed);
    let mine = state.volumes.values().map(|entry| &entry.config).filter(|config| config.primary == Some(me));
    let ended = mine.map(|config| (config.volume, config.epoch)).collect();
    tracing::info!(?ended, "the machine has started: its epochs as primary ended");
    Ok(ended)
}

/// The snapshot and what was known to be committed after it.
fn committed_state(snapshot: &Applied, entries: &[Entry], committed: Option<LogId>) -> ClusterState {
    let mut state = ClusterState::clone(&snapshot.state);
    let end = committed.map_or(0, |last| last.index.saturating_add(1));
    for entry in entries.iter().take_while(|entry| entry.log_id.index < end) {
        if let EntryPayload::Normal(command) = &entry.payload {
            state.apply(command);
        }
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{ByteCount, Change, ClusterId, Formats, InstanceId, Proposal, ProposalId};
    use cluster::Command;
    use control::link::Member;
    use openraft::CommittedLeaderId;

    const ME: NodeId = NodeId(1);
    const VOLUME: VolumeId = VolumeId(7);

    fn id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(1, ME.0), index)
    }

    /// A log whose last entry makes this node primary of the volume, in epoch 2.
    fn store(dir: &std::path::Path) -> Store {
        let member = Member {
            node: ME,
            name: "a".into(),
            data: true,
            cluster_address: "127.0.0.1:7780".parse().unwrap(),
            replication_address: "127.0.0.1:7788".parse().unwrap(),
            certificate_sha256: "0".repeat(64),
        };
        let commands = [
            Command::CreateCluster {
                id: ClusterId(5),
                portal: "127.0.0.1:3260".parse().unwrap(),
                time_scale_percent: 100,
                first: member,
                formats: Formats::CURRENT,
            },
            Command::CreateVolume {
                id: VOLUME,
                name: "v".into(),
                size: ByteCount::mib(64),
                write_back: false,
                presentation: control::targets::Presentation::default(),
            },
            Command::Propose(Proposal {
                id: ProposalId { proposer: ME, instance: InstanceId(9), number: 1 },
                volume: VOLUME,
                expected: Epoch(1),
                change: Change::Promote,
            }),
        ];
        let entries: Vec<Entry> = (1..)
            .zip(commands)
            .map(|(index, command)| Entry { log_id: id(index), payload: EntryPayload::Normal(command) })
            .collect();
        let store = Store::open(&dir.join("raft.redb"), ME).unwrap();
        store.append(&entries).unwrap();
        store
    }

    #[test]
    fn only_the_first_start_after_the_machine_s_tells_what_ended() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let entries = store.entries(..).unwrap();
        let told = |boot| note_start(&store, boot, ME, &Applied::default(), &entries, Some(id(3))).unwrap();
        assert!(told(Some("one")).is_empty(), "whether the log is older than the start is not known");
        assert!(told(Some("one")).is_empty());
        assert_eq!(told(Some("two")), BTreeMap::from([(VOLUME, Epoch(2))]));
        assert!(told(Some("two")).is_empty(), "a process of this start may serve");
        assert!(told(None).is_empty());
        assert!(told(Some("three")).is_empty(), "it may be the start of the one before");
        assert_eq!(told(Some("four")).len(), 1);
    }

    #[test]
    fn when_the_first_process_began() {
        let stat = "1 (a ) b) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 1234 9 10";
        assert_eq!(began_after(stat), Some(Duration::from_secs(12)));
        assert_eq!(began_after("1 (init) S 0"), None);
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        let now = transport::clock::now().since(base::Monotonic(0));
        assert!(began_after(&own).unwrap() <= now);
    }

    #[test]
    fn what_was_not_known_to_be_committed_did_not_end() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let entries = store.entries(..).unwrap();
        let told = |boot, me, committed| {
            note_start(&store, Some(boot), me, &Applied::default(), &entries, committed).unwrap()
        };
        assert!(told("one", ME, Some(id(3))).is_empty());
        assert!(told("two", ME, Some(id(2))).is_empty());
        assert!(told("three", ME, None).is_empty());
        assert!(told("four", NodeId(2), Some(id(3))).is_empty(), "another node's may go on");
        assert_eq!(told("five", ME, Some(id(3))).len(), 1);
    }
}
