//! LOG SENSE (SPC-4 §6.10, §7.3): the lists of pages, and the temperature.
//!
//! No logical block provisioning page (0Ch, SBC-3 §6.4.5), which is optional and goes with thresholds (§4.7.3.7), which are not
//! offered either: VPD page B2h has THRESHOLD EXPONENT 0, and the page counts in sets of that size. It must tell at least how
//! many mapping resources are used or available. Neither can be told truly: a volume has all its extents from the pool for
//! good, so that none would be available, which the standard equates with 7/27/07 at the next write; and what the disks below
//! spend on them, on two machines, nobody tells. A page that guesses is worse than none.

use crate::command::Step;
use crate::sense::Sense;
use crate::target::Call;
use alloc::vec::Vec;
use base::Writer;

/// All pages by page and subpage code, sorted, as they are listed.
const PAGES: [(u8, u8); 3] = [(0x00, 0x00), (0x00, 0xff), (0x0d, 0x00)];
/// SPF: the page has the subpage format.
const SPF: u8 = 0x40;
/// DU=0, TSD=0, FORMAT AND LINKING 11b: a parameter that is a list in binary.
const BINARY_LIST: u8 = 0x03;
/// No temperature can be told: copies lie on two machines' disks, of whose sensors nothing is known.
const NO_TEMPERATURE: u8 = 0xff;
/// Parameters of the temperature page: the temperature, and that above which the device should not be.
const TEMPERATURES: [u16; 2] = [0x0000, 0x0001];

/// LOG SENSE. The PC field means nothing for parameters that are lists (SPC-4 §7.3.2.2.2.1), which all of them are.
pub(crate) fn log_sense(call: &mut Call<'_>) -> Result<Step, Sense> {
    for bit in [0, 1] {
        if call.cdb.bit(1, bit) {
            return Err(Sense::invalid_cdb_bit(1, bit)); // SP, PPC
        }
    }
    let page = call.cdb.byte(2) & 0x3f;
    let subpage = call.cdb.byte(3);
    let from = call.cdb.u16(5);
    let bytes = match (page, subpage) {
        (0x00, 0x00) => {
            let pages: Vec<u8> = PAGES.iter().filter(|(_, sub)| *sub == 0).map(|(page, _)| *page).collect();
            page_of(page, subpage, &pages)
        }
        (0x00, 0xff) => {
            let pages: Vec<u8> = PAGES.iter().flat_map(|(page, sub)| [*page, *sub]).collect();
            page_of(page, subpage, &pages)
        }
        (0x0d, 0x00) => page_of(page, subpage, &temperatures(from)?),
        (0x00 | 0x0d, _) => return Err(Sense::invalid_cdb_byte(3)),
        _ => return Err(Sense::invalid_cdb_bit(2, 5)),
    };
    if page == 0 && from != 0 {
        return Err(Sense::invalid_cdb_byte(5)); // PARAMETER POINTER: lists of pages have no parameters
    }
    Ok(Call::parameters(bytes, u64::from(call.cdb.u16(7))))
}

/// A page with its header.
fn page_of(page: u8, subpage: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Writer::with_capacity(4 + body.len());
    out.u8(if subpage == 0 { page } else { page | SPF }).u8(subpage);
    out.u16_be(u16::try_from(body.len()).unwrap_or(u16::MAX)).bytes(body);
    out.into_vec()
}

/// The parameters of the temperature page (SPC-4 §7.3.19) from the one asked for on.
fn temperatures(from: u16) -> Result<Vec<u8>, Sense> {
    if TEMPERATURES.iter().all(|code| *code < from) {
        return Err(Sense::invalid_cdb_byte(5));
    }
    let mut out = Writer::with_capacity(12);
    for code in TEMPERATURES.into_iter().filter(|code| *code >= from) {
        out.u16_be(code).u8(BINARY_LIST).u8(2).u8(0).u8(NO_TEMPERATURE);
    }
    Ok(out.into_vec())
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;
    use alloc::vec::Vec;

    fn ask(page: u8, subpage: u8, from: u8) -> [u8; 10] {
        [0x4d, 0, 0x40 | page, subpage, 0, 0, from, 0, 255, 0]
    }

    #[test]
    fn pages_are_listed_and_answer() {
        let mut bench = Bench::ready();
        let pages = bench.data_in(&ask(0, 0, 0));
        assert_eq!(pages, [0, 0, 0, 2, 0x00, 0x0d]);
        assert_eq!(bench.data_in(&ask(0, 0xff, 0)), [0x40, 0xff, 0, 6, 0, 0, 0, 0xff, 0x0d, 0]);
        for page in pages.into_iter().skip(4).collect::<Vec<u8>>() {
            assert_eq!(bench.data_in(&ask(page, 0, 0))[..2], [page, 0]);
        }
    }

    #[test]
    fn no_temperature_is_invented() {
        let mut bench = Bench::ready();
        let both = [0x0d, 0, 0, 12, 0, 0, 3, 2, 0, 0xff, 0, 1, 3, 2, 0, 0xff];
        assert_eq!(bench.data_in(&ask(0x0d, 0, 0)), both);
        assert_eq!(bench.data_in(&ask(0x0d, 0, 1)), [0x0d, 0, 0, 6, 0, 1, 3, 2, 0, 0xff]);
        assert_eq!(bench.data_in(&[0x4d, 0, 0x4d, 0, 0, 0, 0, 0, 4, 0]), both[..4]);
    }

    #[test]
    fn what_is_not_there_is_refused_by_field() {
        let mut bench = Bench::ready();
        for (cdb, field) in [
            (ask(0x0c, 0, 0), (2, Some(5))),
            (ask(0x3f, 0xff, 0), (2, Some(5))),
            (ask(0, 1, 0), (3, None)),
            (ask(0x0d, 0xff, 0), (3, None)),
            (ask(0x0d, 0, 2), (5, None)),
            (ask(0, 0, 1), (5, None)),
            ([0x4d, 1, 0x40, 0, 0, 0, 0, 0, 255, 0], (1, Some(0))),
            ([0x4d, 2, 0x40, 0, 0, 0, 0, 0, 255, 0], (1, Some(1))),
        ] {
            bench.refused(&cdb, 0x5, (0x24, 0), Some(field));
        }
    }
}
