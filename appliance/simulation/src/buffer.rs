//! Data as the simulator holds it: one number for each 512-byte block, which names the write that it came from.
//! The replica never looks inside a buffer, so nothing is lost by that, and a run is a hundred times quicker.

use replication::Buffer;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of one block.
pub(crate) const BLOCK: u64 = 512;

/// A part of a shared run of blocks.
#[derive(Clone, Debug)]
pub(crate) struct SimBuffer {
    blocks: Arc<[u64]>,
    range: Range<usize>,
}

impl SimBuffer {
    pub(crate) fn new(blocks: impl Into<Arc<[u64]>>) -> Self {
        let blocks = blocks.into();
        let range = 0..blocks.len();
        Self { blocks, range }
    }

    pub(crate) fn blocks(&self) -> &[u64] {
        &self.blocks[self.range.clone()]
    }
}

impl Buffer for SimBuffer {
    fn len(&self) -> usize {
        self.range.len() * 512
    }

    fn slice(&self, range: Range<usize>) -> Self {
        assert!(
            range.start.is_multiple_of(512) && range.end.is_multiple_of(512),
            "slice {range:?} off a block's edge"
        );
        let blocks = self.range.start + range.start / 512..self.range.start + range.end / 512;
        assert!(blocks.start <= blocks.end && blocks.end <= self.range.end, "slice outside the buffer");
        Self { blocks: self.blocks.clone(), range: blocks }
    }

    fn crc32c(&self) -> u32 {
        // Stands for the checksum of the bytes: what matters is that other content has another one.
        let mut bytes = Vec::with_capacity(self.range.len() * 8);
        for block in self.blocks() {
            bytes.extend_from_slice(&block.to_le_bytes());
        }
        base::crc32c(&bytes)
    }
}
