//! Persistent reservations (SPC-4 §5.13): the state of one logical unit, and what each service action makes of it.
//!
//! Everything here is a pure function of the state and the request: [`PersistentState::register`] and its siblings answer
//! a [`Transition`], which [`PersistentState::commit`] installs once the cluster has committed it (S15).
//!
//! Invariants
//! - Those of [`base::Reservations`].
//! - Registrations are per initiator port (the target has one port).

use crate::identity::InitiatorPort;
use crate::sense::{Asc, Sense};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
pub(crate) use base::ReservationType as PersistentType;
use base::{MAX_REGISTRATIONS, Registration, Reservation, Reservations};

/// What a command wants of the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Registrants share the access of the holder.
fn admits_registrants(kind: PersistentType) -> bool {
    !matches!(kind, PersistentType::WriteExclusive | PersistentType::ExclusiveAccess)
}

/// Those who are not admitted may read.
fn admits_readers(kind: PersistentType) -> bool {
    matches!(
        kind,
        PersistentType::WriteExclusive
            | PersistentType::WriteExclusiveRegistrantsOnly
            | PersistentType::WriteExclusiveAllRegistrants
    )
}

/// A reservation of that type made by `port`.
fn held_by(kind: PersistentType, port: &InitiatorPort) -> Reservation {
    Reservation { kind, holder: (!kind.is_all_registrants()).then(|| port.clone()) }
}

/// Registrations and reservation of one logical unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PersistentState {
    /// Of what the cluster has committed; a transition has the next one.
    revision: u64,
    generation: u32,
    registrations: BTreeMap<InitiatorPort, u64>,
    reservation: Option<Reservation>,
}

/// A change that waits to be committed. A unit has one at a time: the next one is decided on what it leaves.
#[derive(Debug)]
pub(crate) struct Changing {
    /// Tells it from others of the same unit.
    pub(crate) number: u64,
    pub(crate) transition: Transition,
    /// Tasks of the preempted ports end with it.
    pub(crate) abort: bool,
}

/// A change that is decided but not yet in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transition {
    next: PersistentState,
    /// Unit attentions that the change establishes.
    pub(crate) attentions: Vec<(InitiatorPort, Asc)>,
    /// Ports that lost their registration by preemption (their tasks end with PREEMPT AND ABORT).
    pub(crate) preempted: Vec<InitiatorPort>,
}

/// Why a service action is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// RESERVATION CONFLICT.
    Conflict,
    /// CHECK CONDITION.
    Check(Sense),
}

type Decision = Result<Transition, Refusal>;

impl PersistentState {
    /// The state as the cluster keeps it.
    fn to_base(&self) -> Reservations {
        let registration = |(port, key): (&InitiatorPort, u64)| Registration { port: port.clone(), key };
        Reservations {
            revision: self.revision,
            generation: self.generation,
            registrations: self.registrations().map(registration).collect(),
            reservation: self.reservation.clone(),
        }
    }

    /// PRGENERATION: counts changes of registrations.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// Ports and keys.
    pub(crate) fn registrations(&self) -> impl Iterator<Item = (&InitiatorPort, u64)> {
        self.registrations.iter().map(|(port, &key)| (port, key))
    }

    /// The reservation in force.
    pub(crate) fn reservation(&self) -> Option<&Reservation> {
        self.reservation.as_ref()
    }

    pub(crate) fn has_registrations(&self) -> bool {
        !self.registrations.is_empty()
    }

    /// Key of the reservation: the holder's, 0 for all-registrants types (SPC-4 §6.15.3.2).
    pub(crate) fn reservation_key(&self) -> u64 {
        match &self.reservation {
            Some(Reservation { holder: Some(holder), .. }) => {
                self.registrations.get(holder).copied().unwrap_or(0)
            }
            Some(_) | None => 0,
        }
    }

    /// Whether `port` holds the reservation.
    pub(crate) fn is_holder(&self, port: &InitiatorPort) -> bool {
        self.reservation.as_ref().is_some_and(|held| match &held.holder {
            None => self.registrations.contains_key(port),
            Some(holder) => holder == port,
        })
    }

