//! WRITE SAME, UNMAP, GET LBA STATUS (SBC-3 §5.43, §5.25, §5.5).
//!
//! A unit is thin, or it takes no UNMAP. Thin and not resource provisioned, though the pool reserves every extent: the disks
//! below may be thin themselves, and only a thin unit may answer 7/27/07 (SBC-3 §4.7.3.6). LBPRZ=1: what was unmapped reads as
//! zeroes, on every copy. No anchors: nobody could keep the promise.

use crate::command::{Continuation, Extent, Operation, Outcome, Step};
use crate::limits::{MAX_UNMAP_BLOCKS, MAX_UNMAP_DESCRIPTORS, MAX_WRITE_SAME_BLOCKS};
use crate::sense::{Asc, Sense};
use crate::target::Call;
use crate::unit::LogicalUnit;
use base::{LOGICAL_BLOCK_BYTES, Lba, Writer};

const WRITE_SAME_10: u8 = 0x41;

/// WRITE SAME (10), (16). WSNZ=1: a length of zero is refused, so that nobody wipes a volume by a forgotten field.
pub(crate) fn write_same(call: &mut Call<'_>) -> Result<Step, Sense> {
    call.refuse_protection()?;
    let range = call.cdb.range();
    let ten = call.cdb.opcode() == WRITE_SAME_10;
    let without_data = !ten && call.cdb.bit(1, 0);
    let deallocate = call.cdb.bit(1, 3);
    if call.cdb.bit(1, 4) {
        return Err(Sense::invalid_cdb_bit(1, 4)); // ANCHOR: ANC_SUP is 0
    }
    if deallocate && !call.unit.config.thin {
        return Err(Sense::invalid_cdb_bit(1, 3));
    }
    for (bit, used) in [(2, false), (1, false), (0, without_data)] {
        if call.cdb.bit(1, bit) && !used {
            return Err(Sense::invalid_cdb_bit(1, bit)); // PBDATA, LBDATA, RelAdr: obsolete
        }
    }
    let extent = call.unit.extent(range.lba, range.blocks)?;
    if extent.blocks == 0 || extent.blocks > MAX_WRITE_SAME_BLOCKS {
        return Err(Sense::invalid_cdb_byte(range.blocks_at));
    }
    let block = u64::from(LOGICAL_BLOCK_BYTES);
    call.require_offered(if without_data { 0 } else { block })?;
    let zeroes = without_data || call.parameter_list(block)?.iter().all(|&byte| byte == 0);
    Ok(Call::finish_with(if zeroes {
        Operation::Zero { extent, deallocate }
    } else {
        // LBPRZ=1: data that is not zero is written, UNMAP bit or not.
        Operation::Fill(extent)
    }))
}

/// UNMAP: every descriptor is checked before the first one is run.
pub(crate) fn unmap(call: &mut Call<'_>) -> Result<Step, Sense> {
    if call.cdb.bit(1, 0) {
        return Err(Sense::invalid_cdb_bit(1, 0)); // ANCHOR
    }
    if call.cdb.u16(7) == 0 {
        return Ok(Call::good());
    }
    let list = call.parameter_list(u64::from(call.cdb.u16(7)))?;
    let descriptors = unmap_descriptors(list)?;
    if descriptors.len() > MAX_UNMAP_DESCRIPTORS {
        return Err(Sense::invalid_parameter_byte(2));
    }
    let mut total = 0;
    for (descriptor, at) in descriptors.iter().zip((8..).step_by(16)) {
        total += unmap_extent(call.unit, descriptor)?.blocks;
        if total > MAX_UNMAP_BLOCKS {
            return Err(Sense::invalid_parameter_byte(at + 8));
        }
    }
    unmap_from(call, 0)
}

/// Runs the next descriptor that is not empty, and those after it that continue its range, as one: hosts send one for each
/// piece of what they free. Ends the command after the last.
pub(crate) fn unmap_from(call: &mut Call<'_>, mut next: u16) -> Result<Step, Sense> {
    let list = call.parameter_list(u64::from(call.cdb.u16(7)))?;
    let mut range: Option<Extent> = None;
    for (descriptor, index) in unmap_descriptors(list)?.iter().zip(0..).skip(usize::from(next)) {
        let extent = unmap_extent(call.unit, descriptor)?;
        match &mut range {
            _ if extent.blocks == 0 => {}
            None => range = Some(extent),
            Some(range) if range.lba.0 + range.blocks == extent.lba.0 => range.blocks += extent.blocks,
            Some(_) => break,
        }
        next = index + 1;
    }
    Ok(match range {
        Some(extent) => {
            Step::Backend(Operation::Zero { extent, deallocate: true }, Continuation::Unmap { next })
        }
        None => Call::good(),
    })
}

