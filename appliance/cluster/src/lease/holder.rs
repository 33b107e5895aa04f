//! The asker's side of a lease.

use super::{Clocks, GapDetector, LeaseAnswer, LeaseRequest};
use crate::voters::Voters;
use alloc::{collections::BTreeMap, collections::VecDeque, vec::Vec};
use base::{InstanceId, Monotonic, NodeId, VolumeId};
use control::link::Lease;
use control::settings::Timing;

/// Sends requests and counts what was granted.
#[derive(Clone, Debug)]
pub struct Holder {
    me: NodeId,
    incarnation: InstanceId,
    timing: Timing,
    clocks: GapDetector,
    /// The storage process that requests are for; grants to another count for nothing.
    instance: Option<InstanceId>,
    /// Whom grants are counted by; requests sent under other voters count for nothing.
    voters: Voters,
    sequence: u64,
    /// Requests that may still be answered in time, oldest first.
    sent: VecDeque<(u64, Monotonic)>,
    peers: BTreeMap<NodeId, Answers>,
    /// Per volume asked for, when the oldest request of the latest majority that granted it was sent. That runs to its end,
    /// whoever refuses or votes meanwhile.
    complete: BTreeMap<VolumeId, Monotonic>,
}

/// What one voter answered.
#[derive(Clone, Debug, Default)]
struct Answers {
    /// Highest sequence answered.
    heard: u64,
    /// Per volume, when the latest request that was granted was sent.
    granted: BTreeMap<VolumeId, Monotonic>,
}

impl Holder {
    /// The asker of node `me`; `incarnation` is this start of its cluster manager.
    #[must_use]
    pub fn new(me: NodeId, incarnation: InstanceId, timing: Timing) -> Self {
        Self {
            me,
            incarnation,
            timing,
            clocks: GapDetector::default(),
            instance: None,
            voters: Voters::default(),
            sequence: 0,
            sent: VecDeque::new(),
            peers: BTreeMap::new(),
            complete: BTreeMap::new(),
        }
    }

    /// The next round of requests, one for each of `members` (pass this node too: its own vote counts, by the same
    /// rule). `instance` is the connected storage process, `volumes` those whose committed primary it is.
    pub fn poll_requests(
        &mut self,
        now: Clocks,
        members: impl IntoIterator<Item = NodeId>,
        voters: &Voters,
        instance: Option<InstanceId>,
        volumes: &[VolumeId],
    ) -> Vec<(NodeId, LeaseRequest)> {
        self.check_clocks(now);
        if self.instance != instance {
            self.instance = instance;
            self.void();
        }
        if self.voters != *voters {
            self.voters.clone_from(voters);
            self.forget_grants();
        }
        // What is not asked for any more would make the others' lease as old as its own.
        self.complete.retain(|volume, _| volumes.contains(volume));
        let oldest = now.boot - self.timing.lease;
        self.sent.retain(|(_, at)| *at >= oldest);
        self.sequence = self.sequence.saturating_add(1);
        self.sent.push_back((self.sequence, now.boot));
        let request = |to: NodeId| LeaseRequest {
            from: self.me,
            incarnation: self.incarnation,
            sequence: self.sequence,
            echo: self.peers.get(&to).map_or(0, |answers| answers.heard),
            instance,
            voters: voters.clone(),
            volumes: volumes.to_vec(),
        };
        members.into_iter().map(|to| (to, request(to))).collect()
    }

    /// Takes an answer in.
    pub fn handle_answer(&mut self, answer: &LeaseAnswer, now: Clocks) {
        self.check_clocks(now);
        if answer.incarnation != self.incarnation || answer.sequence > self.sequence {
            return;
        }
        let peer = self.peers.entry(answer.from).or_default();
        if answer.sequence < peer.heard {
            return;
        }
        peer.heard = answer.sequence;
        // A request that was sent before a pause, a change of voters or of the storage process is not in `sent` any more.
        let Some((_, sent_at)) = self.sent.iter().find(|(sequence, _)| *sequence == answer.sequence) else {
            return;
        };
        peer.granted = answer.granted.iter().map(|volume| (*volume, *sent_at)).collect();
        for volume in &answer.granted {
            let before = self.complete.get(volume).copied();
            if let Some(sent_at) = self.sent_at(*volume).max(before) {
                self.complete.insert(*volume, sent_at);
            }
        }
    }

    /// The lease to tell the storage process of: the volumes that a majority grants at `now`, by the oldest send time
    /// that they share. Tell it whenever it changed; one without volumes ends the earlier one.
    #[must_use]
    pub fn lease(&self, now: Monotonic) -> Option<Lease> {
        let instance = self.instance?;
        let oldest = now - self.timing.lease;
        let valid = || self.complete.iter().filter(|(_, sent_at)| **sent_at >= oldest);
        let sent_at = valid().map(|(_, sent_at)| *sent_at).min().unwrap_or(oldest);
        Some(Lease { sent_at, instance, volumes: valid().map(|(volume, _)| *volume).collect() })
    }

    /// Whether a majority of the voters answered a request of the last `dead` time: it hears this node, and this node
    /// hears it.
    #[must_use]
    pub fn quorum(&self, now: Monotonic) -> bool {
        let oldest = now - self.timing.dead;
        let since =
            self.sent.iter().find(|(_, at)| *at >= oldest).map_or(u64::MAX, |(sequence, _)| *sequence);
        self.voters.majority(|node| self.peers.get(&node).is_some_and(|answers| answers.heard >= since))
    }

    /// Forgets the lease, every grant and every request under way.
    fn void(&mut self) {
        self.complete.clear();
        self.forget_grants();
    }

    /// Forgets every grant, none of which counts with another's any more, and every request under way.
    fn forget_grants(&mut self) {
        self.sent.clear();
        for answers in self.peers.values_mut() {
            answers.granted.clear();
        }
    }

    fn check_clocks(&mut self, now: Clocks) {
        if self.clocks.gap(now, self.timing.lease, self.timing.drift) {
            self.void();
        }
    }

    /// When the oldest request of the latest granting majority was sent (of both majorities in a joint configuration).
    fn sent_at(&self, volume: VolumeId) -> Option<Monotonic> {
        self.voters.oldest_of_majority(|node| self.peers.get(&node)?.granted.get(&volume).copied())
    }
}
