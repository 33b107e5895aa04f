//! Versions of one format: each release understands its own and those before it that it names, so that the nodes of a
//! cluster can be updated one after the other.

use core::fmt;
use serde::{Deserialize, Serialize};

/// The versions of one format that a build understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The first.
    pub oldest: u16,
    /// The last, not below `oldest`.
    pub newest: u16,
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.oldest == self.newest {
            write!(f, "version {}", self.newest)
        } else {
            write!(f, "versions {} to {}", self.oldest, self.newest)
        }
    }
}

impl Versions {
    /// One alone.
    #[must_use]
    pub const fn only(version: u16) -> Self {
        Self { oldest: version, newest: version }
    }

    /// All of them, the newest first.
    pub fn descending(self) -> impl Iterator<Item = u16> {
        (self.oldest..=self.newest).rev()
    }

    /// Whether `version` is one of them.
    #[must_use]
    pub const fn contain(self, version: u16) -> bool {
        self.oldest <= version && version <= self.newest
    }

    /// Those that are of `other`, too.
    #[must_use]
    pub fn common(self, other: Self) -> Option<Self> {
        let both = Self { oldest: self.oldest.max(other.oldest), newest: self.newest.min(other.newest) };
        (both.oldest <= both.newest).then_some(both)
    }
}

/// The newest version that this build understands, `version` being the release's: one more with the feature `next-versions`,
/// as the release after this one would. Nothing but the number differs then; `ci/test` makes such a build and runs the two together.
#[must_use]
pub const fn next(version: u16) -> u16 {
    if cfg!(feature = "next-versions") { version + 1 } else { version }
}
