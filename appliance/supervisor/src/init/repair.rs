//! Makes the state partition fit to be mounted: the first boot finds it empty, a crash leaves a journal, a fault of the
//! storage below it leaves anything.
//!
//! # Invariants
//!
//! - A file system is made only where there is none that e2fsck can bring in order, and nowhere after a failed read:
//!   the node's identity lies there.
//! - What was lost is said. A node without its identity is a new one; its peer does not know it until it is paired anew.

use anyhow::{Context, bail};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// How much is read at a time.
const PIECE_BYTES: usize = 1 << 20;
/// Where super blocks are (kernel documentation, filesystems/ext4): in the first group, and copies at the start of some
/// others; a group has eight times as many blocks as a block has bytes.
const SUPER_BLOCK: u64 = 1024;
const COPIES_IN_GROUPS: [u64; 5] = [1, 3, 5, 7, 9];
const BLOCK_SIZES: [u64; 3] = [1024, 2048, 4096];
const MAGIC_AT: u64 = 0x38;
const MAGIC: [u8; 2] = [0x53, 0xef];
/// Exit status of e2fsck (its manual page, EXIT CODE): errors were corrected; anything from here on means that they
/// were not.
const UNCORRECTED: i32 = 4;

/// How the partition was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Clean,
    /// Empty: a file system was made.
    New,
    /// e2fsck has brought it in order by itself, which may have cost files.
    Repaired,
    /// Nothing could be saved: a file system was made.
    Recreated,
}

impl Condition {
    /// What the console says.
    pub(crate) fn news(self) -> Option<&'static str> {
        match self {
            Self::Clean => None,
            Self::New => Some("The state disk is new: a file system was made on it."),
            Self::Repaired => Some("The state disk was damaged and has been repaired; files may be missing."),
            Self::Recreated => Some(
                "The state disk was damaged beyond repair and has been made anew. This node has lost its settings and its \
                 identity: it must be set up and paired again.",
            ),
        }
    }
}

/// Prepares `device` for mounting.
pub(crate) fn prepare(device: &Path) -> anyhow::Result<Condition> {
    if is_empty(device).with_context(|| format!("read {}", device.display()))? {
        make(device)?;
        return Ok(Condition::New);
    }
    // Replays the journal and corrects what is safe to correct; nothing more on most boots.
    if check(device, "-p")? < UNCORRECTED {
        return Ok(Condition::Clean);
    }
    if check(device, "-y")? < UNCORRECTED {
        return Ok(Condition::Repaired);
    }
    // e2fsck has one status for a file system that is none and for all that it could not do.
    read_through(device).with_context(|| format!("read {}", device.display()))?;
    if check(device, "-y")? < UNCORRECTED {
        return Ok(Condition::Repaired);
    }
    // A disk that takes no writes can't be repaired, and would take those of a new file system no better.
    if holds_super_block(device)? {
        bail!("e2fsck could not bring {} in order, and a file system is left on it", device.display());
    }
    make(device)?;
    Ok(Condition::Recreated)
}

fn holds_super_block(device: &Path) -> anyhow::Result<bool> {
    let file = File::open(device).with_context(|| device.display().to_string())?;
    // Blocks of 1 KiB are counted from the second one.
    let copy = |size: u64, group: u64| group * 8 * size * size + if size == 1024 { size } else { 0 };
    let copies = BLOCK_SIZES.iter().flat_map(|size| COPIES_IN_GROUPS.map(|group| copy(*size, group)));
    Ok(std::iter::once(SUPER_BLOCK).chain(copies).any(|at| {
        let mut magic = [0; MAGIC.len()];
        file.read_exact_at(&mut magic, at + MAGIC_AT).is_ok() && magic == MAGIC
    }))
}

/// Every block of it can be read.
fn read_through(device: &Path) -> std::io::Result<()> {
    let mut file = File::open(device)?;
    let mut piece = vec![0; PIECE_BYTES];
    while file.read(&mut piece)? > 0 {}
    Ok(())
}

/// Nothing but zeroes: of a file system that has lost its beginning there are copies behind it.
fn is_empty(device: &Path) -> std::io::Result<bool> {
    let mut file = File::open(device)?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = file.read(&mut piece)?;
        let read = piece.get(..count).unwrap_or_default();
        if read.is_empty() || read.iter().any(|byte| *byte != 0) {
            return Ok(read.is_empty());
        }
    }
}

fn check(device: &Path, how: &str) -> anyhow::Result<i32> {
    let status = Command::new("/sbin/e2fsck")
        .arg(how)
        .arg(device)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.context("/sbin/e2fsck")?.code().context("/sbin/e2fsck was killed")
}

fn make(device: &Path) -> anyhow::Result<()> {
    let output = Command::new("/sbin/mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-L", "futago-state"])
        .arg(device)
        .output();
    let output = output.context("/sbin/mke2fs")?;
    if !output.status.success() {
        bail!("/sbin/mke2fs: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is in the file, by debugfs.
    fn content(disk: &Path, name: &str) -> String {
        let output = Command::new("/sbin/debugfs").args(["-R", &format!("cat {name}")]).arg(disk).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    fn overwrite(disk: &Path, from: u64, to: u64) {
        let file = File::options().write(true).open(disk).unwrap();
        for at in (from..to).step_by(4096) {
            file.write_all_at(&[0xa5; 4096], at).unwrap();
        }
    }

    #[test]
    fn an_empty_partition_is_made_a_damaged_one_repaired_a_lost_one_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        File::create(&disk).unwrap().set_len(512 << 20).unwrap();
        assert_eq!(prepare(&disk).unwrap(), Condition::New);
        assert_eq!(prepare(&disk).unwrap(), Condition::Clean);

        let identity = dir.path().join("identity");
        std::fs::write(&identity, "me").unwrap();
        let write = format!("write {} identity", identity.display());
        assert!(
            Command::new("/sbin/debugfs")
                .args(["-w", "-R", &write])
                .arg(&disk)
                .output()
                .unwrap()
                .status
                .success()
        );
        assert_eq!(prepare(&disk).unwrap(), Condition::Clean);

        overwrite(&disk, 0, 4096);
        assert!(holds_super_block(&disk).unwrap(), "a copy");
        assert_eq!(prepare(&disk).unwrap(), Condition::Repaired, "from another super block");
        assert_eq!(content(&disk, "identity"), "me");
        assert_eq!(prepare(&disk).unwrap(), Condition::Clean);

        // A hole where the beginning was is no new disk.
        File::options().write(true).open(&disk).unwrap().write_all_at(&[0; 32 << 10], 0).unwrap();
        assert_eq!(prepare(&disk).unwrap(), Condition::Repaired);
        assert_eq!(content(&disk, "identity"), "me");

        overwrite(&disk, 0, 512 << 20);
        assert!(!holds_super_block(&disk).unwrap());
        assert_eq!(prepare(&disk).unwrap(), Condition::Recreated);
        assert_eq!(content(&disk, "identity"), "");
        assert_eq!(prepare(&disk).unwrap(), Condition::Clean);
    }

    #[test]
    fn what_can_not_be_read_is_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        assert!(prepare(&disk).is_err());
        std::fs::write(&disk, "short").unwrap();
        assert!(prepare(&disk).is_err());
        assert_eq!(std::fs::read(&disk).unwrap(), b"short");
    }
}
