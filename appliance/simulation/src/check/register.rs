//! I1: each block is a linearizable register, as the initiators see it.
//!
//! For each block the checker keeps every state in which the register may be: its value, and which of the writes that
//! are under way have taken effect. A write that was never answered stays under way for ever: it may take effect at any
//! later time, but only once, or never. Of two states that differ only in which of those have taken effect, the one
//! with fewer is the freer; the other is dropped, so that the number of states stays small.
//!
//! Sound, and exact but for one case: a read that overlaps the *answer* to a write of the same block is only checked
//! against all values that were possible meanwhile; it does not narrow what is possible afterwards.

use super::{Checked, violation};
use std::collections::{BTreeMap, BTreeSet};

/// Names a request of an initiator; a write's blocks have it as their value.
pub(crate) type OpId = u64;

/// A register's value, and those of the writes under way that have taken effect.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    value: u64,
    done: BTreeSet<OpId>,
}

#[derive(Clone, Debug)]
struct Register {
    states: Vec<State>,
    /// Writes under way with the value that they write.
    writes: BTreeMap<OpId, u64>,
    /// Those of them that will never be answered.
    lost: BTreeSet<OpId>,
    /// Reads under way: values that were possible since they began but may not be any more.
    reads: BTreeMap<OpId, Option<BTreeSet<u64>>>,
}

impl Register {
    fn new() -> Self {
        let states = vec![State { value: 0, done: BTreeSet::new() }];
        Self { states, writes: BTreeMap::new(), lost: BTreeSet::new(), reads: BTreeMap::new() }
    }

    /// Whether `a` allows all that `b` allows.
    fn freer(&self, a: &State, b: &State) -> bool {
        a.value == b.value
            && a.done.is_subset(&b.done)
            && b.done.difference(&a.done).all(|op| self.lost.contains(op))
    }

    /// Adds a state unless there is a freer one; drops those that are less free. Whether it was added.
    fn add(&self, states: &mut Vec<State>, new: State) -> bool {
        if states.iter().any(|s| self.freer(s, &new)) {
            return false;
        }
        states.retain(|s| !self.freer(&new, s));
        states.push(new);
        true
    }

    /// Any write under way may take effect at any moment: finds all states that this leads to.
    fn close(&mut self, from: Vec<State>) {
        let mut states = Vec::new();
        let mut fresh = from;
        while let Some(state) = fresh.pop() {
            if !self.add(&mut states, state.clone()) {
                continue;
            }
            for (op, value) in self.writes.iter().filter(|(op, _)| !state.done.contains(op)) {
                let mut done = state.done.clone();
                done.insert(*op);
                fresh.push(State { value: *value, done });
            }
        }
        self.states = states;
    }

    fn close_again(&mut self) {
        let states = std::mem::take(&mut self.states);
        self.close(states);
    }

    fn possible(&self) -> BTreeSet<u64> {
        self.states.iter().map(|s| s.value).collect()
    }

    /// What is possible now will not all be possible after the next step: remember it for the reads under way.
    fn remember_for_reads(&mut self) {
        if self.reads.is_empty() {
            return;
        }
        let possible = self.possible();
        for seen in self.reads.values_mut() {
            seen.get_or_insert_with(BTreeSet::new).extend(&possible);
        }
    }
}

/// All blocks that were ever touched.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registers {
    blocks: BTreeMap<u64, Register>,
}

impl Registers {
    fn register(&mut self, block: u64) -> &mut Register {
        self.blocks.entry(block).or_insert_with(Register::new)
    }

    /// A write of `value` to `blocks` was sent.
    pub(crate) fn write_sent(&mut self, op: OpId, blocks: std::ops::Range<u64>, value: u64) {
        for block in blocks {
            let register = self.register(block);
            register.writes.insert(op, value);
            register.close_again();
        }
    }

    /// It was acknowledged: it has taken effect by now.
    pub(crate) fn write_answered(&mut self, op: OpId, blocks: std::ops::Range<u64>) {
        for block in blocks {
            let register = self.register(block);
            let Some(value) = register.writes.get(&op).copied() else { continue };
            register.remember_for_reads();
            let mut states = std::mem::take(&mut register.states);
            for state in &mut states {
                if !state.done.remove(&op) {
                    state.value = value;
                }
            }
            register.writes.remove(&op);
            register.close(states);
        }
    }

    /// It will never be answered: its connection is gone.
    pub(crate) fn write_lost(&mut self, op: OpId, blocks: std::ops::Range<u64>) {
        for block in blocks {
            let register = self.register(block);
            if register.writes.contains_key(&op) {
                register.lost.insert(op);
                register.close_again();
            }
        }
    }

    /// It was answered that it never started.
    pub(crate) fn write_aborted(&mut self, op: OpId, blocks: std::ops::Range<u64>) -> Checked {
        for block in blocks {
            let register = self.register(block);
            if register.writes.remove(&op).is_none() {
                continue;
            }
            register.states.retain(|s| !s.done.contains(&op));
            if register.states.is_empty() {
                return violation(
                    "I1",
                    format!("block {block}: write {op:x} was seen, then said not to have started"),
                );
            }
        }
        Ok(())
    }

