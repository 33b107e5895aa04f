//! `raft.redb`: log, vote, committed position, snapshot, and what pairing told. docs/ondisk.md, "Raft log".
//!
//! Invariants
//! - Every write is one transaction, durable when the call returns (redb's default, `Durability::Immediate`).
//! - Every record carries a CRC32C; one that does not match is an error that names the file, never a value (S12).
//! - The file belongs to one node: it is refused under another identity (S20).
//! - Only its owner may read it: it holds the secrets of initiators.
//! - Its header has the highest version of the state that was in force when anything of it was written, so that a release
//!   that does not know it says so, and leaves the file as it is.

use super::{Entry, LogId};
use base::{Formats, NodeId, Versions, crc32c};
use control::link::Member;
use openraft::{SnapshotMeta, Vote};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::error::Error;
use std::fs::{OpenOptions, Permissions};
use std::ops::RangeBounds;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

const HEADER: &str = "header";
const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";
const SNAPSHOT_META: &str = "snapshot_meta";
const SNAPSHOT_DATA: &str = "snapshot_data";
const INTRODUCTION: &str = "introduction";
const BOOT: &str = "boot";

/// The versions of the state, and of the records with it, that this release reads.
const VERSIONS: Versions = Formats::CURRENT.state;
const CRC_BYTES: usize = 4;

/// The file can't be used; names it.
#[derive(Debug, thiserror::Error)]
#[error("Raft log {}: {action}", path.display())]
pub(crate) struct StoreError {
    /// Which file.
    pub(crate) path: PathBuf,
    /// What was being done.
    pub(crate) action: String,
    /// What went wrong.
    pub(crate) source: Box<dyn Error + Send + Sync>,
}

/// A record that is there and can't be believed.
#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error("a record is too short")]
    Short,
    #[error("a record's checksum does not match")]
    Checksum,
    #[error("it has version {0}, which is that of a newer release; this one reads {VERSIONS}")]
    Newer(u16),
    #[error("it has version {0}, which is too old; this release reads {VERSIONS}")]
    Older(u16),
    #[error("it belongs to node {0}; a node keeps its id and its log together")]
    Foreign(NodeId),
    #[error("the database library gave up: {0}")]
    Library(String),
}

type Fault = Box<dyn Error + Send + Sync>;

/// Whose file this is.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u16,
    node: NodeId,
}

/// What a node was told when it was paired into a cluster: whom it lets in until its log says so itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Introduction {
    pub(crate) cluster: base::ClusterId,
    pub(crate) members: Vec<Member>,
}

/// A snapshot as it stands in the file.
pub(crate) type Meta = SnapshotMeta<u64, openraft::EmptyNode>;

/// The open file.
#[derive(Debug)]
pub(crate) struct Store {
    db: Database,
    path: PathBuf,
}

impl Store {
    /// Opens `path` for `node`, and makes it, in the oldest version, if it does not exist.
    pub(crate) fn open(path: &Path, node: NodeId) -> Result<Self, StoreError> {
        Self::open_knowing(VERSIONS, path, node)
    }

