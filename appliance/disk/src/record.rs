//! Records that live in two places (S12).
//!
//! Every record begins with an 8-byte magic and a version, and its first block ends with the CRC32C of the rest of
//! that block; this framing is the same for all versions, so a build tells "newer than me" from "damaged". It is read in
//! every version that the release understands, and written in the one in force.
//!
//! A record is written to one place, made durable, then to the other, made durable; only then does anything rely on
//! it. After a crash at any point at least one place holds a whole record, old or new, and either is right: nothing
//! relied on the new one yet.

use crate::buffer::BufferPool;
use crate::disk::Disk;
use crate::error::{DiskError, ErrorKind};
use base::{DecodeError, Formats, Reader, Versions, Writer, crc32c};

/// Bytes of a record's first (or only) block.
pub(crate) const BLOCK_BYTES: usize = 4096;
/// Bytes of that block covered by its checksum.
const SEALED_BYTES: usize = BLOCK_BYTES - 4;
/// What this build reads.
pub(crate) const VERSIONS: Versions = Formats::CURRENT.pool;

/// What one place holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Slot<T> {
    /// Nothing but zeroes.
    Blank,
    /// Not a record of ours: the magic is missing.
    Alien,
    /// Ours, and not whole, or not readable.
    Damaged(String),
    /// Ours and whole, of a version that this build does not know.
    UnknownVersion(u32),
    /// A record, and its version.
    Valid(T, u16),
}

/// What a record must tell so that the newer of two can be found.
pub(crate) trait Sequenced: PartialEq {
    fn sequence(&self) -> u64;
}

/// The record to go by, and which places must be written again so that both hold it.
#[derive(Debug)]
pub(crate) struct Chosen<T> {
    pub(crate) record: T,
    pub(crate) version: u16,
    pub(crate) repair: [bool; 2],
}

/// Starts a block of `version`; [`seal`] ends it.
pub(crate) fn begin(magic: [u8; 8], version: u16) -> Writer {
    let mut block = Writer::with_capacity(BLOCK_BYTES);
    block.bytes(&magic).u32(version.into()).u32(0);
    block
}

/// Pads the block and appends its checksum.
pub(crate) fn seal(mut block: Writer) -> Vec<u8> {
    block.pad_to(SEALED_BYTES);
    let crc = crc32c(block.as_slice());
    block.u32(crc);
    block.into_vec()
}

/// Checks the frame of a block of one of the versions `known`, and has `decode` read what [`begin`] and [`seal`] put around.
pub(crate) fn open<T>(
    known: Versions,
    what: &'static str,
    magic: [u8; 8],
    bytes: &[u8],
    decode: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Slot<T> {
    let Some((sealed, crc)) = bytes.get(..BLOCK_BYTES).and_then(|block| block.split_at_checked(SEALED_BYTES))
    else {
        return Slot::Damaged(DecodeError::Short(what).to_string());
    };
    if bytes.iter().all(|byte| *byte == 0) {
        return Slot::Blank;
    }
    if !sealed.starts_with(&magic) {
        return Slot::Alien;
    }
    if crc32c(sealed).to_le_bytes() != crc {
        return Slot::Damaged(DecodeError::Checksum(what).to_string());
    }
    match body(known, what, sealed, decode) {
        Ok(slot) => slot,
        Err(error) => Slot::Damaged(error.to_string()),
    }
}

fn body<T>(
    known: Versions,
    what: &'static str,
    sealed: &[u8],
    decode: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Slot<T>, DecodeError> {
    let mut reader = Reader::new(what, sealed);
    reader.bytes(8)?;
    let number = reader.u32()?;
    let version = match u16::try_from(number) {
        Ok(version) if known.contain(version) => version,
        _ => return Ok(Slot::UnknownVersion(number)),
    };
    if reader.u32()? != 0 {
        return reader.invalid("reserved");
    }
    let record = decode(&mut reader)?;
    let padding = reader.bytes(reader.remaining())?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(DecodeError::Trailing(what));
    }
    Ok(Slot::Valid(record, version))
}

/// Picks the record to go by (S12): the newer of two whole ones, or the whole one. An unknown version in either
/// place refuses the disk: a newer build has been here and knows better.
pub(crate) fn choose<T: Sequenced>(
    disk: &Disk,
    what: &'static str,
    slots: [Slot<T>; 2],
) -> Result<Chosen<T>, DiskError> {
    let refuse = |kind, reason: String| Err(DiskError::new(kind, format!("{}: {reason}", disk.name())));
    match slots {
        [Slot::UnknownVersion(version), _] | [_, Slot::UnknownVersion(version)] => refuse(
            ErrorKind::UnknownVersion,
            format!(
                "{what} of version {version}; this release reads {} to {}",
                VERSIONS.oldest, VERSIONS.newest
            ),
        ),
        [Slot::Valid(a, version), Slot::Valid(b, other)] => {
            if a == b && version == other {
                Ok(Chosen { record: a, version, repair: [false, false] })
            } else if a.sequence() == b.sequence() {
                refuse(ErrorKind::Damaged, format!("the two copies of its {what} contradict each other"))
            } else if a.sequence() > b.sequence() {
                Ok(Chosen { record: a, version, repair: [false, true] })
            } else {
                Ok(Chosen { record: b, version: other, repair: [true, false] })
            }
        }
        [Slot::Valid(record, version), _] => Ok(Chosen { record, version, repair: [false, true] }),
        [_, Slot::Valid(record, version)] => Ok(Chosen { record, version, repair: [true, false] }),
        [Slot::Damaged(reason), _] | [_, Slot::Damaged(reason)] => {
            refuse(ErrorKind::Damaged, format!("both copies of its {what} are damaged ({reason})"))
        }
        [Slot::Blank | Slot::Alien, Slot::Blank | Slot::Alien] => {
            refuse(ErrorKind::Damaged, format!("it has no {what}"))
        }
    }
}

/// Writes `bytes`, the chosen record, to the places that do not hold it.
pub(crate) fn repair<T>(
    disk: &Disk,
    what: &str,
    places: [u64; 2],
    chosen: &Chosen<T>,
    bytes: &[u8],
) -> Result<(), DiskError> {
    for (place, bad) in places.into_iter().zip(chosen.repair) {
        if bad {
            tracing::warn!(disk = %disk.name(), what, place, "a copy was old or bad; written anew");
            write(disk, place, bytes)?;
        }
    }
    Ok(())
}

/// Reads `len_bytes` (whole blocks) from `offset_bytes`.
pub(crate) fn read(disk: &Disk, offset_bytes: u64, len_bytes: usize) -> Result<Vec<u8>, DiskError> {
    let mut buffer = BufferPool::default().take_urgent(len_bytes)?;
    disk.read_blocking(offset_bytes, buffer.as_mut_slice())?;
    Ok(buffer.as_slice().to_vec())
}

/// Writes `bytes`, padded to whole blocks, at `offset_bytes`, and makes them durable.
pub(crate) fn write(disk: &Disk, offset_bytes: u64, bytes: &[u8]) -> Result<(), DiskError> {
    let len_bytes = bytes.len().next_multiple_of(BLOCK_BYTES);
    let mut buffer = BufferPool::default().take_urgent(len_bytes)?;
    let (front, padding) = buffer.as_mut_slice().split_at_mut(bytes.len());
    front.copy_from_slice(bytes);
    padding.fill(0);
    disk.write_blocking(offset_bytes, buffer.as_slice())?;
    disk.flush_blocking()
}
