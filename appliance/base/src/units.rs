//! Block addresses, byte counts and epochs.

use core::fmt;
use serde::{Deserialize, Serialize};

/// Bytes of one logical block as initiators address it (512e: physical blocks are 4096 bytes).
pub const LOGICAL_BLOCK_BYTES: u32 = 512;

/// Logical block address, in units of [`LOGICAL_BLOCK_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lba(pub u64);

/// A length or an offset in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteCount(pub u64);

/// Counts every change of a volume's primary, in-sync set or size. Zero: nothing committed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Lba {
    /// Offset of this block from the start of the volume; `None` past 2^64 bytes.
    #[must_use]
    pub fn byte_offset(self) -> Option<ByteCount> {
        self.0.checked_mul(u64::from(LOGICAL_BLOCK_BYTES)).map(ByteCount)
    }
}

impl ByteCount {
    /// 1 KiB × `n`.
    #[must_use]
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }
    /// 1 MiB × `n`.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
    /// 1 GiB × `n`.
    #[must_use]
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }
    /// Whole logical blocks that fit.
    #[must_use]
    pub fn blocks(self) -> u64 {
        self.0 / u64::from(LOGICAL_BLOCK_BYTES)
    }
}

impl fmt::Display for ByteCount {
    /// In binary units with at most one decimal: `1 GiB`, `1.5 MiB`, `512 B`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];
        for (name, shift) in UNITS {
            if self.0 >> shift == 0 && shift > 0 {
                continue;
            }
            let whole = self.0 >> shift;
            let tenths = if shift == 0 { 0 } else { ((self.0 >> (shift - 10)) & 1023) * 10 / 1024 };
            return match tenths {
                0 => write!(f, "{whole} {name}"),
                _ => write!(f, "{whole}.{tenths} {name}"),
            };
        }
        Ok(())
    }
}

impl Epoch {
    /// The epoch that the next committed change makes.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn byte_counts_print_in_binary_units() {
        for (bytes, text) in
            [(0, "0 B"), (512, "512 B"), (1 << 20, "1 MiB"), (3 << 19, "1.5 MiB"), (1 << 40, "1 TiB")]
        {
            assert_eq!(ByteCount(bytes).to_string(), text);
        }
    }
}
