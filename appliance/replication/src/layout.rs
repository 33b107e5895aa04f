//! Where a replica's records lie in its metadata area (docs/ondisk.md).
//!
//! The area is a row of groups of 4 MiB. Each has room for 512 records of 4096 bytes in its first half, and for the same
//! 512 in its second: a record's two places (S12) are 2 MiB apart, and an area grows without moving any of them (S22).
//!
//! Records 0 and 1 are superblock and activity log. Bitmap pages follow, in regions: while the volume has at most 2^30
//! dirty blocks of the length that it was made with, its pages are in the first one; each time that the dirty block has
//! to double, they move to the next. So a page of the new length never overwrites one of the old, which counts until the
//! superblock says otherwise. Where a region begins depends on nothing but how often the block has doubled.

use base::ByteCount;

/// Bytes of one metadata record.
pub const RECORD_BYTES: usize = 4096;
/// Bytes of one activity log extent.
pub const EXTENT_BYTES: u64 = 4 << 20;
/// Bits in one bitmap page: 31 × 1024, so that an extent never straddles pages.
pub(crate) const PAGE_BITS: u64 = 31 * 1024;
/// Smallest dirty block, bytes; locks are in these blocks whatever the dirty block.
pub(crate) const LOCK_BLOCK_BYTES: u64 = 4096;
/// Most dirty blocks of a volume; beyond, the dirty block doubles.
const MAX_DIRTY_BLOCKS: u64 = 1 << 30;
/// Largest volume: at 2^50 bytes a dirty block is 1 MiB, still a part of an extent.
const MAX_VOLUME_BYTES: u64 = 1 << 50;
/// Records of one place in a group.
const GROUP_RECORDS: u32 = 512;
/// Bytes of a group, both places.
const GROUP_BYTES: u64 = 2 * GROUP_RECORDS as u64 * RECORD_BYTES as u64;
/// Records of a region of bitmap pages: what the most dirty blocks need.
const REGION_RECORDS: u64 = MAX_DIRTY_BLOCKS.div_ceil(PAGE_BITS);

/// Where the superblock's two places are.
pub const SUPERBLOCK_OFFSETS: [u64; 2] = [0, GROUP_BYTES / 2];

/// The derived geometry of one volume's replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Size of the volume.
    pub size: ByteCount,
    /// Bytes of one dirty block when the copy was made.
    pub first_block_bytes: u64,
    /// Bytes of one dirty block: 4096, doubled until the volume has at most 2^30.
    pub dirty_block_bytes: u64,
    /// Dirty blocks of the volume; the last may be partial.
    pub dirty_blocks: u64,
    /// Activity log extents of the volume; the last may be partial.
    pub extents: u32,
    /// Index of the record that holds bitmap page 0.
    pub first_page: u32,
    /// Bitmap pages.
    pub pages: u32,
    /// Slots of the activity log.
    pub al_slots: u32,
    /// Bytes of metadata area that the replica needs.
    pub meta_len: ByteCount,
}

/// The dirty block of a volume of `size`; `None` if it is zero, no multiple of 4096, or over 1 PiB.
fn block_of(size: ByteCount) -> Option<u64> {
    if size.0 == 0 || !size.0.is_multiple_of(4096) || size.0 > MAX_VOLUME_BYTES {
        return None;
    }
    let mut block = LOCK_BLOCK_BYTES;
    while size.0.div_ceil(block) > MAX_DIRTY_BLOCKS {
        block *= 2;
    }
    Some(block)
}

impl Layout {
    /// The geometry of a copy that is made for a volume of `size`; `None` if it is zero, no multiple of 4096, or over
    /// 1 PiB.
    #[must_use]
    pub fn for_size(size: ByteCount) -> Option<Self> {
        Self::of(size, block_of(size)?)
    }

    /// The geometry of this copy at another size, whatever sizes it had in between (S22).
    #[must_use]
    pub fn at_size(self, size: ByteCount) -> Option<Self> {
        Self::of(size, self.first_block_bytes)
    }

    /// The geometry at `size` of a copy whose dirty block was of `first_block_bytes` when it was made.
    pub(crate) fn of(size: ByteCount, first_block_bytes: u64) -> Option<Self> {
        let block = block_of(size)?;
        if !first_block_bytes.is_power_of_two() || first_block_bytes < LOCK_BLOCK_BYTES {
            return None;
        }
        // A copy is never smaller than it was made.
        let doubled = block.checked_div(first_block_bytes).filter(|times| *times > 0)?.trailing_zeros();
        let blocks = size.0.div_ceil(block);
        let pages = blocks.div_ceil(PAGE_BITS);
        let first_page = u64::from(FIRST_PAGE) + u64::from(doubled) * REGION_RECORDS;
        let groups = (first_page + pages).div_ceil(u64::from(GROUP_RECORDS));
        let extents = u32::try_from(size.0.div_ceil(EXTENT_BYTES)).ok()?;
        Some(Self {
            size,
            first_block_bytes,
            dirty_block_bytes: block,
            dirty_blocks: blocks,
            extents,
            first_page: u32::try_from(first_page).ok()?,
            pages: u32::try_from(pages).ok()?,
            al_slots: (extents / 8).clamp(8, 128),
            meta_len: ByteCount(groups * GROUP_BYTES),
        })
    }

