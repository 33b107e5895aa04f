//! One target: its logical units, its nexuses, and the way of a command through them.
//!
//! Each nexus has its own view of the units: one that is masked from it does not exist for it, whichever way it asks.
//!
//! A command passes, in this order: opcode known → LUN known to the nexus → NACA clear → unit attention → reservations → unit served →
//! write protection → its handler. The order is SAM-5 §5.14 (a unit attention is reported before a conflict).

use crate::cdb::Cdb;
use crate::command::{
    Command, Continuation, DataIn, Fault, NexusId, Operation, Outcome, Response, Status, Step,
};
use crate::copy::CopyResults;
use crate::identity::{InitiatorPort, TargetPort};
use crate::opcode::{Handler, Opcode};
use crate::persistent::PersistentState;
use crate::sense::{Asc, Sense, SenseKey};
use crate::unit::{LogicalUnit, UnitConfig};
use crate::{copy, lun, persistent_out, provisioning, verify};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use base::{Reservations, VolumeId};

/// A SCSI target device with one port.
#[derive(Debug)]
pub struct Target {
    pub(crate) port: TargetPort,
    pub(crate) nexuses: BTreeMap<NexusId, InitiatorPort>,
    pub(crate) units: BTreeMap<u16, LogicalUnit>,
    pub(crate) copies: CopyResults,
}

/// A command that has reached its logical unit.
pub(crate) struct Call<'a> {
    pub(crate) command: &'a Command<'a>,
    pub(crate) cdb: Cdb,
    pub(crate) unit: &'a mut LogicalUnit,
    pub(crate) nexuses: &'a BTreeMap<NexusId, InitiatorPort>,
}

impl Target {
    /// A target without logical units.
    #[must_use]
    pub fn new(port: TargetPort) -> Self {
        Self { port, nexuses: BTreeMap::new(), units: BTreeMap::new(), copies: CopyResults::default() }
    }

    /// The logical unit at `lun`.
    #[must_use]
    pub fn unit(&self, lun: u16) -> Option<&LogicalUnit> {
        self.units.get(&lun)
    }

    /// Whether a unit answers `nexus` at this LUN field (for task management: function rejected otherwise).
    #[must_use]
    pub fn has_unit(&self, nexus: NexusId, lun: [u8; 8]) -> bool {
        self.visible(nexus, lun).is_some()
    }

    /// Whether a unit of `volume` exists for `nexus`.
    #[must_use]
    pub fn sees_volume(&self, nexus: NexusId, volume: VolumeId) -> bool {
        self.units.values().any(|unit| unit.config.volume == volume && unit.is_visible_to(nexus))
    }

    /// The unit at this LUN field, if it exists for `nexus`.
    pub(crate) fn visible(&self, nexus: NexusId, lun: [u8; 8]) -> Option<&LogicalUnit> {
        self.units.get(&lun::decode(lun)?).filter(|unit| unit.is_visible_to(nexus))
    }

    /// Likewise, to change it.
    pub(crate) fn visible_mut(&mut self, nexus: NexusId, lun: [u8; 8]) -> Option<&mut LogicalUnit> {
        self.units.get_mut(&lun::decode(lun)?).filter(|unit| unit.is_visible_to(nexus))
    }

    /// Shows a volume at `lun` (0 to 16383), in place of what was there, to those initiators for which `shown` holds.
    /// The LUN list of everyone who saw the old unit or sees the new one has changed.
    pub fn map(&mut self, lun: u16, config: UnitConfig, shown: impl Fn(&InitiatorPort) -> bool) {
        let mut concerned = self.viewers(lun);
        let mut unit = LogicalUnit::new(config);
        for (&nexus, _) in self.nexuses.iter().filter(|(_, port)| shown(port)) {
            unit.attach(nexus);
            concerned.insert(nexus);
        }
        self.units.insert(lun, unit);
        self.luns_changed(&concerned);
    }

