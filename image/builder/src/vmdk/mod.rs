//! streamOptimized VMDK (VMware, "Virtual Disk Format 5.0", section "Stream-Optimized Compressed Sparse Extents").
//!
//! ```text
//! sector 0      header: grain directory "at the end"
//! sector 1      descriptor, 20 sectors
//! sector 128    per 512 grains: the grains that hold data, each marker + deflate stream, padded to a sector;
//!               then their grain table, behind its marker
//!               grain directory, behind its marker
//!               footer: the header again with the directory's place, behind its marker
//!               end-of-stream marker, the file's last sector
//! ```
//!
//! Invariants: grains come in the disk's order; a grain of zeros is not stored, a table of such grains neither; the last
//! grain is filled up with zeros; nothing follows the end-of-stream marker. The last one matters: importers that read
//! the stream up to that marker compute the manifest's digest from what they read.

mod disk;
mod format;

pub use disk::Disk;
pub use format::{CAPACITY_LIMIT_BYTES, GRAIN_BYTES, SECTOR_BYTES};

use flate2::{Compress, Compression, FlushCompress, Status};
use format::{
    Descriptor, GRAINS_PER_TABLE, Header, Marker, NAME_LIMIT, OVERHEAD_BYTES, OVERHEAD_SECTORS, grain_marker,
    pad,
};
use sha2::{Digest, Sha256};
use std::io::{self, Seek, SeekFrom, Write};

/// A disk that could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum VmdkError {
    /// Nothing to encode.
    #[error("the disk is empty")]
    Empty,
    /// Not a whole number of sectors.
    #[error("the disk has {0} bytes, which is no whole number of sectors of 512 bytes")]
    OddSize(u64),
    /// Larger than [`CAPACITY_LIMIT_BYTES`].
    #[error("the disk has {0} bytes, more than the 2 TiB that this format is used for")]
    TooLarge(u64),
    /// The descriptor can't hold this name.
    #[error("{0:?} can't name an extent: at most 255 bytes, no quotes, no control characters")]
    Name(String),
    /// The data do not fit under the 32-bit sector numbers of grain tables.
    #[error("the data of the first {0} bytes of the disk fill the 2 TiB that a grain table can address")]
    Full(u64),
    /// The disk could not be read, or ended early.
    #[error("reading the disk at byte {offset}")]
    Read {
        /// Where.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// The VMDK could not be written.
    #[error("writing the VMDK")]
    Write(#[source] io::Error),
    /// The compressor refused.
    #[error("compressing the disk at byte {offset}: {reason}")]
    Compress {
        /// Where.
        offset: u64,
        /// Why.
        reason: String,
    },
}

/// What was encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The disk's size.
    pub capacity_bytes: u64,
    /// The VMDK's size.
    pub file_bytes: u64,
    /// Grains that the disk has.
    pub grains: u64,
    /// Grains that hold data.
    pub stored_grains: u64,
}

impl Encoded {
    /// Bytes of the disk in stored grains.
    #[must_use]
    pub fn populated_bytes(&self) -> u64 {
        (self.stored_grains * GRAIN_BYTES as u64).min(self.capacity_bytes)
    }
}

/// Encodes the first `capacity_bytes` of `disk` into `out`, from `out`'s start. `file_name` is what the descriptor calls
/// the extent.
///
/// # Errors
/// See [`VmdkError`]; what was written by then is useless.
pub fn encode(
    disk: &mut impl Disk,
    capacity_bytes: u64,
    file_name: &str,
    out: &mut (impl Write + Seek),
) -> Result<Encoded, VmdkError> {
    if capacity_bytes == 0 {
        return Err(VmdkError::Empty);
    }
    if !capacity_bytes.is_multiple_of(SECTOR_BYTES as u64) {
        return Err(VmdkError::OddSize(capacity_bytes));
    }
    if capacity_bytes > CAPACITY_LIMIT_BYTES {
        return Err(VmdkError::TooLarge(capacity_bytes));
    }
    if file_name.len() > NAME_LIMIT || file_name.chars().any(|c| c == '"' || c.is_control()) {
        return Err(VmdkError::Name(file_name.to_owned()));
    }
    out.seek(SeekFrom::Start(OVERHEAD_BYTES as u64)).map_err(VmdkError::Write)?;
    let mut encoder = Encoder::new(capacity_bytes, out);
    encoder.grains(disk)?;
    encoder.finish(file_name)
}

/// The state between two grains. `sector` is where `out` stands.
struct Encoder<'a, W> {
    out: &'a mut W,
    capacity_bytes: u64,
    sector: u64,
    /// Sector of each finished table; 0: none of its grains is stored.
    directory: Vec<u32>,
    /// Sector of each grain of the table in work.
    table: Vec<u32>,
    stored_grains: u64,
    /// Over the stored grains and their places: the content's identity.
    content: Sha256,
    compress: Compress,
    /// A grain's marker and stream.
    stream: Vec<u8>,
}

impl<'a, W: Write + Seek> Encoder<'a, W> {
    fn new(capacity_bytes: u64, out: &'a mut W) -> Self {
        let mut content = Sha256::new();
        content.update(capacity_bytes.to_le_bytes());
        Self {
            out,
            capacity_bytes,
            sector: OVERHEAD_SECTORS,
            directory: Vec::new(),
            table: Vec::with_capacity(GRAINS_PER_TABLE),
            stored_grains: 0,
            content,
            compress: Compress::new(Compression::best(), true),
            stream: Vec::with_capacity(2 * GRAIN_BYTES),
        }
    }

