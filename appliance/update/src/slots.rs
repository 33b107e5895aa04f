//! The system disk's two slots, and what GRUB's environment block says of them (docs/image.md, `firmware-config`).
//!
//! # Order of an installation
//!
//! 1. [`keep`]: the running slot is the one to start, without a trial, and the other one holds nothing that is known.
//! 2. The other slot is wiped, filled and read back; its files get their names last ([`KERNEL`] after [`INITRAMFS`]), so that a
//!    slot that is half written has nothing that GRUB could start.
//! 3. [`start_next`]: the other slot is the one to start, on trial.
//!
//! A power cut before 3 starts the running slot; one after 3 the new release.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use semver::Version;

/// Size of a slot's partition.
pub const SLOT_BYTES: u64 = 64 << 20;
/// What kernel and initramfs may have together: the rest is for the file system's own tables.
pub const MOST_BYTES: u64 = SLOT_BYTES - (1 << 20);
/// Starts of a new release before the other one is taken for good.
pub const TRIES: u32 = 3;
/// A slot's files, as GRUB's menu names them.
pub const KERNEL: &str = "kernel";
/// See [`KERNEL`].
pub const INITRAMFS: &str = "initramfs";

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Partition `futago-a`.
    A,
    /// Partition `futago-b`.
    B,
}

impl Slot {
    /// From GRUB's letter.
    #[must_use]
    pub fn parse(letter: &str) -> Option<Self> {
        match letter {
            "a" => Some(Self::A),
            "b" => Some(Self::B),
            _ => None,
        }
    }

    /// GRUB's letter.
    #[must_use]
    pub const fn letter(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// The partition's name.
    #[must_use]
    pub const fn partition(self) -> &'static str {
        match self {
            Self::A => "futago-a",
            Self::B => "futago-b",
        }
    }

    /// The one that is not this one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// The variable with the version that was installed into it; empty while it is written, absent since deployment.
    #[must_use]
    pub const fn release_variable(self) -> &'static str {
        match self {
            Self::A => "release_a",
            Self::B => "release_b",
        }
    }
}

/// Variables of the environment block.
pub type Variables = Vec<(&'static str, String)>;

/// Before the other slot than `running`, with the release `version`, is touched.
#[must_use]
pub fn keep(running: Slot, version: &Version) -> Variables {
    [
        ("slot", running.letter().to_string()),
        ("tries", String::new()),
        (running.release_variable(), version.to_string()),
        (running.other().release_variable(), String::new()),
    ]
    .into()
}

/// Once the other slot than `running` holds all of the release `version`.
#[must_use]
pub fn start_next(running: Slot, version: &Version) -> Variables {
    let next = running.other();
    [
        ("slot", next.letter().to_string()),
        ("tries", TRIES.to_string()),
        (next.release_variable(), version.to_string()),
    ]
    .into()
}

/// What the other slot than `running`, with the release `version`, holds, by its variable in the environment block; `None`: an
/// installation that was not finished.
#[must_use]
pub fn idle_release(variable: Option<&str>, version: &Version) -> Option<String> {
    match variable {
        // As it was deployed: both hold the same.
        None => Some(version.to_string()),
        Some(text) => text.parse::<Version>().ok().map(|version| version.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value<'a>(variables: &'a Variables, name: &str) -> Option<&'a str> {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| &**value)
    }

    #[test]
    fn a_slot_is_tried_only_when_it_is_whole() {
        let (old, new) = (Version::new(0, 1, 0), Version::new(0, 2, 0));
        for running in [Slot::A, Slot::B] {
            let other = running.other();
            let before = keep(running, &old);
            assert_eq!((value(&before, "slot"), value(&before, "tries")), (Some(running.letter()), Some("")));
            assert_eq!(idle_release(value(&before, other.release_variable()), &old), None);
            let after = start_next(running, &new);
            assert_eq!((value(&after, "slot"), value(&after, "tries")), (Some(other.letter()), Some("3")));
            assert_eq!(idle_release(value(&after, other.release_variable()), &old).as_deref(), Some("0.2.0"));
            assert_eq!(value(&after, running.release_variable()), None, "stays as it is");
        }
        assert_eq!(idle_release(None, &old).as_deref(), Some("0.1.0"));
    }

    #[test]
    fn the_facts_are_those_of_the_image() {
        let table = include_str!("../../../firmware-config/partitions");
        let menu = include_str!("../../../firmware-config/grub/grub.cfg");
        for slot in [Slot::A, Slot::B] {
            let line = table.lines().find(|line| line.split_whitespace().nth(1) == Some(slot.partition()));
            let size = line.and_then(|line| line.split_whitespace().nth(2)).unwrap();
            assert_eq!(size.strip_suffix('M').unwrap().parse::<u64>().unwrap() << 20, SLOT_BYTES);
            assert_eq!(Slot::parse(slot.letter()), Some(slot));
        }
        assert!(menu.contains(&alloc::format!("linux /{KERNEL} ")));
        assert!(menu.contains(&alloc::format!("initrd /{INITRAMFS};")));
    }
}
