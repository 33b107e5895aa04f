//! TEST UNIT READY, REQUEST SENSE, START STOP UNIT, LOG SENSE, READ DEFECT DATA.

use crate::cdb::Cdb;
use crate::command::{Command, Operation, Response, Step};
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
    let unit = target.visible_mut(command.nexus, command.lun);
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

#[cfg(test)]
mod tests {
    use crate::testing::Bench;
    use crate::{Operation, Status};

    #[test]
    fn request_sense_takes_the_unit_attention() {
        let mut bench = Bench::fresh(|_| {});
        let data = bench.data_in(&[0x03, 0, 0, 0, 252, 0]);
        assert_eq!(data, [0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x29, 0, 0, 0, 0, 0]);
        assert_eq!(bench.data_in(&[0x03, 1, 0, 0, 252, 0]), [0x72, 0, 0, 0, 0, 0, 0, 0]);
        bench.good(&[0; 6], &[]);
        bench.lun[1] = 5;
        assert_eq!(bench.data_in(&[0x03, 1, 0, 0, 4, 0]), [0x72, 5, 0x25, 0]);
    }

    #[test]
    fn a_unit_that_is_not_served_is_not_ready() {
        let mut bench = Bench::ready();
        bench.target.set_served(0, false);
        bench.refused(&[0; 6], 0x2, (0x04, 0x0a), None);
        bench.refused(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], 0x2, (0x04, 0x0a), None);
        assert_eq!(bench.data_in(&[0x03, 1, 0, 0, 4, 0]), [0x72, 2, 0x04, 0x0a]);
        assert_eq!(bench.data_in(&[0x12, 0, 0, 0, 1, 0]), [0]);
        bench.target.set_served(0, true);
        bench.refused(&[0; 6], 0x6, (0x29, 0), None);
        bench.good(&[0; 6], &[]);
    }

    #[test]
    fn stop_flushes_and_the_unit_stays_ready() {
        let mut bench = Bench::ready();
        bench.good(&[0x1b, 0, 0, 0, 0, 0], &[]);
        assert_eq!(bench.ram.log, [Operation::Flush]);
        bench.good(&[0x1b, 0, 0, 0, 1, 0], &[]);
        bench.good(&[0; 6], &[]);
        bench.refused(&[0x1b, 0, 0, 0, 2, 0], 0x5, (0x24, 0), Some((4, Some(1))));
        bench.refused(&[0x1b, 0, 0, 0, 0x11, 0], 0x5, (0x24, 0), Some((4, Some(7))));
    }

    #[test]
    fn log_sense_lists_its_pages() {
        let mut bench = Bench::ready();
        assert_eq!(bench.data_in(&[0x4d, 0, 0x40, 0, 0, 0, 0, 0, 255, 0]), [0, 0, 0, 1, 0]);
        assert_eq!(
            bench.data_in(&[0x4d, 0, 0x40, 0xff, 0, 0, 0, 0, 255, 0]),
            [0x40, 0xff, 0, 4, 0, 0, 0, 0xff]
        );
        bench.refused(&[0x4d, 0, 0x4d, 0, 0, 0, 0, 0, 255, 0], 0x5, (0x24, 0), Some((2, Some(5))));
    }

    #[test]
    fn defect_lists_are_empty() {
        let mut bench = Bench::ready();
        assert_eq!(bench.data_in(&[0x37, 0, 0x1d, 0, 0, 0, 0, 0, 32, 0]), [0, 0x1d, 0, 0]);
        assert_eq!(bench.data_in(&[0xb7, 0x08, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0]), [0, 8, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn naca_is_refused_in_the_control_byte() {
        let mut bench = Bench::ready();
        bench.refused(&[0, 0, 0, 0, 0, 4], 0x5, (0x24, 0), Some((5, Some(2))));
        bench.refused(&[0x12, 0, 0, 0, 5, 4], 0x5, (0x24, 0), Some((5, Some(2))));
        assert_eq!(bench.send(&[0; 6], &[]).status, Status::Good);
    }
}
