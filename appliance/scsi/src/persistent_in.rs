//! PERSISTENT RESERVE IN (SPC-4 §6.15).

use crate::command::Step;
use crate::identity::{InitiatorPort, RELATIVE_PORT};
use crate::sense::Sense;
use crate::target::Call;
use alloc::vec::Vec;
use base::Writer;

/// READ KEYS.
pub(crate) fn read_keys(call: &mut Call<'_>) -> Result<Step, Sense> {
    let mut list = Writer::with_capacity(64);
    for (_, key) in call.unit.persistent.registrations() {
        list.u64_be(key);
    }
    Ok(listed(call, list))
}

/// READ RESERVATION: nothing, or one 16-byte descriptor.
pub(crate) fn read_reservation(call: &mut Call<'_>) -> Result<Step, Sense> {
    let state = &call.unit.persistent;
    let mut list = Writer::with_capacity(16);
    if let Some(held) = state.reservation() {
        list.u64_be(state.reservation_key()).u32_be(0).u8(0).u8(held.kind as u8).u16_be(0);
    }
    Ok(listed(call, list))
}

/// REPORT CAPABILITIES. PTPL_C=0: registrations do not outlive the service of the volume by this storage process.
pub(crate) fn report_capabilities(call: &mut Call<'_>) -> Result<Step, Sense> {
    let mut out = Writer::with_capacity(8);
    out.u16_be(8);
    out.u8(0x04); // ATP_C: all target ports, of which there is one
    out.u8(0x80 | 0x30); // TMV; ALLOW COMMANDS 011b: what SPC-4 table 190 says of it is what `Rights` does
    out.u8(0xea).u8(0x01); // every type
    out.pad_to(8);
    Ok(Call::parameters(out.into_vec(), allocation_len(call)))
}

/// READ FULL STATUS: a descriptor with TransportID for each registration.
pub(crate) fn read_full_status(call: &mut Call<'_>) -> Result<Step, Sense> {
    let state = &call.unit.persistent;
    let mut list = Writer::with_capacity(128);
    for (port, key) in state.registrations() {
        let holder = state.is_holder(port);
        let kind = state.reservation().filter(|_| holder).map_or(0, |held| held.kind as u8);
        let transport_id = transport_id(port);
        list.u64_be(key).u32_be(0).u8(u8::from(holder)).u8(kind).u32_be(0).u16_be(RELATIVE_PORT);
        list.u32_be(u32::try_from(transport_id.len()).unwrap_or(0)).bytes(&transport_id);
    }
    Ok(listed(call, list))
}

/// iSCSI TransportID with initiator port (SPC-4 §7.6.4.6): the name ends with a zero byte, padded to a multiple of 4.
fn transport_id(port: &InitiatorPort) -> Vec<u8> {
    let name = port.port_name().into_bytes();
    let padded = (name.len() / 4 + 1) * 4;
    let mut out = Writer::with_capacity(4 + padded);
    out.u8(0x45).u8(0).u16_be(u16::try_from(padded).unwrap_or(0)).bytes(&name).pad_to(4 + padded);
    out.into_vec()
}

/// PRGENERATION, ADDITIONAL LENGTH (of the whole list, cut or not), the list.
fn listed(call: &Call<'_>, list: Writer) -> Step {
    let mut out = Writer::with_capacity(8 + list.len());
    out.u32_be(call.unit.persistent.generation());
    out.u32_be(u32::try_from(list.len()).unwrap_or(u32::MAX)).bytes(list.as_slice());
    Call::parameters(out.into_vec(), allocation_len(call))
}

fn allocation_len(call: &Call<'_>) -> u64 {
    u64::from(call.cdb.u16(7))
}
