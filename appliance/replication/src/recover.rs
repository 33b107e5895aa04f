//! Format and recovery: from a metadata area to a [`Replica`] (S12).
//!
//! Invariant: nothing is written before everything was read and judged; a refused disk is left as it is.

use alloc::vec::Vec;
use base::{ByteCount, Epoch, Formats, NodeId, Versions};
use core::fmt;

use crate::activity_log::LogRecord;
use crate::api::{Buffer, Identity, Options};
use crate::bitmap::Bitmap;
use crate::layout::{self, ACTIVITY_LOG, FIRST_PAGE, Layout, RECORD_BYTES, SUPERBLOCK};
use crate::record::{self, Kind, TwoPlaces};
use crate::replica::{Recovered, Replica};
use crate::superblock::{PeerMark, Superblock};

/// A piece of the metadata area to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaRead {
    /// Offset in the metadata area, bytes.
    pub offset: u64,
    /// Length, bytes.
    pub len: u32,
}

/// Why a copy can't be used; nothing was changed (S12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Both places of a record are damaged.
    Damaged(&'static str),
    /// Written in a version that this release does not understand.
    Version(u16),
    /// Belongs to another cluster, volume, node or replica.
    Identity(&'static str),
    /// The areas are too short for the size in the superblock, or that is impossible.
    Size,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(what) => write!(f, "replica metadata: both copies of the {what} are damaged"),
            Self::Version(version) if *version > Formats::CURRENT.metadata.newest => {
                write!(f, "replica metadata: version {version} is that of a newer release")
            }
            Self::Version(version) => write!(f, "replica metadata: version {version} is unknown"),
            Self::Identity(what) => write!(f, "replica metadata: belongs to another {what}"),
            Self::Size => f.write_str("replica metadata: size does not fit the space that it has"),
        }
    }
}

impl core::error::Error for OpenError {}

/// The records of a new copy whose data area is all zero: (offset in the metadata area, bytes), to be written durably
/// in this order; the superblocks come last, so an interrupted format leaves no copy. `created`: the epoch in which the
/// volume was created with this copy (every copy equal, nothing dirty); `None` for a copy added later, which gets
/// everything (S7). `in_sync`: the copy is in sync as it is; else it has to be a target first, whatever the in-sync set
/// says before. `version`: the one in force. The answer is `None` if the size is impossible.
#[must_use]
pub fn format(
    identity: Identity,
    size: ByteCount,
    created: Option<Epoch>,
    in_sync: bool,
    version: u16,
) -> Option<impl Iterator<Item = (u64, Vec<u8>)>> {
    let layout = Layout::for_size(size)?;
    let epoch = created.unwrap_or(Epoch(0));
    let superblock = Superblock {
        size,
        epoch,
        data_epoch: epoch,
        // S10: a copy that never held the data is no copy, whatever the in-sync set says, until it is a target.
        inconsistent: if created.is_some() && in_sync { Epoch(0) } else { Epoch(u64::MAX) },
        peer: PeerMark { data_epoch: epoch, ..PeerMark::default() },
        peer_node: NodeId(0),
        first_block_bytes: layout.first_block_bytes,
    };
    let seal = move |kind, body: &[u8]| record::encode(&identity, version, kind, 0, 1, body);
    let logs = (0..2).map(move |place| {
        let body = LogRecord::default().encode();
        (layout::offset(ACTIVITY_LOG, place), seal(Kind::ActivityLog, &body))
    });
    let superblocks = (0..2)
        .map(move |place| (layout::offset(SUPERBLOCK, place), seal(Kind::Superblock, &superblock.encode())));
    Some(blank_pages(identity, layout, 0, version).chain(logs).chain(superblocks))
}

/// The records that a copy which has room up to `room` needs besides to have it up to `size` (S22), as [`format()`] gives
/// them: bitmap pages on which nothing relies until the superblock says so. None of them is a page of a size up to
/// `room`. The answer is `None` if the size is impossible.
#[must_use]
pub fn format_growth(
    identity: Identity,
    room: Layout,
    size: ByteCount,
    version: u16,
) -> Option<impl Iterator<Item = (u64, Vec<u8>)>> {
    let grown = room.at_size(size)?;
    let from = if grown.first_page == room.first_page { room.pages } else { 0 };
    Some(blank_pages(identity, grown, from, version))
}

/// Bitmap pages without a set bit, from page `from` on.
fn blank_pages(
    identity: Identity,
    layout: Layout,
    from: u32,
    version: u16,
) -> impl Iterator<Item = (u64, Vec<u8>)> {
    let (first, end) = (layout.first_page + from, layout.first_page + layout.pages);
    layout::runs(first, end).flat_map(move |(start, end)| {
        (0..2).map(move |place| {
            let index = move |record: u32| record - layout.first_page;
            let page = |at| record::encode(&identity, version, Kind::BitmapPage, index(at), 1, &[]);
            let pages = (start..end).flat_map(page);
            (layout::offset(start, place), pages.collect())
        })
    })
}

/// Reads a metadata area piece by piece and ends in a [`Replica`].
#[derive(Debug)]
pub struct Recovery {
    known: Versions,
    identity: Identity,
    meta_len: ByteCount,
    /// The piece of the first half that waits for its counterpart.
    first_half: Option<Vec<u8>>,
    head: Option<Head>,
    /// Pages judged so far.
    pages: u32,
    error: Option<OpenError>,
}

