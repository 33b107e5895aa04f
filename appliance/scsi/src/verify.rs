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

#[cfg(test)]
mod tests {
    use crate::testing::Bench;
    use crate::{Direction, Extent, Operation, Transfer, expected_transfer};
    use base::Lba;

    const EXTENT: Extent = Extent { lba: Lba(2), blocks: 2 };

    fn verify10(flags: u8) -> [u8; 10] {
        [0x2f, flags, 0, 0, 0, 2, 0, 0, 2, 0]
    }

    #[test]
    fn byte_check_chooses_the_operation() {
        let mut bench = Bench::ready();
        bench.good(&verify10(0x10), &[]);
        bench.good(&verify10(0x02), &[0; 1024]);
        bench.good(&verify10(0x06), &[0; 512]);
        assert_eq!(
            bench.ram.log,
            [Operation::Verify(EXTENT), Operation::Compare(EXTENT), Operation::CompareFill(EXTENT)]
        );
        bench.refused(&verify10(0x04), 0x5, (0x24, 0), Some((1, Some(2))));
        bench.refused_with(&verify10(0x22), &[0; 1024], 0x5, (0x24, 0), Some((1, Some(7))));
        bench.refused_with(&verify10(0x02), &[0; 512], 0x5, (0x0e, 3), None);
        bench.refused_with(&verify10(0x02), &[1; 1024], 0xe, (0x1d, 0), None);
    }

    #[test]
    fn data_is_expected_by_byte_check() {
        assert_eq!(expected_transfer(&verify10(0)), Transfer::NONE);
        assert_eq!(expected_transfer(&verify10(0x02)).len_bytes, 1024);
        assert_eq!(expected_transfer(&verify10(0x06)).len_bytes, 512);
        assert_eq!(expected_transfer(&verify10(0x02)).direction, Direction::Out);
    }

    #[test]
    fn write_and_verify_writes_durably_first() {
        let mut bench = Bench::ready();
        let cdb = |flags| [0x8e, flags, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0];
        bench.good(&cdb(0x00), &[1; 1024]);
        bench.good(&cdb(0x02), &[2; 1024]);
        let write = Operation::Write { extent: EXTENT, fua: true };
        assert_eq!(
            bench.ram.log,
            [write.clone(), Operation::Verify(EXTENT), write, Operation::Compare(EXTENT)]
        );
        bench.refused_with(&cdb(0x06), &[2; 1024], 0x5, (0x24, 0), Some((1, Some(2))));
    }
}
