//! openraft's state machine: [`ClusterState`], in memory, with durable snapshots.
//!
//! After a start the state is that of the last snapshot; openraft then applies the log up to the committed position,
//! which the log store keeps.

use super::log_store::blocking;
use super::log_view::{Applied, LogView};
use super::store::{Meta, Store, StoreError};
use super::{Entry, LogId, StorageError, StoredMembership, Types};
use crate::events::Events;
use base::{Format, Levels};
use cluster::{ClusterState, Outcome, StateError};
use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{
    AnyError, EntryPayload, ErrorSubject, ErrorVerb, OptionalSend, RaftSnapshotBuilder, StorageIOError,
};
use std::error::Error;
use std::io::Cursor;
use std::sync::Arc;

/// The state machine of this node.
pub(crate) struct StateMachine {
    store: Arc<Store>,
    view: Arc<LogView>,
    events: Arc<Events>,
    /// Entries up to this one were applied before this start: the list may have their events.
    replayed: Option<LogId>,
}

impl StateMachine {
    pub(crate) fn new(
        store: Arc<Store>,
        view: Arc<LogView>,
        events: Arc<Events>,
        replayed: Option<LogId>,
    ) -> Self {
        Self { store, view, events, replayed }
    }

    fn tell(&self, entry: LogId, outcome: &Outcome) {
        if Some(entry) <= self.replayed && self.events.has(entry.index) {
            return;
        }
        if let Outcome::Applied { notes } = outcome {
            self.events.add(entry.index, notes);
        }
    }
}

/// What `store` holds as a snapshot.
pub(crate) fn load(store: &Store) -> Result<Applied, StoreError> {
    let Some((meta, data)) = store.snapshot()? else { return Ok(Applied::default()) };
    let state = parse(&data).map_err(|source| StoreError {
        path: control::paths::RAFT_DB.into(),
        action: "the snapshot can't be used".into(),
        source,
    })?;
    Ok(Applied { state: Arc::new(state), last: meta.last_log_id, membership: meta.last_membership })
}

fn parse(data: &[u8]) -> Result<ClusterState, Box<dyn Error + Send + Sync>> {
    let state: ClusterState = serde_json::from_slice(data)?;
    state.check_levels()?;
    state.validate()?;
    Ok(state)
}

/// The first format whose level only a newer release understands.
fn newer(state: &ClusterState) -> Option<(Format, u16)> {
    let known = Levels::NEWEST.each().into_iter();
    state
        .levels()
        .each()
        .into_iter()
        .zip(known)
        .find(|((_, level), (_, newest))| level > newest)
        .map(|(found, _)| found)
}

fn fault(verb: ErrorVerb, error: &(impl Error + 'static)) -> StorageError {
    StorageIOError::new(ErrorSubject::Snapshot(None), verb, AnyError::new(error)).into()
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let applied = self.view.applied();
        Ok((applied.last, applied.membership))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcome>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut applied = self.view.applied();
        let mut outcomes = Vec::new();
        for entry in entries {
            applied.last = Some(entry.log_id);
            let outcome = match entry.payload {
                EntryPayload::Blank => Outcome::done(),
                EntryPayload::Normal(command) => {
                    let outcome = Arc::make_mut(&mut applied.state).apply(&command);
                    tracing::info!(index = entry.log_id.index, ?command, ?outcome, "applied");
                    outcome
                }
                EntryPayload::Membership(membership) => {
                    tracing::info!(index = entry.log_id.index, %membership, "membership");
                    applied.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Outcome::done()
                }
            };
            self.tell(entry.log_id, &outcome);
            outcomes.push(outcome);
        }
        let state = &applied.state;
        // A release that was started past the cluster's back: it must not act on what it may not understand.
        if let Some((format, level)) = newer(state) {
            let error = StateError(format!("version {level} of {format} is that of a newer release"));
            return Err(StorageIOError::apply(applied.last.unwrap_or_default(), AnyError::new(&error)).into());
        }
        if state.version > self.view.applied().state.version {
            let (store, version) = (self.store.clone(), state.version);
            // Before anyone hears of it, and so before anything of that version is written.
            blocking(move || store.raise(version)).await.map_err(|error| fault(ErrorVerb::Write, &error))?;
        }
        self.view.apply(applied);
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let (store, events) = (self.store.clone(), self.events.clone());
        SnapshotBuilder { store, applied: self.view.applied(), events }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &Meta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let data = snapshot.into_inner();
        let state = parse(&data).map_err(|error| {
            let error = AnyError::error(error);
            StorageError::from(StorageIOError::read_snapshot(Some(meta.signature()), error))
        })?;
        save(&self.store, &self.events, meta, data, state.version).await?;
        self.view.apply(Applied {
            state: Arc::new(state),
            last: meta.last_log_id,
            membership: meta.last_membership.clone(),
        });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        let snapshot = self.store.snapshot().map_err(|error| fault(ErrorVerb::Read, &error))?;
        Ok(snapshot.map(|(meta, data)| Snapshot { meta, snapshot: Box::new(Cursor::new(data)) }))
    }
}

/// Makes a snapshot of a state of `version` durable, and the events before it.
async fn save(
    store: &Arc<Store>,
    events: &Arc<Events>,
    meta: &Meta,
    data: Vec<u8>,
    version: u16,
) -> Result<(), StorageError> {
    let (store, events, meta) = (store.clone(), events.clone(), meta.clone());
    // In this order: the entries of what is not on the disk are applied again at the next start.
    let saved = blocking(move || {
        events.sync();
        store.save_snapshot(&meta, &data, version)
    });
    saved.await.map_err(|error| fault(ErrorVerb::Write, &error))
}

/// Builds a snapshot of the state at the time of its making.
pub(crate) struct SnapshotBuilder {
    store: Arc<Store>,
    applied: Applied,
    events: Arc<Events>,
}

impl RaftSnapshotBuilder<Types> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let data =
            serde_json::to_vec(&*self.applied.state).map_err(|error| fault(ErrorVerb::Write, &error))?;
        let id = self.applied.last.map_or_else(|| "empty".to_owned(), |last| last.to_string());
        let meta = Meta {
            last_log_id: self.applied.last,
            last_membership: self.applied.membership.clone(),
            snapshot_id: id,
        };
        save(&self.store, &self.events, &meta, data.clone(), self.applied.state.version).await?;
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(data)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::log_store::LogStore;
    use base::NodeId;
    use openraft::testing::{StoreBuilder, Suite};

    struct Builder;

    impl StoreBuilder<Types, LogStore, StateMachine, tempfile::TempDir> for Builder {
        async fn build(&self) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError> {
            let dir = tempfile::tempdir().unwrap();
            let store = Arc::new(Store::open(&dir.path().join("raft.redb"), NodeId(1)).unwrap());
            let view = Arc::new(LogView::new(Applied::default(), &[]));
            let machine = StateMachine::new(store.clone(), view.clone(), Arc::default(), None);
            Ok((dir, LogStore::new(store, view), machine))
        }
    }

    #[test]
    fn openrafts_own_suite() {
        Suite::test_all(Builder).unwrap();
    }
}