#[derive(Debug)]
struct Head {
    layout: Layout,
    /// The superblock's.
    version: u16,
    superblock: Superblock,
    superblock_record: TwoPlaces,
    log: LogRecord,
    log_record: TwoPlaces,
    bitmap: Bitmap,
}

/// Record `at` of a piece; empty if it was not read.
fn piece(bytes: &[u8], at: usize) -> &[u8] {
    bytes.get(at * RECORD_BYTES..(at + 1) * RECORD_BYTES).unwrap_or_default()
}

impl Recovery {
    /// Begins; `meta_len` is the length of the metadata area, at least what [`Layout`] gave.
    #[must_use]
    pub fn new(identity: Identity, meta_len: ByteCount) -> Self {
        let known = Formats::CURRENT.metadata;
        Self { known, identity, meta_len, first_half: None, head: None, pages: 0, error: None }
    }

    /// As a release that understands `known`.
    #[must_use]
    pub fn knowing(self, known: Versions) -> Self {
        Self { known, ..self }
    }

    /// What to read next; `None`: all read, or nothing more needed to refuse it.
    #[must_use]
    pub fn wanted(&self) -> Option<MetaRead> {
        if self.error.is_some() {
            return None;
        }
        let place = u8::from(self.first_half.is_some());
        let (first, end) = self.next_records();
        let len = u32::try_from(u64::from(end - first) * RECORD_BYTES as u64).ok()?;
        (len > 0).then_some(MetaRead { offset: layout::offset(first, place), len })
    }

    /// The next records to judge: first, and the one after the last.
    fn next_records(&self) -> (u32, u32) {
        let Some(Head { layout, .. }) = &self.head else { return (SUPERBLOCK, FIRST_PAGE) };
        let first = layout.first_page + self.pages;
        (first, layout::run_end(first, layout.first_page + layout.pages))
    }

    /// The size that the copy has, once its superblock was read.
    #[must_use]
    pub fn size(&self) -> Option<ByteCount> {
        self.head.as_ref().map(|head| head.layout.size)
    }

    /// The bytes that [`Self::wanted`] asked for; `None` if the disk could not read them.
    pub fn supply(&mut self, bytes: Option<&[u8]>) {
        let bytes = bytes.unwrap_or_default();
        let Some(first) = self.first_half.take() else {
            self.first_half = Some(bytes.to_vec());
            return;
        };
        let judged = match self.head.is_none() {
            true => self.judge_head(&first, bytes),
            false => self.judge_pages(&first, bytes),
        };
        if let Err(error) = judged {
            self.error = Some(error);
        }
    }

    fn judge_head(&mut self, a: &[u8], b: &[u8]) -> Result<(), OpenError> {
        let at = |index: u32| index as usize;
        let found = record::choose(
            self.known,
            &self.identity,
            Kind::Superblock,
            0,
            [piece(a, at(SUPERBLOCK)), piece(b, at(SUPERBLOCK))],
        )?;
        let damaged = |what| OpenError::Damaged(what);
        let superblock = Superblock::decode(found.body).map_err(|_| damaged(Kind::Superblock.name()))?;
        let (superblock_record, version) = (found.writer(), found.version);
        let layout = Layout::of(superblock.size, superblock.first_block_bytes).ok_or(OpenError::Size)?;
        if layout.meta_len > self.meta_len {
            return Err(OpenError::Size);
        }
        let places = [piece(a, at(ACTIVITY_LOG)), piece(b, at(ACTIVITY_LOG))];
        let found = record::choose(self.known, &self.identity, Kind::ActivityLog, 0, places)?;
        let log = LogRecord::decode(found.body).map_err(|_| damaged(Kind::ActivityLog.name()))?;
        if log.extents.iter().any(|extent| *extent >= layout.extents) {
            return Err(damaged(Kind::ActivityLog.name()));
        }
        let log_record = found.writer();
        let bitmap = Bitmap::new(&layout);
        self.head = Some(Head { layout, version, superblock, superblock_record, log, log_record, bitmap });
        Ok(())
    }

    fn judge_pages(&mut self, a: &[u8], b: &[u8]) -> Result<(), OpenError> {
        let (_, end) = self.next_records();
        let Some(head) = self.head.as_mut() else { return Ok(()) };
        let last = end - head.layout.first_page;
        for (at, index) in (self.pages..last).enumerate() {
            let places = [piece(a, at), piece(b, at)];
            let found = record::choose(self.known, &self.identity, Kind::BitmapPage, index, places)?;
            head.bitmap
                .found(index, found.body, found.writer(), found.both)
                .map_err(|_| OpenError::Damaged(Kind::BitmapPage.name()))?;
        }
        self.pages = last;
        Ok(())
    }

    /// The replica. Its first commands are ready to be polled.
    ///
    /// # Errors
    /// The copy can't be used.
    pub fn finish<B: Buffer>(self, options: Options) -> Result<Replica<B>, OpenError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let head = self.head.filter(|head| head.layout.pages == self.pages);
        let head = head.ok_or(OpenError::Damaged("metadata area"))?;
        let found = Recovered {
            identity: self.identity,
            layout: head.layout,
            version: head.version,
            superblock: head.superblock,
            superblock_record: head.superblock_record,
            log: head.log,
            log_record: head.log_record,
            bitmap: head.bitmap,
        };
        Ok(Replica::recovered(found, options))
    }
}
