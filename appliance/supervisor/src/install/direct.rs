//! A block device read past all caches, as a stream with a position: what comes is what the medium holds.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Memory and offsets are aligned to this.
const ALIGNMENT: usize = 4096;
/// How much is read at a time.
const WINDOW_BYTES: usize = 256 << 10;
/// The file system's tables and the data are read in turn.
const WINDOWS: usize = 4;

/// A stretch of the device in memory.
#[derive(Debug)]
struct Window {
    at: u64,
    len: usize,
    memory: Vec<u8>,
}

impl Window {
    /// Reads the stretch at `at`; what is behind the device's end is not there.
    fn fill(mut memory: Vec<u8>, file: &File, at: u64) -> io::Result<Self> {
        let aligned = aligned(&mut memory);
        let mut len = 0;
        while let Some(rest) = aligned.get_mut(len..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, at.saturating_add(len as u64))? {
                0 => break,
                count => len = len.saturating_add(count),
            }
        }
        Ok(Self { at, len, memory })
    }

    /// Its bytes from `position` on.
    fn from(&mut self, position: u64) -> Option<&[u8]> {
        let offset = usize::try_from(position.checked_sub(self.at)?).ok()?;
        let len = self.len;
        aligned(&mut self.memory).get(offset..len).filter(|bytes| !bytes.is_empty())
    }
}

fn aligned(memory: &mut [u8]) -> &mut [u8] {
    let offset = memory.as_ptr().align_offset(ALIGNMENT);
    memory.get_mut(offset..).and_then(|memory| memory.get_mut(..WINDOW_BYTES)).unwrap_or_default()
}

/// The device.
#[derive(Debug)]
pub(super) struct Direct {
    file: File,
    position: u64,
    /// The last used is the last.
    windows: Vec<Window>,
}

impl Direct {
    /// Opens the device at `path`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap_or(0);
        Ok(Self::over(OpenOptions::new().read(true).custom_flags(direct).open(path)?))
    }

    /// Over a file that is open.
    pub(super) fn over(file: File) -> Self {
        Self { file, position: 0, windows: Vec::new() }
    }

    /// The window that holds the position, as the last one.
    fn window(&mut self) -> io::Result<Option<&mut Window>> {
        let at = self.position - self.position % WINDOW_BYTES as u64;
        let window = match self.windows.iter().position(|window| window.at == at) {
            Some(index) => self.windows.remove(index),
            None => {
                let oldest = (self.windows.len() >= WINDOWS).then(|| self.windows.remove(0).memory);
                let memory = oldest.unwrap_or_else(|| vec![0; WINDOW_BYTES + ALIGNMENT]);
                Window::fill(memory, &self.file, at)?
            }
        };
        self.windows.push(window);
        Ok(self.windows.last_mut())
    }
}

impl Read for Direct {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let position = self.position;
        let Some(bytes) = self.window()?.and_then(|window| window.from(position)) else { return Ok(0) };
        let len = bytes.len().min(out.len());
        for (to, from) in out.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.position = position.saturating_add(len as u64);
        Ok(len)
    }
}

impl Seek for Direct {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => (&self.file).seek(SeekFrom::End(0))?.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

impl Write for Direct {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_position_reads_as_the_file_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device");
        let content: Vec<u8> =
            (0..2 * WINDOW_BYTES + 5000).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
        std::fs::write(&path, &content).unwrap();
        let mut direct = Direct::over(File::open(&path).unwrap());
        for at in [0, 1, 4095, WINDOW_BYTES - 3, WINDOW_BYTES, 2 * WINDOW_BYTES + 4000, 7, content.len()] {
            direct.seek(SeekFrom::Start(at as u64)).unwrap();
            let mut read = vec![0; 6000.min(content.len() - at)];
            direct.read_exact(&mut read).unwrap();
            assert!(read == content[at..at + read.len()], "at {at}");
        }
        assert_eq!(direct.read(&mut [0; 9]).unwrap(), 0, "the end");
        assert_eq!(direct.seek(SeekFrom::End(-1)).unwrap(), content.len() as u64 - 1);
        assert!(direct.seek(SeekFrom::Current(i64::MIN)).is_err());
        assert!(direct.write(b"x").is_err());
        assert!(direct.windows.len() <= WINDOWS);
    }
}
