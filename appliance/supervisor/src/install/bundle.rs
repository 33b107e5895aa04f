//! A bundle as a file.
//!
//! Invariant: a [`Bundle`] has had its signature, its length and both checksums looked at.

use anyhow::{Context, bail};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use update::{HEADER_BYTES, Header, Part, PublicKey, Sha256, verify};

/// How much is in memory at a time.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// One that may be believed.
#[derive(Debug)]
pub(super) struct Bundle {
    pub(super) header: Header,
    file: File,
}

impl Bundle {
    /// Opens and checks the file at `path`.
    pub(super) fn open(path: &Path, keys: &[PublicKey]) -> anyhow::Result<Self> {
        let file = File::open(path).context("the update can't be read")?;
        let mut first = Vec::with_capacity(HEADER_BYTES);
        (&file).take(HEADER_BYTES as u64).read_to_end(&mut first).context("the update can't be read")?;
        let header = verify(&first, keys)?;
        let len_bytes = file.metadata().context("the update can't be read")?.len();
        if len_bytes != header.bundle_bytes() {
            bail!("the update is not whole: it has {len_bytes} bytes instead of {}", header.bundle_bytes());
        }
        let bundle = Self { header, file };
        for (name, part) in [("kernel", bundle.kernel()), ("initramfs", bundle.initramfs())] {
            let mut sha256 = Sha256::new();
            part.each_chunk(|chunk| {
                sha256.update(chunk);
                Ok(())
            })?;
            if sha256.finish() != part.part.sha256 {
                bail!("the update is damaged: its {name} is not the one that was signed");
            }
        }
        Ok(bundle)
    }

    /// The kernel in it.
    pub(super) fn kernel(&self) -> Content<'_> {
        Content { file: &self.file, at: HEADER_BYTES as u64, part: self.header.kernel }
    }

    /// The initramfs in it.
    pub(super) fn initramfs(&self) -> Content<'_> {
        let at = (HEADER_BYTES as u64).saturating_add(self.header.kernel.len_bytes);
        Content { file: &self.file, at, part: self.header.initramfs }
    }
}

/// Kernel or initramfs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content<'a> {
    file: &'a File,
    at: u64,
    pub(super) part: Part,
}

impl Content<'_> {
    /// Its bytes in order, [`CHUNK_BYTES`] or fewer at a time.
    pub(super) fn each_chunk(&self, mut take: impl FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut memory = vec![0; CHUNK_BYTES];
        let (mut at, mut left) = (self.at, self.part.len_bytes);
        while left > 0 {
            let len = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let chunk = memory.get_mut(..len).unwrap_or_default();
            self.file.read_exact_at(chunk, at).context("the update can't be read")?;
            take(chunk)?;
            at = at.saturating_add(len as u64);
            left = left.saturating_sub(len as u64);
        }
        Ok(())
    }
}

/// The keys of the file at `path`.
pub(super) fn keys(path: &Path) -> anyhow::Result<Vec<PublicKey>> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("this image holds no key to check updates with ({}), so it takes none", path.display())
    })?;
    PublicKey::parse_file(&text).with_context(|| path.display().to_string())
}
