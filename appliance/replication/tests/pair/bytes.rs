//! Data of the tests: shared bytes.

use futago_replication::Buffer;
use std::ops::Range;
use std::sync::Arc;

#[derive(Clone)]
pub struct Bytes {
    all: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Bytes {
    pub fn new(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { all: Arc::new(bytes), range }
    }
    pub fn fill(value: u8, len: usize) -> Self {
        Self::new(vec![value; len])
    }
    pub fn as_slice(&self) -> &[u8] {
        &self.all[self.range.clone()]
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes from {:?}", self.range.len(), self.as_slice().first())
    }
}

impl Buffer for Bytes {
    fn len(&self) -> usize {
        self.range.len()
    }
    fn slice(&self, range: Range<usize>) -> Self {
        let start = self.range.start + range.start;
        Self { all: self.all.clone(), range: start..start + range.len() }
    }
    fn crc32c(&self) -> u32 {
        base::crc32c(self.as_slice())
    }
}