/// The block descriptors, 16 bytes each; a last one that is incomplete is ignored, as the standard says.
fn unmap_descriptors(list: &[u8]) -> Result<&[[u8; 16]], Sense> {
    let (header, rest) = list.split_first_chunk::<8>().ok_or(Sense::illegal(Asc::PARAMETER_LIST_LENGTH))?;
    let [_, _, high, low, ..] = *header;
    let descriptors = rest
        .get(..usize::from(u16::from_be_bytes([high, low])))
        .ok_or(Sense::illegal(Asc::PARAMETER_LIST_LENGTH))?;
    Ok(descriptors.as_chunks().0)
}

fn unmap_extent(unit: &LogicalUnit, descriptor: &[u8; 16]) -> Result<Extent, Sense> {
    let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *descriptor;
    unit.extent(u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from(u32::from_be_bytes([i, j, k, l])))
}

/// GET LBA STATUS: one descriptor, from the asked block on. Status 0 means "mapped or unknown", and a deallocated block may
/// become a mapped one of zeroes by itself at any time (SBC-3 §4.7.3.5): it is never wrong. "Deallocated" is: a program that
/// copies a unit leaves such blocks out.
pub(crate) fn get_lba_status(call: &mut Call<'_>) -> Result<Step, Sense> {
    let extent = status_extent(call)?;
    if !call.unit.config.thin {
        return Ok(status_data(call, extent.lba, true, extent.blocks));
    }
    Ok(Step::Backend(Operation::Provisioning(extent), Continuation::LbaStatus))
}

/// The second half of GET LBA STATUS.
pub(crate) fn lba_status(call: &mut Call<'_>, outcome: Outcome) -> Result<Step, Sense> {
    let extent = status_extent(call)?;
    match outcome {
        Outcome::Provisioning { mapped, blocks } => {
            Ok(status_data(call, extent.lba, mapped, blocks.clamp(1, extent.blocks)))
        }
        Outcome::Done | Outcome::Miscompare { .. } | Outcome::Failed(_) => {
            Ok(status_data(call, extent.lba, true, extent.blocks))
        }
    }
}

/// From the asked block to the end, as far as a descriptor can count.
fn status_extent(call: &Call<'_>) -> Result<Extent, Sense> {
    let lba = call.cdb.u64(2);
    call.unit.extent(lba, 1)?;
    let left = call.unit.config.blocks.saturating_sub(lba);
    call.unit.extent(lba, left.min(u64::from(u32::MAX)))
}

/// SBC-3 table 37: an 8-byte header, one 16-byte descriptor; 0 mapped, 1 deallocated.
fn status_data(call: &Call<'_>, lba: Lba, mapped: bool, blocks: u64) -> Step {
    let mut out = Writer::with_capacity(24);
    out.u32_be(20).u32_be(0).u64_be(lba.0).u32_be(u32::try_from(blocks).unwrap_or(u32::MAX));
    out.u8(u8::from(!mapped)).pad_to(24);
    Call::parameters(out.into_vec(), u64::from(call.cdb.u32(10)))
}

#[cfg(test)]
mod tests {
    use crate::testing::{BLOCKS, Bench};
    use crate::{Extent, Operation};
    use alloc::vec::Vec;
    use base::Lba;

    const BLOCK: [u8; 512] = [0x5a; 512];

    fn extent(lba: u64, blocks: u64) -> Extent {
        Extent { lba: Lba(lba), blocks }
    }

    fn write_same16(flags: u8, lba: u8, blocks: u8) -> [u8; 16] {
        [0x93, flags, 0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0, blocks, 0, 0]
    }

    fn unmap_list(descriptors: &[(u64, u32)]) -> Vec<u8> {
        let bytes = u16::try_from(descriptors.len() * 16).unwrap();
        let mut list = Vec::new();
        list.extend((bytes + 6).to_be_bytes());
        list.extend(bytes.to_be_bytes());
        list.extend([0; 4]);
        for (lba, blocks) in descriptors {
            list.extend(lba.to_be_bytes());
            list.extend(blocks.to_be_bytes());
            list.extend([0; 4]);
        }
        list
    }

