//! Names for disks that stay: the kernel hands `sda`, `sdb` out as disks answer, so that one may be another after the next
//! start. `/dev/disk/by-path` names a disk by controller and address instead, in the words that udev uses:
//!
//! - `pci-0000:03:00.0-scsi-0:0:1:0`: a SCSI disk; host (of this controller, so 0), channel, target, LUN
//! - `pci-0000:00:05.0`: the disk of a controller that has just one (virtio)

use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::Context;

/// Where the names are.
const NAMES: &str = "/dev/disk/by-path";

/// Names the disks that the kernel knows by now.
pub(crate) fn refresh() -> anyhow::Result<()> {
    refresh_in(Path::new("/sys/class/block"), Path::new(NAMES)).with_context(|| NAMES.to_owned())
}

/// The names of the disks that have neither partitions nor a mounted file system, in order: those that are for data. The
/// system disk has partitions; without one, the state disk is mounted.
pub(crate) fn unpartitioned() -> anyhow::Result<Vec<String>> {
    refresh()?;
    let mounts = std::fs::read_to_string("/proc/mounts").context("/proc/mounts")?;
    let disks = unpartitioned_in(Path::new("/sys/class/block"), Path::new(NAMES), &mounts);
    disks.with_context(|| NAMES.to_owned())
}

fn unpartitioned_in(class: &Path, names: &Path, mounts: &str) -> std::io::Result<Vec<String>> {
    let mounted: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').next()).collect();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(names)?.flatten() {
        let device = std::fs::read_link(entry.path())?;
        let Some(kernel_name) = device.file_name() else { continue };
        let Ok(parts) = std::fs::read_dir(class.join(kernel_name)) else { continue };
        let partitioned = parts.flatten().any(|part| part.path().join("partition").exists());
        let in_use = device.to_str().is_some_and(|device| mounted.contains(&device));
        if !partitioned
            && !in_use
            && let Some(path) = entry.path().to_str()
        {
            found.push(path.to_owned());
        }
    }
    found.sort();
    Ok(found)
}

fn refresh_in(class: &Path, names: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(names)?;
    for entry in std::fs::read_dir(class)?.flatten() {
        let Ok(device) = entry.path().canonicalize() else { continue };
        let Some(name) = name_of(&device) else { continue };
        let link = names.join(name);
        let target = Path::new("/dev").join(entry.file_name());
        if std::fs::read_link(&link).is_ok_and(|now| now == target) {
            continue;
        }
        match std::fs::remove_file(&link) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => symlink(&target, &link)?,
        }
    }
    Ok(())
}

/// The name of a whole disk by its place among the kernel's devices; `None` for partitions and for disks on buses that have
/// no such name here.
fn name_of(device: &Path) -> Option<String> {
    let parts: Vec<&str> = device.iter().filter_map(|part| part.to_str()).collect();
    let controller = parts.iter().rposition(|part| is_pci_address(part))?;
    let address = parts.get(controller)?;
    match parts.get(controller + 1..)? {
        // Disks only: `sr0` has an address too.
        [host, _target, scsi, "block", disk] if host.starts_with("host") && disk.starts_with("sd") => {
            let (_, place) = scsi.split_once(':')?;
            Some(format!("pci-{address}-scsi-0:{place}"))
        }
        [virtio, "block", _] if virtio.starts_with("virtio") => Some(format!("pci-{address}")),
        _ => None,
    }
}

/// Whether `part` is a PCI function's address, as `0000:03:00.0`.
fn is_pci_address(part: &str) -> bool {
    let Some((device, function)) = part.rsplit_once('.') else { return false };
    let widths: Vec<usize> = device.split(':').map(str::len).collect();
    let digits = device.chars().chain(function.chars()).all(|c| c == ':' || c.is_ascii_hexdigit());
    digits && function.len() == 1 && matches!(widths.as_slice(), [domain, 2, 2] if *domain >= 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_named_by_controller_and_address() {
        for (device, name) in [
            (
                "/sys/devices/pci0000:00/0000:00:15.0/0000:03:00.0/host2/target2:0:1/2:0:1:0/block/sdb",
                Some("pci-0000:03:00.0-scsi-0:0:1:0"),
            ),
            ("/sys/devices/pci0000:00/0000:00:05.0/virtio2/block/vda", Some("pci-0000:00:05.0")),
            ("/sys/devices/pci0000:00/0000:00:05.0/virtio2/block/vda/vda1", None),
            ("/sys/devices/pci0000:00/0000:00:10.0/host0/target0:0:0/0:0:0:0/block/sda/sda5", None),
            ("/sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda", None),
            ("/sys/devices/pci0000:00/0000:00:10.0/host0/target0:0:1/0:0:1:0/block/sr0", None),
            ("/sys/devices/virtual/block/loop0", None),
        ] {
            assert_eq!(name_of(Path::new(device)).as_deref(), name, "{device}");
        }
    }

    #[test]
    fn a_name_follows_its_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (class, names) = (dir.path().join("class"), dir.path().join("by-path"));
        std::fs::create_dir(&class).unwrap();
        let name = names.join("pci-0000:00:10.0-scsi-0:0:0:0");
        for (now, disk) in ["sda", "sdb"].into_iter().enumerate() {
            let place = format!("0000:00:10.0/host{now}/target{now}:0:0/{now}:0:0:0/block/{disk}");
            let device = dir.path().join(place);
            std::fs::create_dir_all(&device).unwrap();
            symlink(&device, class.join(disk)).unwrap();
            refresh_in(&class, &names).unwrap();
            refresh_in(&class, &names).unwrap();
            assert_eq!(std::fs::read_link(&name).unwrap(), Path::new("/dev").join(disk));
            std::fs::remove_file(class.join(disk)).unwrap();
        }
    }

    #[test]
    fn disks_for_data_have_no_partitions() {
        let dir = tempfile::tempdir().unwrap();
        let (class, names) = (dir.path().join("class"), dir.path().join("by-path"));
        for (id, disk) in [(6, "sda"), (1, "sdb"), (0, "sdc"), (2, "sdd")] {
            let device =
                dir.path().join(format!("0000:00:10.0/host0/target0:0:{id}/0:0:{id}:0/block/{disk}"));
            std::fs::create_dir_all(&device).unwrap();
            std::fs::create_dir_all(&class).unwrap();
            symlink(&device, class.join(disk)).unwrap();
        }
        let partition = class.join("sda/sda1");
        std::fs::create_dir(&partition).unwrap();
        std::fs::write(partition.join("partition"), "1").unwrap();
        refresh_in(&class, &names).unwrap();
        let mounts = "proc /proc proc rw 0 0\n/dev/sdd /var/lib/futago ext4 rw,noatime 0 0\n";
        let found = unpartitioned_in(&class, &names, mounts).unwrap();
        let name =
            |id| names.join(format!("pci-0000:00:10.0-scsi-0:0:{id}:0")).to_string_lossy().into_owned();
        assert_eq!(found, [name(0), name(1)]);
    }
}
