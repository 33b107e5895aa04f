//! What ended when this machine started (S5).
//!
//! Only the storage process that was promoted is ever granted a lease in its epoch. Of the epochs of this node as primary
//! that were known, durably, to be committed before the machine started, nothing is left that could serve: whoever is
//! promoted next waits for nobody's lease in them. The leases of the epochs before ended within lease + drift of that
//! commit, so of the start; the replica sees to that.
//!
//! Invariants
//! - What is told was on disk before anything of this start ran: the second cluster manager of one start tells nothing.
//! - In doubt (no id of the start, none written down before) nothing is told, and the whole lease is waited for.

use crate::raft::LogId;
use crate::raft::log_view::Applied;
use crate::raft::store::{Store, StoreError};
use base::{Epoch, NodeId, VolumeId};
use cluster::ClusterState;
use openraft::EntryPayload;
use std::collections::BTreeMap;

/// Drawn by the kernel when it starts.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// This start of the machine; `None` where the kernel does not tell.
pub(crate) fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string(BOOT_ID).ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

/// The epochs of `me` as primary that ended when the machine began its start `boot`. To be called once, before anything
/// is added to the log. `snapshot` and `committed`: as they were found.
pub(crate) fn ended(
    store: &Store,
    boot: Option<&str>,
    me: NodeId,
    snapshot: &Applied,
    committed: Option<LogId>,
) -> Result<BTreeMap<VolumeId, Epoch>, StoreError> {
    let before = store.boot()?;
    let Some(boot) = boot.filter(|boot| before.as_deref() != Some(*boot)) else { return Ok(BTreeMap::new()) };
    let state = committed_state(store, snapshot, committed)?;
    store.save_boot(boot)?;
    let mine = state.volumes.values().map(|entry| &entry.config).filter(|config| config.primary == Some(me));
    Ok(mine.filter(|_| before.is_some()).map(|config| (config.volume, config.epoch)).collect())
}

/// The snapshot and what was known to be committed after it.
fn committed_state(
    store: &Store,
    snapshot: &Applied,
    committed: Option<LogId>,
) -> Result<ClusterState, StoreError> {
    let mut state = ClusterState::clone(&snapshot.state);
    let after = |last: LogId| last.index.saturating_add(1);
    let (from, end) = (snapshot.last.map_or(0, after), committed.map_or(0, after));
    for entry in store.entries(from..end.max(from))? {
        if let EntryPayload::Normal(command) = entry.payload {
            state.apply(&command);
        }
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Entry;
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
        let told = |boot| ended(&store, boot, ME, &Applied::default(), Some(id(3))).unwrap();
        assert!(told(Some("one")).is_empty(), "whether the log is older than the start is not known");
        assert!(told(Some("one")).is_empty());
        assert!(told(None).is_empty());
        assert_eq!(told(Some("two")), BTreeMap::from([(VOLUME, Epoch(2))]));
        assert!(told(Some("two")).is_empty(), "a process of this start may serve");
        assert_eq!(told(Some("three")).len(), 1);
    }

    #[test]
    fn what_was_not_known_to_be_committed_did_not_end() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let told =
            |boot, me, committed| ended(&store, Some(boot), me, &Applied::default(), committed).unwrap();
        assert!(told("one", ME, Some(id(3))).is_empty());
        assert!(told("two", ME, Some(id(2))).is_empty());
        assert!(told("three", ME, None).is_empty());
        assert!(told("four", NodeId(2), Some(id(3))).is_empty(), "another node's may go on");
        assert_eq!(told("five", ME, Some(id(3))).len(), 1);
    }
}