    /// Whether the reservation leaves a command to `port` (SPC-4 table 66, SBC-3 table 13).
    pub(crate) fn allows(&self, port: Option<&InitiatorPort>, access: Access) -> bool {
        let Some(held) = &self.reservation else { return true };
        let registered = port.is_some_and(|port| self.registrations.contains_key(port));
        port.is_some_and(|port| self.is_holder(port))
            || (registered && admits_registrants(held.kind))
            || (access == Access::Read && admits_readers(held.kind))
    }

    /// REGISTER, or with `ignore_existing` REGISTER AND IGNORE EXISTING KEY.
    pub(crate) fn register(
        &self,
        port: &InitiatorPort,
        key: u64,
        new_key: u64,
        ignore_existing: bool,
    ) -> Decision {
        let registered = self.registrations.get(port).copied();
        if !ignore_existing && registered.unwrap_or(0) != key {
            return Err(Refusal::Conflict);
        }
        let mut change = self.unchanged();
        match (registered, new_key) {
            (None, 0) => return Ok(change),
            (None, _) if self.registrations.len() >= MAX_REGISTRATIONS => {
                return Err(Refusal::Check(Sense::illegal(Asc::INSUFFICIENT_REGISTRATION_RESOURCES)));
            }
            (Some(_), 0) => change.unregister(port),
            (_, _) => {
                change.next.registrations.insert(port.clone(), new_key);
            }
        }
        Ok(change.counted())
    }

    /// REGISTER with SPEC_I_PT: `others` get the same key; those that have one keep theirs.
    pub(crate) fn register_others(mut change: Transition, others: Vec<InitiatorPort>, key: u64) -> Decision {
        for other in others {
            change.next.registrations.entry(other).or_insert(key);
        }
        if change.next.registrations.len() > MAX_REGISTRATIONS {
            return Err(Refusal::Check(Sense::illegal(Asc::INSUFFICIENT_REGISTRATION_RESOURCES)));
        }
        Ok(change)
    }

    /// REGISTER AND MOVE (SPC-4 §5.9.8): `to` gets the key and the reservation; `port` loses its registration if asked.
    pub(crate) fn register_and_move(
        &self,
        port: &InitiatorPort,
        key: u64,
        new_key: u64,
        to: &InitiatorPort,
        unregister: bool,
    ) -> Decision {
        self.check_key(port, key)?;
        let held = self.reservation.as_ref();
        if held.is_some_and(|held| held.kind.is_all_registrants()) {
            return Err(Refusal::Conflict);
        }
        let Some(held) = held.filter(|_| self.is_holder(port)) else {
            return Err(Refusal::Check(Sense::invalid_cdb_bit(1, 4)));
        };
        if new_key == 0 {
            return Err(Refusal::Check(Sense::invalid_parameter_byte(8)));
        }
        if to == port {
            return Err(Refusal::Check(Sense::invalid_parameter_byte(24)));
        }
        let mut change = self.unchanged();
        change.next.registrations.insert(to.clone(), new_key);
        change.next.reservation = Some(held_by(held.kind, to));
        if unregister {
            change.next.registrations.remove(port);
        }
        if change.next.registrations.len() > MAX_REGISTRATIONS {
            return Err(Refusal::Check(Sense::illegal(Asc::INSUFFICIENT_REGISTRATION_RESOURCES)));
        }
        Ok(change.counted())
    }

    /// RESERVE.
    pub(crate) fn reserve(&self, port: &InitiatorPort, key: u64, kind: PersistentType) -> Decision {
        self.check_key(port, key)?;
        let mut change = self.unchanged();
        match &self.reservation {
            Some(held) if held.kind == kind && self.is_holder(port) => {}
            Some(_) => return Err(Refusal::Conflict),
            None => change.next.reservation = Some(held_by(kind, port)),
        }
        Ok(change)
    }

    /// RELEASE. `kind`: the type that the initiator believes is held.
    pub(crate) fn release(&self, port: &InitiatorPort, key: u64, kind: Option<PersistentType>) -> Decision {
        self.check_key(port, key)?;
        let mut change = self.unchanged();
        let Some(held) = self.reservation.as_ref().filter(|_| self.is_holder(port)) else {
            return Ok(change);
        };
        if Some(held.kind) != kind {
            return Err(Refusal::Check(Sense::illegal(Asc::INVALID_RELEASE)));
        }
        change.next.reservation = None;
        if admits_registrants(held.kind) {
            change.alert_registrants(port, Asc::RESERVATIONS_RELEASED);
        }
        Ok(change)
    }

