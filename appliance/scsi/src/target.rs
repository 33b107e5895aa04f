//! One target: its logical units, its nexuses, and the way of a command through them.

use crate::command::{Command, Continuation, NexusId, Outcome, Response, Step};
use crate::identity::{InitiatorPort, TargetPort};
use crate::lun;
use crate::sense::{Asc, Sense};
use crate::unit::{LogicalUnit, UnitConfig};
use alloc::collections::BTreeMap;

/// A SCSI target device with one port.
#[derive(Debug)]
pub struct Target {
    pub(crate) port: TargetPort,
    pub(crate) nexuses: BTreeMap<NexusId, InitiatorPort>,
    pub(crate) units: BTreeMap<u16, LogicalUnit>,
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

    /// Whether the unit is served now; if not, medium commands answer 2/04/0A so that initiators retry.
    pub fn set_served(&mut self, lun: u16, served: bool) {
        if let Some(unit) = self.units.get_mut(&lun) {
            unit.served = served;
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

    /// LOGICAL UNIT RESET, after the transport has aborted the unit's tasks.
    pub fn reset_unit(&mut self, lun: [u8; 8]) {
        if let Some(unit) = lun::decode(lun).and_then(|number| self.units.get_mut(&number)) {
            unit.attentions.establish_all(Asc::DEVICE_RESET, None);
        }
    }

    /// TARGET WARM or COLD RESET, after the transport has aborted all tasks.
    pub fn reset_all(&mut self) {
        for unit in self.units.values_mut() {
            unit.attentions.establish_all(Asc::DEVICE_RESET, None);
        }
    }

    /// CLEAR TASK SET by `nexus`, after the transport has aborted the unit's tasks. `losers` had some.
    pub fn tasks_cleared(&mut self, lun: [u8; 8], nexus: NexusId, losers: &[NexusId]) {
        if let Some(unit) = lun::decode(lun).and_then(|number| self.units.get_mut(&number)) {
            for &loser in losers.iter().filter(|&&loser| loser != nexus) {
                unit.attentions.establish(loser, Asc::COMMANDS_CLEARED);
            }
        }
    }

    /// Whether a unit answers at this LUN field (for task management: function rejected otherwise).
    #[must_use]
    pub fn has_unit(&self, lun: [u8; 8]) -> bool {
        lun::decode(lun).is_some_and(|number| self.units.contains_key(&number))
    }

    /// Starts a command.
    pub fn execute(&mut self, command: &Command<'_>) -> Step {
        let _ = command;
        Step::Done(Response::from(Sense::illegal(Asc::INVALID_OPCODE)))
    }

    /// Goes on with a command whose operation has ended.
    pub fn resume(&mut self, command: &Command<'_>, continuation: Continuation, outcome: Outcome) -> Step {
        let _ = (command, continuation, outcome);
        Step::Done(Response::from(Sense::illegal(Asc::INVALID_OPCODE)))
    }

    fn luns_changed(&mut self) {
        for unit in self.units.values_mut() {
            unit.attentions.establish_all(Asc::REPORTED_LUNS_CHANGED, None);
        }
    }
}