    /// A read was sent.
    pub(crate) fn read_sent(&mut self, op: OpId, blocks: std::ops::Range<u64>) {
        for block in blocks {
            self.register(block).reads.insert(op, None);
        }
    }

    /// It was given up.
    pub(crate) fn read_forgotten(&mut self, op: OpId, blocks: std::ops::Range<u64>) {
        for block in blocks {
            self.register(block).reads.remove(&op);
        }
    }

    /// It was answered with `values`.
    pub(crate) fn read_answered(&mut self, op: OpId, first: u64, values: &[u64]) -> Checked {
        for (block, value) in (first..).zip(values) {
            let register = self.register(block);
            let Some(seen) = register.reads.remove(&op) else { continue };
            let now = register.states.iter().any(|s| s.value == *value);
            match seen {
                None if now => {
                    register.remember_for_reads();
                    register.states.retain(|s| s.value == *value);
                    register.close_again();
                }
                Some(seen) if now || seen.contains(value) => {}
                _ => {
                    let possible = register.possible();
                    return violation(
                        "I1",
                        format!("block {block}: read {value:x}, possible were {possible:x?}"),
                    );
                }
            }
        }
        Ok(())
    }

    /// Whether a copy with this value is good: nothing acknowledged is missing from it.
    pub(crate) fn allows(&self, block: u64, value: u64) -> bool {
        match self.blocks.get(&block) {
            Some(register) => register.states.iter().any(|s| s.value == value),
            None => value == 0,
        }
    }

    /// The blocks that were ever touched.
    pub(crate) fn touched(&self) -> impl Iterator<Item = u64> + '_ {
        self.blocks.keys().copied()
    }

    /// What a block may hold, for messages.
    pub(crate) fn possible(&self, block: u64) -> BTreeSet<u64> {
        self.blocks.get(&block).map(Register::possible).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledged_write_stays() {
        let mut r = Registers::default();
        r.write_sent(1, 0..1, 1);
        assert!(r.allows(0, 0) && r.allows(0, 1));
        r.write_answered(1, 0..1);
        assert!(!r.allows(0, 0));
        r.read_sent(2, 0..1);
        assert!(r.read_answered(2, 0, &[0]).is_err());
    }

    #[test]
    fn what_was_once_read_does_not_unhappen() {
        let mut r = Registers::default();
        r.write_sent(1, 0..1, 1); // never answered
        r.read_sent(2, 0..1);
        r.read_answered(2, 0, &[0]).unwrap();
        r.read_sent(3, 0..1);
        r.read_answered(3, 0, &[1]).unwrap();
        assert!(!r.allows(0, 0));
    }

    #[test]
    fn an_unanswered_write_takes_effect_once() {
        let mut r = Registers::default();
        r.write_sent(1, 0..1, 1);
        r.write_lost(1, 0..1);
        r.read_sent(2, 0..1);
        r.read_answered(2, 0, &[1]).unwrap();
        r.write_sent(3, 0..1, 3);
        r.write_answered(3, 0..1);
        assert!(!r.allows(0, 1), "it has been overwritten");
        r.write_sent(4, 0..1, 4);
        r.write_lost(4, 0..1); // not yet seen: may come late
        r.write_sent(5, 0..1, 5);
        r.write_answered(5, 0..1);
        assert!(r.allows(0, 4) && r.allows(0, 5) && !r.allows(0, 3));
    }

    #[test]
    fn concurrent_writes_end_in_either_order() {
        let mut r = Registers::default();
        r.write_sent(1, 0..2, 1);
        r.write_sent(2, 0..2, 2);
        r.write_answered(1, 0..2);
        r.write_answered(2, 0..2);
        assert!(r.allows(0, 1) && r.allows(0, 2) && !r.allows(0, 0));
        r.read_sent(3, 0..1);
        r.read_answered(3, 0, &[1]).unwrap();
        assert!(!r.allows(0, 2));
    }

    #[test]
    fn a_read_across_an_answer_may_see_either() {
        let mut r = Registers::default();
        r.write_sent(1, 0..1, 1);
        r.read_sent(2, 0..1);
        r.write_answered(1, 0..1);
        r.read_answered(2, 0, &[0]).unwrap();
        r.read_sent(3, 0..1);
        assert!(r.read_answered(3, 0, &[0]).is_err());
    }

    #[test]
    fn an_aborted_write_never_happened() {
        let mut r = Registers::default();
        r.write_sent(1, 0..1, 1);
        r.write_aborted(1, 0..1).unwrap();
        assert!(!r.allows(0, 1));
        r.write_sent(2, 0..1, 2);
        r.read_sent(3, 0..1);
        r.read_answered(3, 0, &[2]).unwrap();
        assert!(r.write_aborted(2, 0..1).is_err());
    }
}
