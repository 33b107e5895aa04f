//! PERSISTENT RESERVE IN (SPC-4 §6.15).

use crate::command::Step;
use crate::identity::RELATIVE_PORT;
use crate::sense::Sense;
use crate::target::Call;
use crate::transport_id;
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

/// REPORT CAPABILITIES. PTPL_C and PTPL_A: registrations always outlive a loss of power, asked for or not (S15).
pub(crate) fn report_capabilities(call: &mut Call<'_>) -> Result<Step, Sense> {
    let mut out = Writer::with_capacity(8);
    out.u16_be(8);
    out.u8(0x08 | 0x04 | 0x01); // SIP_C; ATP_C: all target ports, of which there is one; PTPL_C
    out.u8(0x80 | 0x30 | 0x01); // TMV; PTPL_A; ALLOW COMMANDS 011b: what SPC-4 table 190 says of it is what `Rights` does
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
        let transport_id = transport_id::encode(port);
        list.u64_be(key).u32_be(0).u8(u8::from(holder)).u8(kind).u32_be(0).u16_be(RELATIVE_PORT);
        list.u32_be(u32::try_from(transport_id.len()).unwrap_or(0)).bytes(&transport_id);
    }
    Ok(listed(call, list))
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

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    fn ask(action: u8, len: u8) -> [u8; 10] {
        [0x5e, action, 0, 0, 0, 0, 0, 0, len, 0]
    }

    /// One registration with key 1, holding `kind`.
    fn held(kind: u8) -> Bench {
        let mut bench = Bench::ready();
        let mut list = [0; 24];
        list[15] = 1;
        bench.good(&[0x5f, 0x06, 0, 0, 0, 0, 0, 0, 24, 0], &list);
        list.swap(7, 15);
        bench.good(&[0x5f, 0x01, kind, 0, 0, 0, 0, 0, 24, 0], &list);
        bench
    }

    #[test]
    fn keys_tell_their_length_cut_or_not() {
        let mut bench = held(1);
        assert_eq!(bench.data_in(&ask(0, 255)), [0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(bench.data_in(&ask(0, 8)), [0, 0, 0, 1, 0, 0, 0, 8]);
    }

    #[test]
    fn the_reservation() {
        assert_eq!(Bench::ready().data_in(&ask(1, 255)), [0; 8]);
        let data = held(3).data_in(&ask(1, 255));
        assert_eq!(data, [0, 0, 0, 1, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 3, 0, 0]);
        assert_eq!(held(8).data_in(&ask(1, 255))[15..22], [0, 0, 0, 0, 0, 0, 8], "no key: all hold it");
    }

    #[test]
    fn capabilities() {
        assert_eq!(Bench::ready().data_in(&ask(2, 255)), [0, 8, 0x0d, 0xb1, 0xea, 0x01, 0, 0]);
    }

    #[test]
    fn full_status_names_the_initiator_port() {
        let data = held(5).data_in(&ask(3, 255));
        assert_eq!(data[..8], [0, 0, 0, 1, 0, 0, 0, 64]);
        assert_eq!(data[8..32], [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 5, 0, 0, 0, 0, 0, 1, 0, 0, 0, 40]);
        assert_eq!(data[32..36], [0x45, 0, 0, 36]);
        assert_eq!(&data[36..], b"iqn.2026-01.test:a,i,0x800000000001\0");
    }

    #[test]
    fn other_service_actions_are_refused() {
        let mut bench = Bench::ready();
        for action in 4..0x20 {
            bench.refused(&ask(action, 255), 0x5, (0x24, 0), Some((1, Some(4))));
        }
    }
}
