//! VERIFY and WRITE AND VERIFY (SBC-3 §5.28, §5.40).

use crate::command::{Continuation, Extent, Operation, Step};
use crate::sense::{Asc, Sense};
use crate::target::Call;
use base::LOGICAL_BLOCK_BYTES;

/// BYTCHK: what is verified against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ByteCheck {
    /// The medium can be read.
    Readable,
    /// Data-out, block by block.
    DataOut,
    /// The one block that is data-out.
    OneBlock,
}

impl ByteCheck {
    fn of(call: &Call<'_>) -> Result<Self, Sense> {
        match call.cdb.byte(1) >> 1 & 3 {
            0 => Ok(Self::Readable),
            1 => Ok(Self::DataOut),
            3 => Ok(Self::OneBlock),
            _ => Err(Sense::invalid_cdb_bit(1, 2)),
        }
    }

    fn operation(self, extent: Extent) -> Operation {
        match self {
            Self::Readable => Operation::Verify(extent),
            Self::DataOut => Operation::Compare(extent),
            Self::OneBlock => Operation::CompareFill(extent),
        }
    }
}

/// VERIFY (10), (12), (16).
pub(crate) fn verify(call: &mut Call<'_>) -> Result<Step, Sense> {
    call.refuse_protection()?;
    let check = ByteCheck::of(call)?;
    let extent = call.unit.transfer_extent(call.cdb.range())?;
    if extent.blocks == 0 {
        return Ok(Call::good());
    }
    let block = u64::from(LOGICAL_BLOCK_BYTES);
    let needed = match check {
        ByteCheck::Readable => 0,
        ByteCheck::DataOut => extent.blocks * block,
        ByteCheck::OneBlock => block,
    };
    if call.command.offered_len < needed {
        return Err(Sense::illegal(Asc::INVALID_FIELD_IN_INFORMATION_UNIT));
    }
    Ok(Call::finish_with(check.operation(extent)))
}

/// WRITE AND VERIFY (10), (12), (16): written durably, then verified.
pub(crate) fn write_and_verify(call: &mut Call<'_>) -> Result<Step, Sense> {
    match written(call)? {
        (_, Extent { blocks: 0, .. }) => Ok(Call::good()),
        (_, extent) => Ok(Step::Backend(Operation::Write { extent, fua: true }, Continuation::VerifyWritten)),
    }
}

/// The second half of WRITE AND VERIFY.
pub(crate) fn verify_written(call: &mut Call<'_>) -> Result<Step, Sense> {
    let (check, extent) = written(call)?;
    Ok(Call::finish_with(check.operation(extent)))
}

/// What WRITE AND VERIFY writes, and how it is verified. BYTCHK 11b is for VERIFY alone.
fn written(call: &Call<'_>) -> Result<(ByteCheck, Extent), Sense> {
    call.refuse_protection()?;
    let check = match ByteCheck::of(call)? {
        ByteCheck::OneBlock => return Err(Sense::invalid_cdb_bit(1, 2)),
        check => check,
    };
    let mut extent = call.unit.transfer_extent(call.cdb.range())?;
    extent.blocks = call.offered_blocks(extent.blocks)?;
    Ok((check, extent))
}
