//! The release that was booted, and the boot loader's count of tries.
//!
//! GRUB counts `tries` down each time that it starts a slot which has not proved itself (`firmware-config/grub/grub.cfg`);
//! once it has ([`super::proof`]) the count is emptied. Nothing here can stop a node: a slot that could
//! not be confirmed is tried again, or left for the other one.

use super::command_line::{Boot, CommandLine};
use super::system_disk;
use anyhow::Context;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Where the firmware's partition is mounted while it is written to.
const MOUNT_POINT: &str = "/run/futago-esp";
/// GRUB's environment block on it.
const ENVIRONMENT: &str = "boot/grub/grubenv";
/// An environment block is this long, filled up with `#` (GRUB's `lib/envblk.c`).
const BLOCK_BYTES: usize = 1024;
const SIGNATURE: &str = "# GRUB Environment Block\n";

/// What the console says about the slot.
pub(crate) fn welcome(command_line: &CommandLine) -> Option<String> {
    let slot = command_line.slot.as_deref()?;
    match command_line.boot {
        Boot::Normal => None,
        Boot::Fallback => Some(format!("The other release did not come up. This is the one in slot {slot}.")),
        Boot::Manual => Some(format!("This is the release in slot {slot}, for this start only.")),
    }
}

/// Tells the boot loader that the running slot works. Without a slot, the machine was not started from a system disk.
pub(crate) fn confirm(command_line: &CommandLine) -> anyhow::Result<()> {
    let Some(slot) = command_line.slot.as_deref().filter(|_| command_line.boot != Boot::Manual) else {
        return Ok(());
    };
    with_environment(|path| {
        // What an update has set since is for the next start.
        if CHANGED.load(Ordering::SeqCst) {
            Ok(())
        } else {
            change_in(path, &[("slot", slot), ("tries", "")])
        }
    })
}

/// An update has set variables since this start.
static CHANGED: AtomicBool = AtomicBool::new(false);

/// Sets variables of the boot loader, for an update.
pub(crate) fn change(variables: &[(&str, &str)]) -> anyhow::Result<()> {
    with_environment(|path| {
        CHANGED.store(true, Ordering::SeqCst);
        change_in(path, variables)
    })
}

/// The boot loader's variables.
pub(crate) fn variables() -> anyhow::Result<BTreeMap<String, String>> {
    with_environment(|path| {
        let block = read_block(&OpenOptions::new().read(true).open(path).context(ENVIRONMENT)?)?;
        let pairs = lines(&block).context("not an environment block")?;
        Ok(pairs.filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    })
}

/// Mounts the firmware's partition and hands the path of the environment block on; one at a time.
fn with_environment<T>(work: impl FnOnce(&Path) -> anyhow::Result<T>) -> anyhow::Result<T> {
    static MOUNT: Mutex<()> = Mutex::new(());
    let _mount = MOUNT.lock().unwrap_or_else(PoisonError::into_inner);
    let device = system_disk::partition(system_disk::BOOT).context("the system disk is gone")?;
    std::fs::create_dir_all(MOUNT_POINT).context(MOUNT_POINT)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(&device, MOUNT_POINT, "vfat", flags, c"").with_context(|| device.display().to_string())?;
    let done = work(&Path::new(MOUNT_POINT).join(ENVIRONMENT));
    unmount(MOUNT_POINT, UnmountFlags::empty()).context(MOUNT_POINT)?;
    done
}

fn read_block(file: &File) -> anyhow::Result<String> {
    let mut block = vec![0; BLOCK_BYTES];
    file.read_exact_at(&mut block, 0).context(ENVIRONMENT)?;
    Ok(String::from_utf8_lossy(&block).into_owned())
}

/// GRUB knows the block by its place on the disk: it is written over, never replaced.
fn change_in(path: &Path, variables: &[(&str, &str)]) -> anyhow::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path).context(ENVIRONMENT)?;
    let text = read_block(&file)?;
    let Some(changed) = with(&text, variables).context("not an environment block, or one without room")?
    else {
        return Ok(());
    };
    file.write_all_at(changed.as_bytes(), 0).context(ENVIRONMENT)?;
    file.sync_all().context(ENVIRONMENT)
}

/// The lines with a variable; `None` when the block is none.
fn lines(block: &str) -> Option<impl Iterator<Item = &str>> {
    let rest = block.strip_prefix(SIGNATURE)?;
    Some(rest.lines().filter(|line| line.contains('=') && !line.starts_with('#')))
}

/// The block with these variables; `Some(None)` when it has them so already, `None` when it is none or has no room.
#[expect(clippy::option_option, reason = "no block, and no change, are two things")]
fn with(block: &str, wanted: &[(&str, &str)]) -> Option<Option<String>> {
    let lines: Vec<&str> = lines(block)?.collect();
    let name_of = |line: &str| line.split_once('=').map(|(name, _)| name.to_owned());
    let value_of =
        |wanted: &str| lines.iter().find_map(|line| line.split_once('=').filter(|(name, _)| *name == wanted));
    if wanted.iter().all(|(name, value)| value_of(name).map_or("", |(_, now)| now) == *value) {
        return Some(None);
    }
    let mut changed = SIGNATURE.to_owned();
    for line in
        lines.iter().filter(|line| wanted.iter().all(|(name, _)| name_of(line).as_deref() != Some(name)))
    {
        changed.push_str(line);
        changed.push('\n');
    }
    for (name, value) in wanted {
        changed.push_str(&format!("{name}={value}\n"));
    }
    let room = BLOCK_BYTES.checked_sub(changed.len())?;
    changed.push_str(&"#".repeat(room));
    Some(Some(changed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(lines: &str) -> String {
        let mut block = format!("{SIGNATURE}{lines}");
        block.push_str(&"#".repeat(BLOCK_BYTES - block.len()));
        block
    }

    fn confirm_in(path: &Path, slot: &str) -> anyhow::Result<()> {
        change_in(path, &[("slot", slot), ("tries", "")])
    }

    #[test]
    fn a_slot_on_trial_is_confirmed_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grubenv");
        std::fs::write(&path, block("slot=b\ntries=2\nwords=futago.log=console\n")).unwrap();
        confirm_in(&path, "b").unwrap();
        let expected = block("words=futago.log=console\nslot=b\ntries=\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        let written = std::fs::metadata(&path).unwrap().modified().unwrap();
        confirm_in(&path, "b").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), written, "nothing to change");
        confirm_in(&path, "a").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected.replace("slot=b", "slot=a"));
    }

    #[test]
    fn what_is_no_block_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grubenv");
        for content in ["slot=a\n".to_owned(), "x".repeat(BLOCK_BYTES)] {
            std::fs::write(&path, &content).unwrap();
            assert!(confirm_in(&path, "a").is_err());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        let full = block(&format!("words={}\n", "x".repeat(BLOCK_BYTES - SIGNATURE.len() - 7)));
        assert_eq!(with(&full, &[("slot", "a"), ("tries", "")]), None);
    }
}
