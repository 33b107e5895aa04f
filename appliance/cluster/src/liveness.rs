//! Who lives: heard, and hearing. Decides when to act, never whether it is safe to.

use crate::lease::LeaseRequest;
use alloc::collections::{BTreeMap, VecDeque};
use base::{InstanceId, Monotonic, NodeId};
use control::settings::Timing;

/// The other nodes' signs of life, from their requests.
#[derive(Clone, Debug)]
pub struct Liveness {
    timing: Timing,
    started: Monotonic,
    peers: BTreeMap<NodeId, Peer>,
}

#[derive(Clone, Debug)]
struct Peer {
    incarnation: InstanceId,
    instance: Option<InstanceId>,
    /// Since when `instance` is what it is.
    instance_since: Monotonic,
    heard: Monotonic,
    /// Up to when it is known to have heard this node.
    hears: Monotonic,
    /// When its requests were answered, by sequence: to find out what its echo means.
    answered: VecDeque<(u64, Monotonic)>,
}

impl Liveness {
    /// Nobody heard yet; silence counts from `now`.
    #[must_use]
    pub fn new(timing: Timing, now: Monotonic) -> Self {
        Self { timing, started: now, peers: BTreeMap::new() }
    }

    /// A request came in and is answered at `now`.
    pub fn handle_request(&mut self, request: &LeaseRequest, now: Monotonic) {
        let fresh = || Peer {
            incarnation: request.incarnation,
            instance: request.instance,
            instance_since: now,
            heard: now,
            hears: now,
            answered: VecDeque::new(),
        };
        let oldest = now - self.hearing_time();
        let peer = self.peers.entry(request.from).or_insert_with(fresh);
        if peer.incarnation != request.incarnation {
            *peer = Peer { instance: peer.instance, instance_since: peer.instance_since, ..fresh() };
        }
        if peer.instance != request.instance {
            peer.instance = request.instance;
            peer.instance_since = now;
        }
        peer.heard = now;
        if let Some((_, at)) = peer.answered.iter().find(|(sequence, _)| *sequence == request.echo) {
            peer.hears = *at;
            peer.answered.retain(|(sequence, _)| *sequence >= request.echo);
        }
        peer.answered.push_back((request.sequence, now));
        peer.answered.retain(|(sequence, at)| *at >= oldest || *sequence == request.echo);
    }

    /// Whether `node` was heard within the dead time, and heard this node's answers not much longer ago ("deaf counts
    /// as dead", S5: such a primary can't renew its lease).
    #[must_use]
    pub fn alive(&self, node: NodeId, now: Monotonic) -> bool {
        let within = |peer: &Peer| {
            now.since(peer.heard) <= self.timing.dead && now.since(peer.hears) <= self.hearing_time()
        };
        self.peers.get(&node).is_some_and(within)
    }

    /// Whether `node` must be taken for dead: not alive, and it had the time to show itself since this node started.
    #[must_use]
    pub fn dead(&self, node: NodeId, now: Monotonic) -> bool {
        !self.alive(node, now) && now.since(self.started) > self.timing.dead
    }

    /// The storage process that `node` last told of, if it is alive and has one.
    #[must_use]
    pub fn instance(&self, node: NodeId, now: Monotonic) -> Option<InstanceId> {
        self.peers.get(&node).filter(|_| self.alive(node, now))?.instance
    }

    /// Since when `node`'s storage process has been something else than `instance` (or has been dead); `None` while
    /// it is `instance` and alive, or nothing is known yet.
    #[must_use]
    pub fn gone_since(&self, node: NodeId, instance: InstanceId, now: Monotonic) -> Option<Monotonic> {
        match self.peers.get(&node) {
            Some(peer) if self.alive(node, now) => {
                (peer.instance != Some(instance)).then_some(peer.instance_since)
            }
            Some(peer) => Some(peer.heard.min(peer.hears)).filter(|_| self.dead(node, now)),
            None => self.dead(node, now).then_some(self.started),
        }
    }

    /// An echo comes a round later than the answer that it names; allow for one lost round.
    fn hearing_time(&self) -> core::time::Duration {
        self.timing.dead + self.timing.renew * 2
    }
}
