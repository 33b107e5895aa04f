//! COMPARE AND WRITE (ATS) and ORWRITE (SBC-3 §5.2, §5.14). Both are one operation under one range lock (S16, S18).

use crate::command::{Operation, Step};
use crate::limits::MAX_COMPARE_BLOCKS;
use crate::sense::Sense;
use crate::target::Call;
use base::LOGICAL_BLOCK_BYTES;

/// COMPARE AND WRITE. A miscompare is E/1D/00 with the offset in INFORMATION, the medium untouched.
pub(crate) fn compare_and_write(call: &mut Call<'_>) -> Result<Step, Sense> {
    call.refuse_protection()?;
    let range = call.cdb.compare_range();
    let extent = call.unit.extent(range.lba, range.blocks)?;
    if extent.blocks > MAX_COMPARE_BLOCKS {
        return Err(Sense::invalid_cdb_byte(range.blocks_at));
    }
    if extent.blocks == 0 {
        // A length of 256 blocks cut to the field's eight bits must not look like a success.
        return if call.command.offered_len == 0 {
            Ok(Call::good())
        } else {
            Err(Sense::invalid_cdb_byte(range.blocks_at))
        };
    }
    call.require_offered(2 * extent.blocks * u64::from(LOGICAL_BLOCK_BYTES))?;
    Ok(Call::finish_with(Operation::CompareAndWrite { extent, fua: call.fua() }))
}

/// ORWRITE (16).
pub(crate) fn or_write(call: &mut Call<'_>) -> Result<Step, Sense> {
    call.refuse_protection()?;
    let extent = call.unit.transfer_extent(call.cdb.range())?;
    if extent.blocks == 0 {
        return Ok(Call::good());
    }
    call.require_offered(extent.blocks * u64::from(LOGICAL_BLOCK_BYTES))?;
    Ok(Call::finish_with(Operation::OrWrite { extent, fua: call.fua() }))
}

#[cfg(test)]
mod tests {
    use crate::sense::Asc;
    use crate::testing::Bench;
    use crate::{Extent, Operation, Sense, SenseKey};
    use alloc::vec;
    use base::Lba;

    fn caw(flags: u8, lba: u8, blocks: u8) -> [u8; 16] {
        [0x89, flags, 0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0, blocks, 0, 0]
    }

    #[test]
    fn equal_is_written() {
        let mut bench = Bench::ready();
        let mut data = vec![0; 1024];
        data[512..].fill(7);
        bench.good(&caw(0x08, 3, 1), &data);
        let extent = Extent { lba: Lba(3), blocks: 1 };
        assert_eq!(bench.ram.log, [Operation::CompareAndWrite { extent, fua: true }]);
        assert_eq!(bench.ram.bytes[1536..2048], [7; 512]);
    }

    #[test]
    fn miscompare_tells_the_offset_and_changes_nothing() {
        let mut bench = Bench::ready();
        let mut data = vec![0; 2048];
        data[600] = 1;
        let sense = bench.send(&caw(0, 3, 2), &data).sense.unwrap();
        assert_eq!(sense, Sense::new(SenseKey::Miscompare, Asc::MISCOMPARE).with_information(600));
        assert_eq!(bench.ram.bytes[1536..2560], [0; 1024]);
    }

    #[test]
    fn sizes_must_match() {
        let mut bench = Bench::ready();
        for (blocks, bytes) in [(1, 512), (1, 2048), (3, 2048)] {
            bench.refused_with(&caw(0, 0, blocks), &vec![0; bytes], 0x5, (0x0e, 3), None);
        }
        bench.refused_with(&caw(0, 0, 129), &vec![0; 129 * 1024], 0x5, (0x24, 0), Some((13, None)));
        bench.refused_with(&caw(0x40, 0, 1), &[0; 1024], 0x5, (0x24, 0), Some((1, Some(7))));
        bench.good(&caw(0, 0, 0), &[]);
        bench.refused_with(&caw(0, 0, 0), &vec![0; 256 * 1024], 0x5, (0x24, 0), Some((13, None)));
        bench.good(&caw(0, 0, 128), &vec![0; 128 * 1024]);
    }

    #[test]
    fn or_write_ors() {
        let mut bench = Bench::ready();
        bench.ram.bytes[..512].fill(0xa0);
        bench.good(&[0x8b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0], &[0x0b; 512]);
        assert_eq!(bench.ram.bytes[..513], [[0xab; 512].as_slice(), &[0]].concat());
        bench.refused(&[0x8b, 0, 0, 0, 0, 0, 0, 0, 8, 1, 0, 0, 0, 0, 0, 0], 0x5, (0x21, 0), None);
    }
}
