//! Versions of what two nodes say to each other: each release speaks its own and those before it that it names, so that
//! the nodes of a cluster can be updated one after the other.

/// The versions of one protocol that a build speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The first.
    pub oldest: u16,
    /// The last, not below `oldest`.
    pub newest: u16,
}

impl Versions {
    /// All of them, the newest first.
    pub fn descending(self) -> impl Iterator<Item = u16> {
        (self.oldest..=self.newest).rev()
    }

    /// Whether `version` is one of them.
    #[must_use]
    pub const fn contain(self, version: u16) -> bool {
        self.oldest <= version && version <= self.newest
    }
}

/// The newest version that this build speaks, `version` being the release's: one more if it was built with
/// `FUTAGO_NEXT_VERSIONS=1`, as the release after this one would be. Nothing but the number differs then; ci/versions runs
/// the two together.
#[must_use]
pub const fn next(version: u16) -> u16 {
    if option_env!("FUTAGO_NEXT_VERSIONS").is_some() { version + 1 } else { version }
}
