//! RESERVE and RELEASE, (6) and (10) (SPC-2 §7.17, §7.21): the whole unit for one nexus. VMFS needs them where it cannot
//! use COMPARE AND WRITE. They end with the nexus, a reset, or the storage process (S15).

use crate::command::{NexusId, Response, Status, Step};
use crate::sense::Sense;
use crate::target::Call;

/// Who has reserved the unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scsi2Reservation {
    holder: Option<NexusId>,
}

impl Scsi2Reservation {
    pub(crate) fn is_held(self) -> bool {
        self.holder.is_some()
    }

    pub(crate) fn is_held_by_other(self, nexus: NexusId) -> bool {
        self.holder.is_some_and(|holder| holder != nexus)
    }

    /// No effect for a nexus that is not the holder.
    pub(crate) fn release(&mut self, nexus: NexusId) {
        if self.holder == Some(nexus) {
            self.holder = None;
        }
    }
}

/// RESERVE. A second one by the holder is good.
pub(crate) fn reserve(call: &mut Call<'_>) -> Result<Step, Sense> {
    refuse_obsolete(call)?;
    if call.unit.reserved.is_held_by_other(call.command.nexus) {
        return Ok(Step::Done(Response::status(Status::ReservationConflict)));
    }
    call.unit.reserved.holder = Some(call.command.nexus);
    Ok(Call::good())
}

/// RELEASE.
pub(crate) fn release(call: &mut Call<'_>) -> Result<Step, Sense> {
    refuse_obsolete(call)?;
    call.unit.reserved.release(call.command.nexus);
    Ok(Call::good())
}

/// Third-party and extent reservations (bits 4 and 0 of byte 1; LONGID, bit 1, of the 10-byte form).
fn refuse_obsolete(call: &Call<'_>) -> Result<(), Sense> {
    for bit in [4, 1, 0] {
        if call.cdb.bit(1, bit) {
            return Err(Sense::invalid_cdb_bit(1, bit));
        }
    }
    Ok(())
}
