//! Format and recovery: from a metadata area to a [`Replica`] (S12).

use alloc::vec::Vec;
use base::{ByteCount, Epoch};
use core::fmt;

use crate::api::{Buffer, Identity, Options};
use crate::replica::Replica;

/// A piece of the metadata area to read or write.
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
    /// Written by another version.
    Version(u16),
    /// Belongs to another cluster, volume, node or replica.
    Identity(&'static str),
    /// The metadata area's length and the size in the superblock don't fit.
    Size,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(what) => write!(f, "replica metadata: both copies of the {what} are damaged"),
            Self::Version(version) => write!(f, "replica metadata: version {version} is unknown"),
            Self::Identity(what) => write!(f, "replica metadata: belongs to another {what}"),
            Self::Size => f.write_str("replica metadata: size does not fit the metadata area"),
        }
    }
}

impl core::error::Error for OpenError {}

/// The records of a new, all-zero copy: (offset in the metadata area, bytes) to be written durably, in this order.
/// `created`: the epoch in which the volume was created with this copy (every copy equal, nothing dirty); `None`
/// for a copy added later, which gets everything (S7). `None` if the size is impossible.
#[must_use]
pub fn format(identity: &Identity, size: ByteCount, created: Option<Epoch>) -> Option<Vec<(u64, Vec<u8>)>> {
    let _ = (identity, size, created);
    None
}

/// Reads a metadata area piece by piece and ends in a [`Replica`].
#[derive(Debug)]
pub struct Recovery {
    identity: Identity,
}

impl Recovery {
    /// Begins; `meta_len` is the length of the metadata area.
    #[must_use]
    pub fn new(identity: Identity, meta_len: ByteCount) -> Self {
        let _ = meta_len;
        Self { identity }
    }

    /// What to read next; `None`: all read.
    #[must_use]
    pub fn wanted(&self) -> Option<MetaRead> {
        None
    }

    /// The bytes that [`Self::wanted`] asked for; `None` if the disk could not read them.
    pub fn supply(&mut self, bytes: Option<&[u8]>) {
        let _ = bytes;
    }

    /// The replica. Its first commands are ready to be polled.
    ///
    /// # Errors
    /// The copy can't be used.
    pub fn finish<B: Buffer>(self, options: Options) -> Result<Replica<B>, OpenError> {
        let _ = (options, self.identity);
        Err(OpenError::Size)
    }
}
