//! MODE SENSE and MODE SELECT (SPC-4 §6.11 to §6.14): pages 08h caching, 0Ah control, 1Ch informational exceptions.
//!
//! Invariant: a page's current values are its defaults but for the bits that [`Page::changeable`] has set; MODE SELECT
//! refuses a change of any other bit. Parameters are shared by all nexuses (TST=0) and not saved.

use crate::command::Step;
use crate::sense::{Asc, Sense};
use crate::target::Call;
use crate::unit::LogicalUnit;
use alloc::vec::Vec;
use base::{LOGICAL_BLOCK_BYTES, Writer};

/// What MODE SELECT can change. A reset brings the defaults back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ModeState {
    /// D_SENSE: sense data in descriptor format.
    pub(crate) descriptor_sense: bool,
    /// SWP: writes are refused.
    pub(crate) software_write_protect: bool,
}

/// A mode page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Caching,
    Control,
    InformationalExceptions,
}

/// PC field: which values MODE SENSE reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Values {
    Current,
    Changeable,
    Default,
}

const ALL_PAGES: u8 = 0x3f;
const D_SENSE: u8 = 0x04;
const SWP: u8 = 0x08;

impl Page {
    const ALL: [Self; 3] = [Self::Caching, Self::Control, Self::InformationalExceptions];

    fn code(self) -> u8 {
        match self {
            Self::Caching => 0x08,
            Self::Control => 0x0a,
            Self::InformationalExceptions => 0x1c,
        }
    }

    fn len(self) -> usize {
        match self {
            Self::Caching => 20,
            Self::Control | Self::InformationalExceptions => 12,
        }
    }

    fn bytes(self, unit: &LogicalUnit, values: Values) -> Vec<u8> {
        let mut out = Writer::with_capacity(self.len());
        out.u8(self.code()).u8(u8::try_from(self.len() - 2).unwrap_or(0));
        match values {
            Values::Changeable => self.changeable(&mut out),
            Values::Current => self.values(&mut out, unit, unit.mode),
            Values::Default => self.values(&mut out, unit, ModeState::default()),
        };
        out.pad_to(self.len());
        out.into_vec()
    }

    fn changeable(self, out: &mut Writer) {
        if self == Self::Control {
            out.bytes(&[D_SENSE, 0, SWP]);
        }
    }

    fn values(self, out: &mut Writer, unit: &LogicalUnit, mode: ModeState) {
        match self {
            // WCE (S1); no read cache is disabled.
            Self::Caching => out.u8(if unit.config.write_back { 0x04 } else { 0 }),
            Self::Control => out
                .u8(if mode.descriptor_sense { D_SENSE } else { 0 })
                .u8(0x10) // commands may be reordered; no other task is aborted by an error
                .u8(if mode.software_write_protect { SWP } else { 0 })
                .bytes(&[0, 0, 0])
                .bytes(&[0xff, 0xff]) // busy time-out: unlimited
                .bytes(&[0, 0]),
            Self::InformationalExceptions => out.u8(0x08).u8(0), // DEXCPT: nothing is predicted
        };
    }
}

/// MODE SENSE (6).
pub(crate) fn sense6(call: &mut Call<'_>) -> Result<Step, Sense> {
    let descriptor = block_descriptor(call, false);
    let pages = pages(call)?;
    let mut out = Writer::with_capacity(64);
    out.u8(0).u8(0).u8(device_specific(call.unit)).u8(len8(&descriptor)).bytes(&descriptor).bytes(&pages);
    let mut bytes = out.into_vec();
    let len = bytes.len().saturating_sub(1);
    if let Some(first) = bytes.first_mut() {
        *first = u8::try_from(len).unwrap_or(u8::MAX);
    }
    Ok(Call::parameters(bytes, u64::from(call.cdb.byte(4))))
}

/// MODE SENSE (10).
pub(crate) fn sense10(call: &mut Call<'_>) -> Result<Step, Sense> {
    let long = call.cdb.bit(1, 4);
    let descriptor = block_descriptor(call, long);
    let pages = pages(call)?;
    let len = 6 + descriptor.len() + pages.len();
    let mut out = Writer::with_capacity(64);
    out.u16_be(u16::try_from(len).unwrap_or(u16::MAX)).u8(0).u8(device_specific(call.unit));
    out.u8(u8::from(long && !descriptor.is_empty())).u8(0);
    out.u16_be(u16::from(len8(&descriptor))).bytes(&descriptor).bytes(&pages);
    Ok(Call::parameters(out.into_vec(), u64::from(call.cdb.u16(7))))
}

