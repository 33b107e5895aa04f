//! One target: its logical units, its nexuses, and the way of a command through them.
//!
//! A command passes, in this order: opcode known → LUN known → NACA clear → unit attention → reservations → unit served →
//! write protection → its handler. The order is SAM-5 §5.14 (a unit attention is reported before a conflict).

use crate::cdb::Cdb;
use crate::command::{
    Command, Continuation, DataIn, Fault, NexusId, Operation, Outcome, Response, Status, Step,
};
use crate::identity::{InitiatorPort, TargetPort};
use crate::opcode::{Handler, Opcode};
use crate::persistent::PersistentState;
use crate::sense::{Asc, Sense, SenseKey};
use crate::unit::{LogicalUnit, UnitConfig};
use crate::{lun, persistent_out, provisioning, verify};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use base::Reservations;

/// A SCSI target device with one port.
#[derive(Debug)]
pub struct Target {
    pub(crate) port: TargetPort,
    pub(crate) nexuses: BTreeMap<NexusId, InitiatorPort>,
    pub(crate) units: BTreeMap<u16, LogicalUnit>,
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
        Self { port, nexuses: BTreeMap::new(), units: BTreeMap::new() }
    }

    /// The logical unit at `lun`.
    #[must_use]
    pub fn unit(&self, lun: u16) -> Option<&LogicalUnit> {
        self.units.get(&lun)
    }

    /// Whether a unit answers at this LUN field (for task management: function rejected otherwise).
    #[must_use]
    pub fn has_unit(&self, lun: [u8; 8]) -> bool {
        lun::decode(lun).is_some_and(|number| self.units.contains_key(&number))
    }

    /// Shows a volume at `lun` (0 to 16383), in place of what was there.
    pub fn map(&mut self, lun: u16, config: UnitConfig) {
        let mut unit = LogicalUnit::new(config);
        self.nexuses.keys().for_each(|&nexus| unit.attach(nexus));
        self.units.insert(lun, unit);
        self.luns_changed();
    }

    /// Takes a logical unit away.
    pub fn unmap(&mut self, lun: u16) {
        if self.units.remove(&lun).is_some() {
            self.luns_changed();
        }
    }

    /// The volume has another size: 2A/09 for every nexus.
    pub fn resize(&mut self, lun: u16, blocks: u64) {
        if let Some(unit) = self.units.get_mut(&lun)
            && unit.config.blocks != blocks
        {
            unit.config.blocks = blocks;
            unit.attentions.establish_all(Asc::CAPACITY_CHANGED, None);
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

    /// A session entered the full-feature phase. Every unit has 29/00 pending for it.
    pub fn attach(&mut self, nexus: NexusId, initiator: InitiatorPort) {
        self.nexuses.insert(nexus, initiator);
        self.units.values_mut().for_each(|unit| unit.attach(nexus));
    }

    /// The session is gone: its SCSI-2 reservations end, its registrations stay.
    pub fn detach(&mut self, nexus: NexusId) {
        self.nexuses.remove(&nexus);
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
            Handler::Target(run) => run(self, command, cdb),
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
        if !matches!(continuation, Continuation::Reserve { .. }) {
            check_outcome(outcome)?;
        }
        let unit = lun::decode(command.lun).and_then(|number| self.units.get_mut(&number));
        // The unit was unmapped meanwhile; what was asked for is done all the same.
        let (Some(unit), Some(cdb)) = (unit, Cdb::new(command.cdb)) else {
            return Err(Sense::new(SenseKey::AbortedCommand, Asc::REPORTED_LUNS_CHANGED));
        };
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
        let unit = lun::decode(command.lun).and_then(|number| self.units.get(&number));
        sense.descriptor_format = unit.is_some_and(|unit| unit.mode.descriptor_sense);
        Step::Done(Response::from(sense))
    }

    fn luns_changed(&mut self) {
        for unit in self.units.values_mut() {
            unit.attentions.establish_all(Asc::REPORTED_LUNS_CHANGED, None);
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
            assert!(!bench.target.has_unit(lun));
            bench.refused(&READ, 0x5, (0x25, 0), None);
        }
    }

    #[test]
    fn unknown_commands() {
        let mut bench = Bench::ready();
        bench.refused(&[0x83; 16], 0x5, (0x20, 0), None);
        bench.refused(&[0x7f; 32], 0x5, (0x20, 0), None);
        bench.refused(&[], 0x5, (0x20, 0), None);
        bench.refused(
            &[0x9e, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            0x5,
            (0x24, 0),
            Some((1, Some(4))),
        );
        assert_eq!(command_name(&READ), Some("READ (10)"));
        assert_eq!(command_name(&[0x83]), None);
    }

    #[test]
    fn live_changes_raise_attentions() {
        let mut bench = Bench::ready();
        bench.target.resize(0, 4096);
        bench.target.resize(0, 4096);
        bench.target.map(1, UnitConfig::new(ClusterId(1), VolumeId(2), 8));
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
}