    fn unmap_cdb(list: &[u8]) -> [u8; 10] {
        let [high, low] = u16::try_from(list.len()).unwrap().to_be_bytes();
        [0x42, 0, 0, 0, 0, 0, 0, high, low, 0]
    }

    #[test]
    fn write_same_fills_or_zeroes() {
        let mut bench = Bench::ready();
        bench.good(&write_same16(0, 1, 3), &BLOCK);
        bench.good(&[0x41, 0, 0, 0, 0, 9, 0, 0, 2, 0], &[0; 512]);
        bench.good(&write_same16(0x08, 4, 1), &[0; 512]);
        bench.good(&write_same16(0x08, 4, 1), &BLOCK);
        bench.good(&write_same16(0x09, 4, 1), &[]);
        bench.good(&write_same16(0x01, 4, 1), &[]);
        assert_eq!(
            bench.ram.log,
            [
                Operation::Fill(extent(1, 3)),
                Operation::Zero { extent: extent(9, 2), deallocate: false },
                Operation::Zero { extent: extent(4, 1), deallocate: true },
                Operation::Fill(extent(4, 1)),
                Operation::Zero { extent: extent(4, 1), deallocate: true },
                Operation::Zero { extent: extent(4, 1), deallocate: false },
            ]
        );
        assert_eq!(bench.ram.bytes[512..2048], [0x5a; 1536]);
    }

    #[test]
    fn write_same_checks_its_fields() {
        let mut bench = Bench::ready();
        let field = |byte, bit| Some((byte, bit));
        bench.refused_with(&write_same16(0x10, 0, 1), &BLOCK, 0x5, (0x24, 0), field(1, Some(4)));
        bench.refused_with(&write_same16(0x20, 0, 1), &BLOCK, 0x5, (0x24, 0), field(1, Some(7)));
        bench.refused_with(&write_same16(0x02, 0, 1), &BLOCK, 0x5, (0x24, 0), field(1, Some(1)));
        bench.refused_with(&[0x41, 0, 0, 0, 8, 0, 0, 0, 1, 0], &BLOCK, 0x5, (0x21, 0), None);
        for wrong in [&BLOCK[..256], &[0; 1024], &[]] {
            bench.refused_with(&write_same16(0x08, 0, 1), wrong, 0x5, (0x0e, 3), None);
        }
        let mut thick = Bench::ready_with(|config| config.thin = false);
        thick.refused_with(&write_same16(0x08, 0, 1), &BLOCK, 0x5, (0x24, 0), field(1, Some(3)));
    }

    #[test]
    fn write_same_is_bounded_both_ways() {
        let mut bench = Bench::ready_with(|config| config.blocks = 1 << 20);
        let field = |byte| Some((byte, None));
        bench.refused_with(&write_same16(0, 0, 0), &BLOCK, 0x5, (0x24, 0), field(10));
        bench.refused_with(&[0x41, 0, 0, 0, 0, 0, 0, 0, 0, 0], &BLOCK, 0x5, (0x24, 0), field(7));
        let long = [0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0];
        bench.refused_with(&long, &BLOCK, 0x5, (0x24, 0), field(10));
    }

    #[test]
    fn unmap_runs_each_range() {
        let mut bench = Bench::ready();
        bench.good(&write_same16(0, 0, 16), &BLOCK);
        let list = unmap_list(&[(0, 8), (3, 0), (12, 1)]);
        bench.good(&unmap_cdb(&list), &list);
        assert_eq!(
            bench.ram.log[1..],
            [
                Operation::Zero { extent: extent(0, 8), deallocate: true },
                Operation::Zero { extent: extent(12, 1), deallocate: true },
            ]
        );
        let list = unmap_list(&[(0, 8), (8, 1), (12, 0), (9, 3), (32, 4), (12, 4), (14, 2)]);
        bench.good(&unmap_cdb(&list), &list);
        let unmapped = [extent(0, 12), extent(32, 4), extent(12, 4), extent(14, 2)];
        assert_eq!(bench.ram.log[3..], unmapped.map(|extent| Operation::Zero { extent, deallocate: true }));
        bench.good(&unmap_cdb(&[]), &[]);
        let list = unmap_list(&[(BLOCKS, 0)]);
        bench.good(&unmap_cdb(&list), &list);
    }

