//! The disk thread: one job after the other, each may wait for disks as long as it takes.

use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use base::{ByteCount, ClusterId, Epoch, Levels, NodeId, ReplicaId, VolumeId};
use control::link::Volume;
use disk::{AreaKind, BufferPool, Disk, DiskError, ErrorKind, Identity as Owner, OpenOptions, Pool, Space};
use replication::{Identity, Layout, Recovery, SUPERBLOCK_OFFSETS};
use tokio::sync::mpsc::UnboundedSender;

use super::{Grown, Opened, Parts, Refusal};
use crate::chain;

pub(super) enum Job {
    /// In which versions things are written from now on.
    Levels(Levels),
    Assemble {
        cluster: ClusterId,
        node: NodeId,
    },
    Open(Box<Volume>),
    Grow(Growth),
    Free(VolumeId),
}

pub(super) enum News {
    Pool { free: ByteCount, largest: ByteCount, capacity: ByteCount, problem: Option<String> },
    Opened(Box<Opened>),
    Grown(Box<Grown>),
}

/// A copy that is to have more room (S22).
pub(super) struct Growth {
    pub(super) identity: Identity,
    /// What it has room for.
    pub(super) room: Layout,
    /// What it is to have room for.
    pub(super) size: ByteCount,
}

/// A process that has just been killed may hold its disks a moment longer.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// The pool is tried again so often while it can't be opened.
const POOL_RETRY: Duration = Duration::from_secs(2);

struct Worker {
    paths: Vec<PathBuf>,
    levels: Levels,
    owner: Option<Owner>,
    pool: Option<Pool>,
}

/// Works until the engine is gone.
pub(super) fn run(paths: Vec<PathBuf>, jobs: &Receiver<Job>, news: &UnboundedSender<News>) {
    let mut worker = Worker { paths, levels: Levels::OLDEST, owner: None, pool: None };
    loop {
        let job = match jobs.recv_timeout(POOL_RETRY) {
            Ok(job) => Some(job),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => None,
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
        };
        let told = worker.work(job);
        if told.into_iter().any(|piece| news.send(piece).is_err()) {
            return;
        }
    }
}

impl Worker {
    fn work(&mut self, job: Option<Job>) -> Vec<News> {
        let mut told = Vec::new();
        if let Some(Job::Assemble { cluster, node }) = job {
            self.owner = Some(Owner { cluster, node });
            self.pool = None;
        }
        if let Some(Job::Levels(levels)) = job {
            self.levels = levels;
        }
        let was_open = self.pool.is_some();
        if !was_open && let Err(error) = self.assemble() {
            told.push(News::Pool {
                free: ByteCount(0),
                largest: ByteCount(0),
                capacity: ByteCount(0),
                problem: Some(format!("data disks are not used: {}", chain(&error))),
            });
        }
        // Tried again until it succeeds: a release may come that reads the newer version alone.
        if let Some(pool) = &mut self.pool
            && let Err(error) = pool.set_version(self.levels.pool)
        {
            tracing::warn!("labels and tables are not written anew: {}", chain(&error));
        }
        let worked = job.is_some();
        match job {
            Some(Job::Open(volume)) => {
                let result = self.open(&volume);
                told.push(News::Opened(Box::new(Opened { volume: *volume, result })));
            }
            Some(Job::Grow(growth)) => {
                let result = self.grow(&growth);
                let (volume, size) = (growth.identity.volume, growth.size);
                told.push(News::Grown(Box::new(Grown { volume, size, result })));
            }
            Some(Job::Free(volume)) => self.free(volume),
            Some(Job::Assemble { .. } | Job::Levels(_)) | None => {}
        }
        if let Some(pool) = &self.pool
            && (worked || !was_open)
        {
            let free = pool.free_space();
            told.push(News::Pool { free, largest: largest(free), capacity: pool.total(), problem: None });
        }
        told
    }

    fn assemble(&mut self) -> Result<(), DiskError> {
        let Some(owner) = self.owner else { return Ok(()) };
        let options = OpenOptions { lock_wait: LOCK_WAIT, ..OpenOptions::default() };
        let disks = self.paths.iter().map(|path| Disk::open(path, &options)).collect::<Result<_, _>>()?;
        self.pool = Some(Pool::assemble(disks, owner)?);
        Ok(())
    }

