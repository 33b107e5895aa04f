//! Limits that the block limits VPD page reports and the handlers keep.

/// Longest READ, WRITE, VERIFY, ORWRITE: 64 MiB. UEFI Windows boots with one 7 MiB READ (16); ESXi sends up to 32 MiB.
pub(crate) const MAX_TRANSFER_BLOCKS: u64 = 131_072;
/// Preferred transfer: 1 MiB.
pub(crate) const OPTIMAL_TRANSFER_BLOCKS: u64 = 2048;
/// Longest COMPARE AND WRITE: 64 KiB (ESXi uses one block).
pub(crate) const MAX_COMPARE_BLOCKS: u64 = 128;
/// Longest WRITE SAME: 32 MiB.
pub(crate) const MAX_WRITE_SAME_BLOCKS: u64 = 65_536;
/// Most blocks of one UNMAP, all descriptors: 512 MiB.
pub(crate) const MAX_UNMAP_BLOCKS: u64 = 1_048_576;
/// Most descriptors of one UNMAP.
pub(crate) const MAX_UNMAP_DESCRIPTORS: usize = 256;
/// Unit in which space is given back: 4 KiB. ESXi reclaims by itself only up to 1 MiB.
pub(crate) const UNMAP_GRANULARITY_BLOCKS: u32 = 8;
