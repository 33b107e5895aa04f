//! One volume on this node: its replica and what the replica's commands act on.

use std::collections::{BTreeMap, VecDeque};

use base::{ByteCount, Monotonic, Repeats, SessionId, VolumeConfig, VolumeId};
use control::link::NoRoom;
use disk::Space;
use replication::{Problem, Replica};

use super::data::Data;
use crate::peers::SessionHandle;

/// Problems kept per volume; the oldest go first.
const PROBLEMS: usize = 8;

/// A volume that is open here.
pub(crate) struct Volume {
    pub(super) id: VolumeId,
    pub(super) name: String,
    pub(super) config: VolumeConfig,
    pub(super) replica: Replica<Data>,
    pub(super) meta: Space,
    pub(super) data: Space,
    /// Open replication sessions; dropping a handle closes its connection.
    pub(super) sessions: BTreeMap<SessionId, SessionHandle>,
    /// What the replica said last of serving.
    pub(super) serving: bool,
    /// Until when the replica was told that it may serve (S5).
    pub(super) lease_until: Option<Monotonic>,
    /// A larger size that the administrator wants (S22).
    pub(super) wanted_size: Option<ByteCount>,
    /// The size that the disk thread makes room for.
    pub(super) making_room: Option<ByteCount>,
    /// When it was last asked to.
    pub(super) tried_at: Option<Monotonic>,
    /// It could not.
    pub(super) no_room: Option<NoRoom>,
    /// Of the log lines about that.
    pub(super) failures: Repeats<ByteCount>,
    /// The size that initiators were shown last.
    pub(super) shown_size: ByteCount,
    /// Nothing is in flight any more (after a stop).
    pub(super) stopped: bool,
    problems: VecDeque<Problem>,
}

impl Volume {
    pub(super) fn new(
        name: String,
        config: VolumeConfig,
        replica: Replica<Data>,
        meta: Space,
        data: Space,
    ) -> Self {
        Self {
            id: config.volume,
            name,
            config,
            replica,
            meta,
            data,
            sessions: BTreeMap::new(),
            serving: false,
            lease_until: None,
            wanted_size: None,
            making_room: None,
            tried_at: None,
            no_room: None,
            failures: Repeats::default(),
            shown_size: ByteCount(0),
            stopped: false,
            problems: VecDeque::new(),
        }
    }

    /// Remembers a problem for the reports; repeats count once.
    pub(super) fn note(&mut self, problem: Problem) {
        tracing::warn!(volume = %self.name, "{problem}");
        if self.problems.contains(&problem) {
            return;
        }
        if self.problems.len() == PROBLEMS {
            self.problems.pop_front();
        }
        self.problems.push_back(problem);
    }

    /// Every copy is in sync: what stood in the way of that is over. What the disks said stays.
    pub(super) fn forget_passing_problems(&mut self) {
        self.problems.retain(|problem| match problem {
            Problem::DiskWriteFailed { .. } | Problem::DiskReadFailed { .. } | Problem::PayloadChecksum => {
                true
            }
            Problem::DiskHangs
            | Problem::Protocol(_)
            | Problem::Refused(_)
            | Problem::Unsupported(_)
            | Problem::FullResync => false,
        });
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = String> + '_ {
        self.problems.iter().map(|problem| format!("volume {}: {problem}", self.name))
    }
}