    /// CLEAR.
    pub(crate) fn clear(&self, port: &InitiatorPort, key: u64) -> Decision {
        self.check_key(port, key)?;
        let mut change = self.unchanged();
        change.alert_registrants(port, Asc::RESERVATIONS_PREEMPTED);
        change.next.registrations.clear();
        change.next.reservation = None;
        Ok(change.counted())
    }

    /// PREEMPT (SPC-4 §5.13.11.4).
    pub(crate) fn preempt(
        &self,
        port: &InitiatorPort,
        key: u64,
        victim_key: u64,
        kind: Option<PersistentType>,
    ) -> Decision {
        self.check_key(port, key)?;
        let takes_over = match &self.reservation {
            Some(held) if held.kind.is_all_registrants() => victim_key == 0,
            Some(_) => victim_key == self.reservation_key(),
            None => false,
        };
        if victim_key == 0 && !takes_over {
            return Err(Refusal::Check(Sense::invalid_parameter_byte(8)));
        }
        let is_victim = |registered: u64| victim_key == 0 || registered == victim_key;
        if !self.registrations.values().any(|&registered| is_victim(registered)) {
            return Err(Refusal::Conflict);
        }
        let mut change = self.unchanged();
        for (victim, _) in self.registrations().filter(|(other, key)| *other != port && is_victim(*key)) {
            change.next.registrations.remove(victim);
            change.attentions.push((victim.clone(), Asc::REGISTRATIONS_PREEMPTED));
            change.preempted.push(victim.clone());
        }
        if takes_over {
            let kind = kind.ok_or(Refusal::Check(Sense::invalid_cdb_bit(2, 3)))?;
            if self.reservation.as_ref().is_some_and(|held| held.kind != kind) {
                change.alert_registrants(port, Asc::RESERVATIONS_RELEASED);
            }
            change.next.reservation = Some(held_by(kind, port));
        }
        Ok(change.counted())
    }

    /// Installs a transition that was committed; no effect if a later state is in force.
    pub(crate) fn commit(&mut self, transition: Transition) {
        if transition.next.revision >= self.revision {
            *self = transition.next;
        }
    }

    /// All service actions but the registering ones need a registration with the right key.
    fn check_key(&self, port: &InitiatorPort, key: u64) -> Result<(), Refusal> {
        if self.registrations.get(port) == Some(&key) { Ok(()) } else { Err(Refusal::Conflict) }
    }

    fn unchanged(&self) -> Transition {
        let next = Self { revision: self.revision.wrapping_add(1), ..self.clone() };
        Transition { next, attentions: Vec::new(), preempted: Vec::new() }
    }
}

impl From<&Reservations> for PersistentState {
    fn from(state: &Reservations) -> Self {
        Self {
            revision: state.revision,
            generation: state.generation,
            registrations: state.registrations.iter().map(|one| (one.port.clone(), one.key)).collect(),
            reservation: state.reservation.clone(),
        }
    }
}

impl Transition {
    /// What the cluster is to commit.
    pub(crate) fn to_base(&self) -> Reservations {
        self.next.to_base()
    }

    /// Whether it leads to `state`.
    pub(crate) fn leads_to(&self, state: &PersistentState) -> bool {
        self.next == *state
    }

    /// Whether the state stays as `current`, but for its number.
    pub(crate) fn changes_nothing(&self, current: &PersistentState) -> bool {
        let next = &self.next;
        (next.generation, &next.registrations, &next.reservation)
            == (current.generation, &current.registrations, &current.reservation)
    }

    /// PRGENERATION counts this change.
    fn counted(mut self) -> Self {
        self.next.generation = self.next.generation.wrapping_add(1);
        self
    }

    /// `asc` for every port still registered, but `port`.
    fn alert_registrants(&mut self, port: &InitiatorPort, asc: Asc) {
        let others = self.next.registrations.keys().filter(|other| *other != port);
        self.attentions.extend(others.map(|other| (other.clone(), asc)));
    }