    /// `Err`: a sentence for the administrator.
    fn open(&mut self, volume: &Volume) -> Result<Parts, Refusal> {
        let (Some(pool), Some(owner)) = (&mut self.pool, self.owner) else {
            return Err("its disks are not usable".into());
        };
        let config = &volume.config;
        let found = found(pool, config.volume).map_err(|error| chain(&error))?;
        let blank = found.is_none();
        let (replica, meta, data) = match found {
            Some(found) => found,
            None => {
                let layout = Layout::for_size(config.size).ok_or("its size is impossible")?;
                if let Some(reason) = lacks(pool, config.volume, &layout) {
                    return Err(Refusal { reason, lacks_room: true });
                }
                make(pool, config.volume, &layout).map_err(|error| chain(&error))?
            }
        };
        let identity = Identity { cluster: owner.cluster, volume: config.volume, node: owner.node, replica };
        if blank {
            // See the invariants of `opening`.
            let in_sync = config.in_sync.contains(&owner.node);
            let clean = config.epoch == Epoch(1) || !in_sync;
            let (created, version) = (clean.then_some(Epoch(1)), self.levels.metadata);
            let records = replication::format(identity, config.size, created, in_sync, version)
                .ok_or("its size is impossible")?;
            // The superblocks last: a format that was cut short is begun anew.
            let (last, first): (Vec<_>, Vec<_>) =
                records.into_iter().partition(|(offset, _)| SUPERBLOCK_OFFSETS.contains(offset));
            for (offset, bytes) in first.into_iter().chain(last) {
                write(&meta, offset, &bytes).map_err(|error| chain(&error))?;
            }
        }
        let mut recovery = Recovery::new(identity, meta.len());
        while let Some(wanted) = recovery.wanted() {
            let mut bytes = vec![0; usize::try_from(wanted.len).map_err(|_| "its metadata is too large")?];
            let got = read(&meta, wanted.offset, &mut bytes);
            if let Err(error) = &got {
                tracing::warn!(volume = volume.name, "metadata: {}", chain(error));
            }
            recovery.supply(got.is_ok().then_some(&bytes));
        }
        if recovery.size().is_some_and(|size| size > data.len()) {
            return Err("its data area is shorter than the volume".into());
        }
        Ok(Parts { recovery, meta, data })
    }

    /// S22: both areas become long enough; what is added to the data area reads as zero, the metadata area has its
    /// records; all durable. A crash anywhere leaves more space that belongs to the volume and that nothing relies on:
    /// the next attempt goes on from there.
    fn grow(&mut self, growth: &Growth) -> Result<(Space, Space), NoSpace> {
        let Some(pool) = &mut self.pool else { return Err("does not use its disks".into()) };
        let volume = growth.identity.volume;
        let grown = growth.room.at_size(growth.size).ok_or("can't have a copy of this size")?;
        let Some(present) = pool.volumes().into_iter().find(|found| found.volume == volume) else {
            return Err("has no copy of it".into());
        };
        let missing = |wanted: ByteCount, present: ByteCount| {
            wanted.0.saturating_sub(present.0).next_multiple_of(disk::EXTENT_BYTES)
        };
        let needed = missing(grown.size, present.data).saturating_add(missing(grown.meta_len, present.meta));
        let free = pool.free_space();
        if needed > free.0 {
            // Before anything is allocated: half of it would be of no use.
            let needed = ByteCount(needed);
            return Err(format!("has {free} ({} B) free, {needed} ({} B) are needed", free.0, needed.0));
        }
        let failed = |error: DiskError| format!("can't make room: {}", chain(&error));
        pool.allocate(volume, growth.identity.replica, AreaKind::Data, grown.size).map_err(failed)?;
        pool.allocate(volume, growth.identity.replica, AreaKind::Meta, grown.meta_len).map_err(failed)?;
        let data = pool.space(volume, AreaKind::Data).map_err(failed)?.ok_or("has no data area")?;
        let meta = pool.space(volume, AreaKind::Meta).map_err(failed)?.ok_or("has no metadata area")?;
        let records =
            replication::format_growth(growth.identity, growth.room, growth.size, self.levels.metadata)
                .ok_or("can't have a copy of this size")?;
        for (offset, bytes) in records {
            write(&meta, offset, &bytes).map_err(failed)?;
        }
        Ok((meta, data))
    }

    fn free(&mut self, volume: VolumeId) {
        let Some(pool) = &mut self.pool else { return };
        match pool.free(volume) {
            Ok(()) => {}
            // Requests in flight still hold it; the engine asks again.
            Err(error) if error.kind() == ErrorKind::InUse => {}
            Err(error) => tracing::warn!(%volume, "space can't be freed: {}", chain(&error)),
        }
    }
}

/// What the areas of a copy take of the pool.
fn taken_bytes(layout: &Layout) -> u64 {
    let whole = |area: ByteCount| area.0.next_multiple_of(disk::EXTENT_BYTES);
    whole(layout.size).saturating_add(whole(layout.meta_len))
}

