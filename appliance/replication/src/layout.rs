//! Where a replica's records lie in its metadata area (docs/ondisk.md).
//!
//! The area has two halves with the same records: superblock, activity log, bitmap pages, 4096 bytes each. A record's
//! two places (S12) are thus far apart.

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

/// The derived geometry of one volume's replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Size of the volume.
    pub size: ByteCount,
    /// Bytes of one dirty block: 4096, doubled until the volume has at most 2^30.
    pub dirty_block_bytes: u64,
    /// Dirty blocks of the volume; the last may be partial.
    pub dirty_blocks: u64,
    /// Activity log extents of the volume; the last may be partial.
    pub extents: u32,
    /// Bitmap pages.
    pub pages: u32,
    /// Slots of the activity log.
    pub al_slots: u32,
    /// Bytes of metadata area that the replica needs.
    pub meta_len: ByteCount,
}

impl Layout {
    /// The geometry for a volume of `size`; `None` if it is zero, no multiple of 4096, or over 1 PiB.
    #[must_use]
    pub fn for_size(size: ByteCount) -> Option<Self> {
        if size.0 == 0 || !size.0.is_multiple_of(4096) || size.0 > MAX_VOLUME_BYTES {
            return None;
        }
        let mut block = LOCK_BLOCK_BYTES;
        while size.0.div_ceil(block) > MAX_DIRTY_BLOCKS {
            block *= 2;
        }
        let blocks = size.0.div_ceil(block);
        let pages = u32::try_from(blocks.div_ceil(PAGE_BITS)).ok()?;
        let extents = u32::try_from(size.0.div_ceil(EXTENT_BYTES)).ok()?;
        let records = 2 * (2 + u64::from(pages));
        Some(Self {
            size,
            dirty_block_bytes: block,
            dirty_blocks: blocks,
            extents,
            pages,
            al_slots: (extents / 8).clamp(8, 128),
            meta_len: ByteCount(records * RECORD_BYTES as u64),
        })
    }

    /// Offset of record `index` in half `place` (0 or 1).
    pub(crate) fn offset(self, index: u32, place: u8) -> u64 {
        let half = self.meta_len.0 / 2;
        let base = if place == 0 { 0 } else { half };
        base + u64::from(index) * RECORD_BYTES as u64
    }

    /// Dirty blocks in one full extent.
    pub(crate) fn blocks_per_extent(self) -> u64 {
        EXTENT_BYTES / self.dirty_block_bytes
    }
}

/// Index of the superblock.
pub(crate) const SUPERBLOCK: u32 = 0;
/// Index of the activity log.
pub(crate) const ACTIVITY_LOG: u32 = 1;
/// Index of bitmap page 0.
pub(crate) const FIRST_PAGE: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometry_follows_the_size() {
        let small = Layout::for_size(ByteCount::gib(1)).unwrap();
        assert_eq!((small.dirty_block_bytes, small.dirty_blocks, small.extents), (4096, 262_144, 256));
        assert_eq!((small.pages, small.al_slots, small.meta_len.0), (9, 32, 2 * 11 * 4096));
        let large = Layout::for_size(ByteCount::gib(62 << 10)).unwrap();
        assert_eq!((large.dirty_block_bytes, large.al_slots), (65_536, 128));
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
    fn halves_do_not_overlap() {
        let layout = Layout::for_size(ByteCount::mib(64)).unwrap();
        assert_eq!(layout.offset(SUPERBLOCK, 1), layout.offset(FIRST_PAGE + layout.pages - 1, 0) + 4096);
        assert_eq!(layout.offset(FIRST_PAGE + layout.pages - 1, 1) + 4096, layout.meta_len.0);
    }
}
