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

/// REPORT LUNS (SPC-4 §6.33). Answered at every mapped LUN, and at LUN 0 even if nothing is mapped there.
pub(crate) fn luns(target: &mut Target, command: &Command<'_>, cdb: &Cdb) -> Result<Step, Sense> {
    match lun::decode(command.lun) {
        Some(number) if number == 0 || target.units.contains_key(&number) => {}
        _ => return Err(Sense::illegal(Asc::UNIT_NOT_SUPPORTED)),
    }
    let numbers: Vec<u16> = match cdb.byte(2) {
        0 | 2 => target.units.keys().copied().collect(),
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