/// WP, and DPOFUA=1.
fn device_specific(unit: &LogicalUnit) -> u8 {
    0x10 | if unit.write_protected() { 0x80 } else { 0 }
}

fn len8(bytes: &[u8]) -> u8 {
    u8::try_from(bytes.len()).unwrap_or(0)
}

/// Short (8 bytes) or long (16) LBA mode parameter block descriptor, SBC-3 §6.4.2; none with DBD.
fn block_descriptor(call: &Call<'_>, long: bool) -> Vec<u8> {
    if call.cdb.bit(1, 3) {
        return Vec::new();
    }
    let blocks = call.unit.config.blocks;
    let mut out = Writer::with_capacity(16);
    if long {
        out.u64_be(blocks).u32_be(0).u32_be(LOGICAL_BLOCK_BYTES);
    } else {
        out.u32_be(u32::try_from(blocks).unwrap_or(u32::MAX)).u32_be(LOGICAL_BLOCK_BYTES);
    }
    out.into_vec()
}

/// The pages that PC, page code and subpage code ask for.
fn pages(call: &Call<'_>) -> Result<Vec<u8>, Sense> {
    let values = match call.cdb.byte(2) >> 6 {
        0 => Values::Current,
        1 => Values::Changeable,
        2 => Values::Default,
        _ => return Err(Sense::illegal(Asc::SAVING_NOT_SUPPORTED)),
    };
    let code = call.cdb.byte(2) & 0x3f;
    // Subpage FFh asks for all subpages; there are none but 0.
    if !matches!(call.cdb.byte(3), 0 | 0xff) {
        return Err(Sense::invalid_cdb_byte(3));
    }
    let mut out = Vec::new();
    for page in Page::ALL.into_iter().filter(|page| code == ALL_PAGES || code == page.code()) {
        out.extend(page.bytes(call.unit, values));
    }
    if out.is_empty() {
        return Err(Sense::invalid_cdb_bit(2, 5));
    }
    Ok(out)
}

/// MODE SELECT (6).
pub(crate) fn select6(call: &mut Call<'_>) -> Result<Step, Sense> {
    let len = u64::from(call.cdb.byte(4));
    select(call, len, false)
}

/// MODE SELECT (10).
pub(crate) fn select10(call: &mut Call<'_>) -> Result<Step, Sense> {
    let len = u64::from(call.cdb.u16(7));
    select(call, len, true)
}

fn select(call: &mut Call<'_>, len: u64, ten: bool) -> Result<Step, Sense> {
    if call.cdb.bit(1, 0) {
        return Err(Sense::invalid_cdb_bit(1, 0)); // SP: nothing is saved
    }
    if !call.cdb.bit(1, 4) {
        return Err(Sense::invalid_cdb_bit(1, 4)); // PF: pages only
    }
    if len == 0 {
        return Ok(Call::good());
    }
    let list = call.parameter_list(len)?;
    let mode = selected(call.unit, list, ten)?;
    if mode != call.unit.mode {
        call.unit.mode = mode;
        call.unit.attentions.establish_all(Asc::MODE_PARAMETERS_CHANGED, Some(call.command.nexus));
    }
    Ok(Call::good())
}

/// Mode parameters after a whole list; nothing changes if any of it is wrong.
fn selected(unit: &LogicalUnit, list: &[u8], ten: bool) -> Result<ModeState, Sense> {
    let short = Sense::illegal(Asc::PARAMETER_LIST_LENGTH);
    let header_len: u16 = if ten { 8 } else { 4 };
    let (header, rest) = list.split_at_checked(usize::from(header_len)).ok_or(short)?;
    let (medium_at, long, descriptor_len) = match *header {
        [_, medium, _, len] => ((1, medium), false, u16::from(len)),
        [_, _, medium, _, flags, _, high, low] => {
            ((2, medium), flags & 1 == 1, u16::from_be_bytes([high, low]))
        }
        _ => return Err(short),
    };
    if medium_at.1 != 0 {
        return Err(Sense::invalid_parameter_byte(medium_at.0));
    }
    let (descriptor, mut rest) = rest.split_at_checked(usize::from(descriptor_len)).ok_or(short)?;
    check_descriptor(unit, descriptor, long, header_len)?;
    let mut mode = unit.mode;
    let mut at = header_len + descriptor_len;
    while let Some((&first, _)) = rest.split_first() {
        let page = Page::ALL.into_iter().find(|page| page.code() == first & 0x7f);
        let page = page.ok_or(Sense::invalid_parameter_bit(at, 5))?;
        let (bytes, tail) = rest.split_at_checked(page.len()).ok_or(short)?;
        apply_page(unit, page, bytes, at, &mut mode)?;
        rest = tail;
        at += u16::try_from(page.len()).unwrap_or(0);
    }
    Ok(mode)
}

