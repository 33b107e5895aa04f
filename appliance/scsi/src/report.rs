//! REPORT LUNS, REPORT TARGET PORT GROUPS, REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS.

use crate::cdb::Cdb;
use crate::command::{Command, Response, Step};
use crate::identity::{PORT_GROUP, RELATIVE_PORT};
use crate::lun;
use crate::opcode::Opcode;
use crate::sense::{Asc, Sense};
use crate::table::TABLE;
use crate::target::{Call, Target, cut};
use alloc::vec::Vec;
use base::Writer;

/// REPORT LUNS (SPC-4 §6.33): the units that exist for the nexus. Answered at each of them, and at LUN 0 even if nothing is
/// mapped there, or it is masked.
pub(crate) fn luns(target: &mut Target, command: &Command<'_>, cdb: &Cdb) -> Result<Step, Sense> {
    if lun::decode(command.lun) != Some(0) && !target.has_unit(command.nexus, command.lun) {
        return Err(Sense::illegal(Asc::UNIT_NOT_SUPPORTED));
    }
    let visible = target.units.iter().filter(|(_, unit)| unit.is_visible_to(command.nexus));
    let numbers: Vec<u16> = match cdb.byte(2) {
        0 | 2 => visible.map(|(number, _)| *number).collect(),
        1 => Vec::new(), // well-known units: none
        _ => return Err(Sense::invalid_cdb_byte(2)),
    };
    if cdb.u32(6) < 16 {
        return Err(Sense::invalid_cdb_byte(6));
    }
    for unit in target.units.values_mut() {
        unit.attentions.clear(command.nexus, Asc::REPORTED_LUNS_CHANGED);
    }
    let mut out = Writer::with_capacity(8 + 8 * numbers.len());
    out.u32_be(u32::try_from(8 * numbers.len()).unwrap_or(u32::MAX)).u32_be(0);
    for number in numbers {
        out.bytes(&lun::encode(number));
    }
    Ok(Step::Done(Response::parameters(cut(out.into_vec(), u64::from(cdb.u32(6))))))
}

const ACTIVE_OPTIMIZED: u8 = 0x0;
const TRANSITIONING: u8 = 0xf;
/// T_SUP, AO_SUP.
const SUPPORTED_STATES: u8 = 0x81;

/// REPORT TARGET PORT GROUPS (SPC-4 §6.37): one group with one port, the same on every node.
pub(crate) fn target_port_groups(call: &mut Call<'_>) -> Result<Step, Sense> {
    let state = if call.unit.served { ACTIVE_OPTIMIZED } else { TRANSITIONING };
    let mut out = Writer::with_capacity(20);
    let extended: &[u8] = match call.cdb.byte(1) >> 5 {
        0 => &[],
        1 => &[0x10, 0, 0, 0], // extended header: no transition time given
        _ => return Err(Sense::invalid_cdb_bit(1, 7)),
    };
    out.u32_be(u32::try_from(extended.len() + 12).unwrap_or(u32::MAX)).bytes(extended);
    out.u8(state).u8(SUPPORTED_STATES).u16_be(PORT_GROUP).u8(0).u8(0).u8(0).u8(1);
    out.u16_be(0).u16_be(RELATIVE_PORT);
    Ok(Call::parameters(out.into_vec(), u64::from(call.cdb.u32(6))))
}

/// REPORT SUPPORTED OPERATION CODES (SPC-4 §6.35): [`TABLE`] as it stands.
pub(crate) fn supported_opcodes(call: &mut Call<'_>) -> Result<Step, Sense> {
    let timeouts = call.cdb.bit(2, 7);
    let code = call.cdb.byte(3);
    let action = call.cdb.u16(4);
    let bytes = match call.cdb.byte(2) & 7 {
        0 => all_commands(call, timeouts),
        option @ 1..=3 => one_command(find_one(call, option, code, action)?, timeouts),
        _ => return Err(Sense::invalid_cdb_bit(2, 2)),
    };
    Ok(Call::parameters(bytes, u64::from(call.cdb.u32(6))))
}

