//! What crosses to a node of another release or outlives one, and in which versions: the one table of it.
//!
//! Invariant: a build reads and speaks every version of [`Formats::CURRENT`]. What it says is agreed for each connection; what
//! it writes down is the level in force ([`Levels`]), which the cluster raises once every member has said that whatever it
//! starts understands the higher one.

use crate::version::{Versions, next};
use core::fmt;
use serde::{Deserialize, Serialize};

/// Frames between storage processes.
pub const WIRE_VERSION: u16 = 2;
/// Messages between cluster managers.
pub const MESSAGES_VERSION: u16 = 1;
/// A replica's records on its data disks.
pub const META_VERSION: u16 = 2;
/// Labels and allocation tables of data disks.
pub const POOL_VERSION: u16 = 1;
/// The state that Raft applies, its snapshots, and the log that leads to it.
pub const STATE_VERSION: u16 = 4;

const fn since(version: u16) -> Versions {
    Versions { oldest: version, newest: next(version) }
}

/// What has a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// [`WIRE_VERSION`].
    Replication,
    /// [`MESSAGES_VERSION`].
    Cluster,
    /// [`META_VERSION`].
    Metadata,
    /// [`POOL_VERSION`].
    Pool,
    /// [`STATE_VERSION`].
    State,
}

impl Format {
    /// In the order of an update's header.
    pub const ALL: [Self; 5] = [Self::Replication, Self::Cluster, Self::Metadata, Self::Pool, Self::State];
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Replication => "the replication frames",
            Self::Cluster => "the cluster messages",
            Self::Metadata => "the replica metadata",
            Self::Pool => "the disk labels and tables",
            Self::State => "the cluster's state",
        })
    }
}

/// The versions of each format that a release understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Formats {
    /// Of [`Format::Replication`].
    pub replication: Versions,
    /// Of [`Format::Cluster`].
    pub cluster: Versions,
    /// Of [`Format::Metadata`].
    pub metadata: Versions,
    /// Of [`Format::Pool`].
    pub pool: Versions,
    /// Of [`Format::State`].
    pub state: Versions,
}

impl Formats {
    /// This build's.
    pub const CURRENT: Self = Self {
        replication: since(WIRE_VERSION),
        cluster: since(MESSAGES_VERSION),
        metadata: since(META_VERSION),
        pool: since(POOL_VERSION),
        state: since(STATE_VERSION),
    };

    /// Each with what it is of, in the order of [`Format::ALL`].
    #[must_use]
    pub const fn each(&self) -> [(Format, Versions); 5] {
        [
            (Format::Replication, self.replication),
            (Format::Cluster, self.cluster),
            (Format::Metadata, self.metadata),
            (Format::Pool, self.pool),
            (Format::State, self.state),
        ]
    }

    /// The versions of one.
    #[must_use]
    pub const fn of(&self, format: Format) -> Versions {
        match format {
            Format::Replication => self.replication,
            Format::Cluster => self.cluster,
            Format::Metadata => self.metadata,
            Format::Pool => self.pool,
            Format::State => self.state,
        }
    }

    /// The versions of one, to be changed.
    pub const fn of_mut(&mut self, format: Format) -> &mut Versions {
        match format {
            Format::Replication => &mut self.replication,
            Format::Cluster => &mut self.cluster,
            Format::Metadata => &mut self.metadata,
            Format::Pool => &mut self.pool,
            Format::State => &mut self.state,
        }
    }

    /// No format has its oldest version after its newest.
    #[must_use]
    pub fn are_sound(&self) -> bool {
        self.each().iter().all(|(_, versions)| versions.oldest <= versions.newest)
    }

    /// The first format whose level this release does not understand.
    #[must_use]
    pub fn lack(&self, levels: &Levels) -> Option<(Format, u16)> {
        levels.each().into_iter().find(|(format, level)| !self.of(*format).contain(*level))
    }

    /// What both releases understand: what a node may promise that runs the one and may start the other. Of a protocol of which
    /// they speak no common version, what the other one does.
    #[must_use]
    pub fn common(mut self, other: &Self) -> Self {
        for (format, theirs) in other.each() {
            let own = self.of_mut(format);
            *own = own.common(theirs).unwrap_or(theirs);
        }
        self
    }
}

/// The version of each format in which it is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Levels {
    /// Of [`Format::Metadata`].
    pub metadata: u16,
    /// Of [`Format::Pool`].
    pub pool: u16,
    /// Of [`Format::State`].
    pub state: u16,
}

impl Levels {
    /// What a node writes before a cluster tells it: the oldest that its release understands, which a release before it
    /// is most likely to know.
    pub const OLDEST: Self = Self {
        metadata: Formats::CURRENT.metadata.oldest,
        pool: Formats::CURRENT.pool.oldest,
        state: Formats::CURRENT.state.oldest,
    };
    /// The most that this build's cluster can have in force.
    pub const NEWEST: Self = Self {
        metadata: Formats::CURRENT.metadata.newest,
        pool: Formats::CURRENT.pool.newest,
        state: Formats::CURRENT.state.newest,
    };

    /// Each with what it is of.
    #[must_use]
    pub const fn each(&self) -> [(Format, u16); 3] {
        [(Format::Metadata, self.metadata), (Format::Pool, self.pool), (Format::State, self.state)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: Formats = Formats {
        replication: Versions { oldest: 1, newest: 9 },
        cluster: Versions { oldest: 1, newest: 1 },
        metadata: Versions { oldest: 3, newest: 4 },
        pool: Versions { oldest: 1, newest: 7 },
        state: Versions { oldest: 4, newest: 5 },
    };

    #[test]
    fn what_is_named_is_what_is_meant() {
        assert_eq!(OTHER.each().map(|(format, _)| format), Format::ALL);
        for (format, versions) in OTHER.each() {
            let mut changed = OTHER;
            *changed.of_mut(format) = Versions { oldest: 8, newest: 8 };
            assert_eq!((OTHER.of(format), changed.of(format)), (versions, Versions { oldest: 8, newest: 8 }));
        }
    }

    #[test]
    fn a_level_is_understood_if_every_format_of_it_is() {
        let levels = Levels { metadata: 3, pool: 7, state: 5 };
        assert_eq!(OTHER.lack(&levels), None);
        assert_eq!(OTHER.lack(&Levels { metadata: 2, ..levels }), Some((Format::Metadata, 2)));
        assert_eq!(OTHER.lack(&Levels { pool: 8, ..levels }), Some((Format::Pool, 8)));
        assert_eq!(OTHER.lack(&Levels { state: 6, ..levels }), Some((Format::State, 6)));
        assert_eq!(Formats::CURRENT.lack(&Levels::OLDEST), None);
        assert_eq!(Formats::CURRENT.lack(&Levels::NEWEST), None);
    }

    #[test]
    fn what_two_releases_have_in_common_is_what_either_reads() {
        let mut older = OTHER;
        older.metadata = Versions { oldest: 1, newest: 3 };
        older.replication.newest = 4;
        older.cluster = Versions { oldest: 7, newest: 8 };
        let both = Formats {
            replication: Versions { oldest: 1, newest: 4 },
            cluster: older.cluster,
            metadata: Versions { oldest: 3, newest: 3 },
            ..OTHER
        };
        assert_eq!(OTHER.common(&older), both);
        assert_eq!(older.common(&both), both);
        assert_eq!(OTHER.common(&OTHER), OTHER);
    }
}
