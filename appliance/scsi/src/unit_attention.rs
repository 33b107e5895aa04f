//! Unit attention conditions (SAM-5 §5.14): what changed behind a nexus's back, reported once with its next command.

use crate::command::NexusId;
use crate::sense::Asc;
use alloc::{collections::BTreeMap, vec::Vec};

/// Most conditions kept per nexus; a reset replaces all others, so the bound is never met in practice.
const MAX_PENDING: usize = 8;

/// Pending conditions of one logical unit, by nexus. The unit exists for the nexuses that stand here and for no other: a
/// masked one is not attached.
#[derive(Debug, Default)]
pub(crate) struct UnitAttentions {
    pending: BTreeMap<NexusId, Vec<Asc>>,
}

impl UnitAttentions {
    /// A new nexus: 29/00 is pending (S15: what a restarted or new primary forgot, its initiators learn by this).
    pub(crate) fn attach(&mut self, nexus: NexusId) {
        self.pending.insert(nexus, Vec::from([Asc::POWER_ON_OR_RESET]));
    }

    /// Whether the unit exists for the nexus.
    pub(crate) fn is_attached(&self, nexus: NexusId) -> bool {
        self.pending.contains_key(&nexus)
    }

    /// The nexus is gone.
    pub(crate) fn detach(&mut self, nexus: NexusId) {
        self.pending.remove(&nexus);
    }

    /// Establishes `asc` for one nexus, once.
    pub(crate) fn establish(&mut self, nexus: NexusId, asc: Asc) {
        if let Some(list) = self.pending.get_mut(&nexus) {
            establish_in(list, asc);
        }
    }

    /// Establishes `asc` for every nexus but `except`.
    pub(crate) fn establish_all(&mut self, asc: Asc, except: Option<NexusId>) {
        for (&nexus, list) in &mut self.pending {
            if Some(nexus) != except {
                establish_in(list, asc);
            }
        }
    }

    /// Any condition pending? The hot path's question.
    pub(crate) fn is_pending(&self, nexus: NexusId) -> bool {
        self.pending.get(&nexus).is_some_and(|list| !list.is_empty())
    }

    /// Takes the oldest condition, to report it.
    pub(crate) fn take(&mut self, nexus: NexusId) -> Option<Asc> {
        let list = self.pending.get_mut(&nexus)?;
        if list.is_empty() { None } else { Some(list.remove(0)) }
    }

    /// Drops `asc`, which a command has just answered (REPORT LUNS for 3F/0E).
    pub(crate) fn clear(&mut self, nexus: NexusId, asc: Asc) {
        if let Some(list) = self.pending.get_mut(&nexus) {
            list.retain(|&pending| pending != asc);
        }
    }
}

/// A reset (29/xx) has precedence over everything established before it, and covers it (SAM-5 §5.14.3).
fn establish_in(list: &mut Vec<Asc>, asc: Asc) {
    if asc.0 == Asc::POWER_ON_OR_RESET.0 {
        list.clear();
    }
    if !list.contains(&asc) && list.len() < MAX_PENDING {
        list.push(asc);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NexusId = NexusId(1);
    const B: NexusId = NexusId(2);

    #[test]
    fn reported_once_in_order() {
        let mut ua = UnitAttentions::default();
        ua.attach(A);
        ua.establish(A, Asc::CAPACITY_CHANGED);
        ua.establish(A, Asc::CAPACITY_CHANGED);
        assert!(ua.is_pending(A) && !ua.is_pending(B));
        assert_eq!(ua.take(A), Some(Asc::POWER_ON_OR_RESET));
        assert_eq!(ua.take(A), Some(Asc::CAPACITY_CHANGED));
        assert_eq!(ua.take(A), None);
    }

    #[test]
    fn a_reset_covers_what_was_before() {
        let mut ua = UnitAttentions::default();
        ua.attach(A);
        ua.attach(B);
        ua.establish(A, Asc::MODE_PARAMETERS_CHANGED);
        ua.establish_all(Asc::DEVICE_RESET, Some(B));
        assert_eq!(ua.take(A), Some(Asc::DEVICE_RESET));
        assert_eq!(ua.take(A), None);
        assert_eq!(ua.take(B), Some(Asc::POWER_ON_OR_RESET));
    }

    #[test]
    fn nothing_is_kept_for_a_nexus_that_left() {
        let mut ua = UnitAttentions::default();
        ua.attach(A);
        ua.detach(A);
        ua.establish(A, Asc::CAPACITY_CHANGED);
        assert_eq!(ua.take(A), None);
    }
}