fn all_commands(call: &Call<'_>, timeouts: bool) -> Vec<u8> {
    let mut list = Writer::with_capacity(20 * TABLE.len());
    for entry in TABLE.iter().filter(|entry| entry.exists_on(&call.unit.config)) {
        let flags = u8::from(entry.service_action.is_some()) | if timeouts { 0x02 } else { 0 };
        list.u8(entry.code).u8(0).u16_be(entry.service_action.unwrap_or(0)).u8(0).u8(flags);
        list.u16_be(u16::try_from(entry.usage.len()).unwrap_or(0));
        if timeouts {
            timeouts_descriptor(&mut list);
        }
    }
    let mut out = Writer::with_capacity(4 + list.len());
    out.u32_be(u32::try_from(list.len()).unwrap_or(u32::MAX)).bytes(list.as_slice());
    out.into_vec()
}

/// Command time-outs descriptor: none is given.
fn timeouts_descriptor(out: &mut Writer) {
    out.u16_be(10).u16_be(0).u32_be(0).u32_be(0);
}

/// The command that options 1 (no service action), 2 (with one) and 3 (either) ask for; `None`: not supported.
fn find_one(call: &Call<'_>, option: u8, code: u8, action: u16) -> Result<Option<&'static Opcode>, Sense> {
    let family = Opcode::family(code);
    let has_actions = family.first().is_some_and(|entry| entry.service_action.is_some());
    let is_known = !family.is_empty();
    match option {
        1 if has_actions => return Err(Sense::invalid_cdb_bit(2, 2)),
        2 if is_known && !has_actions => return Err(Sense::invalid_cdb_bit(2, 2)),
        3 if is_known && !has_actions && action != 0 => return Ok(None),
        _ => {}
    }
    Ok(family
        .iter()
        .find(|entry| entry.service_action.is_none_or(|known| known == action))
        .filter(|entry| entry.exists_on(&call.unit.config)))
}

fn one_command(entry: Option<&Opcode>, timeouts: bool) -> Vec<u8> {
    let mut out = Writer::with_capacity(32);
    let Some(entry) = entry else {
        out.u8(0).u8(0x01).u16_be(0); // not supported
        return out.into_vec();
    };
    out.u8(0).u8(0x03 | if timeouts { 0x80 } else { 0 });
    out.u16_be(u16::try_from(entry.usage.len()).unwrap_or(0)).bytes(entry.usage);
    if timeouts {
        timeouts_descriptor(&mut out);
    }
    out.into_vec()
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS: abort task, abort task set, clear task set, logical unit reset, target reset.
pub(crate) fn supported_task_management(call: &mut Call<'_>) -> Result<Step, Sense> {
    if call.cdb.u32(6) < 4 {
        return Err(Sense::invalid_cdb_byte(6));
    }
    let mut out = Writer::with_capacity(16);
    out.u8(0x80 | 0x40 | 0x10 | 0x08 | 0x02).u8(0).u8(0);
    if call.cdb.bit(2, 7) {
        out.u8(12).pad_to(16); // extended data: no time-outs given
    } else {
        out.u8(0);
    }
    Ok(Call::parameters(out.into_vec(), u64::from(call.cdb.u32(6))))
}

#[cfg(test)]
mod tests {
    use crate::table::TABLE;
    use crate::testing::Bench;
    use crate::{UnitConfig, lun};
    use base::{ClusterId, VolumeId};

    const REPORT_LUNS: [u8; 12] = [0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];

    #[test]
    fn luns_are_listed_in_order_and_the_attention_ends() {
        let mut bench = Bench::ready();
        for number in [300, 7] {
            bench.target.map(number, UnitConfig::new(ClusterId(1), VolumeId(u64::from(number)), 8), |_| true);
        }
        let data = bench.data_in(&REPORT_LUNS);
        assert_eq!(data[..8], [0, 0, 0, 24, 0, 0, 0, 0]);
        assert_eq!(data[8..32], [lun::encode(0), lun::encode(7), lun::encode(300)].concat());
        bench.good(&[0; 6], &[]);
    }

    #[test]
    fn lun_0_answers_even_if_unmapped() {
        let mut bench = Bench::ready();
        bench.target.map(5, UnitConfig::new(ClusterId(1), VolumeId(5), 8), |_| true);
        bench.target.unmap(0);
        let data = bench.data_in(&REPORT_LUNS);
        assert_eq!(data, [0, 0, 0, 8, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0]);
        bench.refused(&[0; 6], 0x5, (0x25, 0), None);
        bench.lun[1] = 6;
        bench.refused(&REPORT_LUNS, 0x5, (0x25, 0), None);
    }

    #[test]
    fn the_lun_list_needs_16_bytes() {
        let mut bench = Bench::ready();
        bench.refused(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 15, 0, 0], 0x5, (0x24, 0), Some((6, None)));
        bench.refused(&[0xa0, 0, 9, 0, 0, 0, 0, 0, 0, 16, 0, 0], 0x5, (0x24, 0), Some((2, None)));
        assert_eq!(bench.data_in(&[0xa0, 0, 1, 0, 0, 0, 0, 0, 0, 16, 0, 0]), [0; 8]);
    }

    #[test]
    fn one_port_group() {
        let mut bench = Bench::ready();
        let group = [0x00, 0x81, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1];
        let data = bench.data_in(&[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(data[..4], [0, 0, 0, 12]);
        assert_eq!(data[4..], group);
        let data = bench.data_in(&[0xa3, 0x2a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(data[..8], [0, 0, 0, 16, 0x10, 0, 0, 0]);
        assert_eq!(data[8..], group);
        bench.target.set_served(0, false);
        assert_eq!(bench.data_in(&[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0])[4], 0x0f);
    }

    #[test]
    fn all_commands_are_listed() {
        let mut bench = Bench::ready();
        let data = bench.data_in(&[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0]);
        assert_eq!(data.len(), 4 + 8 * TABLE.len());
        assert_eq!(data[4..12], [0x00, 0, 0, 0, 0, 0, 0, 6]);
        let data = bench.data_in(&[0xa3, 0x0c, 0x80, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0]);
        assert_eq!(data.len(), 4 + 20 * TABLE.len());
        assert_eq!(data[4..24], [0, 0, 0, 0, 0, 2, 0, 6, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn one_command_by_opcode_or_service_action() {
        let mut bench = Bench::ready();
        let mut ask = |option: u8, code: u8, action: u8| {
            bench.send(&[0xa3, 0x0c, option, code, 0, action, 0, 0, 0xff, 0xff, 0, 0], &[])
        };
        assert_eq!(ask(1, 0x28, 0).data_in, [0, 3, 0, 10, 0x28, 0xf8, 255, 255, 255, 255, 0x3f, 255, 255, 4]);
        assert_eq!(ask(2, 0x9e, 0x10).data_in[..6], [0, 3, 0, 16, 0x9e, 0x10]);
        assert_eq!(ask(3, 0x9e, 0x10).data_in[..6], [0, 3, 0, 16, 0x9e, 0x10]);
        assert_eq!(ask(0x81, 0, 0).data_in.len(), 4 + 6 + 12);
        for (option, code, action) in [(1, 0x83, 0), (2, 0x9e, 0x1f), (3, 0x28, 1), (2, 0x83, 0)] {
            assert_eq!(ask(option, code, action).data_in, [0, 1, 0, 0], "{option} {code:x}");
        }
        for (option, code) in [(1, 0x9e), (2, 0x28), (4, 0x28)] {
            assert!(ask(option, code, 0).sense.is_some(), "{option} {code:x}");
        }
    }

    #[test]
    fn a_thick_unit_has_no_unmap() {
        let mut bench = Bench::ready_with(|config| config.thin = false);
        assert_eq!(bench.data_in(&[0xa3, 0x0c, 1, 0x42, 0, 0, 0, 0, 1, 0, 0, 0]), [0, 1, 0, 0]);
        bench.refused_with(&[0x42, 0, 0, 0, 0, 0, 0, 0, 8, 0], &[0; 8], 0x5, (0x20, 0), None);
    }

    #[test]
    fn task_management_functions() {
        let mut bench = Bench::ready();
        assert_eq!(bench.data_in(&[0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0]), [0xda, 0, 0, 0]);
        assert_eq!(bench.data_in(&[0xa3, 0x0d, 0x80, 0, 0, 0, 0, 0, 0, 255, 0, 0]).len(), 16);
        bench.refused(&[0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0], 0x5, (0x24, 0), Some((6, None)));
    }
}
