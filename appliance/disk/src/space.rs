//! A contiguous run of bytes that lies in one or more pieces on disks.
//!
//! Invariants
//! - Pieces are in order, without gap or overlap, and none is empty: every byte below [`Space::len`] has one place.
//! - A space never changes: growing a volume makes a new one that begins with the old one's pieces.
//! - While any handle lives (requests in flight hold one), the pool does not free the disk space below it.

use crate::disk::Disk;
use crate::error::{DiskError, ErrorKind};
use base::ByteCount;
use std::sync::Arc;

/// A handle on a contiguous space; clones are cheap.
#[derive(Clone, Debug)]
pub struct Space(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pieces: Vec<Piece>,
    len_bytes: u64,
    /// Shared by all spaces of one volume: the pool counts its holders.
    _in_use: Arc<()>,
}

/// A part of a space that lies in one piece on one disk.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Offset within the space, in bytes.
    pub start_bytes: u64,
    /// Length in bytes.
    pub len_bytes: u64,
    /// Where it lies.
    pub disk: Disk,
    /// Offset on that disk, in bytes.
    pub disk_offset_bytes: u64,
}

impl Piece {
    fn end_bytes(&self) -> u64 {
        self.start_bytes + self.len_bytes
    }
}

impl Space {
    /// The whole of one disk as it is now, at the same offsets: for a disk used without label and pool.
    #[must_use]
    pub fn of_disk(disk: &Disk) -> Self {
        let len_bytes = disk.size().0;
        let piece = Piece { start_bytes: 0, len_bytes, disk: disk.clone(), disk_offset_bytes: 0 };
        Self(Arc::new(Inner { pieces: vec![piece], len_bytes, _in_use: Arc::default() }))
    }

    /// `pieces` must be in order and without gap, starting at 0.
    pub(crate) fn new(pieces: Vec<Piece>, in_use: Arc<()>) -> Result<Self, DiskError> {
        let mut len_bytes = 0;
        for piece in &pieces {
            if piece.start_bytes != len_bytes || piece.len_bytes == 0 {
                return Err(DiskError::new(
                    ErrorKind::Damaged,
                    format!("{}: runs of a volume leave a gap at {len_bytes}", piece.disk.name()),
                ));
            }
            len_bytes = piece.end_bytes();
        }
        Ok(Self(Arc::new(Inner { pieces, len_bytes, _in_use: in_use })))
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> ByteCount {
        ByteCount(self.0.len_bytes)
    }

    /// Whether the length is zero.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.len_bytes == 0
    }

    /// All pieces in order.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.0.pieces
    }

    /// Every disk below, each once.
    pub fn disks(&self) -> impl Iterator<Item = &Disk> {
        let pieces = &self.0.pieces;
        pieces.iter().enumerate().filter_map(move |(i, piece)| {
            let seen = pieces.iter().take(i).any(|earlier| earlier.disk.same(&piece.disk));
            (!seen).then_some(&piece.disk)
        })
    }

    /// Where `len_bytes` from `offset_bytes` lie: the pieces, cut to the range, in order.
    /// [`ErrorKind::OutOfRange`] if the range reaches past the end.
    pub fn locate(
        &self,
        offset_bytes: u64,
        len_bytes: u64,
    ) -> Result<impl Iterator<Item = Piece> + '_, DiskError> {
        let end =
            offset_bytes.checked_add(len_bytes).filter(|end| *end <= self.0.len_bytes).ok_or_else(|| {
                DiskError::new(
                    ErrorKind::OutOfRange,
                    format!("{len_bytes} bytes at {offset_bytes} reach past the end at {}", self.0.len_bytes),
                )
            })?;
        let first = self.0.pieces.partition_point(|piece| piece.end_bytes() <= offset_bytes);
        let pieces = self.0.pieces.iter().skip(first).take_while(move |piece| piece.start_bytes < end);
        Ok(pieces.map(move |piece| {
            let start_bytes = piece.start_bytes.max(offset_bytes);
            Piece {
                start_bytes,
                len_bytes: piece.end_bytes().min(end) - start_bytes,
                disk: piece.disk.clone(),
                disk_offset_bytes: piece.disk_offset_bytes + (start_bytes - piece.start_bytes),
            }
        }))
    }
}