    /// Shows `lun` to those initiators for which `shown` holds, and to nobody else. What others set on the unit stays;
    /// for a nexus that loses it, that is an I_T nexus loss.
    pub fn mask(&mut self, lun: u16, shown: impl Fn(&InitiatorPort) -> bool) {
        let Some(unit) = self.units.get_mut(&lun) else { return };
        let mut concerned = BTreeSet::new();
        for (&nexus, port) in &self.nexuses {
            match (unit.is_visible_to(nexus), shown(port)) {
                (false, true) => unit.attach(nexus),
                (true, false) => unit.detach(nexus),
                (true, true) | (false, false) => continue,
            }
            concerned.insert(nexus);
        }
        self.luns_changed(&concerned);
    }

    /// Takes a logical unit away.
    pub fn unmap(&mut self, lun: u16) {
        let concerned = self.viewers(lun);
        self.units.remove(&lun);
        self.luns_changed(&concerned);
    }

    /// The unit has other values behind the same identity (size, write protection, …): nothing that initiators set on it is
    /// lost, and they learn of it by unit attentions.
    pub fn reconfigure(&mut self, lun: u16, config: UnitConfig) {
        if let Some(unit) = self.units.get_mut(&lun)
            && unit.config != config
        {
            unit.reconfigure(config);
        }
    }

    /// The volume has another size: 2A/09 for every nexus.
    pub fn resize(&mut self, lun: u16, blocks: u64) {
        if let Some(unit) = self.units.get(&lun) {
            self.reconfigure(lun, UnitConfig { blocks, ..unit.config.clone() });
        }
    }

    /// Whether the unit is served now; if not, medium commands answer 2/04/0A so that initiators retry. To be told at
    /// every loss of service: a unit that is served anew starts with the persistent reservations last told, without SCSI-2
    /// reservations, and with 29/00 for every nexus (S15).
    pub fn set_served(&mut self, lun: u16, served: bool) {
        if let Some(unit) = self.units.get_mut(&lun) {
            unit.set_served(served);
        }
    }

    /// The unit's persistent reservations as the cluster has committed them: before it is served, and at every change.
    pub fn set_reservations(&mut self, lun: u16, reservations: &Reservations) {
        if let Some(unit) = self.units.get_mut(&lun) {
            unit.set_reservations(PersistentState::from(reservations));
        }
    }

    /// A session entered the full-feature phase. It sees the units at those LUNs for which `shown` holds; each has 29/00
    /// pending for it.
    pub fn attach(&mut self, nexus: NexusId, initiator: InitiatorPort, shown: impl Fn(u16) -> bool) {
        self.nexuses.insert(nexus, initiator);
        for (_, unit) in self.units.iter_mut().filter(|(lun, _)| shown(**lun)) {
            unit.attach(nexus);
        }
    }

    /// The session is gone: its SCSI-2 reservations end, its registrations stay.
    pub fn detach(&mut self, nexus: NexusId) {
        self.nexuses.remove(&nexus);
        self.copies.forget(nexus);
        self.units.values_mut().for_each(|unit| unit.detach(nexus));
    }

    /// LOGICAL UNIT RESET, after the transport has aborted the unit's tasks: 29/03 for every nexus.
    pub fn reset_unit(&mut self, lun: [u8; 8]) {
        if let Some(unit) = lun::decode(lun).and_then(|number| self.units.get_mut(&number)) {
            unit.reset();
        }
    }

    /// TARGET WARM or COLD RESET, after the transport has aborted all tasks.
    pub fn reset_all(&mut self) {
        self.units.values_mut().for_each(LogicalUnit::reset);
    }

    /// CLEAR TASK SET by `nexus`, after the transport has aborted the unit's tasks. `losers` had some.
    pub fn tasks_cleared(&mut self, lun: [u8; 8], nexus: NexusId, losers: &[NexusId]) {
        if let Some(unit) = lun::decode(lun).and_then(|number| self.units.get_mut(&number)) {
            for &loser in losers.iter().filter(|&&loser| loser != nexus) {
                unit.attentions.establish(loser, Asc::COMMANDS_CLEARED);
            }
        }
    }

