//! The release that was booted, and the boot loader's count of tries.
//!
//! GRUB counts `tries` down each time that it starts a slot which has not proved itself (`firmware-config/grub/grub.cfg`);
//! once the services run, the slot has, and the count is emptied. Nothing here can stop a node: a slot that could
//! not be confirmed is tried again, or left for the other one.

use super::command_line::{Boot, CommandLine};
use super::system_disk;
use anyhow::Context;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

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
    let device = system_disk::partition(system_disk::BOOT).context("the system disk is gone")?;
    std::fs::create_dir_all(MOUNT_POINT).context(MOUNT_POINT)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(&device, MOUNT_POINT, "vfat", flags, c"").with_context(|| device.display().to_string())?;
    let confirmed = confirm_in(&Path::new(MOUNT_POINT).join(ENVIRONMENT), slot);
    unmount(MOUNT_POINT, UnmountFlags::empty()).context(MOUNT_POINT)?;
    confirmed
}

/// GRUB knows the block by its place on the disk: it is written over, never replaced.
fn confirm_in(path: &Path, slot: &str) -> anyhow::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path).context(ENVIRONMENT)?;
    let mut block = vec![0; BLOCK_BYTES];
    file.read_exact_at(&mut block, 0).context(ENVIRONMENT)?;
    let text = String::from_utf8_lossy(&block);
    let Some(changed) = with(&text, &[("slot", slot), ("tries", "")]).context("not an environment block")?
    else {
        return Ok(());
    };
    file.write_all_at(changed.as_bytes(), 0).context(ENVIRONMENT)?;
    file.sync_all().context(ENVIRONMENT)
}

/// The block with these variables; `Some(None)` when it has them so already, `None` when it is none or has no room.
#[expect(clippy::option_option, reason = "no block, and no change, are two things")]
fn with(block: &str, wanted: &[(&str, &str)]) -> Option<Option<String>> {
    let lines: Vec<&str> = block
        .strip_prefix(SIGNATURE)?
        .lines()
        .filter(|line| line.contains('=') && !line.starts_with('#'))
        .collect();
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
