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
        return Ok(Call::good());
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