    /// Starts a command.
    pub fn execute(&mut self, command: &Command<'_>) -> Step {
        let Some(cdb) = Cdb::new(command.cdb) else {
            return self.failed(command, Sense::illegal(Asc::INVALID_OPCODE));
        };
        match self.route(command, &cdb) {
            Ok(step) => step,
            Err(sense) => self.failed(command, sense),
        }
    }

    fn route(&mut self, command: &Command<'_>, cdb: &Cdb) -> Result<Step, Sense> {
        let opcode = Opcode::find(cdb);
        // INQUIRY, REPORT LUNS and REQUEST SENSE also answer where no unit is.
        if let Ok(Opcode { handler: Handler::Target(run), .. }) = opcode {
            check_naca(opcode?, cdb)?;
            return run(self, command, cdb);
        }
        let unit = lun::decode(command.lun).and_then(|number| self.units.get_mut(&number));
        let unit = unit.filter(|unit| unit.is_visible_to(command.nexus));
        let unit = unit.ok_or(Sense::illegal(Asc::UNIT_NOT_SUPPORTED))?;
        if unit.attentions.is_pending(command.nexus)
            && let Some(asc) = unit.attentions.take(command.nexus)
        {
            return Err(Sense::unit_attention(asc));
        }
        let opcode = opcode?;
        if !opcode.exists_on(&unit.config) {
            return Err(Sense::illegal(Asc::INVALID_OPCODE));
        }
        check_naca(opcode, cdb)?;
        let port = self.nexuses.get(&command.nexus);
        if !unit.reservations_allow(opcode, cdb, command.nexus, port) {
            return Ok(Step::Done(Response::status(Status::ReservationConflict)));
        }
        unit.check_medium(opcode.medium)?;
        match opcode.handler {
            Handler::Unit(run) => run(&mut Call { command, cdb: *cdb, unit, nexuses: &self.nexuses }),
            Handler::Target(run) | Handler::Routed(run) => run(self, command, cdb),
        }
    }

    /// Goes on with a command whose operation has ended.
    pub fn resume(&mut self, command: &Command<'_>, continuation: Continuation, outcome: Outcome) -> Step {
        match self.go_on(command, continuation, outcome) {
            Ok(step) => step,
            Err(sense) => self.failed(command, sense),
        }
    }

    fn go_on(
        &mut self,
        command: &Command<'_>,
        continuation: Continuation,
        outcome: Outcome,
    ) -> Result<Step, Sense> {
        if let (Continuation::Copy { index, done }, Some(cdb)) = (continuation, Cdb::new(command.cdb)) {
            return copy::copied(self, command, &cdb, (index, done), outcome);
        }
        let unit = lun::decode(command.lun).and_then(|number| self.units.get_mut(&number));
        let unit = unit.filter(|unit| unit.is_visible_to(command.nexus));
        // The unit was unmapped or masked meanwhile: what was asked for is done, in whole or in part, or not.
        let (Some(unit), Some(cdb)) = (unit, Cdb::new(command.cdb)) else {
            return Err(Sense::new(SenseKey::AbortedCommand, Asc::REPORTED_LUNS_CHANGED));
        };
        if !matches!(continuation, Continuation::Reserve { .. }) {
            check_outcome(outcome)?;
        }
        let mut call = Call { command, cdb, unit, nexuses: &self.nexuses };
        match continuation {
            Continuation::Finish => Ok(Step::Done(Response::good())),
            Continuation::FinishRead { len_bytes } => Ok(Step::Done(Response {
                status: Status::Good,
                sense: None,
                data_in: DataIn::Medium { len_bytes },
            })),
            Continuation::VerifyWritten => verify::verify_written(&mut call),
            Continuation::Unmap { next } => provisioning::unmap_from(&mut call, next),
            // Gone on with above, whether or not the command's own unit is still there.
            Continuation::Copy { .. } => Err(Sense::new(SenseKey::HardwareError, Asc::INTERNAL_FAILURE)),
            Continuation::LbaStatus => provisioning::lba_status(&mut call, outcome),
            Continuation::Reserve { change } => {
                let changing = call.unit.changing.take_if(|changing| changing.number == change);
                if outcome == Outcome::Failed(Fault::Contended) {
                    return Ok(Step::Done(Response::status(Status::Busy)));
                }
                check_outcome(outcome)?;
                // The unit was served anew meanwhile: the change is in force, but those whom it concerned heard 29/00.
                let changing =
                    changing.ok_or(Sense::new(SenseKey::NotReady, Asc::ACCESS_STATE_TRANSITION))?;
                Ok(persistent_out::committed(&mut call, changing))
            }
        }
    }

