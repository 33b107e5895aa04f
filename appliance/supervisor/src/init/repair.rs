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

/// How much of a partition has to be zeroes for it to be a new one: the super block, the group descriptors and the first
/// inodes are in it.
const EMPTY_BYTES: usize = 1 << 20;
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
    make(device)?;
    Ok(Condition::Recreated)
}

/// Every block of it can be read.
fn read_through(device: &Path) -> std::io::Result<()> {
    let mut file = File::open(device)?;
    let mut piece = vec![0; EMPTY_BYTES];
    while file.read(&mut piece)? > 0 {}
    Ok(())
}

fn is_empty(device: &Path) -> std::io::Result<bool> {
    let mut start = vec![0; EMPTY_BYTES];
    File::open(device)?.read_exact_at(&mut start, 0)?;
    Ok(start.iter().all(|byte| *byte == 0))
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
        assert_eq!(prepare(&disk).unwrap(), Condition::Repaired, "from another super block");
        assert_eq!(content(&disk, "identity"), "me");
        assert_eq!(prepare(&disk).unwrap(), Condition::Clean);

        overwrite(&disk, 0, 512 << 20);
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
