//! Updates of this node, on the supervisor's socket: `GET /update` answers [`UpdateStatus`]; `POST /update` takes the file
//! at [`crate::paths::UPDATE_BUNDLE`] and answers 202, or 409 with a sentence.

use alloc::{string::String, vec::Vec};
use base::{Formats, Levels};
use serde::{Deserialize, Serialize};

/// What a release has to understand to be started here. The cluster manager writes it to [`crate::paths::FORMATS`], PID 1 reads
/// it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InUse {
    /// The versions in which things are written down.
    pub levels: Levels,
    /// What this node has promised its cluster to understand; `None` while it is in none.
    pub promised: Option<Formats>,
    /// The other members.
    pub members: Vec<MemberFormats>,
}

impl InUse {
    /// As long as no cluster manager has told anything: all that this release may have written.
    pub const UNKNOWN: Self = Self { levels: Levels::NEWEST, promised: None, members: Vec::new() };
}

/// What another member speaks and understands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberFormats {
    /// Its name.
    pub name: String,
    /// As it has promised.
    pub formats: Formats,
}

/// What runs, what would start next, and what became of the last update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateStatus {
    /// Version of the release that runs.
    pub running: String,
    /// Differs after every start of the machine.
    pub boot: String,
    /// The system disk's slots; `None` where the node did not start from one, and can't be updated.
    pub slots: Option<SlotStatus>,
    /// The last installation since this start.
    pub installation: Option<Installation>,
}

/// The slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotStatus {
    /// The one that runs: `a` or `b`.
    pub running: String,
    /// The one that the next start takes.
    pub next: String,
    /// Version of the release in the one that does not run; `None`: nothing that can be started.
    pub idle_release: Option<String>,
    /// The one that the next start takes has not proved itself yet: so many starts that fail, and it is left for the other
    /// one. Also while that can't be told. Releases that do not say it have no trial to tell of.
    #[serde(default)]
    pub on_trial: bool,
}

/// How far an installation is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Installation {
    /// Signature, version and checksums are looked at; nothing is written yet.
    Checking,
    /// It is written into the slot that does not run, then read back from the disk.
    Writing {
        /// Version of the release.
        release: String,
        /// 0 to 100.
        percent: u32,
    },
    /// The next start takes it.
    Installed {
        /// Version of the release.
        release: String,
    },
    /// The next start takes what runs now.
    Failed {
        /// A sentence.
        reason: String,
    },
}

impl Installation {
    /// It has not ended yet.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        matches!(self, Self::Checking | Self::Writing { .. })
    }
}
