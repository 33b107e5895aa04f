//! The extent pool: volume space over all data disks of a node.
//!
//! Invariants
//! - No two runs overlap, and a run lies on a disk of the pool, in whole extents ([`EXTENT_BYTES`]).
//! - Space that a table names read as zero when the table first named it: zeroing is durable before that.
//! - Both copies of a label or table hold a change before any call returns that relies on it (S12).
//! - Every write of a record carries a higher sequence than any before it, the failed ones included.
//! - Space with a living [`Space`] handle is not freed.
//! - Records are written in the version in force as it was told last, before that in the highest one that was found.
//!
//! All calls wait for the disks. They are rare (create, grow, delete); the long part, zeroing, can be done on another
//! thread between [`Pool::reserve`] and [`Pool::commit`]. The pool is `Send`.

use crate::alloc::{self, Free, Purpose, Reservation, ReservedRun};
use crate::disk::{Disk, ZeroMode};
use crate::error::{DiskError, ErrorKind};
use crate::label::{self, Content, DiskId, Identity, Label, MAX_MEMBERS};
use crate::recover;
use crate::space::{Piece, Space};
use crate::table::{self, AreaKind, EXTENT_BYTES, Run, SPACE_START_BYTES, Table};
use base::{ByteCount, Levels, ReplicaId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Weak};

/// Whether a disk that is not blank may be labelled, destroying what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// Blank disks only.
    No,
    /// Any disk: the administrator asked for exactly this one.
    Overwrite,
}

/// A volume that has space in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeSpace {
    /// Which volume.
    pub volume: VolumeId,
    /// Which copy of it.
    pub replica: ReplicaId,
    /// Length of its meta area.
    pub meta: ByteCount,
    /// Length of its data area.
    pub data: ByteCount,
}

/// One contiguous piece of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunInfo {
    /// Which area.
    pub kind: AreaKind,
    /// Offset within that area.
    pub area_offset: ByteCount,
    /// Which disk.
    pub disk: DiskId,
    /// Offset on the disk.
    pub disk_offset: ByteCount,
    /// Length, a multiple of [`EXTENT_BYTES`].
    pub len: ByteCount,
}

#[derive(Debug)]
struct Member {
    disk: Disk,
    label: Label,
    table: Table,
    /// The older of their versions.
    version: u16,
}

/// See the module's page.
#[derive(Debug)]
pub struct Pool {
    owner: Identity,
    /// In which records are written.
    version: u16,
    members: Vec<Member>,
    reserved: Vec<(Weak<()>, DiskId, Range<u64>)>,
    /// Areas with half an allocation that could not be undone: behind it nothing may follow (`recover.rs`).
    half_done: BTreeSet<(VolumeId, AreaKind)>,
    /// Shared with every [`Space`] handed out.
    in_use: BTreeMap<VolumeId, Arc<()>>,
}

impl Pool {
    /// Opens the pool on `disks`, all of them labelled; together they must be all of the pool's disks. What a crash
    /// left half-done is undone or completed. Refused disks are not changed (S12).
    pub fn open(disks: Vec<Disk>, owner: Identity) -> Result<Self, DiskError> {
        let mut found = Vec::new();
        for disk in disks {
            let label = label::load(&disk, owner)?;
            let table = table::load(&disk, label.record.disk)?;
            found.push((disk, label, table));
        }
        let mut present = BTreeSet::new();
        for (disk, label, _) in &found {
            if !present.insert(label.record.disk) {
                let text = format!("{}: a copy of another disk of this pool", disk.name());
                return Err(DiskError::new(ErrorKind::Damaged, text));
            }
        }
        for (disk, label, _) in &found {
            if let Some(missing) = label.record.members.iter().find(|member| !present.contains(member)) {
                let text = format!("{}: its pool has a disk {missing} that is not here", disk.name());
                return Err(DiskError::new(ErrorKind::MissingDisk, text));
            }
        }
        let undo = recover::unfinished(found.iter().flat_map(|(_, _, table)| &table.record.runs))?;
        for (disk, label, table) in &found {
            label::repair(disk, label)?;
            table::repair(disk, table)?;
        }
        let versions = found.iter().flat_map(|(_, label, table)| [label.version, table.version]);
        let version = versions.max().unwrap_or(Levels::OLDEST.pool);
        let members = found.into_iter().map(|(disk, label, table)| Member {
            disk,
            version: label.version.min(table.version),
            label: label.record,
            table: table.record,
        });
        let mut pool = Self {
            owner,
            version,
            members: members.collect(),
            reserved: Vec::new(),
            half_done: BTreeSet::new(),
            in_use: BTreeMap::new(),
        };
        pool.undo(&undo)?;
        pool.agree_on_labels()?;
        Ok(pool)
    }

