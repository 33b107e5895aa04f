//! What this node's log adds up to: the applied state, and with the entries after it (S5).
//!
//! Invariants
//! - An entry is in the view before the append is confirmed to anyone: a voter judges lease requests by everything that
//!   it may have confirmed.
//! - The applied state only changes under the same lock, so that view and applied state never contradict each other.

use super::{Entry, LogId, StoredMembership};
use base::NodeId;
use cluster::{ClusterState, Command, Voters};
use openraft::{EntryPayload, Membership};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// What is committed and applied here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Applied {
    pub(crate) state: Arc<ClusterState>,
    pub(crate) last: Option<LogId>,
    pub(crate) membership: StoredMembership,
}

impl Applied {
    /// Index of the last entry applied; 0 if none (openraft's first entry is the membership, index 0).
    pub(crate) fn index(&self) -> u64 {
        self.last.map_or(0, |id| id.index)
    }

    /// Who votes by what is applied.
    pub(crate) fn voters(&self) -> Voters {
        voters_of(self.membership.membership())
    }
}

/// The log with uncommitted entries.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) state: ClusterState,
    pub(crate) voters: Voters,
}

enum Tail {
    Blank,
    Command(Command),
    Voters(Voters),
}

struct Inner {
    tail: BTreeMap<u64, Tail>,
    view: Option<Arc<View>>,
}

/// Shared by the log store, which appends, the state machine, which applies, and everyone who reads.
pub(crate) struct LogView {
    inner: Mutex<Inner>,
    applied: watch::Sender<Applied>,
}

impl LogView {
    /// The view of a log whose entries after `applied` are `entries`.
    pub(crate) fn new(applied: Applied, entries: &[Entry]) -> Self {
        let view = Self {
            inner: Mutex::new(Inner { tail: BTreeMap::new(), view: None }),
            applied: watch::Sender::new(applied),
        };
        view.append(entries);
        view
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entries are about to be written.
    pub(crate) fn append(&self, entries: &[Entry]) {
        let mut inner = self.lock();
        for entry in entries {
            let tail = match &entry.payload {
                EntryPayload::Blank => Tail::Blank,
                EntryPayload::Normal(command) => Tail::Command(command.clone()),
                EntryPayload::Membership(membership) => Tail::Voters(voters_of(membership)),
            };
            inner.tail.insert(entry.log_id.index, tail);
        }
        inner.view = None;
    }

    /// The entries from index `from` on are gone.
    pub(crate) fn truncate(&self, from: u64) {
        let mut inner = self.lock();
        inner.tail.split_off(&from);
        inner.view = None;
    }

    /// Entries were applied, or a snapshot was installed: `applied` is what is committed now.
    pub(crate) fn apply(&self, applied: Applied) {
        let mut inner = self.lock();
        if let Some(last) = applied.last {
            inner.tail = inner.tail.split_off(&last.index.saturating_add(1));
        }
        inner.view = None;
        self.applied.send_replace(applied);
    }

    /// What is applied.
    pub(crate) fn applied(&self) -> Applied {
        self.applied.borrow().clone()
    }

    /// Follows what is applied.
    pub(crate) fn watch(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// The whole log, uncommitted entries included. Never older than the last append that was confirmed.
    pub(crate) fn view(&self) -> Arc<View> {
        let mut inner = self.lock();
        if let Some(view) = &inner.view {
            return view.clone();
        }
        let applied = self.applied.borrow().clone();
        let commands = inner.tail.values().filter_map(|tail| match tail {
            Tail::Command(command) => Some(command),
            Tail::Blank | Tail::Voters(_) => None,
        });
        let state = applied.state.with_uncommitted(commands);
        let latest = inner.tail.values().rev().find_map(|tail| match tail {
            Tail::Voters(voters) => Some(voters.clone()),
            Tail::Blank | Tail::Command(_) => None,
        });
        let voters = latest.unwrap_or_else(|| applied.voters());
        let view = Arc::new(View { state, voters });
        inner.view = Some(view.clone());
        view
    }
}

fn voters_of(membership: &Membership<u64, openraft::EmptyNode>) -> Voters {
    let sets = membership.get_joint_config().iter();
    Voters::new(sets.map(|set| set.iter().copied().map(NodeId).collect::<BTreeSet<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::CommittedLeaderId;

    fn entry(index: u64, payload: EntryPayload<super::super::Types>) -> Entry {
        Entry { log_id: LogId::new(CommittedLeaderId::new(1, 1), index), payload }
    }

    fn membership(voters: &[&[u64]]) -> EntryPayload<super::super::Types> {
        let sets = voters.iter().map(|set| set.iter().copied().collect()).collect();
        EntryPayload::Membership(Membership::new(sets, None))
    }

    #[test]
    fn uncommitted_entries_count_until_they_are_truncated() {
        let view = LogView::new(Applied::default(), &[entry(0, membership(&[&[1]]))]);
        assert!(view.view().voters.contains(NodeId(1)));
        let target = Command::CreateTarget { iqn: "iqn.2026-11.local.futago:x".into() };
        let cluster = Command::CreateCluster {
            id: base::ClusterId(1),
            portal: "127.0.0.50:3260".parse().unwrap(),
            time_scale_percent: 100,
            first: control::link::Member {
                node: NodeId(1),
                name: "a".into(),
                data: true,
                cluster_address: "127.0.0.11:7780".parse().unwrap(),
                replication_address: "127.0.0.11:7788".parse().unwrap(),
                certificate_sha256: String::new(),
            },
            formats: base::Formats::CURRENT,
        };
        view.append(&[entry(1, EntryPayload::Normal(cluster)), entry(2, EntryPayload::Normal(target))]);
        assert_eq!(view.view().state.targets.len(), 1);
        assert!(view.applied().state.targets.is_empty());
        view.append(&[entry(3, membership(&[&[1], &[1, 2, 3]]))]);
        assert!(view.view().voters.contains(NodeId(3)));
        view.truncate(2);
        assert!(view.view().state.targets.is_empty() && view.view().state.cluster.is_some());
        assert!(!view.view().voters.contains(NodeId(3)));
    }
}