    /// CHECK CONDITION, in the sense format that the unit's control mode page asks for.
    fn failed(&self, command: &Command<'_>, mut sense: Sense) -> Step {
        let unit = self.visible(command.nexus, command.lun);
        sense.descriptor_format = unit.is_some_and(|unit| unit.mode.descriptor_sense);
        Step::Done(Response::from(sense))
    }

    /// The nexuses that see the unit at `lun`.
    fn viewers(&self, lun: u16) -> BTreeSet<NexusId> {
        let Some(unit) = self.units.get(&lun) else { return BTreeSet::new() };
        self.nexuses.keys().copied().filter(|&nexus| unit.is_visible_to(nexus)).collect()
    }

    /// 3F/0E on every unit that they see, for the nexuses whose LUN list has changed.
    fn luns_changed(&mut self, concerned: &BTreeSet<NexusId>) {
        for unit in self.units.values_mut() {
            for &nexus in concerned {
                unit.attentions.establish(nexus, Asc::REPORTED_LUNS_CHANGED);
            }
        }
    }
}

/// NORMACA is 0: a CDB that asks for ACA is refused (SAM-5 §5.2).
fn check_naca(opcode: &Opcode, cdb: &Cdb) -> Result<(), Sense> {
    let at = opcode.control_at();
    if !cdb.bit(at, 2) {
        return Ok(());
    }
    Err(Sense::invalid_cdb_bit(u16::try_from(at).unwrap_or(0), 2))
}

fn check_outcome(outcome: Outcome) -> Result<(), Sense> {
    let medium = |asc, lba: base::Lba| Sense::new(SenseKey::MediumError, asc).with_information(lba.0);
    Err(match outcome {
        Outcome::Done | Outcome::Provisioning { .. } => return Ok(()),
        Outcome::Miscompare { offset_bytes } => {
            Sense::new(SenseKey::Miscompare, Asc::MISCOMPARE).with_information(offset_bytes)
        }
        Outcome::Failed(Fault::Unreadable(lba)) => medium(Asc::UNRECOVERED_READ_ERROR, lba),
        Outcome::Failed(Fault::Unwritable(lba)) => medium(Asc::WRITE_ERROR, lba),
        Outcome::Failed(Fault::OutOfSpace) => Sense::new(SenseKey::DataProtect, Asc::SPACE_ALLOCATION_FAILED),
        Outcome::Failed(Fault::NotServed) => Sense::new(SenseKey::NotReady, Asc::ACCESS_STATE_TRANSITION),
        Outcome::Failed(Fault::Contended | Fault::Internal) => {
            Sense::new(SenseKey::HardwareError, Asc::INTERNAL_FAILURE)
        }
    })
}

impl Call<'_> {
    /// GOOD with parameter data, cut to the allocation length.
    pub(crate) fn parameters(bytes: Vec<u8>, allocation_len: u64) -> Step {
        Step::Done(Response::parameters(cut(bytes, allocation_len)))
    }

    /// An operation after which the command ends.
    pub(crate) fn finish_with(operation: Operation) -> Step {
        Step::Backend(operation, Continuation::Finish)
    }

    /// GOOD without data.
    pub(crate) fn good() -> Step {
        Step::Done(Response::good())
    }

    /// The nexus's port. A nexus that was never attached has none and cannot register.
    pub(crate) fn initiator(&self) -> Option<&InitiatorPort> {
        self.nexuses.get(&self.command.nexus)
    }

    /// The parameter list, `len` bytes of it as the CDB says; 5/1A/00 if the initiator sent less.
    pub(crate) fn parameter_list(&self, len: u64) -> Result<&[u8], Sense> {
        usize::try_from(len)
            .ok()
            .and_then(|len| self.command.parameters.get(..len))
            .ok_or(Sense::illegal(Asc::PARAMETER_LIST_LENGTH))
    }
}

