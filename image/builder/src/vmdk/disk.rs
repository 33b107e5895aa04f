//! Where the raw disk comes from.

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A raw disk, read once from front to back.
pub trait Disk {
    /// The first byte at or behind `offset` that may be other than zero, `u64::MAX` if there is none. May be too early.
    ///
    /// # Errors
    /// The disk can't be read.
    fn data_from(&mut self, offset: u64) -> io::Result<u64>;

    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors
    /// The disk can't be read, or ends before.
    fn read_from(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
}

impl Disk for File {
    /// Holes are not read: through the page cache a large sparse disk would take minutes.
    fn data_from(&mut self, offset: u64) -> io::Result<u64> {
        match rustix::fs::seek(&*self, SeekFrom::Data(offset)) {
            Ok(data) => Ok(data),
            Err(Errno::NXIO) => Ok(u64::MAX),
            // Block devices and some file systems can't tell.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(offset),
            Err(error) => Err(error.into()),
        }
    }

    fn read_from(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }
}

/// A disk in memory; it has no holes.
impl Disk for &[u8] {
    fn data_from(&mut self, offset: u64) -> io::Result<u64> {
        Ok(offset)
    }

    fn read_from(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(bytes.len());
        let data = self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(data);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_tells_its_holes_or_nothing() {
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(&[1; 4096], 32 << 20).unwrap();
        let data = file.data_from(0).unwrap();
        assert!(data <= 32 << 20, "not behind the data");
        assert_eq!(file.data_from((32 << 20) + 100).unwrap(), (32 << 20) + 100, "within the data");
        let behind = file.data_from(48 << 20).unwrap();
        assert!(behind == u64::MAX || behind == 48 << 20, "none, or it can't tell");
        assert!(file.read_from((64 << 20) - 1, &mut [0; 2]).is_err());
    }
}
