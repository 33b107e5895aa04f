//! The buffer handle that replicas hold.

use std::ops::Range;

use disk::Buffer;

/// A pooled buffer, or a part of one, as `replication` wants it.
#[derive(Clone, Debug)]
pub(crate) struct Data(pub(crate) Buffer);

impl replication::Buffer for Data {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn slice(&self, range: Range<usize>) -> Self {
        // The trait promises a range inside `0..len()`; an empty handle for any other keeps this total, and its length
        // then fails the disk's and the frame's checks.
        Self(self.0.slice(range).or_else(|| self.0.slice(0..0)).unwrap_or_else(|| self.0.clone()))
    }

    fn crc32c(&self) -> u32 {
        self.0.crc32c()
    }
}