    /// Ends a registration and, if its port held the reservation alone, that too (SPC-4 §5.13.11.3).
    fn unregister(&mut self, port: &InitiatorPort) {
        let held = self.next.is_holder(port);
        self.next.registrations.remove(port);
        let Some(kind) = self.next.reservation.as_ref().filter(|_| held).map(|reservation| reservation.kind)
        else {
            return;
        };
        if kind.is_all_registrants() && self.next.has_registrations() {
            return;
        }
        self.next.reservation = None;
        if admits_registrants(kind) {
            self.alert_registrants(port, Asc::RESERVATIONS_RELEASED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PersistentType::*;
    use super::*;

    fn port(name: &str) -> InitiatorPort {
        InitiatorPort { name: name.into(), isid: [0; 6] }
    }

    /// Ports a, b, c registered with keys 1, 2, 3; a holds `kind`.
    fn held(kind: PersistentType) -> PersistentState {
        let mut state = PersistentState::default();
        for (name, key) in [("a", 1), ("b", 2), ("c", 3)] {
            let change = state.register(&port(name), 0, key, false).unwrap();
            state.commit(change);
        }
        let change = state.reserve(&port("a"), 1, kind).unwrap();
        state.commit(change);
        state
    }

    fn alerts(change: &Transition) -> Vec<(&str, Asc)> {
        change.attentions.iter().map(|(port, asc)| (port.name.as_str(), *asc)).collect()
    }

    #[test]
    fn registering_needs_the_old_key() {
        let mut state = PersistentState::default();
        assert_eq!(state.register(&port("a"), 9, 1, false), Err(Refusal::Conflict));
        state.commit(state.register(&port("a"), 0, 1, false).unwrap());
        assert_eq!(state.register(&port("a"), 0, 2, false), Err(Refusal::Conflict));
        state.commit(state.register(&port("a"), 0, 2, true).unwrap());
        assert_eq!(
            (state.generation(), state.registrations.values().copied().collect()),
            (2, Vec::from([2]))
        );
        state.commit(state.register(&port("b"), 0, 0, false).unwrap());
        assert_eq!(state.generation(), 2, "nothing changed");
        state.commit(state.register(&port("a"), 2, 0, false).unwrap());
        assert!(!state.has_registrations() && state.generation() == 3);
    }

    #[test]
    fn access_by_type() {
        let all = [
            // registered other: read, write; stranger: read, write
            (WriteExclusive, [true, false, true, false]),
            (ExclusiveAccess, [false, false, false, false]),
            (WriteExclusiveRegistrantsOnly, [true, true, true, false]),
            (ExclusiveAccessRegistrantsOnly, [true, true, false, false]),
            (WriteExclusiveAllRegistrants, [true, true, true, false]),
            (ExclusiveAccessAllRegistrants, [true, true, false, false]),
        ];
        for (kind, expected) in all {
            let state = held(kind);
            let may = |name, access| state.allows(Some(&port(name)), access);
            assert!(may("a", Access::Read) && may("a", Access::Write), "{kind:?}");
            let seen = [
                may("b", Access::Read),
                may("b", Access::Write),
                may("z", Access::Read),
                may("z", Access::Write),
            ];
            assert_eq!(seen, expected, "{kind:?}");
            assert_eq!(state.allows(None, Access::Read), expected[2]);
        }
    }

    #[test]
    fn reserving_again_is_good_only_the_same_way() {
        let state = held(WriteExclusive);
        assert!(state.reserve(&port("a"), 1, WriteExclusive).is_ok());
        assert_eq!(state.reserve(&port("a"), 1, ExclusiveAccess), Err(Refusal::Conflict));
        assert_eq!(state.reserve(&port("b"), 2, WriteExclusive), Err(Refusal::Conflict));
        assert_eq!(state.reserve(&port("a"), 7, WriteExclusive), Err(Refusal::Conflict));
        assert!(
            held(WriteExclusiveAllRegistrants).reserve(&port("b"), 2, WriteExclusiveAllRegistrants).is_ok()
        );
    }

    #[test]
    fn releasing_tells_registrants_whose_access_changed() {
        let change = held(WriteExclusive).release(&port("a"), 1, Some(WriteExclusive)).unwrap();
        assert_eq!((alerts(&change), &change.next.reservation), (Vec::new(), &None));
        let kind = ExclusiveAccessRegistrantsOnly;
        let change = held(kind).release(&port("a"), 1, Some(kind)).unwrap();
        let expected = [("b", Asc::RESERVATIONS_RELEASED), ("c", Asc::RESERVATIONS_RELEASED)];
        assert_eq!(alerts(&change), expected);
        let wrong = held(kind).release(&port("a"), 1, Some(WriteExclusive));
        assert_eq!(wrong, Err(Refusal::Check(Sense::illegal(Asc::INVALID_RELEASE))));
        let stranger = held(kind).release(&port("b"), 2, Some(kind)).unwrap();
        assert!(stranger.next.reservation.is_some(), "no effect for who does not hold it");
    }

    #[test]
    fn unregistering_the_holder_ends_the_reservation_unless_all_hold_it() {
        let gone = |kind| held(kind).register(&port("a"), 1, 0, false).unwrap();
        assert_eq!(gone(ExclusiveAccess).next.reservation, None);
        assert_eq!(alerts(&gone(ExclusiveAccess)), []);
        assert_eq!(alerts(&gone(WriteExclusiveRegistrantsOnly)).len(), 2);
        assert!(gone(WriteExclusiveAllRegistrants).next.reservation.is_some());
        let mut state = held(WriteExclusiveAllRegistrants);
        for (name, key) in [("a", 1), ("b", 2), ("c", 3)] {
            state.commit(state.register(&port(name), key, 0, false).unwrap());
        }
        assert_eq!(state.reservation(), None);
    }

    #[test]
    fn preempting_the_holder_takes_the_reservation_over() {
        let change =
            held(WriteExclusiveRegistrantsOnly).preempt(&port("b"), 2, 1, Some(ExclusiveAccess)).unwrap();
        let expected = [("a", Asc::REGISTRATIONS_PREEMPTED), ("c", Asc::RESERVATIONS_RELEASED)];
        assert_eq!(alerts(&change), expected);
        assert_eq!(change.preempted, [port("a")]);
        assert_eq!(change.next.reservation, Some(held_by(ExclusiveAccess, &port("b"))));
        assert_eq!(change.next.generation(), 4);
    }

    #[test]
    fn preempting_another_removes_its_registration_alone() {
        let state = held(ExclusiveAccess);
        let change = state.preempt(&port("b"), 2, 3, None).unwrap();
        assert_eq!(alerts(&change), [("c", Asc::REGISTRATIONS_PREEMPTED)]);
        assert_eq!(change.next.reservation, state.reservation);
        assert_eq!(state.preempt(&port("b"), 2, 77, None), Err(Refusal::Conflict));
        assert!(matches!(state.preempt(&port("b"), 2, 0, None), Err(Refusal::Check(_))));
        assert_eq!(state.preempt(&port("z"), 2, 3, None), Err(Refusal::Conflict));
    }

    #[test]
    fn key_zero_preempts_all_registrants() {
        let change =
            held(WriteExclusiveAllRegistrants).preempt(&port("b"), 2, 0, Some(WriteExclusive)).unwrap();
        assert_eq!(change.preempted, [port("a"), port("c")]);
        assert_eq!(change.next.reservation, Some(held_by(WriteExclusive, &port("b"))));
    }

    #[test]
    fn clear_forgets_everything() {
        let change = held(ExclusiveAccess).clear(&port("c"), 3).unwrap();
        assert_eq!(alerts(&change).len(), 2);
        assert!(alerts(&change).iter().all(|(_, asc)| *asc == Asc::RESERVATIONS_PREEMPTED));
        assert!(!change.next.has_registrations() && change.next.reservation.is_none());
    }

    #[test]
    fn registrations_are_bounded() {
        let mut state = PersistentState::default();
        for number in 0..MAX_REGISTRATIONS {
            state.commit(state.register(&port(&alloc::format!("{number}")), 0, 1, false).unwrap());
        }
        assert!(matches!(state.register(&port("more"), 0, 1, false), Err(Refusal::Check(_))));
    }
}
