//! TEST UNIT READY, REQUEST SENSE, START STOP UNIT, LOG SENSE, READ DEFECT DATA.

use crate::cdb::Cdb;
use crate::command::{Command, Operation, Response, Step};
use crate::lun;
use crate::opcode::Medium;
use crate::sense::{Asc, Sense, SenseKey};
use crate::target::{Call, Target, cut};
use base::Writer;

/// TEST UNIT READY: that the unit is served was checked on the way here.
pub(crate) fn test_unit_ready(_: &mut Call<'_>) -> Result<Step, Sense> {
    Ok(Call::good())
}

/// REQUEST SENSE (SPC-4 §6.39): a pending unit attention, else whether the unit is ready. GOOD in any case.
pub(crate) fn request_sense(target: &mut Target, command: &Command<'_>, cdb: &Cdb) -> Result<Step, Sense> {
    let unit = lun::decode(command.lun).and_then(|number| target.units.get_mut(&number));
    let mut sense = match unit {
        None => Sense::illegal(Asc::UNIT_NOT_SUPPORTED),
        Some(unit) => match unit.attentions.take(command.nexus) {
            Some(asc) => Sense::unit_attention(asc),
            None => match unit.check_medium(Medium::Needed) {
                Ok(()) => Sense::new(SenseKey::NoSense, Asc::NONE),
                Err(sense) => sense,
            },
        },
    };
    sense.descriptor_format = cdb.bit(1, 0);
    let bytes = sense.encode().as_slice().to_vec();
    Ok(Step::Done(Response::parameters(cut(bytes, u64::from(cdb.byte(4))))))
}

/// START STOP UNIT (SBC-3 §5.24). A volume that several hosts share has no power state for one of them to change: STOP
/// makes everything durable (S1) and leaves the unit ready; nothing can be loaded or ejected.
pub(crate) fn start_stop(call: &mut Call<'_>) -> Result<Step, Sense> {
    let flags = call.cdb.byte(4);
    if flags >> 4 != 0 {
        return Err(Sense::invalid_cdb_bit(4, 7)); // POWER CONDITION
    }
    if flags & 0x02 != 0 {
        return Err(Sense::invalid_cdb_bit(4, 1)); // LOEJ
    }
    if flags & 0x01 != 0 {
        return Ok(Call::good());
    }
    Ok(Call::finish_with(Operation::Flush))
}

/// LOG SENSE: page 00h alone, which lists itself.
pub(crate) fn log_sense(call: &mut Call<'_>) -> Result<Step, Sense> {
    if call.cdb.byte(1) & 0x01 != 0 {
        return Err(Sense::invalid_cdb_bit(1, 0)); // SP
    }
    if call.cdb.byte(1) & 0x02 != 0 {
        return Err(Sense::invalid_cdb_bit(1, 1)); // PPC
    }
    if call.cdb.byte(2) & 0x3f != 0 {
        return Err(Sense::invalid_cdb_bit(2, 5));
    }
    let bytes: &[u8] = match call.cdb.byte(3) {
        0x00 => &[0x00, 0x00, 0, 1, 0x00],
        // Supported pages and subpages.
        0xff => &[0x40, 0xff, 0, 4, 0x00, 0x00, 0x00, 0xff],
        _ => return Err(Sense::invalid_cdb_byte(3)),
    };
    Ok(Call::parameters(bytes.to_vec(), u64::from(call.cdb.u16(7))))
}

/// READ DEFECT DATA (10): both lists are empty, in whichever format.
pub(crate) fn read_defect_data10(call: &mut Call<'_>) -> Result<Step, Sense> {
    let asked = call.cdb.byte(2) & 0x1f;
    Ok(Call::parameters([0, asked, 0, 0].to_vec(), u64::from(call.cdb.u16(7))))
}

/// READ DEFECT DATA (12).
pub(crate) fn read_defect_data12(call: &mut Call<'_>) -> Result<Step, Sense> {
    let mut out = Writer::with_capacity(8);
    out.u8(0).u8(call.cdb.byte(1) & 0x1f).pad_to(8);
    Ok(Call::parameters(out.into_vec(), u64::from(call.cdb.u32(6))))
}