/// The largest volume that a new copy of fits into `free`, to the extent.
fn largest(free: ByteCount) -> ByteCount {
    let (mut fits, mut too_many) = (0, (free.0 / disk::EXTENT_BYTES).saturating_add(1));
    while fits + 1 < too_many {
        let middle = fits + (too_many - fits) / 2;
        let layout = Layout::for_size(ByteCount(middle.saturating_mul(disk::EXTENT_BYTES)));
        if layout.is_some_and(|layout| taken_bytes(&layout) <= free.0) {
            fits = middle;
        } else {
            too_many = middle;
        }
    }
    ByteCount(fits.saturating_mul(disk::EXTENT_BYTES))
}

/// Why the pool has no room for a new copy, said before anything is allocated: half of it would be of no use.
fn lacks(pool: &Pool, volume: VolumeId, layout: &Layout) -> Option<String> {
    let begun = pool.volumes().into_iter().find(|found| found.volume == volume);
    let has = begun.map_or(0, |found| found.data.0.saturating_add(found.meta.0));
    let needed = ByteCount(taken_bytes(layout).saturating_sub(has));
    let free = pool.free_space();
    (needed > free).then(|| {
        format!(
            "there is no room for a copy: {free} ({} B) free, {needed} ({} B) are needed",
            free.0, needed.0
        )
    })
}

/// Why a node can't make room: follows its name.
type NoSpace = String;

/// The volume's areas, if a copy was ever completed in them. If not (a crash while it was being made), [`make`] completes
/// it. How long they have to be the superblock tells: the volume may have grown since.
fn found(pool: &mut Pool, volume: VolumeId) -> Result<Option<(ReplicaId, Space, Space)>, DiskError> {
    let Some(found) = pool.volumes().into_iter().find(|found| found.volume == volume) else {
        return Ok(None);
    };
    let meta = pool.space(volume, AreaKind::Meta)?;
    let data = pool.space(volume, AreaKind::Data)?;
    let Some((meta, data)) = meta.zip(data) else { return Ok(None) };
    Ok((!is_blank(&meta)?).then_some((found.replica, meta, data)))
}

/// Makes space for a copy: zeroed, the metadata last, so that a metadata area tells that the data area is there.
fn make(pool: &mut Pool, volume: VolumeId, layout: &Layout) -> Result<(ReplicaId, Space, Space), DiskError> {
    let known = pool.volumes().into_iter().find(|found| found.volume == volume);
    let replica = match known {
        Some(found) => found.replica,
        None => ReplicaId(transport::random_id().map_err(|error| {
            DiskError::new(ErrorKind::System, format!("no random number for a new copy: {error}"))
        })?),
    };
    pool.allocate(volume, replica, AreaKind::Data, layout.size)?;
    pool.allocate(volume, replica, AreaKind::Meta, layout.meta_len)?;
    let missing =
        || DiskError::new(ErrorKind::System, format!("volume {volume}: its new space is not there"));
    let meta = pool.space(volume, AreaKind::Meta)?.ok_or_else(missing)?;
    let data = pool.space(volume, AreaKind::Data)?.ok_or_else(missing)?;
    Ok((replica, meta, data))
}

/// No superblock was ever written: the format had not ended.
fn is_blank(meta: &Space) -> Result<bool, DiskError> {
    let mut bytes = vec![0; replication::RECORD_BYTES];
    for offset in SUPERBLOCK_OFFSETS {
        read(meta, offset, &mut bytes)?;
        if bytes.iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn read(space: &Space, offset_bytes: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
    // Direct I/O wants aligned memory.
    let mut aligned = BufferPool::default().take_urgent(bytes.len())?;
    let mut rest = aligned.as_mut_slice();
    for piece in space.locate(offset_bytes, bytes.len() as u64)? {
        let (part, after) = rest.split_at_mut(usize::try_from(piece.len_bytes).unwrap_or(rest.len()));
        piece.disk.read_blocking(piece.disk_offset_bytes, part)?;
        rest = after;
    }
    bytes.copy_from_slice(aligned.as_slice());
    Ok(())
}

fn write(space: &Space, offset_bytes: u64, bytes: &[u8]) -> Result<(), DiskError> {
    let mut aligned = BufferPool::default().take_urgent(bytes.len())?;
    aligned.as_mut_slice().copy_from_slice(bytes);
    let mut rest = aligned.as_slice();
    for piece in space.locate(offset_bytes, bytes.len() as u64)? {
        let (part, after) = rest.split_at(usize::try_from(piece.len_bytes).unwrap_or(rest.len()));
        piece.disk.write_blocking(piece.disk_offset_bytes, part)?;
        piece.disk.flush_blocking()?;
        rest = after;
    }
    Ok(())
}
