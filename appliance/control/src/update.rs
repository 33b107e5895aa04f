//! Updates of this node, on the supervisor's socket: `GET /update` answers [`UpdateStatus`]; `POST /update` takes the file
//! at [`crate::paths::UPDATE_BUNDLE`] and answers 202, or 409 with a sentence. And [`ClusterUpdate`], what consoles tell each
//! other of the update of all nodes.

use alloc::{string::String, vec::Vec};
use base::{Formats, Levels};
use serde::{Deserialize, Serialize};

/// What PID 1 says to the cluster manager, in [`crate::paths::UNDERSTOOD`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Understood {
    /// What every release understands that may be started here without asking again.
    pub formats: Formats,
    /// It is to be promised under a higher number than this, even if the same stands in the last promise: an earlier one that is
    /// on its way comes too late then.
    pub above: Option<u64>,
}

/// A promise of this node's that is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promised {
    /// Counts them.
    pub number: u64,
    /// What was promised.
    pub formats: Formats,
}

/// What a release has to understand to be started here. The cluster manager writes it to [`crate::paths::FORMATS`], PID 1 reads
/// it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InUse {
    /// The versions in which things are written down.
    pub levels: Levels,
    /// What this node has promised its cluster to understand; `None` while it is in none.
    pub promised: Option<Promised>,
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

/// The update of all nodes, as the node that leads it tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterUpdate {
    /// Drawn when it was begun.
    pub id: String,
    /// Version of the release.
    pub release: String,
    /// When it was begun, seconds since the Unix epoch.
    pub begun_at: u64,
    /// Name of the node that leads it.
    pub leader: String,
    /// How often it has gone over to another leader.
    pub moves: u32,
    /// Names of the nodes that are left out.
    pub without: Vec<String>,
    /// Whether it goes on.
    pub state: ClusterUpdateState,
    /// What is waited for or done, or why it has stopped.
    pub text: String,
    /// Each node that is not left out, in the order of the plan.
    pub nodes: Vec<NodeProgress>,
}

impl ClusterUpdate {
    /// Whether this tells more than `other` does: of a later update, or a later word of the same one.
    #[must_use]
    pub fn is_newer(&self, other: &Self) -> bool {
        if self.id == other.id {
            self.moves >= other.moves
        } else {
            (self.begun_at, &self.id) > (other.begun_at, &other.id)
        }
    }
}

/// Whether an update of all nodes goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterUpdateState {
    /// It does.
    Running,
    /// Every node runs the release.
    Finished,
    /// It has ended before that.
    Stopped,
}

/// How far one node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeProgress {
    /// Its name.
    pub name: String,
    /// Its step.
    pub step: NodeStep,
}

/// What a node goes through, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeStep {
    /// It is not its turn yet.
    Waiting,
    /// It gets the release into its other slot.
    Installing,
    /// It hands the volumes over that it serves.
    HandingOver,
    /// It goes down and starts the release.
    Restarting,
    /// Its services run, until that has been long enough.
    Proving,
    /// Its copies are brought up to date.
    Returning,
    /// It runs the release.
    Updated,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_word_counts() {
        let told = |id: &str, begun_at, moves| ClusterUpdate {
            id: id.into(),
            release: "0.2.0".into(),
            begun_at,
            leader: "a".into(),
            moves,
            without: Vec::new(),
            state: ClusterUpdateState::Running,
            text: String::new(),
            nodes: Vec::new(),
        };
        for (one, other, newer) in [
            (told("x", 5, 1), told("x", 5, 1), true),
            (told("x", 5, 0), told("x", 5, 1), false),
            (told("y", 6, 0), told("x", 5, 9), true),
            (told("x", 5, 9), told("y", 6, 0), false),
            (told("y", 5, 0), told("x", 5, 0), true),
            (told("x", 5, 0), told("y", 5, 0), false),
        ] {
            assert_eq!(one.is_newer(&other), newer, "{one:?} {other:?}");
        }
    }
}
