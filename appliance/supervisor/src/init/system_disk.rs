//! The system disk's partitions, found by the names that `firmware-config/partitions` gives them: device names vary.

use std::path::{Path, PathBuf};

/// The partition that the node's state is on.
pub(crate) const STATE: &str = "futago-state";
/// The firmware's partition, with the boot loader's menu and environment.
pub(crate) const BOOT: &str = "futago-esp";

/// The block device of the partition `name`; the first one, should there be several.
pub(crate) fn partition(name: &str) -> Option<PathBuf> {
    find(Path::new("/sys/class/block"), name)
}

fn find(class: &Path, name: &str) -> Option<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(class)
        .ok()?
        .flatten()
        .filter(|entry| {
            std::fs::read_to_string(entry.path().join("uevent")).is_ok_and(|text| has_name(&text, name))
        })
        .map(|entry| Path::new("/dev").join(entry.file_name()))
        .collect();
    found.sort();
    found.into_iter().next()
}

fn has_name(uevent: &str, name: &str) -> bool {
    uevent.lines().any(|line| line.strip_prefix("PARTNAME=") == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_found_by_name() {
        let dir = tempfile::tempdir().unwrap();
        for (device, uevent) in [
            ("sda", "MAJOR=8\nDEVTYPE=disk\n"),
            ("sdb4", "DEVTYPE=partition\nPARTN=4\nPARTNAME=futago-state2\n"),
            ("sdb5", "DEVTYPE=partition\nPARTN=5\nPARTNAME=futago-state\n"),
        ] {
            std::fs::create_dir(dir.path().join(device)).unwrap();
            std::fs::write(dir.path().join(device).join("uevent"), uevent).unwrap();
        }
        assert_eq!(find(dir.path(), STATE), Some(PathBuf::from("/dev/sdb5")));
        assert_eq!(find(dir.path(), BOOT), None);
    }

    #[test]
    fn the_names_are_those_of_the_image() {
        let table = include_str!("../../../../firmware-config/partitions");
        let names: Vec<&str> = table
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_whitespace().nth(1))
            .collect();
        assert!(names.contains(&STATE) && names.contains(&BOOT), "{names:?}");
    }
}