    /// As a release that reads the versions `known`.
    fn open_knowing(known: Versions, path: &Path, node: NodeId) -> Result<Self, StoreError> {
        let fault =
            |action: &str, source: Fault| StoreError { path: path.into(), action: action.into(), source };
        // The library asserts on some damaged files; that must name the file too.
        let opened = std::panic::catch_unwind(|| -> Result<Database, Fault> {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)?;
            file.set_permissions(Permissions::from_mode(0o600))?;
            drop(file);
            let db = Database::create(path)?;
            let txn = db.begin_write()?;
            {
                let mut meta = txn.open_table(META)?;
                let _log = txn.open_table(LOG)?;
                let header = meta.get(HEADER)?.map(|bytes| decode::<Header>(bytes.value())).transpose()?;
                match header {
                    Some(header) if header.version > known.newest => {
                        return Err(Damage::Newer(header.version).into());
                    }
                    Some(header) if header.version < known.oldest => {
                        return Err(Damage::Older(header.version).into());
                    }
                    Some(header) if header.node != node => return Err(Damage::Foreign(header.node).into()),
                    Some(_) => {}
                    None => {
                        let header = Header { version: known.oldest, node };
                        meta.insert(HEADER, encode(&header)?.as_slice())?;
                    }
                }
            }
            txn.commit()?;
            Ok(db)
        });
        match opened {
            Ok(Ok(db)) => Ok(Self { db, path: path.into() }),
            Ok(Err(source)) => Err(fault("can't be opened", source)),
            Err(panic) => {
                let text = panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                    .unwrap_or_default();
                Err(fault("is damaged", Damage::Library(text).into()))
            }
        }
    }

    fn context<T>(&self, action: &str, result: Result<T, Fault>) -> Result<T, StoreError> {
        result.map_err(|source| StoreError { path: self.path.clone(), action: action.into(), source })
    }

    fn get<T: DeserializeOwned>(&self, key: &'static str) -> Result<Option<T>, StoreError> {
        let read = || -> Result<Option<T>, Fault> {
            let table = self.db.begin_read()?.open_table(META)?;
            table.get(key)?.map(|bytes| decode(bytes.value())).transpose()
        };
        self.context(&format!("{key} can't be read"), read())
    }

    fn put<T: Serialize>(&self, key: &'static str, value: &T) -> Result<(), StoreError> {
        let write = || -> Result<(), Fault> {
            let txn = self.db.begin_write()?;
            txn.open_table(META)?.insert(key, encode(value)?.as_slice())?;
            Ok(txn.commit()?)
        };
        self.context(&format!("{key} can't be written"), write())
    }

    /// From now on, what is written may be of `version`.
    pub(crate) fn raise(&self, version: u16) -> Result<(), StoreError> {
        let write = || -> Result<(), Fault> {
            let txn = self.db.begin_write()?;
            raise(&txn, version)?;
            Ok(txn.commit()?)
        };
        self.context("its version can't be raised", write())
    }

    pub(crate) fn vote(&self) -> Result<Option<Vote<u64>>, StoreError> {
        self.get(VOTE)
    }

    pub(crate) fn save_vote(&self, vote: &Vote<u64>) -> Result<(), StoreError> {
        self.put(VOTE, vote)
    }

    pub(crate) fn committed(&self) -> Result<Option<LogId>, StoreError> {
        Ok(self.get::<Option<LogId>>(COMMITTED)?.flatten())
    }

    pub(crate) fn save_committed(&self, committed: &Option<LogId>) -> Result<(), StoreError> {
        self.put(COMMITTED, committed)
    }

    pub(crate) fn introduction(&self) -> Result<Option<Introduction>, StoreError> {
        self.get(INTRODUCTION)
    }

    pub(crate) fn save_introduction(&self, introduction: &Introduction) -> Result<(), StoreError> {
        self.put(INTRODUCTION, introduction)
    }

    /// The machine's start in which a cluster manager last began with this file, if that is known.
    pub(crate) fn boot(&self) -> Result<Option<String>, StoreError> {
        Ok(self.get::<Option<String>>(BOOT)?.flatten())
    }

    pub(crate) fn save_boot(&self, boot: Option<&str>) -> Result<(), StoreError> {
        self.put(BOOT, &boot)
    }

    pub(crate) fn purged(&self) -> Result<Option<LogId>, StoreError> {
        self.get(PURGED)
    }

    /// The entries in `range`, in order.
    pub(crate) fn entries(&self, range: impl RangeBounds<u64>) -> Result<Vec<Entry>, StoreError> {
        let read = || -> Result<Vec<Entry>, Fault> {
            let table = self.db.begin_read()?.open_table(LOG)?;
            table.range(range)?.map(|row| decode(row?.1.value())).collect()
        };
        self.context("entries can't be read", read())
    }

    pub(crate) fn last_entry(&self) -> Result<Option<Entry>, StoreError> {
        let read = || -> Result<Option<Entry>, Fault> {
            let table = self.db.begin_read()?.open_table(LOG)?;
            table.last()?.map(|row| decode(row.1.value())).transpose()
        };
        self.context("the last entry can't be read", read())
    }

    pub(crate) fn append(&self, entries: &[Entry]) -> Result<(), StoreError> {
        let write = || -> Result<(), Fault> {
            let txn = self.db.begin_write()?;
            {
                let mut table = txn.open_table(LOG)?;
                for entry in entries {
                    table.insert(entry.log_id.index, encode(entry)?.as_slice())?;
                }
            }
            Ok(txn.commit()?)
        };
        self.context("entries can't be written", write())
    }

    /// Removes the entries from index `from` on.
    pub(crate) fn truncate(&self, from: u64) -> Result<(), StoreError> {
        let write = || -> Result<(), Fault> {
            let txn = self.db.begin_write()?;
            txn.open_table(LOG)?.retain_in(from.., |_, _| false)?;
            Ok(txn.commit()?)
        };
        self.context("entries can't be removed", write())
    }

    /// Removes the entries up to `upto`, and remembers it.
    pub(crate) fn purge(&self, upto: &LogId) -> Result<(), StoreError> {
        let write = || -> Result<(), Fault> {
            let txn = self.db.begin_write()?;
            txn.open_table(META)?.insert(PURGED, encode(upto)?.as_slice())?;
            txn.open_table(LOG)?.retain_in(..=upto.index, |_, _| false)?;
            Ok(txn.commit()?)
        };
        self.context("entries can't be purged", write())
    }

    pub(crate) fn snapshot(&self) -> Result<Option<(Meta, Vec<u8>)>, StoreError> {
        let read = || -> Result<Option<(Meta, Vec<u8>)>, Fault> {
            let table = self.db.begin_read()?.open_table(META)?;
            let (Some(meta), Some(data)) = (table.get(SNAPSHOT_META)?, table.get(SNAPSHOT_DATA)?) else {
                return Ok(None);
            };
            Ok(Some((decode(meta.value())?, checked(data.value())?.to_vec())))
        };
        self.context("the snapshot can't be read", read())
    }

    /// Of a state of `version`.
    pub(crate) fn save_snapshot(&self, meta: &Meta, data: &[u8], version: u16) -> Result<(), StoreError> {
        let write = || -> Result<(), Fault> {
            let txn = self.db.begin_write()?;
            raise(&txn, version)?;
            {
                let mut table = txn.open_table(META)?;
                table.insert(SNAPSHOT_META, encode(meta)?.as_slice())?;
                table.insert(SNAPSHOT_DATA, with_crc(data.to_vec()).as_slice())?;
            }
            Ok(txn.commit()?)
        };
        self.context("the snapshot can't be written", write())
    }
}

