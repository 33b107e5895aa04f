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

#[cfg(test)]
mod tests {
    use crate::testing::{A, B, Bench};

    const RESERVE: [u8; 6] = [0x16, 0, 0, 0, 0, 0];
    const RELEASE: [u8; 6] = [0x17, 0, 0, 0, 0, 0];
    const MODE_SENSE: [u8; 6] = [0x1a, 0, 0x3f, 0, 255, 0];

    #[test]
    fn the_other_nexus_is_kept_out() {
        let mut bench = Bench::ready();
        bench.good(&RESERVE, &[]);
        bench.good(&RESERVE, &[]);
        bench.nexus = B;
        bench.conflicts(&RESERVE, &[]);
        bench.conflicts(&[0; 6], &[]);
        bench.conflicts(&MODE_SENSE, &[]);
        bench.conflicts(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[]);
        bench.good(&RELEASE, &[]);
        bench.conflicts(&RESERVE, &[]);
        bench.good(&[0x12, 0, 0, 0, 5, 0], &[]);
        bench.good(&[0x03, 0, 0, 0, 5, 0], &[]);
        bench.good(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
        bench.nexus = A;
        bench.good(&MODE_SENSE, &[]);
        bench.good(&[0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
        bench.nexus = B;
        bench.good(&[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
    }

    #[test]
    fn it_ends_with_the_nexus_and_with_a_reset() {
        let mut bench = Bench::ready();
        bench.good(&RESERVE, &[]);
        bench.target.detach(A);
        bench.nexus = B;
        bench.good(&RESERVE, &[]);
        bench.target.reset_all();
        bench.refused(&[0; 6], 0x6, (0x29, 3), None);
        bench.target.attach(A, crate::InitiatorPort { name: "iqn.x".into(), isid: [0; 6] }, |_| true);
        bench.nexus = A;
        bench.refused(&[0; 6], 0x6, (0x29, 0), None);
        bench.good(&RESERVE, &[]);
    }

    #[test]
    fn it_excludes_persistent_reservations_and_is_excluded_by_them() {
        let mut bench = Bench::ready();
        let mut list = [0; 24];
        list[15] = 1;
        let register = [0x5f, 0x06, 0, 0, 0, 0, 0, 0, 24, 0];
        bench.good(&RESERVE, &[]);
        bench.conflicts(&register, &list);
        bench.conflicts(&[0x5e, 0, 0, 0, 0, 0, 0, 0, 8, 0], &[]);
        bench.good(&RELEASE, &[]);
        bench.good(&register, &list);
        bench.conflicts(&RESERVE, &[]);
    }

    #[test]
    fn third_party_and_extents_are_refused() {
        let mut bench = Bench::ready();
        bench.refused(&[0x16, 0x10, 0, 0, 0, 0], 0x5, (0x24, 0), Some((1, Some(4))));
        bench.refused(&[0x16, 0x01, 0, 0, 0, 0], 0x5, (0x24, 0), Some((1, Some(0))));
    }
}