/// The first `allocation_len` bytes.
pub(crate) fn cut(mut bytes: Vec<u8>, allocation_len: u64) -> Vec<u8> {
    bytes.truncate(usize::try_from(allocation_len).unwrap_or(usize::MAX));
    bytes
}

#[cfg(test)]
mod tests {
    use crate::testing::{A, B, Bench};
    use crate::*;
    use base::{ClusterId, VolumeId};

    const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];

    #[test]
    fn a_new_nexus_hears_of_the_power_on_once() {
        let mut bench = Bench::fresh(|_| {});
        bench.good(&[0x12, 0, 0, 0, 5, 0], &[]);
        bench.good(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], &[]);
        bench.refused(&READ, 0x6, (0x29, 0), None);
        bench.good(&READ, &[]);
    }

    #[test]
    fn a_lun_without_unit() {
        let mut bench = Bench::ready();
        for lun in [[0, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0], [0xc1, 1, 0, 0, 0, 0, 0, 0]] {
            bench.lun = lun;
            assert!(!bench.target.has_unit(bench.nexus, lun));
            bench.refused(&READ, 0x5, (0x25, 0), None);
        }
    }

    #[test]
    fn unknown_commands() {
        let mut bench = Bench::ready();
        bench.refused(
            &[0x84, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0],
            0x5,
            (0x24, 0),
            Some((1, Some(4))),
        );
        bench.refused(&[0x85; 16], 0x5, (0x20, 0), None);
        bench.refused(&[0x7f; 32], 0x5, (0x20, 0), None);
        bench.refused(&[], 0x5, (0x20, 0), None);
        bench.refused(
            &[0x9e, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            0x5,
            (0x24, 0),
            Some((1, Some(4))),
        );
        assert_eq!(command_name(&READ), Some("READ (10)"));
        assert_eq!(command_name(&[0x85]), None);
    }

    #[test]
    fn live_changes_raise_attentions() {
        let mut bench = Bench::ready();
        bench.target.resize(0, 4096);
        bench.target.resize(0, 4096);
        bench.target.map(1, UnitConfig::new(ClusterId(1), VolumeId(2), 8), |_| true);
        bench.refused(&READ, 0x6, (0x2a, 9), None);
        bench.refused(&READ, 0x6, (0x3f, 0x0e), None);
        bench.good(&READ, &[]);
        bench.target.unmap(1);
        bench.refused(&READ, 0x6, (0x3f, 0x0e), None);
        bench.target.unmap(1);
        bench.good(&READ, &[]);
        assert_eq!(bench.target.unit(0).unwrap().config().blocks, 4096);
    }

    #[test]
    fn service_that_begins_anew_has_the_committed_reservations_and_no_others() {
        let mut bench = Bench::ready();
        let mut list = [0; 24];
        list[15] = 1;
        bench.good(&[0x5f, 0x06, 0, 0, 0, 0, 0, 0, 24, 0], &list);
        list.swap(7, 15);
        bench.good(&[0x5f, 0x01, 3, 0, 0, 0, 0, 0, 24, 0], &list);
        bench.nexus = B;
        for begins in [|_: &mut Target| {}, |target: &mut Target| target.set_served(0, false)] {
            begins(&mut bench.target);
            bench.target.set_served(0, true);
            let _attention = bench.send(&READ, &[]);
            bench.conflicts(&READ, &[]);
        }
        // Another node: a unit that knows nothing is told, then serves.
        let mut other = Bench::ready();
        other.good(&[0x16, 0, 0, 0, 0, 0], &[]);
        other.target.set_served(0, false);
        other.target.set_reservations(0, bench.ram.committed.as_ref().unwrap());
        other.target.set_served(0, true);
        other.refused(&READ, 0x6, (0x29, 0), None);
        other.good(&READ, &[]);
        other.nexus = B;
        other.refused(&READ, 0x6, (0x29, 0), None);
        other.conflicts(&READ, &[]);
    }

    #[test]
    fn a_change_in_doubt_that_turns_out_committed_is_told_like_a_power_on() {
        let mut bench = Bench::ready();
        let port = InitiatorPort { name: "iqn.2026-01.test:b".into(), isid: [0x80, 0, 0, 0, 0, 1] };
        let late = base::Reservations {
            revision: 1,
            generation: 1,
            registrations: [base::Registration { port, key: 7 }].into(),
            reservation: None,
        };
        bench.target.set_reservations(0, &late);
        bench.target.set_reservations(0, &late);
        bench.refused(&READ, 0x6, (0x29, 0), None);
        assert_eq!(bench.data_in(&[0x5e, 0, 0, 0, 0, 0, 0, 0, 16, 0])[8..], [0, 0, 0, 0, 0, 0, 0, 7]);
    }

    #[test]
    fn a_cleared_task_set_is_told_to_the_losers() {
        let mut bench = Bench::ready();
        bench.target.tasks_cleared([0; 8], A, &[A, B]);
        bench.good(&READ, &[]);
        bench.nexus = B;
        bench.refused(&READ, 0x6, (0x2f, 0), None);
    }

    #[test]
    fn a_unit_unmapped_under_a_command_ends_it() {
        let mut bench = Bench::ready();
        let command = Command { nexus: A, lun: [0; 8], cdb: &READ, offered_len: 0, parameters: &[] };
        let Step::Backend(_, continuation) = bench.target.execute(&command) else { panic!("no operation") };
        bench.target.unmap(0);
        let Step::Done(response) = bench.target.resume(&command, continuation, Outcome::Done) else {
            panic!("not done")
        };
        assert_eq!(response.sense.map(|sense| sense.key), Some(SenseKey::AbortedCommand));
    }

    const REPORT_LUNS: [u8; 12] = [0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    const INQUIRY: [u8; 6] = [0x12, 0, 0, 0, 1, 0];
    const WRITE: [u8; 10] = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];

    #[test]
    fn a_masked_unit_does_not_exist_for_the_nexus() {
        let mut bench = Bench::ready();
        bench.target.map(3, UnitConfig::new(ClusterId(1), VolumeId(2), 8), |_| true);
        for nexus in [A, B] {
            bench.nexus = nexus;
            bench.data_in(&REPORT_LUNS);
        }
        bench.target.mask(0, |port| port.name.ends_with(":a"));
        // B has lost LUN 0, which answers REPORT LUNS all the same.
        assert_eq!(bench.data_in(&REPORT_LUNS)[..16], [0, 0, 0, 8, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bench.data_in(&INQUIRY), [0x7f], "qualifier 3");
        bench.refused(&[0x12, 1, 0x83, 0, 255, 0], 0x5, (0x24, 0), Some((2, None)));
        bench.refused(&READ, 0x5, (0x25, 0), None);
        assert_eq!(bench.data_in(&[0x03, 1, 0, 0, 4, 0]), [0x72, 5, 0x25, 0]);
        assert!(!bench.target.has_unit(B, [0; 8]) && bench.target.has_unit(A, [0; 8]));
        // For A nothing has changed.
        bench.nexus = A;
        bench.good(&READ, &[]);
        assert_eq!(bench.data_in(&REPORT_LUNS)[3], 16);
        bench.target.mask(0, |_| true);
        bench.good(&READ, &[]);
        bench.nexus = B;
        bench.refused(&READ, 0x6, (0x29, 0), None);
        bench.refused(&READ, 0x6, (0x3f, 0x0e), None);
        bench.good(&READ, &[]);
        bench.lun[1] = 3;
        bench.refused(&[0; 6], 0x6, (0x29, 0), None);
        bench.refused(&[0; 6], 0x6, (0x3f, 0x0e), None);
        bench.good(&[0; 6], &[]);
    }

    #[test]
    fn only_those_concerned_hear_of_a_change_of_luns() {
        let mut bench = Bench::ready();
        bench.target.map(1, UnitConfig::new(ClusterId(1), VolumeId(2), 8), |port| port.name.ends_with(":b"));
        bench.good(&READ, &[]);
        bench.nexus = B;
        bench.refused(&READ, 0x6, (0x3f, 0x0e), None);
        bench.target.mask(1, |_| false);
        bench.refused(&READ, 0x6, (0x3f, 0x0e), None);
        bench.target.unmap(1);
        bench.good(&READ, &[]);
    }

    #[test]
    fn masking_is_a_nexus_loss_for_who_loses_the_unit_alone() {
        let mut bench = Bench::ready();
        bench.nexus = B;
        bench.good(&[0x16, 0, 0, 0, 0, 0], &[]);
        bench.nexus = A;
        bench.conflicts(&READ, &[]);
        bench.target.mask(0, |port| port.name.ends_with(":a"));
        bench.good(&READ, &[]);
        bench.good(&[0x16, 0, 0, 0, 0, 0], &[]);
        bench.target.mask(0, |_| true);
        bench.nexus = B;
        bench.refused(&READ, 0x6, (0x29, 0), None);
        bench.refused(&READ, 0x6, (0x3f, 0x0e), None);
        bench.conflicts(&READ, &[]);
    }

    #[test]
    fn write_protection_changes_under_reservations_and_mode_pages() {
        let mut bench = Bench::ready();
        let mut list = [0; 24];
        list[15] = 1;
        bench.good(&[0x5f, 0x06, 0, 0, 0, 0, 0, 0, 24, 0], &list);
        let config = bench.target.unit(0).unwrap().config().clone();
        bench.target.reconfigure(0, UnitConfig { read_only: true, ..config.clone() });
        bench.target.reconfigure(0, UnitConfig { read_only: true, ..config.clone() });
        bench.refused_with(&WRITE, &[0; 512], 0x6, (0x2a, 1), None);
        bench.refused_with(&WRITE, &[0; 512], 0x7, (0x27, 0), None);
        bench.refused_with(&[0x42, 0, 0, 0, 0, 0, 0, 0, 8, 0], &[0; 8], 0x7, (0x27, 0), None);
        bench.good(&READ, &[]);
        assert_eq!(bench.data_in(&[0x1a, 8, 0x0a, 0, 255, 0])[2], 0x90, "WP");
        assert_eq!(bench.data_in(&[0x5e, 0, 0, 0, 0, 0, 0, 0, 16, 0])[7], 8, "the registration stays");
        bench.target.reconfigure(0, config);
        bench.refused_with(&WRITE, &[0; 512], 0x6, (0x2a, 1), None);
        bench.good(&WRITE, &[0; 512]);
    }

    #[test]
    fn another_geometry_is_told_as_capacity_and_inquiry_data() {
        let mut bench = Bench::ready();
        let config = bench.target.unit(0).unwrap().config().clone();
        bench.target.reconfigure(0, UnitConfig { thin: false, physical_4k: false, ..config });
        bench.refused(&READ, 0x6, (0x2a, 9), None);
        bench.refused(&READ, 0x6, (0x3f, 3), None);
        bench.good(&READ, &[]);
        assert_eq!(bench.data_in(&[0x12, 1, 0xb2, 0, 255, 0]), [0, 0xb2, 0, 4, 0, 0, 0, 0]);
        assert_eq!(bench.data_in(&[0x12, 1, 0xb0, 0, 255, 0])[6..8], [0, 1]);
    }

    #[test]
    fn a_unit_masked_under_a_command_ends_it() {
        let mut bench = Bench::ready();
        let command = Command { nexus: A, lun: [0; 8], cdb: &READ, offered_len: 0, parameters: &[] };
        let Step::Backend(_, continuation) = bench.target.execute(&command) else { panic!("no operation") };
        bench.target.mask(0, |_| false);
        for outcome in [Outcome::Done, Outcome::Failed(Fault::Internal)] {
            let Step::Done(response) = bench.target.resume(&command, continuation, outcome) else {
                panic!("not done")
            };
            assert_eq!(response.sense.map(|sense| sense.key), Some(SenseKey::AbortedCommand));
        }
    }
}
