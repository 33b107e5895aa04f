//! openraft's log, on [`Store`] and [`LogView`].

use super::log_view::LogView;
use super::store::{Store, StoreError};
use super::{Entry, LogId, StorageError, Types};
use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{AnyError, OptionalSend, RaftLogReader, StorageIOError, Vote};
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::Arc;

/// The log of this node.
#[derive(Clone)]
pub(crate) struct LogStore {
    store: Arc<Store>,
    view: Arc<LogView>,
}

impl LogStore {
    pub(crate) fn new(store: Arc<Store>, view: Arc<LogView>) -> Self {
        Self { store, view }
    }

    /// Runs a write outside of the runtime's own threads: a slow disk must not hold up lease messages.
    async fn write<F>(&self, write: F) -> Result<(), StoreError>
    where
        F: FnOnce(&Store) -> Result<(), StoreError> + Send + 'static,
    {
        let store = self.store.clone();
        blocking(move || write(&store)).await
    }
}

/// Runs `work` on a thread for blocking calls.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StoreError {
            path: control::paths::RAFT_DB.into(),
            action: "a write did not end".into(),
            source: error.into(),
        }),
    }
}

fn read_error(error: StoreError) -> StorageError {
    StorageIOError::read_logs(AnyError::new(&error)).into()
}

fn write_error(error: StoreError) -> StorageError {
    StorageIOError::write_logs(AnyError::new(&error)).into()
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.store.entries(range).map_err(read_error)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let last_purged_log_id = self.store.purged().map_err(read_error)?;
        let last = self.store.last_entry().map_err(read_error)?;
        Ok(LogState {
            last_purged_log_id,
            last_log_id: last.map(|entry| entry.log_id).or(last_purged_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError> {
        let vote = *vote;
        let saved = self.write(move |store| store.save_vote(&vote)).await;
        saved.map_err(|error| StorageIOError::write_vote(AnyError::new(&error)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError> {
        self.store.vote().map_err(|error| StorageIOError::read_vote(AnyError::new(&error)).into())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.write(move |store| store.save_committed(&committed)).await.map_err(write_error)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        self.store.committed().map_err(read_error)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        // S5: seen by the voter before it is on disk, and so before anyone is told that it is.
        self.view.append(&entries);
        match self.write(move |store| store.append(&entries)).await {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(error) => {
                callback.log_io_completed(Err(io::Error::other(error.to_string())));
                Err(write_error(error))
            }
        }
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.write(move |store| store.truncate(log_id.index)).await.map_err(write_error)?;
        self.view.truncate(log_id.index);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.write(move |store| store.purge(&log_id)).await.map_err(write_error)
    }
}
