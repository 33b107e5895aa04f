//! READ CAPACITY (10) and (16) (SBC-3 §5.15, §5.16).

use crate::command::Step;
use crate::sense::Sense;
use crate::target::Call;
use base::{LOGICAL_BLOCK_BYTES, Writer};

/// READ CAPACITY (10): FFFFFFFFh where the last block has a longer address.
pub(crate) fn read_capacity10(call: &mut Call<'_>) -> Result<Step, Sense> {
    refuse_partial(call, u64::from(call.cdb.u32(2)), 8)?;
    let last = call.unit.config.blocks.saturating_sub(1);
    let mut out = Writer::with_capacity(8);
    out.u32_be(u32::try_from(last).unwrap_or(u32::MAX)).u32_be(LOGICAL_BLOCK_BYTES);
    Ok(Call::parameters(out.into_vec(), 8))
}

/// READ CAPACITY (16).
pub(crate) fn read_capacity16(call: &mut Call<'_>) -> Result<Step, Sense> {
    refuse_partial(call, call.cdb.u64(2), 14)?;
    let config = &call.unit.config;
    let mut out = Writer::with_capacity(32);
    out.u64_be(config.blocks.saturating_sub(1)).u32_be(LOGICAL_BLOCK_BYTES);
    out.u8(0); // no protection information
    out.u8(if config.physical_4k { 3 } else { 0 }); // logical blocks per physical block, exponent
    out.u8(if config.thin { 0xc0 } else { 0 }); // LBPME, LBPRZ; lowest aligned block 0
    out.pad_to(32);
    Ok(Call::parameters(out.into_vec(), u64::from(call.cdb.u32(10))))
}

/// PMI is obsolete: it and the LBA must be 0.
fn refuse_partial(call: &Call<'_>, lba: u64, pmi_at: u16) -> Result<(), Sense> {
    if call.cdb.bit(usize::from(pmi_at), 0) {
        return Err(Sense::invalid_cdb_bit(pmi_at, 0));
    }
    if lba != 0 {
        return Err(Sense::invalid_cdb_byte(2));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    const SIXTEEN: [u8; 16] = [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0];

    #[test]
    fn ten_and_sixteen() {
        let mut bench = Bench::ready();
        assert_eq!(bench.data_in(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]), [0, 0, 7, 0xff, 0, 0, 2, 0]);
        let data = bench.data_in(&SIXTEEN);
        assert_eq!(data.len(), 32);
        assert_eq!(data[..16], [0, 0, 0, 0, 0, 0, 7, 0xff, 0, 0, 2, 0, 0, 3, 0xc0, 0]);
    }

    #[test]
    fn sixty_two_tebibytes_of_512n() {
        let mut bench = Bench::ready_with(|config| {
            config.blocks = 62 << 31;
            config.thin = false;
            config.physical_4k = false;
        });
        assert_eq!(bench.data_in(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0])[..4], [0xff; 4]);
        assert_eq!(
            bench.data_in(&SIXTEEN)[..16],
            [0, 0, 0, 0x1e, 0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn pmi_and_an_lba_are_refused() {
        let mut bench = Bench::ready();
        bench.refused(&[0x25, 0, 0, 0, 0, 0, 0, 0, 1, 0], 0x5, (0x24, 0), Some((8, Some(0))));
        bench.refused(&[0x25, 0, 0, 0, 0, 1, 0, 0, 0, 0], 0x5, (0x24, 0), Some((2, None)));
    }
}
