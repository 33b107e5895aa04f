//! The kernel's file systems, and the end of all of them.

use anyhow::bail;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use std::ffi::CString;

struct Mount {
    kind: &'static str,
    at: &'static str,
    flags: MountFlags,
    options: &'static str,
}

/// The name that a file system in memory has whose mount point is on the state disk.
pub(crate) const IN_STATE: &str = "futago-run";

const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// In this order.
const MOUNTS: &[Mount] = &[
    Mount { kind: "proc", at: "/proc", flags: SAFE, options: "" },
    Mount { kind: "sysfs", at: "/sys", flags: SAFE, options: "" },
    Mount { kind: "devtmpfs", at: "/dev", flags: MountFlags::NOSUID, options: "mode=0755" },
    Mount { kind: "devpts", at: "/dev/pts", flags: MountFlags::NOSUID, options: "mode=0620,ptmxmode=0666" },
    Mount { kind: "tmpfs", at: "/run", flags: SAFE, options: "mode=0755,size=16m" },
    Mount { kind: "tmpfs", at: "/tmp", flags: SAFE, options: "mode=1777,size=64m" },
    Mount { kind: "cgroup2", at: "/sys/fs/cgroup", flags: SAFE, options: "" },
];

/// Mounts what is not mounted yet, also after a failure.
pub(crate) fn mount_all() -> anyhow::Result<()> {
    let failures: Vec<String> = MOUNTS
        .iter()
        .filter_map(|entry| mount_one(entry).err().map(|error| format!("{}: {error}", entry.at)))
        .collect();
    if failures.is_empty() { Ok(()) } else { bail!(failures.join(", ")) }
}

fn mount_one(entry: &Mount) -> std::io::Result<()> {
    std::fs::create_dir_all(entry.at)?;
    let options = CString::new(entry.options)?;
    match mount(entry.kind, entry.at, entry.kind, entry.flags, options.as_c_str()) {
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Writes everything out and unmounts what holds data. What can't be unmounted is made read-only.
pub(crate) fn unmount_all() {
    rustix::fs::sync();
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    for target in disk_mounts(&mounts).into_iter().rev() {
        match unmount(target, UnmountFlags::empty()) {
            // Whoever had mounted it for a moment was quicker.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(_) => {
                if let Err(error) = mount_remount(target, MountFlags::RDONLY, "") {
                    super::say(&format!("futago: {target} is still mounted: {error}"));
                }
            }
        }
    }
    rustix::fs::sync();
}

/// Mount points of block devices, and what is mounted inside of them, in the order of mounting.
fn disk_mounts(mounts: &str) -> Vec<&str> {
    let target = |line| {
        let (source, rest) = str::split_once(line, ' ')?;
        let (target, _) = rest.split_once(' ')?;
        (source.starts_with("/dev/") || source == IN_STATE).then_some(target)
    };
    mounts.lines().filter_map(target).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_disks_are_unmounted() {
        let mounts = "rootfs / rootfs rw 0 0\ndevtmpfs /dev devtmpfs rw 0 0\n/dev/vda /var/lib/futago ext4 rw 0 0\n\
                      futago-run /var/lib/futago/run tmpfs rw 0 0\n";
        assert_eq!(disk_mounts(mounts), ["/var/lib/futago", "/var/lib/futago/run"]);
    }
}
