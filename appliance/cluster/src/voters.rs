//! Who votes, and what a majority of them is.

use alloc::{collections::BTreeSet, vec::Vec};
use base::{Monotonic, NodeId};
use serde::{Deserialize, Serialize};

/// The voters of the latest membership in a node's Raft log, uncommitted included: one set, or two while the
/// membership changes (joint consensus). A decision needs a majority of each set. No set, or an empty one: nobody can
/// decide.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Voters(Vec<BTreeSet<NodeId>>);

impl Voters {
    /// These sets, in any order; equal sets count once.
    #[must_use]
    pub fn new(sets: impl IntoIterator<Item = BTreeSet<NodeId>>) -> Self {
        let mut sets: Vec<_> = sets.into_iter().collect();
        sets.sort();
        sets.dedup();
        Self(sets)
    }

    /// Whether `node` votes in any set.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.0.iter().any(|set| set.contains(&node))
    }

    /// The membership is changing: two sets.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        self.0.len() > 1
    }

    /// Everyone who votes.
    #[must_use]
    pub fn all(&self) -> BTreeSet<NodeId> {
        self.0.iter().flatten().copied().collect()
    }

    /// Whether those for whom `agrees` holds are a majority of every set.
    #[must_use]
    pub fn majority(&self, agrees: impl Fn(NodeId) -> bool) -> bool {
        self.oldest_of_majority(|node| agrees(node).then_some(Monotonic(0))).is_some()
    }

    /// The latest time T such that a majority of every set has a time of T or later; `None` without such majorities.
    #[must_use]
    pub fn oldest_of_majority(&self, time: impl Fn(NodeId) -> Option<Monotonic>) -> Option<Monotonic> {
        let per_set = self.0.iter().map(|set| {
            let mut times: Vec<Monotonic> = set.iter().filter_map(|node| time(*node)).collect();
            times.sort_unstable_by(|a, b| b.cmp(a));
            times.get(set.len() / 2).copied()
        });
        per_set.min_by(|a, b| a.cmp(b)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(nodes: &[u64]) -> BTreeSet<NodeId> {
        nodes.iter().map(|n| NodeId(*n)).collect()
    }

    #[test]
    fn majorities() {
        let three = Voters::new([set(&[1, 2, 3])]);
        assert!(three.majority(|n| n.0 != 2) && !three.majority(|n| n.0 == 1));
        assert!(!Voters::default().majority(|_| true));
        assert!(!Voters::new([set(&[])]).majority(|_| true));
        let two = Voters::new([set(&[1, 2])]);
        assert!(two.majority(|_| true) && !two.majority(|n| n.0 == 1));
    }

    #[test]
    fn joint_needs_both() {
        let joint = Voters::new([set(&[1, 2, 3]), set(&[1])]);
        assert!(joint.majority(|n| n.0 != 3));
        assert!(!joint.majority(|n| n.0 != 1), "a majority of the old set alone");
        assert!(!joint.majority(|n| n.0 == 1), "a majority of the new set alone");
        assert!(joint.contains(NodeId(3)) && !joint.contains(NodeId(4)));
    }

    #[test]
    fn the_oldest_of_the_best_majority_counts() {
        let times = |n: NodeId| match n.0 {
            1 => Some(Monotonic(10)),
            2 => Some(Monotonic(30)),
            3 => Some(Monotonic(20)),
            _ => None,
        };
        let three = Voters::new([set(&[1, 2, 3])]);
        assert_eq!(three.oldest_of_majority(times), Some(Monotonic(20)));
        let joint = Voters::new([set(&[1, 2, 3]), set(&[1])]);
        assert_eq!(joint.oldest_of_majority(times), Some(Monotonic(10)));
        assert_eq!(Voters::new([set(&[4, 5, 1])]).oldest_of_majority(times), None);
    }
}
