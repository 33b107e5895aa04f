//! Versions of what outlives a release or crosses to a node of another one.
//!
//! Invariant: this build's [`Formats::CURRENT`] are the rooms' own constants, so that no format can change without its
//! bundle saying so.

use core::fmt;

/// What has a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// Frames between storage processes.
    Replication,
    /// Messages between cluster managers.
    Cluster,
    /// A replica's records on its data disk.
    Disk,
    /// The state that Raft applies and its snapshots hold.
    State,
}

impl Format {
    /// In the order of the header.
    pub const ALL: [Self; 4] = [Self::Replication, Self::Cluster, Self::Disk, Self::State];
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Replication => "replication frames",
            Self::Cluster => "cluster messages",
            Self::Disk => "data disks",
            Self::State => "the cluster's state",
        })
    }
}

/// The versions of one format that a release understands; it writes the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoken {
    /// The first.
    pub oldest: u32,
    /// The last, not below `oldest`.
    pub newest: u32,
}

impl Spoken {
    /// One version alone.
    #[must_use]
    pub const fn only(version: u32) -> Self {
        Self { oldest: version, newest: version }
    }

    /// What a protocol speaks.
    #[must_use]
    pub const fn of(versions: base::Versions) -> Self {
        Self { oldest: versions.oldest as u32, newest: versions.newest as u32 }
    }

    /// Whether it understands `version`.
    #[must_use]
    pub const fn understands(self, version: u32) -> bool {
        self.oldest <= version && version <= self.newest
    }
}

/// The oldest release that this one may replace, unless whoever builds an update says otherwise.
pub const REPLACES_FROM: &str = "0.1.0";

/// What a release understands, in the order of [`Format::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formats(pub [Spoken; 4]);

impl Formats {
    /// This build's.
    pub const CURRENT: Self = Self([
        Spoken::of(replication::frame::VERSIONS),
        Spoken::of(cluster::MESSAGES),
        Spoken::only(replication::META_VERSION as u32),
        Spoken::only(cluster::STATE_VERSION),
    ]);

    /// Each with what it is of.
    pub fn each(&self) -> impl Iterator<Item = (Format, Spoken)> + '_ {
        Format::ALL.into_iter().zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_may_replace_itself() {
        let oldest: crate::Version = REPLACES_FROM.parse().unwrap();
        assert!(oldest <= env!("CARGO_PKG_VERSION").parse().unwrap());
    }
}
