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
