//! READ, WRITE, PRE-FETCH, SYNCHRONIZE CACHE (SBC-3 §5). The hot path: no allocation here.

use crate::command::{Continuation, Operation, Step};
use crate::sense::{Asc, Sense};
use crate::target::Call;
use base::LOGICAL_BLOCK_BYTES;

/// READ (6), (10), (12), (16). FUA and DPO need nothing: reads always see the newest acknowledged write.
pub(crate) fn read(call: &mut Call<'_>) -> Result<Step, Sense> {
    call.refuse_protection()?;
    let extent = call.unit.transfer_extent(call.cdb.range())?;
    if extent.blocks == 0 {
        return Ok(Call::good());
    }
    let len_bytes = extent.blocks * u64::from(LOGICAL_BLOCK_BYTES);
    Ok(Step::Backend(Operation::Read(extent), Continuation::FinishRead { len_bytes }))
}

/// WRITE (6), (10), (12), (16).
pub(crate) fn write(call: &mut Call<'_>) -> Result<Step, Sense> {
    call.refuse_protection()?;
    let mut extent = call.unit.transfer_extent(call.cdb.range())?;
    extent.blocks = call.offered_blocks(extent.blocks)?;
    if extent.blocks == 0 {
        return Ok(Call::good());
    }
    Ok(Call::finish_with(Operation::Write { extent, fua: call.fua() }))
}

/// PRE-FETCH (10), (16). GOOD and not CONDITION MET: there is no cache that could be promised to hold the blocks.
pub(crate) fn prefetch(call: &mut Call<'_>) -> Result<Step, Sense> {
    let range = call.cdb.range();
    call.unit.extent(range.lba, range.blocks)?;
    Ok(Call::good())
}

/// SYNCHRONIZE CACHE (10), (16). Always flushes everything and answers when it is durable, IMMED or not (S1).
pub(crate) fn synchronize_cache(call: &mut Call<'_>) -> Result<Step, Sense> {
    let range = call.cdb.range();
    call.unit.extent(range.lba, range.blocks)?;
    Ok(Call::finish_with(Operation::Flush))
}