    fn grains(&mut self, disk: &mut impl Disk) -> Result<(), VmdkError> {
        let zeros = vec![0u8; GRAIN_BYTES];
        let mut grain = vec![0u8; GRAIN_BYTES];
        let (mut offset, mut data) = (0, 0);
        while offset < self.capacity_bytes {
            let end = offset + GRAIN_BYTES as u64;
            if data <= offset {
                data = disk.data_from(offset).map_err(|source| VmdkError::Read { offset, source })?;
            }
            let place = if data >= end {
                0
            } else {
                read_grain(disk, offset, self.capacity_bytes - offset, &mut grain)?;
                if grain == zeros { 0 } else { self.store(offset, &grain)? }
            };
            self.table.push(place);
            offset = end;
            if self.table.len() == GRAINS_PER_TABLE {
                self.end_table(offset)?;
            }
        }
        if !self.table.is_empty() {
            self.end_table(offset)?;
        }
        Ok(())
    }

    /// Writes one grain and returns its sector.
    fn store(&mut self, offset: u64, grain: &[u8]) -> Result<u32, VmdkError> {
        let failed = |reason: &str| VmdkError::Compress { offset, reason: reason.to_owned() };
        let place = self.place(offset)?;
        let lba = offset / SECTOR_BYTES as u64;
        self.content.update(lba.to_le_bytes());
        self.content.update(grain);
        self.stream.clear();
        self.stream.extend_from_slice(&grain_marker(lba, 0));
        let marker_bytes = self.stream.len();
        self.compress.reset();
        match self.compress.compress_vec(grain, &mut self.stream, FlushCompress::Finish) {
            Ok(Status::StreamEnd) => {}
            Ok(status) => return Err(failed(&format!("stopped early, {status:?}"))),
            Err(error) => return Err(failed(&error.to_string())),
        }
        let size = u32::try_from(self.stream.len() - marker_bytes).map_err(|e| failed(&e.to_string()))?;
        self.stream.splice(..marker_bytes, grain_marker(lba, size));
        pad(&mut self.stream);
        self.stored_grains += 1;
        let stream = std::mem::take(&mut self.stream);
        let written = self.write(&stream);
        self.stream = stream;
        written.map(|()| place)
    }

    fn end_table(&mut self, offset: u64) -> Result<(), VmdkError> {
        let place = if self.table.iter().all(|&grain| grain == 0) {
            0
        } else {
            let mut table = std::mem::take(&mut self.table);
            table.resize(GRAINS_PER_TABLE, 0);
            self.write_table(Marker::GrainTable, &table, offset)?
        };
        self.table.clear();
        self.directory.push(place);
        Ok(())
    }

    /// Writes a marker and the sector numbers behind it; returns the sector after the marker.
    fn write_table(&mut self, marker: Marker, entries: &[u32], offset: u64) -> Result<u32, VmdkError> {
        let mut bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        pad(&mut bytes);
        self.write(&marker.encode((bytes.len() / SECTOR_BYTES) as u64))?;
        let place = self.place(offset)?;
        self.write(&bytes)?;
        Ok(place)
    }

    fn finish(mut self, file_name: &str) -> Result<Encoded, VmdkError> {
        let directory = std::mem::take(&mut self.directory);
        let place = self.write_table(Marker::GrainDirectory, &directory, self.capacity_bytes)?;
        let capacity_sectors = self.capacity_bytes / SECTOR_BYTES as u64;
        self.write(&Marker::Footer.encode(1))?;
        self.write(&Header { capacity_sectors, directory_sector: Some(place.into()) }.encode())?;
        self.write(&Marker::EndOfStream.encode(0))?;

        let identity: [u8; 32] = self.content.finalize_reset().into();
        let mut start = Header { capacity_sectors, directory_sector: None }.encode();
        start.extend(Descriptor { capacity_sectors, file_name, identity }.encode());
        start.resize(OVERHEAD_BYTES, 0);
        self.out.rewind().and_then(|()| self.out.write_all(&start)).map_err(VmdkError::Write)?;
        self.out.flush().map_err(VmdkError::Write)?;
        Ok(Encoded {
            capacity_bytes: self.capacity_bytes,
            file_bytes: self.sector * SECTOR_BYTES as u64,
            grains: self.capacity_bytes.div_ceil(GRAIN_BYTES as u64),
            stored_grains: self.stored_grains,
        })
    }

    /// The present sector as tables hold it.
    fn place(&self, offset: u64) -> Result<u32, VmdkError> {
        u32::try_from(self.sector).map_err(|_| VmdkError::Full(offset))
    }

    /// Writes whole sectors.
    fn write(&mut self, bytes: &[u8]) -> Result<(), VmdkError> {
        debug_assert!(bytes.len().is_multiple_of(SECTOR_BYTES));
        self.out.write_all(bytes).map_err(VmdkError::Write)?;
        self.sector += (bytes.len() / SECTOR_BYTES) as u64;
        Ok(())
    }
}

/// Fills `grain` from the disk, and with zeros from where the disk ends.
fn read_grain(disk: &mut impl Disk, offset: u64, left: u64, grain: &mut [u8]) -> Result<(), VmdkError> {
    let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(grain.len());
    let (data, behind) = grain.split_at_mut(wanted);
    behind.fill(0);
    disk.read_from(offset, data).map_err(|source| VmdkError::Read { offset, source })
}

#[cfg(test)]
mod tests;