    #[test]
    fn unmap_checks_everything_first() {
        let mut bench = Bench::ready();
        let list = unmap_list(&[(0, 8), (BLOCKS - 1, 2)]);
        bench.refused_with(&unmap_cdb(&list), &list, 0x5, (0x21, 0), None);
        let list = unmap_list(&[(0, 8); 257]);
        bench.refused_with(&unmap_cdb(&list), &list, 0x5, (0x26, 0), Some((2, None)));
        let list = unmap_list(&[(0, 8)]);
        bench.refused_with(&unmap_cdb(&list[..20]), &list[..20], 0x5, (0x1a, 0), None);
        bench.refused_with(&unmap_cdb(&list), &list[..20], 0x5, (0x1a, 0), None);
        bench.refused_with(&unmap_cdb(&list[..7]), &list[..7], 0x5, (0x1a, 0), None);
        let mut anchor = unmap_cdb(&list);
        anchor[1] = 1;
        bench.refused_with(&anchor, &list, 0x5, (0x24, 0), Some((1, Some(0))));
        assert_eq!(bench.ram.log, []);
    }

    #[test]
    fn unmap_is_bounded_in_blocks() {
        let mut bench = Bench::ready_with(|config| config.blocks = 1 << 30);
        let list = unmap_list(&[(0, 1 << 20), (1 << 21, 1)]);
        bench.refused_with(&unmap_cdb(&list), &list, 0x5, (0x26, 0), Some((32, None)));
    }

    /// READ CAPACITY (16), the VPD pages B0h and B2h, and what commands do, say the same.
    #[test]
    fn what_is_declared_is_what_is_done() {
        for thin in [true, false] {
            let mut bench = Bench::ready_with(|config| config.thin = thin);
            let capacity = bench.data_in(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0]);
            let limits = bench.data_in(&[0x12, 1, 0xb0, 0, 64, 0]);
            let page = bench.data_in(&[0x12, 1, 0xb2, 0, 8, 0]);
            let (lbpme, lbprz) = (capacity[14] & 0x80 != 0, capacity[14] & 0x40 != 0);
            assert_eq!((lbpme, lbprz), (thin, thin));
            assert_eq!(
                (page[5] & 0xe0 == 0xe0, page[5] & 0x1c == 0x04),
                (lbpme, lbprz),
                "LBPU, LBPWS; LBPRZ"
            );
            assert_eq!(page[5] & 0x02, 0, "ANC_SUP");
            assert_eq!(page[6] & 7, if thin { 2 } else { 0 }, "PROVISIONING TYPE");
            assert_eq!(limits[20..28] != [0; 8], lbpme, "how much one UNMAP takes");
            // No thresholds: no exponent, no mode page, no log page.
            assert_eq!(page[4], 0);
            bench.refused(&[0x5a, 0, 0x1c, 2, 0, 0, 0, 0, 255, 0], 0x5, (0x24, 0), Some((3, None)));
            bench.refused(&[0x4d, 0, 0x4c, 0, 0, 0, 0, 0, 255, 0], 0x5, (0x24, 0), Some((2, Some(5))));

            bench.good(&write_same16(0, 0, 16), &BLOCK);
            let list = unmap_list(&[(0, 8)]);
            if !thin {
                bench.refused_with(&unmap_cdb(&list), &list, 0x5, (0x20, 0), None);
                continue;
            }
            bench.good(&unmap_cdb(&list), &list);
            let read = bench.data_in(&[0x28, 0, 0, 0, 0, 0, 0, 0, 16, 0]);
            assert!(read[..4096] == [0; 4096] && read[4096..] == [0x5a; 4096]);
        }
    }

    #[test]
    fn lba_status_tells_runs() {
        let mut bench = Bench::ready();
        bench.good(&write_same16(0, 4, 4), &BLOCK);
        let ask = |lba: u8| [0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0, 24, 0, 0];
        let data = bench.data_in(&ask(4));
        assert_eq!(data, [0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0]);
        let data = bench.data_in(&ask(8));
        assert_eq!(data[16..], [0, 0, 7, 0xf8, 1, 0, 0, 0]);
        bench.refused(&[0x9e, 0x12, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 24, 0, 0], 0x5, (0x21, 0), None);
        let mut thick = Bench::ready_with(|config| config.thin = false);
        assert_eq!(thick.data_in(&ask(0))[16..], [0, 0, 8, 0, 0, 0, 0, 0]);
    }
}
