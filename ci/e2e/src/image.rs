//! A file system image full of real files, and the proof that a copy holds them all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::tools::run;

/// An ext4 image and the checksums of the files in it.
#[derive(Debug)]
pub struct Image {
    pub path: PathBuf,
    pub files: BTreeMap<PathBuf, String>,
}

/// Makes an image of `size_mib` MiB from up to `limit_mib` MiB of the cargo registry's sources.
pub fn make(dir: &Path, size_mib: u64, limit_mib: u64) -> Result<Image> {
    let staging = dir.join("origin");
    let copied = stage(&registry()?, &staging, limit_mib << 20)?;
    let files = checksums(&staging)?;
    println!("image: {} files, {} MiB", files.len(), copied >> 20);
    if files.len() < 2000 {
        bail!("only {} source files below {}", files.len(), registry()?.display());
    }
    let path = dir.join("image.raw");
    fs::File::create(&path)?.set_len(size_mib << 20)?;
    run("mke2fs", &["-q", "-t", "ext4", "-d", &staging.to_string_lossy(), &path.to_string_lossy()])?;
    fs::remove_dir_all(&staging)?;
    Ok(Image { path, files })
}

impl Image {
    /// Checks that `copy` is a clean file system with exactly these files.
    pub fn check_copy(&self, copy: &Path) -> Result<()> {
        run("e2fsck", &["-fn", &copy.to_string_lossy()]).context("e2fsck")?;
        let out = copy.with_extension("files");
        let _ = fs::remove_dir_all(&out);
        fs::create_dir_all(&out)?;
        let dump = format!("rdump / {}", out.display());
        run("debugfs", &["-R", &dump, &copy.to_string_lossy()])?;
        let _ = fs::remove_dir_all(out.join("lost+found"));
        let found = checksums(&out)?;
        fs::remove_dir_all(&out)?;
        let differing = self.files.iter().filter(|(name, sum)| found.get(*name) != Some(sum)).count();
        if differing > 0 || found.len() != self.files.len() {
            bail!("{differing} of {} files differ; {} found", self.files.len(), found.len());
        }
        Ok(())
    }
}

fn registry() -> Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    Ok(home.join("registry/src"))
}

/// Copies regular files until `limit_bytes` is reached.
fn stage(from: &Path, to: &Path, limit_bytes: u64) -> Result<u64> {
    let mut copied = 0;
    let mut pending = vec![from.to_owned()];
    while let Some(dir) = pending.pop() {
        let mut entries: Vec<_> = fs::read_dir(&dir)?.collect::<std::io::Result<_>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let kind = entry.file_type()?;
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() {
                let target = to.join(entry.path().strip_prefix(from)?);
                fs::create_dir_all(target.parent().context("no parent")?)?;
                copied += fs::copy(entry.path(), target)?;
                if copied >= limit_bytes {
                    return Ok(copied);
                }
            }
        }
    }
    Ok(copied)
}

/// SHA-256 of every regular file below `root`.
fn checksums(root: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut sums = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            } else {
                let sum = hex::encode(Sha256::digest(fs::read(entry.path())?));
                sums.insert(entry.path().strip_prefix(root)?.to_owned(), sum);
            }
        }
    }
    Ok(sums)
}