    /// As [`open`](Self::open), for a node's configured disks: blank ones are labelled and join. The way to start.
    pub fn assemble(disks: Vec<Disk>, owner: Identity) -> Result<Self, DiskError> {
        let mut labelled = Vec::new();
        let mut blank = Vec::new();
        for disk in disks {
            match label::inspect(&disk)? {
                Content::Blank => blank.push(disk),
                Content::Labelled(_) | Content::Foreign(_) => labelled.push(disk),
            }
        }
        let mut pool = Self::open(labelled, owner)?;
        for disk in blank {
            pool.add(disk, Force::No)?;
        }
        Ok(pool)
    }

    /// Labels `disk` and adds its space to the pool. [`ErrorKind::NotBlank`] if it holds anything, unless forced.
    pub fn add(&mut self, disk: Disk, force: Force) -> Result<DiskId, DiskError> {
        let refuse = |kind, reason: String| Err(DiskError::new(kind, format!("{}: {reason}", disk.name())));
        if disk.size().0 < SPACE_START_BYTES + EXTENT_BYTES {
            return refuse(ErrorKind::Invalid, format!("{} are too small for a data disk", disk.size()));
        }
        if self.members.len() >= MAX_MEMBERS {
            return refuse(ErrorKind::Invalid, format!("a pool has at most {MAX_MEMBERS} disks"));
        }
        if self.members.iter().any(|member| member.disk.same(&disk)) {
            return refuse(ErrorKind::Invalid, "the disk is in the pool already".into());
        }
        match (label::inspect(&disk), force) {
            (Ok(Content::Blank), _) => {}
            (_, Force::Overwrite) => {
                disk.zero_blocking(0, SPACE_START_BYTES, ZeroMode::Keep)?;
                disk.flush_blocking()?;
            }
            (Ok(Content::Foreign(what)), Force::No) => {
                return refuse(ErrorKind::NotBlank, format!("the disk holds {what}"));
            }
            (Ok(Content::Labelled(label)), Force::No) => {
                return refuse(
                    ErrorKind::NotBlank,
                    format!("the disk is labelled for node {}", label.identity.node),
                );
            }
            (Err(error), Force::No) => return Err(error),
        }
        let id = DiskId::draw()?;
        let members = self.members.iter().map(|member| member.label.disk).chain([id]).collect();
        let label = Label { sequence: 1, identity: self.owner, disk: id, members };
        let table = Table { disk: id, sequence: 1, runs: Vec::new() };
        // Table first: a label promises one. A crash in between leaves a blank disk.
        table::store(&disk, &table, self.version)?;
        label::store(&disk, &label, self.version)?;
        self.members.push(Member { disk, label, table, version: self.version });
        self.agree_on_labels()?;
        Ok(id)
    }

    /// Writes the node's identity into all labels, when it has joined a cluster.
    pub fn set_identity(&mut self, owner: Identity) -> Result<(), DiskError> {
        self.owner = owner;
        self.agree_on_labels()
    }

    /// Writes records in `version` from now on, if it is higher than before, and those anew that are of an older one. After
    /// an error it can be asked for again.
    pub fn set_version(&mut self, version: u16) -> Result<(), DiskError> {
        self.version = self.version.max(version);
        for index in 0..self.members.len() {
            let Some(member) = self.members.get_mut(index).filter(|member| member.version < self.version)
            else {
                continue;
            };
            member.label.sequence += 1;
            label::store(&member.disk, &member.label, self.version)?;
            let disk = member.label.disk;
            self.change_table(disk, |_| {})?;
            if let Some(member) = self.members.get_mut(index) {
                member.version = self.version;
            }
        }
        Ok(())
    }

