//! The state disk: the system disk's partition named `futago-state`, which is prepared as it needs ([`repair`]); or, on a
//! machine without a system disk, an ext4 file system labelled `futago-state`, on whichever block device it is.

use super::{mounts, repair, state_watch, system_disk};
use ::control::paths;
use anyhow::Context;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Label of the file system.
const LABEL: &[u8] = b"futago-state";
/// Offset of the ext4 super block (kernel documentation, filesystems/ext4/globals).
const SUPER_BLOCK: u64 = 1024;
const MAGIC_AT: usize = 0x38;
const MAGIC: [u8; 2] = [0x53, 0xef];
const LABEL_AT: usize = 0x78;
const LABEL_BYTES: usize = 16;

/// Mounts the state disk at `dir`, waiting up to `patience` for it; says what people must know of how it was found. Without one (or with `None`) the state is kept in memory: the machine works, and forgets everything when it
/// is switched off.
///
/// # Errors
/// There is a state disk, and it can't be used now; nothing is mounted. A node that went on without it would be another one, under the same name.
pub(crate) fn mount_state(dir: &Path, patience: Option<Duration>) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("{}", dir.display()))?;
    if let Some(found) = patience.and_then(wait_for_disk) {
        let device = match found {
            Found::Partition(device) => {
                // At once: should it not be mounted now, it is found in order the next time.
                if let Some(news) = repair::prepare(&device)?.news() {
                    super::show(news);
                }
                device
            }
            Found::Labelled(device) => device,
        };
        let flags = MountFlags::NOATIME | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount(&device, dir, "ext4", flags, c"").with_context(|| format!("{}", device.display()))?;
        if let Err(error) = mount_run(dir, flags) {
            unmount(dir, UnmountFlags::DETACH).with_context(|| format!("{}", dir.display()))?;
            return Err(error);
        }
        // The node works without.
        if let Err(error) = state_watch::start(&device, dir) {
            super::say(&format!("futago: could not watch the state disk: {error:#}"));
        }
        return Ok(());
    }
    mount_memory(dir)?;
    if patience.is_some() {
        super::show("There is no state disk: settings and identity will be lost at power-off.");
    }
    Ok(())
}

/// Sockets stay when the disk goes.
fn mount_run(dir: &Path, flags: MountFlags) -> anyhow::Result<()> {
    let run = dir.join(paths::RUN_DIR);
    let made = std::fs::create_dir_all(&run).with_context(|| format!("{}", run.display()));
    made.and_then(|()| {
        mount(mounts::IN_STATE, &run, "tmpfs", flags, c"mode=0700,size=4m")
            .with_context(|| format!("{}", run.display()))
    })
}

/// A disk that the state is, or is to be, on.
enum Found {
    /// The system disk's partition, in whatever condition.
    Partition(PathBuf),
    /// A file system with the label.
    Labelled(PathBuf),
}

fn mount_memory(dir: &Path) -> anyhow::Result<()> {
    Ok(mount("tmpfs", dir, "tmpfs", MountFlags::NOSUID, c"mode=0700,size=64m")?)
}

/// The system disk's partition; else the disk with the label.
fn wait_for_disk(patience: Duration) -> Option<Found> {
    let deadline = Instant::now() + patience;
    loop {
        let labelled = || block_devices().into_iter().find(|device| has_label(device)).map(Found::Labelled);
        let partition = system_disk::partition(system_disk::STATE).map(Found::Partition);
        let found = partition.or_else(labelled);
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn block_devices() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir("/sys/class/block") else { return Vec::new() };
    let mut devices: Vec<PathBuf> =
        entries.flatten().map(|entry| Path::new("/dev").join(entry.file_name())).collect();
    devices.sort();
    devices
}

/// A device that can't be read has no label.
fn has_label(device: &Path) -> bool {
    let mut block = [0; LABEL_AT + LABEL_BYTES];
    let read = File::open(device).and_then(|file| file.read_exact_at(&mut block, SUPER_BLOCK));
    read.is_ok() && label(&block) == Some(LABEL)
}

/// The label of an ext4 super block.
fn label(super_block: &[u8]) -> Option<&[u8]> {
    if super_block.get(MAGIC_AT..MAGIC_AT + MAGIC.len())? != MAGIC {
        return None;
    }
    super_block.get(LABEL_AT..LABEL_AT + LABEL_BYTES)?.split(|byte| *byte == 0).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_file_system_is_known_by_its_label() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        File::create(&disk).unwrap().set_len(4 << 20).unwrap();
        assert!(!has_label(&disk));
        for (wanted, expected) in [("futago-state", true), ("futago-state2", false), ("other", false)] {
            let made = Command::new("/sbin/mke2fs")
                .args(["-q", "-F", "-t", "ext4", "-L", wanted])
                .arg(&disk)
                .status();
            assert!(made.unwrap().success());
            assert_eq!(has_label(&disk), expected, "{wanted}");
        }
        assert!(!has_label(Path::new("/nonexistent")));
    }
}