fn raise(txn: &WriteTransaction, version: u16) -> Result<(), Fault> {
    let mut meta = txn.open_table(META)?;
    let header = meta.get(HEADER)?.map(|bytes| decode::<Header>(bytes.value())).transpose()?;
    if let Some(header) = header.filter(|header| header.version < version) {
        meta.insert(HEADER, encode(&Header { version, ..header })?.as_slice())?;
    }
    Ok(())
}

/// JSON, then its CRC32C (little-endian).
fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Fault> {
    Ok(with_crc(serde_json::to_vec(value)?))
}

fn with_crc(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode<T: DeserializeOwned>(record: &[u8]) -> Result<T, Fault> {
    Ok(serde_json::from_slice(checked(record)?)?)
}

fn checked(record: &[u8]) -> Result<&[u8], Damage> {
    let (bytes, crc) = record.split_last_chunk::<CRC_BYTES>().ok_or(Damage::Short)?;
    if crc32c(bytes) == u32::from_le_bytes(*crc) { Ok(bytes) } else { Err(Damage::Checksum) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(error: &StoreError) -> String {
        format!("{error}: {}", error.source)
    }

    #[test]
    fn a_file_of_another_node_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft.redb");
        drop(Store::open(&path, NodeId(1)).unwrap());
        let error = text(&Store::open(&path, NodeId(2)).unwrap_err());
        assert!(error.contains("raft.redb") && error.contains("0000000000000001"), "{error}");
        Store::open(&path, NodeId(1)).unwrap();
    }

    /// Both directions: a later release reads the file of an earlier one; the earlier one reads it again until the version was
    /// raised, and then says that it is newer.
    #[test]
    fn a_file_is_read_in_every_version_that_is_understood_and_in_no_other() {
        let (earlier, later) = (Versions { oldest: 6, newest: 6 }, Versions { oldest: 6, newest: 7 });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft.redb");
        let open = |known| Store::open_knowing(known, &path, NodeId(1));
        open(earlier).unwrap().save_vote(&Vote::new(3, 1)).unwrap();
        open(later).unwrap().save_vote(&Vote::new(4, 1)).unwrap();
        let store = open(earlier).unwrap();
        assert_eq!(store.vote().unwrap(), Some(Vote::new(4, 1)));
        drop(store);
        open(later).unwrap().raise(7).unwrap();
        open(later).unwrap().raise(6).unwrap();
        let error = text(&open(earlier).unwrap_err());
        assert!(error.contains("version 7") && error.contains("newer release"), "{error}");
        assert_eq!(open(later).unwrap().vote().unwrap(), Some(Vote::new(4, 1)));
        let error = text(&open(Versions { oldest: 8, newest: 9 }).unwrap_err());
        assert!(error.contains("too old"), "{error}");
    }

    #[test]
    fn a_snapshot_of_a_later_version_raises_the_file_s() {
        let (earlier, later) = (Versions { oldest: 6, newest: 6 }, Versions { oldest: 6, newest: 7 });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft.redb");
        let meta = Meta { last_log_id: None, last_membership: Default::default(), snapshot_id: "s".into() };
        let store = Store::open_knowing(later, &path, NodeId(1)).unwrap();
        store.save_snapshot(&meta, b"{}", 6).unwrap();
        drop(store);
        let store = Store::open_knowing(earlier, &path, NodeId(1)).unwrap();
        store.save_snapshot(&meta, b"{}", 7).unwrap();
        drop(store);
        assert!(Store::open_knowing(earlier, &path, NodeId(1)).is_err());
    }

    #[test]
    fn only_its_owner_may_read_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft.redb");
        for _ in 0..2 {
            drop(Store::open(&path, NodeId(1)).unwrap());
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        }
    }

    #[test]
    fn a_damaged_file_is_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft.redb");
        drop(Store::open(&path, NodeId(1)).unwrap());
        let length = std::fs::metadata(&path).unwrap().len();
        for damaged in [vec![0xa5; usize::try_from(length).unwrap()], b"text".to_vec()] {
            std::fs::write(&path, &damaged).unwrap();
            let error = text(&Store::open(&path, NodeId(1)).unwrap_err());
            assert!(error.contains("raft.redb"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), damaged);
        }
    }

    #[test]
    fn a_record_with_a_flipped_bit_is_an_error() {
        let mut record = encode(&5_u64).unwrap();
        assert_eq!(decode::<u64>(&record).unwrap(), 5);
        record[0] ^= 1;
        assert!(decode::<u64>(&record).is_err());
        assert!(decode::<u64>(&[1]).is_err());
    }

    #[test]
    fn the_file_is_open_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft.redb");
        let _first = Store::open(&path, NodeId(1)).unwrap();
        assert!(Store::open(&path, NodeId(1)).is_err());
    }
}