/// The capacity can't be changed: number of blocks 0, all ones, or the present one; block length the present one.
fn check_descriptor(unit: &LogicalUnit, descriptor: &[u8], long: bool, at: u16) -> Result<(), Sense> {
    let (blocks, block_len, wildcard, len_at) = match *descriptor {
        [] => return Ok(()),
        [a, b, c, d, _, e, f, g] if !long => (
            u64::from(u32::from_be_bytes([a, b, c, d])),
            u32::from_be_bytes([0, e, f, g]),
            u64::from(u32::MAX),
            5,
        ),
        [a, b, c, d, e, f, g, h, _, _, _, _, i, j, k, l] if long => {
            (u64::from_be_bytes([a, b, c, d, e, f, g, h]), u32::from_be_bytes([i, j, k, l]), u64::MAX, 12)
        }
        _ => return Err(Sense::invalid_parameter_byte(at.saturating_sub(1))),
    };
    if blocks != 0 && blocks != wildcard && blocks != unit.config.blocks {
        return Err(Sense::invalid_parameter_byte(at));
    }
    if block_len != LOGICAL_BLOCK_BYTES {
        return Err(Sense::invalid_parameter_byte(at + len_at));
    }
    Ok(())
}

/// Takes over the changeable bits of one page; 5/26/00 where any other differs from its current value.
fn apply_page(
    unit: &LogicalUnit,
    page: Page,
    bytes: &[u8],
    at: u16,
    mode: &mut ModeState,
) -> Result<(), Sense> {
    let current = page.bytes(unit, Values::Current);
    let changeable = page.bytes(unit, Values::Changeable);
    // Byte 0 is the page code (PS is reserved here), byte 1 the page length: it must be right.
    for (((new, old), may), offset) in bytes.iter().zip(&current).zip(&changeable).zip(0..).skip(1) {
        let may = if offset == 1 { 0 } else { *may };
        if (new ^ old) & !may != 0 {
            return Err(Sense::invalid_parameter_byte(at + offset));
        }
    }
    if page == Page::Control
        && let [_, _, second, _, fourth, ..] = *bytes
    {
        mode.descriptor_sense = second & D_SENSE != 0;
        mode.software_write_protect = fourth & SWP != 0;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::{A, B, Bench};
    use crate::{Asc, Sense};

    const CONTROL: [u8; 12] = [0x0a, 10, 0, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0];

    /// MODE SELECT (6) list with the control page.
    fn select(second: u8, fourth: u8) -> [u8; 16] {
        let mut list = [0; 16];
        list[4..].copy_from_slice(&CONTROL);
        list[6] = second;
        list[8] = fourth;
        list
    }

    #[test]
    fn sense6_with_descriptor_and_all_pages() {
        let mut bench = Bench::ready();
        let data = bench.data_in(&[0x1a, 0, 0x3f, 0, 255, 0]);
        assert_eq!(data.len(), 4 + 8 + 20 + 12 + 12);
        assert_eq!(data[..4], [55, 0, 0x10, 8]);
        assert_eq!(data[4..12], [0, 0, 8, 0, 0, 0, 2, 0]);
        assert_eq!(data[12..16], [0x08, 18, 0, 0]);
        assert_eq!(data[32..44], CONTROL);
        assert_eq!(data[44..48], [0x1c, 10, 0x08, 0]);
    }

    #[test]
    fn sense10_has_a_long_descriptor_when_asked() {
        let mut bench = Bench::ready_with(|config| config.write_back = true);
        let data = bench.data_in(&[0x5a, 0x10, 0x08, 0, 0, 0, 0, 0, 255, 0]);
        assert_eq!(data[..8], [0, 42, 0, 0x10, 1, 0, 0, 16]);
        assert_eq!(data[8..24], [0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
        assert_eq!(data[24..27], [0x08, 18, 0x04], "WCE");
        assert_eq!(bench.data_in(&[0x5a, 0x08, 0x08, 0, 0, 0, 0, 0, 4, 0]), [0, 26, 0, 0x10]);
    }

    #[test]
    fn unknown_pages_and_saved_values_are_refused() {
        let mut bench = Bench::ready();
        bench.refused(&[0x1a, 0, 0x02, 0, 255, 0], 0x5, (0x24, 0), Some((2, Some(5))));
        bench.refused(&[0x1a, 0, 0x0a, 1, 255, 0], 0x5, (0x24, 0), Some((3, None)));
        bench.refused(&[0x1a, 0, 0xca, 0, 255, 0], 0x5, (0x39, 0), None);
        assert_eq!(bench.data_in(&[0x1a, 8, 0x4a, 0, 255, 0])[4..9], [0x0a, 10, 0x04, 0, 0x08]);
    }

    #[test]
    fn software_write_protect_is_seen_by_all_and_ends_with_a_reset() {
        let mut bench = Bench::ready();
        bench.good(&[0x15, 0x10, 0, 0, 16, 0], &select(0, 0x08));
        bench.refused_with(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[0; 512], 0x7, (0x27, 0), None);
        assert_eq!(bench.data_in(&[0x1a, 8, 0x0a, 0, 255, 0])[2], 0x90, "WP");
        bench.nexus = B;
        bench.refused(&[0; 6], 0x6, (0x2a, 0x01), None);
        bench.nexus = A;
        bench.target.reset_unit([0; 8]);
        bench.refused(&[0; 6], 0x6, (0x29, 0x03), None);
        bench.good(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[0; 512]);
    }

    #[test]
    fn descriptor_sense_changes_the_format() {
        let mut bench = Bench::ready();
        bench.good(&[0x15, 0x10, 0, 0, 16, 0], &select(0x04, 0));
        let sense = bench.send(&[0x28, 0, 0xff, 0, 0, 0, 0, 0, 1, 0], &[]).sense.unwrap();
        assert_eq!(sense, Sense { descriptor_format: true, ..Sense::illegal(Asc::LBA_OUT_OF_RANGE) });
        assert_eq!(sense.encode().as_slice(), [0x72, 5, 0x21, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn select_refuses_all_but_the_changeable_bits() {
        let mut bench = Bench::ready();
        let select6 = [0x15, 0x10, 0, 0, 16, 0];
        bench.refused_with(&select6, &select(0x06, 0), 0x5, (0x26, 0), Some((6, None)));
        let mut list = select(0, 0);
        list[5] = 9;
        bench.refused_with(&select6, &list, 0x5, (0x26, 0), Some((5, None)));
        list[4] = 0x02;
        bench.refused_with(&select6, &list, 0x5, (0x26, 0), Some((4, Some(5))));
        bench.refused_with(&[0x15, 0x10, 0, 0, 15, 0], &select(0, 0)[..15], 0x5, (0x1a, 0), None);
        bench.refused_with(&[0x15, 0x11, 0, 0, 16, 0], &select(0, 0), 0x5, (0x24, 0), Some((1, Some(0))));
        bench.refused_with(&[0x15, 0x00, 0, 0, 16, 0], &select(0, 0), 0x5, (0x24, 0), Some((1, Some(4))));
        bench.good(&[0x15, 0x10, 0, 0, 0, 0], &[]);
    }

    #[test]
    fn select_accepts_what_sense_told() {
        let mut bench = Bench::ready();
        let mut list = bench.data_in(&[0x5a, 0x10, 0x3f, 0, 0, 0, 0, 0, 255, 0]);
        list[..2].fill(0);
        let len = u8::try_from(list.len()).unwrap();
        bench.good(&[0x55, 0x10, 0, 0, 0, 0, 0, 0, len, 0], &list);
        list[15] = 1;
        let select10 = [0x55, 0x10, 0, 0, 0, 0, 0, 0, len, 0];
        bench.refused_with(&select10, &list, 0x5, (0x26, 0), Some((8, None)));
    }
}