impl Call<'_> {
    /// RDPROTECT, WRPROTECT, VRPROTECT and ORPROTECT must be 0: the medium has no protection information. READ (6) and
    /// WRITE (6) have LBA bits there.
    pub(crate) fn refuse_protection(&self) -> Result<(), Sense> {
        if self.cdb.opcode() >> 5 != 0 && self.cdb.byte(1) >> 5 != 0 {
            return Err(Sense::invalid_cdb_bit(1, 7));
        }
        Ok(())
    }

    /// FUA, where the CDB has more than 6 bytes.
    pub(crate) fn fua(&self) -> bool {
        self.cdb.opcode() >> 5 != 0 && self.cdb.bit(1, 3)
    }

    /// Whole blocks that the initiator offers, at most `blocks`: less than the CDB says is written as far as it goes and
    /// ends GOOD with an overflow residual (RFC 7143 §11.4.5.1). Part of a block is refused with 5/0E/03.
    pub(crate) fn offered_blocks(&self, blocks: u64) -> Result<u64, Sense> {
        let block = u64::from(LOGICAL_BLOCK_BYTES);
        let offered = self.command.offered_len.min(blocks.saturating_mul(block));
        if offered % block != 0 {
            return Err(Sense::illegal(Asc::INVALID_FIELD_IN_INFORMATION_UNIT));
        }
        Ok(offered / block)
    }

    /// 5/0E/03 unless the initiator offers exactly `len_bytes`: for commands whose data can't be cut or padded.
    pub(crate) fn require_offered(&self, len_bytes: u64) -> Result<(), Sense> {
        if self.command.offered_len != len_bytes {
            return Err(Sense::illegal(Asc::INVALID_FIELD_IN_INFORMATION_UNIT));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{BLOCKS, Bench};
    use crate::{Direction, Extent, Fault, Operation, Transfer, expected_transfer};
    use alloc::vec;
    use base::Lba;

    fn write(lba: u64, blocks: u64, fua: bool) -> Operation {
        Operation::Write { extent: Extent { lba: Lba(lba), blocks }, fua }
    }

    #[test]
    fn every_size_of_cdb_reads_and_writes() {
        let mut bench = Bench::ready();
        bench.good(&[0x0a, 0, 0, 1, 1, 0], &[6; 512]);
        bench.good(&[0x2a, 0x08, 0, 0, 0, 2, 0, 0, 1, 0], &[10; 512]);
        bench.good(&[0xaa, 0x10, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0], &[12; 512]);
        bench.good(&[0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0], &[16; 512]);
        assert_eq!(
            bench.ram.log,
            [write(1, 1, false), write(2, 1, true), write(3, 1, false), write(4, 1, false)]
        );
        assert_eq!(bench.data_in(&[0x08, 0, 0, 1, 1, 0]), [6; 512]);
        assert_eq!(bench.data_in(&[0x28, 0, 0, 0, 0, 2, 0, 0, 1, 0]), [10; 512]);
        assert_eq!(bench.data_in(&[0xa8, 0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0]), [12; 512]);
        assert_eq!(bench.data_in(&[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0]), [16; 512]);
        assert_eq!(bench.data_in(&[0x08, 0, 0, 0, 0, 0]).len(), 256 * 512);
    }

    #[test]
    fn the_end_of_the_medium() {
        let mut bench = Bench::ready();
        let read = |lba: u64, blocks: u8| {
            let [a, b, c, d, e, f, g, h] = lba.to_be_bytes();
            [0x88, 0, a, b, c, d, e, f, g, h, 0, 0, 0, blocks, 0, 0]
        };
        assert_eq!(bench.data_in(&read(BLOCKS - 1, 1)).len(), 512);
        assert_eq!(bench.data_in(&read(BLOCKS, 0)), []);
        for (lba, blocks) in [(BLOCKS, 1), (BLOCKS - 1, 2), (BLOCKS + 1, 0), (1 << 63, 1), (u64::MAX, 1)] {
            bench.refused(&read(lba, blocks), 0x5, (0x21, 0), None);
        }
        bench.refused(&[0x34, 0, 0, 0, 8, 0, 0, 0, 1, 0], 0x5, (0x21, 0), None);
        bench.good(&[0x34, 2, 0, 0, 7, 0, 0, 0, 1, 0], &[]);
        bench.refused(&[0x35, 0, 0, 0, 8, 1, 0, 0, 0, 0], 0x5, (0x21, 0), None);
    }

    #[test]
    fn too_long_is_refused_at_its_field_and_moves_nothing() {
        let mut bench = Bench::ready_with(|config| config.blocks = 1 << 30);
        let read = [0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0, 0];
        assert_eq!(expected_transfer(&read), Transfer::NONE);
        bench.refused(&read, 0x5, (0x24, 0), Some((10, None)));
        let longest = [0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0];
        assert_eq!(
            expected_transfer(&longest),
            Transfer { direction: Direction::In, len_bytes: 64 << 20, inspected: false }
        );
    }

    #[test]
    fn protection_is_refused() {
        let mut bench = Bench::ready();
        for protect in 1..8 {
            bench.refused(&[0x28, protect << 5, 0, 0, 0, 0, 0, 0, 1, 0], 0x5, (0x24, 0), Some((1, Some(7))));
            let write = [0x8a, protect << 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0];
            bench.refused_with(&write, &[0; 512], 0x5, (0x24, 0), Some((1, Some(7))));
        }
    }

    #[test]
    fn a_write_goes_as_far_as_the_initiator_offers() {
        let mut bench = Bench::ready();
        let two = [0x2a, 0, 0, 0, 0, 0, 0, 0, 2, 0];
        bench.good(&two, &[]);
        bench.good(&two, &[1; 512]);
        bench.good(&two, &vec![1; 10_000]);
        assert_eq!(bench.ram.log, [write(0, 1, false), write(0, 2, false)]);
        bench.refused_with(&two, &[1; 200], 0x5, (0x0e, 3), None);
    }

    #[test]
    fn faults_become_sense() {
        let mut bench = Bench::ready();
        let read = [0x28, 0, 0, 0, 0, 9, 0, 0, 1, 0];
        for (fault, key, asc) in [
            (Fault::Unreadable(Lba(9)), 0x3, (0x11, 0)),
            (Fault::Unwritable(Lba(9)), 0x3, (0x0c, 0)),
            (Fault::OutOfSpace, 0x7, (0x27, 7)),
            (Fault::NotServed, 0x2, (0x04, 0x0a)),
            (Fault::Internal, 0x4, (0x44, 0)),
        ] {
            bench.ram.fault = Some(fault);
            bench.refused(&read, key, asc, None);
        }
        bench.ram.fault = Some(Fault::Unreadable(Lba(9)));
        assert_eq!(bench.send(&read, &[]).sense.unwrap().information, Some(9));
    }

    #[test]
    fn synchronize_cache_flushes() {
        let mut bench = Bench::ready();
        bench.good(&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
        bench.good(&[0x91, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0], &[]);
        assert_eq!(bench.ram.log, [Operation::Flush, Operation::Flush]);
    }

    #[test]
    fn a_read_only_unit_refuses_writes() {
        let mut bench = Bench::ready_with(|config| config.read_only = true);
        bench.refused_with(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[0; 512], 0x7, (0x27, 0), None);
        bench.refused_with(&[0x41, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[0; 512], 0x7, (0x27, 0), None);
        bench.good(&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
        assert_eq!(bench.data_in(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]).len(), 512);
    }
}