    /// Dirty blocks in one full extent.
    pub(crate) fn blocks_per_extent(self) -> u64 {
        EXTENT_BYTES / self.dirty_block_bytes
    }
}

/// Offset of record `index` in `place` (0 or 1).
pub(crate) fn offset(index: u32, place: u8) -> u64 {
    let group = u64::from(index / GROUP_RECORDS) * GROUP_BYTES;
    let half = if place == 0 { 0 } else { GROUP_BYTES / 2 };
    group + half + u64::from(index % GROUP_RECORDS) * RECORD_BYTES as u64
}

/// Splits the records `first .. end` into runs of at most 64 that lie in one piece.
pub(crate) fn runs(first: u32, end: u32) -> impl Iterator<Item = (u32, u32)> {
    let mut from = first;
    core::iter::from_fn(move || {
        let start = from;
        from = run_end(start, end);
        (start < end).then_some((start, from))
    })
}

/// Where the run that begins at record `first` ends.
pub(crate) fn run_end(first: u32, end: u32) -> u32 {
    // Divides a group's records.
    const RUN_RECORDS: u32 = 64;
    ((first / RUN_RECORDS + 1) * RUN_RECORDS).min(end)
}

/// Index of the superblock.
pub(crate) const SUPERBLOCK: u32 = 0;
/// Index of the activity log.
pub(crate) const ACTIVITY_LOG: u32 = 1;
/// Index of the first record after these.
pub(crate) const FIRST_PAGE: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    const TIB: u64 = 1 << 40;

    #[test]
    fn geometry_follows_the_size() {
        let small = Layout::for_size(ByteCount::gib(1)).unwrap();
        assert_eq!((small.dirty_block_bytes, small.dirty_blocks, small.extents), (4096, 262_144, 256));
        assert_eq!((small.first_page, small.pages, small.al_slots), (2, 9, 32));
        assert_eq!(small.meta_len, ByteCount::mib(4));
        let large = Layout::for_size(ByteCount(62 * TIB)).unwrap();
        assert_eq!((large.dirty_block_bytes, large.al_slots, large.first_page), (65_536, 128, 2));
        assert!(
            large.dirty_blocks <= MAX_DIRTY_BLOCKS && PAGE_BITS.is_multiple_of(large.blocks_per_extent())
        );
        for bad in [0, 4095, 512, (1 << 50) + 4096] {
            assert_eq!(Layout::for_size(ByteCount(bad)), None);
        }
        let tiny = Layout::for_size(ByteCount(4096)).unwrap();
        assert_eq!((tiny.dirty_blocks, tiny.extents, tiny.pages, tiny.al_slots), (1, 1, 1, 8));
    }

    #[test]
    fn no_two_places_overlap() {
        let mut seen = alloc::collections::BTreeSet::new();
        for index in 0..2000 {
            assert!(seen.insert(offset(index, 0)) && seen.insert(offset(index, 1)));
            assert_eq!(offset(index, 1) - offset(index, 0), 2 << 20);
        }
        assert_eq!(SUPERBLOCK_OFFSETS, [offset(SUPERBLOCK, 0), offset(SUPERBLOCK, 1)]);
        assert!(seen.iter().all(|at| at.is_multiple_of(4096)));
        assert_eq!((offset(511, 1) + 4096, offset(512, 0)), (GROUP_BYTES, GROUP_BYTES));
        let layout = Layout::for_size(ByteCount(TIB)).unwrap();
        assert!(offset(layout.first_page + layout.pages - 1, 1) + 4096 <= layout.meta_len.0);
    }

    #[test]
    fn growing_moves_no_record_until_the_block_doubles() {
        let small = Layout::for_size(ByteCount::gib(1)).unwrap();
        let grown = small.at_size(ByteCount(4 * TIB)).unwrap();
        assert_eq!((grown.first_page, grown.dirty_block_bytes), (2, 4096));
        let doubled = small.at_size(ByteCount(8 * TIB)).unwrap();
        assert_eq!((doubled.dirty_block_bytes, doubled.pages), (8192, grown.pages));
        assert!(doubled.first_page >= grown.first_page + grown.pages, "the old pages stay until the end");
        let once_more = small.at_size(ByteCount(9 * TIB)).unwrap();
        assert!(once_more.first_page >= doubled.first_page + doubled.pages);
        // The way does not matter.
        assert_eq!(grown.at_size(once_more.size), Some(once_more));
        assert_eq!(doubled.at_size(once_more.size), Some(once_more));
        assert_eq!(Layout::of(ByteCount::gib(1), 8192), None, "smaller than it was made");
        assert_eq!(Layout::of(ByteCount::gib(1), 0), None);
    }

    #[test]
    fn runs_cover_all_and_lie_in_one_piece() {
        let all: alloc::vec::Vec<_> = runs(2, 1100).collect();
        assert_eq!(all.first(), Some(&(2, 64)));
        assert_eq!(all.last(), Some(&(1088, 1100)));
        assert!(all.windows(2).all(|pair| pair[0].1 == pair[1].0));
        for (first, end) in all {
            assert_eq!(offset(end - 1, 1) - offset(first, 1), u64::from(end - 1 - first) * 4096);
        }
        assert_eq!(runs(5, 5).count(), 0);
    }
}