    /// The disks and their ids.
    pub fn disks(&self) -> impl Iterator<Item = (DiskId, &Disk)> {
        self.members.iter().map(|member| (member.label.disk, &member.disk))
    }

    /// Reads all sizes again; space that was added to a disk is free from now on.
    pub fn refresh(&self) -> Result<(), DiskError> {
        self.members.iter().try_for_each(|member| member.disk.refresh_size().map(|_| ()))
    }

    /// Space for volumes on all disks, used or not.
    #[must_use]
    pub fn total(&self) -> ByteCount {
        let sizes = self.members.iter().map(|member| member.disk.size().0);
        ByteCount(sizes.map(|size| (size - size % EXTENT_BYTES).saturating_sub(SPACE_START_BYTES)).sum())
    }

    /// Space that new allocations can have.
    #[must_use]
    pub fn free_space(&self) -> ByteCount {
        ByteCount(self.free_list().iter().map(|free| free.range.end - free.range.start).sum())
    }

    /// Every volume that has space here.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeSpace> {
        let mut volumes: BTreeMap<VolumeId, VolumeSpace> = BTreeMap::new();
        for run in self.members.iter().flat_map(|member| &member.table.runs) {
            let volume = volumes.entry(run.volume).or_insert(VolumeSpace {
                volume: run.volume,
                replica: run.replica,
                meta: ByteCount(0),
                data: ByteCount(0),
            });
            match run.kind {
                AreaKind::Meta => volume.meta.0 += run.len_bytes,
                AreaKind::Data => volume.data.0 += run.len_bytes,
            }
        }
        volumes.into_values().collect()
    }

    /// The runs of a volume, in order of area and offset; empty if it has none.
    #[must_use]
    pub fn lookup(&self, volume: VolumeId) -> Vec<RunInfo> {
        let mut runs: Vec<RunInfo> = self
            .members
            .iter()
            .flat_map(|member| member.table.runs.iter().map(|run| (member.label.disk, run)))
            .filter(|(_, run)| run.volume == volume)
            .map(|(disk, run)| RunInfo {
                kind: run.kind,
                area_offset: ByteCount(run.area_offset_bytes),
                disk,
                disk_offset: ByteCount(run.disk_offset_bytes),
                len: ByteCount(run.len_bytes),
            })
            .collect();
        runs.sort_by_key(|run| (run.kind, run.area_offset));
        runs
    }

    /// The I/O handle on a volume's area as it is now; `None` if it has none. Take a new one after growing.
    pub fn space(&mut self, volume: VolumeId, kind: AreaKind) -> Result<Option<Space>, DiskError> {
        let runs = self.lookup(volume);
        let pieces: Vec<Piece> = runs
            .iter()
            .filter(|run| run.kind == kind)
            .filter_map(|run| {
                let member = self.members.iter().find(|member| member.label.disk == run.disk)?;
                Some(Piece {
                    start_bytes: run.area_offset.0,
                    len_bytes: run.len.0,
                    disk: member.disk.clone(),
                    disk_offset_bytes: run.disk_offset.0,
                })
            })
            .collect();
        if pieces.is_empty() {
            return Ok(None);
        }
        let in_use = self.in_use.entry(volume).or_default();
        Space::new(pieces, in_use.clone()).map(Some)
    }

    /// Sets space aside so that the volume's area is at least `area_bytes` long (rounded up to whole extents); the
    /// reservation is empty if it is already. Then [`Reservation::zero`], then [`commit`](Self::commit).
    /// [`ErrorKind::NoSpace`] if there is not enough, [`ErrorKind::Invalid`] if the volume has another replica here.
    pub fn reserve(
        &mut self,
        volume: VolumeId,
        replica: ReplicaId,
        kind: AreaKind,
        area_bytes: ByteCount,
    ) -> Result<Reservation, DiskError> {
        let alive = Arc::new(());
        if self.half_done.contains(&(volume, kind)) {
            let text = format!(
                "volume {volume} has half an allocation, which is undone when the pool is opened anew"
            );
            return Err(DiskError::new(ErrorKind::Invalid, text));
        }
        let mine = self.members.iter().flat_map(|m| m.table.runs.iter().map(move |run| (m.label.disk, run)));
        let mine = mine.filter(|(_, run)| run.volume == volume);
        if let Some((_, other)) = mine.clone().find(|(_, run)| run.replica != replica) {
            let text = format!("volume {volume} has replica {} here, not {replica}", other.replica);
            return Err(DiskError::new(ErrorKind::Invalid, text));
        }
        let last = mine.filter(|(_, run)| run.kind == kind).max_by_key(|(_, run)| run.area_offset_bytes);
        let start_bytes = last.map_or(0, |(_, run)| run.area_offset_bytes + run.len_bytes);
        let end_bytes = area_bytes.0.checked_next_multiple_of(EXTENT_BYTES).ok_or_else(|| {
            DiskError::new(ErrorKind::Invalid, format!("volume {volume}: {area_bytes} are too many"))
        })?;
        if end_bytes <= start_bytes {
            return Ok(Reservation { runs: Vec::new(), zeroed: true, alive });
        }
        let last = last.map(|(disk, run)| (disk, run.disk_offset_bytes + run.len_bytes));
        let purpose = Purpose { volume, replica, kind, start_bytes, end_bytes };
        let runs = alloc::pick(purpose, last, self.free_list())?;
        self.reserved.retain(|(alive, _, _)| alive.strong_count() > 0);
        for ReservedRun { disk_id, run, .. } in &runs {
            self.reserved.push((Arc::downgrade(&alive), *disk_id, range_of(run)));
        }
        Ok(Reservation { runs, zeroed: false, alive })
    }

    /// Makes zeroed reserved space the volume's own, in all tables, durably.
    pub fn commit(&mut self, reservation: Reservation) -> Result<(), DiskError> {
        let Some(first) = reservation.runs.first().map(|reserved| reserved.run) else { return Ok(()) };
        let refuse = |reason: &str| {
            Err(DiskError::new(ErrorKind::Invalid, format!("volume {}: {reason}", first.volume)))
        };
        if !reservation.zeroed {
            return refuse("its new space was not zeroed");
        }
        let set_aside = |(alive, _, _): &(Weak<()>, DiskId, Range<u64>)| {
            std::ptr::eq(alive.as_ptr(), Arc::as_ptr(&reservation.alive))
        };
        if !self.reserved.iter().any(set_aside) {
            return refuse("its new space was reserved in another pool");
        }
        let present_end: u64 =
            self.lookup(first.volume).iter().filter(|run| run.kind == first.kind).map(|run| run.len.0).sum();
        if present_end != first.area_offset_bytes {
            return refuse("it has grown since the space was reserved");
        }
        for disk_id in reservation.runs.iter().map(|reserved| reserved.disk_id).collect::<BTreeSet<_>>() {
            let new = reservation.runs.iter().filter(|reserved| reserved.disk_id == disk_id);
            let new: Vec<Run> = new.map(|reserved| reserved.run).collect();
            let stored = self.change_table(disk_id, |runs| runs.extend(&new));
            if let Err(error) = stored {
                // Batches are undone at open; here, at once, as far as the disks let us.
                let undo = recover::Undo {
                    batches: BTreeSet::from([(first.volume, first.kind, first.batch_end_bytes)]),
                    ..recover::Undo::default()
                };
                if let Err(later) = self.undo(&undo) {
                    self.half_done.insert((first.volume, first.kind));
                    tracing::warn!(error = %later, "half an allocation stays until the pool is opened anew");
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Reserves, zeroes and commits in one go: see [`reserve`](Self::reserve).
    pub fn allocate(
        &mut self,
        volume: VolumeId,
        replica: ReplicaId,
        kind: AreaKind,
        area_bytes: ByteCount,
    ) -> Result<(), DiskError> {
        let mut reservation = self.reserve(volume, replica, kind, area_bytes)?;
        reservation.zero()?;
        self.commit(reservation)
    }

    /// Gives back all space of a volume; nothing happens if it has none. [`ErrorKind::InUse`] while any [`Space`] of
    /// it lives (requests in flight hold one): their writes would land in another volume.
    pub fn free(&mut self, volume: VolumeId) -> Result<(), DiskError> {
        if self.in_use.get(&volume).is_some_and(|in_use| Arc::strong_count(in_use) > 1) {
            return Err(DiskError::new(ErrorKind::InUse, format!("volume {volume} still has I/O handles")));
        }
        let disks: BTreeSet<DiskId> = self.lookup(volume).iter().map(|run| run.disk).collect();
        let of_volume = |run: &&mut Run| run.volume == volume;
        let Some(mark) = disks.first().copied() else { return Ok(()) };
        if disks.len() > 1 {
            // From here on the volume is gone, whenever we stop; the mark goes last.
            self.change_table(mark, |runs| {
                runs.iter_mut().filter(of_volume).for_each(|run| run.freeing = true);
            })?;
        }
        for disk in disks.into_iter().rev() {
            self.change_table(disk, |runs| runs.retain(|run| run.volume != volume))?;
        }
        self.in_use.remove(&volume);
        self.half_done.retain(|(of, _)| *of != volume);
        Ok(())
    }

    fn free_list(&self) -> Vec<Free> {
        let mut list = Vec::new();
        for member in &self.members {
            let disk_id = member.label.disk;
            let reserved =
                self.reserved.iter().filter(|(alive, disk, _)| alive.strong_count() > 0 && *disk == disk_id);
            let reserved = reserved.map(|(_, _, range)| range.clone());
            let taken = member.table.runs.iter().map(range_of).chain(reserved).collect();
            let free = alloc::free_ranges(member.disk.size().0, taken).into_iter();
            list.extend(free.map(|range| Free { disk: member.disk.clone(), disk_id, range }));
        }
        list
    }

    /// Stores a changed table. If that fails, memory keeps the old runs and the disk may hold either; the sequence
    /// goes on, so the next change outranks both.
    fn change_table(&mut self, disk: DiskId, change: impl FnOnce(&mut Vec<Run>)) -> Result<(), DiskError> {
        let Some(member) = self.members.iter_mut().find(|member| member.label.disk == disk) else {
            return Err(DiskError::new(ErrorKind::MissingDisk, format!("disk {disk} is not in the pool")));
        };
        member.table.sequence += 1;
        let mut table = member.table.clone();
        change(&mut table.runs);
        table.runs.sort_by_key(|run| run.disk_offset_bytes);
        table::store(&member.disk, &table, self.version)?;
        member.table = table;
        Ok(())
    }

    fn undo(&mut self, undo: &recover::Undo) -> Result<(), DiskError> {
        let touched =
            self.members.iter().filter(|member| member.table.runs.iter().any(|run| undo.covers(run)));
        for disk in touched.map(|member| member.label.disk).collect::<Vec<_>>() {
            tracing::warn!(%disk, "dropping the runs of an allocation or freeing that was cut short");
            self.change_table(disk, |runs| runs.retain(|run| !undo.covers(run)))?;
        }
        Ok(())
    }

    /// Brings the present owner and the list of all members into every label.
    fn agree_on_labels(&mut self) -> Result<(), DiskError> {
        let mut members: Vec<DiskId> = Vec::new();
        for id in self.members.iter().flat_map(|member| &member.label.members) {
            if !members.contains(id) {
                members.push(*id);
            }
        }
        for member in &mut self.members {
            let label = &mut member.label;
            if label.identity == self.owner && label.members.len() == members.len() {
                continue;
            }
            label.sequence += 1;
            let label = Label { identity: self.owner, members: members.clone(), ..label.clone() };
            label::store(&member.disk, &label, self.version)?;
            member.label = label;
        }
        Ok(())
    }
}

fn range_of(run: &Run) -> Range<u64> {
    run.disk_offset_bytes..run.disk_offset_bytes + run.len_bytes
}
