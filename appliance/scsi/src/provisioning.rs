//! WRITE SAME, UNMAP, GET LBA STATUS (SBC-3 §5.43, §5.25, §5.5).

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
    if range.blocks == 0 || range.blocks > MAX_WRITE_SAME_BLOCKS {
        return Err(Sense::invalid_cdb_byte(range.blocks_at));
    }
    let extent = call.unit.extent(range.lba, range.blocks)?;
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

/// Runs the next descriptor that is not empty; ends the command after the last.
pub(crate) fn unmap_from(call: &mut Call<'_>, next: u16) -> Result<Step, Sense> {
    let list = call.parameter_list(u64::from(call.cdb.u16(7)))?;
    for (descriptor, index) in unmap_descriptors(list)?.iter().zip(0..).skip(usize::from(next)) {
        let extent = unmap_extent(call.unit, descriptor)?;
        if extent.blocks > 0 {
            let operation = Operation::Zero { extent, deallocate: true };
            return Ok(Step::Backend(operation, Continuation::Unmap { next: index + 1 }));
        }
    }
    Ok(Call::good())
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

/// GET LBA STATUS: one descriptor, from the asked block on.
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
